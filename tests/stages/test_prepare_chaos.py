"""`prepare` that is killed at any moment, Ray and all: the next call goes on, to the same bytes.

`pytest -m slow tests/stages/test_prepare_chaos.py`: ten minutes on two cores.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import heads
import psutil
import pytest

from stages.test_preprocess import contents, finished, start, wait_for_end_of_work

pytestmark = [pytest.mark.ray, pytest.mark.slow]
pytest.importorskip("SimpleITK")

STUDIES = 4
PATIENTS = 64
MOMENTS = {
    "as it starts": (0, 0.1),
    "before Ray": (0, 0.25),
    "as Ray starts": (0, 0.4),
    "as workers start": (0, 0.6),
    "as series are aligned": (0, 0.8),
    "before the first is done": (0, 0.95),
    "as the first is done": (1, 0.0),
    "between two": (2, 0.1),
    "before the last": (3, 0.0),
    "as tables are written": (STUDIES, 0.0),
}
"""So many studies are done; and then the share of the time that the first one took in peace."""


def sidecars(folder: Path) -> dict[str, int]:
    """When each finished study was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/done.json")}


def prepare(folder: Path, out: Path) -> subprocess.Popen[str]:
    options = ("--space", "patient", "--keep-skull", "--json")
    return start("prepare", folder / "raw", out, *options)


def wait_for(process: subprocess.Popen[str], out: Path, count: int, seconds: float = 0) -> None:
    """Until so many studies are done, and so long after it or until another one is."""
    while len(sidecars(out)) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(sidecars(out)) <= count:
        time.sleep(0.002)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Raw studies with their cohort made in peace, and how long the first one took."""
    folder = tmp_path_factory.mktemp("prepare_chaos")
    for number in range(1, STUDIES + 1):
        heads.write_study(folder / f"raw/P{number}", number, ("t1ce", "flair"))
    began = time.monotonic()
    process = prepare(folder, folder / "calm")
    wait_for(process, folder / "calm", 1)
    first_seconds = time.monotonic() - began
    assert finished(process)["counts"] == {"ok": STUDIES}
    return folder, first_seconds


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_killed_with_all_its_processes_it_goes_on_to_the_same_bytes(
    calm: tuple[Path, float], tmp_path: Path, moment: tuple[int, float]
) -> None:
    (folder, first_seconds), (count, share) = calm, moment
    out = tmp_path / "cohort"
    process = prepare(folder, out)
    wait_for(process, out, count, share * first_seconds)
    assert process.poll() is None, "it was done before it was killed"
    tree = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for_end_of_work(tree)
    before = sidecars(out)
    assert not (count < STUDIES and (out / "prepared.json").exists())
    summary = finished(prepare(folder, out))
    assert summary["counts"] == {"ok": STUDIES}
    assert (summary["processed"], summary["skipped"]) == (STUDIES - len(before), len(before))
    after = sidecars(out)
    assert {name: after[name] for name in before} == before, "a finished study was redone"
    assert contents(out) == contents(folder / "calm")


def test_what_was_made_in_peace_says_so(calm: tuple[Path, float]) -> None:
    told = json.loads((calm[0] / "calm/prepared.json").read_text())
    assert told["counts"] == {"ok": STUDIES}
    assert not [*calm[0].glob("calm/**/.*")]


def test_of_sixty_four_patients_on_two_workers_none_is_done_twice(
    calm: tuple[Path, float], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    for number in range(PATIENTS):
        study = calm[0] / f"raw/P{number % STUDIES + 1}"
        shutil.copytree(study, tmp_path / f"raw/Q{number:02d}", copy_function=os.link)
    out = tmp_path / "cohort"
    process = prepare(tmp_path, out)
    wait_for(process, out, PATIENTS // 3)
    tree = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for_end_of_work(tree)
    before = sidecars(out)
    assert PATIENTS // 3 <= len(before) < PATIENTS
    began = time.monotonic()
    summary = finished(prepare(tmp_path, out))
    seconds = time.monotonic() - began
    record_property("seconds a study", seconds / (PATIENTS - len(before)))
    assert summary["counts"] == {"ok": PATIENTS}
    assert summary["processed"] == PATIENTS - len(before)
    after = sidecars(out)
    assert {name: after[name] for name in before} == before, "a finished study was redone"
    summary = finished(prepare(tmp_path, out))
    assert (summary["processed"], sidecars(out)) == (0, after)
    # Equal studies give equal scans, whoever prepared them, and when.
    cases = sorted(out.glob("*/*_t1ce.nii.gz"))
    assert len(cases) == PATIENTS
    assert len({path.read_bytes() for path in cases}) == STUDIES
