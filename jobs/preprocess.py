"""`ray-brats preprocess` as the entry point of a Ray job.

ray job submit --working-dir . -- python jobs/preprocess.py COHORT DATASET …
"""

import sys

from ray_brats.cli import main

if __name__ == "__main__":
    main(["preprocess", *sys.argv[1:]])
