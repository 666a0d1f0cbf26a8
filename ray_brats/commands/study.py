"""A raw study as `segment` takes it: prepared in this process, its mask brought home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_brats.arrays import Array
from ray_brats.cases import background, volume
from ray_brats.cases.raw import studies
from ray_brats.errors import CaseError, UsageError
from ray_brats.files import storage
from ray_brats.progress import say

if TYPE_CHECKING:
    from ray_brats.cases.preprocess import Prepared
    from ray_brats.cases.raw.record import Record
    from ray_brats.cases.raw.studies import Study
    from ray_brats.model.predict import Prediction
    from ray_brats.recipes.config import PreprocessConfig


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A study that was prepared for a network."""

    prepared: Prepared
    record: Record
    images: Mapping[str, Array]
    """Modality to `(H, W, D)` in the upright space, for a picture."""
    sources: Sequence[Path]
    """DICOM files of the series that the mask goes home to; none of NIfTI."""


def found(folder: str) -> Study | None:
    """The study in a folder whose scans are as they left the scanner; None of any other folder.

    So is all DICOM, and NIfTI whose reference has its skull on.

    Raises:
        UsageError: there are several studies, or DICOM without the packages that read it.
    """
    root = Path(storage.absolute(folder))
    if storage.is_remote(folder) or not root.is_dir():
        return None
    if not studies.has_dicom(root) and not _has_skull(root):
        return None
    all_found = studies.find(root)
    if len(all_found) > 1:
        raise UsageError(
            f"{folder} holds {len(all_found)} studies: expected one; `ray-brats prepare` takes all"
        )
    return all_found[0]


def _has_skull(root: Path) -> bool:
    """Whether the reference of NIfTI series in a folder shows more than a brain."""
    try:
        scan = studies.reference_in(root)
        return scan is not None and background.has_skull(volume.read(str(scan)).voxels_HWD)
    except (CaseError, UsageError):
        return False


def ready(study: Study, config: PreprocessConfig) -> Ready:
    """The study on one upright grid, stripped and preprocessed.

    Raises:
        CaseError: it cannot be prepared, or lacks a modality.
        UsageError: a package of the extra is missing.
    """
    from ray_brats.cases.raw import patient
    from ray_brats.cases.raw.preparation import PreparationOptions
    from ray_brats.model import predict

    say("segment: a raw study: its series are aligned, turned upright and stripped first")
    one = patient.prepare("study", study, PreparationOptions(), needed=config.modalities)
    for modality, item in one.record.series.items():
        say(f"segment: {modality} is {item.name}: {item.reason}")
    images = {name: image.voxels for name, image in one.prepared.images.items()}
    scans: dict[str, predict.Source] = {
        name: volume.from_array(voxels, one.prepared.grid.affine) for name, voxels in images.items()
    }
    return Ready(
        prepared=predict.read(scans, config),
        record=one.record,
        images=images,
        sources=one.sources[one.record.home_modality],
    )


def write_dicom_seg(one: Ready, native: Prediction, uri: str, made_by: str) -> None:
    """Write a mask as a DICOM Segmentation of its series; raises as `dicomseg.encode`."""
    from ray_brats.cases.raw import dicomseg

    content = dicomseg.encode(
        native.mask_native, native.geometry, native.targets, one.sources, made_by=made_by
    )
    storage.write_bytes(uri, content)
