"""The log of a run: each step once, whatever was killed, on disks and in buckets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ray_brats.files import claims, storage
from ray_brats.training import log as runlog
from ray_brats.training.validation import Example

pytestmark = pytest.mark.tf
LABEL = np.zeros((12, 14, 10), np.uint8)
LABEL[4:8, 5:9, 3:6] = 2
EXAMPLE = Example(
    case_id="one",
    image_HWDC=np.random.default_rng(0).normal(size=(12, 14, 10, 3)),
    label_HWD=LABEL,
    prediction_HWD=np.roll(LABEL, 1, 0),
)


def lines(first: int, last: int, loss: float) -> list[dict[str, object]]:
    return [{"step": step, "loss": loss} for step in range(first, last + 1)]


@pytest.fixture(params=["disk", "bucket"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        (tmp_path / "run").mkdir()
        return str(tmp_path / "run")
    return str(request.getfixturevalue("bucket")) + "/run"


def events(run: str) -> bytes:
    """All that TensorBoard finds in a run."""
    files = storage.list_files(storage.join(run, "tensorboard"))
    return b"".join(storage.read_bytes(file.uri) for file in files)


def started(run: str, keep_until: int) -> runlog.RunLog:
    driver = claims.claim_driver(run).driver
    attempt = claims.claim_group(run, driver, step=keep_until)
    return runlog.RunLog(attempt, keep_until=keep_until)


def test_an_attempt_replaces_what_an_earlier_one_wrote_after_its_checkpoint(run: str) -> None:
    killed = started(run, 0)
    for line in lines(1, 10, 0.5):
        killed.add(line)
    killed.flush()
    for line in lines(11, 14, 0.5):
        killed.add(line)
    # It dies here; steps after its last flush may be lost, none may stay.
    second = started(run, 10)
    assert runlog.read(run) == lines(1, 10, 0.5)
    with second as log:
        for line in lines(11, 12, 0.25):
            log.add(line)
        log.flush()
        for line in lines(13, 15, 0.25):
            log.add(line)
    assert runlog.read(run) == lines(1, 10, 0.5) + lines(11, 15, 0.25)
    names = {storage.name_of(file.uri) for file in storage.list_files(run)}
    assert runlog.FILE in names
    assert not any(name.startswith("0") and name.endswith(".jsonl") for name in names)
    extended = started(run, 15)
    for line in lines(16, 17, 0.1):
        extended.add(line)
    extended.flush()
    assert [line["step"] for line in runlog.read(run)] == list(range(1, 18))


def add_and_flush(log: runlog.RunLog) -> None:
    log.add({"step": 2, "loss": 0.25})
    log.flush()


def flush_a_picture(log: runlog.RunLog) -> None:
    log.picture(1, EXAMPLE)
    log.flush()


def end(log: runlog.RunLog) -> None:
    with log:
        pass


def end_by_an_error(log: runlog.RunLog) -> None:
    with log:
        add_and_flush(log)


@pytest.mark.parametrize("write", [add_and_flush, flush_a_picture, end, end_by_an_error])
def test_a_superseded_attempt_writes_nothing_more(
    run: str, write: Callable[[runlog.RunLog], None]
) -> None:
    old = started(run, 0)
    old.add({"step": 1, "loss": 0.5})
    old.flush()
    # Still in the queue of TensorBoard's writer as the next attempt begins.
    old.add({"step": 2, "loss": 0.5})
    started(run, 1)
    before = {file.uri: storage.read_bytes(file.uri) for file in storage.list_files(run)}
    with pytest.raises(claims.Superseded):
        write(old)
    after = {file.uri: storage.read_bytes(file.uri) for file in storage.list_files(run)}
    assert after == before
    assert [line["step"] for line in runlog.read(run)] == [1]


def test_what_led_to_an_error_is_in_tensorboard_on_a_file_system(tmp_path: Path) -> None:
    def die() -> None:
        with started(str(tmp_path), 0) as log:
            log.add({"step": 1, "loss": 0.5, "last/words": 1.0})
            raise LookupError

    with pytest.raises(LookupError):
        die()
    assert b"last/words" in events(str(tmp_path))


def test_tensorboard_gets_news_between_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog, "EVENTS_SECONDS", 0.0)
    with started(str(tmp_path), 0) as log:
        for step in range(1, 200):
            log.add({"step": step, "loss": 0.5, f"scalar/{step}": 1.0})
        assert b"scalar/100" in events(str(tmp_path))
    words = events(str(tmp_path))
    assert all(words.count(f"scalar/{step}".encode()) for step in range(1, 200))
    assert words.count(b"scalar/150") == 1


def test_a_line_on_a_file_system_looks_at_the_claims_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(str(tmp_path), 0) as log:
        looks: list[str] = []
        monkeypatch.setattr(claims, "_numbers", lambda uri: looks.append(uri) or [2])
        for line in lines(1, 10, 0.5):
            log.add(line)
        assert len(looks) == 10


def test_scalars_and_pictures_reach_tensorboard(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with started(run, 0) as log:
        log.add({"step": 1, "loss": 0.5, "soft_dice": {"WT": 0.25}})
        log.picture(1, EXAMPLE)
    assert not list(temporary.iterdir()), "nothing is left behind"
    for word in (b"loss", b"soft_dice/WT", b"validation", b"PNG"):
        assert word in events(run)


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with runlog.RunLog(None, keep_until=0) as log:
        log.add({"step": 1, "loss": 0.5})
        log.flush()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"\xff\x00", b"[1]\n", b'{"loss": 1}\n', b'{"step": 3, "lo'])
def test_reading_ends_where_a_log_is_damaged(tmp_path: Path, damage: bytes) -> None:
    whole = b'{"step": 1}\n{"step": 2}\n'
    (tmp_path / runlog.FILE).write_bytes(whole + damage + whole)
    assert runlog.read(str(tmp_path)) == [{"step": 1}, {"step": 2}]
