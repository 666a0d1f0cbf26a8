"""`ray-brats score` as the entry point of a Ray job.

ray job submit --working-dir . -- python jobs/score.py COHORT PREDICTIONS …
"""

import sys

from ray_brats.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
