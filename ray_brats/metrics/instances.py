"""Scores by instance, as the evaluator of the BraTS challenge of 2026 defines them.

An *instance* is a 26-connected component of a mask. Those of the reference are matched one to one
with those of the prediction, so that the Dice of the matches has the largest sum (`panoptica`
2.1.7, `MaxBipartiteMatching`). A match is a true positive, what is left over a false negative or
a false positive. For metastases small instances of the reference count by detection alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from scipy import optimize, sparse

from ray_brats import arrays
from ray_brats.arrays import Array, Floats, Mask
from ray_brats.metrics.borders import BorderDistances
from ray_brats.metrics.components import Counts, Overlaps, Parts, numbered, overlaps
from ray_brats.metrics.surfaces import Boundary

LEAST_DICE: Final = 1e-6
"""Dice from which two instances may be a match."""
FOUND_DICE: Final = 0.1
"""Dice from which a small instance counts as found."""
INFINITE_HD95_MM: Final = 373.0
"""What the challenge counts where a distance is infinite: about the diagonal of a BraTS volume."""
TOLERANCE_MM: Final = 1.0

_MOST_DENSE: Final = 1 << 22
"""Pairs of parts, met or not, up to which a table of all of them is made."""


class Matches(NamedTuple):
    """Pairs of instances, each of which stands in one pair at most."""

    own: Counts
    """Number of the reference's instance, from 1; (n,)."""
    other: Counts
    """Number of the prediction's; (n,)."""
    dice: Floats
    """Their Dice; (n,)."""

    def which(self, chosen: Array) -> Matches:
        """Some of the pairs, by a mask or by their places."""
        return Matches(self.own[chosen], self.other[chosen], self.dice[chosen])


@dataclass(frozen=True, kw_only=True)
class SmallScores:
    """Detection of the instances of the reference that are too small for surfaces to tell."""

    tp: int
    fn: int
    f1: float


@dataclass(frozen=True, kw_only=True)
class InstanceScores:
    """How well the instances of a prediction meet those of a reference.

    The means are over the matches: 0, and infinite for HD95, where nothing matches; None where
    neither mask has an instance.
    """

    dice: float | None
    nsd_1mm: float | None
    nsd_voxel: float | None
    """At the smallest side of a voxel."""
    hd95_mm: float | None
    tp: int
    fp: int
    fn: int
    small: SmallScores | None = None
    """Of the small instances, where there are any and the rules treat them apart."""

    @property
    def precision(self) -> float | None:
        """Share of the prediction's instances that match; None where it has none."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float | None:
        """Share of the reference's instances that match; None where it has none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where neither mask has an instance."""
        return f1(self.tp, self.fp, self.fn)


def f1(tp: int, fp: int, fn: int) -> float | None:
    """F1 of a detection; None where there was nothing to detect and nothing was."""
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of one mask, and their borders."""

    labels: Array
    """Number of the instance of each voxel, from 1, in the box of the border."""
    count: int
    whole: Boundary
    """Border of the whole mask: of it every instance's own is a part."""

    @classmethod
    def of(cls, mask: Mask, border: Boundary) -> Instances:
        """Number the instances of a mask whose border is known."""
        return cls(*numbered(mask[border.box]), border)

    @cached_property
    def parts(self) -> Parts:
        """Their sizes and places."""
        return Parts(self.labels)

    @cached_property
    def voxels(self) -> Counts:
        """Voxels of each instance; what is not in one of them counts first, as number 0."""
        if self.count > 1:
            return self.parts.voxels
        own = int(np.count_nonzero(self.labels))
        return np.array([self.labels.size - own, *[own] * self.count])

    def border(self, number: int) -> Boundary:
        """Border of one instance."""
        if self.count == 1:
            return self.whole
        box = self.parts.box([number])
        border = self.whole.border[box] & (self.labels[box] == number)
        first = [side.start for side in self.whole.box]
        place = tuple(
            slice(side.start + start, side.stop + start)
            for side, start in zip(box, first, strict=True)
        )
        return Boundary(border, place, self.whole.spacing_mm)


def match(own_voxels: Counts, other_voxels: Counts, shared: Overlaps) -> Matches:
    """Match parts one to one so that the sum of the Dice of the pairs is the largest.

    Args:
        own_voxels, other_voxels: voxels of each part of the two masks; that of the background,
            number 0, stands first.
        shared: the pairs that share voxels.

    Returns:
        The pairs, by the number of the first. Of several answers with the same sum the one that
        `scipy.optimize.linear_sum_assignment` gives, as in `panoptica`; where more than four
        million pairs of parts are to choose from, any of them.
    """
    dice = 2 * shared.voxels / (own_voxels[shared.own] + other_voxels[shared.other])
    able = dice >= LEAST_DICE
    pairs = Matches(shared.own[able], shared.other[able], dice[able])
    shape = (len(own_voxels) - 1, len(other_voxels) - 1)
    few = math.prod(shape) <= _MOST_DENSE
    partner = _partners_of_few(pairs, shape) if few else _partners_of_many(pairs, len(own_voxels))
    real = np.flatnonzero(partner[pairs.own] == pairs.other)
    return pairs.which(real[np.argsort(pairs.own[real])])


def _partners_of_few(pairs: Matches, shape: tuple[int, int]) -> Array:
    """The number assigned to each of the first mask's parts, by its number; perhaps no match."""
    costs = np.full(shape, 1 + LEAST_DICE)
    costs[pairs.own - 1, pairs.other - 1] = 1 - pairs.dice
    rows, columns = optimize.linear_sum_assignment(costs)
    partner = np.zeros(shape[0] + 1, np.int64)
    partner[rows + 1] = columns + 1
    return partner


def _partners_of_many(pairs: Matches, count: int) -> Array:
    """The same over the pairs alone, where a table of all would not fit into memory."""
    owns, rows = np.unique(pairs.own, return_inverse=True)
    others, columns = np.unique(pairs.other, return_inverse=True)
    partner = np.zeros(count, np.int64)
    if not len(owns):
        return partner
    # A column of its own stands for "no match", so that every row finds one. What weighs nothing
    # is no edge, hence the 1.
    alone = np.arange(len(owns))
    weights = np.concatenate([1 + LEAST_DICE + pairs.dice, np.ones(len(owns))])
    places = np.concatenate([rows, alone]), np.concatenate([columns, len(others) + alone])
    graph = sparse.csr_array((weights, places), shape=(len(owns), len(others) + len(owns)))
    chosen, found = sparse.csgraph.min_weight_full_bipartite_matching(graph, maximize=True)
    partner[owns[chosen]] = np.concatenate([others, np.zeros(len(owns), np.int64)])[found]
    return partner


def instance_scores(
    reference: Instances,
    prediction: Instances,
    whole: BorderDistances | None,
    *,
    small_mm3: float | None = None,
) -> InstanceScores:
    """Score the instances of a prediction.

    Args:
        reference, prediction: instances of masks of one grid.
        whole: distances between the borders of the whole masks; None where one is empty.
        small_mm3: treat the instances of the reference below this volume apart, as the challenge
            does with metastases. Dice, NSD and HD95 are then means over the larger ones, found or
            missed, and all false positives; what is no match counts with 0 and 373 mm, and None
            stands where no instance is large enough. A small one is found from a Dice of 0.1 on.
            Without it they are means over the matches.
    """
    pairs = _matches(reference, prediction)
    tp = len(pairs.own)
    fp, fn = prediction.count - tp, reference.count - tp
    judged, penalties, small = pairs, 0, None
    if small_mm3 is not None:
        voxel_mm3 = math.prod(reference.whole.spacing_mm)
        large = reference.voxels * voxel_mm3 >= small_mm3
        large[0] = False
        is_large = large[pairs.own]
        judged = pairs.which(is_large)
        large_count = int(np.count_nonzero(large))
        penalties = large_count - len(judged.own) + fp if large_count else 0
        found = int(np.count_nonzero(pairs.dice[~is_large] >= FOUND_DICE))
        small = _small(found, reference.count - large_count, fp)
    qualities = [_quality(reference, prediction, whole, pair) for pair in zip(*judged, strict=True)]
    nothing_matches = small_mm3 is None and not tp and bool(fp or fn)
    means = _means(qualities, penalties, nothing_matches=nothing_matches)
    return InstanceScores(**means._asdict(), tp=tp, fp=fp, fn=fn, small=small)


class _Quality(NamedTuple):
    """How well one instance meets its match, or the means of several."""

    dice: float | None
    nsd_1mm: float | None
    nsd_voxel: float | None
    hd95_mm: float | None


def _matches(reference: Instances, prediction: Instances) -> Matches:
    if not reference.count or not prediction.count:
        nothing = np.zeros(0, np.int64)
        return Matches(nothing, nothing, np.zeros(0))
    shared_box = arrays.overlap(reference.whole.box, prediction.whole.box)
    own, other = (
        side.labels[arrays.within(side.whole.box, shared_box)] for side in (reference, prediction)
    )
    shared = overlaps(own, other, reference.count)
    return match(reference.voxels, prediction.voxels, shared)


def _quality(
    reference: Instances,
    prediction: Instances,
    whole: BorderDistances | None,
    pair: tuple[int, int, float],
) -> _Quality:
    own, other, dice = pair
    if whole and reference.count == prediction.count == 1:
        distances = whole
    else:
        borders = reference.border(int(own)), prediction.border(int(other))
        distances = BorderDistances.between(*borders)
    voxel_mm = min(reference.whole.spacing_mm)
    nsd = (distances.nsd(TOLERANCE_MM), distances.nsd(voxel_mm))
    return _Quality(float(dice), *nsd, distances.hd95_mm)


def _means(qualities: Sequence[_Quality], penalties: int, *, nothing_matches: bool) -> _Quality:
    """Means of matches, and of so many instances that count as not found at all."""
    if nothing_matches:
        return _Quality(0.0, 0.0, 0.0, None)
    if not qualities and not penalties:
        return _Quality(None, None, None, None)
    worst = _Quality(0.0, 0.0, 0.0, INFINITE_HD95_MM)
    columns = np.array([*qualities, *[worst] * penalties])
    return _Quality(*columns.mean(axis=0).tolist())


def _small(tp: int, count: int, fp: int) -> SmallScores | None:
    """Detection of the small instances; false positives of any size count, as the rule has it."""
    return SmallScores(tp=tp, fn=count - tp, f1=f1(tp, fp, count - tp) or 0.0) if count else None
