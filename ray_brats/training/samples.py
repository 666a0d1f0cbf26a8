"""Samples of training: where random patches lie, and how far the tumours reach that they are given.

Everything random follows from (seed, index of the sample in the global stream), so any
step can be replayed, and another number of workers goes on with the same samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_brats.arrays import Array, PatchLocation, Shape
from ray_brats.labels import Targets

ZOOM_RANGE = (0.85, 1.2)
"""How far a patch is shrunk or magnified at most."""


LANES, LONG = 64, 4096
"""From so many cases on they are dealt to so many lanes."""


@dataclass(frozen=True, kw_only=True)
class SampleStream:
    """The infinite global stream of samples: which cases, and a generator for the rest.

    Each pass shuffles all cases anew, so every case is seen once before any is seen twice. Of many
    cases each belongs to one lane for ever, and sample `i` is of lane `i` modulo their number: a
    rank, whose samples are of the same lanes in each pass, needs the cases of these alone, also
    those that give tumours, as long as the ranks' batches divide the lanes.
    """

    case_count: int
    seed: int

    @property
    def lanes(self) -> int:
        """Into how many the cases are dealt."""
        return LANES if self.case_count >= LONG else 1

    def draw(self, index: int) -> tuple[int, np.random.Generator]:
        """Case number and random generator of the sample at `index`."""
        turn, lane = divmod(index, self.lanes)
        size = self._size(lane)
        epoch, position = divmod(turn, size)
        # Of one lane the words of before there were several.
        words = (self.seed, 0, epoch) if self.lanes == 1 else (self.seed, 0, epoch, lane)
        case = int(_order(size, words)[position]) * self.lanes + lane
        return case, np.random.default_rng((self.seed, 1, index))

    def donor(self, index: int, probability: float) -> int | None:
        """The case whose tumour the sample at `index` is given, if any: another of its lane."""
        rng = np.random.default_rng((self.seed, 2, index))
        if rng.random() >= probability:
            return None
        case, _ = self.draw(index)
        place, lane = divmod(case, self.lanes)
        size = self._size(lane)
        # Another case, where there is one.
        further = 1 + int(rng.integers(max(1, size - 1)))
        return (place + further) % size * self.lanes + lane

    def _size(self, lane: int) -> int:
        """How many cases are of a lane."""
        return (self.case_count - lane + self.lanes - 1) // self.lanes


@functools.lru_cache(maxsize=2 * LANES)
def _order(count: int, words: tuple[int, ...]) -> Array:
    """The numbers below `count` in an order of their own for each few words."""
    return np.random.default_rng(words).permutation(count).astype(np.int32)


def draw_location(
    labelled: Array,
    shape_vox: Sequence[int],
    patch_vox: Shape,
    *,
    foreground_share: float,
    rng: np.random.Generator,
    regions: Targets | None = None,
) -> PatchLocation:
    """A random patch; with probability `foreground_share` centred on a labelled voxel.

    Args:
        labelled: the labelled voxels of the case, as `tumour.labelled_voxels`.
        shape_vox: size of the case.
        patch_vox: size of the patch.
        foreground_share: 0–1.
        rng: draws everything.
        regions: each of whose regions is as likely to be met; None: each labelled voxel is.
    """
    if rng.random() < foreground_share:
        places, classes = labelled
        if regions is not None:
            region = regions.learnt[rng.integers(len(regions.learnt))]
            within = places[np.isin(classes, region.classes)]
            places = within if within.size else places
        if places.size:
            centre = np.unravel_index(places[rng.integers(places.size)], tuple(shape_vox))
            starts = [int(c) - n // 2 for c, n in zip(centre, patch_vox, strict=True)]
            return PatchLocation(_clamped(starts, shape_vox, patch_vox), patch_vox)
    starts = [
        int(rng.integers(max(limit - size, 0) + 1))
        for limit, size in zip(shape_vox, patch_vox, strict=True)
    ]
    return PatchLocation(_clamped(starts, shape_vox, patch_vox), patch_vox)


def _clamped(starts: Sequence[int], shape: Sequence[int], size: Sequence[int]) -> Shape:
    """Starts that keep a patch inside the array where it fits, else centre it on the array."""
    first, second, third = (
        min(max(start, 0), limit - n) if limit >= n else (limit - n) // 2
        for start, limit, n in zip(starts, shape, size, strict=True)
    )
    return first, second, third


def margin_vox(patch_vox: Shape) -> Shape:
    """What must be cut around a patch, so that shrinking it brings real voxels to its rim."""
    first, second, third = (
        math.ceil((side - 1) / 2 * (1 / ZOOM_RANGE[0] - 1)) for side in patch_vox
    )
    return first, second, third


def draw_reach(rng: np.random.Generator) -> float:
    """How far outside of a tumour's border the surface runs that cuts it out of its brain.

    As a share of the depth of its deepest voxel, negative inside: the mixture of CarveMix (Zhang
    et al. 2021), half of the surfaces up to half of the depth inside, half outside.
    """
    return float(rng.uniform(-0.5, 0) if rng.random() < 0.5 else rng.uniform(0, 1))
