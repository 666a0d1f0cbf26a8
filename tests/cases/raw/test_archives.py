"""Zips of studies: their files come out, and nothing else happens."""

from __future__ import annotations

import contextlib
import io
import stat
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_brats.cases.raw import archives
from ray_brats.cases.raw.archives import Limits
from ray_brats.errors import CaseRejected

FOLDERS = st.text("abz^-_", min_size=1, max_size=8)
# Endings that no folder has: a file that is a folder of another is refused.
FILES = st.text("abzäé ^-_", min_size=1, max_size=8).map(lambda text: f"{text}.x")
PLACES = st.tuples(st.lists(FOLDERS, max_size=3), FILES).map(lambda at: "/".join([*at[0], at[1]]))
TREES = st.dictionaries(PLACES, st.binary(max_size=200), max_size=8)


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def unpacked(folder: Path, content: bytes, limits: Limits | None = None) -> dict[str, bytes]:
    """The files that come out, and nothing besides."""
    place = folder / "study.zip"
    place.write_bytes(content)
    out = folder / "out"
    out.mkdir()
    archives.unpack(place, out, limits)
    return contents(out)


def rejected(folder: Path, content: bytes, limits: Limits | None = None) -> str:
    """The sentence of an archive that leaves nothing outside of its folder."""
    with pytest.raises(CaseRejected) as caught:
        unpacked(folder, content, limits)
    assert {path.name for path in folder.iterdir()} == {"study.zip", "out"}
    return caught.value.reason


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_what_was_packed_comes_out(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    assert unpacked(folder, zipped(files)) == files


def test_times_follow_from_what_is_in_a_file(tmp_path: Path) -> None:
    times = []
    for number, method in enumerate((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)):
        folder = tmp_path / str(number)
        folder.mkdir()
        unpacked(folder, zipped({"a/t1.nii": b"one", "b": b"other"}, method))
        times.append([(folder / "out" / name).stat().st_mtime_ns for name in ("a/t1.nii", "b")])
    assert times[0] == times[1]
    assert len(set(times[0])) == 2


def test_what_is_hidden_a_folder_or_a_link_stays_in_it(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.mkdir("empty")
        archive.writestr("__MACOSX/._a", b"x")
        archive.writestr(".DS_Store", b"x")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, b"/etc/passwd")
        archive.writestr("a", b"file")
    assert unpacked(tmp_path, buffer.getvalue()) == {"a": b"file"}


@pytest.mark.parametrize(
    "name",
    [
        *("../away", "a/../../away", "/away", "\\\\host\\away", "C:\\away", "c:/away"),
        *("a/./b", "a//b", "a\x00b/../..", "a\nb", "x" * 256, "/".join(["deep"] * 300)),
    ],
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    said = rejected(
        tmp_path,
        zipped({"first": b"1", "N" * len(name): b"2"}).replace(b"N" * len(name), name.encode()),
    )
    assert "entry 2 of the archive has a name" in said
    assert "away" not in said


@pytest.mark.parametrize("names", [("a", "A"), ("a", "a/b"), ("a/b", "A"), ("s/x", "S/X")])
def test_two_files_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    said = rejected(tmp_path, zipped(dict.fromkeys(names, b"x")))
    assert "file 2 of the archive has the name of another" in said


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    assert "the name of another" in rejected(tmp_path, buffer.getvalue())


def test_too_much_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    bomb = zipped({f"{number}": bytes(1 << 20) for number in range(20)})
    assert len(bomb) < 100_000
    assert "inflates to more than 1048576 bytes" in rejected(
        tmp_path, bomb, Limits(inflated_bytes=1 << 20)
    )
    assert contents(tmp_path / "out") == {}


def test_fifty_thousand_files_are_refused_at_once(tmp_path: Path) -> None:
    many = zipped({f"{number}.dcm": b"" for number in range(50_000)})
    began = time.monotonic()
    assert "more than 20000 files" in rejected(tmp_path, many, Limits(files=20_000))
    assert time.monotonic() - began < 5


def test_a_large_archive_is_read_by_its_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    content = zipped({f"{number}": b"x" for number in range(5)})
    assert b"PK\x06\x06" in content
    assert len(unpacked(tmp_path, content)) == 5


def test_an_entry_that_promises_less_than_it_holds_is_no_more_than_that(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": b"x" * 5000}))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = (10).to_bytes(4, "little")
    said = rejected(tmp_path, bytes(content))
    assert "damaged" in said
    assert all(len(found) <= 10 for found in contents(tmp_path / "out").values())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip" * 100, bytes(1000)])
def test_what_is_no_zip_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    assert rejected(tmp_path, content) == "the archive is damaged: expected a zip"


def test_other_ways_of_packing_are_a_sentence(tmp_path: Path) -> None:
    assert "another way than deflate" in rejected(tmp_path, zipped({"a": b"x"}, zipfile.ZIP_LZMA))


def test_an_encrypted_archive_is_a_sentence(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": b"x"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    assert "encrypted" in rejected(tmp_path, bytes(content))


def test_a_name_without_a_letter_is_a_sentence(tmp_path: Path) -> None:
    nameless = zipped({"a": b"x"}).replace(b"a", b"\x00")
    assert "that no file may have" in rejected(tmp_path, nameless)


def test_a_name_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    content = bytearray(zipped({"ä": b"x"}))
    for found in (content.find("ä".encode()), content.rfind("ä".encode())):
        damaged = content[:]
        damaged[found] = 0x80
        (folder := tmp_path / str(found)).mkdir()
        assert rejected(folder, bytes(damaged)) == "the archive is damaged: expected a zip"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_a_sentence_or_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(zipped({"a/t1.nii": b"x" * 100, "b": b"y" * 50}))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    with contextlib.suppress(CaseRejected):
        unpacked(folder, bytes(content), Limits(inflated_bytes=1 << 20))
    assert {path.name for path in folder.iterdir()} == {"study.zip", "out"}
