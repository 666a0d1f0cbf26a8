"""`ray-brats prepare` as the entry point of a Ray job.

ray job submit --working-dir . -- python jobs/prepare.py RAW COHORT …
"""

import sys

from ray_brats.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
