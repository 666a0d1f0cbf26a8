"""The arithmetic on intensities: the two ways to normalise them."""

from __future__ import annotations

import math

import numpy as np

from ray_brats import arrays
from ray_brats.arrays import Array
from ray_brats.cases.geometry import Geometry

_TILE_VOX = 32


def _slowest_axis(voxels: Array) -> int:
    return int(np.argmax(np.abs(voxels.strides)))


def place(values_HWD: Array, target_HWD: Array) -> None:
    """Copy between unlike memory orders, in tiles that fit a core's cache."""
    height, width = values_HWD.shape[:2]
    for top in range(0, height, _TILE_VOX):
        for left in range(0, width, _TILE_VOX):
            tile = (slice(top, top + _TILE_VOX), slice(left, left + _TILE_VOX))
            target_HWD[tile] = values_HWD[tile]


def minmax_slices(voxels_HWD: Array, geometry: Geometry) -> Array:
    """scikit-learn's MinMaxScaler on the volume as `(H·W, D)`, cropped: each axial slice to 0–1.

    The same operations in the same order on float64, as nibabel's `get_fdata` gives it to the
    scaler, so equal to the last bit that float32 keeps; the columns of the scaler are
    independent, so only voxels inside the crop are computed.
    """
    resampled = geometry.resampled_shape is not None
    box = arrays.box_at((0, 0, 0), voxels_HWD.shape) if resampled else geometry.crop_box
    inside, (rows, columns, depths) = arrays.meeting(box, voxels_HWD.shape)
    scaled = np.zeros(arrays.shape_of(box), np.float32, order="F")
    target = scaled[inside]
    for number, depth in enumerate(range(depths.start, depths.stop)):
        whole = voxels_HWD[:, :, depth]
        low, high = np.float64(whole.min()), np.float64(whole.max())
        extent = high - low
        # As scikit-learn: a constant column is left at its scale.
        scale = 1 / (1 if extent < 10 * np.finfo(np.float64).eps else extent)
        values = whole[rows, columns] * scale
        target[:, :, number] = values + (0 - low * scale)
    return geometry.crop_image(scaled) if resampled else scaled


def zscore_nonzero(voxels: Array, dtype: str = "float32") -> Array:
    """Non-zero voxels to mean 0 and deviation 1; zeros stay 0. The memory order is kept."""
    slabs = np.moveaxis(voxels, _slowest_axis(voxels), 0)
    count, total, squares = 0, 0.0, 0.0
    for slab in slabs:
        # float64 a slab at a time; NumPy's own sums, which no number of BLAS threads changes.
        exact = slab.astype(np.float64)
        count += int(np.count_nonzero(slab))
        total += float(exact.sum())
        squares += float(np.square(exact, out=exact).sum())
    mean = total / max(count, 1)
    deviation = math.sqrt(max(squares / max(count, 1) - mean * mean, 0.0))
    scale = np.float32(1 / max(deviation, 1e-8))
    scaled = np.empty_like(voxels, dtype, order="K")
    targets = np.moveaxis(scaled, _slowest_axis(voxels), 0)
    for slab, target in zip(slabs, targets, strict=True):
        values = np.subtract(slab, np.float32(mean), dtype=np.float32, casting="unsafe")
        np.multiply(values, scale, out=values)
        np.copyto(values, 0, where=slab == 0)
        target[...] = values
    return scaled
