"""The brain of a head: found by a network made for it, cleaned, and judged.

deepbet (Fisch et al. 2024, Computers in Biology and Medicine) was made for T1 and takes T1CE;
its two networks lie in its wheel, so nothing is fetched.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, Final

import cc3d
import nibabel as nib
import numpy as np
from scipy import ndimage

from ray_brats.arrays import Mask
from ray_brats.cases.raw.extra import imported
from ray_brats.cases.raw.placed import Placed
from ray_brats.errors import CaseRejected

METHOD: Final = "deepbet"

LEAST_ML, MOST_ML = 600.0, 2400.0
"""Brains of grown-ups have some 900 to 2,000 ml with the fluid around them."""
PLAUSIBLE_ML = (900.0, 2100.0)
"""Outside of it a brain is told to be looked at."""
_MARGIN_VOX = 1
_NONE = "no brain was found in it: expected a head on T1 or T1CE"
_FEWEST_VOX = 32
"""Sides of a head, below which the networks have nothing to look at."""
_ONE_AT_A_TIME = threading.Lock()
"""The networks keep the place of a head from one step to the next."""


def found(image: Placed) -> Mask:
    """The brain in a head of about 1 mm voxels, cleaned.

    Raises:
        UsageError: the package is not installed.
        CaseRejected: nothing that could be a brain was found.
    """
    return cleaned(_deepbet(image))


def cleaned(mask: Mask, *, margin_vox: int = _MARGIN_VOX) -> Mask:
    """The largest piece of a mask without holes, and a margin around it.

    Raises:
        CaseRejected: the mask is empty.
    """
    if not mask.any():
        raise CaseRejected(_NONE)
    pieces = cc3d.connected_components(mask.astype(np.uint8), connectivity=6)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    brain = ndimage.binary_fill_holes(pieces == sizes.argmax())
    if margin_vox:
        brain = ndimage.binary_dilation(brain, iterations=margin_vox)
    return np.asarray(brain, bool)


def judged(volume_ml: float) -> list[str]:
    """Remarks on a brain's volume.

    Raises:
        CaseRejected: no head has such a brain.
    """
    if not LEAST_ML <= volume_ml <= MOST_ML:
        raise CaseRejected(
            f"its brain would have {volume_ml:.0f} ml: expected {LEAST_ML:.0f} to {MOST_ML:.0f}; "
            "look at the scans, and pass a mask with --brain-masks"
        )
    low, high = PLAUSIBLE_ML
    if low <= volume_ml <= high:
        return []
    return [f"a brain of {volume_ml:.0f} ml is unusual ({low:.0f} to {high:.0f} are not)"]


def _deepbet(image: Placed) -> Mask:
    if min(image.grid.shape_vox) < _FEWEST_VOX:
        raise CaseRejected(_NONE)
    torch = imported("torch")
    scan = nib.Nifti1Image(image.voxels.astype(np.float32), image.grid.affine)
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        # Sums in another order give other masks: a case must not depend on what runs beside it.
        torch.set_num_threads(1)
        try:
            _, mask, _ = _networks().run(scan)
        except (AssertionError, ValueError) as error:
            raise CaseRejected(_NONE) from error
        finally:
            torch.set_num_threads(before)
    return np.asarray(mask.dataobj) > 0


@functools.cache
def _networks() -> Any:
    return imported("deepbet.bet").BrainExtraction(no_gpu=True)
