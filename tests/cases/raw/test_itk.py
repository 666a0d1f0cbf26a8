"""Images and points keep their place in SimpleITK's world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("SimpleITK")

from ray_brats.cases.phantom_head import motion_about
from ray_brats.cases.raw import itk, placed
from ray_brats.cases.raw.placed import Grid, Placed

sitk = itk.simpleitk()
LPS = np.array([-1.0, -1.0, 1.0])
SHAPE = (5, 6, 4)
# NIfTI has float32. Where sines are below 1e-160, ITK inverts matrices wrongly.
degrees = st.floats(-180, 180, width=32)
mm = st.floats(-100, 100)
sides = st.floats(0.4, 6)
triples = st.tuples(mm, mm, mm)
turns = st.tuples(degrees, degrees, degrees)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Turned, anisotropic, some of them mirrored."""
    affine = motion_about(np.zeros(3), draw(turns), draw(triples))
    flips = draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3))
    affine[:3, :3] *= np.array(flips) * np.array(draw(st.tuples(sides, sides, sides)))
    return affine


def image(affine: np.ndarray) -> Placed:
    voxels = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    return Placed(voxels=voxels, grid=Grid(shape_vox=SHAPE, affine=affine))


def check_places(own: Placed) -> None:
    """Every voxel has its value where the world has it, and the middle between all of them."""
    there = itk.image_of(own)
    index = np.argwhere(np.ones(SHAPE, bool))
    points = placed.moved(own.grid.affine, index.astype(float)) * LPS
    found = [there.TransformPhysicalPointToIndex(point.tolist()) for point in points]
    assert (np.array(found) == index).all()
    assert [there.GetPixel(*place) for place in found] == own.voxels.ravel().tolist()
    eight = own.voxels[1:3, 2:4, 1:3].mean()
    between = placed.moved(own.grid.affine, np.array([[1.5, 2.5, 1.5]]))[0] * LPS
    assert there.EvaluateAtPhysicalPoint(between.tolist()) == pytest.approx(float(eight), abs=1e-5)


@given(affines())
def test_a_point_of_the_world_keeps_its_value(affine: np.ndarray) -> None:
    check_places(image(affine))


def test_a_tilted_gantry_keeps_its_places() -> None:
    sheared = np.diag([-0.9, -0.9, 3.0, 1.0])
    sheared[1, 2] = 0.8
    check_places(image(sheared))


def test_voxels_keep_their_axes_there_and_back() -> None:
    own = image(np.diag([-1.0, -1.0, 2.0, 1.0]))
    assert (itk.array_of(itk.image_of(own)) == own.voxels).all()
    mask = own.voxels > 0.5
    there = itk.mask_of(mask, own.grid)
    assert there.GetPixelID() == sitk.sitkUInt8
    assert (itk.array_of(there) == mask).all()
    turned = Placed(voxels=own.voxels[::-1].T, grid=Grid(shape_vox=SHAPE[::-1], affine=np.eye(4)))
    assert (itk.array_of(itk.image_of(turned)) == turned.voxels).all()


@given(turns, triples, triples, triples)
def test_a_transform_moves_a_point_as_its_motion_does(
    angles: tuple[float, ...],
    centre: tuple[float, ...],
    shift: tuple[float, ...],
    point: tuple[float, ...],
) -> None:
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(centre)
    rigid.SetRotation(*np.radians(angles).tolist())
    rigid.SetTranslation(shift)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(centre)
    affine.SetMatrix((np.reshape(rigid.GetMatrix(), (3, 3)) * [1.1, 0.9, 1.2]).ravel().tolist())
    affine.SetTranslation(shift)
    for transform in (rigid, affine):
        there = np.array(transform.TransformPoint(itk.point_of(np.array(point)))) * LPS
        moved = placed.moved(itk.motion_of(transform), np.array([point]))[0]
        assert np.allclose(moved, there, atol=1e-6)


def test_sums_are_made_in_one_order() -> None:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        itk.on_one_thread()
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 1
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
