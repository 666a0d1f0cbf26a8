"""Masks that look like no glioma are told, and those of gliomas are not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from classes import EDEMA, ENHANCING, NECROTIC

from ray_brats.cases import anatomy, cohort, phantom, volume
from ray_brats.cases.anatomy import Outline
from ray_brats.labels import LabelMap
from ray_brats.recipes.tasks import DEFAULT, GLIOMA, TASKS

EXCHANGED = np.array([0, EDEMA, NECROTIC, ENHANCING], np.uint8)
ENHANCING_OUTSIDE = np.array([0, NECROTIC, ENHANCING, EDEMA], np.uint8)
NO_ENHANCING = np.array([0, NECROTIC, EDEMA, NECROTIC], np.uint8)
"""Class index to the one that another project's reading makes of it."""


def outline(index: np.ndarray) -> anatomy.Outline:
    """Of a glioma."""
    return anatomy.outline(index, GLIOMA)


def nested() -> LabelMap:
    """A core of 1 voxel in a rim of 3³ in edema of 5³, beside the border of the array."""
    index = np.zeros((6, 7, 8), np.uint8)
    index[0:5, 1:6, 2:7] = EDEMA
    index[1:4, 2:5, 3:6] = ENHANCING
    index[2, 3, 4] = NECROTIC
    return index


def told(index: LabelMap, count: int = 1, masks: str = "masks") -> list[str]:
    found = {f"case-{number}": outline(index) for number in range(count)}
    return anatomy.warnings(found, masks, TASKS["gli-2020"])


def test_the_border_of_nested_cubes_is_that_on_paper() -> None:
    found = outline(nested())
    assert found.volume_vox == (1, 125 - 27, 26)
    # Of the face at the border of the array nobody knows what lies beyond.
    assert found.outer_vox == (0, 125 - 4 * 3 * 3, 0)
    assert (found.share(EDEMA), found.share(NECROTIC)) == (1, 0)
    assert Outline.from_json(found.as_json()) == found


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 1)])
def test_a_map_without_background_has_no_border(shape: tuple[int, int, int]) -> None:
    for value in (0, NECROTIC):
        found = outline(np.full(shape, value, np.uint8))
        assert found.outer_vox == (0, 0, 0)
        assert found.share(NECROTIC) == 0


def test_the_border_is_the_same_however_the_map_lies_in_memory() -> None:
    index = np.random.default_rng(0).integers(0, 4, (9, 8, 7)).astype(np.uint8)
    expected = outline(index)
    for axes in itertools.permutations(range(3)):
        assert outline(index.transpose(axes)) == expected
        assert outline(np.asfortranarray(index[::-1])) == expected
    padded = np.pad(index, 1)
    by_hand = [0, 0, 0]
    for place in np.argwhere(padded):
        steps = (place + step for step in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int)))
        if any(padded[tuple(step)] == 0 for step in steps):
            by_hand[padded[tuple(place)] - 1] += 1
    assert list(outline(padded).outer_vox) == by_hand


def test_labels_in_another_order_are_told_with_their_integers() -> None:
    assert told(nested()) == []
    (warning,) = told(EXCHANGED[nested()], 3, "references")
    assert warning.startswith(
        "warning: the references look as if label 1 were edema and label 2 necrotic core: "
        "necrotic core lies around the edema in 3 of 3 case(s) that have both (case-0 among them)"
    )
    assert "--task" in warning
    assert "relabel" in warning
    (warning,) = told(ENHANCING_OUTSIDE[nested()])
    assert "label 4 were edema and label 2 enhancing tumour" in warning


def test_more_than_half_of_the_cases_with_both_classes_must_look_so() -> None:
    right, wrong = outline(nested()), outline(EXCHANGED[nested()])
    alone = outline(np.where(nested() == EDEMA, EDEMA, 0).astype(np.uint8))
    found = {"a": right, "b": wrong, "c": alone, "d": alone}
    assert anatomy.warnings(found, "masks", DEFAULT) == []
    (warning,) = anatomy.warnings(found | {"e": wrong}, "masks", DEFAULT)
    assert "in 2 of 3 case(s) that have both (b among them)" in warning


def test_a_core_that_reaches_the_border_beside_its_edema_is_no_warning() -> None:
    """As in many gliomas of low grade: most of the border is the core's."""
    index = np.zeros((40, 40, 40), np.uint8)
    index[5:35, 5:35, 5:35] = NECROTIC
    index[5:35, 5:35, 30:35] = EDEMA
    assert outline(index).share(NECROTIC) > 0.6
    assert told(index) == []


def test_a_region_that_no_mask_has_is_told() -> None:
    nothing = np.zeros((4, 4, 4), np.uint8)
    (warning,) = told(nothing, 2)
    assert "the whole tumour (WT) is empty in the masks of all 2 case(s), case-0 among" in warning
    (warning,) = told(np.where(nested() == EDEMA, EDEMA, 0).astype(np.uint8), 5)
    assert "the tumour core (TC) is empty in the masks of all 5" in warning
    (warning,) = told(NO_ENHANCING[nested()], 5)
    assert "the enhancing tumour (ET) is empty in the masks of all 5" in warning


@pytest.mark.parametrize(("name", "edema"), [("ped", 4), ("gli-post", 2)])
def test_many_masks_without_edema_are_told_of_any_task(name: str, edema: int) -> None:
    """`BraTS-PED-` had other integers in 2023, of which 4 was none: only that shows it."""
    task = TASKS[name]
    index = np.zeros((6, 6, 6), np.uint8)
    index[1:4, 1:4, 1:4] = 1
    found = {f"case-{n}": anatomy.outline(index, task.targets) for n in range(20)}
    (warning,) = anatomy.warnings(found, "masks", task)
    assert "the edema (" in warning
    assert "is empty in the masks of all 20 case(s), case-0 among them" in warning
    assert "--task says what their labels mean" in warning
    few = {case_id: found[case_id] for case_id in [*found][:19]}
    assert anatomy.warnings(few, "masks", task) == []
    index[5, 5, 5] = edema
    assert anatomy.warnings({**found, "x": anatomy.outline(index, task.targets)}, "m", task) == []
    lesions = {case_id: anatomy.outline(index, TASKS["met"].targets) for case_id in found}
    assert anatomy.warnings(lesions, "masks", TASKS["met"]) == []


def test_few_masks_without_enhancing_tumour_are_as_usual() -> None:
    assert told(NO_ENHANCING[nested()], 4) == []
    assert anatomy.warnings({}, "masks", DEFAULT) == []


SHAPES = ((64, 64, 48), (32, 32, 32))


@pytest.fixture(scope="module")
def phantoms() -> dict[str, LabelMap]:
    return {
        f"{shape[0]}-{number}": phantom.make_phantom(number, shape_vox=shape).label
        for shape in SHAPES
        for number in range(1, 13)
    }


def outlines(masks: Mapping[str, LabelMap], table: LabelMap | None = None) -> dict[str, Outline]:
    return {name: outline(mask if table is None else table[mask]) for name, mask in masks.items()}


def test_phantoms_look_like_gliomas_alone_and_together(phantoms: dict[str, LabelMap]) -> None:
    found = outlines(phantoms)
    assert anatomy.warnings(found, "masks", DEFAULT) == []
    for name, item in found.items():
        assert anatomy.warnings({name: item}, "masks", DEFAULT) == []
    (warning,) = anatomy.warnings(outlines(phantoms, EXCHANGED), "masks", DEFAULT)
    assert "label 1 were edema" in warning


@pytest.fixture(scope="module")
def real(real_data: Path) -> dict[str, LabelMap]:
    """Real masks by case, those of low grade marked so."""
    masks = {}
    for folder in ("brats2018", "brats2021"):
        for case in cohort.find(str(real_data / folder)).cases:
            if case.segmentation:
                name = f"{case.grade or ''}/{case.case_id}"
                masks[name] = volume.read_mask(case.segmentation, case.task)
    return masks


def test_real_gliomas_look_so_and_exchanged_ones_do_not(real: dict[str, LabelMap]) -> None:
    """Each alone, all, and those of one grade."""
    right, wrong = outlines(real), outlines(real, EXCHANGED)
    of_grades: list[Callable[[str], bool]] = [
        lambda name: True,
        lambda name: name.startswith("HGG/"),
        lambda name: name.startswith("LGG/"),
        *((lambda name, own=own: name == own) for own in real),
    ]
    for is_in in of_grades:
        chosen = {name: right[name] for name in real if is_in(name)}
        assert chosen
        assert anatomy.warnings(chosen, "masks", DEFAULT) == []
        exchanged = {name: wrong[name] for name in chosen}
        (warning,) = anatomy.warnings(exchanged, "masks", TASKS["gli-2018"])
        assert "label 1 were edema and label 2 necrotic core" in warning
    outside = outlines(real, ENHANCING_OUTSIDE)
    found = [
        bool(anatomy.warnings({name: item}, "masks", DEFAULT)) for name, item in outside.items()
    ]
    assert sum(found) >= 0.95 * len(found)


def test_an_outline_takes_a_few_milliseconds() -> None:
    index = np.zeros((240, 240, 155), np.uint8)
    index[60:180, 50:170, 30:120] = EDEMA
    index[100:140, 90:130, 60:90] = NECROTIC
    seconds = []
    for _ in range(5):
        start = time.process_time()
        outline(index)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.03
