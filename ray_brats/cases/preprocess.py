"""The only preprocessing there is: from the files of one case to the array a network reads.

The dataset stage and the Predictor both call `preprocess_case`; the geometry it returns
takes a mask back to the native grid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ray_brats import arrays
from ray_brats.arrays import Array, Box, Shape
from ray_brats.cases import background, intensities, volume
from ray_brats.cases.case import Case
from ray_brats.cases.geometry import Geometry, apart_mm, same_grid, with_crop, with_spacing
from ray_brats.cases.naming import SEGMENTATION
from ray_brats.cases.volume import Volume
from ray_brats.errors import CaseFiltered, CaseRejected
from ray_brats.files import channels
from ray_brats.labels import LabelMap
from ray_brats.recipes.config import PreprocessConfig

STAGE_VERSION = 4
"""Part of every sidecar: raise it when the same input gives other voxels."""

MAX_GRID_VOX = 1 << 26
"""Most voxels that a scan is resampled to; a BraTS scan has 8.9 million."""
TOLD_MM = 1e-3
"""Corners of one grid that are farther apart are worth a word."""
MAX_INTENSITY = 1e30
"""Largest intensity: beyond it, sums of squares would leave the range of floats."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One case, ready for a network."""

    image_HWDC: Array
    """Cropped and normalised; float16 or float32 as the recipe says."""
    label_HWD: LabelMap | None
    """Class indices on the same grid; None where the case has no mask."""
    geometry: Geometry
    remarks: tuple[str, ...] = ()
    """What was not as usual, and what was done about it."""


def preprocess_case(
    case: Case, config: PreprocessConfig, *, with_mask: bool = True, keep_filtered: bool = False
) -> Prepared:
    """Read, check, crop and normalise one case.

    Args:
        with_mask: read the segmentation too, where the case has one.
        keep_filtered: do not apply the recipe's rule on the labelled share.

    Raises:
        CaseRejected: a file is missing, damaged or does not fit the others.
        CaseFiltered: the recipe's rule leaves the case out.
        CaseFailed: the storage did not answer.
    """
    uris = files_of(case, config, with_mask=with_mask)
    volumes = read_all(uris, exact=config.is_exact)
    check_channels(case, {kind: item.channels for kind, item in volumes.items()})
    mask = volumes.get(SEGMENTATION)
    images, remarks = checked(volumes, uris, config)
    geometry = _geometry(images, config)
    label = None
    if mask is not None:
        whole = class_indices(mask, case, config)
        label = np.ascontiguousarray(geometry.crop(whole))
        if not keep_filtered:
            check_labelled_share(label, geometry, config.min_labelled_share)
    return Prepared(
        image_HWDC=normalise(images, geometry, config),
        label_HWD=label,
        geometry=geometry,
        remarks=(*remarks, *_resampling(geometry)),
    )


def _geometry(images: Mapping[str, Volume], config: PreprocessConfig) -> Geometry:
    box = None
    if config.crop == "brain":
        box = brain_box(item.voxels_HWD for item in images.values())
    return cropped_geometry(next(iter(images.values())).geometry, config, box)


def _resampling(geometry: Geometry) -> list[str]:
    if geometry.resampled_shape is None:
        return []
    sides = "×".join(f"{side:.3g}" for side in geometry.spacing_mm)
    grid = "×".join(map(str, geometry.grid_shape))
    return [f"resampled from voxels of {sides} mm to a grid of {grid}, and its mask back"]


@functools.cache
def readers() -> ThreadPoolExecutor:
    """Threads that read the files of a case side by side; kept, for cases may be small."""
    return ThreadPoolExecutor(32, thread_name_prefix="reader")


def read_all(uris: Mapping[str, str], *, exact: bool = False) -> dict[str, Volume]:
    """The volumes of some URIs, by kind: files side by side, and each of them once.

    Raises:
        CaseError: as `volume.read`, for the first file that cannot be read.
    """
    files: dict[str, list[str]] = {}
    for uri in dict.fromkeys(uris.values()):
        files.setdefault(channels.file_of(uri), []).append(uri)
    read = functools.partial(volume.read_together, exact=exact)
    found = {
        uri: item for part in readers().map(read, files.values()) for uri, item in part.items()
    }
    return {kind: found[uri] for kind, uri in uris.items()}


def check_channels(case: Case, counts: Mapping[str, int]) -> None:
    """Reject a case whose images hold more or fewer scans than its cohort says.

    Which of them is which modality would be a guess.

    Args:
        case: with `channels`, where its cohort says that.
        counts: how many scans the files hold, by kind.
    """
    for kind, count in counts.items():
        if kind != SEGMENTATION and case.channels is not None and count != case.channels:
            raise CaseRejected(
                f"{kind}: the file holds {count} scan(s), and dataset.json names {case.channels}: "
                "expected one for each name",
                case.images[kind],
            )


def files_of(case: Case, config: PreprocessConfig, *, with_mask: bool = True) -> dict[str, str]:
    """Kind to URI of the files that the recipe reads; raises where one is missing."""
    problem = volume.missing_modality(config.modalities, case.images)
    if problem:
        raise CaseRejected(problem[0])
    uris = {name: case.images[name] for name in config.modalities}
    if with_mask and case.segmentation:
        uris[SEGMENTATION] = case.segmentation
    return uris


def preprocess_volumes(volumes: Mapping[str, Volume], config: PreprocessConfig) -> Prepared:
    """The same for the recipe's modalities in memory, without a mask.

    Raises:
        CaseRejected: a volume is damaged or does not fit the others.
    """
    images, remarks = checked(volumes, {name: name for name in volumes}, config)
    geometry = _geometry(images, config)
    return Prepared(
        image_HWDC=normalise(images, geometry, config),
        label_HWD=None,
        geometry=geometry,
        remarks=(*remarks, *_resampling(geometry)),
    )


def checked(
    volumes: Mapping[str, Volume], names: Mapping[str, str], config: PreprocessConfig
) -> tuple[dict[str, Volume], list[str]]:
    """The modalities with their background at 0, and remarks; the mask is judged and left out.

    Args:
        volumes: what was read, by kind.
        names: what errors call it, by kind.
        config: what is asked of it.

    Raises:
        CaseRejected: another grid, a skull, NaN in the brain, no content, or one image twice.
    """
    remarks = check_grids({kind: item.geometry for kind, item in volumes.items()}, names)
    scans = {}
    for kind, item in volumes.items():
        with _naming(kind, names):
            if kind != SEGMENTATION:
                scans[kind] = background.cleared(item.voxels_HWD, allow_skull=config.allow_skull)
            _check_numbers(item.voxels_HWD if kind == SEGMENTATION else scans[kind].voxels_HWD)
    background.check_strange(scans, names)
    for one, other in itertools.combinations(scans, 2):
        if np.array_equal(scans[one].voxels_HWD, scans[other].voxels_HWD):
            raise CaseRejected(
                f"{other} is the image of {one} once more, voxel for voxel: one of them is under "
                "a wrong name",
                names[other],
            )
    remarks += [f"{kind}: {remark}" for kind, scan in scans.items() for remark in scan.remarks]
    images = {
        kind: dataclasses.replace(volumes[kind], voxels_HWD=scan.voxels_HWD)
        for kind, scan in scans.items()
    }
    return images, remarks


@contextlib.contextmanager
def _naming(kind: str, names: Mapping[str, str]) -> Iterator[None]:
    """A case rejected inside is rejected for this file."""
    try:
        yield
    except CaseRejected as error:
        raise CaseRejected(f"{kind} {error.reason}", names[kind]) from error


def _check_numbers(voxels: Array) -> None:
    if voxels.dtype.kind != "f":
        return
    # Written so that NaN fails.
    if not (voxels.min() >= -MAX_INTENSITY and voxels.max() <= MAX_INTENSITY):
        raise CaseRejected(
            f"holds NaN, infinite or absurdly large voxels (beyond {MAX_INTENSITY:g})"
        )


def check_grids(geometries: Mapping[str, Geometry], names: Mapping[str, str]) -> list[str]:
    """Reject a case whose files do not share a grid; remarks about those that are taken."""
    remarks: list[str] = []
    if not geometries:
        return remarks
    reference, expected = next(iter(geometries.items()))
    for kind, geometry in geometries.items():
        difference = same_grid(geometry, expected)
        if difference:
            raise CaseRejected(
                f"{kind} does not lie on the grid of {reference}: {difference}; "
                "all files of a case must be co-registered",
                names[kind],
            )
        apart = apart_mm(geometry, expected)
        if apart > TOLD_MM:
            remarks.append(f"{kind}: its grid is up to {apart:.2g} mm off that of {reference}")
        if (geometry.axes, geometry.flips) != (expected.axes, expected.flips):
            remarks.append(f"{kind}: stored in another orientation than {reference}, and turned")
        if apart := geometry.forms_apart_mm:
            remarks.append(
                f"{kind}: its qform and sform are up to {apart:.3g} mm apart, the sform is read"
            )
    return remarks


def cropped_geometry(
    geometry: Geometry, config: PreprocessConfig, box: Box | None = None
) -> Geometry:
    """The recipe's grid and crop; `box` is the brain's, in canonical voxels of the file.

    Raises:
        CaseRejected: the recipe's spacing makes too many voxels of the scan.
    """
    geometry = with_spacing(geometry, config.spacing_mm)
    grid_vox = math.prod(geometry.grid_shape)
    if geometry.resampled_shape is not None and grid_vox > MAX_GRID_VOX:
        raise CaseRejected(
            f"would be {grid_vox} voxels at the model's {config.spacing_mm} mm: at most "
            f"{MAX_GRID_VOX} voxels are made of a scan"
        )
    if config.crop == "centre":
        assert config.crop_size_vox is not None
        start = centred_start(geometry.grid_shape, config.crop_size_vox)
        return with_crop(geometry, start, config.crop_size_vox)
    assert box is not None
    ratio = np.divide(geometry.grid_shape, geometry.canonical_shape)
    first = np.floor(np.multiply([side.start for side in box], ratio))
    last = np.ceil(np.multiply([side.stop for side in box], ratio))
    return with_crop(geometry, first.tolist(), (last - first).tolist())


def centred_start(shape: Sequence[int], size: Sequence[int]) -> Shape:
    """First voxel of a centred crop: 56, 56, 13 for 128³ in 240×240×155, as the original's."""
    first, second, third = ((n - m) // 2 for n, m in zip(shape, size, strict=True))
    return first, second, third


def brain_box(volumes_HWD: Iterable[Array]) -> Box:
    """The box around every non-zero voxel of any volume; none of them is zero everywhere."""
    return functools.reduce(arrays.joint, map(arrays.bounding_box, volumes_HWD))


def class_indices(mask: Volume, case: Case, config: PreprocessConfig) -> LabelMap:
    """The case's own mask by the recipe's reading of its task."""
    return volume.class_indices(
        mask,
        case.task,
        case.segmentation or "",
        raw_3_is_enhancing=config.raw_3_is_enhancing,
    )


def check_labelled_share(label: LabelMap, geometry: Geometry, least: float) -> None:
    """The recipe's rule: raises `CaseFiltered` where too little of the crop is labelled."""
    share = float(np.count_nonzero(label)) / label.size
    if least > 0 and not share > least:
        crop, scan = ("×".join(map(str, item)) for item in (label.shape, geometry.grid_shape))
        raise CaseFiltered(
            f"{share:.2%} of the {crop} crop in the centre of {scan} voxels is labelled; "
            f"the recipe keeps more than {least:.0%}"
        )


def normalise(volumes: Mapping[str, Volume], geometry: Geometry, config: PreprocessConfig) -> Array:
    """Crop and normalise each modality: `(H, W, D, C)` in the recipe's type and order."""
    image = np.empty((*geometry.crop_shape_vox, len(config.modalities)), config.dtype)
    for channel, name in enumerate(config.modalities):
        voxels = volumes[name].voxels_HWD
        if config.normalise == "minmax_slices":
            values = intensities.minmax_slices(voxels, geometry)
        else:
            values = intensities.zscore_nonzero(geometry.crop_image(voxels), config.dtype)
        intensities.place(values, image[..., channel])
    return image
