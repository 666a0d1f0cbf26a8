"""Arrays of NIfTI files on the planes of DICOM."""

from __future__ import annotations

import itertools
from pathlib import Path

import dicoms as make
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import geometry as geometries
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw import planes
from ray_brats.cases.raw.headers import Header
from ray_brats.errors import CaseRejected

SHAPE = (4, 5, 6)
"""Planes, rows and columns."""
SPACING_MM = (5.0, 0.8, 0.9)
INDEX = np.indices(SHAPE).reshape(3, -1)
TURNS = st.tuples(*[st.floats(-180, 180)] * 3)


def rotation(turns_deg: tuple[float, ...]) -> np.ndarray:
    a, b, c = np.deg2rad(turns_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y @ about_z)


def affine_prc(turns_deg: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """The map of plane, row and column to places, LPS."""
    affine = np.eye(4)
    down_right = rotation(turns_deg)
    normal = np.cross(down_right[:, 1], down_right[:, 0])
    affine[:3, :3] = np.stack([normal, down_right[:, 0], down_right[:, 1]], axis=1) * SPACING_MM
    affine[:3, 3] = [-30, 20, 11]
    return affine


def image(affine: np.ndarray, plane: float, uid: str = "", **others: object) -> Header:
    """The header of one plane of a grid."""
    _, down, right = (affine[:3, :3] / SPACING_MM).T
    values = {
        "path": Path(),
        "instance_uid": uid or f"1.{plane}",
        "position": tuple((affine @ [plane, 0, 0, 1])[:3]),
        "orientation": (*right, *down),
        "pixel_spacing_mm": SPACING_MM[1:],
        "rows": SHAPE[1],
        "columns": SHAPE[2],
    }
    return Header(**{**dict.fromkeys(Header.__dataclass_fields__), **values, **others})


def stored(
    affine: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]
) -> tuple[Geometry, np.ndarray]:
    """A NIfTI file of a grid whose axes are in another order and run otherwise; and its voxels."""
    native = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    moves = np.zeros((4, 4))
    moves[3, 3] = 1
    for place, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        moves[axis, place] = -1 if flip else 1
        moves[axis, 3] += SHAPE[axis] - 1 if flip else 0
    native = np.transpose(native, axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    whole = make.lps_of(affine @ moves)
    return geometries.of_file(native.shape, whole, qform_code=1, sform_code=1), native


@given(
    turns_deg=TURNS,
    axes=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    there=st.sets(st.integers(0, SHAPE[0] - 1), min_size=1),
)
def test_a_voxel_lies_on_its_plane_however_the_file_has_it(
    turns_deg: tuple[float, ...], axes: list[int], flips: tuple[bool, ...], there: set[int]
) -> None:
    affine = affine_prc(turns_deg)
    geometry, native = stored(affine, tuple(axes), flips)
    stack = planes.stack_of(geometry, [image(affine, plane) for plane in sorted(there)[::-1]])
    assert np.array_equal(stack.pixels(native), np.arange(np.prod(SHAPE)).reshape(SHAPE))
    for number, plane in enumerate(stack.planes):
        assert plane.position_mm == pytest.approx(tuple((affine @ [number, 0, 0, 1])[:3]))
        assert [item.instance_uid for item in plane.images] == [f"1.{number}"] * (number in there)
    assert [item.instance_uid for item in stack.images] == [f"1.{n}" for n in sorted(there)]


def same(affine: np.ndarray) -> Geometry:
    return stored(affine, (0, 1, 2), (False, False, False))[0]


def test_images_of_one_place_are_in_order_of_their_uids() -> None:
    affine = affine_prc()
    images = [image(affine, 2, uid) for uid in ("1.9", "1.10", "1.2")]
    plane = planes.stack_of(same(affine), images).planes[2]
    assert [item.instance_uid for item in plane.images] == ["1.10", "1.2", "1.9"]


def test_slices_that_are_shifted_a_little_lie_where_they_are() -> None:
    affine = affine_prc()
    images = [image(affine, plane) for plane in (0, 1.2, 1.9, 3)]
    found = planes.stack_of(same(affine), images).planes
    assert [plane.images for plane in found] == [(item,) for item in images]
    assert [plane.position_mm for plane in found] == [item.position for item in images]


OTHERS = {
    "another size": {"rows": 6},
    "beyond the end": {"position": (-30, 20, 11 + 5 * 4)},
    "aside": {"position": (-28, 20, 11)},
    "rows for columns": {"orientation": (0, 1, 0, 1, 0, 0)},
    "a turned image": {"orientation": (*rotation((0, 0, 20))[:, 0], *rotation((0, 0, 20))[:, 1])},
    "another spacing": {"pixel_spacing_mm": (1.2, 0.9)},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("place", [0, 1])
def test_images_on_another_grid_are_refused(kind: str, place: int) -> None:
    affine = np.array(
        [[0, 0, 0.9, -30], [0, 0.8, 0, 20], [5, 0, 0, 11], [0, 0, 0, 1]], dtype=np.float64
    )
    images = [image(affine, plane) for plane in range(2)]
    images[place] = image(affine, place, **OTHERS[kind])
    with pytest.raises(CaseRejected, match="not on the grid of its DICOM images"):
        planes.stack_of(same(affine), images)


def test_two_images_that_are_nearest_to_one_slice_are_refused() -> None:
    affine = affine_prc()
    with pytest.raises(CaseRejected, match="nearest to one slice"):
        planes.stack_of(same(affine), [image(affine, plane) for plane in (1, 1.3)])


def test_a_file_that_is_turned_out_of_the_planes_is_refused() -> None:
    affine = affine_prc()
    for turns in itertools.permutations((20, 0, 0)):
        with pytest.raises(CaseRejected, match="its axes are not those of the images"):
            planes.stack_of(same(affine_prc(turns)), [image(affine, 0)])
