"""Losses on probabilities, exact for any number of replicas.

Arrays are `(N, H, W, D, K)`. A Dice over the batch is no sum over samples, so every loss is first a
vector of sums over voxels, in which replicas can be added up, and then a function of their totals.
All vectors of a step are one (`supervised`): replicas meet in it once. Every replica then holds
the loss of the global batch, whose gradient is the sum over replicas of what each has of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ray_brats.labels import Targets
from ray_brats.metrics.original import CLASS_WEIGHT, SMOOTH

Tensor = Any
AllSum = Callable[[Tensor], Tensor]


def sum_over_replicas(value: Tensor) -> Tensor:
    """Sum over all replicas of the strategy in force."""
    context = tf.distribute.get_replica_context()
    # identity: a collective needs a tensor made on this replica's device, not a bare argument.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def shared_total(value: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Sum over all replicas, whose gradient flows to this one's own share alone.

    Each replica's gradients are its part of those of the whole, to be summed once, at the end.
    """
    return sum_over_replicas(value), lambda upstream: upstream


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


def dice_sums(wanted: Tensor, probabilities: Tensor) -> Tensor:
    """Of each channel Σ t·p, then of each Σ t + Σ p: `(2 K,)`."""
    axes = (0, 1, 2, 3)
    overlap = tf.reduce_sum(wanted * probabilities, axes)
    total = tf.reduce_sum(wanted, axes) + tf.reduce_sum(probabilities, axes)
    return tf.concat([overlap, total], 0)


def dice_of(sums: Tensor) -> Tensor:
    """Soft Dice of each channel, shape `(K,)`, from `dice_sums`.

    (2 Σ t·p + ε) / (Σ t + Σ p + ε), the soft form of Milletari et al. 2016 with plain sums, as
    in segmentation_models_3D. Empty target and empty output give 1.
    """
    overlap, total = tf.split(sums, 2)
    return (2.0 * overlap + SMOOTH) / (total + SMOOTH)


def categorical_focal(wanted: Tensor, probabilities: Tensor) -> Tensor:
    """−α t (1 − p)^γ log p, α 0.25, γ 2 (Lin et al. 2017)."""
    p = tf.clip_by_value(probabilities, 1e-7, 1.0 - 1e-7)
    return -0.25 * wanted * tf.square(1.0 - p) * tf.math.log(p)


def binary_crossentropy(wanted: Tensor, probabilities: Tensor) -> Tensor:
    """−t log p − (1 − t) log(1 − p)."""
    p = tf.clip_by_value(probabilities, 1e-6, 1.0 - 1e-6)
    return -wanted * tf.math.log(p) - (1.0 - wanted) * tf.math.log(1.0 - p)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A Dice and a mean over voxels and channels, as sums that replicas can add up."""

    wanted: Callable[[Tensor, Targets], Tensor]
    """What a class-index map asks of each channel."""
    terms: Callable[[Tensor, Tensor], Tensor]
    """Of what is wanted and found in each voxel and channel; their mean is part of the loss."""
    value: Callable[[Tensor, Tensor], Tensor]
    """The loss of the Dice of each channel and that mean."""

    def sums(self, label: Tensor, probabilities: Tensor, targets: Targets) -> Tensor:
        """`(2 K + 2,)`: `dice_sums`, then the sum and the number of the terms."""
        wanted = self.wanted(label, targets)
        terms = self.terms(wanted, probabilities)
        mean = tf.stack([tf.reduce_sum(terms), tf.cast(tf.size(terms), tf.float32)])
        return tf.concat([dice_sums(wanted, probabilities), mean], 0)

    def of(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the soft Dice of each channel, `(K,)`."""
        dice = dice_of(sums[:-2])
        return self.value(dice, sums[-2] / sums[-1]), dice


LOSSES = {
    # The original project's: 1 − mean(0.25 · Dice of each class) + focal.
    "dice_focal": Loss(
        wanted=class_targets,
        terms=categorical_focal,
        value=lambda dice, focal: 1.0 - tf.reduce_mean(CLASS_WEIGHT * dice) + focal,
    ),
    # 1 − mean Dice of the learnt regions, plus binary cross-entropy.
    "dice_bce": Loss(
        wanted=region_targets,
        terms=binary_crossentropy,
        value=lambda dice, entropy: 1.0 - tf.reduce_mean(dice) + entropy,
    ),
}


def sums_of(name: str, label: Tensor, outputs: Sequence[Tensor], targets: Targets) -> Tensor:
    """The sums of the full-resolution output and of the coarser ones, one after the other.

    The labels of a coarser one are every f-th voxel, f the ratio of the sizes.
    """
    sums = []
    for probabilities in outputs:
        factor = tf.shape(label)[1] // tf.shape(probabilities)[1]
        coarse = label[:, ::factor, ::factor, ::factor]
        sums.append(LOSSES[name].sums(coarse, probabilities, targets))
    return tf.concat(sums, 0)


def supervised(
    name: str, label: Tensor, outputs: Sequence[Tensor], targets: Targets, all_sum: AllSum
) -> tuple[Tensor, Tensor]:
    """A loss over the full-resolution output and the coarser ones that are supervised too.

    Level k counts 2^−k, all weights summing to one (Isensee et al. 2021). The Dice is that of the
    full resolution. `all_sum` makes of this replica's `sums_of` those of the whole batch.
    """
    loss = LOSSES[name]
    sums = all_sum(sums_of(name, label, outputs, targets))
    total, weights, dice = 0.0, 0.0, None
    for level, share in enumerate(tf.split(sums, len(outputs))):
        value, score = loss.of(share)
        dice = score if dice is None else dice
        total += value * 0.5**level
        weights += 0.5**level
    return total / weights, dice
