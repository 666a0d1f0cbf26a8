"""The healthy brain of a phantom: the box that it is drawn in, and the shares of its tissues.

Smooth random fields shape it: sulci are zero sets of one, vessels of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ray_brats.arrays import Mask, Shape

Field = npt.NDArray[np.floating[Any]]
Shares = dict[str, Field]

_HEAD_MM: Final = (240.0, 240.0, 155.0)
_BRAIN_BOX_MM: Final = (144.0, 178.0, 144.0)


class Canvas:
    """The box of voxels around the brain, and the random numbers of one case on it."""

    def __init__(self, shape_vox: Shape, key: tuple[int, int]) -> None:
        self.key = key
        self.voxel_mm = sum(_HEAD_MM) / sum(shape_vox)
        self.margins_vox: list[tuple[int, int]] = []
        axes_mm: list[Field] = []
        for side, head, brain in zip(shape_vox, _HEAD_MM, _BRAIN_BOX_MM, strict=True):
            margin = round(side * (1 - brain / head) / 2)
            self.margins_vox.append((margin, margin))
            centres_vox = np.arange(margin + 0.5, side - margin, dtype=np.float32)
            axes_mm.append((centres_vox / side - 0.5) * head)
        self.axes_mm = np.meshgrid(*axes_mm, indexing="ij", sparse=True)

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers of one purpose, independent of what else was drawn."""
        return np.random.default_rng([*self.key, *purpose.encode()])

    def field(self, purpose: str, cell_mm: float) -> Field:
        """Smooth random field of about unit variance; knots `cell_mm` or two voxels apart."""
        cells = [round(side / max(cell_mm, 2 * self.voxel_mm)) for side in _BRAIN_BOX_MM]
        field: Field = 3 * self.rng(purpose).standard_normal([n + 3 for n in cells], np.float32)
        for count, mm in zip(reversed(cells), reversed(self.axes_mm), strict=True):
            field = _spline(np.ascontiguousarray(np.moveaxis(field, -1, 0)), count, mm.size)
        return field


def _spline(knots: Field, cells: int, side_vox: int) -> Field:
    """Cubic B-spline along the first axis, (cells + 3, …) knots to (side_vox, …) voxels.

    Plain sums, for the rounding of a matrix product depends on the number of threads.
    """
    values = np.empty((side_vox, *knots.shape[1:]), np.float32)
    for voxel in range(side_vox):
        cell, t = divmod((voxel + 0.5) * cells / side_vox, 1)
        sixths = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
        values[voxel] = sum(w / 6 * knots[int(cell) + n] for n, w in enumerate(sixths))
    return values


def soft(inside_mm: Field, width_mm: float) -> Field:
    """Share of a voxel that lies inside, from its centre's distance to the border."""
    return (inside_mm / width_mm + 0.5).clip(0, 1)


def lowest(score: Field, where: Mask, share: float) -> float:
    """The value below which `share` of the voxels of `where` have their score."""
    values = score[where]
    rank = min(int(values.size * share), values.size - 1)
    return float(np.partition(values, rank)[rank])


@dataclass(frozen=True)
class Anatomy:
    """A healthy brain: its mask, the shares of its tissues (their sum is 1), and depths."""

    brain: Mask
    shares: Shares
    ventricle_mm: Field
    pial_mm: Field  # below the nearest sulcus or surface


def anatomy_of(canvas: Canvas) -> Anatomy:
    """The healthy brain of a case."""
    x, y, z = canvas.axes_mm
    rng, field, width_mm = canvas.rng("anatomy"), canvas.field, max(1.0, canvas.voxel_mm)
    a, b, c = (box / 2 * rng.uniform(0.93, 0.99) for box in _BRAIN_BOX_MM)
    taper = 1 + 0.22 * np.clip(-z / c, 0, 1)
    u, v, w = x / a * taper * (1 - 0.10 * y / b), y / b * taper, z / c
    depth_mm = 72 * (1 - np.sqrt(u * u + v * v + w * w) - 0.025 * field("outline", 30))

    fold_mm = 4.5 * np.abs(field("folds", 6)) + 0.8 * np.clip(depth_mm - 18, 0, None)
    callosum_mm = np.clip(-6 - z, 0, None) + np.clip(25 - np.hypot(y, z), 0, None)
    fissure_mm = 1.1 * (np.abs(x + 1.5 * field("fissure", 40)) + callosum_mm)
    pial_mm = np.minimum(np.minimum(fold_mm, depth_mm), fissure_mm)

    size = rng.uniform(0.9, 1.5)
    apart_mm = np.abs(x) - (9 + 0.06 * np.clip(y + 25, 0, None))
    along = ((y - 4) / 38) ** 2 + ((z - 10 + 0.004 * (y - 4) ** 2) / (11 * size)) ** 2
    horns = np.sqrt((apart_mm / (6 * size)) ** 2 + along) + 0.10 * field("horns", 18)
    ventricle_mm = 7 * size * (1 - horns)
    nuclei = np.sqrt(((np.abs(x) - 24) / 10) ** 2 + ((y - 2) / 24) ** 2 + ((z + 4) / 15) ** 2)
    nuclei_mm = 10 * (1 - nuclei - 0.15 * field("nuclei", 14))

    thread_mm = 6 * (0.16 - np.hypot(field("vessel-a", 9), field("vessel-b", 9)))
    vessel = soft(thread_mm, width_mm) * (pial_mm < 6)
    sulci = soft(0.8 + 0.4 * field("sulci", 25) - pial_mm, width_mm)
    fluid = np.maximum(sulci, soft(ventricle_mm, width_mm)) * (1 - vessel)
    grey = np.maximum(soft(3.4 - pial_mm, width_mm), soft(nuclei_mm, 2 * width_mm))
    grey = grey * (1 - fluid - vessel)
    shares = {"grey": grey, "fluid": fluid, "vessel": vessel, "white": 1 - grey - fluid - vessel}
    return Anatomy(depth_mm > 0, shares, ventricle_mm, pial_mm)
