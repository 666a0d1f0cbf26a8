"""Copies on a node: made once, ahead of their use, within a bound, and gone with their run."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from ray_brats.errors import StageFailed
from ray_brats.files import storage
from ray_brats.recipes.config import TrainConfig
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training import cache as copies
from ray_brats.training.batches import BatchStream
from ray_brats.training.cache import Ahead, Cache
from ray_brats.training.data import PreparedCase
from training.conftest import write_case


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the copies of this test are."""
    # For this process, which keeps its answer, and for those that make samples for it.
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def cache_of(bucket: str, most_bytes: int | None = None, content: str = "x") -> Cache:
    return Cache(
        dataset_uri=f"{bucket}/dataset", fingerprint=content, run_uri="r", most_bytes=most_bytes
    )


def size_of(folder: Path) -> int:
    """Bytes of all copies."""
    return sum(path.stat().st_size for path in folder.glob("*/*.npy"))


def test_a_case_is_copied_when_it_is_read_and_once(bucket: str, temporary: Path) -> None:
    write_case(f"{bucket}/dataset/cases/c0", 1)
    cache = cache_of(bucket)
    case = cache.case("c0")
    assert not case.folder.exists()
    image = case.image().copy()
    assert image.shape == (20, 22, 18, 2)
    storage.delete(f"{bucket}/dataset/cases/c0")
    again = cache.case("c0")
    np.testing.assert_array_equal(again.image(), image)
    for read in (again.label, again.labelled, again.distance):
        assert read().size
    # Another content of the dataset has other copies.
    write_case(f"{bucket}/dataset/cases/c0", 2)
    assert (cache_of(bucket, content="y").case("c0").image() != image).any()
    cache.forget()
    assert not cache.folder.exists()


def test_copies_keep_their_bound_and_those_of_no_use_go_first(bucket: str, temporary: Path) -> None:
    for number in range(6):
        write_case(f"{bucket}/dataset/cases/c{number}", number)
    one = cache_of(bucket)
    one.case("c0").image()
    each = size_of(one.folder)
    one.forget()
    cache = cache_of(bucket, most_bytes=int(3.5 * each))
    kept = cache.case("c0").image()
    first = kept.copy()
    for number in range(1, 6):
        cache.case(f"c{number}").label()
        assert size_of(cache.folder) <= 3.5 * each
    there = {path.parent.name for path in cache.folder.glob("*/done.json")}
    assert there == {"c3", "c4", "c5"}
    # Who reads a copy that was removed reads on.
    np.testing.assert_array_equal(kept, first)
    # What is asked for again counts as used.
    cache.fetch("c3")
    cache.case("c0").image()
    assert {path.parent.name for path in cache.folder.glob("*/done.json")} == {"c3", "c5", "c0"}


def test_copies_are_made_ahead_of_their_use_and_no_further(bucket: str, temporary: Path) -> None:
    for number in range(9):
        write_case(f"{bucket}/dataset/cases/c{number}", number)
    cache = cache_of(bucket)
    needed = (cache.case(f"c{number % 9}") for number in itertools.count())

    def there() -> set[str]:
        return {path.parent.name for path in cache.folder.glob("*/done.json")}

    def soon(names: set[str]) -> bool:
        pause = threading.Event()
        return any(there() == names or pause.wait(0.05) for _ in range(200))

    with Ahead(needed, 3) as ahead:
        assert soon({"c0", "c1", "c2"})
        ahead.used(2)
        assert soon({f"c{number}" for number in range(5)})
        threading.Event().wait(0.3)
        assert len(there()) == 5


def test_an_error_ahead_is_told_where_the_case_is_read(bucket: str, temporary: Path) -> None:
    cache = cache_of(bucket)
    with Ahead([cache.case("missing")] * 3, 8):
        pass
    with pytest.raises(FileNotFoundError):
        cache.case("missing").image()


def test_threads_that_want_one_case_copy_it_once(
    bucket: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(f"{bucket}/dataset/cases/c0", 1)
    read, made = storage.read_bytes, []
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (made.append(uri), read(uri))[1])
    cache = cache_of(bucket)
    threads = [threading.Thread(target=cache.fetch, args=["c0"]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(made)) == 5


def test_a_dataset_of_this_machine_is_not_copied(tmp_path: Path) -> None:
    write_case(str(tmp_path / "dataset" / "cases" / "c0"), 1)
    cache = Cache(dataset_uri=str(tmp_path / "dataset"), fingerprint="x", run_uri="r")
    with cache.held():
        case = cache.case("c0")
        assert case.folder == tmp_path / "dataset" / "cases" / "c0"
        assert case.image().size
    assert not cache.folder.exists()


def test_copies_that_nobody_holds_go_after_a_day_or_where_room_is_needed(temporary: Path) -> None:
    caches = {
        name: Cache(dataset_uri="s3://d", fingerprint="x", run_uri=name)
        for name in ("old", "new", "held")
    }
    for cache in caches.values():
        with cache.held():
            (cache.folder / "c0").mkdir()
    for name in ("old", "held"):
        os.utime(caches[name].folder / copies.HELD, (0, 0))

    def left() -> set[str]:
        return {name for name, cache in caches.items() if (cache.folder / "c0").exists()}

    another = Cache(dataset_uri="s3://d", fingerprint="x", run_uri="another")
    with caches["held"].held(), another.held():
        assert left() == {"new", "held"}
        copies.drop_abandoned(another.folder.parent, older_than_seconds=0)
        assert left() == {"held"}


def test_a_full_disk_is_a_sentence(
    bucket: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    write_case(f"{bucket}/dataset/cases/c0", 1)
    with pytest.raises(StageFailed, match=r"TMPDIR.*--cache-gib"):
        cache_of(bucket).case("c0").image()


@pytest.mark.parametrize(
    ("most_bytes", "case_bytes", "ranks", "depth"),
    [
        (None, 100, 1, 256),
        (1000, 100, 1, 5),
        (1000, 100, 2, 2),
        (10, 100, 1, 1),
        (10**9, 1, 8, 256),
    ],
)
def test_ranks_of_a_node_ask_ahead_for_half_of_what_fits(
    most_bytes: int | None, case_bytes: int, ranks: int, depth: int
) -> None:
    assert copies.depth_of(most_bytes, case_bytes, ranks) == depth


def test_a_stream_reads_the_copies_and_makes_them_ahead(bucket: str, temporary: Path) -> None:
    for number in range(6):
        write_case(f"{bucket}/dataset/cases/c{number}", number)
    train = TrainConfig(patch_vox=(8, 8, 8), batch_per_worker=2, carve_probability=0.5)
    local = []
    for number in range(6):
        write_case(str(temporary / "here" / f"c{number}"), number)
        local.append(PreparedCase(case_id=f"c{number}", folder=temporary / "here" / f"c{number}"))
    cache = cache_of(bucket)
    remote = [cache.case(f"c{number}") for number in range(6)]
    streams = [
        BatchStream(cases, train, GLIOMA, rank=0, ranks=1, ahead=4) for cases in (remote, local)
    ]
    running = streams[0].from_step(3, placed=lambda batch: batch, processes=1)
    for step, batch in zip(range(3, 9), running, strict=False):
        np.testing.assert_equal(batch.parts(2), streams[1].batch(step).parts(2))
    running.close()
