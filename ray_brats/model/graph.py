"""The whole inference pipeline as one TensorFlow graph: a SavedModel's `segment` signature.

The one allowed second implementation of `preprocess` and `predict`; tests tie it to them voxel
by voxel. It exists so that a bundle segments in plain TensorFlow, in a process (or language)
where ray_brats is not installed.

Raw intensities of one case `(H, W, D, C)` in canonical orientation go in, at the spacing that the
network has learnt from; the search for the background, crop, normalisation, windows, activation,
thresholds and the rule on enhancing tumour follow; labels `(H, W, D)` of one task come out.
Finding connected components is more than a graph should do: recipes with such a rule have no such
signature.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ray_brats import labels
from ray_brats.cases import background as background_rules
from ray_brats.labels import Task
from ray_brats.model import windows
from ray_brats.model.predict import background
from ray_brats.recipes.config import InferenceConfig, PreprocessConfig, Recipe

Tensor = Any
Network = Callable[[Tensor], Tensor]
"""A network from `(N, H, W, D, C)` to probabilities `(N, H, W, D, K)`, both symbolic."""


def obstacle(recipe: Recipe) -> str:
    """ "" where a graph can do all that the recipe asks for, else what it cannot do."""
    if recipe.inference.min_component_vox > 1:
        return "inference.min_component_vox: a graph does not find connected components"
    return ""


def segmenter(network: Network, recipe: Recipe, task: Task) -> Callable[[Tensor], Tensor]:
    """A function from raw intensities `(H, W, D, C)` float32 to `{"labels": (H, W, D) uint8}`.

    Args:
        network: the trained one.
        recipe: its preprocessing and inference, without an `obstacle`.
        task: whose integers the labels are.
    """
    table = labels.from_class_index(np.arange(recipe.targets.class_count), task)

    def segment(raw: Tensor) -> Tensor:
        image = _cleared(raw, allow_skull=recipe.preprocess.allow_skull)

        def brain() -> Tensor:
            return tf.gather(tf.constant(table), _class_index(network, recipe, image))

        def void() -> Tensor:
            return tf.fill(tf.shape(image)[:3], tf.constant(table[labels.BACKGROUND]))

        return {"labels": tf.cond(tf.reduce_any(image != 0), brain, void)}

    return segment


def _class_index(network: Network, recipe: Recipe, image: Tensor) -> Tensor:
    box = _box(image, recipe.preprocess)
    prepared = _normalised(image, box, recipe.preprocess)
    probabilities = _probabilities(network, recipe, prepared)
    return box.uncrop(_decoded(probabilities, recipe))


# --- preprocessing ---------------------------------------------------------------------


def _cleared(image: Tensor, *, allow_skull: bool) -> Tensor:
    """Each channel with its background at 0, as `background.cleared`; NaN counts as background.

    A border that no one value fills ends the call with an `InvalidArgumentError`; how full the
    box around the brain is, only `background.cleared` judges.
    """
    channels = []
    for raw in tf.unstack(image, axis=-1):
        border = _border(raw)
        values, _, counts = tf.unique_with_counts(border)
        most = tf.argmax(counts)
        share = tf.cast(counts[most], tf.float32) / tf.cast(tf.size(border), tf.float32)
        value = values[most]
        voxels = tf.where(tf.math.is_finite(raw), raw, value)
        brain = voxels != value
        least = tf.reduce_min(tf.where(brain, voxels, np.inf))
        offset = tf.where((value < 0) & (least > 0), 0.0, value)
        found = share >= background_rules.BORDER_SHARE
        if not allow_skull:
            tf.debugging.Assert(found, [background_rules.SKULL.format(why="no value fills it")])
        channels.append(tf.where(found, tf.where(brain, voxels - offset, 0.0), voxels))
    return tf.stack(channels, axis=-1)


def _border(voxels: Tensor) -> Tensor:
    """The numbers on the six outermost planes of `(H, W, D)`."""
    planes = [voxels[0], voxels[-1], voxels[:, 0], voxels[:, -1], voxels[..., 0], voxels[..., -1]]
    border = tf.concat([tf.reshape(plane, [-1]) for plane in planes], axis=0)
    known = tf.boolean_mask(border, tf.math.is_finite(border))
    return tf.cond(tf.size(known) > 0, lambda: known, lambda: tf.zeros_like(border))


@dataclass(frozen=True, kw_only=True)
class _Box:
    """A crop of a volume; reaches past its border where it is padded."""

    start: Tensor
    stop: Tensor
    shape: Tensor
    """Shape of the volume; three integers, as of the others."""

    def crop(self, image: Tensor) -> Tensor:
        """The crop of `(H, W, D, C)`, zeros where it reaches past the volume."""
        first, last = self._inside()
        part = image[first[0] : last[0], first[1] : last[1], first[2] : last[2]]
        return _padded(part, first - self.start, self.stop - last)

    def uncrop(self, index: Tensor) -> Tensor:
        """A cropped `(H, W, D)` in the whole volume, zeros outside."""
        first, last = self._inside()
        a, b = first - self.start, last - self.start
        part = index[a[0] : b[0], a[1] : b[1], a[2] : b[2]]
        return tf.pad(part, tf.stack([first, self.shape - last], axis=1))

    def _inside(self) -> tuple[Tensor, Tensor]:
        return tf.maximum(self.start, 0), tf.minimum(self.stop, self.shape)


def _padded(image: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Zeros around `(H, W, D, C)`; the number of channels stays known."""
    around = tf.pad(tf.stack([before, after], axis=1), [[0, 1], [0, 0]])
    return tf.ensure_shape(tf.pad(image, around), (None, None, None, image.shape[-1]))


def _box(image: Tensor, config: PreprocessConfig) -> _Box:
    shape = tf.shape(image)[:3]
    if config.crop == "centre":
        size = tf.constant(config.crop_size_vox, tf.int32)
        start = (shape - size) // 2
        return _Box(start=start, stop=start + size, shape=shape)
    starts, stops = [], []
    for axis in range(3):
        others = [other for other in range(4) if other != axis]
        used = tf.cast(tf.where(tf.reduce_any(image != 0, axis=others))[:, 0], tf.int32)
        starts.append(used[0])
        stops.append(used[-1] + 1)
    return _Box(start=tf.stack(starts), stop=tf.stack(stops), shape=shape)


def _normalised(image: Tensor, box: _Box, config: PreprocessConfig) -> Tensor:
    if config.normalise == "minmax_slices":
        scaled = box.crop(_minmax_slices(image))
    else:
        scaled = _zscore_nonzero(box.crop(image))
    return tf.cast(tf.cast(scaled, config.dtype), tf.float32)


def _minmax_slices(image: Tensor) -> Tensor:
    """Each axial slice of each channel to 0-1; a constant slice keeps its scale."""
    exact = tf.cast(image, tf.float64)
    low = tf.reduce_min(exact, axis=(0, 1), keepdims=True)
    extent = tf.reduce_max(exact, axis=(0, 1), keepdims=True) - low
    # scikit-learn's own limit below which a range counts as zero.
    constant = extent < 10 * np.finfo(np.float64).eps
    scale = 1 / tf.where(constant, tf.ones_like(extent), extent)
    return tf.cast(exact * scale - low * scale, tf.float32)


def _zscore_nonzero(image: Tensor) -> Tensor:
    brain = image != 0
    count = tf.maximum(tf.reduce_sum(tf.cast(brain, tf.float64), axis=(0, 1, 2)), 1)
    exact = tf.cast(image, tf.float64)
    mean = tf.reduce_sum(exact, axis=(0, 1, 2)) / count
    squares = tf.reduce_sum(exact**2, axis=(0, 1, 2)) / count
    deviation = tf.sqrt(tf.maximum(squares - mean**2, 0))
    scale = tf.cast(1 / tf.maximum(deviation, 1e-8), tf.float32)
    return tf.where(brain, (image - tf.cast(mean, tf.float32)) * scale, tf.zeros_like(image))


# --- inference -------------------------------------------------------------------------


def _probabilities(network: Network, recipe: Recipe, image: Tensor) -> Tensor:
    """Probabilities of a prepared case, as `Predictor.probabilities`."""
    flips: list[tuple[int, ...]] = [()]
    if recipe.inference.tta == "flips":
        flips = [axes for n in range(4) for axes in itertools.combinations(range(3), n)]
    spec = tf.TensorSpec((None, None, None, image.shape[-1]), tf.float32)
    # A function of its own: eight flips share one body.
    one_pass = tf.function(
        lambda flipped: _one_pass(network, recipe, flipped), input_signature=[spec], autograph=False
    )
    passes = [tf.reverse(one_pass(tf.reverse(image, axes)), axes) for axes in flips]
    mean = tf.add_n(passes) / len(passes)
    if recipe.preprocess.normalise == "zscore":
        brain = tf.reduce_any(image != 0, axis=-1, keepdims=True)
        mean = tf.where(brain, mean, background(recipe))
    return mean


def _one_pass(network: Network, recipe: Recipe, image: Tensor) -> Tensor:
    limit_vox = recipe.inference.whole_limit_vox
    if not limit_vox:
        return _sliding_window(network, recipe, image)
    return tf.cond(
        tf.reduce_prod(tf.shape(image)[:3]) <= limit_vox,
        lambda: _whole_pass(network, image, recipe.network.divisor_vox),
        lambda: _sliding_window(network, recipe, image),
    )


def _whole_pass(network: Network, image: Tensor, divisor_vox: int) -> Tensor:
    shape = tf.shape(image)[:3]
    padded = _padded(image, tf.zeros_like(shape), -shape % divisor_vox)
    return network(padded[None])[0, : shape[0], : shape[1], : shape[2]]


def _sliding_window(network: Network, recipe: Recipe, image: Tensor) -> Tensor:
    inference = recipe.inference
    size = tf.constant(inference.window_vox, tf.int32)
    shape = tf.shape(image)[:3]
    short = tf.maximum(size - shape, 0)
    before = (short + 1) // 2
    image = _padded(image, before, short // 2)
    limit = shape + short
    starts = _window_starts(limit, inference)
    weights = tf.constant(windows.gaussian_weights(inference.window_vox)[..., None])

    def body(number: Tensor, total: Tensor, weight_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        start = starts[number]
        window = tf.slice(image, tf.pad(start, [[0, 1]]), [*inference.window_vox, image.shape[-1]])
        after = limit - start - size
        total += _padded(network(window[None])[0] * weights, start, after)
        return number + 1, total, weight_sum + _padded(weights, start, after)

    def zeros(channels: int) -> Tensor:
        volume = tf.zeros(tf.concat([limit, [channels]], axis=0))
        return tf.ensure_shape(volume, (None, None, None, channels))

    _, total, weight_sum = tf.while_loop(
        lambda number, *_: number < tf.shape(starts)[0],
        body,
        (tf.constant(0), zeros(background(recipe).size), zeros(1)),
        # Windows side by side would need their memory side by side.
        parallel_iterations=1,
    )
    first, last = before, before + shape
    mean = total / weight_sum
    return mean[first[0] : last[0], first[1] : last[1], first[2] : last[2]]


def _window_starts(limit: Tensor, inference: InferenceConfig) -> Tensor:
    """First voxels `(windows, 3)`, as `samples.sliding_windows`; no side below a window's."""
    axes = []
    for axis, size in enumerate(inference.window_vox):
        room, step = limit[axis] - size, max(1, int(size * (1 - inference.overlap)))
        count = -(-room // step) + 1
        steps = tf.cast(tf.range(count) * room, tf.float64)
        even = steps / tf.cast(tf.maximum(count - 1, 1), tf.float64)
        axes.append(tf.cast(tf.round(even), tf.int32))
    return tf.reshape(tf.stack(tf.meshgrid(*axes, indexing="ij"), axis=-1), (-1, 3))


def _decoded(probabilities: Tensor, recipe: Recipe) -> Tensor:
    """Class indices `(H, W, D)` int32, as `Predictor.decode`."""
    if recipe.network.output == "classes":
        index = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
    else:
        over = tf.unstack(probabilities >= recipe.inference.threshold, axis=-1)
        index = tf.fill(tf.shape(probabilities)[:3], labels.BACKGROUND)
        for region, (paint, around) in zip(over, recipe.targets.painting, strict=True):
            index = tf.where(region & (index == around), paint, index)
    if recipe.targets.enhancing is None:
        return index
    paint, around = recipe.targets.enhancing
    enhancing = index == paint
    few = tf.reduce_sum(tf.cast(enhancing, tf.int32)) < recipe.inference.min_enhancing_vox
    return tf.where(enhancing & few, around, index)
