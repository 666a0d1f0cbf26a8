"""How long a run is and what is due at which step: functions of the global step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ray_brats.recipes.config import TrainConfig


def learning_rate(step: int, total_steps: int, train: TrainConfig) -> float:
    """Linear warm-up, then constant or cosine decay to zero (Loshchilov & Hutter 2017)."""
    warm = min(1.0, (step + 1) / (train.warmup_steps + 1))
    if train.schedule == "constant":
        return train.learning_rate * warm
    progress = min(1.0, step / max(total_steps, 1))
    return train.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * progress))


def averaging_decay(step: int, train: TrainConfig) -> float:
    """Zero without averaging; grows with the steps so that early weights are forgotten."""
    decay = train.ema_decay
    return 0.0 if decay is None else min(decay, step / (step + 9.0))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long the run is; by the clock, from the speed of its first steps, then of the newest."""

    total_steps: int
    checkpoint_every: int
    validate_at: tuple[int, ...]
    """Steps after which the validation cases are scored; the last is `total_steps`."""

    def as_json(self) -> dict[str, int]:
        """What a checkpoint keeps; `plan_of` reads it."""
        return {"total_steps": self.total_steps, "checkpoint_every": self.checkpoint_every}

    def ends_at(self, step: int) -> Plan:
        """The same plan with `step` as its last."""
        return Plan(total_steps=step, checkpoint_every=self.checkpoint_every, validate_at=(step,))


def plan_of(values: Mapping[str, int], validations: int) -> Plan:
    """A plan whose validations are evenly spaced, the last at its end."""
    total = int(values["total_steps"])
    at = {max(1, round(total * (n + 1) / validations)) for n in range(validations)}
    return Plan(
        total_steps=total,
        checkpoint_every=int(values["checkpoint_every"]),
        validate_at=tuple(sorted(at)),
    )


def first_plan(
    train: TrainConfig,
    *,
    step: int,
    step_seconds: float,
    elapsed_seconds: float,
    validation_seconds: float,
) -> dict[str, int]:
    """The plan of a run whose first steps took so long, as `plan_of` reads it.

    Args:
        train: its length, in steps or minutes.
        step: how many steps are done.
        step_seconds: what one takes.
        elapsed_seconds: since the start of training.
        validation_seconds: what one validation will take.
    """
    total = train.steps
    if total is None:
        total = steps_by_the_clock(
            train,
            step=step,
            step_seconds=step_seconds,
            elapsed_seconds=elapsed_seconds,
            to_come_seconds=train.validations * validation_seconds,
        )
    return {
        "total_steps": total,
        "checkpoint_every": max(1, round(train.checkpoint_minutes * 60 / step_seconds)),
    }


def steps_by_the_clock(
    train: TrainConfig,
    *,
    step: int,
    step_seconds: float,
    elapsed_seconds: float,
    to_come_seconds: float,
) -> int:
    """How many steps the minutes that were asked for allow; at least those that are done.

    Args:
        train: its length in minutes.
        step: how many steps are done.
        step_seconds: what one takes now.
        elapsed_seconds: since the start of training.
        to_come_seconds: what else must be done, as validations.
    """
    assert train.minutes is not None
    left = train.minutes * 60 - elapsed_seconds - to_come_seconds
    return step + max(0, int(left / step_seconds))


def clock_every(plan: Plan, train: TrainConfig) -> int:
    """After how many steps the clock is looked at: about a hundredth of the run, ten at most."""
    assert train.minutes is not None
    step_seconds = train.checkpoint_minutes * 60 / plan.checkpoint_every
    return min(10, max(1, int(0.01 * train.minutes * 60 / step_seconds)))


def extended(
    kept: Mapping[str, int], train: TrainConfig, *, step: int, seconds: float
) -> dict[str, int]:
    """The plan of a resumed run: the one it had, unless a greater length is asked for now.

    Args:
        kept: the plan in the checkpoint.
        train: the length that is asked for.
        step: of the checkpoint.
        seconds: that training had taken until then.
    """
    total = kept["total_steps"]
    if train.steps is not None:
        total = max(total, train.steps)
    elif step >= total and train.minutes is not None:
        speed = seconds / max(step, 1)
        total = max(total, int(train.minutes * 60 / speed))
    return {**kept, "total_steps": total}
