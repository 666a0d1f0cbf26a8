"""Classes and regions of gliomas before treatment, by their names."""

from __future__ import annotations

import numpy as np

from ray_brats import labels
from ray_brats.recipes.tasks import GLIOMA

NECROTIC, EDEMA, ENHANCING = GLIOMA.indices
CLASS_NAMES = GLIOMA.class_names
CLASS_COUNT = GLIOMA.class_count
REGIONS = {region.name: region.classes for region in GLIOMA.regions}
REGION_TITLES = {region.name: region.title for region in GLIOMA.regions}
LABEL_NAMES = dict(enumerate(CLASS_NAMES[1:], start=1))


def region_mask(index: np.ndarray, region: str) -> np.ndarray:
    """Mask of one region of a class-index map."""
    return labels.mask_of(index, REGIONS[region])
