"""`ray-brats serve` as the entry point of a Ray job.

ray job submit --working-dir . -- python jobs/serve.py --bundle BUNDLE …
"""

import sys

from ray_brats.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
