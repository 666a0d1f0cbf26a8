"""`check`: what is wrong with a case, from headers alone where headers suffice.

A header tells the grid and the type, the end of a gzip stream its length. Voxels are read only
where something stays open: masks (labels stand in no header), float images (they may hold
NaN), files that compress as only an empty image does, or worse than a brain in empty space,
two of one length, lengths that do not agree, and the channels of 4-D files.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ray_brats.arrays import Shape
from ray_brats.cases import anatomy, nifti, preprocess, volume
from ray_brats.cases.case import Case
from ray_brats.cases.naming import SEGMENTATION
from ray_brats.cases.nifti import Header
from ray_brats.errors import CaseError
from ray_brats.files import channels, ledger, retry, storage
from ray_brats.files.ledger import CaseRow
from ray_brats.labels import LabelMap
from ray_brats.recipes.config import PreprocessConfig

_EMPTY_RATIO = 200
"""Zeros compress a thousandfold, a brain in zeros some tenfold."""
_FULL_RATIO = 2.5
"""What is more than brain compresses less, for each byte of a voxel: scans of int16 with their
skull were 1.8 to 4 times smaller than what they inflate to, stripped ones 6.3 to 16 times."""


def check_case(case: Case, config: PreprocessConfig, *, deep: bool = False) -> CaseRow:
    """The row of one case, with `patient_id`, `masked` and, where it is sound, its shape and the
    outline of its tumour.

    Args:
        case: found, not yet opened.
        config: whose modalities and rules are asked for.
        deep: read every voxel, as preprocessing does.
    """
    facts: dict[str, Any] = {"patient_id": case.patient_id, "masked": case.segmentation is not None}
    try:
        if deep:
            prepared = preprocess.preprocess_case(case, config)
            shape, remarks = prepared.geometry.canonical_shape, list(prepared.remarks)
            label = prepared.label_HWD
        else:
            shape, remarks, label = _check(case, config)
    except CaseError as error:
        failed = retry.failed_row(case.case_id, error)
        return dataclasses.replace(failed, facts=facts)
    facts |= {"shape_vox": list(shape), **ledger.remarked(remarks)}
    if label is not None and case.task is not None:
        facts[anatomy.FACT] = anatomy.outline(label, case.task.targets).as_json()
    return CaseRow(case_id=case.case_id, facts=facts)


def _check(case: Case, config: PreprocessConfig) -> tuple[Shape, list[str], LabelMap | None]:
    uris = preprocess.files_of(case, config)
    headers = dict(
        zip(uris, preprocess.readers().map(volume.read_header, uris.values()), strict=True)
    )
    preprocess.check_channels(case, {kind: item.channels for kind, item in headers.items()})
    geometries = {kind: header.geometry for kind, header in headers.items()}
    remarks = preprocess.check_grids(geometries, uris)
    images = {kind: uri for kind, uri in uris.items() if kind != SEGMENTATION}
    alike = Counter(case.sizes_bytes.get(uri) for uri in images.values())
    doubtful = [
        kind
        for kind, uri in images.items()
        if alike[case.sizes_bytes.get(uri)] > 1
        or not _suffices(headers[kind], uri, case.sizes_bytes)
    ]
    read = preprocess.read_all({kind: images[kind] for kind in doubtful}, exact=config.is_exact)
    # What is said of grids was said of all files above.
    known = set(remarks)
    remarks += [word for word in preprocess.checked(read, uris, config)[1] if word not in known]
    label = None
    if SEGMENTATION in uris:
        label = _checked_mask(case, uris[SEGMENTATION], config, headers[SEGMENTATION])
    return headers[next(iter(uris))].geometry.canonical_shape, remarks, label


def _suffices(header: Header, uri: str, sizes_bytes: Mapping[str, int]) -> bool:
    """Whether nothing about an image is left open by its header and the length of its file."""
    size = sizes_bytes.get(uri)
    if header.dtype.kind == "f" or header.scale is not None or size is None:
        return False
    # How well several scans in one file compress says nothing of each.
    if not header.gzipped or header.channels > 1:
        return False
    trailer = storage.read_bytes(channels.file_of(uri), start=size - nifti.LENGTH_BYTES, end=size)
    agrees = int.from_bytes(trailer, "little") == header.promised_bytes
    ratio = header.promised_bytes / size
    return agrees and _FULL_RATIO * max(2, header.dtype.itemsize) < ratio < _EMPTY_RATIO


def _checked_mask(case: Case, uri: str, config: PreprocessConfig, header: Header) -> LabelMap:
    label = preprocess.class_indices(volume.read(uri), case, config)
    if config.crop == "centre":
        geometry = preprocess.cropped_geometry(header.geometry, config)
        crop = np.asarray(geometry.crop(label))
        preprocess.check_labelled_share(crop, geometry, config.min_labelled_share)
    return label
