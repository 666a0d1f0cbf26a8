"""One case's tumour in another one's brain: more kinds of tumour than there are cases.

CarveMix (Zhang et al. 2021, "CarveMix: a simple data augmentation method for brain lesion
segmentation", arXiv 2108.06883): a lesion is carved out along a surface a random distance
inside or outside its border and takes the place of what is there in another case.
"""

from __future__ import annotations

from typing import Any

import edt
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


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
