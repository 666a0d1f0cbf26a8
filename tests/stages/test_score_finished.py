"""What finished cases cost the driver of `score`: seconds and memory, few of them and many.

`RAY_BRATS_FINISHED=200000 pytest -m slow -s tests/stages/test_score_finished.py`: four minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ray_brats.cases import cohort
from ray_brats.files.ledger import CaseRow
from ray_brats.model.predictions import Predictions, mask_name, volume_column
from ray_brats.recipes import tasks
from stages.test_score import PREPROCESSING, write_cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
FEW = 10_000
MANY = int(os.environ.get("RAY_BRATS_FINISHED", "40000"))
MOST_LINKS = 30_000
"""A file system has a limit for the names of one file."""
TASK = tasks.TASKS["gli-2020"]
SKIP = """
import json, resource, sys, time
from ray_brats.cases import cohort
from ray_brats.engine import cluster
from ray_brats.stages import score
from stages.test_score_finished import TASK, target_of

with cluster.running() as there:
    began = time.monotonic()
    found = cohort.find(sys.argv[1] + "/cohort", task=TASK)
    summary = score.score(found, target_of(sys.argv[1]), make_segmenter=None, cluster=there)
    seconds = time.monotonic() - began
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([summary.processed, summary.skipped, seconds, memory]))
"""


class Skipped(NamedTuple):
    processed: int
    skipped: int
    seconds: float
    memory_mib: float


def target_of(folder: str) -> Predictions:
    return Predictions(uri=f"{folder}/out", identity={}, preprocessing=PREPROCESSING, task=TASK)


def write_finished(folder: Path, count: int) -> None:
    """A cohort, and what scoring it would have left; many names for a few files."""
    write_cases(folder / "one", ["x"])
    for number in range(count):
        name = f"BraTS-GLI-{number:06d}-000"
        case = folder / "cohort" / name
        case.mkdir(parents=True)
        for kind in PREPROCESSING.modalities:
            os.link(source(folder, kind, number), case / f"{name}_{kind}.nii.gz")
    target = target_of(str(folder))
    (folder / "out").mkdir()
    for number, case in enumerate(cohort.find(str(folder / "cohort"), task=TASK).cases):
        mask = source(folder, "mask", number)
        os.link(mask, folder / "out" / mask_name(case.case_id))
        volumes = {volume_column(name): number / 7 for name in TASK.targets.region_names}
        row = CaseRow(case_id=case.case_id, attempts=1, seconds=number / 3, facts=volumes)
        files = {mask_name(case.case_id): mask.stat().st_size}
        sidecar = {"key": target.work_of(case).key, "row": row.as_json(), "files": files}
        Path(target.work_of(case).sidecar_uri).write_text(json.dumps(sidecar, indent=1))


def source(folder: Path, kind: str, number: int) -> Path:
    """The file that a case's is another name of."""
    own = folder / f"{kind}.{number // MOST_LINKS}.nii.gz"
    if not own.exists():
        scan = folder / "one" / "x" / f"x_{kind}.nii.gz"
        own.write_bytes(scan.read_bytes() if scan.exists() else b"a mask")
    return own


def skipped(folder: Path) -> Skipped:
    """A process of its own skips all."""
    tests = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", SKIP, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Skipped(*json.loads(done.stdout.splitlines()[-1]))


def test_many_finished_cases_take_seconds_and_hardly_memory(tmp_path: Path) -> None:
    figures = {}
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        write_finished(folder, count)
        first, figures[count] = skipped(folder), skipped(folder)
        for told in (first, figures[count]):
            assert (told.processed, told.skipped) == (0, count)
            sys.stdout.write(
                f"{count} finished: {told.seconds:.1f} s, {count / told.seconds:.0f} a second, "
                f"memory {told.memory_mib:.0f} MiB\n"
            )
    assert MANY / figures[MANY].seconds >= 5000
    assert figures[MANY].memory_mib - figures[FEW].memory_mib <= 200
