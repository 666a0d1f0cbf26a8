"""`check` and `preprocess`, and what `run` and `plan` share with them, before anything starts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import touch
from own_tasks import FIVE, TEXT, cohort_of_five
from shapes import radiotherapy

from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Cohort
from ray_brats.commands import datasets, pipeline
from ray_brats.commands.arguments import RecipeChoice
from ray_brats.commands.preflight import plan
from ray_brats.engine import capacity, cluster
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.recipes import tasks
from ray_brats.recipes.named import RecipeName

Call = Callable[[str, str, RecipeChoice], Any]
NODES = ("1x(2cpu,8GiB)",)


def choice(*settings: str, recipe: RecipeName = "smoke") -> RecipeChoice:
    return RecipeChoice(recipe=recipe, settings=settings)


@pytest.mark.parametrize(
    "call",
    [
        lambda cohort, _, recipe: datasets.check(
            datasets.CheckOptions(cohort=cohort, recipe=recipe)
        ),
        lambda cohort, out, recipe: datasets.preprocess(
            datasets.PreprocessOptions(cohort=cohort, dataset=out, recipe=recipe)
        ),
        lambda cohort, out, recipe: pipeline.run(
            pipeline.RunOptions(cohort=cohort, out=out, recipe=recipe)
        ),
        lambda cohort, _, recipe: plan.plan(
            plan.PlanOptions(cohort=cohort, nodes=NODES, recipe=recipe)
        ),
    ],
    ids=["check", "preprocess", "run", "plan"],
)
def test_scans_that_a_recipe_does_not_read_are_told_at_once(call: Call, tmp_path: Path) -> None:
    touch(tmp_path / "cohort", "BraTS-MEN-RT-0001-1_t1c.nii.gz", "BraTS-MEN-RT-0001-1_gtv.nii.gz")
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"--set preprocess\.modalities=t1ce pre\S+skull=true,"):
        call(str(tmp_path / "cohort"), str(out), choice())
    assert not out.exists()


def test_what_is_asked_for_is_what_works(
    one_case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (case,) = cohorts.find(str(one_case)).cases
    folder = str(radiotherapy(case, tmp_path / "rt"))
    recipe = choice("preprocess.modalities=t1ce", "preprocess.allow_skull=true")
    told = datasets.check(datasets.CheckOptions(cohort=folder, recipe=recipe))
    assert (told.counts, told.facts["task"]) == ({"ok": 1}, "men-rt")
    assert "warning" not in capsys.readouterr().err
    recipe = choice("preprocess.modalities=t1ce")
    datasets.check(datasets.CheckOptions(cohort=folder, recipe=recipe))
    assert "pass --set preprocess.allow_skull=true" in capsys.readouterr().err
    planned = plan.plan(plan.PlanOptions(cohort=folder, nodes=NODES, recipe=recipe))
    assert planned.facts["planned_cases"] == 1


def test_a_run_of_another_task_is_refused_before_its_dataset_is_made_anew(
    one_case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started() -> None:
        raise AssertionError("started")

    monkeypatch.setattr(cluster, "running", started)
    file = tmp_path / "five.toml"
    run_uri = tmp_path / "out" / "run"
    storage.write_json(f"{run_uri}/run.json", tasks.described(FIVE))

    def again(text: str) -> None:
        file.write_text(text)
        pipeline.run(
            pipeline.RunOptions(
                cohort=str(one_case), out=str(tmp_path / "out"), recipe=choice(), task=str(file)
            )
        )

    for old, new in (("= 10", "= 11"), ('"rim"', '"edge"'), ("SOLID", "CORE")):
        assert old in TEXT
        with pytest.raises(UsageError, match=r"a run of the task five, .* as it was then"):
            again(TEXT.replace(old, new))
    with pytest.raises(AssertionError, match="started"):
        again(TEXT.replace("whole lesion", "lesion").replace("#123456", "#654321"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Cohort]:
    """The cohorts that reach preprocessing, where a call then ends."""
    cohorts_given: list[Cohort] = []

    def prepare(cohort: Cohort, *_: object, **__: object) -> None:
        cohorts_given.append(cohort)
        raise InterruptedError

    monkeypatch.setattr(cluster, "running", contextlib.nullcontext)
    monkeypatch.setattr(cluster, "resources", lambda _: None)
    monkeypatch.setattr(cluster, "check_shared", lambda *_: None)
    monkeypatch.setattr(capacity, "workers_for", lambda *_: None)
    monkeypatch.setattr(datasets, "prepare", prepare)
    return cohorts_given


def test_who_lost_the_file_of_a_task_goes_on_with_what_was_written_down(
    tmp_path: Path, given: list[Cohort], capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, out = str(cohort_of_five(tmp_path / "five", cases=1)), tmp_path / "out"
    calls: tuple[Callable[[], object], ...] = (
        lambda: pipeline.run(pipeline.RunOptions(cohort=cohort, out=str(out), recipe=choice())),
        lambda: datasets.preprocess(
            datasets.PreprocessOptions(cohort=cohort, dataset=str(out / "dataset"), recipe=choice())
        ),
    )
    for task in (None, FIVE):
        if task:
            storage.write_json(f"{out}/dataset/dataset.json", tasks.described(task))
        for call in calls:
            with pytest.raises(InterruptedError):
                call()
            assert [case.task for case in given.pop().cases] == [task]
            said = "labels as in five, by" in capsys.readouterr().err
            assert said == (task is not None)


def test_what_names_tell_comes_before_what_was_written_down(
    one_case: Path, tmp_path: Path, given: list[Cohort]
) -> None:
    storage.write_json(f"{tmp_path}/dataset.json", tasks.described(FIVE))
    with pytest.raises(InterruptedError):
        datasets.preprocess(
            datasets.PreprocessOptions(cohort=str(one_case), dataset=str(tmp_path), recipe=choice())
        )
    (case,) = given.pop().cases
    assert case.task == tasks.TASKS["gli-2020"]
