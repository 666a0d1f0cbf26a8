"""What somebody should look at in a case before it is trusted: sentences, one a doubt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from ray_brats.arrays import Array, Floats, Mask
from ray_brats.cases import background
from ray_brats.cases.naming import MODALITIES
from ray_brats.cases.raw import elements, kinds, placed
from ray_brats.cases.raw.choice import Choice
from ray_brats.cases.raw.placed import Grid
from ray_brats.recipes.config import PreprocessConfig

_FAR_DEG, _FAR_MM = 25.0, 60.0
"""Farther than this hardly any patient moves between two series."""
_LEAST_COVER: Final = 0.97
"""Share of the brain that a series shows, below which it is told."""
_MOST_NEGATIVE: Final = 0.001
"""Share of the brain whose values are below 0, above which it is told."""


def of_choice(chosen: Choice) -> list[str]:
    """What is not sure of the series that were taken."""
    doubts = []
    for modality, item in chosen.chosen.items():
        if modality in chosen.unsure:
            doubts.append(f"{modality} is {item.name} by {chosen.reasons[modality]}")
        doubts += [f"{modality}: {text}" for text in item.warnings]
    return doubts


def of_missing(chosen: Choice, ignored: Iterable[tuple[str, str]]) -> list[str]:
    """Which ignored series, by their names, are of a modality that was found in no other.

    Args:
        chosen: what was taken.
        ignored: names of all series and images that were not, each with why.
    """
    alike: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, why in ignored:
        modality = kinds.modality_in(name)
        if modality is not None and why != elements.NOT_DICOM:
            alike[modality].append((name, why))
    doubts = []
    for modality in MODALITIES:
        if alike[modality] and modality not in {*chosen.chosen, *chosen.left_out}:
            (name, why), *others = alike[modality]
            # What follows are remarks of their own.
            told = f"{modality}: {name} looks like it and was ignored: {why.split('; ')[0]}"
            doubts.append(f"{told} (and {len(others)} more)" if others else told)
    return doubts


def of_absent(chosen: Choice) -> list[str]:
    """Which modalities are not there that recipes take, unless somebody does not want them."""
    usual = PreprocessConfig().modalities
    absent = [name for name in usual if name not in {*chosen.chosen, *chosen.left_out}]
    if not absent:
        return []
    return [f"no {', '.join(absent)}: models that take it, as the starter does, refuse the case"]


def of_stripped(modality: str, voxels: Array) -> list[str]:
    """Whether the reference is a brain alone before it is stripped."""
    if not background.is_stripped(voxels):
        return []
    return [
        f"{modality} has no skull already: if the cohort is one of stripped and aligned scans, "
        "`check` and `score` take it as it is"
    ]


def of_border(inside: Mask | None) -> list[str]:
    """Whether the space holds all of the brain."""
    if inside is None:
        return []
    ends = [np.moveaxis(inside, axis, 0)[place].any() for axis in range(3) for place in (0, -1)]
    cut = "the brain reaches the border of the grid: a part of it may be outside"
    return [cut] if any(ends) else []


def of_motions(reference: str, motions: Mapping[str, Floats], fixed: Grid) -> list[str]:
    """Which series lie farther from the reference, whose grid is `fixed`, than patients move."""
    doubts = []
    for name, motion in motions.items():
        degrees = placed.rotation_deg(motion)
        middle = fixed.centre_mm[None]
        mm = float(np.linalg.norm(placed.moved(motion, middle) - middle))
        if degrees > _FAR_DEG or mm > _FAR_MM:
            doubts.append(
                f"{name} lies {degrees:.0f}° and {mm:.0f} mm away from {reference}: look whether "
                "it is aligned"
            )
    return doubts


def of_values(name: str, covered: float, negative: float, what: str) -> list[str]:
    """What a series does not tell of the brain, or of the grid where nobody looked for one.

    Args:
        name: its modality.
        covered: share of it that the series shows.
        negative: share of it whose values are below 0.
        what: `brain` or `grid`.
    """
    doubts = []
    if covered < _LEAST_COVER:
        doubts.append(f"{name} shows {covered:.0%} of the {what}: the rest of it is 0")
    if negative > _MOST_NEGATIVE:
        doubts.append(
            f"{name} is below 0 in {negative:.1%} of the {what}, where nothing of it is kept: "
            "expected the scanner's own values"
        )
    return doubts
