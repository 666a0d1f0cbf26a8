"""The Predictor, with networks made of arithmetic."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from pathlib import Path

import classes
import nibabel as nib
import numpy as np
import pytest
from conftest import file_of
from own_tasks import FIVE
from scipy import ndimage

from ray_brats import labels
from ray_brats.cases import cohort, geometry, preprocess, volume
from ray_brats.errors import CaseRejected, UsageError
from ray_brats.model import windows
from ray_brats.model.predict import Predictor, region_probabilities
from ray_brats.recipes import costs, named
from ray_brats.recipes.config import InferenceConfig, Recipe
from ray_brats.recipes.tasks import GLIOMA

SMOKE = named.get("smoke")


def with_inference(**options: object) -> Recipe:
    inference = dataclasses.replace(SMOKE.inference, **options)  # type: ignore[arg-type]
    return dataclasses.replace(SMOKE, inference=inference)


WHOLE = with_inference(whole_limit_vox=10**9)


def pointwise(batch: np.ndarray) -> np.ndarray:
    """A network without borders: every voxel for itself."""
    return 1 / (1 + np.exp(-np.asarray(batch, np.float32)))


def constant(batch: np.ndarray) -> np.ndarray:
    return np.full(batch.shape, 0.25, np.float32)


IMAGE = np.random.default_rng(0).normal(size=(70, 50, 33, 3)).astype(np.float32)


def test_windows_and_the_whole_pass_agree_on_a_network_without_borders() -> None:
    whole = Predictor([pointwise], WHOLE).probabilities(IMAGE)
    windows = Predictor([pointwise], SMOKE).probabilities(IMAGE)
    np.testing.assert_allclose(windows, whole, atol=1e-6)


def test_a_constant_stays_that_constant() -> None:
    for recipe in (SMOKE, WHOLE, with_inference(tta="flips")):
        np.testing.assert_allclose(
            Predictor([constant], recipe).probabilities(IMAGE), 0.25, rtol=1e-6
        )


def test_flips_change_nothing_for_a_symmetric_network() -> None:
    plain = Predictor([pointwise], SMOKE).probabilities(IMAGE)
    flipped = Predictor([pointwise], with_inference(tta="flips")).probabilities(IMAGE)
    np.testing.assert_allclose(flipped, plain, atol=1e-6)


def test_an_ensemble_is_the_mean() -> None:
    both = Predictor([pointwise, constant], SMOKE).probabilities(IMAGE)
    np.testing.assert_allclose(both, (pointwise(IMAGE) + 0.25) / 2, atol=1e-6)


def test_the_whole_pass_gives_the_network_sides_it_can_divide() -> None:
    seen = []

    def spy(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape)
        return pointwise(batch)

    assert Predictor([spy], WHOLE).probabilities(IMAGE).shape == (70, 50, 33, 3)
    assert all(side % SMOKE.network.divisor_vox == 0 for side in seen[0][1:4])


def test_few_enhancing_voxels_become_necrotic_core() -> None:
    probabilities = np.zeros((4, 4, 4, 3), np.float32)
    probabilities[0, 0, 0] = 1
    for least, expected in ((0, classes.ENHANCING), (2, classes.NECROTIC)):
        recipe = with_inference(min_enhancing_vox=least)
        assert Predictor([constant], recipe).decode(probabilities)[0, 0, 0] == expected


def test_softmax_outputs_are_decoded_by_argmax() -> None:
    index = Predictor([constant], named.get("baseline")).decode(np.eye(4)[None, None, :, :])
    assert index.ravel().tolist() == [0, 1, 2, 3]


def of_five(recipe: Recipe, **inference: object) -> Recipe:
    """The recipe for five classes, of which two lie beside the lesion."""
    changed = dataclasses.replace(recipe.inference, **inference)  # type: ignore[arg-type]
    return dataclasses.replace(recipe, targets=FIVE.targets, inference=changed)


def test_softmax_over_five_classes_is_decoded_by_argmax() -> None:
    recipe = of_five(named.get("baseline"))
    assert len(recipe.outputs) == 6
    predictor = Predictor([constant], recipe)
    probabilities = np.eye(6, dtype=np.float32)[None, None, :, :]
    assert predictor.decode(probabilities).ravel().tolist() == [0, 1, 2, 3, 4, 5]
    regions = region_probabilities(probabilities[0, 0] * 0.5 + 0.1, recipe)
    # LES, SOLID, RIM, CAV, BLOOD of necrosis, swelling, rim, cavity, blood.
    np.testing.assert_allclose(regions[2], [0.8, 0.2, 0.1, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(regions[4], [0.3, 0.2, 0.1, 0.6, 0.1], rtol=1e-5)


@pytest.mark.parametrize("recipe", [SMOKE, named.get("baseline")], ids=["sigmoid", "softmax"])
@pytest.mark.parametrize("least_vox", [0, 20])
def test_no_cavity_lies_in_the_lesion_whatever_a_network_says(
    recipe: Recipe, least_vox: int
) -> None:
    recipe = of_five(recipe, min_component_vox=least_vox)
    rng = np.random.default_rng(1)
    probabilities = rng.random((16, 16, 16, len(recipe.outputs)), np.float32)
    index = Predictor([constant], recipe).decode(probabilities)
    if recipe.network.output == "regions":
        lesion, solid, rim, cavity, blood = np.moveaxis(probabilities >= 0.5, -1, 0)
        plain = np.select(
            [lesion & solid & rim, lesion & solid, lesion, cavity, blood], [3, 1, 2, 4, 5]
        )
    else:
        plain = np.argmax(probabilities, axis=-1)
    assert (index[index > 0] == plain[index > 0]).all()
    if not least_vox:
        assert (index == plain).all()
        return
    # Each of what lies side by side is judged for itself, and nothing else is dropped.
    for classes_of in ((1, 2, 3), (4,), (5,)):
        pieces, count = ndimage.label(np.isin(plain, classes_of), np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        kept = (pieces > 0) & (sizes[pieces] >= least_vox)
        assert (np.isin(index, classes_of) == kept).all()


def test_small_cavities_are_dropped_beside_a_large_lesion_and_not_counted_to_it() -> None:
    probabilities = np.zeros((12, 12, 12, 5), np.float32)
    probabilities[1:4, 1:4, 1:4, 0] = 1
    probabilities[4:6, 1:3, 1:3, 3] = 1
    decode = Predictor([constant], of_five(SMOKE, min_component_vox=9)).decode
    index = decode(probabilities)
    assert (index[1:4, 1:4, 1:4] == 2).all()
    assert np.count_nonzero(index) == 27
    probabilities[2:4, 1:4, 1:4, 0] = 0
    probabilities[6:9, 1:4, 1:4, 3] = 1
    # Nine voxels stay; with the cavity for company, eight would not.
    assert np.count_nonzero(decode(probabilities) == 2) == 9
    probabilities[1, 1, 1, 0] = 0
    assert not (decode(probabilities) == 2).any()


def test_a_segmented_case_has_the_inputs_grid_and_volumes(one_case: Path) -> None:
    (case,) = cohort.find(str(one_case)).cases
    found = Predictor([pointwise], SMOKE).segment(case)
    image = nib.load(file_of(one_case, "flair"))
    assert found.mask_native.shape == image.shape
    prepared = preprocess.preprocess_case(case, SMOKE.preprocess)
    index = labels.from_regions(pointwise(prepared.image_HWDC) >= SMOKE.inference.threshold, GLIOMA)
    index[~prepared.image_HWDC.any(axis=-1)] = labels.BACKGROUND
    assert (found.mask_native == prepared.geometry.to_native(index)).all()
    whole = np.count_nonzero(found.mask_native)
    assert found.region_ml()["WT"] == pytest.approx(whole / 1000)


def test_paths_bytes_and_arrays_give_one_mask(one_case: Path) -> None:
    (case,) = cohort.find(str(one_case)).cases
    predictor = Predictor([pointwise], SMOKE)
    expected = predictor.segment(case).mask_native
    files = {kind: file_of(one_case, kind) for kind in ("t1ce", "t2", "flair")}
    images = {kind: nib.load(path) for kind, path in files.items()}
    for sources in (
        {kind: str(path) for kind, path in files.items()},
        {"t1c": files["t1ce"].read_bytes(), "T2": files["t2"].read_bytes()}
        | {"t2f": files["flair"].read_bytes()},
        {
            kind: volume.from_array(np.asarray(image.dataobj), image.affine)
            for kind, image in images.items()
        },
    ):
        assert (predictor.segment(sources).mask_native == expected).all()


def test_a_modality_that_was_not_given_is_named(one_case: Path) -> None:
    with pytest.raises(CaseRejected, match="flair is missing"):
        Predictor([pointwise], SMOKE).segment(
            {kind: str(file_of(one_case, kind)) for kind in ("t1ce", "t2")}
        )
    with pytest.raises(CaseRejected, match="t2"):
        Predictor([pointwise], SMOKE).segment(
            {"t1ce": str(file_of(one_case, "t1ce")), "flair": str(file_of(one_case, "flair"))}
            | {"t2": b"no NIfTI"}
        )


def smooth_case(mm: tuple[float, float, float]) -> dict[str, volume.Volume]:
    """A brain with a blurred tumour in a box of 48 mm, in voxels of a size."""
    sides = [round(48 / side) for side in mm]
    places = ((np.arange(n) + 0.5) * side - 24 for n, side in zip(sides, mm, strict=True))
    x, y, z = np.meshgrid(*places, indexing="ij")
    brain = x**2 + y**2 + z**2 < 20**2
    tumour = np.exp(-((x - 4) ** 2 + (y + 3) ** 2 + z**2) / 120)
    affine = np.diag([-mm[0], -mm[1], mm[2], 1])
    affine[:3, 3] = -np.diag(affine)[:3] * 24 + np.diag(affine)[:3] / 2
    return {
        kind: volume.from_array(np.where(brain, 100 + x + gain * tumour, 0), affine)
        for kind, gain in (("t1ce", 300), ("t2", 350), ("flair", 400))
    }


@pytest.mark.parametrize("mm", [(2.0, 2.0, 2.0), (1.0, 1.0, 3.0), (0.5, 0.5, 1.0)])
def test_other_voxels_give_the_mask_that_those_of_the_model_give(
    mm: tuple[float, float, float],
) -> None:
    preparing = dataclasses.replace(SMOKE.preprocess, spacing_mm=(1.0, 1.0, 1.0))
    predictor = Predictor([pointwise], dataclasses.replace(WHOLE, preprocess=preparing))
    plain = predictor.segment(smooth_case((1.0, 1.0, 1.0)))
    case = smooth_case(mm)
    found = predictor.segment(case, with_probabilities=True)
    assert found.mask_native.shape == case["t2"].geometry.native_shape
    assert found.regions_native is not None
    assert found.regions_native.shape == (*found.mask_native.shape, 3)
    expected = geometry.with_spacing(plain.geometry, mm).crop(plain.mask_native) > 0
    both = 2 * np.count_nonzero((found.mask_native > 0) & expected)
    assert both / (np.count_nonzero(found.mask_native) + np.count_nonzero(expected)) > 0.93
    for region, ml in plain.region_ml().items():
        assert found.region_ml()[region] == pytest.approx(ml, rel=0.07)


def test_rules_in_voxels_are_meant_for_those_that_the_network_sees() -> None:
    recipe = with_inference(min_component_vox=8, min_enhancing_vox=8)
    probabilities = np.zeros((6, 6, 6, 3), np.float32)
    probabilities[0, 0, :4] = 1
    predictor = Predictor([constant], recipe)
    assert not predictor.decode(probabilities).any()
    found = predictor.decode(probabilities, voxels_each=0.5)
    assert np.count_nonzero(found == classes.ENHANCING) == 4


@pytest.mark.parametrize("recipe", [SMOKE, named.get("baseline")])
def test_probabilities_on_request_lie_on_the_native_grid(one_case: Path, recipe: Recipe) -> None:
    (case,) = cohort.find(str(one_case)).cases
    four = 4 if recipe.network.output == "classes" else 3

    def network(batch: np.ndarray) -> np.ndarray:
        spread = np.stack([pointwise(batch[..., :1])[..., 0]] * four, axis=-1)
        return spread / four if four == 4 else spread * [1, 0.9, 0.8]

    found = Predictor([network], recipe).segment(case, with_probabilities=True)
    assert found.regions_native is not None
    assert found.regions_native.shape == (*found.mask_native.shape, 3)
    whole, core, enhancing = np.moveaxis(found.regions_native, -1, 0)
    assert (enhancing <= core).all()
    assert (core <= whole).all()
    if four == 3:
        assert ((whole >= 0.5) == (found.mask_native > 0)).all()


def test_windows_without_brain_are_skipped_and_change_nothing() -> None:
    image = np.zeros((150, 64, 64, 3), np.float32)
    image[:40, 10:50, 10:50] = IMAGE[:40, :40, :33, :].mean()
    image[10, 20, 30] = 3
    seen = 0

    def lopsided(batch: np.ndarray) -> np.ndarray:
        """Sees its borders and answers 0.6 in the void."""
        nonlocal seen
        seen += len(batch)
        shifted = np.roll(batch, 3, axis=1)
        return np.clip(0.6 + 0.1 * shifted, 0, 1).astype(np.float32)

    skipped = Predictor([lopsided], SMOKE).probabilities(image)
    few, seen = seen, 0
    everything = windows.sliding_window(lopsided, image, SMOKE.inference)
    assert 0 < few < seen
    brain = image.any(axis=-1)
    assert (skipped[brain] == everything[brain]).all()
    assert not skipped[~brain].any()


def test_the_originals_recipe_knows_no_brain_mask() -> None:
    image = np.zeros((128, 128, 128, 3), np.float32)

    def quarter(batch: np.ndarray) -> np.ndarray:
        return np.full((*batch.shape[:4], 4), 0.25, np.float32)

    found = Predictor([quarter], named.get("baseline")).probabilities(image)
    np.testing.assert_allclose(found, 0.25, rtol=1e-6)


def test_windows_pass_side_by_side_and_are_stitched_in_one_order() -> None:
    together, most, lock = 0, 0, threading.Lock()
    slow = itertools.cycle([0.03, 0.0, 0.01])
    # However busy the machine is, the first two are there at once, or nobody goes on.
    first, meeting = iter([True, True]), threading.Barrier(2, timeout=60)

    def spy(batch: np.ndarray) -> np.ndarray:
        nonlocal together, most
        with lock:
            together += 1
            most, pause, waits = max(most, together), next(slow), next(first, False)
        if waits:
            meeting.wait()
        time.sleep(pause)
        with lock:
            together -= 1
        return pointwise(batch)

    many = dataclasses.replace(SMOKE.inference, overlap=0.75)
    alone = windows.sliding_window(pointwise, IMAGE, many)
    beside = windows.sliding_window(spy, IMAGE, many, lanes=2)
    assert most == 2
    assert beside.tobytes() == alone.tobytes()


def test_batches_of_windows_are_bounded_by_memory_and_change_nothing() -> None:
    sizes = []

    def spy(batch: np.ndarray) -> np.ndarray:
        sizes.append(batch.shape)
        return pointwise(batch)

    one = windows.sliding_window(spy, IMAGE, SMOKE.inference, batch=1)
    assert {shape[:4] for shape in sizes} == {(1, *SMOKE.inference.window_vox)}
    across, sizes = len(sizes), []
    many = windows.sliding_window(spy, IMAGE, SMOKE.inference, batch=3)
    assert max(shape[0] for shape in sizes) == min(3, across)
    assert sum(shape[0] for shape in sizes) == across
    assert (one == many).all()
    assert costs.windows_at_once(named.get("baseline")) == 1
    assert costs.lanes_for(named.get("baseline"), 8) == 1
    assert costs.lanes_for(SMOKE, 2) == 2
    assert 1 < costs.windows_at_once(SMOKE) <= costs.MAX_BATCH


def test_small_pieces_of_tumour_are_dropped_before_the_rule_on_enhancing_tumour() -> None:
    probabilities = np.zeros((12, 12, 12, 3), np.float32)
    probabilities[1:3, 1:3, 1:3] = 1
    probabilities[6:11, 6:11, 6:11, 0] = 1
    recipe = with_inference(min_component_vox=9)
    index = Predictor([constant], recipe).decode(probabilities)
    assert not index[:4].any()
    assert (index[6:11, 6:11, 6:11] == classes.EDEMA).all()
    kept = Predictor([constant], with_inference(min_component_vox=8)).decode(probabilities)
    assert (kept[1:3, 1:3, 1:3] == classes.ENHANCING).all()


@pytest.mark.parametrize("wrong", [{"overlap": 1.0}, {"threshold": 0.0}, {"min_component_vox": -1}])
def test_inference_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        InferenceConfig(**wrong)  # type: ignore[arg-type]
