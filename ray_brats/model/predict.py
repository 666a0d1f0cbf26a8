"""The only inference code: one case in, one mask in its native grid out.

The network enters as a function from a batch of patches `(N, H, W, D, C)` float32 to
probabilities `(N, H, W, D, K)`; where it comes from (a SavedModel, a model in training, a
fake in a test) is the caller's business, so this module needs no framework.

Where a recipe keeps the background at exactly zero (`zscore`), voxels that are zero in every
modality are background in every mask. That is why windows without any brain can be skipped
and the mask stays the same to the last voxel.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt

from ray_brats import labels
from ray_brats.arrays import Array, Mask
from ray_brats.cases import preprocess, volume
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.naming import ALIASES
from ray_brats.cases.preprocess import Prepared
from ray_brats.cases.raw.record import Home
from ray_brats.cases.volume import Volume
from ray_brats.errors import CaseRejected
from ray_brats.labels import LabelMap, Targets, Task
from ray_brats.model import windows
from ray_brats.model.card import check_task
from ray_brats.model.native import native_mask
from ray_brats.model.windows import Forward, Probabilities
from ray_brats.recipes import costs, tasks
from ray_brats.recipes.config import PreprocessConfig, Recipe

Source = str | os.PathLike[str] | bytes | Volume
"""A path or URI, the bytes of a `.nii` or `.nii.gz`, or an array with its geometry."""

STAGE_VERSION = 3
"""Part of every prediction's sidecar: raise it when the same input gives another mask."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The mask of one case."""

    mask_native: LabelMap
    """Class indices, on the grid of the input files."""
    geometry: Geometry
    targets: Targets
    """What the indices mean."""
    regions_native: Probabilities | None = None
    """Probability of each learnt region on the same grid, `(H, W, D, K)`; only on request."""

    def region_ml(self) -> dict[str, float]:
        """Volume of each region in millilitres."""
        mask, voxel_ml = self.mask_native, self.geometry.voxel_ml
        # A comparison a class: `bincount` takes ten times as long over bytes.
        counts = [int(np.count_nonzero(mask == index)) for index in range(self.targets.class_count)]
        return {
            region.name: sum(counts[index] for index in region.classes) * voxel_ml
            for region in self.targets.regions
        }


class Predictor:
    """Segments cases with one network, or the mean of several.

    Args:
        forwards: the networks; their probabilities are averaged.
        recipe: how cases are prepared and probabilities become labels.
        lanes: how many batches of windows pass a network side by side.
        task: whose labels its masks carry where nothing else is asked for; by default the usual
            one of the recipe's targets.
    """

    def __init__(
        self,
        forwards: Sequence[Forward],
        recipe: Recipe,
        *,
        lanes: int = 1,
        task: Task | None = None,
    ) -> None:
        self.forwards, self.recipe = list(forwards), recipe
        self.task = task or tasks.usual(recipe.targets)
        self.lanes, self.batch = lanes, max(1, costs.windows_at_once(recipe) // lanes)

    def segment(
        self, case: Case | Mapping[str, Source], *, with_probabilities: bool = False
    ) -> Prediction:
        """Mask of one case.

        Args:
            case: a case of a cohort, or modality (`t1ce`, `t2`, …) to a path or URI, to the bytes
                of a `.nii` or `.nii.gz`, or to a `volume.Volume` (see `volume.from_array`).
            with_probabilities: keep the probabilities too.

        Raises:
            UsageError: a case of a cohort is of a task that the bundle has not learnt.
            CaseRejected, CaseFailed: as `preprocess.preprocess_case`.
        """
        if isinstance(case, Case):
            alone = Cohort(uri=case.case_id, cases=(case,))
            if task := alone.task_or(self.task):
                check_task(task, self.recipe, "the bundle")
        config = self.recipe.preprocess
        return self.segment_prepared(read(case, config), with_probabilities=with_probabilities)

    def segment_prepared(
        self, prepared: Prepared, *, with_probabilities: bool = False
    ) -> Prediction:
        """The same for a case that is read and preprocessed already."""
        probabilities = self.probabilities(prepared.image_HWDC)
        geometry = prepared.geometry.unresampled()
        regions = None
        if with_probabilities:
            cropped = region_probabilities(probabilities, self.recipe)
            cropped = prepared.geometry.to_unresampled(cropped)
            channels = (geometry.to_native(cropped[..., k]) for k in range(cropped.shape[-1]))
            regions = np.stack(list(channels), axis=-1)
        mask = geometry.to_native(self._decided(probabilities, prepared.geometry))
        return Prediction(
            mask_native=mask,
            geometry=geometry,
            targets=self.recipe.targets,
            regions_native=regions,
        )

    def segment_at_home(self, prepared: Prepared, home: Home) -> tuple[Prediction, Prediction]:
        """The mask of a case, and the one on the grid of a series that the case came from."""
        own, targets = prepared.geometry.unresampled(), self.recipe.targets
        index, native = self.indices(prepared.image_HWDC, prepared.geometry, home)
        return (
            Prediction(mask_native=own.to_native(index), geometry=own, targets=targets),
            Prediction(mask_native=native, geometry=home.geometry, targets=targets),
        )

    def class_index(self, image_HWDC: Array, geometry: Geometry | None = None) -> LabelMap:
        """Class indices of a prepared image.

        Args:
            image_HWDC: `(H, W, D, C)`.
            geometry: its place in its file. Where it was resampled, the probabilities are
                brought back before anything is decided.

        Returns:
            Indices `(H, W, D)`, on the crop of `geometry.unresampled()`.
        """
        if geometry is None or geometry.resampled_shape is None:
            return self.decode(*self._mean(image_HWDC))
        return self._decided(self.probabilities(image_HWDC), geometry)

    def indices(
        self, image_HWDC: Array, geometry: Geometry, home: Home
    ) -> tuple[LabelMap, LabelMap]:
        """What `class_index` gives, and the mask on the grid of a series that the case came from.

        Args:
            image_HWDC: `(H, W, D, C)`.
            geometry: its place in its file.
            home: the series, and the way to it.

        Returns:
            Indices on the crop of `geometry.unresampled()`, and indices in the axes of the series'
            file.
        """
        probabilities = self.probabilities(image_HWDC)
        own, seen = geometry.to_unresampled(probabilities), _voxels_each(geometry)
        native = native_mask(
            own,
            geometry.unresampled(),
            home,
            lambda values, voxels_each: self.decode(values, voxels_each=seen * voxels_each),
        )
        return self.decode(own, voxels_each=seen), native

    def _decided(self, probabilities: Probabilities, geometry: Geometry) -> LabelMap:
        values = geometry.to_unresampled(probabilities)
        return self.decode(values, voxels_each=_voxels_each(geometry))

    def probabilities(self, image_HWDC: Array) -> Probabilities:
        """Probabilities `(H, W, D, K)` of a prepared image `(H, W, D, C)`."""
        mean, brain = self._mean(image_HWDC)
        if brain is not None:
            np.copyto(mean, background(self.recipe), where=~brain[..., None])
        return mean

    def _mean(self, image_HWDC: Array) -> tuple[Probabilities, Mask | None]:
        """The networks' mean, and where it counts: elsewhere is background; None is everywhere."""
        image = windows.as_float32(np.asarray(image_HWDC))
        brain = windows.occupied(image) if self.recipe.preprocess.normalise == "zscore" else None
        flips: list[tuple[int, ...]] = [()]
        if self.recipe.inference.tta == "flips":
            flips = [axes for n in range(4) for axes in itertools.combinations(range(3), n)]
        total: Probabilities | None = None
        for axes in flips:
            flipped = np.flip(image, axes)
            where = None if brain is None else np.flip(brain, axes)
            for forward in self.forwards:
                probabilities = np.flip(self._one_pass(forward, flipped, where), axes)
                total = probabilities if total is None else np.add(total, probabilities, out=total)
        assert total is not None
        passes = len(self.forwards) * len(flips)
        if passes > 1:
            np.divide(total, np.float32(passes), out=total)
        return total, brain

    def _one_pass(self, forward: Forward, image: Array, brain: Mask | None) -> Probabilities:
        inference = self.recipe.inference
        if image[..., 0].size <= inference.whole_limit_vox:
            return windows.whole_pass(forward, image, self.recipe.network.divisor_vox)
        stitched = getattr(forward, windows.STITCHED, None)
        if stitched is not None:
            return stitched(image, inference, brain)  # type: ignore[no-any-return]
        return windows.sliding_window(
            forward, image, inference, brain=brain, batch=self.batch, lanes=self.lanes
        )

    def decode(
        self, probabilities: Probabilities, brain: Mask | None = None, *, voxels_each: float = 1.0
    ) -> LabelMap:
        """Class indices `(H, W, D)` from probabilities; see `labels.from_regions`.

        Args:
            probabilities: `(H, W, D, K)`.
            brain: `(H, W, D)`; voxels outside it are background.
            voxels_each: how many voxels here one of the recipe's rules is.
        """
        inference, targets = self.recipe.inference, self.recipe.targets
        outermost = [k for k, (_, on) in enumerate(targets.painting) if on == labels.BACKGROUND]
        threshold = np.float32(inference.threshold)
        index: LabelMap = np.zeros(probabilities.shape[:3], np.uint8)

        def work(rows: slice) -> None:
            part = probabilities[rows]
            if self.recipe.network.output == "classes":
                index[rows] = np.argmax(part, axis=-1)
                if brain is not None:
                    index[rows] *= brain[rows]
                return
            whole = part[..., outermost[0]] >= threshold
            for number in outermost[1:]:
                whole |= part[..., number] >= threshold
            if brain is not None:
                whole &= brain[rows]
            # The other regions lie within, and few voxels do.
            tumour = np.flatnonzero(whole)
            over = part.reshape(-1, part.shape[-1])[tumour] >= threshold
            index[rows].reshape(-1)[tumour] = labels.from_regions(over, targets)

        windows.in_slabs(work, len(index))
        least_vox = round(inference.min_component_vox * voxels_each)
        if least_vox > 1:
            # A cavity beside a tumour is no part of it.
            for number in outermost:
                drop_small_components(index, targets.learnt[number].classes, least_vox)
        if targets.enhancing and inference.min_enhancing_vox:
            paint, around = targets.enhancing
            enhancing = index == paint
            if 0 < np.count_nonzero(enhancing) < inference.min_enhancing_vox * voxels_each:
                index[enhancing] = around
        return index


def _voxels_each(geometry: Geometry) -> float:
    """How many voxels of a file one is that the network sees, which rules in voxels are about."""
    return math.prod(geometry.canonical_shape) / math.prod(geometry.grid_shape)


def read(case: Case | Mapping[str, Source], config: PreprocessConfig) -> Prepared:
    """Read and preprocess what a Predictor takes; needs no network."""
    if isinstance(case, Case):
        return preprocess.preprocess_case(case, config, with_mask=False)
    given = {ALIASES.get(name.lower(), name.lower()): source for name, source in case.items()}
    if problem := volume.missing_modality(config.modalities, given):
        raise CaseRejected(problem[0])
    wanted = {name: given[name] for name in config.modalities}
    places = {
        name: os.fspath(source)
        for name, source in wanted.items()
        if isinstance(source, str | os.PathLike)
    }
    volumes = preprocess.read_all(places, exact=config.is_exact)
    here = {name: source for name, source in wanted.items() if name not in places}
    with ThreadPoolExecutor(len(wanted)) as pool:
        parsed = pool.map(lambda item: _parsed(*item, exact=config.is_exact), here.items())
        volumes |= dict(zip(here, parsed, strict=True))
    return preprocess.preprocess_volumes({name: volumes[name] for name in wanted}, config)


def _parsed(name: str, source: Source, *, exact: bool) -> Volume:
    if isinstance(source, Volume):
        return source
    assert isinstance(source, bytes)
    return volume.parse(source, name, exact=exact)


def background(recipe: Recipe) -> npt.NDArray[np.float32]:
    """The probabilities `(K,)` of a voxel that certainly is background."""
    certain = np.zeros(len(recipe.outputs), np.float32)
    if recipe.network.output == "classes":
        certain[labels.BACKGROUND] = 1
    return certain


def region_probabilities(probabilities: Probabilities, recipe: Recipe) -> Probabilities:
    """Probability of each learnt region `(H, W, D, K)` from a network's output."""
    if recipe.network.output == "regions":
        return probabilities
    members = [list(region.classes) for region in recipe.targets.learnt]
    return np.stack([probabilities[..., classes].sum(axis=-1) for classes in members], axis=-1)


def drop_small_components(index: LabelMap, classes: Collection[int], least_vox: int) -> None:
    """Set 26-connected pieces of some classes of fewer than `least_vox` voxels to background."""
    pieces = labels.mask_of(index, classes)
    kept = cc3d.dust(pieces.astype(np.uint8), threshold=least_vox)
    index[pieces & (kept == 0)] = labels.BACKGROUND
