"""Where patches lie: random ones for training, a regular grid for inference.

Everything random follows from (seed, index of the sample in the global stream), so any
step can be replayed, and another number of workers goes on with the same samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ray_brats.labels import REGIONS
from ray_brats.recipes.config import Shape

Array = npt.NDArray[Any]

ZOOM_RANGE = (0.85, 1.2)
"""How far a patch is shrunk or magnified at most."""
LEAST_WEIGHT = np.float32(1e-3)
"""Of a voxel in a window of a sliding window, relative to its centre."""


@dataclass(frozen=True)
class PatchLocation:
    """A box in an array: first voxel and size; may reach past the array's border."""

    start_vox: Shape
    size_vox: Shape

    def cut(self, array: Array) -> Array:
        """A copy of the box; zeros where it reaches past the array."""
        patch = np.zeros((*self.size_vox, *array.shape[3:]), array.dtype)
        self.copy_to(patch, array)
        return patch

    def copy_to(self, patch: Array, array: Array) -> None:
        """Copy what lies in the box to a patch of its size; the rest of the patch stays."""
        inside, outside = self._overlap(array.shape)
        patch[inside] = array[outside]

    def add(self, array: Array, patch: Array) -> None:
        """Add a patch to the box in place; what reaches past the array is dropped."""
        inside, outside = self._overlap(array.shape)
        array[outside] += patch[inside]

    def holds(self, mask_HWD: npt.NDArray[np.bool_]) -> bool:
        """Whether any voxel of a mask lies in the box."""
        return bool(mask_HWD[self._overlap(mask_HWD.shape)[1]].any())

    def wider(self, margin_vox: Shape) -> PatchLocation:
        """The box with so many voxels more on both sides of each axis."""
        first, second, third = (
            start - margin for start, margin in zip(self.start_vox, margin_vox, strict=True)
        )
        sides = zip(self.size_vox, margin_vox, strict=True)
        height, width, depth = (size + 2 * margin for size, margin in sides)
        return PatchLocation((first, second, third), (height, width, depth))

    def _overlap(self, shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        inside, outside = [], []
        for start, size, limit in zip(self.start_vox, self.size_vox, shape[:3], strict=True):
            first = max(start, 0)
            last = max(min(start + size, limit), first)
            outside.append(slice(first, last))
            inside.append(slice(first - start, last - start))
        return tuple(inside), tuple(outside)


@dataclass(frozen=True, kw_only=True)
class SampleStream:
    """The infinite global stream of samples: which case, and a generator for the rest.

    Each pass shuffles all cases anew, so every case is seen once before any is seen twice.
    """

    case_count: int
    seed: int

    def draw(self, index: int) -> tuple[int, np.random.Generator]:
        """Case number and random generator of the sample at `index`."""
        epoch, position = divmod(index, self.case_count)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.case_count)
        return int(order[position]), np.random.default_rng((self.seed, 1, index))


def draw_location(
    label_HWD: Array,
    patch_vox: Shape,
    *,
    foreground_share: float,
    rng: np.random.Generator,
    foreground: Literal["tumour", "region"] = "tumour",
) -> PatchLocation:
    """A random patch; with probability `foreground_share` centred on a labelled voxel.

    Args:
        label_HWD: class indices.
        patch_vox: size of the patch.
        foreground_share: 0–1.
        rng: draws everything.
        foreground: which labelled voxel; see `config.TrainConfig`.
    """
    shape = label_HWD.shape
    if rng.random() < foreground_share:
        labelled = np.flatnonzero(label_HWD)
        if foreground == "region":
            members = list(REGIONS.values())[rng.integers(len(REGIONS))]
            within = labelled[np.isin(label_HWD.reshape(-1)[labelled], members)]
            labelled = within if within.size else labelled
        if labelled.size:
            centre = np.unravel_index(labelled[rng.integers(labelled.size)], shape)
            starts = [int(c) - n // 2 for c, n in zip(centre, patch_vox, strict=True)]
            return PatchLocation(_clamped(starts, shape, patch_vox), patch_vox)
    starts = [
        int(rng.integers(max(limit - size, 0) + 1))
        for limit, size in zip(shape, patch_vox, strict=True)
    ]
    return PatchLocation(_clamped(starts, shape, patch_vox), patch_vox)


def _clamped(starts: Sequence[int], shape: Sequence[int], size: Sequence[int]) -> Shape:
    """Inside the array where it is large enough, else centred on it."""
    first, second, third = (
        min(max(start, 0), limit - n) if limit >= n else (limit - n) // 2
        for start, limit, n in zip(starts, shape, size, strict=True)
    )
    return first, second, third


def margin_vox(patch_vox: Shape) -> Shape:
    """What must be cut around a patch, so that shrinking it brings real voxels to its rim."""
    first, second, third = (
        math.ceil((side - 1) / 2 * (1 / ZOOM_RANGE[0] - 1)) for side in patch_vox
    )
    return first, second, third


def sliding_windows(shape: Sequence[int], window_vox: Shape, overlap: float) -> list[PatchLocation]:
    """Windows that cover an array: evenly spaced, neighbours sharing at least `overlap`."""
    starts = []
    for limit, size in zip(shape, window_vox, strict=True):
        if limit <= size:
            starts.append([(limit - size) // 2])
            continue
        step = max(1, int(size * (1 - overlap)))
        count = -(-(limit - size) // step) + 1
        starts.append([round(i * (limit - size) / (count - 1)) for i in range(count)])
    return [PatchLocation((a, b, c), window_vox) for a, b, c in itertools.product(*starts)]


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
