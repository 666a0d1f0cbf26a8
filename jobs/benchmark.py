"""Benchmarks as the entry point of a Ray job, or run by hand.

python jobs/benchmark.py preprocess COHORT [--json]
python jobs/benchmark.py train [DATASET] [--json]
python jobs/benchmark.py score COHORT [--bundle BUNDLE] [--json]
python jobs/benchmark.py serve [--bundle BUNDLE] [--json]
python jobs/benchmark.py quality COHORT --minutes M [--json]
python jobs/benchmark.py growth [--json]
python jobs/benchmark.py growth_preprocess [--json]
"""

from ray_brats.benchmarks.command import main

if __name__ == "__main__":
    main()
