"""Images with their place, and the one interpolation between two grids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases.phantom_head import motion_about
from ray_brats.cases.raw import placed
from ray_brats.cases.raw.placed import Grid, Placed

degrees = st.floats(-170, 170)
mm = st.floats(-40, 40)
motions = st.builds(
    lambda turns, shift: motion_about(np.array([3.0, -5.0, 8.0]), turns, shift),
    st.tuples(degrees, degrees, degrees),
    st.tuples(mm, mm, mm),
)


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> Placed:
    """An image whose value is linear in the world: interpolation meets it exactly."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    values = placed.moved(affine, index.astype(float)) @ [1.0, 2.0, -0.5] + 500
    grid = Grid(shape_vox=shape, affine=affine)
    return Placed(voxels=values.reshape(shape).astype(np.float32), grid=grid)


def test_a_grid_tells_spacing_middle_and_corners() -> None:
    affine = np.array([[0, 0, 3.0, 10], [-2.0, 0, 0, 20], [0, 1.0, 0, 30], [0, 0, 0, 1]])
    grid = Grid(shape_vox=(5, 7, 3), affine=affine)
    assert grid.spacing_mm == (2, 1, 3)
    assert grid.centre_mm.tolist() == [13, 16, 33]
    assert grid.corners_mm.min(axis=0).tolist() == [10, 12, 30]
    assert grid.corners_mm.max(axis=0).tolist() == [16, 20, 36]


@given(motions)
def test_what_is_linear_in_the_world_stays_so_under_any_motion(motion: np.ndarray) -> None:
    image = ramp((24, 20, 12), np.diag([1.0, 1.5, 2.0, 1.0]))
    grid = Grid(shape_vox=(9, 8, 7), affine=np.diag([2.0, 2.5, 3.0, 1.0]))
    values = placed.resampled(image, grid, motion)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape_vox), indexing="ij"), axis=-1)
    points = placed.moved(motion, placed.moved(grid.affine, index.reshape(-1, 3).astype(float)))
    expected = (points @ [1.0, 2.0, -0.5] + 500).reshape(grid.shape_vox)
    inside = np.linalg.solve(image.grid.affine[:3, :3], points.T).T
    # A coarser grid sees a blurred image, whose blur is odd at its border.
    kept = ((inside >= 4) & (inside <= np.array(image.grid.shape_vox) - 5)).all(axis=1)
    kept = kept.reshape(grid.shape_vox)
    assert np.allclose(values[kept], expected[kept], atol=0.05)


def test_the_same_grid_gives_the_same_values() -> None:
    image = ramp((6, 5, 4), np.diag([-1.0, -1.0, 3.0, 1.0]))
    assert np.allclose(placed.resampled(image, image.grid, np.eye(4)), image.voxels, atol=1e-3)


def test_outside_of_an_image_is_nothing() -> None:
    image = ramp((6, 5, 4), np.eye(4))
    far = np.eye(4)
    far[0, 3] = 100
    assert not placed.resampled(image, image.grid, far).any()
    assert not placed.shown(image.grid, image.grid, far).any()
    assert placed.shown(image.grid, image.grid, np.eye(4)).all()


def test_a_spline_leaves_the_range_of_values_never() -> None:
    voxels = np.zeros((12, 12, 12), np.float32)
    voxels[4:8, 4:8, 4:8] = 100
    image = Placed(voxels=voxels, grid=Grid(shape_vox=(12, 12, 12), affine=np.eye(4)))
    half = np.eye(4)
    half[:3, 3] = 0.5
    values = placed.resampled(image, image.grid, half, order=3)
    assert values.min() >= 0
    assert values.max() <= 100


def test_two_ways_there_are_one() -> None:
    first = motion_about(np.zeros(3), (10, -5, 20), (1, 2, 3))
    second = motion_about(np.array([5.0, 5, 5]), (-3, 8, 1), (-4, 0, 2))
    points = np.random.default_rng(0).normal(size=(10, 3)) * 30
    there = placed.moved(second, placed.moved(first, points))
    assert np.allclose(placed.moved(second @ first, points), there)


@given(st.tuples(degrees, st.floats(0.5, 2.0)))
def test_the_angle_of_a_motion_is_told_whatever_it_scales(turn: tuple[float, float]) -> None:
    angle, scale = turn
    motion = motion_about(np.zeros(3), (0, 0, angle), (1, 2, 3))
    motion[:3, :3] *= scale
    assert placed.rotation_deg(motion) == pytest.approx(abs(angle), abs=1e-4)
