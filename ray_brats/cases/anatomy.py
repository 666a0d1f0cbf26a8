"""What the anatomy of gliomas makes unlikely in masks: labels in another project's order.

Around a glioma's necrotic core lies its enhancing rim, and edema around both. Which class lies
outside is told by the tumour's *outer voxels*, those with background on one of their six sides.
A class lies around the edema where it has more of them than the edema and, for its volume, a
quarter more: a non-enhancing core may reach the border as widely as its edema does, but then
edema is what is left beside it, thin and exposed.

In 34 real masks (29 high grade, 5 others) no class lay so; with the labels of necrosis and edema
exchanged it did in all 34, with those of edema and enhancing tumour in 33.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_brats import labels
from ray_brats.arrays import bounding_box, clipped, grown
from ray_brats.files.ledger import CaseRow
from ray_brats.labels import LabelMap, Targets, Task
from ray_brats.recipes.tasks import GLIOMA

FACT = "outline"
"""The fact of a case's row that holds the `Outline` of its mask."""
_MORE_EXPOSED = 1.25
"""Between the 1.6 that the least exposed edema of the real masks has, and 1."""
_ENOUGH = 5
"""Masks from which on a region that none has is worth a word: two of five gliomas of low grade
have no enhancing tumour."""
_MANY = 20
"""The same of edema, which more of other tumours have none of."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """How much there is of each tumour class, and how much of the tumour's border it holds."""

    volume_vox: tuple[int, ...]
    """By class, in the order of the class indices from 1 on."""
    outer_vox: tuple[int, ...]
    """Of these, the voxels with background on one of their six sides."""

    def as_json(self) -> dict[str, list[int]]:
        """Plain values; `from_json` is the inverse."""
        return {"volume_vox": list(self.volume_vox), "outer_vox": list(self.outer_vox)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Outline:
        """The outline of a row."""
        return Outline(**{name: tuple(counts) for name, counts in values.items()})

    def share(self, class_index: int) -> float:
        """The share of the tumour's outer voxels that a class holds; 0 where there is none."""
        return self.outer_vox[class_index - 1] / max(1, sum(self.outer_vox))

    def holds(self, class_index: int) -> bool:
        """Whether there is any of a class."""
        return self.volume_vox[class_index - 1] > 0

    def lies_around(self, outer: int, inner: int) -> bool:
        """Whether one class lies around another; see above."""
        border, other_border = self.outer_vox[outer - 1], self.outer_vox[inner - 1]
        volume, other_volume = self.volume_vox[outer - 1], self.volume_vox[inner - 1]
        more_exposed = border * other_volume > _MORE_EXPOSED * other_border * volume
        return border > other_border and more_exposed


def outline(index_HWD: LabelMap, targets: Targets) -> Outline:
    """The outline of a map of class indices; what lies beyond the array is no background."""
    box = clipped(grown(bounding_box(index_HWD), (1, 1, 1)), index_HWD.shape)
    tumour = index_HWD[box]
    background = tumour == labels.BACKGROUND
    is_outer = np.zeros_like(background)
    for axis in range(tumour.ndim):
        one, other = np.moveaxis(background, axis, 0), np.moveaxis(is_outer, axis, 0)
        other[1:] |= one[:-1]
        other[:-1] |= one[1:]
    classes = [tumour == number for number in targets.indices]
    return Outline(
        volume_vox=tuple(int(np.count_nonzero(mask)) for mask in classes),
        outer_vox=tuple(int(np.count_nonzero(mask & is_outer)) for mask in classes),
    )


def of_rows(rows: Iterable[CaseRow], fact: str = FACT) -> dict[str, Outline]:
    """The outlines of the rows that hold one as this fact, by `case_id`."""
    return {row.case_id: Outline.from_json(row.facts[fact]) for row in rows if fact in row.facts}


def warnings(outlines: Mapping[str, Outline], masks: str, task: Task) -> list[str]:
    """What to say of the masks of a cohort; nothing where they look like those of its task.

    Args:
        outlines: by `case_id`.
        masks: what to call them, in the plural.
        task: whose labels they were read as.
    """
    found = (_exchanged(outlines, masks, task), _empty(outlines, masks, task.targets))
    return [f"warning: {sentence}" for sentence in found if sentence]


def _exchanged(outlines: Mapping[str, Outline], masks: str, task: Task) -> str:
    """The class that lies around the edema in more than half of the cases that have both."""
    targets, edema = task.targets, task.targets.edema
    if edema is None or targets != GLIOMA:
        return ""
    names = targets.class_names
    strange: dict[int, list[str]] = {}
    both: dict[int, int] = {}
    for outer in sorted(set(targets.learnt[0].classes) - {edema}):
        having = {k: v for k, v in outlines.items() if v.holds(outer) and v.holds(edema)}
        both[outer] = len(having)
        strange[outer] = [k for k, v in having.items() if v.lies_around(outer, edema)]
    likely = [outer for outer, cases in strange.items() if 2 * len(cases) > both[outer]]
    if not likely:
        return ""
    outer = max(likely, key=lambda number: len(strange[number]))
    raw = labels.from_class_index(np.array([outer, edema]), task)
    return (
        f"the {masks} look as if label {raw[0]} were {names[edema]} and label {raw[1]} "
        f"{names[outer]}: {names[outer]} lies around the {names[edema]} in "
        f"{len(strange[outer])} of {both[outer]} case(s) that have both ({strange[outer][0]} "
        "among them), where in gliomas it lies inside. Pass --task with the task whose "
        "labels these are, or relabel them"
    )


def _empty(outlines: Mapping[str, Outline], masks: str, targets: Targets) -> str:
    """The widest region that no mask has: the whole tumour of any number, others of enough."""
    widest, others = targets.regions[0], targets.regions[1:]
    if targets != GLIOMA:
        # That a case has no cavity or cyst is as usual.
        others = tuple(region for region in others if region.classes == (targets.edema,))
    for region in (widest, *others):
        enough = 1 if region == widest else _ENOUGH if targets == GLIOMA else _MANY
        if len(outlines) >= enough and not any(
            item.holds(number) for item in outlines.values() for number in region.classes
        ):
            return (
                f"the {region.title} ({region.name}) is empty in the {masks} of all "
                f"{len(outlines)} case(s), {next(iter(outlines))} among them: look whether they "
                "are the right files, and whether --task says what their labels mean"
            )
    return ""
