"""Losses against numbers worked out by hand, and their gradients where there is nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from own_tasks import FIVE

from ray_brats.labels import Targets
from ray_brats.metrics import original
from ray_brats.recipes.tasks import GLIOMA

tf = pytest.importorskip("tensorflow")
from ray_brats.model import losses  # noqa: E402 - after TensorFlow is known to be there

pytestmark = pytest.mark.tf


def alone(value: object) -> object:
    """The sum over one replica."""
    return value


def loss_of(name: str, label: Any, probabilities: Any, targets: Targets = GLIOMA) -> Any:
    """The loss and the Dice of one replica."""
    loss = losses.LOSSES[name]
    return loss.of(loss.sums(label, probabilities, targets))


def dice_of(wanted: Any, probabilities: Any) -> Any:
    return losses.dice_of(losses.dice_sums(wanted, probabilities))


def volume(*values: int) -> object:
    return tf.constant(np.array(values, np.uint8).reshape(1, len(values), 1, 1))


def test_region_targets_are_nested() -> None:
    targets = losses.region_targets(volume(0, 1, 2, 3), GLIOMA)
    assert np.asarray(targets).reshape(4, 3).tolist() == [
        [0, 0, 0],
        [1, 1, 0],
        [1, 0, 0],
        [1, 1, 1],
    ]


def test_targets_of_five_classes_lie_beside_each_other() -> None:
    index = volume(0, 1, 2, 3, 4, 5)
    # LES, SOLID, RIM, CAV, BLOOD; FLUID, which lies across them, is scored alone.
    assert np.asarray(losses.region_targets(index, FIVE.targets)).reshape(6, 5).tolist() == [
        [0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    wanted = losses.class_targets(index, FIVE.targets)
    assert np.asarray(wanted).reshape(6, 6).tolist() == np.eye(6).tolist()
    for name, targets in (
        ("dice_focal", wanted),
        ("dice_bce", losses.region_targets(index, FIVE.targets)),
    ):
        good, dice = loss_of(name, index, targets, FIVE.targets)
        assert np.allclose(dice, 1)
        wrong, _ = loss_of(name, index, targets[:, ::-1], FIVE.targets)
        assert float(wrong) > float(good)


def test_dice_of_half_an_overlap() -> None:
    targets = tf.reshape(tf.constant([1.0, 1.0, 0.0, 0.0]), (1, 4, 1, 1, 1))
    found = tf.reshape(tf.constant([1.0, 0.0, 1.0, 0.0]), (1, 4, 1, 1, 1))
    assert float(dice_of(targets, found)[0]) == pytest.approx(0.5, abs=1e-5)


def test_dice_of_nothing_found_where_nothing_is() -> None:
    nothing = tf.zeros((1, 4, 1, 1, 1))
    assert float(dice_of(nothing, nothing)[0]) == 1


def test_focal_of_one_voxel() -> None:
    p = tf.reshape(tf.constant([0.4, 0.3, 0.2, 0.1]), (1, 1, 1, 1, 4))
    expected = -0.25 * (1 - 0.3) ** 2 * math.log(0.3) / 4
    value = tf.reduce_mean(losses.categorical_focal(losses.class_targets(volume(1), GLIOMA), p))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_of_one_voxel() -> None:
    p = tf.reshape(tf.constant([0.9, 0.5, 0.2]), (1, 1, 1, 1, 3))
    expected = -(math.log(0.9) + math.log(0.5) + math.log(0.8)) / 3
    value = tf.reduce_mean(
        losses.binary_crossentropy(losses.region_targets(volume(1), GLIOMA) * 1.0, p)
    )
    # Class 1 is in WT and TC, not in ET.
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_the_weighted_dice_loss_is_the_originals() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (1, 4, 4, 4)).astype(np.uint8)
    p = rng.dirichlet(np.ones(4), (1, 4, 4, 4)).astype(np.float32)
    expected = original.original_figures_soft(label, p)["dice_loss_weighted"]
    focal = tf.reduce_mean(
        losses.categorical_focal(losses.class_targets(tf.constant(label), GLIOMA), p)
    )
    total, dice = loss_of("dice_focal", tf.constant(label), tf.constant(p))
    assert float(total - focal) == pytest.approx(expected, abs=1e-4)
    assert dice.shape == (4,)


def test_sums_of_losses_by_hand() -> None:
    """Two voxels, of background and enhancing tumour, each channel found with one half."""
    label = volume(0, 3)
    bce, dice = loss_of("dice_bce", label, tf.fill((1, 2, 1, 1, 3), 0.5))
    # Dice of each region: 2 · 0.5 / (1 + 1) = 1/2. Cross-entropy: log 2.
    assert dice.numpy() == pytest.approx([0.5] * 3, abs=1e-5)
    assert float(bce) == pytest.approx(0.5 + math.log(2), abs=1e-5)
    focal, dice = loss_of("dice_focal", label, tf.fill((1, 2, 1, 1, 4), 0.5))
    # Background and enhancing 1/2, the two absent classes 0, times 0.25, then the mean of four;
    # two of eight terms are 0.25 · 0.5² · log 2.
    assert dice.numpy() == pytest.approx([0.5, 0, 0, 0.5], abs=1e-4)
    assert float(focal) == pytest.approx(1 - 0.0625 + 0.0625 * math.log(2) / 4, abs=1e-5)


def test_gradients_at_an_empty_region_by_hand() -> None:
    """Four voxels without tumour, all found with one half: down they go, and not by much."""
    nothing = tf.zeros((1, 4, 1, 1, 1))

    def gradient(loss: Callable[[Any], Any]) -> Any:
        p = tf.fill((1, 4, 1, 1, 1), 0.5)
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = loss(p)
        return tape.gradient(value, p).numpy().ravel()

    dice = gradient(lambda p: 1 - dice_of(nothing, p)[0])
    assert dice == pytest.approx([losses.SMOOTH / (2 + losses.SMOOTH) ** 2] * 4, rel=1e-3)
    # d/dp of −log(1 − p) is 2, over four voxels.
    bce = gradient(lambda p: tf.reduce_mean(losses.binary_crossentropy(nothing, p)))
    assert bce == pytest.approx([0.5] * 4, rel=1e-5)
    # The focal loss sees only the true class.
    assert gradient(
        lambda p: tf.reduce_mean(losses.categorical_focal(nothing, p))
    ) == pytest.approx([0] * 4)


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("label", [volume(0, 0, 0, 0), volume(3, 3, 3, 3), volume(0, 1, 2, 3)])
def test_gradients_are_finite_also_where_regions_are_empty(name: str, label: object) -> None:
    channels = 4 if name == "dice_focal" else 3
    for fill in (0.0, 1.0, 0.5):
        p = tf.fill((1, 4, 1, 1, channels), fill)
        with tf.GradientTape() as tape:
            tape.watch(p)
            loss, _ = loss_of(name, label, p)
        assert np.isfinite(float(loss))
        assert np.isfinite(np.asarray(tape.gradient(loss, p))).all()


def test_coarser_outputs_count_less_and_see_every_second_voxel() -> None:
    rng = np.random.default_rng(0)
    label = tf.constant(rng.integers(0, 4, (1, 8, 8, 8)).astype(np.uint8))
    fine, coarse = (tf.constant(rng.random((1, n, n, n, 3)).astype(np.float32)) for n in (8, 4))
    one, dice = loss_of("dice_bce", label, fine)
    other, _ = loss_of("dice_bce", label[:, ::2, ::2, ::2], coarse)
    both, told = losses.supervised("dice_bce", label, [fine, coarse], GLIOMA, alone)
    assert float(both) == pytest.approx((float(one) + 0.5 * float(other)) / 1.5, rel=1e-6)
    assert (told.numpy() == dice.numpy()).all()
    alone_too, _ = losses.supervised("dice_bce", label, [fine], GLIOMA, alone)
    assert float(alone_too) == pytest.approx(float(one), rel=1e-6)
