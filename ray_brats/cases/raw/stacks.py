"""Slices one behind the other: their order, their distance, and what is wrong with it.

Heights are places along the normal of the slices, in mm. Nothing is repaired in silence: what can
be read with a remark has one, what cannot is a sentence instead.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_brats.arrays import Floats

_SAME_PLACE_MM = 0.01
"""How near to one another slices are of one place."""
_UNIT = 0.05
"""How far from 1 the normal may be whose directions a header has rounded."""
_ASIDE_MM = 1.0
"""How far the last slice may be shifted against the first."""
_GAP = 1.5
"""Distances so many times the usual one have room for a slice."""
_MOST_MISSING = 0.5
"""How many slices may be missing, for each that is there."""
_UNEVEN = 0.1
"""Share of their distance from which on slices out of place are told."""
_CHAOS = 0.5
"""The same, from which on they are no stack."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Images in the order of their places."""

    order: tuple[int, ...]
    """Which images are taken, the lowest first."""
    places: tuple[int, ...] = ()
    """Which slice of the whole each one is, from 0; empty where none is missing."""
    slice_mm: float | None = None
    """Distance of neighbouring slices; None of one slice."""
    volumes: int = 1
    """Images at each place."""
    notes: tuple[str, ...] = ()


def stack(positions_mm: Floats, orientation: Sequence[float]) -> Stack | str:
    """The stack that images of one direction make, or why they make none.

    Args:
        positions_mm: place of the first voxel of each, `(N, 3)`; of one place the first counts.
        orientation: direction of rows, then of columns.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    if abs(np.linalg.norm(normal) - 1) > _UNIT:
        return "the directions of its rows and columns are damaged"
    levels = _levels(positions_mm @ normal)
    order = [level[0] for level in levels]
    slice_mm, places = _steps(positions_mm[order] @ normal)
    missing = places[-1] + 1 - len(places)
    if missing > _MOST_MISSING * len(places):
        return f"too many of its slices are missing: {missing} of {places[-1] + 1}"
    apart = _apart(positions_mm[order] @ normal, slice_mm, places)
    if apart > _CHAOS:
        return "the distances of its slices are irregular: no stack of slices"
    if _aside_mm(positions_mm[order], normal) > _ASIDE_MM:
        return "its slices are shifted against each other (a tilted stack)"
    usual = Counter(map(len, levels)).most_common(1)[0][0]
    if usual > 1 and (missing or any(len(level) != usual for level in levels)):
        return f"it has {usual} images at most of its places, and not at all: some are missing"
    extra = 0 if usual > 1 else len(positions_mm) - len(levels)
    remarks = (
        (usual > 1, f"{usual} images at each place: several echoes or times"),
        (extra, f"{extra} of its images lie where another lies: one of each is taken"),
        (missing, f"{missing} of {places[-1] + 1} slices are missing between others"),
        (apart > _UNEVEN, "the distances of its slices vary: their mean is taken"),
    )
    return Stack(
        order=tuple(itertools.chain(*levels)) if usual > 1 else tuple(order),
        places=places if missing else (),
        slice_mm=slice_mm,
        volumes=usual,
        notes=tuple(text for is_so, text in remarks if is_so),
    )


def _levels(heights: Floats) -> list[list[int]]:
    """Images by their height, the lowest first."""
    order = np.argsort(heights, kind="stable")
    starts = np.flatnonzero(np.diff(heights[order]) > _SAME_PLACE_MM) + 1
    return [sorted(part.tolist()) for part in np.split(order, starts)]


def _steps(heights: Floats) -> tuple[float | None, tuple[int, ...]]:
    """Distance of neighbouring slices, and which slice each one is."""
    distances = np.diff(heights)
    if not len(distances):
        return None, (0,)
    near = distances < _GAP * np.median(distances)
    slice_mm = float(distances[near].mean())
    steps = np.where(near, 1, np.rint(distances / slice_mm)).astype(int)
    return slice_mm, (0, *itertools.accumulate(steps.tolist()))


def _apart(heights: Floats, slice_mm: float | None, places: Sequence[int]) -> float:
    """How far slices are from where they are expected at most, in their distance."""
    if slice_mm is None:
        return 0.0
    expected = heights[0] + slice_mm * np.array(places)
    return float(np.abs(expected - heights).max() / slice_mm)


def _aside_mm(positions_mm: Floats, normal: Floats) -> float:
    """How far slices are shifted along their planes at most."""
    moves = positions_mm - positions_mm[0]
    return float(np.linalg.norm(moves - np.outer(moves @ normal, normal), axis=1).max())
