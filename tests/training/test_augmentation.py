"""Augmentation: drawn from the sample's key alone, and never out of step with the label."""

from __future__ import annotations

import numpy as np
import pytest

from ray_brats.recipes.config import AUGMENTATIONS, TrainConfig
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training import augmentation
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
    run = tf.function(lambda *given: augmentation.augment(*given, train, GLIOMA), autograph=False)
    return [np.asarray(one) for one in run(*map(tf.constant, batch))]


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
