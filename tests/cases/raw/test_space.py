"""Spaces, and upright grids around any other."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import background
from ray_brats.cases.phantom_head import motion_about
from ray_brats.cases.raw import placed, space
from ray_brats.cases.raw.placed import Grid
from ray_brats.errors import UsageError

degrees = st.floats(-180, 180)
mm = st.floats(-100, 100)
spacings = st.floats(0.3, 7)
counts = st.integers(1, 300)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Oblique, anisotropic, with axes in any order and direction."""
    affine = motion_about(
        np.zeros(3), draw(st.tuples(degrees, degrees, degrees)), draw(st.tuples(mm, mm, mm))
    )
    flips = draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3))
    affine[:3, :3] *= np.array(flips) * np.array(draw(st.tuples(*[spacings] * 3)))
    return Grid(shape_vox=draw(st.tuples(counts, counts, counts)), affine=affine)


def ends_mm(grid: Grid) -> np.ndarray:
    """The corners of the box: half a voxel outside of those of `corners_mm`."""
    middle = (np.array(grid.shape_vox) - 1) / 2
    signs = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    return placed.moved(grid.affine, middle + signs * np.array(grid.shape_vox) / 2)


@given(grids(), st.sampled_from((1.0, 0.7, 2.0)))
def test_an_upright_grid_is_the_same_box_in_lps_order(grid: Grid, step_mm: float) -> None:
    upright = space.upright(grid, step_mm)
    assert upright.spacing_mm == pytest.approx((step_mm,) * 3)
    codes = nib.aff2axcodes(upright.affine)
    assert "".join(codes) == "LPS"
    assert np.allclose(upright.centre_mm, grid.centre_mm, atol=1e-6)
    # Nothing is turned: each axis is one of the grid's, or its opposite.
    axes = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    along = np.abs(axes.T @ (upright.affine[:3, :3] / step_mm))
    assert np.allclose(np.sort(along, axis=0), np.sort(np.eye(3), axis=0), atol=1e-6)
    # All of the box is in it, and less than a voxel besides.
    index = placed.moved(np.linalg.inv(upright.affine), ends_mm(grid))
    low, high = index.min(axis=0) + 0.5, np.array(upright.shape_vox) - 0.5 - index.max(axis=0)
    assert (low > -1e-4).all()
    assert (high > -1e-4).all()
    assert (low < 0.5 + 1e-4).all()


@given(grids())
def test_what_is_upright_stays(grid: Grid) -> None:
    once = space.upright(grid)
    again = space.upright(once)
    assert again.shape_vox == once.shape_vox
    assert np.allclose(again.affine, once.affine, atol=1e-9)


def test_the_patients_own_space_turns_nothing() -> None:
    own = space.space_of("patient")
    assert own.template is None
    grid = Grid(shape_vox=(40, 50, 10), affine=np.diag([0.9, 0.9, 5.0, 1.0]))
    assert own.grid_for(grid).shape_vox == (36, 45, 50)


@pytest.mark.raw
def test_mni152_is_a_stripped_brain_on_the_grid_of_brats() -> None:
    pytest.importorskip("nilearn")
    mni = space.space_of("mni152")
    assert mni.template is not None
    grid = mni.grid_for(Grid(shape_vox=(2, 2, 2), affine=np.eye(4)))
    assert grid.shape_vox == (240, 240, 155)
    assert nib.aff2axcodes(grid.affine) == ("L", "P", "S")
    assert grid.spacing_mm == (1, 1, 1)
    background.cleared(mni.template.voxels)
    values = placed.resampled(mni.template, grid, np.eye(4))
    whole_ml = np.count_nonzero(mni.template.voxels) / 1000
    # Its lowest 4 mm are outside: a fifth of a cubic centimetre per litre.
    assert np.count_nonzero(values) / 1000 == pytest.approx(whole_ml, rel=5e-4)
    planes = [np.moveaxis(values, axis, 0)[end] for axis in range(3) for end in (0, -1)]
    assert [bool(plane.any()) for plane in planes] == [False] * 4 + [True, False]


def test_a_missing_template_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    space.space_of.cache_clear()
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(UsageError, match=r"need nilearn.*ray-brats\[raw\]"):
        space.space_of("mni152")


def save(path: Path, voxels: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    return str(path)


def test_an_atlas_is_where_its_file_says_on_its_own_grid(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 99, (9, 8, 7)).astype(np.int16)
    own = space.space_of(save(tmp_path / "atlas.nii.gz", voxels))
    assert own.name == "atlas"
    assert own.template is not None
    assert own.template.voxels.dtype == np.float32
    grid = own.grid_for(Grid(shape_vox=(2, 2, 2), affine=np.eye(4)))
    assert grid is own.template.grid
    (place,) = placed.moved(np.linalg.inv(grid.affine), np.array([[6.0, 4, 9]]))
    assert own.template.voxels[tuple(np.rint(place).astype(int))] == voxels[3, 2, 3]


@pytest.mark.parametrize("kind", ["absent", "text", "4-D"])
def test_what_is_no_atlas_is_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "atlas.nii.gz"
    if kind == "text":
        path.write_text("mni")
    if kind == "4-D":
        save(path, np.ones((4, 4, 4, 3), np.int16))
    with pytest.raises(UsageError, match=rf"--atlas {path}: \w"):
        space.space_of(str(path))
