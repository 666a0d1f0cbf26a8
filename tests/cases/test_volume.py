"""Volumes: orientation, geometry and its way back, damaged files."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from ray_brats.cases import volume
from ray_brats.errors import CaseRejected
from ray_brats.labels import Task
from ray_brats.recipes.tasks import TASKS

ORIENTATIONS = ["LPS", "RAS", "LAS", "PIR", "SLP", "ARI"]


def image_bytes(voxels: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    image = nib.Nifti1Image(voxels, np.diag([-1.0, -1, 1, 1]) if affine is None else affine)
    return bytes(image.to_bytes())


def in_axes(axes: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Affine of an image whose axes run in the directions named."""
    return np.asarray(inv_ornt_aff(axcodes2ornt(axes), shape) @ np.eye(4))


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_canonical_axes_grow_left_posterior_superior(axes: str) -> None:
    canonical = np.arange(24).reshape(2, 3, 4).astype(np.int16)
    source = nib.Nifti1Image(canonical, np.diag([-1.0, -2, 3, 1]))
    transform = nib.orientations.ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(axes))
    turned = source.as_reoriented(transform)
    item = volume.parse(bytes(turned.to_bytes()), "a.nii")
    assert (item.voxels_HWD == canonical).all()
    assert item.geometry.spacing_mm == pytest.approx((1, 2, 3))
    assert item.geometry.voxel_ml == pytest.approx(0.006)


def test_scl_slope_and_a_single_frame_are_read_as_nibabel_does(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((3, 3, 3, 1), 5, np.int16), np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    expected = nib.load(tmp_path / "a.nii.gz").get_fdata()[..., 0]
    assert volume.read(str(tmp_path / "a.nii.gz")).voxels_HWD == pytest.approx(expected)


VOXELS = np.arange(4096, dtype=np.int16).reshape(16, 16, 16)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"not an image" * 100, "not a NIfTI"),
        (gzip.compress(b"not an image" * 100, mtime=0), "not a NIfTI"),
        (gzip.compress(image_bytes(VOXELS), mtime=0)[:-400], "truncated"),
        (gzip.compress(image_bytes(VOXELS), mtime=0)[:30], "truncated"),
        (image_bytes(VOXELS)[:-1], "truncated"),
        (image_bytes(np.zeros((4, 4, 4, 2), np.int16)), "three axes"),
        (image_bytes(np.zeros((4, 4), np.int16)), "three axes"),
        (image_bytes(np.zeros((4, 4, 4), np.complex64)), "integers or floats"),
        (image_bytes(VOXELS)[:280] + bytes(16) + image_bytes(VOXELS)[296:], "affine"),
    ],
)
def test_what_cannot_be_read_is_rejected_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(CaseRejected, match=reason) as caught:
        volume.parse(content, "bad.nii.gz")
    assert caught.value.file == "bad.nii.gz"


def test_a_header_that_promises_too_much_is_refused_before_inflating() -> None:
    header = bytearray(image_bytes(VOXELS))
    header[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    with pytest.raises(CaseRejected, match="voxels a side"):
        volume.parse(gzip.compress(bytes(header)), "bomb.nii.gz")


def test_absent_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CaseRejected, match="no such file"):
        volume.read(str(tmp_path / "a.nii.gz"))


def test_a_written_mask_has_the_inputs_shape_affine_and_codes(tmp_path: Path) -> None:
    affine = in_axes("RAS", (4, 5, 6))
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), affine)
    image.set_qform(affine, 2)
    image.set_sform(affine, 3)
    item = volume.parse(bytes(image.to_bytes()), "a.nii")
    mask = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    content = volume.encode(mask, item.geometry)
    assert content == volume.encode(mask, item.geometry)
    (tmp_path / "m.nii.gz").write_bytes(content)
    written = nib.load(tmp_path / "m.nii.gz")
    assert (np.asarray(written.dataobj) == mask).all()
    assert written.get_data_dtype() == np.uint8
    assert written.affine == pytest.approx(affine)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (2, 3)


def test_not_even_the_sign_of_a_zero_changes() -> None:
    affine = np.array([[-1, -0.0, 0, 0], [-0.0, -1, -0.0, 239], [0, -0.0, 1, -0.0], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    content = bytes(image.to_bytes())
    mask = np.ones((4, 5, 6), np.uint8)
    written = gzip.decompress(volume.encode(mask, volume.parse(content, "a.nii").geometry))
    assert written == content


def test_a_missing_modality_is_named_with_those_that_are_there() -> None:
    files = {"t2": "b", "flair": "a"}
    assert volume.missing_modality(["flair", "t2"], files) is None
    assert volume.missing_modality(["t1ce", "flair", "t1"], files) == (
        "modality t1ce, t1 is missing (the case has: flair, t2)",
        "t1ce",
    )
    assert volume.missing_modality(["t2"], {}) == (
        "modality t2 is missing (the case has: none)",
        "t2",
    )


def test_a_mask_is_read_as_class_indices_on_the_grid_of_its_case(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).choice(np.array([0, 1, 2, 4], np.uint8), (4, 5, 6))
    path = tmp_path / "m.nii"
    path.write_bytes(image_bytes(raw))
    case = volume.parse(image_bytes(raw.astype(np.int16)), "a.nii")
    index = volume.read_mask(str(path), TASKS["gli-2020"], grid=case.geometry)
    assert (index == np.where(raw == 4, 3, raw)).all()
    assert (volume.class_indices(volume.read(str(path)), TASKS["gli-2020"], "m.nii") == index).all()
    cut = volume.parse(image_bytes(raw[1:]), "a.nii")
    with pytest.raises(CaseRejected, match="not on the grid of its case: shape"):
        volume.read_mask(str(path), TASKS["gli-2020"], grid=cut.geometry)


@pytest.mark.parametrize(
    ("held", "advice"),
    [
        ((1, 2, 3), "gli-2023, ssa, goat, men-pre, gli-post, met, ped, msd-task01 would: pass"),
        ((1.0, 2.0, 3.0), "gli-2023, ssa, goat, men-pre, gli-post, met, ped, msd-task01 would"),
        ((1, 2, 3, 4), "gli-post, met, ped would: pass --task if it is one of them"),
        ((1, 3, 7), ""),
    ],
)
def test_tasks_are_named_that_define_all_labels_of_a_mask(
    held: tuple[float, ...], advice: str
) -> None:
    """One that defines the label at fault alone would reject the mask for another."""
    raw = np.resize(np.array((0, *held)), (4, 4, 4))
    raw = raw.astype(np.float32 if isinstance(held[0], float) else np.int16)
    with pytest.raises(CaseRejected, match="gli-2020 defines only 0, 1, 2, 4") as caught:
        volume.class_indices(volume.parse(image_bytes(raw), "m.nii"), TASKS["gli-2020"], "m.nii")
    assert caught.value.reason.partition("4; ")[2].startswith(advice)
    assert ("would" in caught.value.reason) == bool(advice)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (None, "pass --task"),
        (TASKS["gli-2023"], "the mask holds label 4.*; gli-2018, .*, ped would"),
    ],
)
def test_labels_that_nobody_explains_reject_the_mask_by_name(
    task: Task | None, reason: str
) -> None:
    mask = volume.parse(image_bytes(np.full((4, 4, 4), 4, np.uint8)), "m.nii")
    with pytest.raises(CaseRejected, match=reason) as caught:
        volume.class_indices(mask, task, "m.nii")
    assert caught.value.file == "m.nii"
