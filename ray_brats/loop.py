"""The training loop: strategy, model, optimizer, step, validate, checkpoint, report.

Every rank runs the same number of steps and meets the others in each of them. What the
loop needs from its surroundings (telling other ranks, keeping a checkpoint, showing
progress) comes in as `Hooks`, so it runs under Ray Train and in a plain test alike.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ray_brats import checkpoint, labels, losses, metrics, unet
from ray_brats.batches import BatchStream, PreparedCase, augment
from ray_brats.config import Recipe, TrainConfig
from ray_brats.errors import StageFailed
from ray_brats.predict import Predictor

MEASURED_STEPS = 10
"""Steps whose speed fixes the plan; the first of them compiles and is left out."""
CLOCK_STEPS = 10
"""How often the ranks agree whether the time is up."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop asks of its surroundings."""

    broadcast: Callable[[Any], Any]
    """Rank 0's value, on every rank; all ranks call it."""
    event: Callable[[dict[str, Any]], None]
    """One line of `metrics.jsonl`; called on rank 0 alone."""
    keep: Callable[[Path | None, int, dict[str, float]], None]
    """Keep the checkpoint in a folder (None on other ranks); all ranks call it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long the run is, fixed once from the speed of its first steps."""

    total_steps: int
    checkpoint_every: int
    validate_at: tuple[int, ...]
    """Steps after which the validation cases are scored; the last is `total_steps`."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The cases of one rank: all training cases, its own share of the validation cases."""

    training: Sequence[PreparedCase]
    validation: Sequence[PreparedCase]
    validation_vox: int
    """Voxels that pass through the network for the validation cases of all ranks."""


def learning_rate(step: int, total_steps: int, train: TrainConfig) -> float:
    """Linear warm-up, then constant or cosine decay to zero (Loshchilov & Hutter 2017)."""
    warm = min(1.0, (step + 1) / (train.warmup_steps + 1))
    if train.schedule == "constant":
        return train.learning_rate * warm
    progress = min(1.0, step / max(total_steps, 1))
    return train.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * progress))


class Loop:
    """One rank of a training run."""

    def __init__(self, strategy: Any, recipe: Recipe, data: Data, hooks: Hooks, *, rank: int):
        self.strategy, self.recipe, self.data, self.hooks = strategy, recipe, data, hooks
        self.rank, self.ranks = rank, int(strategy.num_replicas_in_sync)
        channels = len(recipe.preprocess.modalities)
        seed = recipe.train.seed
        with strategy.scope():
            self.model = unet.build(recipe.network, channels, seed=seed)
            self.optimizer = _optimizer(recipe.train)
            self.optimizer.build(self.model.trainable_variables)
        # Outside the scope: a plain copy on each rank, for validation and export.
        self.averaged = unet.build(recipe.network, channels, seed=seed)
        self.stream = BatchStream(data.training, recipe.train, rank=rank, ranks=self.ranks)
        self.step = 0
        self.seconds_before = 0.0
        self.plan: Plan | None = None
        self.loss = math.nan
        self._train_step = self._compile_step()
        self._average_step = self._compile_average()

    # --- the run -----------------------------------------------------------------------

    def run(self, restore_from: str | None) -> None:
        """Train to the end of the plan, from a checkpoint where one is given."""
        if restore_from:
            self._restore(restore_from)
        self.started = time.monotonic()
        step_seconds: list[float] = []
        batches = self.stream.from_step(self.step)
        try:
            while self.plan is None or self.step < self.plan.total_steps:
                began = time.monotonic()
                self.loss = self._one_step(next(batches))
                step_seconds.append(time.monotonic() - began)
                self._report_step(step_seconds)
                if self.plan is None and self._plan_is_due(step_seconds):
                    self.plan = self._make_plan(step_seconds)
                if self.plan is not None:
                    self._keep_what_is_due()
        finally:
            batches.close()
        if self.rank == 0:
            self.hooks.event({"event": "end", "step": self.step, "loss": self.loss})

    def _one_step(self, batch: Any) -> float:
        train = self.recipe.train
        total = self.plan.total_steps if self.plan else (train.steps or 10**9)
        self.optimizer.learning_rate.assign(learning_rate(self.step, total, train))
        loss = float(
            self._train_step(
                tf.constant(batch.image), tf.constant(batch.label), tf.constant(batch.keys)
            ).numpy()
        )
        if not math.isfinite(loss):
            raise StageFailed(
                f"the loss became {loss} in step {self.step + 1}, cases "
                f"{', '.join(batch.case_ids)}: lower the learning rate, or look at these cases"
            )
        self.step += 1
        self._average_step(tf.constant(self._ema_decay(), tf.float32))
        return loss

    def _ema_decay(self) -> float:
        """Zero without averaging; grows with the steps so that early weights are forgotten."""
        decay = self.recipe.train.ema_decay
        return 0.0 if decay is None else min(decay, self.step / (self.step + 9.0))

    def _report_step(self, step_seconds: Sequence[float]) -> None:
        if self.rank:
            return
        self.hooks.event(
            {
                "step": self.step,
                "loss": self.loss,
                "learning_rate": float(self.optimizer.learning_rate.numpy()),
                "step_seconds": round(step_seconds[-1], 4),
                "input_wait_share": round(
                    self.stream.waited_seconds / max(sum(step_seconds), 1e-9), 4
                ),
                "total_steps": self.plan.total_steps if self.plan else self.recipe.train.steps,
            }
        )

    # --- the plan ----------------------------------------------------------------------

    def _plan_is_due(self, step_seconds: Sequence[float]) -> bool:
        known = self.recipe.train.steps
        return len(step_seconds) >= MEASURED_STEPS or (known is not None and self.step >= known)

    def _make_plan(self, step_seconds: Sequence[float]) -> Plan:
        """Rank 0's measurement decides; every rank gets the same plan."""
        speed = float(np.median(step_seconds[1:] or step_seconds))
        train = self.recipe.train
        total = train.steps or self._steps_that_fit(speed)
        plan = {
            "total_steps": max(total, self.step),
            "checkpoint_every": max(1, round(train.checkpoint_minutes * 60 / speed)),
        }
        return _plan(self.hooks.broadcast(plan), train.validations)

    def _steps_that_fit(self, step_seconds: float) -> int:
        assert self.recipe.train.minutes is not None
        left = self.recipe.train.minutes * 60 - self._elapsed_seconds()
        left -= self.recipe.train.validations * self._validation_seconds(step_seconds)
        return self.step + max(1, int(left / step_seconds))

    def _validation_seconds(self, step_seconds: float) -> float:
        """A forward pass costs about a third of a step for as many voxels."""
        train = self.recipe.train
        step_vox = math.prod(train.patch_vox) * train.batch_per_worker
        share = self.data.validation_vox / self.ranks
        return 0.5 * step_seconds * share / step_vox

    def _elapsed_seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _keep_what_is_due(self) -> None:
        assert self.plan is not None
        self._end_early_if_late()
        if self.step in self.plan.validate_at:
            self._checkpoint(self._validate())
        elif self.step % self.plan.checkpoint_every == 0:
            self._checkpoint({})

    def _end_early_if_late(self) -> None:
        """With a length by the clock: this step becomes the last where the time is up."""
        minutes = self.recipe.train.minutes
        if minutes is None or self.step % CLOCK_STEPS or self.plan is None:
            return
        speed = self._elapsed_seconds() / max(self.step, 1)
        late = self._elapsed_seconds() + self._validation_seconds(speed) > minutes * 60
        if self.hooks.broadcast(bool(late)) and self.step < self.plan.total_steps:
            self.plan = dataclasses.replace(
                self.plan, total_steps=self.step, validate_at=(self.step,)
            )

    # --- compiled functions --------------------------------------------------------------

    def _compile_step(self) -> Any:
        train, loss_of = self.recipe.train, losses.LOSSES[self.recipe.train.loss]
        replicas = float(self.ranks)

        def replica_step(image: Any, label: Any, keys: Any) -> Any:
            image, label = augment(image, label, keys, train)
            with tf.GradientTape() as tape:
                probabilities = self.model(image, training=True)
                loss = loss_of(label, probabilities, losses.sum_over_replicas)
                # Keras sums gradients over replicas, and each holds the loss of all.
                shared = loss / replicas
            gradients = tape.gradient(shared, self.model.trainable_variables)
            self.optimizer.apply(gradients, self.model.trainable_variables)
            return loss

        @tf.function
        def train_step(image: Any, label: Any, keys: Any) -> Any:
            loss = self.strategy.run(replica_step, args=(image, label, keys))
            return self.strategy.experimental_local_results(loss)[0]

        return train_step

    def _compile_average(self) -> Any:
        pairs = list(zip(self.averaged.weights, self.model.weights, strict=True))

        @tf.function
        def average(decay: Any) -> None:
            for mean, raw in pairs:
                mean.assign(decay * mean.value + (1.0 - decay) * tf.convert_to_tensor(raw.value))

        return average

    def _all_sum(self, values: Sequence[float]) -> np.ndarray[Any, Any]:
        """Sum of a vector over all ranks, on every rank."""
        vector = tf.constant(values, tf.float32)

        @tf.function
        def reduce(x: Any) -> Any:
            total = self.strategy.run(losses.sum_over_replicas, args=(x,))
            return self.strategy.experimental_local_results(total)[0]

        return np.asarray(reduce(vector).numpy(), np.float64)

    # --- validation and checkpoints --------------------------------------------------------

    def _validate(self) -> dict[str, Any]:
        """Mean scores over the validation cases, each rank its share of them."""
        began = time.monotonic()
        predictor = Predictor([forward_of(self.averaged)], self.recipe)
        soft = self.recipe.network.output == "classes"
        names = [*labels.REGIONS, *(metrics.ORIGINAL_FIGURES if soft else ())]
        total = np.zeros(len(names) + 1)
        for case in self.data.validation:
            label = np.asarray(case.label())
            probabilities = predictor.probabilities(np.asarray(case.image()))
            index = predictor.decode(probabilities)
            values = [metrics.region_dice(label, index, region) for region in labels.REGIONS]
            if soft:
                values += metrics.original_figures_soft(label, probabilities).values()
            total += [*values, 1.0]
        *sums, count = self._all_sum(total.tolist())
        if not count:
            return {}
        means = dict(zip(names, (float(value / count) for value in sums), strict=True))
        dice = {region: means.pop(region) for region in labels.REGIONS}
        scores: dict[str, Any] = {"dice": dice, "mean_dice": float(np.mean(list(dice.values())))}
        if means:
            scores["original_soft_on_crops"] = means
        if self.rank == 0:
            seconds = round(time.monotonic() - began, 2)
            event = {"event": "validation", "step": self.step, "cases": int(count)}
            self.hooks.event({**event, "seconds": seconds, **scores})
        return scores

    def _groups(self) -> checkpoint.Groups:
        return {
            "model": [variable.value for variable in self.model.variables],
            "averaged": [variable.value for variable in self.averaged.weights],
            "optimizer": [variable.value for variable in self.optimizer.variables],
        }

    def _checkpoint(self, scores: Mapping[str, Any]) -> None:
        reported = {"step": float(self.step)}
        if "mean_dice" in scores:
            reported["mean_dice"] = scores["mean_dice"]
        if self.rank:
            self.hooks.keep(None, self.step, reported)
            return
        folder = Path(tempfile.mkdtemp(prefix="ray-brats-checkpoint-"))
        assert self.plan is not None
        facts = {
            **scores,
            "loss": self.loss,
            "seconds": self._elapsed_seconds(),
            "plan": {
                "total_steps": self.plan.total_steps,
                "checkpoint_every": self.plan.checkpoint_every,
            },
        }
        checkpoint.save(self._groups(), folder, step=self.step, facts=facts)
        self.hooks.keep(folder, self.step, reported)
        self.hooks.event({"event": "checkpoint", "step": self.step})

    def _restore(self, uri: str) -> None:
        found = checkpoint.restore(self._groups(), uri)
        self.step = found.step
        self.loss = float(found.facts["loss"])
        self.seconds_before = float(found.facts["seconds"])
        self.plan = _plan(found.facts["plan"], self.recipe.train.validations)
        if self.rank == 0:
            self.hooks.event({"event": "resume", "step": self.step})


def _plan(values: Mapping[str, int], validations: int) -> Plan:
    total = int(values["total_steps"])
    at = {max(1, round(total * (n + 1) / validations)) for n in range(validations)}
    return Plan(
        total_steps=total,
        checkpoint_every=int(values["checkpoint_every"]),
        validate_at=tuple(sorted(at)),
    )


def _optimizer(train: TrainConfig) -> Any:
    if train.weight_decay:
        return keras.optimizers.AdamW(train.learning_rate, weight_decay=train.weight_decay)
    return keras.optimizers.Adam(train.learning_rate)


def forward_of(model: Any) -> Callable[[Any], Any]:
    """A Predictor's forward function from a Keras model; one trace for all shapes."""
    channels = model.inputs[0].shape[-1]
    spec = tf.TensorSpec((None, None, None, None, channels), tf.float32)

    @tf.function(input_signature=[spec])
    def call(batch: Any) -> Any:
        return model(batch, training=False)

    return lambda batch: np.asarray(call(tf.constant(batch)).numpy(), np.float32)
