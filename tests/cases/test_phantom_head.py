"""Heads around phantoms, and series that are taken of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import background, phantom, phantom_head
from ray_brats.cases.phantom import Phantom
from ray_brats.cases.phantom_head import Head, grid_around, motion_about, scanned
from ray_brats.cases.raw import placed
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.errors import CaseRejected
from ray_brats.recipes.tasks import TASKS

GLIOMA = TASKS["gli-2020"]
MODALITIES = ("t1", "t1ce", "t2", "flair")
ROOM_VOX = 28


def drawn() -> Phantom:
    return phantom.make_phantom(1, shape_vox=(56, 52, 36), modalities=MODALITIES)


@pytest.fixture(scope="module")
def head() -> Head:
    return phantom_head.head_of(drawn())


def test_the_same_phantom_gives_the_same_head(head: Head) -> None:
    again = phantom_head.head_of(drawn())
    for modality in MODALITIES:
        assert (again.images[modality].voxels == head.images[modality].voxels).all()


def test_the_brain_is_the_phantoms_in_the_same_place(head: Head) -> None:
    own = head.phantom
    inner = (slice(None), slice(None), slice(ROOM_VOX, -ROOM_VOX))
    brain = own.images["t1"] > 0
    assert (head.brain.voxels[inner] == brain).all()
    assert np.count_nonzero(head.brain.voxels) == np.count_nonzero(brain)
    assert (head.label.voxels[inner] == own.label).all()
    for modality in MODALITIES:
        image = head.images[modality]
        assert image.voxels.dtype == np.float32
        assert (image.voxels[inner][brain] == own.images[modality][brain]).all()
        first = placed.moved(image.grid.affine, np.array([[0.0, 0, ROOM_VOX]]))
        assert np.allclose(first, own.affine[:3, 3])


@pytest.mark.parametrize("modality", MODALITIES)
def test_its_skull_is_seen(head: Head, modality: str) -> None:
    voxels = head.images[modality].voxels
    with pytest.raises(CaseRejected, match="not skull-stripped"):
        background.cleared(voxels)
    background.cleared(np.where(head.brain.voxels, voxels, 0))


def test_bone_is_dark_and_fat_is_bright(head: Head) -> None:
    from edt import edt

    away_mm = edt(~head.brain.voxels)
    voxels = head.images["t1"].voxels
    middle = head.brain.grid.shape_vox[2] // 2
    bone, fat = ((away_mm > near) & (away_mm < far) for near, far in ((4, 7), (10, 13)))
    assert (
        voxels[..., middle][fat[..., middle]].mean()
        > 3 * voxels[..., middle][bone[..., middle]].mean()
    )


def test_thick_slices_are_means() -> None:
    fine = np.random.default_rng(0).random((9, 8, 12)).astype(np.float32)
    image = Placed(voxels=fine, grid=Grid(shape_vox=fine.shape, affine=np.eye(4)))
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[2, 3] = 1.5
    thick = Grid(shape_vox=(9, 8, 3), affine=affine)
    expected = fine.reshape(9, 8, 3, 4).mean(axis=-1)
    assert np.allclose(scanned(image, thick, np.eye(4)), expected, atol=1e-6)
    assert scanned(image, thick, np.eye(4)).dtype == np.float32


def test_a_series_of_labels_has_no_others() -> None:
    labels = np.random.default_rng(0).choice([0, 1, 4], (12, 12, 12)).astype(np.uint8)
    image = Placed(voxels=labels, grid=Grid(shape_vox=labels.shape, affine=np.eye(4)))
    coarse = Grid(shape_vox=(5, 5, 3), affine=np.diag([2.0, 2.0, 4.0, 1.0]))
    assert set(np.unique(scanned(image, coarse, np.eye(4), order=0))) == {0, 1, 4}


def test_a_series_shows_the_head_where_the_motion_puts_it(head: Head) -> None:
    grid = head.brain.grid
    shift = motion_about(grid.centre_mm, (0, 0, 0), (3, -2, 4))
    moved = scanned(head.images["t2"], grid, shift)
    # In LPS order 3 mm to the right are three voxels back, and 2 mm to the back two on.
    own = head.images["t2"].voxels
    assert np.allclose(moved[3:, :-2, :-4], own[:-3, 2:, 4:], rtol=1e-5)


@pytest.mark.parametrize(
    ("plane", "codes", "axis"),
    [("axial", "LPS", 2), ("sagittal", "PIL", 0), ("coronal", "LIP", 1)],
)
def test_a_grid_lies_around_a_point_in_each_plane(plane: str, codes: str, axis: int) -> None:
    centre = np.array([4.0, -7.0, 11.0])
    grid = grid_around(centre, (180, 220, 150), (0.9, 1.1, 5.0), plane)
    assert "".join(nib.aff2axcodes(grid.affine)) == codes
    assert grid.spacing_mm == pytest.approx((0.9, 1.1, 5.0))
    assert np.allclose(grid.centre_mm, centre)
    assert np.abs(grid.affine[:3, 2]).argmax() == axis
    between = grid.corners_mm.max(axis=0) - grid.corners_mm.min(axis=0)
    extent = between + np.abs(grid.affine[:3, :3]).sum(axis=1)
    assert np.allclose(extent, (180, 220, 150), atol=2.5)


@pytest.mark.raw
def test_studies_are_series_with_their_skull_and_masks_on_the_t1ce(tmp_path: Path) -> None:
    def write() -> list[str]:
        return phantom_head.write_studies(
            tmp_path / "raw", tmp_path / "truth", [3], shape_vox=(60, 60, 40), seed=0, task=GLIOMA
        )

    assert write() == ["PHANTOM-003"]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    names = {path.name for path in files if path.parent.name == "PHANTOM-003"}
    assert names == {f"{modality}.nii.gz" for modality in MODALITIES}
    assert write() == ["PHANTOM-003"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == files
    scan = nib.load(tmp_path / "raw/PHANTOM-003/t1ce.nii.gz")
    truth = nib.load(tmp_path / "truth/PHANTOM-003.nii.gz")
    assert truth.shape == scan.shape
    assert (truth.affine == scan.affine).all()
    assert set(np.unique(np.asarray(truth.dataobj))) == {0, 1, 2, 4}
    assert background.has_skull(np.asarray(scan.dataobj).astype(np.float32))
    # What enhances is brighter than the rest of the tumour: the mask lies where it grew.
    values, labels = np.asarray(scan.dataobj), np.asarray(truth.dataobj)
    assert values[labels == 4].mean() > 1.2 * values[labels == 2].mean()


angles = st.floats(-90, 90)
shifts = st.floats(-50, 50)
points = st.tuples(shifts, shifts, shifts)


@given(points, st.tuples(angles, angles, angles), points)
def test_a_motion_turns_about_its_point_and_keeps_distances(
    centre: tuple[float, ...], turns: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    middle = np.array(centre)
    motion = motion_about(middle, turns, shift)
    assert np.allclose(placed.moved(motion, middle[None])[0], middle + shift, atol=1e-9)
    assert np.allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3))
    assert np.linalg.det(motion) == pytest.approx(1)


@pytest.mark.parametrize(("axis", "start", "end"), [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_a_motion_turns_by_its_degrees(axis: int, start: int, end: int) -> None:
    turns = [0.0, 0.0, 0.0]
    turns[axis] = 30
    motion = motion_about(np.zeros(3), turns, (0, 0, 0))
    turned = motion[:3, :3] @ np.eye(3)[start]
    assert turned[start] == pytest.approx(np.sqrt(3) / 2)
    assert turned[end] == pytest.approx(0.5)
    assert placed.rotation_deg(motion) == pytest.approx(30)
