"""Masks on the scanner's own grid: probabilities go there, and mean there what they meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats import arrays
from ray_brats.arrays import Array, Floats, Mask
from ray_brats.cases import geometry as geometries
from ray_brats.cases import volume
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.phantom_head import grid_around, motion_about
from ray_brats.cases.raw import placed, record
from ray_brats.cases.raw.placed import Grid
from ray_brats.cases.raw.record import Home
from ray_brats.labels import LabelMap
from ray_brats.model import predict
from ray_brats.model.native import native_mask
from ray_brats.model.predict import Predictor
from ray_brats.recipes import named
from ray_brats.recipes.config import Recipe

SMOKE = named.get("smoke")
SIDE = 48
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MIDDLE_MM = np.array([-23.5, -23.5, 23.5])
RADII_MM = (16.0, 11.0, 7.0)
"""Of whole tumour, core and enhancing part: balls in each other."""


def with_inference(**options: object) -> Recipe:
    inference = dataclasses.replace(SMOKE.inference, **options)  # type: ignore[arg-type]
    return dataclasses.replace(SMOKE, inference=inference)


def pointwise(batch: Array) -> Array:
    """A network without borders: every voxel for itself."""
    return 1 / (1 + np.exp(-np.asarray(batch, np.float32)))


def decode(values: Array, voxels_each: float = 1.0) -> LabelMap:
    return Predictor([pointwise], SMOKE).decode(values, voxels_each=voxels_each)


def case_geometry(affine: Floats = LPS, shape: Sequence[int] = (SIDE,) * 3) -> Geometry:
    return geometries.of_file(shape, affine, qform_code=1, sform_code=1)


def distance_mm(affine: Floats, shape: Sequence[int], centre_mm: Floats) -> Floats:
    """How far each voxel of a file lies from a point."""
    index = np.indices(shape).reshape(3, -1).T.astype(float)
    return np.linalg.norm(placed.moved(affine, index) - centre_mm, axis=1).reshape(shape)


def tumour(geometry: Geometry, centre_mm: Floats = MIDDLE_MM) -> Array:
    """Probabilities of three balls in the canonical axes of a case, sure but at their borders."""
    away = distance_mm(geometry.canonical_affine, geometry.canonical_shape, centre_mm)
    return np.stack([pointwise(2 * (radius - away)) for radius in RADII_MM], axis=-1)


def home_of(grid: Grid, motion: Floats) -> Home:
    return Home(geometry=record.geometry_of(grid), motion=motion)


def dice(first: Mask, second: Mask) -> float:
    return 2 * np.count_nonzero(first & second) / (first.sum() + second.sum())


MOTIONS = {
    "none": np.eye(4),
    "known": motion_about(MIDDLE_MM, (12, -9, 10), (15, -12, 8)),
}
GRIDS = {
    "thin": ((0.9, 0.9, 1.0), "axial"),
    "thick": ((0.9, 0.9, 3.0), "axial"),
    "sagittal": ((1.0, 1.0, 2.5), "sagittal"),
    "coronal": ((1.1, 1.1, 3.0), "coronal"),
}


def series_grid(name: str, motion: Floats, size_mm: Sequence[float] = (70, 70, 70)) -> Grid:
    """The grid of a series around where the tumour lies in its world."""
    spacing, plane = GRIDS[name]
    return grid_around(placed.moved(motion, MIDDLE_MM[None])[0], size_mm, spacing, plane)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    turns=st.tuples(*[st.floats(-40, 40)] * 3),
    shift=st.tuples(*[st.floats(-50, 50)] * 3),
    is_moved=st.booleans(),
)
def test_on_a_cases_own_grid_all_is_decided_the_same(
    seed: int, turns: tuple[float, ...], shift: tuple[float, ...], is_moved: bool
) -> None:
    """To the border of the crop, whichever way the axes run, and seen through any motion."""
    rng = np.random.default_rng(seed)
    axes = rng.permutation(3)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, axes] * rng.choice([-1, 1], 3) * rng.uniform(0.5, 3, 3)
    affine = motion_about(np.zeros(3), turns, shift) @ affine
    whole = case_geometry(affine, (14, 11, 9))
    start = rng.integers(-1, 3, 3)
    crop = geometries.with_crop(whole, start, np.array(whole.canonical_shape) - 3)
    probabilities = rng.random((*crop.crop_shape_vox, 3), np.float32)
    inside = crop.crop(np.ones(crop.canonical_shape, bool))
    probabilities[~inside] = 0
    motion = motion_about(np.ones(3), (20, -30, 5), (4, 5, -6)) if is_moved else np.eye(4)
    home = Home(geometry=case_geometry(motion @ affine, whole.native_shape), motion=motion)
    native = native_mask(probabilities, crop, home, decode)
    assert native.dtype == np.uint8
    assert (native == crop.to_native(decode(probabilities))).all()


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
@pytest.mark.parametrize("name", GRIDS)
def test_a_tumour_lies_on_a_series_where_it_lay_in_the_head(name: str, motion: Floats) -> None:
    case, grid = case_geometry(), series_grid(name, motion)
    home = home_of(grid, motion)
    native = native_mask(tumour(case), case, home, decode)
    assert native.shape == home.geometry.native_shape
    own = decode(tumour(case))
    voxel_ml = home.geometry.voxel_ml
    away = distance_mm(grid.affine, grid.shape_vox, placed.moved(motion, MIDDLE_MM[None])[0])
    for classes, radius in (((1, 2, 3), RADII_MM[0]), ((1, 3), RADII_MM[1])):
        there = np.isin(native, classes)
        before_ml = np.isin(own, classes).sum() * case.voxel_ml
        assert there.sum() * voxel_ml == pytest.approx(before_ml, rel=0.03)
        assert dice(there, away < radius) > 0.98
    # Back again, as if the mask were a probability.
    masks = np.stack([np.isin(native, classes) for classes in ((1, 2, 3), (1, 3), (3,))], axis=-1)
    canonical = np.stack(
        [home.geometry.canonical(masks[..., k]) for k in range(3)], axis=-1
    ).astype(np.float32)
    way_back = Home(geometry=case, motion=np.linalg.inv(motion))
    back = native_mask(canonical, home.geometry, way_back, decode)
    assert dice(case.canonical(back) > 0, own > 0) > 0.95


def test_the_crop_of_a_case_is_where_its_tumour_is() -> None:
    case, motion = case_geometry(), MOTIONS["known"]
    home = home_of(series_grid("thin", motion), motion)
    whole = native_mask(tumour(case), case, home, decode)
    crop = geometries.with_crop(case, (3, 2, 1), (42, 43, 44))
    part = native_mask(crop.crop(tumour(case)), crop, home, decode)
    assert (part == whole).all()
    assert whole.any()


@pytest.mark.parametrize("value", [0.0, 0.04, 0.2])
def test_where_nothing_is_likely_the_mask_is_empty(value: float) -> None:
    case, motion = case_geometry(), MOTIONS["known"]
    home = home_of(series_grid("thick", motion), motion)
    probabilities = np.full((*case.canonical_shape, 3), value, np.float32)
    native = native_mask(probabilities, case, home, decode)
    assert native.shape == home.geometry.native_shape
    assert not native.any()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("name", ["thin", "sagittal"])
def test_a_tumour_that_a_series_does_not_wholly_show_is_cut_there(name: str, axis: int) -> None:
    case, motion = case_geometry(), MOTIONS["known"]
    whole = series_grid(name, motion)
    half = dataclasses.replace(
        whole,
        shape_vox=tuple(side // 2 if n == axis else side for n, side in enumerate(whole.shape_vox)),
    )
    shown = native_mask(tumour(case), case, home_of(half, motion), decode)
    full = native_mask(tumour(case), case, home_of(whole, motion), decode)
    assert shown.shape == half.shape_vox
    assert (shown == full[tuple(slice(side) for side in half.shape_vox)]).all()
    assert 0 < np.count_nonzero(shown) < np.count_nonzero(full)


def test_a_series_that_shows_nothing_of_a_tumour_has_an_empty_mask() -> None:
    grid = grid_around(MIDDLE_MM + 300, (60, 60, 60), (1.0, 1.0, 3.0))
    native = native_mask(tumour(case_geometry()), case_geometry(), home_of(grid, np.eye(4)), decode)
    assert native.shape == grid.shape_vox
    assert not native.any()


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.0, 1.0, 3.0), (2.0, 2.0, 2.0)])
def test_rules_in_voxels_are_about_the_same_volume_on_every_grid(
    spacing: tuple[float, ...],
) -> None:
    """A ball of 8 mm has 2.1 ml."""
    away = distance_mm(LPS, (SIDE,) * 3, MIDDLE_MM)
    probabilities = np.zeros((SIDE, SIDE, SIDE, 3), np.float32)
    probabilities[..., 0] = pointwise(2 * (8 - away))
    home = home_of(grid_around(MIDDLE_MM, (40, 40, 40), spacing), np.eye(4))
    seen = []
    for least_vox, is_kept in ((1600, True), (2800, False)):
        predictor = Predictor([pointwise], with_inference(min_component_vox=least_vox))

        def spy(values: Array, voxels_each: float, decoder: Predictor = predictor) -> LabelMap:
            seen.append(voxels_each)
            return decoder.decode(values, voxels_each=voxels_each)

        native = native_mask(probabilities, case_geometry(), home, spy)
        assert native.any() == is_kept
    assert seen == pytest.approx([1 / np.prod(spacing)] * 2)


@pytest.mark.parametrize("recipe", [SMOKE, named.get("baseline")], ids=["sigmoid", "softmax"])
@pytest.mark.parametrize("spacing_mm", [None, (1.5, 1.5, 1.5)], ids=["own", "resampled"])
def test_the_first_mask_is_the_one_of_cases_that_stay_where_they_are(
    recipe: Recipe, spacing_mm: tuple[float, float, float] | None
) -> None:
    def network(batch: Array) -> Array:
        mean = batch.mean(axis=-1, keepdims=True)
        if recipe.network.output == "regions":
            return np.concatenate([pointwise(mean + shift) for shift in (0.3, 0, -0.3)], axis=-1)
        odds = np.exp(np.concatenate([0 * mean, mean, -mean, 2 * mean], axis=-1))
        return (odds / odds.sum(axis=-1, keepdims=True)).astype(np.float32)

    class Spy(Predictor):
        def decode(self, *values: Any, voxels_each: float = 1.0) -> LabelMap:
            seen.append(voxels_each)
            return super().decode(*values, voxels_each=voxels_each)

    seen: list[float] = []
    config = dataclasses.replace(SMOKE.preprocess, spacing_mm=spacing_mm)
    predictor = Spy([network], dataclasses.replace(recipe, preprocess=config))
    rng, brain = np.random.default_rng(3), np.pad(arrays.ellipsoid((34, 30, 27)), 3)
    scans = {
        name: volume.from_array(np.where(brain, rng.integers(100, 900, brain.shape), 0), LPS)
        for name in config.modalities
    }
    prepared = predict.read(scans, config)
    own = Home(geometry=scans["t2"].geometry, motion=np.eye(4))
    index, native = predictor.indices(prepared.image_HWDC, prepared.geometry, own)
    expected = predictor.class_index(prepared.image_HWDC, prepared.geometry)
    assert (index == expected).all()
    assert len(np.unique(index)) > 2
    # And of a case that is at home already, it is the second too, by the same rules in voxels.
    assert (native == prepared.geometry.unresampled().to_native(index)).all()
    assert seen == pytest.approx([1 if spacing_mm is None else 1.5**3] * 3, rel=0.03)
    assert len({*seen}) == 1
