"""Folders: replaced as a whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ray_brats.errors import ArtefactError
from ray_brats.files import folders, storage


def test_put_folder_replaces_what_was_there(tmp_path: Path) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    new.mkdir()
    target.mkdir()
    (new / "card").write_text("new")
    (target / "stale").write_text("old")
    folders.put(new, str(target), last="card")
    assert [path.name for path in target.iterdir()] == ["card"]


def test_put_folder_replaces_what_was_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "card").write_text("new")
    (tmp_path / "part" / "kept").write_text("new")
    for name in ("card", "stale", "part/stale"):
        storage.write_bytes(f"{bucket}/target/{name}", b"old")
    storage.write_bytes(f"{bucket}/target2/card", b"another one")
    folders.put(tmp_path, f"{bucket}/target", last="card")
    found = {file.uri: storage.read_bytes(file.uri) for file in storage.list_files(bucket)}
    assert found == {
        f"{bucket}/target/card": b"new",
        f"{bucket}/target/part/kept": b"new",
        f"{bucket}/target2/card": b"another one",
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CLIMBING = ("../x.pth", "a/../../x.pth", "/x.pth", "a//x.pth", "./x.pth", "..", "", "a/", "a\\b")


@pytest.mark.parametrize("name", CLIMBING)
def test_a_name_from_elsewhere_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtefactError, match="no plain relative path"):
        folders.local_path(tmp_path, name)


def test_an_odd_but_plain_name_stays_below(tmp_path: Path) -> None:
    for name in ("a", "a/b", "...", "..a/b..", "a b/ü", "~"):
        assert folders.local_path(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("key", ["../x.pth", "part/../../x.pth", "/x.pth", "part//x.pth", "new"])
@pytest.mark.parametrize("named", [True, False])
def test_an_object_that_climbs_is_refused_before_a_byte_is_fetched(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, named: bool
) -> None:
    import boto3

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    storage.write_bytes(f"{bucket}/bundle/card", b"c")
    storage.write_bytes(f"{bucket}/bundle/part/a", b"a")
    client = boto3.client("s3")
    client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"bundle/{key}", Body=b"evil")
    files = {"part/a": sha256(b"a")} | ({key: sha256(b"evil")} if named and key != "new" else {})
    monkeypatch.setattr(storage, "read_bytes", lambda *_: pytest.fail("a byte was fetched"))
    with (
        pytest.raises(ArtefactError),
        folders.fetched(f"{bucket}/bundle", files, passed_over=["card"]),
    ):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


@pytest.mark.parametrize("place", ["here", "bucket"])
def test_a_copy_holds_what_was_judged(
    request: pytest.FixtureRequest, tmp_path: Path, place: str
) -> None:
    root = str(tmp_path) if place == "here" else request.getfixturevalue("bucket")
    for name in ("card", "part/a", "part/b"):
        storage.write_bytes(f"{root}/bundle/{name}", name.encode())
    files = {name: sha256(name.encode()) for name in ("part/a", "part/b")}
    with folders.fetched(f"{root}/bundle", files, passed_over=["card"]) as folder:
        storage.write_bytes(f"{root}/bundle/part/a", b"swapped")
        assert (folder / "part" / "a").read_bytes() == b"part/a"
        assert not (folder / "card").exists()
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
    with (
        pytest.raises(ArtefactError, match="part/a was changed"),
        folders.fetched(f"{root}/bundle", files, passed_over=["card"]),
    ):
        pass
    storage.delete(f"{root}/bundle/part/b")
    with (
        pytest.raises(ArtefactError, match="part/b was added or is missing"),
        folders.fetched(f"{root}/bundle", files, passed_over=["card"]),
    ):
        pass
