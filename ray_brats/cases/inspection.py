"""`check`: what is wrong with a case, from headers alone where headers suffice.

A header tells the grid and the type, the end of a gzip stream its length. Voxels are read only
where something stays open: masks (labels stand in no header), float images (they may hold
NaN), files that compress as only an empty image does, and lengths that do not agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ray_brats.cases import nifti, preprocess, volume
from ray_brats.cases.case import Case
from ray_brats.cases.naming import SEGMENTATION
from ray_brats.cases.nifti import Header
from ray_brats.errors import CaseError
from ray_brats.files import retry, storage
from ray_brats.files.ledger import CaseRow
from ray_brats.recipes.config import PreprocessConfig

_EMPTY_RATIO = 200
"""Zeros compress a thousandfold, a head in air some tenfold."""


def check_case(case: Case, config: PreprocessConfig, *, deep: bool = False) -> CaseRow:
    """The row of one case, with `patient_id`, `masked` and, where it is sound, its shape.

    Args:
        case: found, not yet opened.
        config: whose modalities and rules are asked for.
        deep: read every voxel, as preprocessing does.
    """
    facts = {"patient_id": case.patient_id, "masked": case.segmentation is not None}
    try:
        if deep:
            shape = preprocess.preprocess_case(case, config).geometry.canonical_shape
        else:
            shape = _check(case, config)
    except CaseError as error:
        failed = retry.failed_row(case.case_id, error)
        return dataclasses.replace(failed, facts=facts)
    return CaseRow(case_id=case.case_id, facts={**facts, "shape_vox": list(shape)})


def _check(case: Case, config: PreprocessConfig) -> tuple[int, int, int]:
    uris = preprocess.files_of(case, config)
    headers = dict(
        zip(uris, preprocess.readers().map(volume.read_header, uris.values()), strict=True)
    )
    geometries = {kind: header.geometry for kind, header in headers.items()}
    preprocess.check_grids(geometries, uris)
    for kind, uri in uris.items():
        if kind == SEGMENTATION:
            _check_mask(case, uri, config, headers[kind])
        elif not _suffices(headers[kind], uri, case.sizes_bytes):
            preprocess.check_volumes({kind: volume.read(uri)}, uris)
    return headers[next(iter(uris))].geometry.canonical_shape


def _suffices(header: Header, uri: str, sizes_bytes: Mapping[str, int]) -> bool:
    """Whether nothing about an image is left open by its header and the length of its file."""
    size = sizes_bytes.get(uri)
    if header.dtype.kind == "f" or header.scale is not None or size is None:
        return False
    if not header.gzipped:
        return size >= header.promised_bytes
    trailer = storage.read_bytes(uri, start=size - nifti.LENGTH_BYTES, end=size)
    agrees = int.from_bytes(trailer, "little") == header.promised_bytes
    return agrees and header.promised_bytes < _EMPTY_RATIO * size


def _check_mask(case: Case, uri: str, config: PreprocessConfig, header: Header) -> None:
    label = preprocess.class_indices(volume.read(uri), case, config)
    if config.crop == "centre":
        geometry = preprocess.cropped_geometry(header.geometry, config)
        crop = np.asarray(geometry.crop(label))
        preprocess.check_labelled_share(crop, geometry, config.min_labelled_share)
