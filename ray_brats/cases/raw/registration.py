"""Motions between images of one head, by mutual information (Mattes et al. 2003, IEEE TMI).

Contrast does not matter, so any series goes to any other and to a template. From coarse to fine;
the coarse level starts from several poses, since a head that is turned by 15° has a nearer wrong
optimum. Only the head is looked at: air says that the outlines agree, and a head is nearly a ball,
which lies as well when it is turned. One thread and seeded samples: the same images give the same
motion to the last bit.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from ray_brats.arrays import Array, Floats, Mask
from ray_brats.cases.raw import itk, placed
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.errors import CaseRejected

Freedom = Literal["rigid", "affine"]

_COARSE_MM, _FINE_MM = 5.0, (3.0, 1.5)
_TILTS_DEG = (-12.0, 0.0, 12.0)
_POSES = 3
"""Starts that the coarse search goes on from: the best of all by their similarity."""
_BINS = 40
_SAMPLES = 40_000
_SEED = 2015
_ROUNDS = 200
_LEVER_MM = 80.0
"""How far a point of the head lies from its middle: what a turn is measured by."""
_HEAD = 0.6
"""Share of an image's mean above which its voxels are of the head."""
_AROUND_MM = 6.0
_FEWEST_VOX = 8


@dataclass(frozen=True, kw_only=True)
class Registration:
    """How an image lies to a fixed one."""

    motion: Floats
    """From the world of the fixed image to that of the moving one, 4 × 4."""
    similarity: float
    """Mutual information within the head at the end, in nats; 0 where one tells nothing of the
    other."""


def register(moving: Placed, fixed: Placed, freedom: Freedom = "rigid") -> Registration:
    """Find a moving image in the world of a fixed one.

    Args:
        moving: of the same head, or the head for a template.
        fixed: the one that stays.
        freedom: six parameters, or the twelve of an affine map after them.

    Raises:
        CaseRejected: an image without content or of less than eight voxels along an axis, or two
            that nothing brings together.
        UsageError: SimpleITK is not installed.
    """
    for image in (moving, fixed):
        _check(image)
    itk.on_one_thread()
    sitk = itk.simpleitk()
    transform = _best_pose(_Level(fixed, moving, _COARSE_MM), _starts(sitk, moving, fixed))
    levels = [_Level(fixed, moving, level_mm) for level_mm in _FINE_MM]
    similarity = [level.optimised(transform) for level in levels][-1]
    if freedom == "affine":
        affine = sitk.AffineTransform(3)
        affine.SetCenter(transform.GetCenter())
        affine.SetMatrix(transform.GetMatrix())
        affine.SetTranslation(transform.GetTranslation())
        transform = affine
        similarity = [level.optimised(transform) for level in levels][-1]
    return Registration(motion=itk.motion_of(transform), similarity=similarity)


def _check(image: Placed) -> None:
    shape = image.grid.shape_vox
    if min(shape) < _FEWEST_VOX:
        raise CaseRejected(
            f"an image of {'×'.join(map(str, shape))} voxels cannot be aligned: expected at least "
            f"{_FEWEST_VOX} along each axis"
        )
    if not np.isfinite(image.voxels).all() or image.voxels.min() == image.voxels.max():
        raise CaseRejected("is of one value, or has voxels that are no number")


class _Level:
    """Both images at one resolution, and what is optimised there."""

    def __init__(self, fixed: Placed, moving: Placed, level_mm: float) -> None:
        coarse = _at(fixed, level_mm)
        head = _head(coarse)
        self._fixed, self._moving = itk.image_of(coarse), itk.image_of(_at(moving, level_mm))
        self._method = method = itk.simpleitk().ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricFixedMask(itk.mask_of(head, coarse.grid))
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = min(1.0, _SAMPLES / max(1, int(np.count_nonzero(head))))
        method.SetMetricSamplingPercentage(share, _SEED)
        method.SetInterpolator(itk.simpleitk().sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=level_mm / 2,
            minStep=1e-3,
            numberOfIterations=_ROUNDS,
            relaxationFactor=0.8,
            gradientMagnitudeTolerance=1e-8,
        )

    def similarity(self, transform: Any) -> float:
        """Mutual information as it lies; less than any where the images do not meet."""
        self._method.SetInitialTransform(transform, inPlace=False)
        try:
            return -float(self._method.MetricEvaluate(self._fixed, self._moving))
        except RuntimeError:
            return -math.inf

    def optimised(self, transform: Any) -> float:
        """Bring a transform to the optimum near it; the mutual information there."""
        turns = len(transform.GetParameters()) - 3
        self._method.SetOptimizerScales([_LEVER_MM**2] * turns + [1.0] * 3)
        self._method.SetInitialTransform(transform, inPlace=True)
        try:
            self._method.Execute(self._fixed, self._moving)
        except RuntimeError as error:
            raise CaseRejected("cannot be aligned: too little of the head is on both") from error
        return -float(self._method.GetMetricValue())


def _at(image: Placed, level_mm: float) -> Placed:
    """The image at a coarser spacing, from 0 to 1, float32.

    Slices that are thicker stay: what lies between them is nobody's measurement.
    """
    shape, spacing = np.array(image.grid.shape_vox), np.array(image.grid.spacing_mm)
    sides = np.maximum(1, np.rint(shape * spacing / np.maximum(spacing, level_mm))).astype(int)
    factors = shape / sides
    affine = image.grid.affine @ np.diag([*factors, 1.0])
    affine[:3, 3] = placed.moved(image.grid.affine, ((factors - 1) / 2)[None])[0]
    voxels = _normalised(image.voxels)
    sd_vox = [0.5 * math.sqrt(max(0.0, factor**2 - 1)) for factor in factors]
    if max(sd_vox) > 0:
        voxels = ndimage.gaussian_filter(voxels, sd_vox, truncate=3.0, mode="nearest")
    height, width, depth = (int(side) for side in sides)
    grid = Grid(shape_vox=(height, width, depth), affine=affine)
    coarse = ndimage.affine_transform(
        voxels, np.diag(factors), (factors - 1) / 2, grid.shape_vox, order=1, mode="nearest"
    )
    return Placed(voxels=coarse, grid=grid)


def _normalised(voxels: Array) -> Array:
    # NumPy's own float64 would make the whole image one.
    low, high = map(float, np.percentile(voxels[::2, ::2], (1, 99.5)))
    return np.asarray(np.clip((voxels.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1))


def _head(image: Placed) -> Mask:
    """The head without air, and a rim around it."""
    bright = image.voxels > _HEAD * image.voxels.mean()
    opened = ndimage.binary_opening(bright)
    head = ndimage.binary_fill_holes(opened if opened.any() else bright)
    rounds = [round(_AROUND_MM / side) for side in image.grid.spacing_mm]
    return np.asarray(ndimage.binary_dilation(head, iterations=max(1, min(rounds))))


def _starts(sitk: Any, moving: Placed, fixed: Placed) -> list[Any]:
    """Poses to begin with: as the scanner has it, and heads on heads; each tilted both ways."""
    middle = _centre(fixed)
    offsets = [np.zeros(3), _centre(moving) - middle]
    starts = []
    for offset, angles in itertools.product(offsets, itertools.product(_TILTS_DEG, repeat=3)):
        start = sitk.Euler3DTransform()
        start.SetCenter(itk.point_of(middle))
        start.SetRotation(*(math.radians(angle) for angle in angles))
        start.SetTranslation(itk.point_of(offset))
        starts.append(start)
    return starts


def _centre(image: Placed) -> Floats:
    """Centre of what is brighter than the mean: air is not."""
    bright = image.voxels > image.voxels.mean()
    counts = (bright.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3))
    middle = [float(np.average(np.arange(len(count)), weights=count)) for count in counts]
    return np.asarray(placed.moved(image.grid.affine, np.array(middle)[None])[0])


def _best_pose(level: _Level, starts: list[Any]) -> Any:
    """The best end of a search from the most promising poses."""
    promising = sorted(starts, key=level.similarity, reverse=True)[:_POSES]
    ends = [(level.optimised(start), start) for start in promising]
    return max(ends, key=lambda pair: pair[0])[1]
