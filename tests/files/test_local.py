"""This machine's files: none is passed over in silence, and some are nobody else's."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ray_brats.errors import StageFailed
from ray_brats.files import local, storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/deep/one", "a/two", "three"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(b"12")
    return tmp_path / "folder"


def names(folder: Path, **options: int) -> list[str]:
    found = storage.list_files(str(folder), **options)
    return [file.uri.removeprefix(f"{folder}/") for file in found]


def test_files_are_found_at_any_depth_in_order(folder: Path) -> None:
    assert names(folder) == ["a/two", "b/deep/one", "three"]
    assert names(folder, depth=1) == ["three"]
    assert names(folder, depth=2) == ["a/two", "three"]
    (file,) = local.each_local(str(folder / "three"))
    assert (file.uri, file.size_bytes) == (f"{folder}/three", 2)


def test_a_folder_that_cannot_be_opened_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.scandir

    def closed(path: str) -> object:
        if path.endswith("/deep"):
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="b/deep"):
        storage.list_files(str(folder))


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/four").write_bytes(b"")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a/up").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "broken").symlink_to(tmp_path / "absent")
    os.mkfifo(folder / "pipe")
    assert names(folder) == ["a/two", "b/deep/one", "linked/four", "three"]


@pytest.mark.parametrize(
    ("name", "told"),
    [("é–", "é–"), (os.fsdecode(b"caf\xe9"), "caf\ufffd"), ("a\ud800", "a\ufffd"), ("a", "a")],
)
def test_what_is_no_utf8_is_marked(name: str, told: str) -> None:
    assert local.readable(name) == told
    assert local.is_utf8(name) == (name == told)


def test_folders_that_link_to_each_other_are_entered_once(tmp_path: Path) -> None:
    for name in "abcdefghij":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"")
        for other in "abcdefghij":
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    (tmp_path / "A").symlink_to(tmp_path / "a")
    found = names(tmp_path)
    assert len(found) == 10, "each file once, by one of its names"
    assert "a/file" in found, "rather its own than a link's"


def test_a_created_file_is_whole_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, seen = os.link, []

    def watched(source: Path, target: Path) -> None:
        seen.append((Path(source).read_bytes(), target.exists()))
        link(source, target)

    monkeypatch.setattr(os, "link", watched)
    target = tmp_path / "attempts" / "000001.json"
    assert local.create(target, b"first")
    assert seen == [(b"first", False)]
    assert not local.create(target, b"second")
    assert target.read_bytes() == b"first"
    assert [path.name for path in target.parent.iterdir()] == ["000001.json"]


def test_where_there_are_no_links_one_of_several_creators_succeeds_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    assert local.create(tmp_path / "a", b"first")
    assert not local.create(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_private_folder_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = local.private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert local.private_folder().stat().st_mode & 0o777 == 0o700, "it is closed again"
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    (tmp_path / "ray-brats-4711").mkdir()
    with pytest.raises(StageFailed, match="ray-brats-4711 is not a folder of this user"):
        local.private_folder()  # it is the one's who runs this


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_private_folder_is_not_what_somebody_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    planted = tmp_path / f"ray-brats-{os.getuid()}"
    if kind == "link":
        planted.symlink_to(tmp_path / "elsewhere")
    else:
        planted.write_bytes(b"")
    with pytest.raises(StageFailed, match="not a folder of this user"):
        local.private_folder()
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o755


def test_a_folder_that_others_remove_too_is_gone_and_does_not_end_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "file").write_bytes(b"x")
    scandir = os.scandir

    def hastily(folder: str) -> Any:
        if str(folder).endswith("b/in"):
            (tmp_path / "b" / "in" / "file").unlink()
            (tmp_path / "b" / "in").rmdir()
        return scandir(folder)

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", hastily)
        files = list(local.each_local(str(tmp_path)))
    names = [file.uri.removeprefix(str(tmp_path)) for file in files]
    assert names == ["/a/in/file", "/c/in/file"]
    rmtree = shutil.rmtree

    def half(path: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        (path / "in" / "file").unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(shutil, "rmtree", half)
    local.delete(tmp_path / "c")
    assert not (tmp_path / "c").exists()
