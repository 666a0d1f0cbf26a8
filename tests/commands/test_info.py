"""`info` and `guide`: what is here, and how it is used; nothing heavy is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import classes
import pytest

from commands.test_cli import called
from commands.test_help import imported_by
from ray_brats.commands import guide, info, registry
from ray_brats.commands.registry import COMMANDS
from ray_brats.errors import UsageError
from ray_brats.model import card
from ray_brats.recipes import named, tasks


def test_info_tells_what_programs_ask_for() -> None:
    done = called("info", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["commands"]) == set(COMMANDS)
    assert set(told["tasks"]) == set(tasks.TASKS)
    assert told["tasks"]["gli-2020"]["labels"]["4"] == "enhancing tumour"
    assert set(told["recipes"]) == set(named.RECIPES)
    assert all(told["recipes"].values())
    assert all(told["versions"].values())
    starter = told["starter"]
    if starter is not None:
        assert starter["modalities"] == ["t1ce", "t2", "flair"]
        assert set(starter["measured_dice"]) == set(classes.REGIONS)
        assert starter["intended_use"]
        assert starter["cite"]


def test_info_is_told_to_people_too(capsys: pytest.CaptureFixture[str]) -> None:
    info.tell(registry.info(info.InfoOptions()))
    text = capsys.readouterr().out
    for word in ("ray-brats", "score", "gli-post", "standard"):
        assert word in text


def test_an_installation_without_a_starter_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(card, "_STARTER_FOLDER", tmp_path)
    told = registry.info(info.InfoOptions())
    assert told.facts["starter"] is None
    info.tell(told)
    assert "has none" in capsys.readouterr().out


def test_info_and_guide_load_no_heavy_library() -> None:
    code = "from ray_brats.commands import info, registry; registry.info(info.InfoOptions())"
    assert imported_by(code) == set()


@pytest.fixture
def manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pages, and a file that is none."""
    (tmp_path / "training.md").write_text("\n# Training **well**\n\n- one\n")
    (tmp_path / "scoring.md").write_text("Scoring at last\n")
    (tmp_path / "picture.png").write_bytes(b"")
    monkeypatch.setattr(guide, "DOCS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("manual")
def test_pages_are_listed_with_their_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = guide.guide(guide.GuideOptions())
    assert told.as_json()["pages"] == [
        {"page": "scoring", "title": "Scoring at last"},
        {"page": "training", "title": "Training **well**"},
    ]
    guide.tell(told)
    assert capsys.readouterr().out == "scoring   Scoring at last\ntraining  Training **well**\n"


@pytest.mark.parametrize("page", ["training", "training.md"])
def test_a_page_that_is_piped_is_its_text(
    manual: Path, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    guide.tell(guide.guide(guide.GuideOptions(page=page)))
    assert capsys.readouterr().out == (manual / "training.md").read_text()


@pytest.mark.usefixtures("manual")
def test_a_page_on_a_terminal_is_rendered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    guide.tell(guide.guide(guide.GuideOptions(page="training")))
    text = capsys.readouterr().out
    assert "Training" in text
    assert "*" not in text
    assert "•" in text


@pytest.mark.usefixtures("manual")
def test_an_unknown_page_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean `ray-brats guide training`"):
        guide.guide(guide.GuideOptions(page="trainign"))
    with pytest.raises(UsageError, match="expected one of scoring, training"):
        guide.guide(guide.GuideOptions(page="zzz"))


def test_an_installation_without_pages_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide, "DOCS", tmp_path / "none")
    with pytest.raises(UsageError, match="no manual"):
        guide.guide(guide.GuideOptions())


def test_every_page_that_ships_begins_with_a_line() -> None:
    assert all(guide.title(text) for text in guide.pages().values())
