"""Masks of one task never give numbers, zips or pictures of another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ray_brats import labels
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import phantom
from ray_brats.cases.case import Cohort
from ray_brats.commands import reports
from ray_brats.commands.reports import EvaluateOptions, ShowOptions
from ray_brats.engine import mapping
from ray_brats.errors import UsageError
from ray_brats.files import retry
from ray_brats.labels import Task
from ray_brats.model import predictions
from ray_brats.recipes import tasks
from ray_brats.recipes.tasks import TASKS
from ray_brats.report import figures
from ray_brats.stages import evaluate, submission
from ray_brats.stages.evaluate import Options

SHAPE_VOX = (32, 32, 24)


def cohort_of(folder: Path, name: str, cases: int = 2) -> Cohort:
    phantom.write_cohort(folder, cases=cases, shape_vox=SHAPE_VOX, task=TASKS[name])
    return cohorts.find(str(folder), task=TASKS[name])


def perfect(cohort: Cohort, folder: Path, task: Task) -> str:
    """Masks equal to the references, with the integers of a task, and what says so."""
    folder.mkdir()
    for case in cohort.cases:
        image = nib.load(str(case.segmentation))
        assert case.task is not None
        index = labels.to_class_index(np.asarray(image.dataobj), case.task)
        raw = labels.from_class_index(index, task)
        nib.save(nib.Nifti1Image(raw, image.affine), folder / f"{case.case_id}.nii.gz")
    (folder / "score.json").write_text(json.dumps(tasks.described(task)))
    return str(folder)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_cases(work: Any, how: mapping.Tasks, **_: Any) -> list[Any]:
        return [retry.complete(item, how.task) for item in work]

    monkeypatch.setattr(mapping, "map_cases", map_cases)


@pytest.mark.parametrize("written", ["gli-2023", "gli-2021", "msd-task01"])
@pytest.mark.usefixtures("no_ray")
def test_masks_of_other_integers_and_equal_classes_are_read_by_their_own(
    tmp_path: Path, written: str
) -> None:
    cohort = cohort_of(tmp_path / "cohort", "gli-2020")
    masks = perfect(cohort, tmp_path / "masks", TASKS[written])
    found = evaluate.evaluate(masks, cohort, str(tmp_path / "report"))
    assert found.counts == {"ok": 2}
    assert found.summary is not None
    for region in tasks.GLIOMA.region_names:
        assert found.summary["regions"][region]["dice"]["mean"] == 1


@pytest.mark.usefixtures("no_ray")
def test_each_set_of_a_comparison_has_a_task_of_its_own(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", "gli-2020")
    one = perfect(cohort, tmp_path / "one", TASKS["gli-2020"])
    other = perfect(cohort, tmp_path / "other", TASKS["msd-task01"])
    found = evaluate.evaluate(one, cohort, str(tmp_path / "report"), against=[other])
    assert found.comparison is not None
    assert [row["mean_rank"] for row in found.comparison["ranking"]] == [1.5, 1.5]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("name", ["gli-post", "ped", "met"])
@pytest.mark.parametrize("rules", ["both", "2026"])
def test_every_region_of_a_task_is_scored(tmp_path: Path, name: str, rules: str) -> None:
    cohort = cohort_of(tmp_path / "cohort", name, cases=3)
    masks = perfect(cohort, tmp_path / "masks", TASKS[name])
    options = Options(rules=rules, task=TASKS[name])
    found = evaluate.evaluate(masks, cohort, str(tmp_path / "report"), options=options)
    assert found.summary is not None
    assert list(found.summary["regions"]) == list(TASKS[name].targets.region_names)
    dice = [numbers["dice"]["mean"] for numbers in found.summary["regions"].values()]
    assert all(value == 1 for value in dice)
    page = (tmp_path / "report" / "report.html").read_text()
    for region in TASKS[name].targets.regions:
        assert region.title in page
    small = "small_tp" in (tmp_path / "report" / "metrics.csv").read_text()
    assert small == (name == "met" and rules == "2026")


def test_masks_of_children_give_no_number_against_adults(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", "gli-2020")
    masks = tmp_path / "masks"
    perfect(cohort, masks, TASKS["gli-2020"])
    (masks / "score.json").write_text('{"task": "ped"}')
    sentence = "holds masks of the task ped .* the references are of gli-2020"
    with pytest.raises(UsageError, match=sentence):
        evaluate.evaluate(str(masks), cohort, str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()
    with pytest.raises(UsageError, match="holds masks of the task ped"):
        submission.submit(cohort, str(masks), str(tmp_path / "out.zip"), task=None)
    case = cohort.cases[0].case_id
    with pytest.raises(UsageError, match="is a mask of the task ped"):
        reports.show(
            ShowOptions(
                case=str(tmp_path / "cohort" / case),
                picture=str(tmp_path / "a.png"),
                prediction=str(masks / f"{case}.nii.gz"),
            )
        )
    assert {path.name for path in tmp_path.iterdir()} == {"cohort", "masks"}


def test_no_set_of_a_comparison_may_be_of_another_task(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", "gli-2020")
    one = perfect(cohort, tmp_path / "one", TASKS["gli-2020"])
    other = perfect(cohort, tmp_path / "other", TASKS["gli-2020"])
    (tmp_path / "other" / "score.json").write_text('{"task": "ped"}')
    with pytest.raises(UsageError, match="other holds masks of the task ped"):
        evaluate.evaluate(one, cohort, str(tmp_path / "report"), against=[other])
    # Before Ray starts, too.
    options = EvaluateOptions(
        predictions=one, cohort=cohort.uri, report=str(tmp_path / "report"), against=(other,)
    )
    with pytest.raises(UsageError, match="other holds masks of the task ped"):
        reports.evaluate(options)
    assert not (tmp_path / "report").exists()


def test_names_that_leave_tasks_open_are_drawn_with_none_but_those(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", "gli-post", cases=1)
    masks = tmp_path / "masks"
    perfect(cohort, masks, TASKS["gli-post"])
    (case,) = cohort.cases
    options = ShowOptions(
        case=str(tmp_path / "cohort" / case.case_id),
        picture=str(tmp_path / "a.png"),
        prediction=str(masks / f"{case.case_id}.nii.gz"),
    )
    with pytest.raises(UsageError, match="pass --task gli-2023 or --task gli-post"):
        reports.show(dataclasses.replace(options, prediction=None))
    Path(str(case.segmentation)).unlink()
    reports.show(options)
    assert (tmp_path / "a.png").exists()
    (masks / "score.json").write_text('{"task": "ped"}')
    other = dataclasses.replace(options, picture=str(tmp_path / "b.png"))
    with pytest.raises(UsageError, match="ped, and the case is of gli-2023 or gli-post"):
        reports.show(other)
    assert not (tmp_path / "b.png").exists()


def test_a_picture_has_the_colours_of_the_task_that_the_masks_folder_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(tmp_path / "cohort", "gli-post", cases=1)
    masks = perfect(cohort, tmp_path / "masks", TASKS["gli-post"])
    (case,) = cohort.cases
    plain = dataclasses.replace(case, task=None, segmentation=None)
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "draw_case", lambda *_, **how: drawn.append(how["targets"]))
    monkeypatch.setattr(figures, "save_figure", lambda *_: None)
    mask = f"{masks}/{case.case_id}.nii.gz"
    reports.draw(plain, ShowOptions(case="", picture="a.png", prediction=mask))
    assert drawn == [TASKS["gli-post"].targets]


def test_masks_with_other_integers_are_not_handed_in(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", "gli-2020")
    masks = perfect(cohort, tmp_path / "masks", TASKS["gli-2023"])
    with pytest.raises(UsageError, match="score with --task gli-2020"):
        submission.submit(cohort, masks, str(tmp_path / "out.zip"), task=None)


def test_a_description_of_an_unknown_task_is_named(tmp_path: Path) -> None:
    (tmp_path / "score.json").write_text('{"task": "of-tomorrow", "versions": {}}')
    with pytest.raises(UsageError, match=r"score\.json: no task 'of-tomorrow'"):
        predictions.made_for(str(tmp_path))


def test_a_scoring_that_began_for_an_unknown_task_is_named(tmp_path: Path) -> None:
    (tmp_path / "begun.json").write_text('{"tasks": ["of-tomorrow"]}')
    with pytest.raises(UsageError, match=r"begun\.json: no task 'of-tomorrow'"):
        predictions.made_for(str(tmp_path))


def test_a_description_of_another_program_tells_no_task(tmp_path: Path) -> None:
    (tmp_path / "score.json").write_text('{"task": "of-tomorrow"}')
    assert predictions.made_for(str(tmp_path)) is None
