"""Brains: cleaned, judged, and missed in a sentence."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats.arrays import ellipsoid
from ray_brats.cases import phantom, phantom_head
from ray_brats.cases.raw import brain
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.errors import CaseRejected, UsageError

SHAPE = (20, 22, 18)


def island_and_hole() -> np.ndarray:
    mask = np.pad(ellipsoid((14, 16, 12)), 3)
    mask[9:11, 10:12, 8:10] = False
    mask[0, 0, :3] = True
    return mask


def test_the_largest_piece_stays_without_its_holes_and_with_a_margin() -> None:
    whole = np.pad(ellipsoid((14, 16, 12)), 3)
    assert (brain.cleaned(island_and_hole(), margin_vox=0) == whole).all()
    wider = ndimage.binary_dilation(whole)
    assert (brain.cleaned(island_and_hole()) == wider).all()


def test_pieces_that_touch_at_a_corner_are_two() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[:3, :3, :3] = mask[3:5, 3:5, 3:5] = True
    assert np.count_nonzero(brain.cleaned(mask, margin_vox=0)) == 27


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.9))
def test_a_clean_brain_is_clean(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(SHAPE) < share
    mask[9, 9, 9] = True
    clean = brain.cleaned(mask, margin_vox=0)
    assert (brain.cleaned(clean, margin_vox=0) == clean).all()
    assert not (clean & ~ndimage.binary_fill_holes(mask)).any()
    assert ndimage.label(clean)[1] == 1


def test_an_empty_mask_is_a_sentence() -> None:
    with pytest.raises(CaseRejected, match="no brain was found in it: expected a head"):
        brain.cleaned(np.zeros(SHAPE, bool))


@pytest.mark.parametrize("volume_ml", [0, 1, 599, 2401, 3000])
def test_no_head_has_such_a_brain(volume_ml: float) -> None:
    with pytest.raises(CaseRejected, match=rf"have {volume_ml} ml: .*--brain-masks"):
        brain.judged(volume_ml)


@pytest.mark.parametrize(("volume_ml", "remarks"), [(700, 1), (900, 0), (1500, 0), (2300, 1)])
def test_an_unusual_brain_is_told(volume_ml: float, remarks: int) -> None:
    told = brain.judged(volume_ml)
    assert len(told) == remarks
    assert all(f"a brain of {volume_ml} ml is unusual" in text for text in told)


def image(voxels: np.ndarray) -> Placed:
    return Placed(voxels=voxels, grid=Grid(shape_vox=voxels.shape, affine=np.eye(4)))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"need torch.*ray-brats\[raw\]"):
        brain.found(image(np.ones((40, 40, 40))))


@pytest.mark.parametrize("shape", [(200, 200, 1), (3, 3, 3)])
def test_what_is_no_heads_size_is_a_sentence(shape: tuple[int, int, int]) -> None:
    with pytest.raises(CaseRejected, match="no brain was found in it"):
        brain.found(image(np.ones(shape)))


@pytest.mark.slow
def test_the_networks_find_the_brain_of_a_phantoms_head_and_none_in_air() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("deepbet")
    with pytest.raises(CaseRejected, match="no brain was found in it"):
        brain.found(image(np.zeros((48, 48, 48))))
    head = phantom_head.head_of(phantom.make_phantom(1, modalities=("t1",)))
    first, second = (brain.found(head.images["t1"]) for _ in range(2))
    assert (first == second).all()
    true = head.brain.voxels
    both = 2 * np.count_nonzero(first & true)
    assert both > 0.9 * (np.count_nonzero(first) + np.count_nonzero(true))
