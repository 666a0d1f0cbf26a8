"""Folders: replaced as a whole."""

from __future__ import annotations

from pathlib import Path

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
