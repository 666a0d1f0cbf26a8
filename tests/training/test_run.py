"""Which checkpoint of a run is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.recipes import jsonform, named
from ray_brats.training import checkpoint
from ray_brats.training import run as runs

RECIPE = named.get("smoke", steps=9)
FACTS = {
    "release": "brats2020",
    "training_cases_sha256": ["a", "b", "c"],
    "validation_cases_sha256": ["d"],
}


def made(run: Path, scores: dict[int, float | None]) -> str:
    """A run with a checkpoint for each step, validated where it has a score."""
    described = {"recipe": jsonform.as_json(RECIPE), "cases": {"training": 3, "validation": 1}}
    storage.write_json(str(run / "run.json"), described | FACTS)
    for step, dice in scores.items():
        folder = run / "checkpoints" / checkpoint.folder_name(step)
        folder.mkdir(parents=True)
        facts = {} if dice is None else {"mean_dice": dice}
        checkpoint.save({"model": []}, folder, step=step, facts=facts)
    return str(run)


def test_the_best_is_chosen_with_what_made_it(tmp_path: Path) -> None:
    chosen = runs.choose(made(tmp_path, {3: 0.2, 6: 0.4, 9: None}))
    assert chosen.checkpoint.step == 6
    assert (chosen.recipe, dict(chosen.cases)) == (RECIPE, {"training": 3, "validation": 1})
    assert chosen.facts == FACTS


def test_whose_labels_it_writes_is_never_guessed(tmp_path: Path) -> None:
    run = made(tmp_path, {3: 0.2})
    told = storage.read_json(f"{run}/run.json")
    older = {name: value for name, value in told.items() if name not in FACTS}
    storage.write_json(f"{run}/run.json", older)
    with pytest.raises(UsageError, match="whose labels"):
        runs.choose(run)
    storage.write_json(f"{run}/bundle/bundle.json", FACTS | {"more": 1})
    assert runs.choose(run).facts == FACTS


def test_a_named_one_is_chosen_whatever_its_score(tmp_path: Path) -> None:
    run = made(tmp_path, {3: 0.2, 6: 0.4})
    assert runs.choose(run, "step-000003").checkpoint.step == 3


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run"):
        runs.choose(str(tmp_path))
    run = made(tmp_path / "without", {})
    with pytest.raises(UsageError, match="no complete checkpoint; it has none"):
        runs.choose(run)
    run = made(tmp_path / "with", {3: 0.2, 6: 0.4})
    with pytest.raises(UsageError, match="no checkpoint step-9; it has step-000003, step-000006"):
        runs.choose(run, "step-9")


def test_a_run_is_whole_with_its_bundle(tmp_path: Path) -> None:
    run = made(tmp_path, {3: None})
    assert not runs.bundle_is_there(run)
    storage.write_json(storage.join(run, "bundle", "bundle.json"), {})
    assert runs.bundle_is_there(run)
