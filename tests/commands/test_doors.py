"""A bundle of another task than the cohort's is refused at every door, before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import touch
from serve_doubles import SERVED, SMOKE, predictor

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import phantom
from ray_brats.cases.case import Cohort
from ray_brats.commands import case, masks, pipeline
from ray_brats.commands.arguments import Selection
from ray_brats.commands.case import SegmentOptions
from ray_brats.commands.masks import ScoreOptions
from ray_brats.commands.pipeline import RunOptions
from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.model import card
from ray_brats.recipes.tasks import TASKS
from ray_brats.stages import remote

SHAPE_VOX = (32, 32, 24)
NEEDED = (
    r"segments WT, TC, ET of necrotic core.*, but the task ped has WT, TC, ET, NET, CC, ED of "
    r".*: expected a bundle that was trained on cases of ped"
)


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a cluster nor a network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this is refused before anything starts")

    monkeypatch.setattr(cluster, "running", refuse)
    monkeypatch.setattr(case, "_predictor", refuse)


@pytest.fixture
def starter() -> None:
    """The bundle of these tests, of gliomas before treatment."""
    if not (Path(card.place(card.STARTER)) / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")


@pytest.fixture
def children(tmp_path: Path) -> Path:
    phantom.write_cohort(tmp_path / "ped", cases=1, shape_vox=SHAPE_VOX, task=TASKS["ped"])
    return tmp_path / "ped"


def played() -> remote.Remote:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing is to be uploaded")

    return remote.Remote(
        client=httpx.Client(base_url="http://played", transport=httpx.MockTransport(refuse)),
        model="default",
        task=TASKS["gli-2020"],
        integers={"gli-2020": TASKS["gli-2020"].integers},
        recipe=SMOKE,
        identity=SERVED.card["identity"],
    )


def named_files(folder: Path) -> dict[str, str]:
    (found,) = cohorts.find(str(folder)).cases
    return dict(found.images)


Door = Callable[[Path, Path], object]


@pytest.mark.usefixtures("starter")
@pytest.mark.parametrize(
    "door",
    [
        lambda cohort, out: masks.score(ScoreOptions(cohort=str(cohort), predictions=str(out))),
        lambda cohort, out: masks.score(
            ScoreOptions(cohort=str(cohort), predictions=str(out), flat=True)
        ),
        lambda cohort, out: case.segment(
            SegmentOptions(folder=str(cohort), out=str(out / "mask.nii.gz"))
        ),
        lambda cohort, out: case.segment(
            SegmentOptions(**named_files(cohort), out=str(out / "mask.nii.gz"))
        ),
        lambda cohort, out: remote.score_through(played(), cohorts.find(str(cohort)), str(out)),
        lambda cohort, _: predictor().segment(cohorts.find(str(cohort)).cases[0]),
    ],
    ids=["score", "flat", "segment a folder", "segment files", "endpoint", "python"],
)
def test_cases_of_another_task_are_refused(door: Door, children: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=NEEDED):
        door(children, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("starter")
@pytest.mark.parametrize(
    "told", [{"score.json": {"task": "msd-task01"}}, {"begun.json": {"tasks": ["msd-task01"]}}]
)
@pytest.mark.parametrize(
    "door",
    [
        lambda cohort, out: masks.score(
            ScoreOptions(cohort=str(cohort), predictions=str(out), flat=True)
        ),
        lambda cohort, out: case.segment(
            SegmentOptions(folder=str(cohort / "BraTS20_Training_001"), out=f"{out}/mask.nii.gz")
        ),
        lambda cohort, out: remote.score_through(played(), cohorts.find(str(cohort)), str(out)),
        lambda cohort, out: pipeline.run(RunOptions(cohort=str(cohort), out=str(out.parent))),
    ],
    ids=["flat", "segment", "endpoint", "run"],
)
def test_masks_do_not_come_among_those_of_other_integers(
    door: Door, told: dict[str, Any], cohort_folder: Path, tmp_path: Path
) -> None:
    """Equal classes, but 1 is edema there and 4 none: they would be read as what they are not."""
    out = tmp_path / "predictions"
    for name, content in told.items():
        storage.write_json(str(out / name), content)
    touch(out, "another.nii.gz")
    with pytest.raises(UsageError, match=r"holds masks of the task msd-task01 .*another folder"):
        door(cohort_folder, out)
    assert sorted(path.name for path in out.iterdir()) == ["another.nii.gz", *told]


@pytest.mark.usefixtures("starter")
def test_a_task_that_is_asked_for_counts_as_the_cases_own(
    cohort_folder: Path, tmp_path: Path
) -> None:
    selection = Selection(task="ped")
    out = str(tmp_path / "out")
    with pytest.raises(UsageError, match=NEEDED):
        masks.score(ScoreOptions(cohort=str(cohort_folder), predictions=out, selection=selection))
    with pytest.raises(UsageError, match=NEEDED):
        remote.score_through(played(), cohorts.find(str(cohort_folder)), out, task=TASKS["ped"])


def of_two_tasks(folder: Path) -> Cohort:
    """A cohort whose names leave open whether it was treated."""
    phantom.write_cohort(folder, cases=1, shape_vox=SHAPE_VOX, task=TASKS["gli-2023"])
    found = cohorts.find(str(folder))
    assert found.possible_tasks() == ("gli-2023", "gli-post")
    return found


def test_names_that_leave_open_only_other_tasks_are_refused_in_python_too(tmp_path: Path) -> None:
    (of_glioma,) = of_two_tasks(tmp_path / "gli").cases
    children = predictor()
    children.recipe = dataclasses.replace(SMOKE, targets=TASKS["ped"].targets)
    children.task = TASKS["ped"]
    with pytest.raises(UsageError, match=r"gli-2023 or gli-post by their names.* has learnt ped"):
        children.segment(of_glioma)
    assert predictor().segment(of_glioma).targets == TASKS["gli-2023"].targets
