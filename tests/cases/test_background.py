"""Background: found whatever its value, skulls and masks refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats import arrays
from ray_brats.cases import background
from ray_brats.errors import CaseRejected

SHAPE = (40, 44, 36)


BRAIN = np.pad(arrays.ellipsoid((28, 32, 26)), ((6, 6), (6, 6), (5, 5)))


def scan(seed: int = 0) -> np.ndarray:
    """A stripped scan as the releases have it."""
    voxels = np.random.default_rng(seed).integers(1, 900, SHAPE).astype(np.int16)
    return np.where(BRAIN, voxels, 0).astype(np.int16)


def zscored(voxels: np.ndarray) -> np.ndarray:
    brain = voxels[voxels != 0].astype(np.float64)
    return np.where(voxels != 0, (voxels - brain.mean()) / brain.std(), 0)


def test_a_background_of_zero_is_left_as_it_is() -> None:
    voxels = scan()
    assert background.cleared(voxels).voxels_HWD is voxels
    assert background.cleared(voxels).remarks == ()


def whole_array_zscores(voxels: np.ndarray) -> np.ndarray:
    brain = voxels[voxels > 0]
    return ((voxels - brain.mean()) / brain.std()).astype(np.float32)


def saved_as_integers(voxels: np.ndarray) -> np.ndarray:
    """Floats with a few below zero, under a header of int16, as nibabel scales them."""
    values = np.where(voxels > 0, voxels * 0.731 - 9, 0.0)
    slope = (values.max() - values.min()) / 65535
    stored = np.rint((values - values.min()) / slope)
    return stored * slope + values.min()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v + 1,
        lambda v: v + 700,
        lambda v: v - 1024,
        lambda v: np.where(v == 0, -1024, v),
        lambda v: v.astype(np.float32) * 0.37 + 12345.5,
        whole_array_zscores,
        saved_as_integers,
        lambda v: np.where(v == 0, np.nan, v),
        lambda v: np.where(v == 0, -np.inf, v),
    ],
)
def test_whatever_the_background_is_the_brain_is_the_same(change: object) -> None:
    voxels = scan()
    found = background.cleared(change(voxels))  # type: ignore[operator]
    cleared = found.voxels_HWD
    assert ((cleared != 0) == BRAIN).mean() > 0.9999
    assert np.allclose(zscored(cleared), zscored(voxels), atol=0.02)
    assert found.remarks


@settings(max_examples=60, deadline=None)
@given(
    offset=st.floats(-1e5, 1e5).filter(lambda x: abs(x) > 1e-3),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 50),
)
def test_an_offset_and_a_scale_change_nothing(offset: float, scale: float, seed: int) -> None:
    voxels = scan(seed)
    cleared = background.cleared(voxels * scale + offset).voxels_HWD
    assert ((cleared != 0) == BRAIN).all()
    assert np.allclose(zscored(cleared), zscored(voxels), atol=1e-3 + 1e-5 * abs(offset) / scale)


def head(air: object) -> np.ndarray:
    """Brain, skull and skin: nearly a cylinder, the neck at the lowest plane."""
    rows, columns, heights = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = (rows**2 + columns**2 < 0.9) & (heights < 0.8)
    values = np.random.default_rng(1).integers(50, 900, SHAPE)
    return np.where(inside, values, air).astype(np.int16)


@pytest.mark.parametrize(
    "voxels",
    [
        head(np.random.default_rng(2).integers(0, 40, SHAPE)),
        head(0),
        np.pad(head(np.random.default_rng(2).integers(1, 40, SHAPE)), 9),
    ],
    ids=["noise around it", "zeros around it", "registered into zeros"],
)
def test_a_skull_is_refused_unless_it_is_allowed(voxels: np.ndarray) -> None:
    with pytest.raises(CaseRejected, match="looks as if it were not skull-stripped"):
        background.cleared(voxels)
    assert background.cleared(voxels, allow_skull=True).voxels_HWD is voxels


@pytest.mark.parametrize(
    ("voxels", "expected"),
    [
        (head(np.random.default_rng(2).integers(0, 40, SHAPE)), True),
        (head(0), True),
        (head(0) - 1024, True),
        (scan(), False),
        (scan() + 700, False),
        (BRAIN.astype(np.uint8), False),
        (np.zeros(SHAPE, np.int16), False),
        (
            np.where(np.pad(np.ones((4, 4, 4)), ((18, 18), (20, 20), (16, 16))), np.nan, head(0)),
            False,
        ),
    ],
    ids=["noise", "zeros", "offset", "stripped", "stripped, offset", "mask", "empty", "NaN"],
)
def test_only_a_scan_that_is_sound_but_for_its_skull_has_one(
    voxels: np.ndarray, expected: bool
) -> None:
    assert background.has_skull(voxels) is expected


def test_a_brain_alone_is_stripped_and_nothing_else_is() -> None:
    assert background.is_stripped(scan())
    assert background.is_stripped(scan() + 700)
    for voxels in (head(0), BRAIN.astype(np.uint8), np.zeros(SHAPE, np.int16)):
        assert not background.is_stripped(voxels)


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.full(SHAPE, 7, np.int16), "is 7 everywhere"),
        (np.zeros(SHAPE, np.int16), "is zero everywhere"),
        (BRAIN.astype(np.uint8), "holds nothing but 1 besides"),
        (BRAIN * np.arange(36) % 5, "holds nothing but 1, 2, 3, 4 besides"),
        (np.full(SHAPE, np.nan), "NaN"),
        (np.where(BRAIN, np.nan, 0), "NaN"),
    ],
)
def test_what_is_no_scan_is_refused(voxels: np.ndarray, reason: str) -> None:
    with pytest.raises(CaseRejected, match=reason):
        background.cleared(voxels)


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_amid_the_brain_is_refused(strange: float) -> None:
    voxels = scan().astype(np.float32)
    voxels[20, 22, 18] = strange
    with pytest.raises(CaseRejected, match=r"inside the brain \(1\)"):
        background.cleared(voxels)


def test_a_part_of_the_brain_that_is_no_number_is_seen_by_the_others() -> None:
    lost = scan().astype(np.float32)
    lost[:20] = np.nan
    scans = {"t1ce": background.cleared(scan(1)), "t2": background.cleared(lost, allow_skull=True)}
    with pytest.raises(CaseRejected, match="t2 holds NaN or infinite voxels in 50%") as caught:
        background.check_strange(scans, {"t1ce": "a", "t2": "b"})
    assert caught.value.file == "b"
    edge = np.where(BRAIN, scan().astype(np.float32), np.nan)
    scans["t2"] = background.cleared(edge)
    background.check_strange(scans, {"t1ce": "a", "t2": "b"})
