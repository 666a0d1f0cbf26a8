"""What is packed comes back as it was, in its order, however it is asked for."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.files.local import FileInfo
from ray_brats.files.packed import TOGETHER, Packed, Table, in_order

NAMES = st.lists(st.text("abc/-.", max_size=4), max_size=60)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_brats.files.packed.TOGETHER", 4)
    monkeypatch.setattr("ray_brats.files.packed._NEAR", 2)
    monkeypatch.setattr("ray_brats.files.packed._RUN", 10)


@given(st.lists(st.integers() | st.text(max_size=3)), st.data())
def test_a_packed_sequence_is_the_sequence(items: list[object], data: st.DataObject) -> None:
    packed = Packed(items)
    assert packed == items
    assert [item for group in packed.groups(3) for item in group] == items
    assert len(packed) == len(items)
    assert bool(packed) == bool(items)
    for _ in range(5):
        at = data.draw(st.integers(-70, 70))
        if -len(items) <= at < len(items):
            assert packed[at] == items[at]
        else:
            with pytest.raises(IndexError):
                packed[at]
        part = data.draw(st.slices(len(items)))
        assert packed[part] == items[part]
    packed.extend(["more"])
    assert pickle.loads(pickle.dumps(packed)) == [*items, "more"]


@given(NAMES, st.booleans())
def test_a_table_is_the_dictionary_sorted(names: list[str], are_sorted: bool) -> None:
    pairs = [(name, number) for number, name in enumerate(sorted(names) if are_sorted else names)]
    table, expected = Table(pairs), dict(sorted(dict(pairs).items()))
    assert dict(table.items()) == expected
    assert list(table) == list(expected)
    assert list(table.values()) == list(expected.values())
    assert len(table) == len(table.values()) == len(expected)
    for name in ["", "a", "b/", "zz", *names]:
        assert (name in table) == (name in expected)
        assert table.get(name) == expected.get(name)
    assert 3 not in table


@given(st.lists(st.tuples(st.text("ab", max_size=2), st.integers())))
def test_order_is_that_of_sorting(items: list[tuple[str, int]]) -> None:
    assert in_order(iter(items), lambda item: item[0]) == sorted(items, key=lambda item: item[0])


def test_a_hundred_thousand_files_take_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_brats.files.packed.TOGETHER", TOGETHER)
    tracemalloc.start()
    try:
        files = Table((file.uri, file) for file in islice(_files(), 100_000))
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(files) == 100_000
    assert held < 6e6
    assert most < 8e6


def _files() -> Iterator[FileInfo]:
    for number in range(10**6):
        uri = f"s3://bucket/cohort/BraTS-GLI-{number:06d}-000/BraTS-GLI-{number:06d}-000-t1c.nii.gz"
        yield FileInfo(uri=uri, size_bytes=number * 7919 % 10**7, etag=f"{number * 7919:032x}")


def test_names_in_any_order_are_found_as_fast_as_in_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    loads = pickle.loads

    def counted(content: bytes) -> object:
        decoded.append(1)
        return loads(content)

    monkeypatch.setattr("ray_brats.files.packed.pickle.loads", counted)
    names = [f"{number * 7919 % 1000:04d}" for number in range(1000)]
    table = Table((name, name) for name in names)
    decoded.clear()
    assert all(table[name] == name for name in [*names, *names])
    assert len(decoded) <= 5 * 250
    monkeypatch.setattr("ray_brats.files.packed._RUN", 100)
    decoded.clear()
    assert in_order(names, str) == sorted(names)
    assert len(decoded) <= 3 * 250
