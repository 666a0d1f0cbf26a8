"""The task that a `dataset.json` tells by the names of its labels."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ray_brats.cases import described
from ray_brats.cases.datasetjson import DatasetJson
from ray_brats.errors import UsageError
from ray_brats.recipes.tasks import GLIOMA, TASKS


def told(
    labels: Mapping[str, tuple[int, ...]], order: tuple[int, ...] | None = None, name: str = "Mine"
) -> DatasetJson:
    return DatasetJson(
        uri="set/dataset.json",
        kind="nnunet",
        name=name,
        channel_names=("T1",),
        modalities=("t1",),
        labels=labels,
        regions_class_order=order,
    )


def test_the_decathlons_labels_are_its_task() -> None:
    names = {
        "background": (0,),
        "edema": (1,),
        "non-enhancing tumor": (2,),
        "enhancing tumour": (3,),
    }
    assert described.task_of(told(names)) == TASKS["msd-task01"]


def test_labels_of_a_challenge_are_a_task_with_its_integers() -> None:
    names = {"NCR": (1,), "ED": (2,), "ET": (4,)}
    found = described.task_of(told(names))
    assert found is not None
    assert (found.targets, found.integers) == (GLIOMA, (1, 2, 4))


def test_regions_of_a_glioma_tell_its_classes() -> None:
    names = {
        "background": (0,),
        "whole tumor": (1, 2, 3),
        "tumor core": (2, 3),
        "enhancing tumor": (3,),
    }
    assert described.task_of(told(names, (1, 2, 3))) == TASKS["msd-task01"]


def test_integers_of_a_glioma_that_no_task_has_are_read_all_the_same() -> None:
    found = described.task_of(told({"edema": (9,), "necrosis": (4,), "enhancing": (2,)}))
    assert found is not None
    assert (found.name, found.targets, found.integers) == ("Mine", GLIOMA, (4, 9, 2))


def test_labels_of_other_tasks_of_the_field_are_known_where_one_fits() -> None:
    children = {"ET": (1,), "NET": (2,), "CC": (3,), "ED": (4,)}
    assert described.task_of(told(children)) == TASKS["ped"]
    assert described.task_of(told({"GTV": (1,)})) == TASKS["men-rt"]
    regions = {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "CC": (3,)}
    assert described.task_of(told(regions, (4, 2, 1, 3))) == TASKS["ped"]


@pytest.mark.parametrize(
    "labels",
    [
        {"NETC": (1,), "SNFH": (2,), "ET": (3,), "RC": (4,)},
        {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "RC": (4,)},
    ],
)
def test_labels_of_two_tasks_are_refused_with_both(labels: Mapping[str, tuple[int, ...]]) -> None:
    """A glioma after treatment and metastases have the same labels, and other regions."""
    order = (2, 1, 3, 4) if len(labels["ET"]) < len(next(iter(labels.values()))) else None
    with pytest.raises(UsageError, match=r"json: its labels are those of gli-post and of met: "):
        described.task_of(told(labels, order))


def test_labels_of_two_tasks_with_other_integers_are_a_task_of_the_sets_own() -> None:
    found = described.task_of(told({"NETC": (4,), "SNFH": (2,), "ET": (3,), "RC": (1,)}))
    assert found is not None
    assert found.targets not in {task.targets for task in TASKS.values()}


def test_classes_that_others_call_by_no_word_of_ours_spoil_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(described, "CALLED", {})
    found = described.task_of(told({"ET": (1,)}))
    assert found is not None
    assert found.targets.region_names == ("ET",)


def test_what_nobody_has_judged_is_no_class() -> None:
    found = described.task_of(told({"edema": (2,), "NCR": (1,), "ET": (4,), "ignore": (9,)}))
    assert found is not None
    assert found.integers == (1, 2, 4)


def test_other_labels_are_a_task_of_the_sets_own() -> None:
    found = described.task_of(told({"liver": (1,), "liver tumor": (7,)}))
    assert found is not None
    assert found.integers == (1, 7)
    assert found.targets.class_names == ("background", "liver", "liver tumor")
    assert found.targets.region_names == ("liver", "livertumor")
    assert found.targets.painting == ((1, 0), (2, 0))


def test_other_regions_are_kept_as_they_are() -> None:
    found = described.task_of(told({"all": (1, 2), "inner": (2,)}, (1, 2)))
    assert found is not None
    assert found.targets.painting == ((1, 0), (2, 1))
    assert found.targets.region_names == ("all", "inner")


@pytest.mark.parametrize(
    ("names", "order"),
    [({"all": (1, 2, 3), "inner": (2,)}, (1, 2)), ({"a": (1, 2), "b": (2, 3)}, (1, 2))],
)
def test_regions_that_tell_no_classes_ask_for_a_task(
    names: Mapping[str, tuple[int, ...]], order: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError, match=r"set/dataset\.json: its labels make no task.*--task"):
        described.task_of(told(names, order))


def test_a_description_without_labels_tells_no_task() -> None:
    assert described.task_of(told({})) is None
    assert described.task_of(told({"background": (0,)})) is None


def test_the_names_of_the_field_stay_its_own() -> None:
    found = described.task_of(told({"cyst": (1,)}, name="ped"))
    assert found is not None
    assert found.name == "ped-labels"
