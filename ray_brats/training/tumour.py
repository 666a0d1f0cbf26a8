"""What a dataset keeps of a mask beside it, so that a sample of training costs no search.

Where the labelled voxels are, and how far each voxel is from the tumour's border: both are needed
at every draw, and finding them takes tens of milliseconds for an image of a brain.
"""

from __future__ import annotations

from typing import Final

import edt
import numpy as np

from ray_brats.arrays import Array, bounding_box

STEPS_A_VOXEL: Final = 2
"""Steps of a distance in one voxel."""
FAR: Final = 127
"""The largest distance, in steps: so far, or farther."""


def labelled_voxels(label_HWD: Array) -> Array:
    """Flat indices of the labelled voxels, in order, and their classes: `(2, n)` int32."""
    flat = np.flatnonzero(label_HWD)
    return np.stack([flat, label_HWD.reshape(-1)[flat]]).astype(np.int32)


def signed_distance(label_HWD: Array) -> Array:
    """How far each voxel is from the border of all that is labelled, `(H, W, D)` int8.

    In steps of half a voxel, negative inside, whatever the size of a voxel; `FAR` where no reach
    goes: farther outside than the deepest voxel lies inside.
    """
    tumour = label_HWD > 0
    steps = np.full(label_HWD.shape, FAR, np.int8)
    if not tumour.any():
        return steps
    box = bounding_box(tumour)
    # With a rim of what is not tumour, where there is any.
    near = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    deepest = float(edt.edt(np.ascontiguousarray(tumour[near])).max())
    reach = int(min(deepest, FAR / STEPS_A_VOXEL)) + 2
    wide = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
    inside = np.ascontiguousarray(tumour[wide])
    distance = np.where(inside, -edt.edt(inside), edt.edt(~inside))
    # Where all is tumour there is no border, and the distance is infinite.
    steps[wide] = np.rint(np.clip(distance * STEPS_A_VOXEL, -FAR, FAR))
    return steps
