"""The only inference code: one case in, one mask in its native grid out.

The network enters as a function from a batch of patches `(N, H, W, D, C)` float32 to
probabilities `(N, H, W, D, K)`; where it comes from (a SavedModel, a model in training, a
fake in a test) is the caller's business, so this module needs no framework.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_brats import labels, patches, preprocess
from ray_brats.cohort import Case
from ray_brats.config import Recipe
from ray_brats.labels import LabelMap
from ray_brats.volume import Geometry

Array = npt.NDArray[Any]
Probabilities = npt.NDArray[np.float32]
Forward = Callable[[npt.NDArray[np.float32]], Probabilities]

STAGE_VERSION = 1
"""Part of every prediction's sidecar: raise it when the same input gives another mask."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The mask of one case."""

    mask_native: LabelMap
    """Class indices, on the grid of the input files."""
    geometry: Geometry

    def region_ml(self) -> dict[str, float]:
        """Volume of each region in millilitres."""
        return {
            region: float(np.count_nonzero(labels.region_mask(self.mask_native, region)))
            * self.geometry.voxel_ml
            for region in labels.REGIONS
        }


class Predictor:
    """Segments cases with one network, or the mean of several.

    Args:
        forwards: the networks; their probabilities are averaged.
        recipe: how cases are prepared and probabilities become labels.
    """

    def __init__(self, forwards: Sequence[Forward], recipe: Recipe) -> None:
        self._forwards = list(forwards)
        self._recipe = recipe

    def segment(self, case: Case) -> Prediction:
        """Mask of one case, read from its URIs.

        Raises:
            CaseRejected, CaseFailed: as `preprocess.preprocess_case`.
        """
        prepared = preprocess.preprocess_case(case, self._recipe.preprocess, with_mask=False)
        index = self.decode(self.probabilities(prepared.image_HWDC))
        return Prediction(
            mask_native=prepared.geometry.to_native(index), geometry=prepared.geometry
        )

    def probabilities(self, image_HWDC: Array) -> Probabilities:
        """Probabilities `(H, W, D, K)` of a prepared image `(H, W, D, C)`."""
        image = np.asarray(image_HWDC, np.float32)
        flips: list[tuple[int, ...]] = [()]
        if self._recipe.inference.tta == "flips":
            flips = [axes for n in range(4) for axes in itertools.combinations(range(3), n)]
        total: Probabilities | None = None
        for forward, axes in itertools.product(self._forwards, flips):
            flipped = np.flip(image, axes) if axes else image
            one = np.flip(self._one_pass(forward, flipped), axes)
            total = one.astype(np.float32) if total is None else total + one
        assert total is not None
        return total / np.float32(len(self._forwards) * len(flips))

    def _one_pass(self, forward: Forward, image: Array) -> Probabilities:
        if image[..., 0].size <= self._recipe.inference.whole_limit_vox:
            return whole_pass(forward, image, self._recipe.network.divisor_vox)
        inference = self._recipe.inference
        return sliding_window(forward, image, inference.window_vox, inference.overlap)

    def decode(self, probabilities: Probabilities) -> LabelMap:
        """Class indices `(H, W, D)` from probabilities, nested ET ⊂ TC ⊂ WT."""
        inference = self._recipe.inference
        if self._recipe.network.output == "classes":
            index: LabelMap = np.argmax(probabilities, axis=-1).astype(np.uint8)
        else:
            index = labels.from_regions(probabilities >= inference.threshold)
        enhancing = index == labels.ENHANCING
        if 0 < np.count_nonzero(enhancing) < inference.min_enhancing_vox:
            index[enhancing] = labels.NECROTIC
        return index


def network_vox(shape_vox: Sequence[int], recipe: Recipe) -> int:
    """Voxels that pass through one network for a prepared case of this shape."""
    inference, whole = recipe.inference, math.prod(shape_vox)
    if whole <= inference.whole_limit_vox:
        return whole
    windows = patches.sliding_windows(shape_vox, inference.window_vox, inference.overlap)
    return len(windows) * math.prod(inference.window_vox)


def whole_pass(forward: Forward, image: Array, divisor_vox: int) -> Probabilities:
    """One pass over the whole image, padded with zeros to multiples of `divisor_vox`."""
    shape = image.shape[:3]
    padding = [(0, -side % divisor_vox) for side in shape]
    padded = np.pad(image, [*padding, (0, 0)])
    height, width, depth = shape
    return forward(np.ascontiguousarray(padded)[None])[0, :height, :width, :depth]


def sliding_window(
    forward: Forward, image: Array, window_vox: tuple[int, int, int], overlap: float
) -> Probabilities:
    """Gaussian-weighted mean over overlapping windows; a constant stays that constant."""
    weights = patches.gaussian_weights(window_vox)[..., None]
    total: Array | None = None
    weight_sum = np.zeros((*image.shape[:3], 1), np.float32)
    for location in patches.sliding_windows(image.shape[:3], window_vox, overlap):
        window = forward(location.cut(image)[None])[0]
        if total is None:
            total = np.zeros((*image.shape[:3], window.shape[-1]), np.float32)
        location.add(total, window * weights)
        location.add(weight_sum, weights)
    assert total is not None
    return np.asarray(total / weight_sum, np.float32)
