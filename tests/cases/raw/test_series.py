"""What an image and its sidecar say of a series."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases.raw import series
from ray_brats.errors import CaseRejected


def save(path: Path, shape: tuple[int, ...] = (8, 9, 10), affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(
        nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4) if affine is None else affine), path
    )
    return path


def test_a_file_alone_has_its_name_and_its_grid(tmp_path: Path) -> None:
    path = save(tmp_path / "T1_post.NII.gz", affine=np.diag([-0.9, 0.8, 5, 1]))
    found = series.of_nifti(path)
    assert (found.name, found.number, found.shape_vox) == ("T1_post", None, (8, 9, 10))
    assert found.spacing_mm == pytest.approx((0.9, 0.8, 5))
    assert found.slice_mm == pytest.approx(5)
    assert found.slices == 10
    assert found.coverage_mm == pytest.approx((7.2, 7.2, 50))
    assert (found.description, found.te_ms, found.contrast, found.volumes) == ("", None, None, 1)


SIDECAR: dict[str, Any] = {
    "SeriesDescription": "Ax T1  +C",
    "ProtocolName": "BRAIN",
    "SeriesNumber": 7,
    "EchoTime": 0.009,
    "RepetitionTime": 0.55,
    "ImageType": ["ORIGINAL", "PRIMARY", "m"],
    "ContrastBolusAgent": "GADAVIST",
    "ScanningSequence": "SE",
    "SequenceVariant": "SK_OSP",
    "SequenceName": "*se2d1",
}


def test_a_sidecar_is_read_in_milliseconds(tmp_path: Path) -> None:
    found = series.of_sidecar(save(tmp_path / "7.nii"), SIDECAR)
    assert (found.name, found.number, found.protocol) == ("Ax T1 +C", 7, "BRAIN")
    assert (found.te_ms, found.tr_ms, found.ti_ms) == (pytest.approx(9), pytest.approx(550), None)
    assert found.image_type == ("ORIGINAL", "PRIMARY", "M")
    assert found.sequence == "SE SK_OSP *se2d1"
    assert found.contrast is True


@pytest.mark.parametrize(
    ("agent", "contrast"),
    [
        ("Dotarem", True),
        ("10 ml GAD", True),
        ("None", False),
        ("NO", False),
        ("no contrast", False),
        ("", None),
        (None, None),
        (17, None),
    ],
)
def test_an_agent_is_named_denied_or_not_said(
    tmp_path: Path, agent: Any, contrast: bool | None
) -> None:
    sidecar = {**SIDECAR, "ContrastBolusAgent": agent}
    assert series.of_sidecar(save(tmp_path / "7.nii"), sidecar).contrast is contrast


@pytest.mark.parametrize("wrong", [True, "0.1", [0.1], {}, -1, 0, float("nan"), 1e300])
def test_a_sidecar_of_other_types_says_nothing(tmp_path: Path, wrong: Any) -> None:
    sidecar = {key: wrong for key in SIDECAR if key not in ("ContrastBolusAgent", "ImageType")}
    sidecar["SeriesDescription"] = {"a": wrong}
    found = series.of_sidecar(save(tmp_path / "7.nii"), sidecar)
    assert (found.te_ms, found.tr_ms, found.description, found.name) == (None, None, "", "7")


AXES = np.eye(3)


@pytest.mark.parametrize(
    ("spacing_mm", "axes", "plane"),
    [
        ((0.9, 0.9, 5), [0, 1, 2], "axial"),
        ((5, 0.9, 0.9), [0, 1, 2], "sagittal"),
        ((0.9, 0.9, 5), [1, 2, 0], "sagittal"),
        ((0.5, 0.5, 6.5), [0, 2, 1], "coronal"),
        ((1, 1, 1), [0, 1, 2], "3d"),
        ((0.5, 0.5, 2), [0, 1, 2], "3d"),
        ((3, 3, 4), [0, 1, 2], "3d"),
        ((0.5, 0.5, 2.1), [0, 1, 2], "axial"),
    ],
)
def test_the_plane_is_that_of_the_thick_slices(
    tmp_path: Path, spacing_mm: tuple[float, ...], axes: list[int], plane: str
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = AXES[:, axes] * spacing_mm
    assert series.of_nifti(save(tmp_path / "a.nii", affine=affine)).plane == plane


def test_an_oblique_plane_is_called_by_the_nearest(tmp_path: Path) -> None:
    turn = np.deg2rad(25)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, :3] *= [0.9, 0.9, 5]
    assert series.of_nifti(save(tmp_path / "a.nii", affine=affine)).plane == "axial"


def test_files_of_several_volumes_are_counted_and_others_are_refused(tmp_path: Path) -> None:
    assert series.of_nifti(save(tmp_path / "a.nii", (8, 9, 10, 5))).volumes == 5
    with pytest.raises(CaseRejected, match="expected three axes"):
        series.of_nifti(save(tmp_path / "b.nii", (8, 9)))
    (tmp_path / "c.nii").write_bytes(b"no")
    with pytest.raises(CaseRejected, match="truncated"):
        series.of_nifti(tmp_path / "c.nii")


def test_people_are_shown_name_number_and_grid(tmp_path: Path) -> None:
    found = series.of_sidecar(save(tmp_path / "7.nii"), SIDECAR)
    assert found.label == "Ax T1 +C (no. 7, 1 × 1 × 1 mm)"
    assert dataclasses.replace(found, number=None).label == "Ax T1 +C (1 × 1 × 1 mm)"
