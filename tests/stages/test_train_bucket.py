"""`train` from a bucket that is slow and larger than a disk.

`pytest -m slow tests/stages/test_train_bucket.py`: four minutes on two cores.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_s3
import psutil
import pyarrow.parquet as pq
import pytest
from faulty_s3 import FaultyS3

from ray_brats.cases import phantom
from ray_brats.files import ledger, storage
from ray_brats.training import log
from stages.test_train import command, finish, training

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.slow, pytest.mark.timeout(900)]
CASES, MANY = 5, 20_000
OFTEN = "train.checkpoint_minutes=0.02"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyS3]:
    """A dataset of five cases as `s3://lab/dataset`, each request 25 ms away."""
    phantom.write_cohort(tmp_path / "cohort", cases=CASES, shape_vox=(40, 40, 32))
    prepared = finish(
        command("preprocess", tmp_path / "cohort", tmp_path / "dataset", "--recipe", "smoke")
    )
    assert prepared.returncode == 0, prepared.stderr
    with faulty_s3.running() as found:
        for name, value in faulty_s3.credentials(found.url).items():
            monkeypatch.setenv(name, value)
        faulty_s3.ask("PUT", "/lab")
        for path in (tmp_path / "dataset").rglob("*"):
            if path.is_file():
                place = path.relative_to(tmp_path / "dataset").as_posix()
                storage.write_bytes(f"s3://lab/dataset/{place}", path.read_bytes())
        found.delay_seconds = 0.025
        # Copies go where this test looks; Ray's sockets there want a short name.
        temporary = tempfile.mkdtemp(prefix="rb")
        monkeypatch.setenv("TMPDIR", temporary)
        yield found
        shutil.rmtree(temporary)


def case_bytes() -> int:
    """What a node keeps of the largest case."""
    sizes: dict[str, int] = {}
    for file in storage.list_files("s3://lab/dataset/cases"):
        name = file.uri.split("/")[-2]
        sizes[name] = sizes.get(name, 0) + file.size_bytes
    return max(sizes.values())


def test_the_first_step_of_many_cases_comes_soon_and_copies_keep_to_their_bound(
    bucket: FaultyS3,
) -> None:
    table = "s3://lab/dataset/cases.parquet"
    own = pq.read_table(io.BytesIO(storage.read_bytes(table)))
    rows = own.to_pylist()
    learnt = [row for row in rows if row["split"] == "train"]
    names = [row["case_id"] for row in learnt]
    copies = [
        learnt[number % len(learnt)] | {"case_id": f"copy{number}", "patient_id": f"copy{number}"}
        for number in range(MANY)
    ]
    validation = [row for row in rows if row["split"] == "val"]
    columns = {field.name: field.type for field in own.schema}
    ledger.write_table(table, [*validation, *copies], columns)
    bucket.renamed = lambda path: re.sub(
        r"/copy(\d+)/", lambda match: f"/{names[int(match[1]) % len(names)]}/", path
    )
    # Eight cases: two batches of two, each with whoever gives it a tumour.
    bound = 9 * case_bytes()
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            held = 0
            for path in Path(os.environ["TMPDIR"]).rglob("cache/*/*/*.npy"):
                try:
                    held += path.stat().st_size
                except FileNotFoundError:
                    continue
            most[0] = max(most[0], held)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    began = time.monotonic()
    options = {"steps": 200, "workers": 2, "cache-gib": bound / 2**30}
    run = "s3://lab/run"
    with subprocess.Popen(
        training("s3://lab/dataset", run, OFTEN, **options),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        first = None
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if first is None and re.search(r"train: \d+/200 steps", line):
                first = time.monotonic() - began
        assert process.wait(600) == 0, "".join(said)
    over.set()
    watching.join()
    assert first is not None
    assert first < 60
    assert 0 < most[0] <= bound
    # Not every case was copied, and none is left.
    assert not list(Path(os.environ["TMPDIR"]).rglob("cache/*/*/*.npy"))
    seen = {path for path in bucket.read if "/copy" in path and path.endswith("image.npy")}
    assert 200 < len(seen) < MANY / 10
    steps = [line for line in log.read(run) if "event" not in line]
    wait = steps[-1]["input_wait_share"]
    sys.stdout.write(f"first step after {first:.1f} s, {most[0]} of {bound} bytes, wait {wait}\n")


def test_a_rank_that_dies_goes_on_without_copying_again(bucket: FaultyS3) -> None:
    run = "s3://lab/run"
    options = {"steps": 1500, "workers": 2}
    with subprocess.Popen(
        training("s3://lab/dataset", run, OFTEN, **options),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said, killed = [], False
        for line in process.stderr:
            said.append(line)
            told = re.search(r"train: (\d+)/1500 steps", line)
            if told and int(told[1]) > 60 and not killed:
                workers = [
                    one
                    for one in psutil.Process(process.pid).children(recursive=True)
                    if "RayTrainWorker" in " ".join(one.cmdline())
                ]
                assert len(workers) == 2
                workers[0].kill()
                killed = True
        assert process.wait(60) == 0, "".join(said)
        assert killed, "".join(said)
    lines = log.read(run)
    assert [line for line in lines if line.get("event") == "resume"]
    images = {path: count for path, count in bucket.read.items() if path.endswith("image.npy")}
    assert len(images) == CASES
    assert set(images.values()) == {1}, "on a node each is copied once"
