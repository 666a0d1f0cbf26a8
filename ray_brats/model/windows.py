"""A network over a whole image: in one pass, or window by window.

The threads of one forward pass wait for the slowest of them at every layer, and whatever else runs
on the machine makes one of them the slowest. So several windows pass side by side with few threads
each, which wait for nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ray_brats import arrays
from ray_brats.arrays import Array, Mask, PatchLocation, Shape
from ray_brats.recipes.config import InferenceConfig

Probabilities = npt.NDArray[np.float32]
Forward = Callable[[npt.NDArray[np.float32]], Probabilities]
"""A batch of patches `(N, H, W, D, C)` to probabilities `(N, H, W, D, K)`."""

STITCHED = "stitched"
"""Attribute of a `Forward` that takes whole images by itself, as `stitching.Stitcher`."""
SLABS = 2
"""Slabs worked on side by side: as many as an actor has cores by default."""


def in_slabs(work: Callable[[slice], None], length: int) -> None:
    """Call `work` with slices that cover `0…length`, at the same time: NumPy has one thread."""
    ends = [length * number // SLABS for number in range(SLABS + 1)]
    slabs = [slice(first, last) for first, last in itertools.pairwise(ends)]
    for _ in _slab_threads().map(work, slabs):
        pass


@functools.cache
def _slab_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SLABS, thread_name_prefix="slab")


def as_float32(image: Array) -> npt.NDArray[np.float32]:
    """The image as the network takes it; itself where it is that already."""
    if image.dtype == np.float32:
        return image
    converted = np.empty(image.shape, np.float32)

    def work(rows: slice) -> None:
        converted[rows] = image[rows]

    in_slabs(work, len(image))
    return converted


def occupied(image: Array) -> Mask:
    """Voxels `(H, W, D)` that are not zero in every channel.

    Channel by channel: `any` over so short an axis takes four times as long.
    """
    mask = np.empty(image.shape[:3], np.bool_)

    def work(rows: slice) -> None:
        channels = np.moveaxis(image[rows], -1, 0)
        np.not_equal(channels[0], 0, out=mask[rows])
        for channel in channels[1:]:
            np.logical_or(mask[rows], channel, out=mask[rows])

    in_slabs(work, len(image))
    return mask


def whole_pass(forward: Forward, image: Array, divisor_vox: int) -> Probabilities:
    """One pass over the whole image, padded with zeros to multiples of `divisor_vox`."""
    shape = image.shape[:3]
    padding = [(0, -side % divisor_vox) for side in shape]
    padded = np.pad(image, [*padding, (0, 0)])
    height, width, depth = shape
    probabilities = forward(np.ascontiguousarray(padded)[None])[0, :height, :width, :depth]
    return np.array(probabilities, np.float32)


def sliding_window(
    forward: Forward,
    image: Array,
    inference: InferenceConfig,
    *,
    brain: Mask | None = None,
    batch: int = 1,
    lanes: int = 1,
) -> Probabilities:
    """Gaussian-weighted mean over overlapping windows; a constant stays that constant.

    Args:
        forward: the network.
        image: `(H, W, D, C)`.
        inference: size and overlap of the windows.
        brain: `(H, W, D)`; windows without any such voxel are skipped, and voxels that no
            window covered are 0.
        batch: how many windows pass at once.
        lanes: how many batches are on their way side by side; their order of stitching, and with
            it the last bit of the mean, stays.
    """
    across = arrays.sliding_windows(image.shape[:3], inference.window_vox, inference.overlap)
    if brain is not None:
        across = [location for location in across if location.holds(brain)] or across[:1]
    batches = [across[first : first + batch] for first in range(0, len(across), batch)]

    def passed(locations: Sequence[PatchLocation]) -> Probabilities:
        inputs = np.zeros((len(locations), *inference.window_vox, image.shape[-1]), image.dtype)
        for location, patch in zip(locations, inputs, strict=True):
            location.copy_to(patch, image)
        return forward(inputs)

    weighted: _WeightedMean | None = None
    with ThreadPoolExecutor(lanes) as pool:
        under_way: deque[Future[Probabilities]] = deque()
        for number, locations in enumerate(batches):
            # One more than there are lanes: the next is there when one of them is free.
            while len(under_way) < min(lanes + 1, len(batches) - number):
                under_way.append(pool.submit(passed, batches[number + len(under_way)]))
            outputs = under_way.popleft().result()
            weighted = weighted or _WeightedMean(image.shape[:3], outputs.shape[1:])
            weighted.add(locations, outputs)
    assert weighted is not None
    return weighted.result()


class _WeightedMean:
    """The Gaussian-weighted mean of windows."""

    def __init__(self, shape_vox: Sequence[int], window: Sequence[int]) -> None:
        self._weights, self._spread = _weights(*window)
        self._product = np.empty_like(self._spread)
        self._total = np.zeros((*shape_vox, window[-1]), np.float32)
        self._weight_sum = np.zeros((*shape_vox, 1), np.float32)

    def add(self, locations: Sequence[PatchLocation], outputs: Probabilities) -> None:
        """More windows, `(N, h, w, d, K)`."""
        for location, output in zip(locations, outputs, strict=True):
            np.multiply(output, self._spread, out=self._product)
            location.add(self._total, self._product)
            location.add(self._weight_sum, self._weights)

    def result(self) -> Probabilities:
        """The mean `(H, W, D, K)`, 0 where no window was; the sums are used up."""

        def work(rows: slice) -> None:
            total, weight_sum = self._total[rows], self._weight_sum[rows]
            # No window weighs less, so where one was this changes nothing.
            np.maximum(weight_sum, LEAST_WEIGHT, out=weight_sum)
            np.divide(total, weight_sum, out=total)

        in_slabs(work, len(self._total))
        return self._total


@functools.lru_cache(maxsize=2)
def _weights(height: int, width: int, depth: int, channels: int) -> tuple[Array, Array]:
    """A window's weights `(H, W, D, 1)`, and the same once a channel.

    To spread one value over so few channels costs more than to read it from each.
    """
    weights = gaussian_weights((height, width, depth))[..., None]
    return weights, np.repeat(weights, channels, axis=-1)


LEAST_WEIGHT = np.float32(1e-3)
"""Least weight of a voxel in a sliding window, relative to its centre."""


def gaussian_weights(window_vox: Shape) -> npt.NDArray[np.float32]:
    """Weight of each voxel of a window, shape `window_vox`, highest at the centre.

    Deviation: an eighth of the side (Isensee et al. 2021, nnU-Net); never below `LEAST_WEIGHT`,
    so that no voxel is left without weight.
    """
    axes = []
    for size in window_vox:
        offset = (np.arange(size) - (size - 1) / 2) / (size / 8)
        axes.append(np.exp(-0.5 * offset**2))
    weights: Array = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return np.asarray(np.maximum(weights, LEAST_WEIGHT), np.float32)
