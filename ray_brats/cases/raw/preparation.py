"""One patient from series on their own grids to a case: aligned, upright, stripped.

    series ── register ──> reference ── register its brain ──> space
       └───────────── one motion, one interpolation ────────────┘

The reference is T1CE, else the series of the thinnest slices. The brain is found at 1 mm on the
reference's own axes, and turns the head: templates have no skull.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ray_brats.arrays import Array, Floats, Mask
from ray_brats.cases.raw import bias, brain, doubts, placed, registration
from ray_brats.cases.raw.extra import found
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.cases.raw.registration import Freedom
from ray_brats.cases.raw.space import PATIENT, Space, space_of, upright
from ray_brats.errors import CaseRejected

Stored = npt.NDArray[np.int16]

_SHOWS_BRAIN: Final = ("t1", "t1ce", "flair", "t2")
"""What the brain is looked for in: the networks were made for the first."""
_ORDER: Final = 3
_MOST_STORED: Final = 16_384
_MOST_MM: Final = 512.0
"""Extent of a series beyond which its header is wrong: a head with its neck has half of it."""


@dataclass(frozen=True, kw_only=True)
class PreparationOptions:
    """What is done with each patient."""

    space: str = "mni152"
    """`mni152`, `patient`, or the file of somebody's own template."""
    freedom: Freedom = "rigid"
    """How heads are brought to the template."""
    keep_skull: bool = False
    """Leave what is outside of the brain as it is."""
    n4: bool = False
    """Correct the bias field of each series first."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the series of a patient lie to each other."""

    reference: str
    """Modality that the others were brought to."""
    motions: Mapping[str, Floats]
    """Modality to the map from the world of the reference to that of the series."""
    similarities: Mapping[str, float]
    """Mutual information with the reference, nats; of all but the reference."""


@dataclass(frozen=True, kw_only=True)
class Brought:
    """One series in the space."""

    voxels: Stored
    """`(H, W, D)`; 0 outside of the brain, unless the skull was kept."""
    head: Array
    """The same with the skull, float32, for the eye."""
    motion: Floats
    """Map from the world of the space to that of the series."""
    scale: float
    """What values were multiplied by before they became whole numbers, a power of two."""
    covered: float
    """Share of the brain, or of the grid, that the series shows."""
    negative: float
    """Share of the same whose values were below 0, and are not kept."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A case in its space."""

    images: Mapping[str, Brought]
    """By modality."""
    grid: Grid
    alignment: Alignment
    brain: Mask | None
    """On the grid; None where nobody looked for it."""
    brain_ml: float | None
    warnings: Sequence[str]


def prepare(
    series: Mapping[str, Placed], options: PreparationOptions, mask: Placed | None = None
) -> Prepared:
    """Bring the series of one patient together.

    Args:
        series: by modality, on their own grids, in the world of one scanner.
        options: where to, and how.
        mask: a brain that somebody else has outlined, on any grid in the reference's world.

    Raises:
        CaseRejected: a series without content or that cannot be aligned, or no brain.
        UsageError: a package of the extra is missing.
    """
    series = {name: _usable(name, image, n4=options.n4) for name, image in series.items()}
    space, alignment = space_of(options.space), aligned(series)
    fixed = series[alignment.reference].grid
    own = None
    if mask is not None or space.template is not None or not options.keep_skull:
        own = _own_brain(series, alignment, mask)
    brain_ml = None if own is None else _volume_ml(own)
    # What is no brain turns no head.
    remarks = [] if brain_ml is None else brain.judged(brain_ml)
    turn = _turn(series[alignment.reference], own, space, options.freedom)
    grid = space.grid_for(fixed)
    inside = None if own is None else _inside(own, grid, turn)
    kept = None if options.keep_skull else inside
    images = {
        name: _brought(image, grid, alignment.motions[name] @ turn, inside, kept)
        for name, image in series.items()
    }
    what = "grid" if inside is None else "brain"
    return Prepared(
        images=images,
        grid=grid,
        alignment=alignment,
        brain=inside,
        brain_ml=brain_ml,
        warnings=[
            *remarks,
            *doubts.of_border(inside),
            *doubts.of_motions(alignment.reference, alignment.motions, fixed),
            *(
                text
                for name, image in images.items()
                for text in doubts.of_values(name, image.covered, image.negative, what)
            ),
        ],
    )


def check_packages(
    options: PreparationOptions, *, has_masks: bool, has_dicom: bool = False
) -> None:
    """`UsageError` for a package of the extra that will be missed, before an hour's work."""
    needed = ["SimpleITK"]
    if not has_masks and not (options.keep_skull and options.space == PATIENT):
        needed += ["torch", "deepbet"]
    if has_dicom:
        needed += ["dcm2niix"]
    for name in needed:
        found(name)


def aligned(series: Mapping[str, Placed]) -> Alignment:
    """Bring all series to the reference."""
    reference = reference_of({name: image.grid for name, image in series.items()})
    motions, similarities = {reference: np.eye(4)}, {}
    for name, image in series.items():
        if name == reference:
            continue
        with _named(f"{name} against {reference}"):
            way = registration.register(image, series[reference])
        motions[name], similarities[name] = way.motion, way.similarity
    return Alignment(reference=reference, motions=motions, similarities=similarities)


def reference_of(grids: Mapping[str, Grid]) -> str:
    """T1CE, else the modality of the thinnest slices; of equal ones the first by name."""
    if "t1ce" in grids:
        return "t1ce"
    return min(sorted(grids), key=lambda name: round(max(grids[name].spacing_mm), 2))


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors of a case inside say what they are of."""
    try:
        yield
    except CaseRejected as error:
        raise CaseRejected(f"{what}: {error.reason}") from error


def _usable(name: str, image: Placed, *, n4: bool) -> Placed:
    """A series that holds an image of a head's size; without its bias field if that is asked."""
    if not np.isfinite(image.voxels).all():
        raise CaseRejected(
            f"{name} has voxels that are no number: expected none, so set them to the value of air"
        )
    if image.voxels.min() == image.voxels.max():
        raise CaseRejected(f"{name} is of one value: there is no image in it")
    extent_mm = max(np.multiply(image.grid.shape_vox, image.grid.spacing_mm))
    if extent_mm > _MOST_MM:
        raise CaseRejected(
            f"{name} is {extent_mm:.0f} mm long: expected a head, of at most {_MOST_MM:.0f} mm; "
            "look at the spacing in its header"
        )
    with _named(name):
        return bias.corrected(image) if n4 else image


def _own_brain(series: Mapping[str, Placed], alignment: Alignment, mask: Placed | None) -> Placed:
    """The brain at 1 mm on the reference's own axes."""
    grid = upright(series[alignment.reference].grid)
    if mask is None:
        name = _shows_brain(series)
        image = placed.resampled(series[name], grid, alignment.motions[name])
        with _named(name):
            return Placed(voxels=brain.found(Placed(voxels=image, grid=grid)), grid=grid)
    # Whatever number the mask's brain has.
    given = Placed(voxels=mask.voxels >= 0.5, grid=mask.grid)
    outlined = placed.resampled(given, grid, np.eye(4)) >= 0.5
    if not outlined.any():
        raise CaseRejected(
            f"the mask of its brain is empty where {alignment.reference} lies: expected one in the "
            f"world of {alignment.reference}"
        )
    return Placed(voxels=brain.cleaned(outlined, margin_vox=0), grid=grid)


def _shows_brain(series: Mapping[str, Placed]) -> str:
    """T1, but T1CE where its slices are clearly thinner; without both what there is."""
    names = [name for name in _SHOWS_BRAIN if name in series]
    if {"t1", "t1ce"} <= series.keys():
        thick = {name: max(series[name].grid.spacing_mm) for name in ("t1", "t1ce")}
        return "t1ce" if thick["t1"] > 1.5 * thick["t1ce"] else "t1"
    return names[0]


def _turn(reference: Placed, own: Placed | None, space: Space, freedom: Freedom) -> Floats:
    """The map from the world of the space to that of the reference."""
    if space.template is None or own is None:
        return np.eye(4)
    values = placed.resampled(reference, own.grid, np.eye(4))
    stripped = Placed(voxels=np.where(own.voxels, values, 0), grid=own.grid)
    with _named(f"the brain against {space.name}"):
        return registration.register(stripped, space.template, freedom).motion


def _inside(own: Placed, grid: Grid, turn: Floats) -> Mask:
    """The brain on the grid of the space."""
    inside = placed.resampled(own, grid, turn) >= 0.5
    if not inside.any():
        raise CaseRejected("its brain lies outside of the grid of the space: look at the scans")
    return inside


def _brought(
    image: Placed, grid: Grid, motion: Floats, brain_HWD: Mask | None, kept_HWD: Mask | None
) -> Brought:
    """One series on the grid of the space: interpolated once, in whole numbers."""
    shown = placed.shown(image.grid, grid, motion)
    values = placed.resampled(image, grid, motion, order=_ORDER)
    wanted = np.ones(grid.shape_vox, bool) if brain_HWD is None else brain_HWD
    peak = float(values[wanted].max(initial=0))
    scale = 2.0 ** math.floor(math.log2(_MOST_STORED / peak)) if peak > 0 else 1.0
    voxels = np.clip(np.rint(values * scale), 0, np.iinfo(np.int16).max).astype(np.int16)
    if kept_HWD is not None:
        # Zero is what surrounds a brain: no voxel of a brain is.
        voxels = np.where(kept_HWD & shown, np.maximum(voxels, 1), 0).astype(np.int16)
    return Brought(
        voxels=voxels,
        head=values,
        motion=motion,
        scale=scale,
        covered=float(shown[wanted].mean()),
        negative=float((values[wanted] < 0).mean()),
    )


def _volume_ml(mask: Placed) -> float:
    voxel_ml = abs(float(np.linalg.det(mask.grid.affine[:3, :3]))) / 1000
    return np.count_nonzero(mask.voxels) * voxel_ml
