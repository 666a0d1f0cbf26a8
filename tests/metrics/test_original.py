"""The original project's figures, from hard masks and from probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from classes import CLASS_COUNT, EDEMA, NECROTIC
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ray_brats.labels import BACKGROUND
from ray_brats.metrics import original

from .masks import QUICK


def test_original_figures_on_paper():
    reference = np.array([BACKGROUND, BACKGROUND, BACKGROUND, EDEMA], np.uint8)
    prediction = np.array([BACKGROUND, BACKGROUND, EDEMA, EDEMA], np.uint8)
    figures = original.original_figures(reference, prediction)
    # Background: 2 of 3 voxels; edema: 1 of 2; the two absent classes count as perfect in the
    # smoothed means and are left out of Keras's.
    assert figures == pytest.approx(
        {
            "accuracy": 0.75,
            "iou_score": (2 / 3 + 1 / 2 + 1 + 1) / 4,
            "mean_iou": (2 / 3 + 1 / 2) / 2,
            "dice_loss": 1 - (4 / 5 + 2 / 3 + 1 + 1) / 4,
            "dice_loss_weighted": 1 - 0.25 * (4 / 5 + 2 / 3 + 1 + 1) / 4,
        },
        abs=1e-5,
    )
    assert tuple(figures) == original.ORIGINAL_FIGURES


def test_soft_figures_on_paper():
    reference = np.array([BACKGROUND, NECROTIC], np.uint8)
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.4, 0.3, 0.1]], np.float32)
    figures = original.original_figures_soft(reference, probabilities)
    assert figures["accuracy"] == 1.0
    # Nothing of the second voxel passes the threshold of 0.5.
    assert figures["iou_score"] == pytest.approx((1 + 0 + 1 + 1) / 4, abs=1e-4)
    assert figures["mean_iou"] == 1.0
    dice = [2 * 0.7 / 1.9, 2 * 0.4 / 1.5, 0.0, 0.0]
    assert figures["dice_loss"] == pytest.approx(1 - sum(dice) / 4, abs=1e-4)
    assert figures["dice_loss_weighted"] == pytest.approx(1 - sum(dice) / 16, abs=1e-4)


@QUICK
@given(
    st.tuples(*[st.integers(1, 5)] * 3).flatmap(
        lambda shape: st.tuples(*[hnp.arrays(np.uint8, shape, elements=st.integers(0, 3))] * 2)
    )
)
def test_hard_and_soft_figures_agree_on_certain_predictions(maps):
    reference, prediction = maps
    expected = original.original_figures(reference, prediction)
    certain = np.eye(CLASS_COUNT, dtype=np.float32)
    for truth in (reference, certain[reference]):
        assert original.original_figures_soft(truth, certain[prediction]) == pytest.approx(expected)
    assert 0.75 <= expected["dice_loss_weighted"] <= 1
    assert expected["dice_loss_weighted"] == pytest.approx(0.75 + 0.25 * expected["dice_loss"])


def test_original_figures_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="shape"):
        original.original_figures(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="not empty"):
        original.original_figures(np.zeros((0,), np.uint8), np.zeros((0,), np.uint8))
    with pytest.raises(ValueError, match="class indices"):
        original.original_figures(np.full((2,), 4, np.uint8), np.zeros((2,), np.uint8))
    with pytest.raises(ValueError, match="probabilities"):
        original.original_figures_soft(np.zeros((2,), np.uint8), np.zeros((2, 3)))


def test_every_figure_has_a_title() -> None:
    assert set(original.ORIGINAL_TITLES) == set(original.ORIGINAL_FIGURES)
