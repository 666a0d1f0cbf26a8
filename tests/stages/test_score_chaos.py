"""`score` while its workers are killed and its storage fails: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_s3
import nibabel as nib
import numpy as np
import pytest
from faulty_s3 import Fault, FaultyS3

from ray_brats import arrays
from ray_brats.cases import cohort
from ray_brats.engine import cluster
from ray_brats.files import ledger, storage
from ray_brats.model.predictions import Predictions, ScoreSummary
from ray_brats.recipes import tasks
from ray_brats.stages import score
from stages.test_score import FIRST_SIDE, PREPROCESSING, write_cases

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NAMES = [f"case{number:02d}" for number in range(40)]


class Patient:
    """Takes its time, and notes who it is and which case it was given."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes
        (notes / f"{os.getpid()}.pid").touch()

    def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
        name = NAMES[image.shape[0] - FIRST_SIDE]
        with (self.notes / f"{name}.calls").open("a") as file:
            file.write("x")
        time.sleep(0.4)
        return (image[..., 0] > 0.5).astype(np.uint8)


def score_all(
    folder: str, out: str, notes: Path, make: type[Any] = Patient, **options: Any
) -> ScoreSummary:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    notes.mkdir()
    with cluster.running() as there:
        return score.score(
            cohort.find(folder, task=tasks.TASKS["gli-2020"]),
            Predictions(
                uri=out,
                identity={},
                preprocessing=PREPROCESSING,
                task=tasks.TASKS["gli-2020"],
            ),
            make_segmenter=lambda threads: make(notes),
            cluster=there,
            **options,
        )


def calls(notes: Path) -> Counter[str]:
    return Counter({path.stem: path.stat().st_size for path in notes.glob("*.calls")})


def masks(out: str) -> dict[str, bytes]:
    files = [file.uri for file in storage.list_files(out) if file.uri.endswith(".nii.gz")]
    return {storage.name_of(uri): storage.read_bytes(uri) for uri in files}


def rows(out: str) -> list[dict[str, Any]]:
    """The ledger without what a repeated attempt may change."""
    table = ledger.read_table(f"{out}/scores.parquet")
    return [
        {key: value for key, value in row.items() if key not in ("attempts", "seconds")}
        for row in table
    ]


class Killer(threading.Thread):
    """Kills one actor after the other; each time some cases after the last."""

    def __init__(self, notes: Path, kills: int) -> None:
        super().__init__(daemon=True)
        self.notes, self.kills, self.killed = notes, kills, 0

    def run(self) -> None:
        rng = random.Random(0)
        while self.killed < self.kills:
            # Two cases further, so that no case meets two kills: those would make it an error.
            wanted = sum(calls(self.notes).values()) + 3
            while sum(calls(self.notes).values()) < wanted:
                time.sleep(0.05)
            time.sleep(rng.random() * 0.5)
            alive = list(self.notes.glob("*.pid"))
            victim = rng.choice(alive)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(victim.stem), signal.SIGKILL)
                self.killed += 1
            victim.unlink()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty cases, and their masks by a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_cases(folder / "cohort", NAMES)
    summary = score_all(str(folder / "cohort"), str(folder / "out"), folder / "notes")
    assert summary.counts == {"ok": len(NAMES)}
    return folder


def test_killed_workers_lose_nothing_and_redo_one_case_each(
    undisturbed: Path, tmp_path: Path
) -> None:
    killer = Killer(tmp_path / "notes", kills=5)
    killer.start()
    out = str(tmp_path / "out")
    summary = score_all(str(undisturbed / "cohort"), out, tmp_path / "notes", workers=2)
    killer.join(timeout=60)
    assert killer.killed == 5
    assert summary.counts == {"ok": len(NAMES)}
    assert masks(out) == masks(str(undisturbed / "out"))
    assert rows(out) == rows(str(undisturbed / "out"))
    made = calls(tmp_path / "notes")
    assert set(made) == set(NAMES)
    assert sum(made.values()) <= len(NAMES) + killer.killed
    table = ledger.read_table(f"{out}/scores.parquet")
    assert {row["case_id"]: row["attempts"] for row in table} == dict(made)


class Slow:
    """Takes longer than reading does, and notes when it is done."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
        time.sleep(0.6)
        (self.notes / str(len(list(self.notes.iterdir())))).touch()
        return np.zeros(image.shape[:3], np.uint8)


def test_masks_are_written_while_other_cases_are_still_read(tmp_path: Path) -> None:
    """Ray Data would rather read all of them first: see `capacity.Capacity.reservation`."""
    rng, count = np.random.default_rng(0), 50
    for kind in PREPROCESSING.modalities:
        voxels = rng.integers(1, 500, (130, 150, 130)).astype(np.int16)
        voxels[~arrays.ellipsoid(voxels.shape)] = 0
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{kind}.nii.gz")
    for number in range(count):
        folder = tmp_path / "cohort" / f"case{number:02d}"
        folder.mkdir(parents=True)
        for kind in PREPROCESSING.modalities:
            os.link(tmp_path / f"{kind}.nii.gz", folder / f"case{number:02d}_{kind}.nii.gz")
    score_all(str(tmp_path / "cohort"), str(tmp_path / "out"), tmp_path / "notes", make=Slow)
    times = {
        name: sorted(path.stat().st_mtime for path in (tmp_path / name).glob(pattern))
        for name, pattern in (("notes", "*"), ("out", "*.nii.gz"))
    }
    assert times["notes"][-1] - times["notes"][0] > 25, "longer than Ray Data takes to settle"
    late = [mask - done for mask, done in zip(times["out"], times["notes"], strict=True)]
    assert max(late) < 8, "each mask soon after its segmentation"


class OneInTwenty(list[Fault]):
    """Faults without an end, for five requests of a hundred."""

    def __init__(self) -> None:
        super().__init__(["500"])
        self.rng, self.count = random.Random(3), 0

    def pop(self, _: Any = 0) -> Any:
        if self.rng.random() >= 0.05:
            return None
        self.count += 1
        return self.rng.choice(["500", "503", "cut"])


@pytest.fixture
def endpoint() -> Iterator[FaultyS3]:
    with faulty_s3.running() as found:
        yield found


def test_a_bucket_that_fails_one_request_in_twenty_is_scored_once_and_whole(
    undisturbed: Path, tmp_path: Path, endpoint: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    for name, value in faulty_s3.credentials(endpoint.url).items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="night")
    for file in sorted((undisturbed / "cohort").rglob("*.nii.gz")):
        name = file.relative_to(undisturbed / "cohort").as_posix()
        storage.write_bytes(f"s3://night/cohort/{name}", file.read_bytes())
    faults = OneInTwenty()
    endpoint.faults = {"/night": faults}
    out = "s3://night/out"
    summary = score_all("s3://night/cohort", out, tmp_path / "notes")
    assert faults.count >= 5
    endpoint.faults.clear()
    assert summary.counts == {"ok": len(NAMES)}
    assert calls(tmp_path / "notes") == Counter(dict.fromkeys(NAMES, 1))
    assert masks(out) == masks(str(undisturbed / "out"))
    assert rows(out) == rows(str(undisturbed / "out"))
    again = score_all("s3://night/cohort", out, tmp_path / "again")
    assert (again.processed, again.skipped) == (0, len(NAMES))
