"""Geometry: the place of a prepared array in the file it came from, and the way back.

    native      the file's own axes and order
    canonical   the same voxels in LPS order: first axis towards left, second posterior, third up
    grid        canonical at the recipe's spacing; the canonical grid itself where it asks for none
    crop        a box of the grid, padded with zeros where it reaches outside

Without another spacing a mask goes there and back without loss: voxels are only moved.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from ray_brats import arrays
from ray_brats.arrays import Array, Box, Floats, Shape, Spacing

Affine = tuple[tuple[float, ...], ...]
Unit = Literal["mm", "metre", "micron"]
UNITS_MM: dict[Unit, float] = {"mm": 1.0, "metre": 1000.0, "micron": 0.001}

_LPS = axcodes2ornt(("L", "P", "S"))
_SAME_SPACING = 1e-3
"""Relative difference of spacings below which nothing is resampled."""
SAME_GRID_VOX = 0.05
"""How far apart the corners of one grid may be."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The place of a canonical, cropped array in the file it came from."""

    native_shape: Shape
    native_affine: Affine
    """Map of voxel indices to the world in mm, 4 × 4, row by row."""
    qform_code: int
    sform_code: int
    qform: Affine | None = None
    """The file's qform in mm where it is another than the affine, which is the sform then."""
    unit: Unit = "mm"
    """What the file's own header counts in."""
    axes: Shape
    """Native axis that becomes the first, second, third canonical axis."""
    flips: tuple[bool, bool, bool]
    """Whether each canonical axis runs against its native one."""
    resampled_shape: Shape | None = None
    """Shape of the whole grid where it has another spacing than the file; None: the file's."""
    crop_start_vox: Shape = (0, 0, 0)
    """First voxel of the crop in the grid; negative where the crop is padded."""
    crop_shape_vox: Shape = (0, 0, 0)

    @property
    def canonical_shape(self) -> Shape:
        """Shape of the whole volume in canonical axes."""
        first, second, third = (self.native_shape[axis] for axis in self.axes)
        return first, second, third

    @property
    def grid_shape(self) -> Shape:
        """Shape of the whole volume in the grid that crops are taken from."""
        return self.resampled_shape or self.canonical_shape

    @property
    def crop_box(self) -> Box:
        """Box of the crop in the grid."""
        return arrays.box_at(self.crop_start_vox, self.crop_shape_vox)

    @property
    def canonical_affine(self) -> Floats:
        """Map of canonical voxel indices to the world in mm, 4 × 4."""
        moves = np.zeros((4, 4))
        moves[3, 3] = 1
        for place, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            moves[axis, place] = -1 if flip else 1
            moves[axis, 3] = self.native_shape[axis] - 1 if flip else 0
        return np.array(self.native_affine) @ moves

    @property
    def forms_apart_mm(self) -> float:
        """How far a corner moves where the qform is read; 0 where that is hardly another place."""
        if self.qform is None:
            return 0.0
        other = dataclasses.replace(self, native_affine=self.qform, qform=None)
        apart = apart_mm(self, other)
        return apart if apart > SAME_GRID_VOX * min(self.spacing_mm) else 0.0

    @property
    def spacing_mm(self) -> Spacing:
        """Size of a voxel of the file along each canonical axis."""
        columns = np.linalg.norm(np.array(self.native_affine)[:3, :3], axis=0)
        first, second, third = (float(columns[axis]) for axis in self.axes)
        return first, second, third

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the file in millilitres."""
        return math.prod(self.spacing_mm) / 1000

    def canonical(self, native: Array) -> Array:
        """A native array in canonical axes; a view."""
        return np.transpose(native, self.axes)[self._flipping()]

    def crop(self, canonical: Array) -> Array:
        """The crop of a canonical mask; a view where nothing is padded or resampled."""
        if self.resampled_shape is not None:
            return self._resampled(canonical, _nearest)
        inside, outside = self._overlap()
        if arrays.shape_of(inside) == self.crop_shape_vox:
            return canonical[outside]
        padded = np.zeros((*self.crop_shape_vox, *canonical.shape[3:]), canonical.dtype)
        padded[inside] = canonical[outside]
        return padded

    def crop_image(self, canonical: Array) -> Array:
        """The crop of a canonical image: as `crop`, but linear where it is resampled (float32).

        What is 0 is background, and is not mixed with the rest: a rim of half-bright voxels
        would change what is computed of all of them, the more the larger the voxels are.
        """
        if self.resampled_shape is None:
            return self.crop(canonical)
        share = self._resampled((canonical != 0).astype(np.float32), _linear)
        values = self._resampled(canonical, _linear)
        return np.divide(values, share, out=np.zeros_like(values), where=share >= 0.5)

    def to_canonical(self, cropped: Array) -> Array:
        """A cropped mask in the whole canonical grid; zero outside the crop."""
        inside, outside = self._overlap()
        whole = np.zeros((*self.grid_shape, *cropped.shape[3:]), cropped.dtype)
        whole[outside] = cropped[inside]
        if self.resampled_shape is None:
            return whole
        for axis, (source, target) in enumerate(
            zip(self.resampled_shape, self.canonical_shape, strict=True)
        ):
            whole = _nearest(whole, axis, _positions(np.arange(target), source, target))
        return whole

    def to_native(self, cropped: Array) -> Array:
        """A cropped mask in the grid of the file it came from; zero outside the crop.

        In the memory order of NIfTI files, the first axis fastest.
        """
        native = np.zeros((*self.native_shape, *cropped.shape[3:]), cropped.dtype, order="F")
        if self.resampled_shape is not None:
            self.canonical(native)[...] = self.to_canonical(cropped)
            return native
        inside, outside = self._overlap()
        self.canonical(native)[outside] = cropped[inside]
        return native

    def as_json(self) -> dict[str, Any]:
        """Plain values, without those of odd headers where this one is usual; see `from_json`."""
        usual = {"qform": None, "unit": "mm"}
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in usual or v != usual[k]}

    def unresampled(self) -> Geometry:
        """The same place on the file's own voxels: the smallest crop that holds this one."""
        if self.resampled_shape is None:
            return self
        _, whole = self._overlap()
        sides = zip(whole, self.resampled_shape, self.canonical_shape, strict=True)
        ends = [(side.start * n // m, -(-side.stop * n // m)) for side, m, n in sides]
        own = dataclasses.replace(self, resampled_shape=None)
        return with_crop(own, [first for first, _ in ends], [last - first for first, last in ends])

    def to_unresampled(self, cropped: Array) -> Array:
        """A cropped image of the grid, interpolated on the crop of `unresampled` (float32)."""
        own = self.unresampled()
        if self.resampled_shape is None:
            return cropped
        inside, whole = self._overlap()
        values = cropped[inside]
        for axis, box in enumerate(own.crop_box):
            source, target = self.canonical_shape[axis], self.resampled_shape[axis]
            wanted = np.arange(box.start, box.stop)
            places = _positions(wanted, target, source) - whole[axis].start
            values = _linear(values, axis, places)
        return values

    def _flipping(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)

    def _overlap(self) -> tuple[Box, Box]:
        return arrays.meeting(self.crop_box, self.grid_shape)

    def _resampled(self, canonical: Array, interpolate: Any) -> Array:
        inside, outside = self._overlap()
        values = canonical
        for axis, (source, target) in enumerate(
            zip(self.canonical_shape, self.grid_shape, strict=True)
        ):
            wanted = np.arange(outside[axis].start, outside[axis].stop)
            values = interpolate(values, axis, _positions(wanted, source, target))
        padded = np.zeros(self.crop_shape_vox, values.dtype)
        padded[inside] = values
        return padded


def _positions(index: Array, source: int, target: int) -> Array:
    """Places of a target grid's voxels in a source grid of the same extent, in its indices."""
    return np.asarray((index + 0.5) * (source / target) - 0.5)


def _nearest(values: Array, axis: int, positions: Array) -> Array:
    index = np.clip(np.floor(positions + 0.5).astype(int), 0, values.shape[axis] - 1)
    return np.asarray(np.take(values, index, axis=axis))


def _linear(values: Array, axis: int, positions: Array) -> Array:
    last = values.shape[axis] - 1
    low = np.clip(np.floor(positions).astype(int), 0, last)
    high = np.minimum(low + 1, last)
    share = np.clip(positions - low, 0, 1).astype(np.float32)
    share = share.reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    below = np.take(values, low, axis=axis).astype(np.float32)
    return np.asarray(below + share * (np.take(values, high, axis=axis) - below))


def of_file(shape: Sequence[int], affine: Floats, *, qform_code: int, sform_code: int) -> Geometry:
    """The geometry of a whole file: its canonical axes are those nearest to LPS."""
    transform = ornt_transform(io_orientation(affine), _LPS)
    first, second, third = (int(n) for n in np.argsort(transform[:, 0].astype(int)))
    flips = tuple(bool(transform[axis, 1] < 0) for axis in (first, second, third))
    height, width, depth = (int(n) for n in shape)
    whole = Geometry(
        native_shape=(height, width, depth),
        native_affine=affine_of(affine),
        qform_code=qform_code,
        sform_code=sform_code,
        axes=(first, second, third),
        flips=(flips[0], flips[1], flips[2]),
    )
    return with_crop(whole, (0, 0, 0), whole.canonical_shape)


def affine_of(matrix: Array) -> Affine:
    """A 4 × 4 matrix as a value."""
    return tuple(tuple(float(x) for x in row) for row in matrix)


def scaled(affine: Array | Affine, factor: float) -> Floats:
    """The map to a world in other units; by 1 it is the same to the sign of its zeros."""
    matrix = np.array(affine, np.float64)
    matrix[:3] *= factor
    return matrix


def from_json(values: Mapping[str, Any]) -> Geometry:
    """The geometry in a `case.json`."""
    names = {item.name for item in dataclasses.fields(Geometry)}
    return Geometry(**{name: _tuples(values[name]) for name in names if name in values})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def with_crop(geometry: Geometry, start_vox: Sequence[int], shape_vox: Sequence[int]) -> Geometry:
    """The same geometry with another crop, in voxels of its grid."""
    (a, b, c), (d, e, f) = start_vox, shape_vox
    start, shape = (int(a), int(b), int(c)), (int(d), int(e), int(f))
    return dataclasses.replace(geometry, crop_start_vox=start, crop_shape_vox=shape)


def with_spacing(geometry: Geometry, spacing_mm: Spacing | None) -> Geometry:
    """The same geometry on a grid whose spacing is as near as whole voxels allow; uncropped."""
    native = geometry.spacing_mm
    resampled = None
    if spacing_mm is not None and not np.allclose(native, spacing_mm, rtol=_SAME_SPACING, atol=0):
        sides = zip(geometry.canonical_shape, native, spacing_mm, strict=True)
        first, second, third = (max(1, round(n * have / want)) for n, have, want in sides)
        resampled = (first, second, third)
    whole = dataclasses.replace(geometry, resampled_shape=resampled)
    return with_crop(whole, (0, 0, 0), whole.grid_shape)


def apart_mm(a: Geometry, b: Geometry) -> float:
    """How far the corners of two grids of one canonical shape are apart at most."""
    ends = ((0, side - 1) for side in a.canonical_shape)
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    between = (a.canonical_affine - b.canonical_affine)[:3] @ corners.T
    return float(np.linalg.norm(between, axis=0).max())


def same_grid(a: Geometry, b: Geometry) -> str:
    """ "" where the canonical arrays of two files lie on one grid, else what differs.

    How the voxels are stored does not matter. Corners may be a twentieth of a voxel apart:
    software that writes an affine anew rounds it.
    """
    if a.canonical_shape != b.canonical_shape:
        return f"shape {a.native_shape} against {b.native_shape}"
    apart = apart_mm(a, b)
    if apart > SAME_GRID_VOX * min(a.spacing_mm):
        return f"affine differs by up to {apart:.3g} mm at a corner"
    return ""
