"""From the files of one case to the array a network reads: the only preprocessing there is.

The dataset stage and the Predictor both call `preprocess_case`; the geometry it returns
takes a mask back to the native grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import MinMaxScaler

from ray_brats import labels, volume
from ray_brats.cohort import SEGMENTATION, Case
from ray_brats.config import PreprocessConfig, Shape
from ray_brats.errors import CaseFiltered, CaseRejected
from ray_brats.labels import LabelMap
from ray_brats.volume import Geometry, Volume

STAGE_VERSION = 1
"""Part of every sidecar: raise it when the same input gives other voxels."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One case, ready for a network."""

    image_HWDC: Array
    """Cropped and normalised; float16 or float32 as the recipe says."""
    label_HWD: LabelMap | None
    """Class indices on the same grid; None where the case has no mask."""
    geometry: Geometry


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
    missing = [name for name in config.modalities if name not in case.images]
    if missing:
        has = ", ".join(sorted(case.images)) or "none"
        raise CaseRejected(f"modality {', '.join(missing)} is missing (the case has: {has})")
    uris = {name: case.images[name] for name in config.modalities}
    if with_mask and case.segmentation:
        uris[SEGMENTATION] = case.segmentation
    with ThreadPoolExecutor(len(uris)) as pool:
        volumes = dict(zip(uris, pool.map(volume.read, uris.values()), strict=True))
    check_volumes(volumes, uris)
    mask = volumes.pop(SEGMENTATION, None)
    geometry = _cropped_geometry(volumes, config)
    label = None
    if mask is not None:
        label = _label(mask, case, config, geometry, uris[SEGMENTATION])
        if not keep_filtered:
            _check_labelled_share(label, config.min_labelled_share)
    image = normalise(volumes, geometry, config)
    return Prepared(image_HWDC=image, label_HWD=label, geometry=geometry)


def check_volumes(volumes: Mapping[str, Volume], names: Mapping[str, str]) -> None:
    """Reject modalities that do not share a grid, hold NaN, or hold nothing at all."""
    reference = next(iter(volumes))
    for kind, item in volumes.items():
        name = names[kind]
        difference = volume.same_grid(item.geometry, volumes[reference].geometry)
        if difference:
            raise CaseRejected(
                f"{kind} does not lie on the grid of {reference}: {difference}; "
                "all files of a case must be co-registered",
                name,
            )
        if item.voxels_HWD.dtype.kind == "f" and not np.isfinite(item.voxels_HWD).all():
            raise CaseRejected(f"{kind} holds NaN or infinite voxels", name)
        if kind != SEGMENTATION and not item.voxels_HWD.any():
            raise CaseRejected(f"{kind} is zero everywhere: there is no image in it", name)


def _cropped_geometry(volumes: Mapping[str, Volume], config: PreprocessConfig) -> Geometry:
    geometry = next(iter(volumes.values())).geometry
    if config.crop == "centre":
        assert config.crop_size_vox is not None
        return volume.with_crop(
            geometry,
            centred_start(geometry.canonical_shape, config.crop_size_vox),
            config.crop_size_vox,
        )
    start, stop = brain_box([item.voxels_HWD for item in volumes.values()])
    return volume.with_crop(geometry, start, np.subtract(stop, start).tolist())


def centred_start(shape: Sequence[int], size: Sequence[int]) -> Shape:
    """First voxel of a centred crop: 56, 56, 13 for 128³ in 240×240×155, as the original's."""
    first, second, third = ((n - m) // 2 for n, m in zip(shape, size, strict=True))
    return first, second, third


def brain_box(volumes_HWD: Sequence[Array]) -> tuple[Shape, Shape]:
    """First voxel and one past the last of the box around every non-zero voxel of any volume."""
    starts, stops = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.zeros(volumes_HWD[0].shape[axis], bool)
        for voxels in volumes_HWD:
            used |= voxels.any(axis=others)
        where = np.flatnonzero(used)
        starts.append(int(where[0]))
        stops.append(int(where[-1]) + 1)
    return (starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2])


def _label(
    mask: Volume, case: Case, config: PreprocessConfig, geometry: Geometry, uri: str
) -> LabelMap:
    if case.release is None:
        raise CaseRejected(
            "the names do not tell which release the labels follow: pass --release", uri
        )
    try:
        whole = labels.to_class_index(
            mask.voxels_HWD, case.release, raw_3_is_enhancing=config.raw_3_is_enhancing
        )
    except labels.UnknownLabelsError as error:
        raise CaseRejected(str(error), uri) from error
    return np.ascontiguousarray(geometry.crop(whole))


def _check_labelled_share(label: LabelMap, least: float) -> None:
    share = float(np.count_nonzero(label)) / label.size
    if least > 0 and not share > least:
        raise CaseFiltered(
            f"{share:.2%} of the crop is labelled; the recipe keeps more than {least:.0%}"
        )


def normalise(volumes: Mapping[str, Volume], geometry: Geometry, config: PreprocessConfig) -> Array:
    """Crop and normalise each modality: `(H, W, D, C)` in the recipe's type and order."""
    image = np.empty((*geometry.crop_shape_vox, len(config.modalities)), config.dtype)
    for channel, name in enumerate(config.modalities):
        voxels = volumes[name].voxels_HWD
        if config.normalise == "minmax_slices":
            image[..., channel] = geometry.crop(minmax_slices(voxels, geometry))
        else:
            image[..., channel] = zscore_nonzero(geometry.crop(voxels))
    return image


def minmax_slices(voxels_HWD: Array, geometry: Geometry) -> Array:
    """scikit-learn's MinMaxScaler on the volume as `(H·W, D)`: each axial slice to 0–1.

    The columns are independent, so only those inside the crop are computed.
    """
    first = max(geometry.crop_start_vox[2], 0)
    last = min(geometry.crop_start_vox[2] + geometry.crop_shape_vox[2], voxels_HWD.shape[2])
    columns = voxels_HWD[:, :, first:last]
    flat = columns.reshape(-1, columns.shape[-1])
    scaled = np.zeros(voxels_HWD.shape, np.float32)
    scaled[:, :, first:last] = MinMaxScaler().fit_transform(flat).reshape(columns.shape)
    return scaled


def zscore_nonzero(voxels: Array) -> npt.NDArray[np.float32]:
    """Non-zero voxels to mean 0 and deviation 1; zeros stay 0."""
    brain = voxels != 0
    values = voxels[brain].astype(np.float32)
    mean = values.mean(dtype=np.float64)
    deviation = values.std(dtype=np.float64)
    scaled = np.zeros(voxels.shape, np.float32)
    scaled[brain] = (values - np.float32(mean)) / np.float32(max(deviation, 1e-8))
    return scaled
