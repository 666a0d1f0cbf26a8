"""Augmentation: drawn from the sample's key alone, and never out of step with the label."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats import labels
from ray_brats.recipes.config import AUGMENTATIONS, TrainConfig
from ray_brats.recipes.tasks import GLIOMA, TREATED_GLIOMA
from ray_brats.training import augmentation, tumour
from ray_brats.training import samples as patches

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tf

PATCH = (16, 16, 16)
ALL = {f"{kind}_probability": 1.0 for kind in AUGMENTATIONS}


def config(batch: int = 1, **changes: object) -> TrainConfig:
    plain = {"flip": False, "intensity_jitter": 0.0, "patch_vox": PATCH, "batch_per_worker": batch}
    return TrainConfig(**{**plain, **changes})  # type: ignore[arg-type]


def samples(count: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(count, side, side, side, 2)).astype(np.float32)
    image[:, :5] = 0.0
    label = rng.choice(np.array([0, 1, 3], np.uint8), (count, side, side, side))
    return image, label, np.array([[7, index] for index in range(count)], np.int32)


def changed(train: TrainConfig, *batch: np.ndarray) -> list[np.ndarray]:
    run = tf.function(lambda part: augmentation.augment(part, train, GLIOMA), autograph=False)
    names = ("image", "label", "keys")
    part = {name: tf.constant(values) for name, values in zip(names, batch, strict=True)}
    return [np.asarray(one) for one in run(part)]


def side_of(train: TrainConfig) -> int:
    return PATCH[0] + (2 * patches.margin_vox(PATCH)[0] if train.zoom_probability else 0)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_each_changes_a_patch_keeps_its_background_and_replays(kind: str) -> None:
    train = config(**{f"{kind}_probability": 1.0})
    given = samples(1, side_of(train))
    image, label = changed(train, *given)
    again, _ = changed(train, *given)
    assert (image == again).all()
    assert image.shape == (1, *PATCH, 2)
    margin = (given[0].shape[1] - PATCH[0]) // 2
    plain = given[0][:, margin:, margin:, margin:][:, : PATCH[0], : PATCH[0], : PATCH[0]]
    assert np.abs(image - plain).max() > 1e-3
    assert np.isfinite(image).all()
    if kind != "zoom":
        assert (image[plain == 0] == 0).all()
        assert (label == given[1]).all()
    other, _ = changed(train, given[0], given[1], given[2] + np.array([0, 1], np.int32))
    assert (other != image).any()


def test_a_sample_is_changed_alike_in_any_batch() -> None:
    changes = {**ALL, "flip": True, "intensity_jitter": 0.1}
    train = config(batch=2, **changes)
    given = samples(2, side_of(train))
    together = changed(train, *given)
    for number in range(2):
        alone = changed(config(**changes), *(part[number : number + 1] for part in given))
        for one, both in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], both[number], atol=1e-6)


def test_about_the_configured_share_is_changed() -> None:
    train = config(batch=40, noise_probability=0.5)
    given = samples(40, PATCH[0])
    image, _ = changed(train, *given)
    share = np.mean([(one != was).any() for one, was in zip(image, given[0], strict=True)])
    assert 0.25 < share < 0.75


@pytest.mark.parametrize("kinds", [(), ("gamma",)])
def test_what_has_probability_zero_leaves_every_bit(kinds: tuple[str, ...]) -> None:
    given = samples(1, PATCH[0])
    image, label = changed(config(), *given)
    assert image.tobytes() == given[0].tobytes()
    assert label.tobytes() == given[1].tobytes()
    # A sample that is not drawn keeps its bits too, and its place.
    rare = config(zoom_probability=1e-9, **{f"{kind}_probability": 1e-9 for kind in kinds})
    margin = patches.margin_vox(PATCH)[0]
    wide = [
        np.pad(part, [(0, 0), *[(margin, margin)] * 3, *[(0, 0)] * (part.ndim - 4)])
        for part in given[:2]
    ]
    image, label = changed(rare, *wide, given[2])
    assert image.tobytes() == given[0].tobytes()
    assert label.tobytes() == given[1].tobytes()


def test_a_tumour_is_retoned_region_by_region_and_nothing_else_is() -> None:
    train = config(tumour_probability=1.0)
    image = np.ones((1, *PATCH, 2), np.float32)
    label = np.zeros((1, *PATCH), np.uint8)
    label[:, :8], label[:, :4] = 2, 3
    new, _ = changed(train, image, label, np.array([[1, 2]], np.int32))
    rows = new[0, :, 8, 8]
    np.testing.assert_array_equal(rows[9:], 1)
    assert (np.abs(rows[1:3] - rows[5:7]) > 1e-3).all()
    assert (np.abs(rows[6] - 1) > 1e-3).all()
    # Within a region all voxels move alike, and its border is a slope.
    assert np.ptp(new[0, :3], axis=(0, 1, 2)).max() < 1e-5
    np.testing.assert_allclose(rows[7], rows[6] + (rows[9] - rows[6]) / 3, atol=1e-5)


@pytest.mark.parametrize("factor", [*patches.ZOOM_RANGE, 1.0])
def test_a_cube_stays_under_its_label_when_zoomed(factor: float) -> None:
    side = 24
    label = np.zeros((side,) * 3, np.uint8)
    label[7:17, 6:16, 9:15], label[10:13, 9:12, 10:13] = 2, 3
    image = np.float32(label > 0)[..., None] * 2 + 1
    new, mask = (
        np.asarray(one)
        for one in augmentation.magnified(
            tf.constant(image), tf.constant(label), tf.constant(factor), PATCH
        )
    )
    assert set(np.unique(mask)) <= {0, 2, 3}
    # The nearest voxel is labelled exactly where the interpolated intensity is past halfway,
    # up to the product of two slopes at the cube's edges.
    differs = (new[..., 0] > 2) != (mask > 0)
    assert differs.mean() < 0.02
    if factor == 1:
        assert (new[..., 0] == image[4:20, 4:20, 4:20, 0]).all()
        assert (mask == label[4:20, 4:20, 4:20]).all()
    wide = [(np.ptp(where) + 1) / factor for where in np.nonzero(mask)]
    assert wide == pytest.approx([10, 10, 6], abs=1.3)
    centres = [where.mean() for where in np.nonzero(new[..., 0] > 2)]
    assert centres == pytest.approx([where.mean() for where in np.nonzero(mask)], abs=0.5)


def test_background_is_background_after_a_zoom() -> None:
    image, label, _ = samples(1, 24)
    image[:, 8:] = 5.0
    image[:, :8] = 0.0
    new, _ = augmentation.magnified(
        tf.constant(image[0]), tf.constant(label[0]), tf.constant(1.13), PATCH
    )
    rows = np.asarray(new)[:, 0, 0, 0]
    assert rows[0] == 0
    assert rows[-1] == pytest.approx(5)
    assert ((rows == 0) | (rows > 2.4)).all()


# --- another case's tumour ---------------------------------------------------------------

SIDE = 20
"""Side of the patches that are given a tumour."""


def two(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A patch without tumour, and one with a ball of three nested classes."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(SIDE,) * 3 + (2,)).astype(np.float32)
    image[:5] = 0
    donor = rng.normal(10, 1, size=image.shape).astype(np.float32)
    donor[:, :4] = 0
    centre = rng.integers(8, 12, 3)
    distance = np.sqrt(
        sum((axis - c) ** 2 for axis, c in zip(np.indices((SIDE,) * 3), centre, strict=True))
    )
    label = np.select([distance < 2, distance < 3, distance < 6], [1, 3, 2]).astype(np.uint8)
    label[:, :4] = 0
    return image, np.zeros((SIDE,) * 3, np.uint8), donor, label


def carved(
    image: np.ndarray, label: np.ndarray, donor: np.ndarray, donor_label: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    distance = tumour.signed_distance(donor_label)
    given = (image, label, donor, donor_label, distance, np.float32(reach))
    mixed, mask = augmentation.carved(*map(tf.constant, given))
    return mixed.numpy(), mask.numpy()


REACH = st.floats(-0.5, 1, exclude_max=True, width=32)


@settings(deadline=None, max_examples=30)
@hypothesis.given(seed=st.integers(0, 10_000), reach=REACH)
def test_every_voxel_comes_whole_from_one_of_the_two(seed: int, reach: float) -> None:
    image, label, donor, donor_label = two(seed)
    mixed, mask = carved(image, label, donor, donor_label, reach)
    taken = (mixed != image).any(axis=-1)
    np.testing.assert_array_equal(mixed, np.where(taken[..., None], donor, image))
    np.testing.assert_array_equal(mask, np.where(taken, donor_label, label))
    assert not taken[:5].any()
    assert not taken[:, :4].any()
    # The middle of the tumour always goes along, and nothing from farther away than its radius.
    assert taken[np.isin(donor_label, (1, 3)) & image.any(axis=-1)].any()
    assert ndimage.distance_transform_edt(donor_label == 0)[taken].max() <= 7


@settings(deadline=None, max_examples=30)
@hypothesis.given(seed=st.integers(0, 10_000), reach=REACH)
def test_cavities_go_along_with_their_scan_and_lie_in_no_tumour(seed: int, reach: float) -> None:
    image, label, donor, donor_label = two(seed)
    # A cavity in the middle of the donor's tumour, and one of the receiver's own.
    donor_label = np.where(donor_label == 1, np.uint8(4), donor_label)
    label[6:12, 6:12, 6:12] = 4
    mixed, mask = carved(image, label, donor, donor_label, reach)
    taken = (mixed != image).any(axis=-1)
    np.testing.assert_array_equal(mask == 4, np.where(taken, donor_label, label) == 4)
    regions = region_masks(mask)
    assert not (regions["RC"] & regions["WT"]).any()
    # What shows the donor's cavity or the receiver's is called so, and nothing else is.
    seen = np.where(taken, donor_label == 4, label == 4)
    np.testing.assert_array_equal(regions["RC"], seen)


def region_masks(mask: np.ndarray) -> dict[str, np.ndarray]:
    return {region.name: labels.mask_of(mask, region.classes) for region in TREATED_GLIOMA.regions}


@pytest.mark.parametrize("reach", [-0.5, -0.1, 0, 0.4, 0.99])
def test_a_donor_without_tumour_gives_nothing(reach: float) -> None:
    image, label, donor, _ = two(0)
    mixed, mask = carved(image, label, donor, label, reach)
    np.testing.assert_array_equal(mixed, image)
    np.testing.assert_array_equal(mask, label)


@pytest.mark.parametrize("reach", [-0.5, -0.1, 0, 0.4, 0.99])
def test_a_donor_that_is_tumour_throughout_gives_all_of_it(reach: float) -> None:
    image, label, donor, _ = two(0)
    mixed, mask = carved(image, label, donor, np.ones_like(label), reach)
    taken = image.any(axis=-1) & donor.any(axis=-1)
    np.testing.assert_array_equal(mask, taken)
    np.testing.assert_array_equal(mixed, np.where(taken[..., None], donor, image))


def test_the_sample_that_is_meant_is_given_the_tumour() -> None:
    image, label, donor, donor_label = two(1)
    part = {
        "image": np.stack([image] * 3).astype(np.float16),
        "label": np.stack([label] * 3),
        "keys": np.zeros((3, 2), np.int32),
        "donors": {
            "image": donor[None].astype(np.float16),
            "label": donor_label[None],
            "distance": tumour.signed_distance(donor_label)[None],
            "reach": np.array([0.5], np.float32),
            "receiver": np.array([1], np.int32),
        },
    }
    train = config(batch=3, patch_vox=(SIDE,) * 3)
    new, mask = augmentation.augment(tf.nest.map_structure(tf.constant, part), train, GLIOMA)
    expected, expected_mask = carved(
        part["image"][1], label, donor.astype(np.float16), donor_label, 0.5
    )
    assert new.dtype == tf.float32
    np.testing.assert_array_equal(new[1], expected.astype(np.float32))
    np.testing.assert_array_equal(mask[1], expected_mask)
    for number in (0, 2):
        np.testing.assert_array_equal(new[number], part["image"][number].astype(np.float32))
        np.testing.assert_array_equal(mask[number], label)
