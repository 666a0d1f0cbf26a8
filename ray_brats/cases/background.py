"""What of a scan is background: found, not assumed to be zero.

The surroundings of a stripped brain have one value, which fills the border of the scan. It is 0
in the releases, but not where somebody computed z-scores over the whole array, wrote an offset
into the header, or saved floats under a header of integers, whose zeros come back as 0.0016.
Where no value fills the border, or the box around all else is fuller than a brain fills it, the
scan has its skull on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cc3d
import numpy as np

from ray_brats import arrays
from ray_brats.arrays import Array, Mask
from ray_brats.errors import CaseRejected

BORDER_SHARE = 0.5
"""Share of the border that the background fills at least. Measured: 0.986 and more in 111 stripped
scans; with the skull on, 0.07 to 0.17 in four amid noise, and 0.76 to 0.83 in three whose air was
set to 0, which the next rule tells."""
BOX_SHARE = 0.45
"""Share of the box around all else that is background at least. Measured in the same scans: 0.503
to 0.60 where they are stripped, 0.018 to 0.414 with the skull on."""
LEAST_VALUES = 8
"""Fewer different values than this are a mask's, not a scan's."""
STRANGE_SHARE = 0.05
"""Brain masks of modalities differ by up to 3 % of the brain in the releases."""
SKULL = (
    "looks as if it were not skull-stripped: {why}. Expected a brain alone, in surroundings of "
    "one value: `ray-brats prepare` does that, or, if you know better, pass --allow-skull (where a "
    "recipe is named, --set preprocess.allow_skull=true)"
)


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """A scan whose background is exactly 0, as is nothing else in it."""

    voxels_HWD: Array
    remarks: tuple[str, ...] = ()
    """What had to be done to it."""
    strange_HWD: Mask | None = None
    """Voxels that are no number, all of them taken for background; None where there is none."""


def cleared(voxels: Array, *, allow_skull: bool = False) -> Cleared:
    """The scan `(H, W, D)` with its background at 0; itself where it is there already.

    All else keeps its distance from the background. Only a value that was put below zero, as
    -1024 around a scan of positive values, tells no distance: it alone becomes 0.

    Args:
        voxels: of one modality, in canonical axes.
        allow_skull: take also what does not look like a brain alone.

    Raises:
        CaseRejected: a skull, no content, or voxels amid the brain that are no number.
    """
    remarks, strange = [], None
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        strange = ~np.isfinite(voxels)
        voxels = _without_nan(voxels, strange)
        count = np.count_nonzero(strange)
        remarks.append(f"{count} voxels that are no number, all outside, count as background")
    value, share = _filling(_border(voxels))
    if share < BORDER_SHARE:
        if not allow_skull:
            raise CaseRejected(SKULL.format(why=f"no one value fills its border ({share:.0%})"))
        return Cleared(voxels_HWD=voxels, remarks=tuple(remarks), strange_HWD=strange)
    if value != 0:
        remarks.append(f"its background is {value:g}, and is taken for 0")
    cleared_HWD = voxels if value == 0 else _shifted(voxels, value)
    box = arrays.bounding_box(cleared_HWD)
    if arrays.is_empty(box):
        if strange is not None:
            raise CaseRejected("holds NaN or infinite voxels, and no image besides")
        what = f"{value:g}" if value else "zero"
        raise CaseRejected(f"is {what} everywhere: there is no image in it")
    inside = cleared_HWD[box]
    filled = float(np.mean(inside != 0))
    if filled > 1 - BOX_SHARE and not allow_skull:
        why = f"{filled:.0%} of the box around it is filled, where a brain fills some 50 %"
        raise CaseRejected(SKULL.format(why=why))
    _check_content(inside)
    return Cleared(voxels_HWD=cleared_HWD, remarks=tuple(remarks), strange_HWD=strange)


def has_skull(voxels: Array) -> bool:
    """Whether a scan is sound but for its skull."""
    return not is_stripped(voxels) and _is_sound(voxels, allow_skull=True)


def is_stripped(voxels: Array) -> bool:
    """Whether a scan is a brain alone, in surroundings of one value."""
    return _is_sound(voxels)


def _is_sound(voxels: Array, *, allow_skull: bool = False) -> bool:
    try:
        cleared(voxels, allow_skull=allow_skull)
    except CaseRejected:
        return False
    return True


def check_strange(scans: Mapping[str, Cleared], names: Mapping[str, str]) -> None:
    """Raise `CaseRejected` for a scan that is no number where the others show brain.

    Args:
        scans: modality to what `cleared` gave, on one grid.
        names: what errors call it, by modality.
    """
    for kind, scan in scans.items():
        others = [other.voxels_HWD for other in scans.values() if other is not scan]
        if scan.strange_HWD is None or not others:
            continue
        brain = np.logical_or.reduce([voxels != 0 for voxels in others])
        lost = int(np.count_nonzero(brain & scan.strange_HWD)) / int(np.count_nonzero(brain))
        if lost > STRANGE_SHARE:
            why = f"{kind} holds NaN or infinite voxels in {lost:.0%} of what is brain elsewhere"
            raise CaseRejected(why, names[kind])


def _border(voxels: Array) -> Array:
    """The voxels of the six outermost planes; those of edges stand there more than once."""
    ends = (np.moveaxis(voxels, axis, 0)[place] for axis in range(3) for place in (0, -1))
    return np.concatenate([plane.ravel(order="K") for plane in ends])


def _filling(border: Array) -> tuple[float, float]:
    """The most frequent value, and its share."""
    if (border == border[0]).all():
        return border[0], 1.0
    values, counts = np.unique(border, return_counts=True)
    most = int(counts.argmax())
    return values[most], float(counts[most]) / border.size


def _check_content(inside: Array) -> None:
    """Refuse a brain of few values: a mask in the place of a scan."""
    # A few voxels nearly always tell.
    for part in (inside[::4, ::4, ::4], inside):
        values = np.unique(part[part != 0])
        if len(values) >= LEAST_VALUES:
            return
    some = ", ".join(f"{value:g}" for value in values)
    raise CaseRejected(f"holds nothing but {some} besides its background: a mask, not a scan")


def _shifted(voxels: Array, value: float) -> Array:
    """The voxels with the value of the background at 0, in float32 where they are not float64."""
    brain = voxels != value
    least = float(voxels[brain].min()) if brain.any() else value
    offset = 0.0 if value < 0 < least else float(value)
    shifted = np.empty_like(voxels, np.float64 if voxels.dtype == np.float64 else np.float32)
    for plane in range(voxels.shape[-1]):
        # In float64: what is no background must not become 0 by rounding.
        exact = voxels[..., plane].astype(np.float64) - offset
        shifted[..., plane] = np.where(brain[..., plane], exact, 0)
    return shifted


def _without_nan(voxels: Array, strange: Mask) -> Array:
    """The voxels with those that are no number set to the background, where they lie outside.

    Outside is what the border reaches through background and NaN alone.
    """
    border = _border(voxels)
    known = border[np.isfinite(border)]
    value = _filling(known)[0] if known.size else voxels.dtype.type(0)
    pieces = cc3d.connected_components((strange | (voxels == value)).astype(np.uint8))
    reached = np.unique(_border(pieces))
    outside = np.isin(pieces, reached[reached > 0])
    inside = int(np.count_nonzero(strange & ~outside))
    if inside:
        raise CaseRejected(f"holds NaN or infinite voxels inside the brain ({inside})")
    return np.where(strange, value, voxels)
