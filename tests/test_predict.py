"""The Predictor, with networks made of arithmetic."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import file_of

from ray_brats import cohort, labels, predict, preprocess, recipes
from ray_brats.config import InferenceConfig, Recipe
from ray_brats.predict import Predictor

SMOKE = recipes.get("smoke")


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
    for least, expected in ((0, labels.ENHANCING), (2, labels.NECROTIC)):
        recipe = with_inference(min_enhancing_vox=least)
        assert Predictor([constant], recipe).decode(probabilities)[0, 0, 0] == expected


def test_softmax_outputs_are_decoded_by_argmax() -> None:
    index = Predictor([constant], recipes.get("baseline")).decode(np.eye(4)[None, None, :, :])
    assert index.ravel().tolist() == [0, 1, 2, 3]


def test_a_segmented_case_has_the_inputs_grid_and_volumes(one_case: Path) -> None:
    (case,) = cohort.find(str(one_case)).cases
    found = Predictor([pointwise], SMOKE).segment(case)
    image = nib.load(file_of(one_case, "flair"))
    assert found.mask_native.shape == image.shape
    prepared = preprocess.preprocess_case(case, SMOKE.preprocess)
    index = labels.from_regions(pointwise(prepared.image_HWDC) >= SMOKE.inference.threshold)
    assert (found.mask_native == prepared.geometry.to_native(index)).all()
    whole = np.count_nonzero(found.mask_native)
    assert found.region_ml()["WT"] == pytest.approx(whole / 1000)


def test_sliding_window_needs_no_more_than_the_window(one_case: Path) -> None:
    assert one_case.exists()
    sides = set()

    def spy(batch: np.ndarray) -> np.ndarray:
        sides.add(batch.shape[1:4])
        return pointwise(batch)

    predict.sliding_window(spy, IMAGE, (32, 32, 32), 0.5)
    assert sides == {(32, 32, 32)}


def test_inference_options_are_checked() -> None:
    with pytest.raises(Exception, match="overlap"):
        InferenceConfig(overlap=1.0)
