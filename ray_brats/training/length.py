"""How far a run goes: fixed by the speed of its first steps, then kept to the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_brats.recipes.config import TrainConfig


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


def asked_steps(train: TrainConfig, *, step: int, patches: int, batch: int) -> int | None:
    """How many steps a run is to have; None where its length is by the clock.

    Args:
        train: its length.
        step: how many steps are done.
        patches: seen in these.
        batch: patches of each step from now on.
    """
    if train.patches is not None:
        return step + max(0, math.ceil((train.patches - patches) / batch))
    return train.steps


def first_plan(
    train: TrainConfig,
    *,
    asked: int | None,
    step: int,
    step_seconds: float,
    elapsed_seconds: float,
    validation_seconds: float,
) -> dict[str, int]:
    """The plan of a run whose first steps took so long, as `plan_of` reads it.

    Args:
        train: its length.
        asked: as `asked_steps`.
        step: how many steps are done.
        step_seconds: what one takes.
        elapsed_seconds: since the start of training.
        validation_seconds: what one validation will take.
    """
    total = asked
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
    kept: Mapping[str, int], train: TrainConfig, *, asked: int | None, step: int, seconds: float
) -> dict[str, int]:
    """The plan of a resumed run: the one it had, unless a greater length is asked for now.

    Args:
        kept: the plan in the checkpoint.
        train: the length that is asked for.
        asked: as `asked_steps`, from the checkpoint on.
        step: of the checkpoint.
        seconds: that training had taken until then.
    """
    total = kept["total_steps"]
    if train.patches is not None:
        assert asked is not None
        total = asked
    elif asked is not None:
        total = max(total, asked)
    elif step >= total and train.minutes is not None:
        speed = seconds / max(step, 1)
        total = max(total, int(train.minutes * 60 / speed))
    return {**kept, "total_steps": total}


MEASURED_STEPS = 10
"""Steps whose speed fixes the plan; the first of them compiles and is left out."""
PLAN_SHARE = 0.1
"""Share of the minutes after which the plan is fixed, by fewer steps where they are long."""


class Pace:
    """The plan of a run, the same on every rank: rank 0's clock decides.

    Args:
        train: the length that is asked for.
        broadcast: rank 0's value, on every rank.
        batch: patches of a step, of all ranks.
        seen: how many patches come before a step.
        validation_vox: voxels that pass through one rank's network in a validation.
        began_unix: when the command started, from where `minutes` count; by default now.
    """

    def __init__(
        self,
        train: TrainConfig,
        broadcast: Callable[[Any], Any],
        *,
        batch: int,
        seen: Callable[[int], int],
        validation_vox: float,
        began_unix: float | None = None,
    ) -> None:
        self._train, self._broadcast = train, broadcast
        self._batch, self._seen = batch, seen
        self._validation_vox = validation_vox
        self.plan: Plan | None = None
        self.step_seconds: list[float] = []
        self._began_unix = time.time() if began_unix is None else began_unix
        self._counted_from = self._began_unix
        self._seconds_before = 0.0
        self._end_seconds: float | None = None

    @property
    def asked(self) -> list[float | None]:
        """The length that is asked for, as a checkpoint keeps it: steps, minutes and patches."""
        lengths = [self._train.steps, self._train.minutes]
        return lengths if self._train.patches is None else [*lengths, self._train.patches]

    def total_steps(self, step: int) -> int | None:
        """How many steps there will be, as far as that is known after so many."""
        return self.plan.total_steps if self.plan else self._asked_steps(step)

    def _asked_steps(self, step: int) -> int | None:
        return asked_steps(self._train, step=step, patches=self._seen(step), batch=self._batch)

    def resumes(
        self,
        kept: Mapping[str, int],
        asked: Sequence[float | None] | None,
        *,
        step: int,
        seconds: float,
        saved_unix: float,
    ) -> Plan:
        """Go on with the plan of a checkpoint, saved after so many seconds of training.

        A run that ended early, or as its minutes were over, is longer only for another length
        than `asked`, that of then.
        """
        self._seconds_before = seconds
        # What a death under this same command cost counts as well.
        self._counted_from = max(self._began_unix, saved_unix)
        values, to_come = kept, self._asked_steps(step)
        if asked != self.asked:
            values = extended(kept, self._train, asked=to_come, step=step, seconds=seconds)
        elif self._train.patches is not None and to_come and step < kept["total_steps"]:
            # Steps may have another number of patches than before.
            values = {**kept, "total_steps": to_come}
        self.plan = plan_of(values, self._train.validations)
        return self.plan

    def elapsed_seconds(self) -> float:
        """Seconds of training, before and after what was resumed."""
        return self._seconds_before + max(0.0, time.time() - self._counted_from)

    def after_step(self, step: int, *, validated: int) -> bool:
        """Make the plan where it is due, or fit it to the time that is left; True where made.

        Args:
            step: how many are done; the seconds of each are in `step_seconds`.
            validated: how often the validation cases were scored.
        """
        is_new = False
        if self.plan is None:
            is_new = self._broadcast(self._is_due(step))
            if is_new:
                self._make(step)
        if self.plan is not None:
            self._keep(step, validated)
        return is_new

    def validation_took(self, seconds: float) -> None:
        """How long the last validation and its checkpoint took."""
        self._end_seconds = seconds

    def ends_at(self, step: int) -> None:
        """Let `step` be the last."""
        assert self.plan is not None
        self.plan = self.plan.ends_at(step)

    def facts(self, step: int) -> dict[str, Any]:
        """What the plan is, and how long it will take."""
        assert self.plan is not None
        speed = self._typical_seconds()
        left = (self.plan.total_steps - step) * speed
        left += self._train.validations * self._validation_seconds(speed)
        return {
            **self.plan.as_json(),
            "validate_at": list(self.plan.validate_at),
            "step_seconds": round(speed, 4),
            "seconds_left": round(left, 1),
        }

    def _is_due(self, step: int) -> bool:
        train = self._train
        if len(self.step_seconds) >= MEASURED_STEPS:
            return True
        if (asked := self._asked_steps(step)) is not None:
            return step >= asked
        assert train.minutes is not None
        elapsed, last = self.elapsed_seconds(), self.step_seconds[-1]
        if elapsed <= PLAN_SHARE * train.minutes * 60:
            return False
        # The first step compiles: alone it would promise far too few.
        allowed = steps_by_the_clock(
            train,
            step=step,
            step_seconds=last,
            elapsed_seconds=elapsed,
            to_come_seconds=self._validation_seconds(last),
        )
        return len(self.step_seconds) > 1 or allowed == step

    def _make(self, step: int) -> None:
        speed = self._typical_seconds()
        values = first_plan(
            self._train,
            asked=self._asked_steps(step),
            step=step,
            step_seconds=speed,
            elapsed_seconds=self.elapsed_seconds(),
            validation_seconds=self._validation_seconds(speed),
        )
        self.plan = plan_of(self._broadcast(values), self._train.validations)

    def _keep(self, step: int, validated: int) -> None:
        """Fit a length by the clock to the time that is left.

        A machine that others use as well is not always as fast as at the start. The learning
        rate, a function of the step's share of the whole, so reaches its end with the time.
        """
        train = self._train
        assert self.plan is not None
        timed = len(self.step_seconds) - 1  # the first one compiles
        if train.minutes is None or step >= self.plan.total_steps or timed < 1:
            return
        every = clock_every(self.plan, train)
        if step % every:
            return
        speed = float(np.mean(self.step_seconds[-min(timed, max(every, MEASURED_STEPS)) :]))
        each = self._end_seconds or self._validation_seconds(speed)
        total = steps_by_the_clock(
            train,
            step=step,
            step_seconds=speed,
            elapsed_seconds=self.elapsed_seconds(),
            to_come_seconds=max(1, train.validations - validated) * each,
        )
        values = {**self.plan.as_json(), "total_steps": self._broadcast(total)}
        self.plan = plan_of(values, train.validations)

    def _typical_seconds(self) -> float:
        """Seconds of a step so far, without the first, which compiles."""
        return float(np.median(self.step_seconds[1:] or self.step_seconds))

    def _validation_seconds(self, step_seconds: float) -> float:
        """A forward pass costs about a third of a step for as many voxels."""
        train = self._train
        step_vox = math.prod(train.patch_vox) * train.batch_per_worker * train.accumulate
        return 0.5 * step_seconds * self._validation_vox / step_vox
