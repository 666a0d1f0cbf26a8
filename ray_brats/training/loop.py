"""The training loop: step, validate, checkpoint, report.

Every rank runs the same number of steps and meets the others in each of them. What the
loop needs from its surroundings (telling other ranks, keeping a checkpoint, showing
progress) comes in as `Hooks`, so it runs under Ray Train and in a plain test alike.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.errors import StageFailed
from ray_brats.recipes.config import Recipe
from ray_brats.training import checkpoint, validation
from ray_brats.training.batches import BatchStream
from ray_brats.training.cache import CONNECTIONS, MOST_AHEAD, Ahead
from ray_brats.training.data import PreparedCase
from ray_brats.training.length import Pace, Plan
from ray_brats.training.step import Part, StepResult, Trainee, averaging_decay, learning_rate
from ray_brats.training.validation import Example


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop asks of its surroundings."""

    broadcast: Callable[[Any], Any]
    """Rank 0's value, on every rank; all ranks call it."""
    event: Callable[[dict[str, Any]], None]
    """One line of `metrics.jsonl`; called on rank 0 alone."""
    keep: Callable[[Path, int], None]
    """Keep the checkpoint in a folder, of a step; called on rank 0 alone."""
    picture: Callable[[int, Example], None] = lambda _step, _example: None
    """Show a validated case; called on rank 0 alone."""
    beat: Callable[[], None] = lambda: None
    """A sign of life."""
    waits: Callable[[], None] = lambda: None
    """Called from time to time while a step waits for its input."""
    report: Callable[[dict[str, float]], None] = lambda _: None
    """A validation's step, loss and Dice, for others to show; all ranks call it."""
    is_leaving: Callable[[], bool] = lambda: False
    """Whether a node was told to leave since the last call; called on rank 0 alone."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The cases of one rank: all training cases, its own share of the validation cases."""

    training: Sequence[PreparedCase]
    validation: Sequence[PreparedCase]
    """This rank's share: rank r of R has every R-th of `validation_ids`, from the r-th on."""
    validation_ids: Sequence[str]
    """The validation cases of all ranks."""
    validation_vox: int
    """Voxels that pass through the network for the validation cases of all ranks."""
    ahead: int = MOST_AHEAD
    """Cases whose copies are made before they are needed, at most."""
    producers: int = 0
    """Processes that make this rank's samples; 0: a thread of this one."""
    shares: int | None = None
    """Of a batch, as of `BatchStream`."""


class Loop:
    """One rank of a training run.

    Args:
        strategy: the one whose ranks train together.
        recipe: what to train.
        data: this rank's cases.
        hooks: the surroundings.
        rank: this one's number.
        began_unix: when the command started, from where `minutes` count; by default now.
    """

    def __init__(
        self,
        strategy: Any,
        recipe: Recipe,
        data: Data,
        hooks: Hooks,
        *,
        rank: int,
        began_unix: float | None = None,
    ) -> None:
        self.recipe, self.data, self.hooks = recipe, data, hooks
        self.rank, self.ranks = rank, int(strategy.num_replicas_in_sync)
        self.trainee = Trainee(strategy, recipe, shares=data.shares)
        self.stream = BatchStream(
            data.training,
            recipe.train,
            recipe.targets,
            rank=rank,
            ranks=self.ranks,
            shares=data.shares,
            ahead=data.ahead,
        )
        self.step = 0
        self.loss = math.nan
        self.pace = Pace(
            recipe.train,
            hooks.broadcast,
            batch=self.stream.step_samples,
            seen=self.stream.first_sample,
            validation_vox=data.validation_vox / self.ranks * self._sampled_share(),
            began_unix=began_unix,
        )
        self.best_mean_dice = -1.0
        self.stale_validations = 0
        self.validated = 0
        self._last_checkpoint = "none yet"

    @property
    def plan(self) -> Plan | None:
        """How long the run is, once that is known."""
        return self.pace.plan

    # --- the run -----------------------------------------------------------------------

    def run(self, restore_from: str | None) -> None:
        """Train to the end of the plan, from a checkpoint where one is given.

        Raises:
            StageFailed: the loss or the gradients are no longer finite.
        """
        if restore_from:
            self._restore(restore_from)
        batches = self.stream.from_step(
            self.step,
            placed=self.trainee.placed,
            processes=self.data.producers,
            waits=self.hooks.waits,
        )
        try:
            while self.plan is None or self.step < self.plan.total_steps:
                self._one_step(next(batches))
                self.hooks.beat()
                planned = self.pace.after_step(self.step, validated=self.validated)
                if planned and self.rank == 0:
                    facts = self.pace.facts(self.step)
                    self.hooks.event({"event": "plan", "step": self.step, **facts})
                if self.plan is not None:
                    self._keep_what_is_due()
        finally:
            batches.close()
        if self.rank == 0:
            share = {"input_wait_share": self._input_wait_share()}
            self.hooks.event({"event": "end", "step": self.step, "loss": self.loss, **share})

    def _one_step(self, parts: list[Part]) -> None:
        began = time.monotonic()
        train = self.recipe.train
        batch, seen = self.stream.step_samples, self.stream.first_sample(self.step)
        to_come = (self.pace.total_steps(self.step) or 10**9) - self.step
        rate = learning_rate(seen, seen + to_come * batch, batch, train)
        self.step += 1
        result = self.trainee.step(
            parts,
            learning_rate=rate,
            averaging_decay=averaging_decay(self.step, train),
        )
        if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
            raise StageFailed(
                f"step {self.step} gave the loss {result.loss} and gradients of norm "
                f"{result.gradient_norm}; cases in the batch: {self._cases_of(self.step)}; last "
                f"good checkpoint: {self._last_checkpoint}. Lower the learning rate, clip the "
                "gradients (train.clip_norm), or look at these cases"
            )
        self.loss = result.loss
        self.pace.step_seconds.append(time.monotonic() - began)
        if self.rank == 0:
            self._report_step(result, rate)

    def _report_step(self, result: StepResult, rate: float) -> None:
        seconds = self.pace.step_seconds[-1]
        self.hooks.event(
            {
                "step": self.step,
                "loss": result.loss,
                "soft_dice": dict(zip(self.recipe.outputs, result.dice, strict=True)),
                "gradient_norm": result.gradient_norm,
                "learning_rate": rate,
                "step_seconds": round(seconds, 4),
                "patches_per_second": round(self.stream.step_samples / seconds, 3),
                "input_wait_share": self._input_wait_share(),
                "total_steps": self.pace.total_steps(self.step),
            }
        )

    def _cases_of(self, step: int) -> str:
        return ", ".join(dict.fromkeys(self.stream.case_ids(step - 1)))

    def _input_wait_share(self) -> float:
        """Seconds that steps waited for their batch, over those and the steps' own; 0 of none."""
        waited = self.stream.waited_seconds
        # A run whose last step was kept already when a worker died has none to make.
        return round(waited / ((waited + sum(self.pace.step_seconds)) or 1.0), 4)

    # --- validation and checkpoints ----------------------------------------------------

    def _keep_what_is_due(self) -> None:
        assert self.plan is not None
        if self._validation_is_due():
            began = time.monotonic()
            scores = self._validate()
            self.validated += 1
            if self._end_early_if_stale(scores) and self._sampled_share() < 1:
                scores = self._validate()
            self._checkpoint(scores)
            self.pace.validation_took(time.monotonic() - began)
            dice = {f"dice_{region}": value for region, value in scores.get("dice", {}).items()}
            self.hooks.report({"step": self.step, "loss": self.loss, **dice})
        elif self.step % self.plan.checkpoint_every == 0:
            self._checkpoint({})
        elif self.rank == 0 and self.hooks.is_leaving():
            # The others wait in their next step.
            self.hooks.event({"event": "leaving", "step": self.step})
            self._save({})

    def _validation_is_due(self) -> bool:
        """Whether one is; counted, as a plan that keeps pace may move what is to come."""
        assert self.plan is not None
        at = self.plan.validate_at
        return self.step >= at[-1] or self.step >= at[min(self.validated, len(at) - 1)]

    def _end_early_if_stale(self, scores: Mapping[str, Any]) -> bool:
        """Let this step be the last after `patience` validations without a better mean Dice."""
        assert self.plan is not None
        if "mean_dice" not in scores:
            return False
        # Of the same cases each time, also where the last one is of all.
        dice = scores.get("sample_dice", scores["mean_dice"])
        better = dice > self.best_mean_dice
        self.best_mean_dice = max(self.best_mean_dice, dice)
        self.stale_validations = 0 if better else self.stale_validations + 1
        patience = self.recipe.train.patience
        if not patience or self.stale_validations < patience or self.step >= self.plan.total_steps:
            return False
        self.pace.ends_at(self.step)
        if self.rank == 0:
            self.hooks.event({"event": "early stop", "step": self.step})
        return True

    def _validate(self) -> dict[str, Any]:
        """Scores of validation cases, each rank its share of them; {} without any."""
        assert self.plan is not None
        sampled = self._sampled()
        if not sampled:
            return {}
        is_last = self.step >= self.plan.total_steps
        numbers = range(len(self.data.validation_ids)) if is_last else sampled
        case_ids = [self.data.validation_ids[number] for number in numbers]
        own = [at for at, number in enumerate(numbers) if number % self.ranks == self.rank]
        cases = [self.data.validation[numbers[at] // self.ranks] for at in own]
        began = time.monotonic()
        with Ahead(cases, min(self.data.ahead, CONNECTIONS)) as copies:

            def beat() -> None:
                copies.used(1)
                self.hooks.beat()

            rows, example = validation.scores(self.trainee.averaged, cases, self.recipe, beat)
        table = np.zeros((len(case_ids), rows.shape[1]))
        table[own] = rows
        table = self.trainee.all_sum(table.ravel().tolist()).reshape(table.shape)
        scores = validation.summary(self.recipe, case_ids, table)
        if len(sampled) < len(case_ids):
            ids = [self.data.validation_ids[number] for number in sampled]
            of_sample = validation.summary(self.recipe, ids, table[sampled])
            scores["sample_dice"] = of_sample["mean_dice"]
        if self.rank == 0:
            seconds = round(time.monotonic() - began, 2)
            event = {"event": "validation", "step": self.step, "cases": len(case_ids)}
            self.hooks.event({**event, "seconds": seconds, **scores})
            if example is not None:
                self.hooks.picture(self.step, example)
        return scores

    def _sampled(self) -> list[int]:
        """Numbers of the validation cases that are scored before the last time."""
        train = self.recipe.train
        return validation.sample(len(self.data.validation_ids), train.validation_cases, train.seed)

    def _sampled_share(self) -> float:
        return len(self._sampled()) / max(1, len(self.data.validation_ids))

    def _checkpoint(self, scores: Mapping[str, Any]) -> None:
        """Rank 0 keeps the state; the others wait for it, so that none runs far ahead."""
        self._last_checkpoint = checkpoint.folder_name(self.step)
        if self.rank == 0:
            self._save(scores)
        self.hooks.broadcast(True)
        self.hooks.beat()

    def _save(self, scores: Mapping[str, Any]) -> None:
        """Keep the state, and what has been measured with it."""
        assert self.plan is not None
        folder = Path(tempfile.mkdtemp(prefix="ray-brats-checkpoint-"))
        facts = {
            **scores,
            "loss": self.loss,
            "seconds": self.pace.elapsed_seconds(),
            "saved_unix": time.time(),
            "samples": self.stream.first_sample(self.step),
            "batch": self.stream.step_samples,
            "plan": self.plan.as_json(),
            "asked": self.pace.asked,
            "best_mean_dice": self.best_mean_dice,
            "stale_validations": self.stale_validations,
        }
        checkpoint.save(self.trainee.variables(), folder, step=self.step, facts=facts)
        self.hooks.keep(folder, self.step)
        self.hooks.event({"event": "checkpoint", "step": self.step})

    def _restore(self, uri: str) -> None:
        restored = checkpoint.restore(self.trainee.variables(), uri)
        facts = restored.facts
        self.step, self.loss = restored.step, float(facts["loss"])
        self.stream.goes_on_at(self.step, int(facts["samples"]))
        self.best_mean_dice = float(facts["best_mean_dice"])
        self.stale_validations = int(facts["stale_validations"])
        self._last_checkpoint = checkpoint.folder_name(restored.step)
        plan = self.pace.resumes(
            facts["plan"],
            facts.get("asked"),
            step=self.step,
            seconds=float(facts["seconds"]),
            saved_unix=float(facts["saved_unix"]),
        )
        self.validated = sum(at <= self.step for at in plan.validate_at)
        if self.rank == 0:
            batches = {"batch": self.stream.step_samples, "batch_before": facts.get("batch")}
            self.hooks.event({"event": "resume", "step": self.step, **batches})
