"""`ray-brats train` as the entry point of a Ray job.

ray job submit --working-dir . -- python jobs/train.py DATASET RUN …
"""

import sys

from ray_brats.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
