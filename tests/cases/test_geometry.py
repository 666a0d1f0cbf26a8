"""Geometry: there and back, whatever the file's axes, spacing and affine."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats.cases import geometry, nifti, volume
from ray_brats.cases.geometry import Geometry

sides = st.tuples(*[st.integers(2, 7)] * 3)
angles = st.floats(-180, 180)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any rotation and reflection, spacings that differ, a little shear, somewhere in space."""
    turn = np.eye(3)
    for axis in range(3):
        angle = np.radians(draw(angles))
        one = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one[[a, a, b, b], [a, b, a, b]] = [
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        ]
        turn = turn @ one
    signs = np.diag(draw(st.tuples(*[st.sampled_from([-1, 1])] * 3)))
    shear = np.eye(3)
    shear[0, 1] = draw(st.floats(-0.1, 0.1))
    spacing = np.diag(draw(st.tuples(*[st.floats(0.3, 6)] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn @ signs @ shear @ spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


def volume_of(voxels: np.ndarray, affine: np.ndarray) -> volume.Volume:
    image = nib.Nifti1Image(voxels, affine)
    return volume.parse(bytes(image.to_bytes()), "m.nii")


@settings(max_examples=150, deadline=None)
@given(
    affine=affines(),
    shape=sides,
    start=st.tuples(*[st.integers(-3, 3)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    seed=st.integers(0, 99),
)
def test_a_mask_there_and_back_is_itself_inside_the_crop(
    affine: np.ndarray,
    shape: tuple[int, int, int],
    start: tuple[int, int, int],
    size: tuple[int, int, int],
    seed: int,
) -> None:
    mask = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    item = volume_of(mask, affine)
    whole = item.geometry
    assert (whole.to_native(whole.crop(item.voxels_HWD)) == mask).all()
    cropped = geometry.with_crop(whole, start, size)
    inside = cropped.to_native(np.ones(size, bool))
    assert (whole.to_native(cropped.to_canonical(np.ones(size, bool))) == inside).all()
    back = cropped.to_native(cropped.crop(item.voxels_HWD))
    assert (back == np.where(inside, mask, 0)).all()


@settings(max_examples=50, deadline=None)
@given(affine=affines(), shape=sides, seed=st.integers(0, 99))
def test_canonical_axes_are_those_nearest_to_left_posterior_superior(
    affine: np.ndarray, shape: tuple[int, int, int], seed: int
) -> None:
    voxels = np.random.default_rng(seed).integers(0, 99, shape).astype(np.int16)
    item = volume_of(voxels, affine)
    image = nib.Nifti1Image(voxels, affine)
    codes = nib.orientations.axcodes2ornt("LPS")
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), codes)
    )
    assert (item.voxels_HWD == np.asarray(turned.dataobj)).all()
    assert item.geometry.spacing_mm == pytest.approx(
        np.linalg.norm(turned.affine[:3, :3], axis=0), rel=1e-4
    )


@settings(max_examples=50, deadline=None)
@given(affine=affines(), shape=sides)
def test_case_json_holds_the_whole_geometry(
    affine: np.ndarray, shape: tuple[int, int, int]
) -> None:
    item = geometry.with_crop(
        volume_of(np.zeros(shape, np.uint8), affine).geometry, (1, 0, 0), shape
    )
    text = json.dumps({"case_id": "a", **item.as_json()})
    assert geometry.from_json(json.loads(text)) == item


def of_spacing(shape: tuple[int, int, int], spacing_mm: tuple[float, ...]) -> Geometry:
    return volume_of(np.zeros(shape, np.uint8), np.diag([*spacing_mm, 1])).geometry


def test_an_equal_spacing_resamples_nothing() -> None:
    whole = of_spacing((4, 5, 6), (-1, -1, 1.0005))
    assert geometry.with_spacing(whole, (1, 1, 1)) == whole
    assert geometry.with_spacing(whole, None) == whole


def test_a_finer_grid_interpolates_images_and_repeats_labels() -> None:
    whole = of_spacing((1, 1, 4), (-1, -1, 2))
    fine = geometry.with_spacing(whole, (1, 1, 1))
    assert fine.grid_shape == (1, 1, 8)
    image = np.array([0, 4, 8, 8], np.int16).reshape(1, 1, 4)
    # Three quarters of the third voxel are of the second, one quarter is background.
    assert fine.crop_image(image).ravel().tolist() == [0, 0, 4, 5, 7, 8, 8, 8]
    label = np.array([0, 1, 2, 3], np.uint8).reshape(1, 1, 4)
    assert fine.crop(label).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert fine.crop(label).dtype == np.uint8
    assert (fine.to_native(fine.crop(label)) == whole.to_native(label)).all()
    part = geometry.with_crop(fine, (0, 0, 3), (1, 1, 8))
    assert part.crop(label).ravel().tolist() == [1, 2, 2, 3, 3, 0, 0, 0]
    assert part.crop_image(image).ravel().tolist() == [5, 7, 8, 8, 8, 0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(
    shape=sides,
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    target=st.tuples(*[st.floats(0.5, 4)] * 3),
)
def test_resampling_keeps_constants_and_the_extent(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    target: tuple[float, float, float],
) -> None:
    item = geometry.with_spacing(of_spacing(shape, spacing), target)
    assert np.all(item.crop_image(np.full(item.canonical_shape, 7, np.int16)) == 7)
    ones = np.ones(item.canonical_shape, np.uint8)
    assert np.all(item.crop(ones) == 1)
    assert np.all(item.to_native(item.crop(ones)) == 1)
    if item.resampled_shape is not None:
        extent_mm = np.multiply(item.canonical_shape, item.spacing_mm)
        wrong_mm = np.abs(np.multiply(item.grid_shape, target) - extent_mm)
        assert np.all((wrong_mm <= np.divide(target, 2) + 1e-3) | (np.array(item.grid_shape) == 1))


def test_a_form_that_disagrees_loses_against_sform_as_in_nibabel(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.diag([-1.0, -1, 1, 1]))
    image.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    image.set_sform(np.diag([-1.0, -1, 3, 1]), 2)
    nib.save(image, tmp_path / "a.nii")
    found = volume.read(str(tmp_path / "a.nii")).geometry
    assert np.array(found.native_affine) == pytest.approx(nib.load(tmp_path / "a.nii").affine)
    assert found.spacing_mm == (1, 1, 3)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "b.nii")
    found = volume.read(str(tmp_path / "b.nii")).geometry
    assert found.spacing_mm == (2, 2, 2)
    assert (found.qform_code, found.sform_code) == (1, 0)


@settings(max_examples=50, deadline=None)
@given(affine=affines(), shape=sides, codes=st.tuples(st.integers(0, 4), st.integers(1, 4)))
def test_a_written_mask_lies_where_its_input_lies(
    affine: np.ndarray, shape: tuple[int, int, int], codes: tuple[int, int]
) -> None:
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    image.set_sform(affine, codes[1])
    image.set_qform(affine, codes[0])
    source = volume.parse(bytes(image.to_bytes()), "a.nii").geometry
    content = volume.encode(np.ones(shape, np.uint8), source)
    again = nifti.read_header(content, "mask.nii.gz").geometry
    assert not geometry.same_grid(again, source)
    assert (again.qform_code, again.sform_code) == codes


@settings(max_examples=60, deadline=None)
@given(
    shape=sides,
    have=st.tuples(*[st.floats(0.4, 6)] * 3),
    want=st.tuples(*[st.floats(0.4, 6)] * 3),
    start=st.tuples(*[st.integers(-2, 2)] * 3),
)
def test_what_comes_back_from_another_spacing_covers_its_crop(
    shape: tuple[int, int, int],
    have: tuple[float, float, float],
    want: tuple[float, float, float],
    start: tuple[int, int, int],
) -> None:
    grid = geometry.with_spacing(of_spacing(shape, (-have[0], -have[1], have[2])), want)
    size = [max(1, side - 1) for side in grid.grid_shape]
    cropped = geometry.with_crop(grid, start, size)
    own = cropped.unresampled()
    assert own.resampled_shape is None
    back = cropped.to_unresampled(np.full((*size, 2), 0.25, np.float32))
    if cropped.resampled_shape is None:
        assert own == cropped
        return
    assert back.shape == (*own.crop_shape_vox, 2)
    assert np.allclose(back, 0.25)
    # Every voxel of the file that the crop reaches with its middle is there.
    reached = cropped.to_native(np.ones(size, np.uint8)) > 0
    assert (own.to_native(np.ones(own.crop_shape_vox, np.uint8))[reached] > 0).all()


def test_a_ramp_that_was_resampled_comes_back_as_it_was() -> None:
    fine = geometry.with_spacing(of_spacing((2, 3, 20), (-1, -1, 3)), (1, 1, 1))
    ramp = np.broadcast_to(np.arange(1.0, 21.0), (2, 3, 20))
    back = fine.to_unresampled(fine.crop_image(ramp))
    assert np.allclose(back[..., 1:-1], ramp[..., 1:-1], atol=1e-5)


def turned(item: volume.Volume, axes: str) -> volume.Volume:
    """The same image stored in other axes."""
    shape, affine = item.geometry.native_shape, np.array(item.geometry.native_affine)
    image = nib.Nifti1Image(item.geometry.to_native(item.voxels_HWD), affine)
    assert image.shape == shape
    transform = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    )
    return volume.parse(bytes(image.as_reoriented(transform).to_bytes()), "turned.nii")


@pytest.mark.parametrize("axes", ["RAS", "LAS", "PIR", "SLP", "ARI"])
def test_grids_are_compared_as_they_lie_in_space(axes: str) -> None:
    affine = np.array([[-1, 0.1, 0, 40], [0, -1.5, 0, 50], [0, 0, 2, -60], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).integers(0, 500, (5, 4, 3)).astype(np.int16)
    item = volume_of(voxels, affine)
    other = turned(item, axes)
    assert geometry.same_grid(item.geometry, other.geometry) == ""
    assert geometry.apart_mm(item.geometry, other.geometry) < 1e-4
    assert (other.voxels_HWD == item.voxels_HWD).all()


@pytest.mark.parametrize(("moved_mm", "same"), [(0.004, True), (0.045, True), (0.06, False)])
def test_corners_may_be_a_twentieth_of_a_voxel_apart(moved_mm: float, same: bool) -> None:
    affine = np.diag([-1.0, -1, 3, 1])
    item = volume_of(np.zeros((9, 9, 9), np.uint8), affine)
    moved, turned = affine.copy(), affine.copy()
    moved[1, 3] += moved_mm
    # A small angle moves the far corners most.
    turned[0, 1] += moved_mm / 8
    for other in (moved, turned):
        told = geometry.same_grid(
            item.geometry, volume_of(np.zeros((9, 9, 9), np.uint8), other).geometry
        )
        assert (told == "") == same
        assert same or f"{moved_mm:.3g} mm" in told
