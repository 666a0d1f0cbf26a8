"""What a case costs the driver of `score`, whose model does nothing here, and what a finished one.

`RAY_BRATS_CASES=20000 pytest -m slow tests/stages/test_score_costs.py`: six minutes on two cores.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ray_brats.cases import cohort
from ray_brats.cases.case import Cohort
from ray_brats.engine import cluster
from ray_brats.model.predictions import Predictions, ScoreSummary
from ray_brats.recipes import tasks
from ray_brats.stages import score
from stages.test_score import PREPROCESSING, write_cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
CASES = int(os.environ.get("RAY_BRATS_CASES", "2000"))
MOST_LINKS = 30_000
"""A file system has a limit for the names of one file."""


class Nothing:
    """A model that finds nothing, and notes who it is."""

    def __init__(self, notes: Path) -> None:
        (notes / str(os.getpid())).touch()

    def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
        return np.zeros(image.shape[:3], np.uint8)


def write_links(folder: Path) -> None:
    """A cohort of names for the files of one case."""
    write_cases(folder / "one", ["x"])
    for number in range(CASES):
        case = folder / "cohort" / f"case{number:07d}"
        case.mkdir(parents=True)
        for kind in PREPROCESSING.modalities:
            own = folder / f"{kind}.{number // MOST_LINKS}.nii.gz"
            if not own.exists():
                shutil.copy(folder / "one" / "x" / f"x_{kind}.nii.gz", own)
            os.link(own, case / f"{case.name}_{kind}.nii.gz")


def scored(found: Cohort, out: Path, notes: Path) -> tuple[ScoreSummary, float, float]:
    """The summary, and seconds a case of the driver's CPU and of the clock."""
    with cluster.running() as there:
        wall, cpu = time.monotonic(), time.process_time()
        summary = score.score(
            found,
            Predictions(
                uri=str(out),
                identity={},
                preprocessing=PREPROCESSING,
                task=tasks.TASKS["gli-2020"],
            ),
            make_segmenter=lambda threads: Nothing(notes),
            cluster=there,
        )
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return summary, cpu / CASES, wall / CASES


def memory_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_the_driver_is_no_bound_and_each_actor_starts_once(tmp_path: Path) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    write_links(tmp_path)
    (tmp_path / "notes").mkdir()
    found = cohort.find(str(tmp_path / "cohort"), task=tasks.TASKS["gli-2020"])
    summary, cpu, wall = scored(found, tmp_path / "out", tmp_path / "notes")
    assert summary.counts == {"ok": CASES}
    told = f"{CASES} cases: driver {1e3 * cpu:.2f} ms of CPU a case, {1e3 * wall:.2f} ms each"
    actors = len(list((tmp_path / "notes").iterdir()))
    again, _, skipping = scored(found, tmp_path / "out", tmp_path / "notes")
    assert (again.processed, again.skipped) == (0, CASES)
    once, _, compacted = scored(found, tmp_path / "out", tmp_path / "notes")
    assert (once.processed, once.skipped) == (0, CASES)
    sys.stdout.write(
        f"{told}; {actors} actor(s); skipped {1 / skipping:.0f} a second, then "
        f"{1 / compacted:.0f}; memory {memory_mib()} MiB\n"
    )
    assert cpu < 0.005
    assert actors == 1
    assert 1 / compacted > 2000
