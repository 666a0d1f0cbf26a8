"""Lengths, learning rates and plans are functions of the step."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.recipes.config import TrainConfig
from ray_brats.training import length


def test_a_length_by_the_clock_leaves_time_for_validation() -> None:
    train = TrainConfig(steps=None, minutes=10, validations=2, checkpoint_minutes=5)
    plan = length.first_plan(
        train, asked=None, step=10, step_seconds=2, elapsed_seconds=60, validation_seconds=30
    )
    assert plan == {"total_steps": 10 + (600 - 60 - 60) // 2, "checkpoint_every": 150}
    assert length.plan_of(plan, 2).validate_at == (125, 250)


def test_a_plan_is_kept_on_resume_unless_the_run_is_made_longer() -> None:
    kept = {"total_steps": 100, "checkpoint_every": 7}
    by_steps = TrainConfig(steps=100)
    by_clock = TrainConfig(steps=None, minutes=10)

    def total(train: TrainConfig, step: int) -> int:
        asked = length.asked_steps(train, step=step, patches=2 * step, batch=4)
        values = length.extended(kept, train, asked=asked, step=step, seconds=6.0 * step)
        return values["total_steps"]

    assert total(by_steps, 50) == total(by_clock, 50) == total(by_clock, 100) == 100
    assert total(dataclasses.replace(by_steps, steps=150), 100) == 150
    assert total(dataclasses.replace(by_clock, minutes=20), 100) == 200
    # Of 400 patches 200 are left, in steps that are twice as large as before.
    assert total(TrainConfig(steps=None, patches=400), 100) == 150


@given(patches=st.integers(1, 10_000), seen=st.integers(0, 10_000), batch=st.integers(1, 64))
def test_a_length_in_patches_is_reached_and_not_by_more_than_a_step(
    patches: int, seen: int, batch: int
) -> None:
    train = TrainConfig(steps=None, patches=patches)
    total = length.asked_steps(train, step=7, patches=seen, batch=batch)
    assert total is not None
    at_the_end = seen + (total - 7) * batch
    assert patches <= at_the_end
    assert at_the_end < max(patches, seen) + batch


def test_the_clock_is_looked_at_so_often_that_a_look_costs_a_hundredth_of_the_run() -> None:
    train = TrainConfig(steps=None, minutes=10, checkpoint_minutes=5)

    def every(step_seconds: float) -> int:
        values = length.first_plan(
            train,
            asked=None,
            step=10,
            step_seconds=step_seconds,
            elapsed_seconds=0,
            validation_seconds=0,
        )
        return length.clock_every(length.plan_of(values, 2), train)

    assert [every(seconds) for seconds in (0.1, 2, 20)] == [10, 3, 1]


@pytest.mark.parametrize(("elapsed", "steps"), [(0, 7 + 28), (500, 7 + 3), (570, 7), (900, 7)])
def test_the_clock_allows_what_is_left_of_it(elapsed: float, steps: int) -> None:
    allowed = length.steps_by_the_clock(
        TrainConfig(steps=None, minutes=10),
        step=7,
        step_seconds=20,
        elapsed_seconds=elapsed,
        to_come_seconds=30,
    )
    assert allowed == steps
