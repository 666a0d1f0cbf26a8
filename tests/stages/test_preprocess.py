"""The dataset stage: baseline on real engines, and kill -9 at any moment."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import file_of, rewrite

from ray_brats.cases import cohort, phantom
from ray_brats.engine import mapping
from ray_brats.errors import UsageError
from ray_brats.files import ledger
from ray_brats.files.ledger import CaseRow
from ray_brats.recipes import named as recipes
from ray_brats.stages import preprocess

ROOT = Path(__file__).resolve().parents[2]
SHAPE_VOX = (96, 96, 64)
CASES = 24
KILLS = 15
"""Of a worker, the driver and the raylet in turn: five each."""
WORKERS = os.cpu_count() or 1
"""Tasks that run at a time: what a death of the driver or of the node stops."""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Of a node: they outlive it for a minute, and touch no case."""


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ray_brats.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> dict[str, object]:
    out, said = process.communicate(timeout=500)
    assert "Traceback" not in said, said
    assert process.returncode == 0, said
    summary: dict[str, object] = json.loads(out)
    return summary


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def sidecars(folder: Path) -> dict[str, int]:
    """When each finished case was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cases/*/done.json")}


@pytest.mark.ray
def test_filtered_cases_stay_in_the_table_and_can_be_kept(tmp_path: Path) -> None:
    names = phantom.write_cohort(tmp_path / "cohort", cases=2, shape_vox=(64, 64, 48))
    rewrite(file_of(tmp_path / "cohort" / names[0], "seg"), np.zeros_like)
    arguments = ("preprocess", tmp_path / "cohort", tmp_path / "out", "--recipe", "baseline")
    summary = finished(start(*arguments, "--json"))
    assert summary["counts"] == {"filtered": 2}, "a 128³ crop of a 64-voxel head is mostly padding"
    assert summary["failures"] == []
    rows = ledger.read_table(str(tmp_path / "out/cases.parquet"))
    assert [row["status"] for row in rows] == ["filtered", "filtered"]
    assert "more than 1%" in rows[0]["reason"]
    kept = finished(start(*arguments, "--keep-filtered", "--json"))
    assert (kept["counts"], kept["processed"]) == ({"ok": 2}, 2)
    (note,) = kept["notes"]
    assert "128×128×128 crop is centred" in note
    assert json.loads((tmp_path / "out/dataset.json").read_text())["notes"] == [note]
    assert np.load(tmp_path / "out/cases" / names[1] / "image.npy").shape == (128, 128, 128, 3)


@pytest.mark.parametrize("name", ["dataset.json", "cases.parquet", "cases/{}/image.npy"])
def test_a_dataset_replaces_nobody_elses_file(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(mapping, "map_cases", lambda *_, **__: pytest.fail("the work began"))
    found = cohort.find(str(cohort_folder))
    theirs = tmp_path / "out" / name.format(found.cases[0].case_id)
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(UsageError, match=f"holds .*{theirs.name}"):
        preprocess.preprocess(found, found.cases, str(tmp_path / "out"), recipes.get("standard"))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_bytes() == b"theirs"


def test_only_what_training_sees_makes_another_dataset_of_it() -> None:
    def row(name: str, **facts: str) -> CaseRow:
        return CaseRow(case_id=name, facts=facts)

    rows = [
        row(name, split=split, image_sha256=name, label_sha256="l")
        for name, split in (("a", "train"), ("b", "val"), ("c", "test"))
    ]
    options = recipes.get("standard").preprocess
    seen = preprocess._content_fingerprint(rows, options)
    unseen = [
        CaseRow(case_id="d", status="error", facts={"split": "train"}),
        row("e", split="train", image_sha256="e"),
        CaseRow(case_id="f", status="rejected"),
    ]
    assert preprocess._content_fingerprint([*rows[:2], *unseen], options) == seen
    for change in ({"image_sha256": "x"}, {"label_sha256": "x"}, {"split": "val"}):
        other = row("a", **{**rows[0].facts, **change})
        assert preprocess._content_fingerprint([other, *rows[1:]], options) != seen
    assert preprocess._content_fingerprint([rows[0], *rows[2:]], options) != seen


IN_OPEN, IN_CLOSE_NOWRITE, IN_Q_OVERFLOW = 0x20, 0x10, 0x4000


class Opened:
    """Counts how often each case's FLAIR is opened (Linux's inotify): the cases begun."""

    def __init__(self, cohort: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._file = libc.inotify_init1(os.O_NONBLOCK)
        assert self._file >= 0, os.strerror(ctypes.get_errno())
        # With the closing in between: Linux merges equal events that follow one another.
        events = IN_OPEN | IN_CLOSE_NOWRITE
        for flair in cohort.rglob("*_flair.nii.gz"):
            assert libc.inotify_add_watch(self._file, bytes(flair.parent), events) >= 0
        self._times: collections.Counter[str] = collections.Counter()

    def times(self) -> dict[str, int]:
        """File name and how often it was opened since the start."""
        with contextlib.suppress(BlockingIOError):
            while True:
                events, at = os.read(self._file, 1 << 20), 0
                while at < len(events):
                    _, mask, _, size = struct.unpack_from("iIII", events, at)
                    assert not mask & IN_Q_OVERFLOW, "inotify's queue overflowed"
                    name = events[at + 16 : at + 16 + size].rstrip(b"\0").decode()
                    self._times[name] += "_flair" in name and bool(mask & IN_OPEN)
                    at += 16 + size
        return dict(+self._times)

    def close(self) -> None:
        """Stop counting."""
        os.close(self._file)


@pytest.fixture
def opened(undisturbed: tuple[Path, dict[str, bytes]]) -> Iterator[Opened]:
    """What is opened of the cohort during the test, and by no command that a failed one left."""
    counter = Opened(undisturbed[0] / "cohort")
    yield counter
    counter.close()
    for process in psutil.Process().children():
        if "preprocess" in process.cmdline():
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, bytes]]:
    """A cohort, and its dataset made in peace."""
    folder = tmp_path_factory.mktemp("chaos")
    phantom.write_cohort(folder / "cohort", cases=CASES, shape_vox=SHAPE_VOX)
    finished(start("preprocess", folder / "cohort", folder / "calm", "--json"))
    return folder, contents(folder / "calm")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_kill_9_at_a_random_moment_changes_nothing(
    undisturbed: tuple[Path, dict[str, bytes]], opened: Opened, tmp_path: Path, seed: int
) -> None:
    """Of a worker (the command goes on), of the driver or the node's raylet (the next goes on)."""
    folder, expected = undisturbed
    draw = random.Random(seed)
    out = tmp_path / "out"
    process = start("preprocess", folder / "cohort", out, "--json")
    while not sidecars(out):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(draw.uniform(0, 0.5))
    victim = ("worker", "driver", "raylet")[seed % 3]
    if victim == "worker":
        draw.choice(busy_workers(process)).kill()
        before = sidecars(out)
        assert finished(process)["counts"] == {"ok": CASES}
    else:
        tree = psutil.Process(process.pid).children(recursive=True)
        (psutil.Process(process.pid) if victim == "driver" else named(tree, "raylet")[0]).kill()
        said = process.communicate(timeout=300)[1]
        assert process.returncode != 0
        assert "Traceback" not in said, said
        wait_for_end_of_work(tree)
        before = sidecars(out)
        summary = finished(start("preprocess", folder / "cohort", out, "--json"))
        assert summary["skipped"] == len(before)
    after = sidecars(out)
    assert {name: after[name] for name in before} == before, "a finished case was redone"
    assert contents(out) == expected
    times = opened.times()
    assert len(times) == CASES
    redone = [name for name, number in times.items() if number > min(times.values())]
    killed = 1 if victim == "worker" else WORKERS
    assert len(redone) <= killed, "more than one case per worker redone"


def busy_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that are at a case; between two cases a worker is titled idle."""
    while True:
        assert process.poll() is None, "all cases were done before a worker was found at one"
        tree = psutil.Process(process.pid).children(recursive=True)
        if found := named(tree, "ray::MapBatches"):
            return found
        time.sleep(0.01)


def wait_for_end_of_work(tree: list[psutil.Process]) -> None:
    """Until Ray's workers noticed that their node or driver died: some two seconds."""
    until = time.monotonic() + 60
    while working := [item for item in named(tree, "ray::") if not named([item], *AGENTS)]:
        assert time.monotonic() < until, working
        time.sleep(0.05)


def named(tree: list[psutil.Process], *names: str) -> list[psutil.Process]:
    """Living processes whose command begins so."""
    found = []
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            if Path(process.cmdline()[0]).name.startswith(names):
                found.append(process)
    return found
