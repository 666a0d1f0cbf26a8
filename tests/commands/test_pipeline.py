"""`demo`: what it would replace is told before the first phantom is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.cases import phantom
from ray_brats.commands import pipeline
from ray_brats.commands.pipeline import DemoOptions
from ray_brats.errors import UsageError


@pytest.mark.parametrize("name", ["picture.png", "cohort/BraTS20_Training_001/{}_t2.nii.gz"])
def test_a_demo_replaces_nobody_elses_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(pipeline, "run", lambda _: pytest.fail("the work began"))
    if name == "picture.png":
        monkeypatch.setattr(phantom, "write_cohort", lambda *_, **__: pytest.fail("drawn"))
    theirs = tmp_path / name.format("BraTS20_Training_001")
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(UsageError, match=f"{theirs.name}.* is(.|\\n)*already"):
        pipeline.demo(DemoOptions(out=str(tmp_path), cases=2, shape=(32, 32, 32)))
    assert theirs.read_bytes() == b"theirs"


def test_a_demo_of_raw_studies_without_the_extra_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"SimpleITK, which is not installed: pip install"):
        pipeline.demo(DemoOptions(out=str(tmp_path / "demo"), raw=True))
    assert not (tmp_path / "demo").exists()


def test_a_demo_of_a_task_without_phantoms_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="no phantoms of men-rt: expected one of gli-2020"):
        pipeline.demo(DemoOptions(out=str(tmp_path / "demo"), task="men-rt"))
    assert not (tmp_path / "demo").exists()
    assert "phantoms of" not in capsys.readouterr().err
