"""One patient: onto one grid in one interpolation, stripped, in whole numbers, and home again."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases import phantom, phantom_head
from ray_brats.cases.phantom_head import grid_around, motion_about, scanned
from ray_brats.cases.raw import bias, brain, placed, preparation, registration
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.cases.raw.registration import Registration
from ray_brats.errors import CaseRejected, UsageError

SIZE_MM = (40, 44, 36)
RADIUS_MM = 13
PATIENT = PreparationOptions(space="patient")
KEPT = PreparationOptions(space="patient", keep_skull=True)


def away_mm(grid: Grid) -> np.ndarray:
    """How far each voxel lies from the world's origin."""
    index = np.argwhere(np.ones(grid.shape_vox, bool)).astype(float)
    return np.linalg.norm(placed.moved(grid.affine, index), axis=1).reshape(grid.shape_vox)


def head(
    peak: float = 1000,
    spacing: Sequence[float] = (1, 1, 1),
    size_mm: Sequence[float] = SIZE_MM,
    middle_mm: Sequence[float] = (0, 0, 0),
) -> Placed:
    """A ball of a brain about the origin, in a shell of skull, with texture."""
    grid = grid_around(np.array(middle_mm, float), size_mm, spacing)
    away = away_mm(grid)
    texture = np.random.default_rng(0).uniform(0.5, 1, grid.shape_vox)
    shape = np.where(away < RADIUS_MM, 1.0, 0.0) + np.where((away > 15) & (away < 17), 1.5, 0.0)
    return Placed(voxels=(texture * shape * peak).astype(np.float32), grid=grid)


class Fakes:
    """A finder of brains that knows where they are, and a registration that finds what it is told;
    both remember what they were asked."""

    def __init__(self) -> None:
        self.motion = np.eye(4)
        self.radius_mm = RADIUS_MM
        self.looked_in: list[Placed] = []
        self.registered: list[tuple[Placed, Placed, str]] = []

    def found(self, image: Placed) -> np.ndarray:
        self.looked_in.append(image)
        return away_mm(image.grid) < self.radius_mm

    def register(self, moving: Placed, fixed: Placed, freedom: str = "rigid") -> Registration:
        self.registered.append((moving, fixed, freedom))
        return Registration(motion=self.motion, similarity=0.5)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """In the place of what takes seconds; brains of a few millilitres are usual."""
    fakes = Fakes()
    monkeypatch.setattr(brain, "found", fakes.found)
    monkeypatch.setattr(registration, "register", fakes.register)
    monkeypatch.setattr(brain, "LEAST_ML", 1.0)
    monkeypatch.setattr(brain, "PLAUSIBLE_ML", (2.0, 2000.0))
    return fakes


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


# --- what is needed for what -----------------------------------------------------------------


def test_one_series_in_its_own_space_needs_no_other_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in ("torch", "deepbet", "nilearn", "SimpleITK"):
        monkeypatch.setitem(sys.modules, package, None)
    prepared = preparation.prepare({"t1ce": head()}, KEPT)
    assert prepared.brain is None
    assert prepared.brain_ml is None
    assert prepared.warnings == []
    with pytest.raises(UsageError, match="need SimpleITK"):
        preparation.prepare({"t1ce": head(), "t2": head()}, KEPT)


@pytest.mark.parametrize(
    ("spacings", "reference"),
    [
        ({"t1": (1, 1, 1), "t1ce": (1, 1, 5), "t2": (1, 1, 3)}, "t1ce"),
        ({"t1": (1, 1, 5), "flair": (1, 1, 1), "t2": (0.5, 0.5, 3)}, "flair"),
        ({"t2": (1, 1, 3), "t1": (2, 2, 3), "flair": (1, 1, 3)}, "flair"),
        ({"t2": (1, 1, 5)}, "t2"),
    ],
)
def test_the_reference_is_t1ce_else_of_the_thinnest_slices(
    spacings: Mapping[str, Sequence[float]], reference: str
) -> None:
    grids = {name: grid_around(np.zeros(3), SIZE_MM, mm) for name, mm in spacings.items()}
    assert preparation.reference_of(grids) == reference


@pytest.mark.parametrize(
    ("slices_mm", "name"),
    [
        ({"t1": 1, "t1ce": 1, "t2": 1}, "t1"),
        ({"t1": 3, "t1ce": 2}, "t1"),
        ({"t1": 4, "t1ce": 2}, "t1ce"),
        ({"t1": 4, "flair": 1}, "t1"),
        ({"t1ce": 4, "flair": 1}, "t1ce"),
        ({"t2": 1, "flair": 4}, "flair"),
        ({"t2": 4}, "t2"),
    ],
)
def test_a_brain_is_looked_for_on_t1_unless_t1ce_is_clearly_thinner(
    fakes: Fakes, slices_mm: Mapping[str, float], name: str
) -> None:
    peaks = {"t1": 100, "t1ce": 200, "t2": 300, "flair": 400}
    series = {kind: head(peaks[kind], (1, 1, mm)) for kind, mm in slices_mm.items()}
    preparation.prepare(series, PATIENT)
    (image,) = fakes.looked_in
    assert image.grid.spacing_mm == pytest.approx((1, 1, 1))
    assert image.voxels.max() / 1.5 == pytest.approx(peaks[name], rel=0.05)


# --- voxels ----------------------------------------------------------------------------------


def oblique() -> Placed:
    """Whole numbers on a turned grid of 1 mm."""
    affine = motion_about(np.zeros(3), (13, -7, 22), (30, -40, 5)) @ np.diag([-1.0, -1, 1, 1])
    voxels = np.random.default_rng(0).integers(0, 2000, (40, 30, 36)).astype(np.int16)
    return Placed(voxels=voxels, grid=Grid(shape_vox=voxels.shape, affine=affine))


def test_nothing_is_blurred_where_nothing_has_to_move(fakes: Fakes) -> None:
    image = oblique()
    series = {"t1ce": image, "t2": dataclasses.replace(image, voxels=image.voxels[::-1])}
    prepared = preparation.prepare(series, KEPT)
    assert np.allclose(prepared.grid.affine, image.grid.affine)
    for name, brought in prepared.images.items():
        assert brought.voxels.dtype == np.int16
        assert (brought.voxels == series[name].voxels * brought.scale).all()
        assert np.allclose(brought.head, series[name].voxels, atol=1e-3)
        assert brought.covered == 1


@pytest.mark.parametrize("peak", [1e-6, 3, 300.7, 5000, 32767, 1e6])
def test_values_become_whole_numbers_above_0_in_the_brain_alone(fakes: Fakes, peak: float) -> None:
    image = head(peak)
    image.voxels[20, 22, 18] = 0
    prepared = preparation.prepare({"t1ce": image}, PATIENT)
    (brought,) = prepared.images.values()
    assert prepared.brain is not None
    assert brought.voxels.dtype == np.int16
    assert not brought.voxels[~prepared.brain].any()
    assert brought.voxels[prepared.brain].min() == 1
    assert math.frexp(brought.scale)[0] == 0.5
    assert 8192 < brought.voxels.max() <= 16384
    usual = prepared.brain & (image.voxels > 0)
    assert np.allclose(brought.voxels[usual] / brought.scale, image.voxels[usual], rtol=2e-4)


def test_what_is_much_brighter_than_the_brain_does_not_run_over(fakes: Fakes) -> None:
    image = head()
    skull = image.voxels > 1000
    image.voxels[skull] *= 50
    (brought,) = preparation.prepare({"t1ce": image}, KEPT, mask_of_ball(1)).images.values()
    assert (brought.voxels[skull] == np.iinfo(np.int16).max).all()
    assert brought.voxels.min() >= 0


def test_a_series_is_moved_once_by_all_its_motions(fakes: Fakes, tmp_path: Path) -> None:
    fakes.motion = motion_about(np.zeros(3), (0, 0, 0), (2, -1, 3))
    series = {"t1ce": head(), "t2": head()}
    atlas = save(tmp_path, head())
    options = PreparationOptions(space=atlas, freedom="affine")
    prepared = preparation.prepare(series, options)
    assert [freedom for _, _, freedom in fakes.registered] == ["rigid", "affine"]
    stripped, template, _ = fakes.registered[1]
    assert not stripped.voxels[away_mm(stripped.grid) > RADIUS_MM].any()
    assert prepared.grid is template.grid
    turn, motions = fakes.motion, prepared.alignment.motions
    assert prepared.alignment.similarities == {"t2": 0.5}
    assert (motions["t1ce"] == np.eye(4)).all()
    for name, image in prepared.images.items():
        assert np.allclose(image.motion, motions[name] @ turn)
        assert np.allclose(
            image.head,
            placed.resampled(series[name], prepared.grid, image.motion, order=3),
            atol=1e-3,
        )
    assert prepared.brain is not None
    index = np.argwhere(prepared.brain).mean(axis=0)
    middle = placed.moved(prepared.grid.affine, index[None])[0]
    assert np.allclose(middle, (-2, 1, -3), atol=0.1)


def test_equal_patients_are_equal_cases(fakes: Fakes) -> None:
    fakes.motion = motion_about(np.zeros(3), (3, 2, -4), (1, 0.4, -2))
    first, second = (
        preparation.prepare({"t2": head(300, (0.9, 0.9, 2)), "t1ce": head()}, PATIENT)
        for _ in range(2)
    )
    assert first.brain_ml == second.brain_ml
    for name, image in first.images.items():
        assert (image.voxels == second.images[name].voxels).all()
        assert (image.motion == second.images[name].motion).all()


def test_n4_is_done_to_every_series_first(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrected(image: Placed) -> Placed:
        if image.voxels.max() > 2000:
            raise CaseRejected("has no field")
        return dataclasses.replace(image, voxels=image.voxels * 2)

    monkeypatch.setattr(bias, "corrected", corrected)
    options = dataclasses.replace(KEPT, n4=True)
    prepared = preparation.prepare({"t1ce": head(), "t2": head(400)}, options)
    assert prepared.images["t2"].head.max() == pytest.approx(2 * head(400).voxels.max())
    with pytest.raises(CaseRejected, match="t2: has no field"):
        preparation.prepare({"t1ce": head(), "t2": head(4000)}, options)


# --- brains ----------------------------------------------------------------------------------


def mask_of_ball(value: float, middle_mm: Sequence[float] = (0, 0, 0)) -> Placed:
    """Somebody's outline of the brain on a turned grid of 1.3 mm."""
    affine = motion_about(np.zeros(3), (20, 10, -30), middle_mm) @ np.diag([1.3, -1.3, 1.3, 1])
    shape = (40, 42, 38)
    affine[:3, 3] -= affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid(shape_vox=shape, affine=affine)
    ball = np.linalg.norm(np.argwhere(np.ones(shape)) - (np.array(shape) - 1) / 2, axis=1)
    return Placed(voxels=(ball.reshape(shape) * 1.3 < RADIUS_MM) * value, grid=grid)


@pytest.mark.parametrize("value", [1.0, 255.0])
def test_a_mask_of_somebody_else_may_be_on_any_grid(fakes: Fakes, value: float) -> None:
    prepared = preparation.prepare({"t1ce": head()}, PATIENT, mask_of_ball(value))
    assert fakes.looked_in == []
    assert prepared.brain is not None
    assert dice(prepared.brain, away_mm(prepared.grid) < RADIUS_MM) > 0.96
    assert prepared.brain_ml == pytest.approx(4 / 3 * math.pi * RADIUS_MM**3 / 1000, rel=0.03)


def test_a_tilted_gantry_makes_no_brain_larger(fakes: Fakes) -> None:
    image = head()
    image.grid.affine[1, 2] = 0.7
    image.grid.affine[:3, 3] -= image.grid.centre_mm
    prepared = preparation.prepare({"t1ce": image}, PATIENT)
    assert prepared.brain_ml == pytest.approx(4 / 3 * math.pi * RADIUS_MM**3 / 1000, rel=0.01)


def test_a_mask_elsewhere_is_a_sentence(fakes: Fakes) -> None:
    with pytest.raises(CaseRejected, match="mask of its brain is empty where t1ce lies"):
        preparation.prepare({"t1ce": head()}, PATIENT, mask_of_ball(1, (300, 0, 0)))


def test_what_is_no_brain_turns_no_head(fakes: Fakes, tmp_path: Path) -> None:
    fakes.radius_mm = 4
    with pytest.raises(CaseRejected, match="its brain would have 0 ml"):
        preparation.prepare({"t1ce": head()}, PreparationOptions(space=save(tmp_path, head())))
    assert fakes.registered == []


def test_a_brain_outside_of_the_space_is_a_sentence(fakes: Fakes, tmp_path: Path) -> None:
    fakes.motion = motion_about(np.zeros(3), (0, 0, 0), (200, 0, 0))
    with pytest.raises(CaseRejected, match="outside of the grid"):
        preparation.prepare({"t1ce": head()}, PreparationOptions(space=save(tmp_path, head())))


def save(folder: Path, image: Placed) -> str:
    path = folder / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(image.voxels, image.grid.affine), path)
    return str(path)


# --- what is told ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "shift", "told"),
    [
        ((0, 20, 0), (30, 0, 0), []),
        ((0, 28, 0), (3, 0, 0), ["t2 lies 28° and 3 mm away from t1ce"]),
        ((0, 5, 0), (0, -70, 0), ["t2 lies 5° and 70 mm away from t1ce"]),
    ],
)
def test_a_far_motion_is_told(
    fakes: Fakes, turns: Sequence[float], shift: Sequence[float], told: Sequence[str]
) -> None:
    fakes.motion = motion_about(head().grid.centre_mm, turns, shift)
    warnings = preparation.prepare({"t1ce": head(), "t2": head()}, PATIENT).warnings
    found = [text.split(":")[0] for text in warnings if " lies " in text]
    assert found == told


def test_a_series_that_ends_within_the_brain_is_told(fakes: Fakes) -> None:
    low = head(size_mm=(40, 44, 20), middle_mm=(0, 0, -6))
    prepared = preparation.prepare({"t1ce": head(), "t2": low}, PATIENT)
    share = prepared.images["t2"].covered
    assert 0.7 < share < 0.9
    assert prepared.warnings == [f"t2 shows {share:.0%} of the brain: the rest of it is 0"]
    assert prepared.brain is not None
    hidden = prepared.brain & (prepared.images["t2"].voxels == 0)
    assert hidden.any()
    assert prepared.images["t1ce"].voxels[hidden].all()
    kept = preparation.prepare({"t1ce": head(), "t2": low}, KEPT)
    assert [text.split(":")[0] for text in kept.warnings] == ["t2 shows 56% of the grid"]


@pytest.mark.parametrize("slices_mm", [1, 3, 6])
def test_thick_slices_show_all_of_their_own_box(fakes: Fakes, slices_mm: float) -> None:
    prepared = preparation.prepare({"t1ce": head(spacing=(0.9, 0.9, slices_mm))}, KEPT)
    assert prepared.images["t1ce"].covered > 0.98
    assert prepared.warnings == []


def test_a_brain_at_the_border_is_told(fakes: Fakes) -> None:
    short = head(size_mm=(40, 44, 20))
    (text,) = preparation.prepare({"t1ce": short}, PATIENT).warnings
    assert text.startswith("the brain reaches the border of the grid")


def test_values_below_0_are_told(fakes: Fakes) -> None:
    image = head()
    scored = dataclasses.replace(image, voxels=(image.voxels - 750) / 200)
    prepared = preparation.prepare({"t1ce": scored}, PATIENT)
    (text,) = prepared.warnings
    assert re.match(r"t1ce is below 0 in (49|50|51)\.\d% of the brain", text)


def odd(kind: str) -> Placed:
    image = head()
    if kind == "nan":
        image.voxels[3, 3, 3] = np.nan
    if kind == "flat":
        image.voxels[:] = 7
    if kind == "long":
        return dataclasses.replace(
            image, grid=Grid(shape_vox=image.grid.shape_vox, affine=np.diag([20.0, 20, 20, 1]))
        )
    return image


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nan", "t2 has voxels that are no number"),
        ("flat", "t2 is of one value"),
        ("long", "t2 is 880 mm long"),
    ],
)
def test_an_odd_series_is_named(fakes: Fakes, kind: str, reason: str) -> None:
    for series in ({"t2": odd(kind)}, {"t1ce": head(), "t2": odd(kind)}):
        with pytest.raises(CaseRejected, match=reason):
            preparation.prepare(series, KEPT)


def test_what_is_not_aligned_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Registration:
        raise CaseRejected("cannot be aligned")

    monkeypatch.setattr(registration, "register", refuse)
    with pytest.raises(CaseRejected, match=r"^t2 against t1ce: cannot be aligned$"):
        preparation.prepare({"t1ce": head(), "t2": head()}, KEPT)


# --- for real --------------------------------------------------------------------------------


@pytest.mark.raw
def test_a_moved_series_is_brought_back_to_the_reference() -> None:
    pytest.importorskip("SimpleITK")
    drawn = phantom.make_phantom(1, shape_vox=(60, 60, 39), modalities=("t1ce", "t2"))
    large = dataclasses.replace(drawn, affine=drawn.affine @ np.diag([4.0, 4, 4, 1]))
    whole = phantom_head.head_of(large)
    middle = whole.brain.grid.centre_mm
    motions = {"t1ce": np.eye(4), "t2": motion_about(middle, (6, -4, 9), (8, -5, 6))}
    series = {}
    for name, plane in (("t1ce", "axial"), ("t2", "coronal")):
        grid = grid_around(middle, (240, 240, 200), (3, 3, 5), plane)
        voxels = scanned(whole.images[name], grid, motions[name])
        series[name] = Placed(voxels=voxels, grid=grid)
    found = preparation.aligned(series).motions["t2"]
    between = found @ motions["t2"]
    assert placed.rotation_deg(between) < 1.5
    assert np.linalg.norm(placed.moved(between, middle[None])[0] - middle) < 2
