"""Folders: replaced as a whole."""

from __future__ import annotations

from pathlib import Path

from ray_brats import folders


def test_put_folder_replaces_what_was_there(tmp_path: Path) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    new.mkdir()
    target.mkdir()
    (new / "card").write_text("new")
    (target / "stale").write_text("old")
    folders.put(new, str(target), last="card")
    assert [path.name for path in target.iterdir()] == ["card"]
