"""Random changes of patches, inside the TensorFlow graph: of tumour, place and intensity.

Everything random follows from a sample's key (seed, index in the global stream), so that any
step can be replayed by any number of workers. Zoom and blur are linear along each axis: a
matrix for each of the three, hence matrix products, which are what a core does fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from ray_brats.arrays import Shape
from ray_brats.labels import Targets
from ray_brats.model.losses import region_targets
from ray_brats.recipes.config import AUGMENTATIONS, TrainConfig
from ray_brats.training.samples import ZOOM_RANGE
from ray_brats.training.tumour import STEPS_A_VOXEL

Tensor = Any

TUMOUR_DEVIATION = 0.4
"""Deviation of what is added to a region in a channel; z-scores have deviation 1."""
NOISE_DEVIATION = 0.1
"""The largest deviation of noise, in the image's units."""
BLUR_SIGMA_VOX = (0.5, 1.0)
"""Range of the smoothing Gaussian's deviation."""
GAMMA_RANGE = (0.7, 1.5)
"""Range of the exponent of intensities."""


def augment(
    batch: Mapping[str, Tensor], train: TrainConfig, targets: Targets
) -> tuple[Tensor, Tensor]:
    """Change a batch at random; the same keys give the same result.

    Args:
        batch: tensors of the names, shapes and meaning of `batches.Batch`: `image`, of patches or
            wider, whose zeros are background and stay so, `label` and `keys`; `donors`, if any,
            with those of `batches.Donors`.
        train: how often what happens.
        targets: what the labels are.

    Returns:
        Image (float32) and label, of `train.patch_vox`.
    """
    images, labels = [], []
    for number in range(train.batch_per_worker):
        patch, mask, key = (batch[name][number] for name in ("image", "label", "keys"))
        if "donors" in batch:
            patch, mask = _given(patch, mask, number, batch["donors"])
        patch = tf.cast(patch, tf.float32)
        if train.tumour_probability > 0:
            patch = _retoned(patch, mask, key, train, targets)
        if train.zoom_probability > 0:
            patch, mask = _zoomed(patch, mask, key, train)
        if train.flip:
            coins = tf.random.stateless_uniform((3,), key) < 0.5
            for axis in range(3):
                patch = tf.where(coins[axis], tf.reverse(patch, [axis]), patch)
                mask = tf.where(coins[axis], tf.reverse(mask, [axis]), mask)
        images.append(_intensities(patch, key, train))
        labels.append(mask)
    return tf.stack(images), tf.stack(labels)


def _intensities(image: Tensor, key: Tensor, train: TrainConfig) -> Tensor:
    brain = tf.cast(tf.not_equal(image, 0.0), tf.float32)
    if train.noise_probability > 0:
        image = _sometimes("noise", key, train, lambda own: _noisy(image, own) * brain, image)
    if train.blur_probability > 0:
        sharp = image
        image = _sometimes("blur", key, train, lambda own: _blurred(sharp, own) * brain, sharp)
    if train.intensity_jitter > 0:
        draws = tf.random.stateless_normal((2, image.shape[-1]), key + 1)
        draws = draws * train.intensity_jitter
        image = (image * (1.0 + draws[0]) + draws[1]) * brain
    if train.gamma_probability > 0:
        linear = image
        image = _sometimes("gamma", key, train, lambda own: _powered(linear, brain, own), linear)
    return image


def _sometimes(
    kind: str, key: Tensor, train: TrainConfig, change: Callable[[Tensor], Any], unchanged: Any
) -> Any:
    """`change(key of its own)` with the configured probability, else what it was."""
    # A key for each kind, so that none moves with another or with the flips.
    own = tf.random.experimental.stateless_fold_in(key, 1 + AUGMENTATIONS.index(kind))
    probability = getattr(train, f"{kind}_probability")
    happens = tf.random.stateless_uniform((), own) < probability
    return tf.cond(happens, lambda: change(own + 1), lambda: unchanged)


# --- another case's tumour ---------------------------------------------------------------


def _given(
    image: Tensor, label: Tensor, number: int, donors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The patch of a sample of the batch, with the tumour that it is given, if any."""
    own = tf.where(tf.equal(donors["receiver"], number))[:, 0]

    def change() -> tuple[Tensor, Tensor]:
        parts = (donors[name][own[0]] for name in ("image", "label", "distance", "reach"))
        return carved(image, label, *parts)

    return tf.cond(tf.size(own) > 0, change, lambda: (image, label))  # type: ignore[no-any-return]


def carved(
    image: Tensor,
    label: Tensor,
    donor_image: Tensor,
    donor_label: Tensor,
    distance: Tensor,
    reach: Tensor,
) -> tuple[Tensor, Tensor]:
    """A patch with the tumour of another patch, where both show brain (Zhang et al. 2021).

    Args:
        image: the patch that receives, `(H, W, D, C)`; zeros are background.
        label: its class indices, `(H, W, D)`.
        donor_image: the patch that gives, as large.
        donor_label: its class indices; without any, nothing changes.
        distance: of each of its voxels from the tumour's border, as `tumour.signed_distance`.
        reach: how far from that border the surface runs, as `samples.draw_reach`.
    """
    steps = tf.cast(distance, tf.float32)
    # A border that lies outside of the patch is no farther than the patch is wide.
    widest = float(STEPS_A_VOXEL * max(image.shape[:3]))
    deepest = tf.clip_by_value(-tf.reduce_min(steps), 0.0, widest)
    taken = tf.logical_and(steps <= reach * deepest, tf.reduce_any(tf.not_equal(donor_label, 0)))
    for scan in (image, donor_image):
        taken = tf.logical_and(taken, tf.reduce_any(tf.not_equal(scan, 0), axis=-1))
    return tf.where(taken[..., None], donor_image, image), tf.where(taken, donor_label, label)


# --- tumour ----------------------------------------------------------------------------


def _retoned(
    image: Tensor, label: Tensor, key: Tensor, train: TrainConfig, targets: Targets
) -> Tensor:
    """The patch, or the patch with its regions each brighter or darker in each channel.

    How much a tumour enhances, and how bright its edema is, differs from patient to patient by
    more than a few cases show.
    """

    def change(own: Tensor) -> Tensor:
        shape = (len(targets.learnt), image.shape[-1])
        offsets = TUMOUR_DEVIATION * tf.random.stateless_normal(shape, own)
        # Mean of the 27 neighbours: a step exactly at the border would give it away.
        soft = tf.nn.avg_pool3d(region_targets(label[None], targets), 3, 1, "SAME")[0]
        brain = tf.cast(tf.not_equal(image, 0.0), tf.float32)
        return image + tf.tensordot(soft, offsets, 1) * brain

    return _sometimes("tumour", key, train, change, image)


# --- zoom ------------------------------------------------------------------------------


def _zoomed(image: Tensor, label: Tensor, key: Tensor, train: TrainConfig) -> tuple[Tensor, Tensor]:
    """The patch at the centre, magnified about its own centre or as it is."""
    patch = train.patch_vox
    starts = [(side - n) // 2 for side, n in zip(image.shape[:3], patch, strict=True)]
    plain = tf.slice(image, [*starts, 0], [*patch, -1]), tf.slice(label, starts, patch)

    def change(own: Tensor) -> tuple[Tensor, Tensor]:
        return magnified(image, label, tf.random.stateless_uniform((), own, *ZOOM_RANGE), patch)

    zoomed, mask = _sometimes("zoom", key, train, change, plain)
    return tf.ensure_shape(zoomed, (*patch, image.shape[-1])), tf.ensure_shape(mask, patch)


def magnified(
    image: Tensor, label: Tensor, factor: Tensor, patch_vox: Shape
) -> tuple[Tensor, Tensor]:
    """The centre of an image and its label, with everything `factor` times as large.

    Args:
        image: `(H, W, D, C)` float32, interpolated trilinearly; what is nearest to a zero is
            background and becomes zero.
        label: `(H, W, D)`, taken from the nearest voxel.
        factor: a scalar; below one it shrinks.
        patch_vox: the size of what is returned.
    """
    matrices, nearest, classes = [], image, label
    for axis, size in enumerate(patch_vox):
        side = int(image.shape[axis])
        target = tf.range(size, dtype=tf.float32) - (size - 1) / 2
        place = tf.clip_by_value(target / factor + (side - 1) / 2, 0.0, side - 1.0)
        distance = tf.abs(place[:, None] - tf.range(side, dtype=tf.float32)[None, :])
        matrices.append(tf.maximum(1.0 - distance, 0.0))
        index = tf.cast(tf.floor(place + 0.5), tf.int32)
        nearest = tf.gather(nearest, index, axis=axis)
        classes = tf.gather(classes, index, axis=axis)
    brain = tf.cast(tf.not_equal(nearest, 0.0), tf.float32)
    return _along_axes(image, matrices) * brain, classes


def _along_axes(image: Tensor, matrices: list[Tensor]) -> Tensor:
    """An image `(H, W, D, C)` with one matrix `(new, old)` applied along each axis of space."""
    height, width, depth, channels = (int(side) for side in image.shape)
    rows, columns, slices = (int(matrix.shape[0]) for matrix in matrices)
    x = tf.matmul(matrices[0], tf.reshape(image, (height, width * depth * channels)))
    x = tf.matmul(matrices[1], tf.reshape(x, (rows, width, depth * channels)))
    x = tf.matmul(matrices[2], tf.reshape(x, (rows * columns, depth, channels)))
    return tf.reshape(x, (rows, columns, slices, channels))


# --- intensities -----------------------------------------------------------------------


def _noisy(image: Tensor, key: Tensor) -> Tensor:
    deviation = tf.random.stateless_uniform((), key, 0.0, NOISE_DEVIATION)
    return image + deviation * tf.random.stateless_normal(tf.shape(image), key + 1)


def _blurred(image: Tensor, key: Tensor) -> Tensor:
    """The image smoothed by a Gaussian; at the rim by what of it lies inside."""
    sigma = tf.random.stateless_uniform((), key, *BLUR_SIGMA_VOX)
    matrices = []
    for side in image.shape[:3]:
        place = tf.range(side, dtype=tf.float32)
        weights = tf.exp(-0.5 * tf.square((place[:, None] - place[None, :]) / sigma))
        matrices.append(weights / tf.reduce_sum(weights, axis=1, keepdims=True))
    return _along_axes(image, matrices)


def _powered(image: Tensor, brain: Tensor, key: Tensor) -> Tensor:
    """Each channel's intensities, taken as 0–1 between their extremes, to a power."""
    exponent = tf.random.stateless_uniform((image.shape[-1],), key, *GAMMA_RANGE)
    low = tf.reduce_min(image, axis=(0, 1, 2))
    span = tf.maximum(tf.reduce_max(image, axis=(0, 1, 2)) - low, 1e-6)
    return (tf.pow((image - low) / span, exponent) * span + low) * brain
