"""`ray-brats run` as the entry point of a Ray job.

ray job submit --working-dir . -- python jobs/pipeline.py COHORT OUT …
"""

import sys

from ray_brats.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
