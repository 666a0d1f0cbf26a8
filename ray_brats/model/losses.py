"""Losses on probabilities, exact for any number of replicas.

Arrays are `(N, H, W, D, K)`. A Dice over the batch is no sum over samples, so its numerators
and denominators are first summed over all replicas by `all_sum`, which is differentiable
under a TensorFlow strategy; every replica then holds the loss of the global batch. With
gradients summed over replicas, divide the loss by their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ray_brats.labels import Targets
from ray_brats.metrics.original import CLASS_WEIGHT, SMOOTH

Tensor = Any
AllSum = Callable[[Tensor], Tensor]


def sum_over_replicas(value: Tensor) -> Tensor:
    """Sum over all replicas of the strategy in force; the gradient flows to each of them."""
    context = tf.distribute.get_replica_context()
    # identity: a collective needs a tensor made on this replica's device, not a bare argument.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def class_targets(label: Tensor, targets: Targets) -> Tensor:
    """One-hot classes of a class-index map `(N, H, W, D)`: `(N, H, W, D, K)` float32."""
    return tf.one_hot(tf.cast(label, tf.int32), targets.class_count)


def region_targets(label: Tensor, targets: Targets) -> Tensor:
    """The learnt regions of a class-index map `(N, H, W, D)`: `(N, H, W, D, K)` float32."""
    masks = []
    for region in targets.learnt:
        hits = [tf.equal(label, tf.cast(index, label.dtype)) for index in region.classes]
        masks.append(tf.reduce_any(tf.stack(hits), axis=0))
    return tf.cast(tf.stack(masks, axis=-1), tf.float32)


def dice_per_channel(targets: Tensor, probabilities: Tensor, all_sum: AllSum) -> Tensor:
    """Soft Dice of each channel over the global batch, shape `(K,)`.

    (2 Σ t·p + ε) / (Σ t + Σ p + ε), the soft form of Milletari et al. 2016 with plain sums, as
    in segmentation_models_3D. Empty target and empty output give 1.
    """
    axes = (0, 1, 2, 3)
    overlap = tf.reduce_sum(targets * probabilities, axes)
    total = tf.reduce_sum(targets, axes) + tf.reduce_sum(probabilities, axes)
    overlap, total = tf.unstack(all_sum(tf.stack([overlap, total])))
    return (2.0 * overlap + SMOOTH) / (total + SMOOTH)


def categorical_focal(targets: Tensor, probabilities: Tensor, all_sum: AllSum) -> Tensor:
    """Mean of −α t (1 − p)^γ log p over voxels and classes, α 0.25, γ 2 (Lin et al. 2017)."""
    p = tf.clip_by_value(probabilities, 1e-7, 1.0 - 1e-7)
    return _global_mean(-0.25 * targets * tf.square(1.0 - p) * tf.math.log(p), all_sum)


def binary_crossentropy(targets: Tensor, probabilities: Tensor, all_sum: AllSum) -> Tensor:
    """Mean of −t log p − (1 − t) log(1 − p) over voxels and channels."""
    p = tf.clip_by_value(probabilities, 1e-6, 1.0 - 1e-6)
    terms = -targets * tf.math.log(p) - (1.0 - targets) * tf.math.log(1.0 - p)
    return _global_mean(terms, all_sum)


def _global_mean(terms: Tensor, all_sum: AllSum) -> Tensor:
    local = tf.stack([tf.reduce_sum(terms), tf.cast(tf.size(terms), tf.float32)])
    total, count = tf.unstack(all_sum(local))
    return total / count


def dice_focal(
    label: Tensor, probabilities: Tensor, targets: Targets, all_sum: AllSum
) -> tuple[Tensor, Tensor]:
    """The original project's loss: 1 − mean(0.25 · Dice of each class) + focal."""
    wanted = class_targets(label, targets)
    dice = dice_per_channel(wanted, probabilities, all_sum)
    weighted = 1.0 - tf.reduce_mean(CLASS_WEIGHT * dice)
    return weighted + categorical_focal(wanted, probabilities, all_sum), dice


def dice_bce(
    label: Tensor, probabilities: Tensor, targets: Targets, all_sum: AllSum
) -> tuple[Tensor, Tensor]:
    """1 − mean Dice of the learnt regions over the global batch, plus binary cross-entropy."""
    wanted = region_targets(label, targets)
    dice = dice_per_channel(wanted, probabilities, all_sum)
    loss = 1.0 - tf.reduce_mean(dice) + binary_crossentropy(wanted, probabilities, all_sum)
    return loss, dice


LOSSES: dict[str, Callable[[Tensor, Tensor, Targets, AllSum], tuple[Tensor, Tensor]]] = {
    "dice_focal": dice_focal,
    "dice_bce": dice_bce,
}
"""Each gives the loss of the global batch and its soft Dice per channel, `(K,)`."""


def supervised(
    name: str, label: Tensor, outputs: Sequence[Tensor], targets: Targets, all_sum: AllSum
) -> tuple[Tensor, Tensor]:
    """A loss over the full-resolution output and the coarser ones that are supervised too.

    Level k counts 2^−k, all weights summing to one (Isensee et al. 2021); its labels are every
    f-th voxel, f the ratio of the sizes. The Dice is that of the full resolution.
    """
    total, weights, dice = 0.0, 0.0, None
    for level, probabilities in enumerate(outputs):
        factor = tf.shape(label)[1] // tf.shape(probabilities)[1]
        coarse = label[:, ::factor, ::factor, ::factor]
        loss, score = LOSSES[name](coarse, probabilities, targets, all_sum)
        dice = score if dice is None else dice
        total += loss * 0.5**level
        weights += 0.5**level
    return total / weights, dice
