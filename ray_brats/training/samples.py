"""Samples of training: where random patches lie, and whose tumour is carved into them.

Everything random follows from (seed, index of the sample in the global stream), so any
step can be replayed, and another number of workers goes on with the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np

from ray_brats.arrays import Array, PatchLocation, Shape
from ray_brats.labels import Targets

ZOOM_RANGE = (0.85, 1.2)
"""How far a patch is shrunk or magnified at most."""


@dataclass(frozen=True, kw_only=True)
class SampleStream:
    """The infinite global stream of samples: which case, and a generator for the rest.

    Each pass shuffles all cases anew, so every case is seen once before any is seen twice.
    """

    case_count: int
    seed: int

    def draw(self, index: int) -> tuple[int, np.random.Generator]:
        """Case number and random generator of the sample at `index`."""
        epoch, position = divmod(index, self.case_count)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.case_count)
        return int(order[position]), np.random.default_rng((self.seed, 1, index))


def draw_location(
    label_HWD: Array,
    patch_vox: Shape,
    *,
    foreground_share: float,
    rng: np.random.Generator,
    regions: Targets | None = None,
) -> PatchLocation:
    """A random patch; with probability `foreground_share` centred on a labelled voxel.

    Args:
        label_HWD: class indices.
        patch_vox: size of the patch.
        foreground_share: 0–1.
        rng: draws everything.
        regions: each of whose regions is as likely to be met; None: each labelled voxel is.
    """
    shape = label_HWD.shape
    if rng.random() < foreground_share:
        labelled = np.flatnonzero(label_HWD)
        if regions is not None:
            region = regions.learnt[rng.integers(len(regions.learnt))]
            within = labelled[np.isin(label_HWD.reshape(-1)[labelled], region.classes)]
            labelled = within if within.size else labelled
        if labelled.size:
            centre = np.unravel_index(labelled[rng.integers(labelled.size)], shape)
            starts = [int(c) - n // 2 for c, n in zip(centre, patch_vox, strict=True)]
            return PatchLocation(_clamped(starts, shape, patch_vox), patch_vox)
    starts = [
        int(rng.integers(max(limit - size, 0) + 1))
        for limit, size in zip(shape, patch_vox, strict=True)
    ]
    return PatchLocation(_clamped(starts, shape, patch_vox), patch_vox)


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


def carve(
    image_HWDC: Array,
    label_HWD: Array,
    donor_image_HWDC: Array,
    donor_label_HWD: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """A patch with the tumour of another patch, where both show brain.

    Args:
        image_HWDC: the patch that receives; zeros are background.
        label_HWD: its class indices, `(H, W, D)`.
        donor_image_HWDC: the patch that gives, as large.
        donor_label_HWD: its class indices; without any, nothing changes.
        rng: draws how far from the tumour's border the surface runs.

    Returns:
        Image and label, new arrays.
    """
    tumour = donor_label_HWD > 0
    inside = edt.edt(np.ascontiguousarray(tumour))
    # Where all is tumour there is no border to be far from.
    deepest = min(float(inside.max()), float(max(tumour.shape)))
    # The paper's mixture: half of the surfaces up to half of the depth inside, half outside.
    reach = rng.uniform(-0.5 * deepest, 0) if rng.random() < 0.5 else rng.uniform(0, deepest)
    taken = (edt.edt(np.ascontiguousarray(~tumour)) - inside) <= reach
    taken &= tumour.any()
    taken &= image_HWDC.any(axis=-1) & donor_image_HWDC.any(axis=-1)
    return (
        np.where(taken[..., None], donor_image_HWDC, image_HWDC),
        np.where(taken, donor_label_HWD, label_HWD),
    )
