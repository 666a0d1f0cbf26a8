"""What a job's folder would upload."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.commands.preflight import upload
from ray_brats.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ray_brats/unet.py", "jobs/train.py", "ray_brats/starter/weights.npy", "big/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_a_small_folder_is_taken_whole(folder: Path) -> None:
    assert [row["status"] for row in upload.checks(str(folder))] == ["ok", "ok"]
    assert len(upload.uploaded(folder)) == 4


def test_what_is_too_much_is_named(folder: Path) -> None:
    with (folder / "big/a").open("wb") as file:
        file.truncate(upload.LIMIT_BYTES)
    size, needed = upload.checks(str(folder))
    assert size["status"] == "fail"
    assert "big/a 100.0 MiB" in size["remedy"]
    assert needed["status"] == "ok"
    (folder / ".rayignore").write_text("big/\n")
    assert upload.checks(str(folder))[0]["status"] == "ok"


def test_needed_files_that_git_ignores_are_named(folder: Path) -> None:
    (folder / ".gitignore").write_text("*.npy\nbig/\n")
    _, needed = upload.checks(str(folder))
    assert needed["status"] == "fail"
    assert "ray_brats/starter/weights.npy" in needed["found"]


def test_this_checkout_can_be_submitted() -> None:
    names = {path.as_posix() for path in upload.uploaded(ROOT)}
    assert {
        "jobs/pipeline.py",
        "ray_brats/commands/preflight/rates.toml",
        "ray_brats/cli.py",
    } <= names
    assert not [name for name in names if name.startswith((".git/", ".venv/"))]


def test_no_folder_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="working-dir"):
        upload.checks(str(tmp_path / "none"))
