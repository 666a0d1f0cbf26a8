"""A task of somebody's own from file to report: nobody needs its file again."""

from __future__ import annotations

import dataclasses
import gzip
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from own_tasks import FIVE, TEXT, cohort_of_five, found, through_arrow

from ray_brats import labels
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import volume
from ray_brats.engine import mapping
from ray_brats.errors import UsageError
from ray_brats.files import ledger, retry, storage
from ray_brats.labels import Task
from ray_brats.model import card, predictions
from ray_brats.model.predictions import Predictions
from ray_brats.recipes import jsonform, named, tasks
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.tasks import TASKS
from ray_brats.stages import evaluate, preprocess, submission
from ray_brats.stages.evaluate import Options
from ray_brats.training import run as runs
from ray_brats.training.data import read_dataset

RECIPE = named.get("smoke")


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_cases(work: Any, how: mapping.Tasks, **_: Any) -> list[Any]:
        return [retry.complete(item, how.task) for item in work]

    monkeypatch.setattr(mapping, "map_cases", map_cases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases; read only."""
    return cohort_of_five(tmp_path_factory.mktemp("five"))


def test_a_case_keeps_its_task_through_arrow(folder: Path) -> None:
    for case in found(folder).cases:
        again = through_arrow(dataclasses.replace(case, etags={}, sizes_bytes={}))
        assert again == dataclasses.replace(case, etags={}, sizes_bytes={})
        assert again.task is not None
        assert again.task.small_lesion_mm3 == 12.5
        assert again.task.targets.regions[0].title == "whole lesion"


def prepared(folder: Path, dataset: str, task: Task = FIVE) -> None:
    cohort = cohorts.find(str(folder), task=task)
    split = ("train", "train", "val")
    cases = [
        dataclasses.replace(case, split=part)
        for case, part in zip(cohort.cases, split, strict=True)
    ]
    summary = preprocess.preprocess(cohort, cases, dataset, RECIPE)
    assert summary.counts == {"ok": 3}, summary.failures


def trained(dataset: str, run_uri: str) -> dict[str, Any]:
    """What a run says of itself, as `train` writes it."""
    data = read_dataset(dataset, RECIPE)
    assert data.task is not None
    recipe = dataclasses.replace(RECIPE, targets=data.task.targets)
    description = runs.describe(data, recipe, 1)
    storage.write_json(f"{run_uri}/run.json", description)
    return description


def test_datasets_runs_and_cards_tell_it_whole(folder: Path, tmp_path: Path) -> None:
    dataset, run_uri = str(tmp_path / "dataset"), str(tmp_path / "run")
    prepared(folder, dataset)
    assert read_dataset(dataset, RECIPE).task == FIVE
    image = np.load(f"{dataset}/cases/p0/label.npy")
    assert set(np.unique(image)) == {0, 1, 2, 3, 4, 5}
    trained(dataset, run_uri)
    told = storage.read_json(f"{run_uri}/run.json")
    assert tasks.told_by(told) == FIVE
    recipe = jsonform.from_json(Recipe, told["recipe"])
    assert recipe.targets == FIVE.targets
    assert recipe.outputs == ("LES", "SOLID", "RIM", "CAV", "BLOOD")
    bundle = {"format_version": card.FORMAT_VERSION, "recipe": told["recipe"], "sha256": {}}
    bundle |= {"versions": {}, "parameters": 1, **tasks.described(FIVE)}
    storage.write_json(f"{tmp_path}/bundle/{card.CARD}", bundle)
    chosen = card.choose([str(tmp_path / "bundle")])
    assert (chosen.task, chosen.recipe.targets) == (FIVE, FIVE.targets)
    # Its names tell no task: the bundle does, without the file.
    assert chosen.task_of(cohorts.find(str(folder))) == FIVE
    for other in ("gli-post", "ped"):
        with pytest.raises(UsageError, match=f"but the task {other} has"):
            chosen.task_of(cohorts.find(str(folder)), TASKS[other])


def edited(*changes: tuple[str, str]) -> Task:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return tasks.parse(text, "edited.toml")


def test_a_run_goes_on_whatever_became_of_the_file(folder: Path, tmp_path: Path) -> None:
    dataset, run_uri = str(tmp_path / "dataset"), str(tmp_path / "run")
    prepared(folder, dataset)
    # `train` asks the dataset alone.
    description = trained(dataset, run_uri)
    assert not runs.is_finished(run_uri, description, existing="resume")
    # How classes look and regions are called in full makes it no other one.
    prepared(folder, dataset, edited(("whole lesion", "lesion"), ("#123456", "#654321")))
    again = trained(dataset, str(tmp_path / "again"))
    assert again["recipe"] != description["recipe"]
    assert not runs.is_finished(run_uri, again, existing="resume")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([("SOLID", "CORE")], "of another task"),
        ([('"rim"', '"edge"')], "of another task"),
        ([('"cavity", "swelling"', '"cavity", "blood"')], "of another task"),
        ([("= 10", "= 9"), ("= 255", "= 10"), ("= 9", "= 255")], "of another dataset"),
    ],
)
def test_a_run_does_not_go_on_with_another_task(
    folder: Path, tmp_path: Path, changes: list[tuple[str, str]], sentence: str
) -> None:
    dataset, run_uri = str(tmp_path / "dataset"), str(tmp_path / "run")
    prepared(folder, dataset)
    trained(dataset, run_uri)
    prepared(folder, dataset, edited(*changes))
    other = trained(dataset, str(tmp_path / "other"))
    for existing in ("resume", "extend"):
        with pytest.raises(UsageError, match=f"holds a run {sentence} .*pass another folder"):
            runs.is_finished(run_uri, other, existing=existing)  # type: ignore[arg-type]


def perfect(folder: Path, target: Path) -> str:
    """Masks equal to the references, as `score` writes them."""
    cohort = found(folder)
    place = Predictions(
        uri=str(target), identity={"bundles": []}, preprocessing=RECIPE.preprocess, task=FIVE
    )
    rows = []
    for case in cohort.cases:
        image = nib.load(str(case.segmentation))
        index = labels.to_class_index(np.asarray(image.dataobj), FIVE)
        grid = volume.read_header(str(case.segmentation)).geometry
        whole = grid.canonical(index)
        item = place.work_of(case)
        again = ledger.Work.from_row(item.as_row())
        assert predictions.task_of(again) == FIVE
        rows.append(predictions.save(again, whole, grid)[0])
    place.conclude(cohort, [], rows)
    return str(target)


def test_masks_ledger_zip_and_report_have_its_integers_and_regions(
    folder: Path, tmp_path: Path
) -> None:
    masks, cohort = perfect(folder, tmp_path / "masks"), found(folder)
    assert predictions.made_for(masks) == FIVE
    raw = np.asarray(nib.load(f"{masks}/p1.nii.gz").dataobj)
    assert set(np.unique(raw)) == {0, 3, 4, 7, 10, 255}
    columns = ledger.read_table(f"{masks}/scores.parquet")[0]
    assert {"les_ml", "solid_ml", "rim_ml", "cav_ml", "blood_ml", "fluid_ml"} <= set(columns)
    archive = tmp_path / "out.zip"
    assert submission.submit(cohort, masks, str(archive), task=FIVE).failures == []
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == ["p0.nii.gz", "p1.nii.gz", "p2.nii.gz"]
        first = gzip.decompress(content.read("p1.nii.gz"))
    assert (np.asarray(nib.Nifti1Image.from_bytes(first).dataobj) == raw).all()
    for rules in ("both", "2026"):
        report = tmp_path / f"report-{rules}"
        options = Options(rules=rules, task=FIVE)
        summary = evaluate.evaluate(masks, cohort, str(report), options=options).summary
        assert summary is not None
        assert list(summary["regions"]) == list(FIVE.targets.region_names)
        assert {row["dice"]["mean"] for row in summary["regions"].values()} == {1.0}
        page = (report / "report.html").read_text()
        assert "whole lesion" in page
        assert "all fluid" in page
        assert ("small_tp" in (report / "metrics.csv").read_text()) == (rules == "2026")


def test_masks_of_it_give_nothing_against_another_task(folder: Path, tmp_path: Path) -> None:
    masks = perfect(folder, tmp_path / "masks")
    cohort = cohorts.find(str(folder), task=TASKS["gli-post"])
    with pytest.raises(UsageError, match="holds masks of the task five"):
        evaluate.evaluate(masks, cohort, str(tmp_path / "report"))
    other = edited(("= 10", "= 9"), ("= 7", "= 10"), ("= 9", "= 7"))
    with pytest.raises(UsageError, match="whose labels are not those of five"):
        submission.submit(
            cohorts.find(str(folder), task=other), masks, str(tmp_path / "a.zip"), task=other
        )
