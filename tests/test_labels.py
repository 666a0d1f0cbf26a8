"""Labels: integers and class indices, regions and how they are painted, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from classes import EDEMA, ENHANCING, NECROTIC
from hypothesis import given
from hypothesis import strategies as st

from ray_brats import labels
from ray_brats.errors import UsageError
from ray_brats.labels import Region, Targets, Task, TumourClass
from ray_brats.recipes import tasks
from ray_brats.recipes.tasks import CHILDREN, GLIOMA, TASKS, TREATED_GLIOMA

ALL_TARGETS = sorted({task.targets for task in TASKS.values()}, key=repr)


@pytest.mark.parametrize("name", TASKS)
def test_class_indices_survive_a_round_trip_through_every_task(name: str) -> None:
    task = TASKS[name]
    index = np.arange(task.targets.class_count, dtype=np.uint8)
    raw = labels.from_class_index(index, task)
    assert labels.to_class_index(raw, task).tolist() == index.tolist()
    assert set(raw.tolist()) == {0, *task.integers}


def test_enhancing_is_4_until_2021_and_3_from_2023() -> None:
    enhancing = np.array([ENHANCING])
    assert labels.from_class_index(enhancing, TASKS["gli-2021"]).tolist() == [4]
    assert labels.from_class_index(enhancing, TASKS["gli-2023"]).tolist() == [3]


def test_label_1_of_the_decathlon_is_edema() -> None:
    raw = np.array([1, 2, 3])
    index = labels.to_class_index(raw, TASKS["msd-task01"]).tolist()
    assert index == [EDEMA, NECROTIC, ENHANCING]


def test_label_1_of_children_enhances() -> None:
    index = labels.to_class_index(np.array([1, 2, 3, 4]), TASKS["ped"])
    enhancing = CHILDREN.region("ET").classes
    assert labels.mask_of(index, enhancing).tolist() == [True, False, False, False]
    assert TASKS["ped"].legend["1"] == "enhancing tumour"


def test_the_cavity_is_a_class_of_its_own_and_no_tumour() -> None:
    index = labels.to_class_index(np.array([4]), TASKS["gli-post"])
    inside = {r.name for r in TREATED_GLIOMA.regions if labels.mask_of(index, r.classes)[0]}
    assert inside == {"RC"}


def test_a_label_that_a_task_lacks_is_named_with_those_that_it_has() -> None:
    with pytest.raises(
        labels.UnknownLabelsError, match=r"label 4, but gli-2023 .* only 0, 1, 2, 3"
    ):
        labels.to_class_index(np.array([0, 4]), TASKS["gli-2023"])


def test_raw_3_is_enhancing_only_by_the_original_projects_rule() -> None:
    raw, task = np.array([3]), TASKS["gli-2020"]
    assert labels.to_class_index(raw, task, raw_3_is_enhancing=True)[0] == ENHANCING
    with pytest.raises(labels.UnknownLabelsError, match="label 3"):
        labels.to_class_index(raw, task)
    # Where the task defines it, it means what the task says.
    assert labels.to_class_index(raw, TASKS["ped"], raw_3_is_enhancing=True)[0] == 3


def test_whole_numbers_that_scaling_left_a_little_off_are_labels() -> None:
    """As nibabel reads back a float array that it scaled to fit a header's int16."""
    raw = np.array([0, 1.0000076, 1.9999543, 4.0])
    assert labels.to_class_index(raw, TASKS["gli-2021"]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [0.5, 1.02, float("nan"), -1.0, 300.0, 7.0])
def test_values_no_task_defines_are_refused(value: float) -> None:
    with pytest.raises(labels.UnknownLabelsError):
        labels.to_class_index(np.array([0.0, value]), TASKS["gli-2021"])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_decoded_regions_of_gliomas_are_nested(masks: list[tuple[bool, bool, bool]]) -> None:
    index = labels.from_regions(np.array(masks), GLIOMA)
    whole, core, enhancing = (labels.mask_of(index, r.classes) for r in GLIOMA.regions)
    assert not (enhancing & ~core).any()
    assert not (core & ~whole).any()
    assert (whole == np.array(masks)[:, 0]).all()


@given(st.data())
def test_painting_keeps_to_the_regions_of_every_task(data: st.DataObject) -> None:
    targets = data.draw(st.sampled_from(ALL_TARGETS))
    count = len(targets.learnt)
    rows = data.draw(
        st.lists(st.lists(st.booleans(), min_size=count, max_size=count), min_size=1, max_size=9)
    )
    wanted = np.array(rows)
    index = labels.from_regions(wanted, targets)
    assert index.max(initial=0) <= len(targets.classes)
    painted = [labels.mask_of(index, region.classes) for region in targets.learnt]
    for number, mask in enumerate(painted):
        # Nothing is painted that was not asked for.
        assert not (mask & ~wanted[:, number]).any()


@pytest.mark.parametrize("targets", ALL_TARGETS, ids=lambda t: "-".join(t.region_names))
def test_painting_undoes_the_regions_of_a_mask(targets: Targets) -> None:
    index = np.arange(targets.class_count, dtype=np.uint8)
    masks = np.stack([labels.mask_of(index, r.classes) for r in targets.learnt], axis=-1)
    assert labels.from_regions(masks, targets).tolist() == index.tolist()


def test_a_voxel_of_tumour_and_cavity_is_tumour() -> None:
    # WT, TC, ET, RC.
    masks = np.array([[True, False, False, True], [False, True, True, True]])
    assert labels.from_regions(masks, TREATED_GLIOMA).tolist() == [EDEMA, 4]


def test_of_regions_that_exclude_each_other_the_first_wins() -> None:
    # WT, TC, ET, CC: enhancing tumour comes before the cyst.
    masks = np.array([[True, True, True, True], [True, True, False, True]])
    names = [CHILDREN.class_names[i] for i in labels.from_regions(masks, CHILDREN)]
    assert names == ["enhancing tumour", "cystic component"]


def make(*regions: tuple[str, tuple[int, ...]], classes: int = 3) -> Targets:
    return Targets(
        classes=tuple(TumourClass(name=f"c{k}", colour="#000000") for k in range(1, classes + 1)),
        regions=tuple(Region(name=name, title=name, classes=own) for name, own in regions),
    )


@pytest.mark.parametrize(
    ("regions", "sentence"),
    [
        ([("A", (1, 2)), ("B", (2, 3))], "neither within A nor apart from it"),
        ([("A", (1, 2, 3)), ("B", (1,))], "leaves c2, c3 beside the regions in it"),
        ([("A", (1,)), ("B", (2,))], "no learnt region tells c3"),
        ([("A", (1,)), ("A", (2,)), ("C", (3,))], "'A' is there twice"),
        ([("A", ()), ("B", (1, 2, 3))], "region A joins no class"),
        ([("A", (4,))], "or one that is none"),
        ([("a b", (1,))], "letters and digits"),
        ([("B", (1,)), ("A", (1, 2)), ("C", (3,))], "expected the wider of two learnt regions"),
    ],
)
def test_regions_that_tell_no_classes_are_refused(
    regions: list[tuple[str, tuple[int, ...]]], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        make(*regions)


def test_a_task_has_an_integer_for_each_class() -> None:
    with pytest.raises(UsageError, match="one integer for each class"):
        Task(name="t", targets=GLIOMA, integers=(1, 2))
    with pytest.raises(UsageError, match="integer 2 stands for two classes"):
        Task(name="t", targets=GLIOMA, integers=(1, 2, 2))
    with pytest.raises(UsageError, match="integer 0: expected 1 to 255"):
        Task(name="t", targets=GLIOMA, integers=(0, 1, 2))


def test_errors_and_tasks_travel_between_processes() -> None:
    import pickle

    error = labels.UnknownLabelsError("why", [4.0])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.values) == ("why", (4.0,))
    fault = labels.TaskError("why", ("classes", 2))
    told = pickle.loads(pickle.dumps(fault))
    assert (str(told), told.place) == ("why", ("classes", 2))
    task = dataclasses.replace(tasks.TASKS["ped"], name="other")
    assert task.targets.painting
    assert pickle.loads(pickle.dumps(task)) == task
