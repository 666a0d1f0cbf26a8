"""Phantoms as a scanner sees them: with skull and scalp, each series moved and on its own grid.

A head is drawn around the brain of a `Phantom`: fluid, bone (dark), fat (bright, most on T1),
skin, eyes, and air with noise. It reaches farther than the phantom's own box, whose top and
bottom are too near. `scanned` takes a series of it, as thick as its slices are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy import ndimage

from ray_brats.arrays import Array, Floats, Mask, Shape
from ray_brats.cases.geometry import of_file
from ray_brats.cases.phantom import Phantom, make_phantom
from ray_brats.cases.raw import placed
from ray_brats.cases.raw.placed import Grid, Order, Placed
from ray_brats.cases.volume import encode
from ray_brats.files.local import renamed_into_place
from ray_brats.labels import Task, from_class_index

_ROOM_MM: Final = 28.0
"""Added at each end of the third axis."""
_LAYERS_MM: Final = (2.5, 5.5, 7.0, 2.5)
"""Thickness of fluid, bone, fat and skin, from the brain outwards."""
_SIGNAL: Final[Mapping[str, tuple[float, float, float, float]]] = {
    "t1": (0.30, 0.12, 1.55, 0.70),
    "t1ce": (0.32, 0.12, 1.55, 0.95),
    "t2": (1.70, 0.10, 0.95, 0.55),
    "flair": (0.22, 0.10, 0.90, 0.55),
}
"""Mean of each layer, where white matter on T1CE is 1."""
_SERIES: Final[Mapping[str, tuple[tuple[float, float, float], str]]] = {
    "t1ce": ((0.9, 0.9, 1.0), "axial"),
    "t1": ((1.0, 1.0, 1.2), "sagittal"),
    "t2": ((0.9, 0.9, 3.0), "axial"),
    "flair": ((1.0, 1.0, 4.0), "axial"),
}
"""Modality to the spacing of its voxels, mm, and the plane of its slices, in a study."""
_SIZE_MM: Final = (220.0, 240.0, 200.0)
_EYE_MM: Final = 12.0
_AIR: Final = 0.015


@dataclass(frozen=True, kw_only=True)
class Head:
    """A phantom with all that is around its brain."""

    phantom: Phantom
    images: Mapping[str, Placed]
    """By modality, on one grid, float32."""
    brain: Placed
    label: Placed
    """Class indices of its tumour."""


def head_of(phantom: Phantom) -> Head:
    """The head around a phantom's brain; the same phantom gives the same voxels."""
    spacing_mm = float(np.linalg.norm(phantom.affine[:3, 0]))
    extra = math.ceil(_ROOM_MM / spacing_mm)
    room = [(0, 0), (0, 0), (extra, extra)]
    affine = phantom.affine.copy()
    affine[:3, 3] -= extra * affine[:3, 2]
    brain = np.pad(next(iter(phantom.images.values())) > 0, room)
    grid = Grid(shape_vox=brain.shape, affine=affine)
    outside_mm = _distance_mm(brain, spacing_mm)
    eyes = _eyes(brain, grid, spacing_mm)
    images = {
        modality: Placed(
            voxels=_drawn(modality, np.pad(image, room), brain, outside_mm, eyes), grid=grid
        )
        for modality, image in phantom.images.items()
    }
    label = Placed(voxels=np.pad(phantom.label, room), grid=grid)
    return Head(phantom=phantom, images=images, brain=Placed(voxels=brain, grid=grid), label=label)


def scanned(image: Placed, grid: Grid, motion: Floats, *, order: Order = 1) -> Array:
    """A series of a head, float32: each voxel the mean over its slice's thickness.

    Args:
        image: of the head, on its own fine grid.
        grid: of the series.
        motion: from the world of the series to that of the head.
        order: of the spline; 0 for masks.
    """
    fine_mm = min(image.grid.spacing_mm)
    thick = int(np.argmax(grid.spacing_mm))
    count = max(1, round(grid.spacing_mm[thick] / fine_mm)) if order else 1
    total = np.zeros(grid.shape_vox, np.float32)
    for number in range(count):
        shifted = grid.affine.copy()
        shifted[:3, 3] += ((number + 0.5) / count - 0.5) * grid.affine[:3, thick]
        part = Grid(shape_vox=grid.shape_vox, affine=shifted)
        total += placed.resampled(image, part, motion, order=order)
    return total / count


def write_studies(
    folder: Path, truths: Path, indices: Sequence[int], *, shape_vox: Shape, seed: int, task: Task
) -> list[str]:
    """Write phantoms as raw studies: a head with its skull, each series moved and on its own grid.

    `<folder>/<study>/<modality>.nii.gz`, int16, and `<truths>/<study>.nii.gz`: what has grown, in
    the task's labels on the grid of the T1CE series. The same bytes each time; what is there stays.

    Returns:
        The names of the studies.
    """
    names = []
    for index in indices:
        drawn = make_phantom(
            index, shape_vox=shape_vox, seed=seed, modalities=tuple(_SERIES), task=task
        )
        names.append(name := f"PHANTOM-{index:03d}")
        paths = {kind: folder / name / f"{kind}.nii.gz" for kind in _SERIES}
        truth = truths / f"{name}.nii.gz"
        if truth.exists() and all(path.exists() for path in paths.values()):
            continue
        head, rng = head_of(drawn), np.random.default_rng([seed, index])
        for kind, (spacing_mm, plane) in _SERIES.items():
            turns_deg, shift_mm = rng.uniform(-8, 8, (2, 3)).tolist()
            grid = grid_around(head.brain.grid.centre_mm, _SIZE_MM, spacing_mm, plane)
            motion = motion_about(head.brain.grid.centre_mm, turns_deg, shift_mm)
            _write(paths[kind], np.rint(scanned(head.images[kind], grid, motion)), grid, np.int16)
            if kind == "t1ce":
                label = scanned(head.label, grid, motion, order=0).astype(np.uint8)
                _write(truth, from_class_index(label, task), grid, np.uint8)
    return names


def _write(path: Path, voxels: Array, grid: Grid, kind: type[np.generic]) -> None:
    geometry = of_file(grid.shape_vox, grid.affine, qform_code=1, sform_code=1)
    with renamed_into_place(path) as temporary:
        temporary.write_bytes(encode(voxels.astype(kind), geometry))


def motion_about(
    centre_mm: Floats, turns_deg: Sequence[float], shift_mm: Sequence[float]
) -> Floats:
    """A rigid motion: turns about the axes x, y, z through a point, then a shift."""
    motion = np.eye(4)
    for axis, degrees in enumerate(turns_deg):
        turn, (a, b) = np.eye(3), [n for n in range(3) if n != axis]
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cosine, -sine, sine, cosine
        motion[:3, :3] = turn @ motion[:3, :3]
    motion[:3, 3] = centre_mm - motion[:3, :3] @ centre_mm + np.array(shift_mm)
    return motion


def grid_around(
    centre_mm: Floats, size_mm: Sequence[float], spacing_mm: Sequence[float], plane: str = "axial"
) -> Grid:
    """A grid of a series around a point, with its slices across an axis of the world.

    Args:
        centre_mm: its middle.
        size_mm: its extent towards the left, back and top.
        spacing_mm: within a row, between rows, between slices.
        plane: `axial`, `sagittal` or `coronal`.
    """
    axes = {"axial": (0, 1, 2), "sagittal": (1, 2, 0), "coronal": (0, 2, 1)}[plane]
    signs = (-1.0, -1.0, 1.0)
    affine = np.zeros((4, 4))
    shape = []
    for column, axis in enumerate(axes):
        # Rows of pictures run from top to bottom.
        sign = -signs[axis] if axis == 2 and plane != "axial" else signs[axis]
        affine[axis, column] = sign * spacing_mm[column]
        shape.append(max(1, round(size_mm[axis] / spacing_mm[column])))
    affine[3, 3] = 1
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape_vox=(shape[0], shape[1], shape[2]), affine=affine)


def _distance_mm(brain: Mask, spacing_mm: float) -> Floats:
    """How far outside the brain's smooth outline a voxel lies."""
    from edt import edt

    closed = ndimage.binary_closing(brain, iterations=max(1, round(4 / spacing_mm)))
    return np.asarray(edt(~(closed | brain)) * spacing_mm)


def _eyes(brain: Mask, grid: Grid, spacing_mm: float) -> Mask:
    """Two balls below the front of the brain."""
    points = np.argwhere(brain)
    low, high = points.min(axis=0), points.max(axis=0)
    middle = (low + high) / 2
    index = np.ogrid[tuple(slice(0, side) for side in grid.shape_vox)]
    eyes = np.zeros(brain.shape, bool)
    for side in (-1, 1):
        centre = (
            middle[0] + side * 32 / spacing_mm,
            low[1] + 12 / spacing_mm,
            low[2] + 22 / spacing_mm,
        )
        squared = sum((i - c) ** 2 for i, c in zip(index, centre, strict=True))
        eyes |= squared < (_EYE_MM / spacing_mm) ** 2
    return eyes & ~brain


def _drawn(modality: str, image: Array, brain: Mask, outside_mm: Floats, eyes: Mask) -> Array:
    """One modality of the head, at the scale of the phantom's own."""
    rng = np.random.default_rng([len(modality), *image.shape, *modality.encode()])
    scale = float(np.median(image[brain])) / float(np.median([0.75, 1.0]))
    signal = np.zeros(brain.shape, np.float32)
    ends = np.cumsum(_LAYERS_MM)
    for start, end, mean in zip((0.0, *ends[:-1]), ends, _SIGNAL[modality], strict=True):
        signal[(outside_mm > start) & (outside_mm <= end)] = mean
    signal[outside_mm <= 0] = _SIGNAL[modality][0]  # What the closing took in is fluid.
    signal[eyes] = _SIGNAL[modality][0] * 0.9
    texture = ndimage.gaussian_filter(rng.standard_normal(brain.shape, np.float32), 1.5)
    signal *= 1 + 0.4 * texture
    signal += _AIR * np.abs(rng.standard_normal(brain.shape, np.float32))
    return np.where(brain, image, np.maximum(signal, 0) * scale).astype(np.float32)
