"""Known motions of phantom heads are found again."""

import numpy as np
import pytest

pytest.importorskip("SimpleITK")

from ray_brats.cases import phantom, phantom_head
from ray_brats.cases.phantom_head import Head, grid_around, motion_about, scanned
from ray_brats.cases.raw import placed, registration
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.errors import CaseRejected

SIZE_MM = (220, 230, 190)


@pytest.fixture(scope="module")
def head() -> Head:
    """A head of half the size: registration takes half as long."""
    return phantom_head.head_of(
        phantom.make_phantom(1, shape_vox=(120, 120, 78), modalities=("t1ce", "t2", "flair"))
    )


def series(
    head: Head, modality: str, spacing: tuple[float, ...], motion: np.ndarray, plane: str
) -> Placed:
    """One series: on its own grid, the head moved in the scanner."""
    grid = grid_around(head.brain.grid.centre_mm, SIZE_MM, spacing, plane)
    return Placed(voxels=scanned(head.images[modality], grid, motion), grid=grid)


def error(found: np.ndarray, true: np.ndarray, grid: Grid) -> tuple[float, float]:
    """Degrees, and mm at the middle of the head."""
    middle = grid.centre_mm[None]
    between = placed.moved(found, middle) - placed.moved(true, middle)
    return placed.rotation_deg(found @ np.linalg.inv(true)), float(np.linalg.norm(between))


@pytest.mark.parametrize(
    ("modality", "spacing", "plane", "most_deg", "most_mm"),
    [
        pytest.param("t2", (0.9, 0.9, 3.0), "axial", 1.0, 1.0, marks=pytest.mark.slow),
        pytest.param("flair", (1.0, 1.0, 5.0), "axial", 2.0, 2.0, marks=pytest.mark.slow),
    ],
)
def test_a_known_motion_is_found(
    head: Head,
    modality: str,
    spacing: tuple[float, ...],
    plane: str,
    most_deg: float,
    most_mm: float,
) -> None:
    middle = head.brain.grid.centre_mm
    reference = series(head, "t1ce", (0.9, 0.9, 1.0), np.eye(4), "axial")
    motion = motion_about(middle, (12, -9, 10), (15, -12, 8))
    moving = series(head, modality, spacing, motion, plane)
    found = registration.register(moving, reference)
    degrees, mm = error(found.motion, np.linalg.inv(motion), reference.grid)
    assert degrees <= most_deg
    assert mm <= most_mm
    assert found.similarity > 0.1


@pytest.mark.slow
def test_the_same_images_give_the_same_motion(head: Head) -> None:
    coarse = [
        series(
            head, name, (3.0, 3.0, 4.0), motion_about(np.zeros(3), (0, 4, 0), (3, 0, 0)), "axial"
        )
        for name in ("t1ce", "t2")
    ]
    first, second = (registration.register(coarse[1], coarse[0]).motion for _ in range(2))
    assert (first == second).all()


def test_what_cannot_be_aligned_is_a_sentence() -> None:
    def image(voxels: np.ndarray) -> Placed:
        return Placed(voxels=voxels, grid=Grid(shape_vox=voxels.shape, affine=np.eye(4)))

    good = image(np.random.default_rng(0).random((16, 16, 16)))
    with pytest.raises(CaseRejected, match="at least 8 along each axis"):
        registration.register(image(np.ones((30, 30, 3))), good)
    with pytest.raises(CaseRejected, match="of one value"):
        registration.register(image(np.ones((16, 16, 16))), good)
