"""`ray-brats evaluate` as the entry point of a Ray job.

ray job submit --working-dir . -- python jobs/evaluate.py PREDICTIONS COHORT REPORT …
"""

import sys

from ray_brats.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
