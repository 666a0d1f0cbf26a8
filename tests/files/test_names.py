"""A name is a name: whatever stands in it, a call reaches that file and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.errors import UsageError
from ray_brats.files import storage

NAMES = (
    "out[1]",
    "out1",
    "out*",
    "out?",
    "out",
    "out+",
    "out%31",
    "out#1",
    "out 1",
    "öut",
    "out{1,2}",
    "~out",
    "[!a]ut",
    "**",
)
"""Each would be, as a pattern or escaped, another one or many of them."""


@pytest.fixture(params=["here", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of this machine and one in a bucket, with two files below each name."""
    place = str(tmp_path) if request.param == "here" else request.getfixturevalue("bucket")
    for name in NAMES:
        for file in files_of(place, name):
            storage.write_bytes(file, file.encode())
    return place


def files_of(root: str, name: str) -> list[str]:
    return [f"{root}/{name}/a.json", f"{root}/{name}/b/{name}"]


def listed(uri: str) -> set[str]:
    return {file.uri for file in storage.list_files(uri)}


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_is_deleted_and_none_that_its_name_would_match(root: str, end: str) -> None:
    everything = listed(root)
    for name in NAMES:
        own = files_of(root, name)
        storage.delete(f"{root}/{name}{end}")
        assert listed(root) == everything - set(own), name
        assert not storage.exists(f"{root}/{name}")
        for file in own:
            storage.write_bytes(file, file.encode())


def test_a_file_is_read_listed_written_and_deleted_by_its_name(root: str) -> None:
    everything = listed(root)
    for name in NAMES:
        one, other = files_of(root, name)
        assert storage.read_bytes(other) == other.encode()
        assert listed(f"{root}/{name}") == {one, other}
        assert set(storage.file_infos([one, other])) == {one, other}
        storage.delete(one)
        assert listed(root) == everything - {one}, name
        assert not storage.exists(one)
        assert storage.create(one, b"new")
        assert not storage.create(other, b"new")
        storage.write_bytes(one, one.encode())
    assert all(storage.read_bytes(file) == file.encode() for file in everything)


def test_what_is_not_there_deletes_nothing(root: str) -> None:
    everything = listed(root)
    for name in ("o", "ou?", "*", "[o]ut", "nothing/*", "out[1]/*", "out[1]/?.json", "OUT"):
        storage.delete(f"{root}/{name}")
        assert not storage.exists(f"{root}/{name}")
    if storage.is_remote(root):
        storage.delete(f"{root}/out//a.json")
    assert listed(root) == everything


@pytest.mark.parametrize("uri", ["simplecache::s3://b/a", "s3://b/a::s3://b/c", "zip://x::/tmp/y"])
def test_a_chain_of_places_is_no_name(uri: str) -> None:
    with pytest.raises(UsageError, match="::"):
        storage.read_bytes(uri)
    assert "::" in (storage.problem_of(uri) or "")


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "scan").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    storage.delete(str(tmp_path / "link"))
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "theirs" / "scan").exists()
