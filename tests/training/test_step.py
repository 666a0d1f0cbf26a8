"""One optimizer step: accumulation, clipping, averaging."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from ray_brats.recipes import named
from ray_brats.recipes.config import AUGMENTATIONS, Recipe, TrainConfig
from ray_brats.training.batches import Batch
from ray_brats.training.step import StepResult, Trainee, averaging_decay, learning_rate

pytestmark = pytest.mark.tf


def recipe(*settings: str) -> Recipe:
    small = "network.widths=4,8", "train.patch_vox=16,16,16", "inference.window_vox=16,16,16"
    plain = "train.flip=false", "train.intensity_jitter=0", "train.weight_decay=0"
    plain = *plain, *(f"train.{kind}_probability=0" for kind in AUGMENTATIONS)
    plain = *plain, "network.deep_supervision=0"
    return named.get("standard", settings=[*small, *plain, *settings])


def batch(*seeds: int) -> Batch:
    def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        label = np.zeros((16, 16, 16), np.uint8)
        label[3:11, 4:12, 5:13], label[6:9, 6:9, 6:9] = 2, 3
        return rng.normal(size=(16, 16, 16, 3)).astype(np.float32) + label[..., None], label

    images, labels = zip(*map(sample, seeds), strict=True)
    keys = np.zeros((len(seeds), 2), np.int32)
    names = tuple(f"c{seed}" for seed in seeds)
    return Batch(image=np.stack(images), label=np.stack(labels), keys=keys, case_ids=names)


def taken(made: Recipe, fed: Batch, decay: float = 0.0) -> tuple[StepResult, np.ndarray, Trainee]:
    trainee = Trainee(tf.distribute.get_strategy(), made)
    result = trainee.step(trainee.placed(fed), learning_rate=1e-3, averaging_decay=decay)
    weights = np.concatenate([w.ravel() for w in trainee.model.get_weights()])
    return result, weights, trainee


def test_a_batch_in_two_equal_parts_is_the_step_of_one_part() -> None:
    once, one, _ = taken(recipe(), batch(1))
    twice, two, _ = taken(recipe("train.accumulate=2"), batch(1, 1))
    np.testing.assert_allclose(two, one, atol=1e-6)
    assert twice.loss == pytest.approx(once.loss, rel=1e-5)
    assert twice.gradient_norm == pytest.approx(once.gradient_norm, rel=1e-4)
    mixed, other, _ = taken(recipe("train.accumulate=2"), batch(1, 2))
    assert mixed.loss != once.loss
    assert np.abs(other - one).max() > 1e-5


def test_clipping_bounds_what_the_optimizer_sees_and_reports_the_norm_before() -> None:
    free, _, _ = taken(recipe(), batch(1))
    limit = free.gradient_norm / 10
    clipped, _, trainee = taken(recipe(f"train.clip_norm={limit}"), batch(1))
    assert clipped.gradient_norm == pytest.approx(free.gradient_norm, rel=1e-4)
    # Adam's first moments after one step are a tenth of the gradient.
    moments = [
        variable.numpy().ravel()
        for variable in trainee.optimizer.variables
        if "momentum" in variable.path
    ]
    assert moments
    norm = np.linalg.norm(np.concatenate(moments)) * 10
    assert norm == pytest.approx(limit, rel=1e-3)
    loose, _, _ = taken(recipe(f"train.clip_norm={free.gradient_norm * 2}"), batch(1))
    assert loose.loss == free.loss


def test_averaged_weights_move_towards_the_trained_ones() -> None:
    _, trained, trainee = taken(recipe(), batch(1), decay=0.75)
    start = np.concatenate(
        [w.ravel() for w in Trainee(tf.distribute.get_strategy(), recipe()).model.get_weights()]
    )
    mean = np.concatenate([w.ravel() for w in trainee.averaged.get_weights()])
    np.testing.assert_allclose(mean, 0.75 * start + 0.25 * trained, atol=1e-6)


def test_optional_forms_of_the_network_take_steps() -> None:
    forms = "network.deep_supervision=1", "network.precision=mixed_bfloat16", "train.xla=true"
    for setting in forms:
        result, _, _ = taken(recipe(setting), batch(1))
        assert np.isfinite(result.loss)
        assert len(result.dice) == 3


def test_the_learning_rate_is_a_function_of_the_step() -> None:
    train = named.get("standard").train
    rates = [learning_rate(2 * step, 2000, 2, train) for step in range(1001)]
    assert rates[0] < rates[5] < rates[20]
    assert max(rates) == pytest.approx(train.learning_rate, rel=0.01)
    assert rates[1000] == pytest.approx(0, abs=1e-9)
    constant = named.get("baseline").train
    assert learning_rate(0, 10, 1, constant) == learning_rate(10, 10, 8, constant) == 1e-4


@pytest.mark.parametrize("batch", [1, 2, 8, 40])
def test_larger_steps_go_further_over_the_same_patches(batch: int) -> None:
    train = named.get("standard").train
    seen = range(0, 8000, batch)
    rates = [learning_rate(patches, 8000, batch, train) for patches in seen]
    # Square root of the size of a step, and with it of their number.
    highest = train.learning_rate * math.sqrt(batch / train.reference_batch)
    assert max(rates) == pytest.approx(highest, rel=0.01)
    reached = next(at for at, rate in zip(seen, rates, strict=True) if rate > 0.98 * highest)
    warm = train.warmup_steps * train.reference_batch
    assert warm - batch <= reached <= warm
    assert rates[len(rates) // 2] == pytest.approx(highest / 2, rel=0.05)


def test_weights_are_averaged_over_a_window_that_grows() -> None:
    train = TrainConfig(ema_decay=0.9)
    decays = [averaging_decay(step, train) for step in (1, 10, 81, 1000)]
    assert decays == sorted(decays)
    assert decays[0] == pytest.approx(0.1)
    assert decays[-1] == 0.9
    assert averaging_decay(5, TrainConfig(ema_decay=None)) == 0
