"""One optimizer step of one rank, compiled: augment, forward, loss, gradients, update, average.

Everything that ranks share happens here: the sums that the loss is made of are added up over them,
and the gradients are, each in one vector, so N ranks with batch b take the step of one rank with
N·b.

Where there are fewer ranks than shares of the batch, some take several, one after the other, for
what memory allows. The loss is no sum over shares, so these first look what its sums are, and then
once more for the gradients: the same step as of a rank a share, at four thirds of the work.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ray_brats.model import losses, unet
from ray_brats.recipes.config import Recipe, TrainConfig
from ray_brats.training.augmentation import augment
from ray_brats.training.batches import Batch

Part = dict[str, Any]
"""The tensors of a batch that is not accumulated, as `batches.Batch.parts` names them."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step measured, equal on all ranks: so is what follows from a number gone wrong."""

    loss: float
    dice: tuple[float, ...]
    """Soft Dice of each output channel over the global batch."""
    gradient_norm: float
    """Global L2 norm, before clipping."""


class Trainee:
    """The network, its optimizer, and its averaged twin, under a strategy.

    Args:
        strategy: the one whose ranks train together.
        recipe: network and training settings; the seed decides the initial weights.
        shares: of a batch; by default one a rank.
    """

    def __init__(self, strategy: Any, recipe: Recipe, *, shares: int | None = None) -> None:
        self._strategy, self._train = strategy, recipe.train
        self._targets = recipe.targets
        sizes = (len(recipe.preprocess.modalities), len(recipe.outputs))
        self._ranks = int(strategy.num_replicas_in_sync)
        self._shares = shares or self._ranks
        with strategy.scope():
            self.model = unet.build(recipe.network, *sizes, seed=recipe.train.seed)
            self.optimizer = _optimizer(recipe.train)
            self.optimizer.build(self.model.trainable_variables)
        # Outside the scope: a plain copy on each rank, for validation and export.
        self.averaged = unet.build(recipe.network, *sizes, seed=recipe.train.seed)
        self._forward: Callable[[Any], Any] = functools.partial(self.model, training=True)
        if recipe.train.xla:
            # The network alone: collectives cannot be inside, and losses are cheap.
            self._forward = tf.function(self._forward, autograph=False, jit_compile=True)
        gpus = tf.config.list_logical_devices("GPU")
        self._device = gpus[0].name if gpus else "CPU:0"
        self._gradients_of = _Traced(self._gradients)
        self._apply = tf.function(self._update, autograph=False)
        self._fused = _Traced(self._gradients_and_update)
        self._sums_of = _Traced(self._sums)
        self._summed_sums = tf.function(self._over_replicas, autograph=False)
        self._gradients_within = _Traced(self._gradients)
        self._average = tf.function(self._move_average, autograph=False)

    def placed(self, batch: Batch) -> list[Part]:
        """A batch on this rank's device; from any thread, beside a step."""
        with tf.device(self._device):
            return [
                tf.nest.map_structure(tf.constant, part)
                for part in batch.parts(self._train.batch_per_worker)
            ]

    def step(
        self, parts: list[Part], *, learning_rate: float, averaging_decay: float
    ) -> StepResult:
        """Take one optimizer step with what `placed` gave; all ranks call it."""
        self.optimizer.learning_rate.assign(learning_rate)
        if self._shares > self._ranks:
            measures, norm = self._of_several_shares(parts)
        elif len(parts) == 1:
            measures, norm = self._fused(parts[0])
        else:
            measures, norm = self._accumulated(parts)
        self._average(tf.constant(averaging_decay, tf.float32))
        loss, *dice = (float(value) for value in measures.numpy())
        return StepResult(loss=loss, dice=tuple(dice), gradient_norm=float(norm.numpy()))

    def _accumulated(self, parts: list[Any]) -> tuple[Any, Any]:
        measures, total = self._gradients_of(parts[0])
        for part in parts[1:]:
            more, gradients = self._gradients_of(part)
            measures = measures + more
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        count = float(len(parts))
        return measures / count, self._apply([gradient / count for gradient in total])

    def _of_several_shares(self, parts: list[Any]) -> tuple[Any, Any]:
        """As `_accumulated`; each share of this rank has one part of each accumulated batch."""
        count = self._train.accumulate
        measures: Any = 0.0
        total: list[Any] = []
        for together in (parts[at::count] for at in range(count)):
            sums = self._summed_sums(tf.add_n([self._sums_of(part) for part in together]))
            found = None
            for part in together:
                found, more = self._gradients_within({**part, "sums": sums})
                total = [a + b for a, b in zip(total, more, strict=True)] if total else more
            # Equal for all of them: that of the whole batch.
            measures += found
        return measures / float(count), self._apply([each / float(count) for each in total])

    # --- traced ------------------------------------------------------------------------

    def _gradients_and_update(self, part: Any) -> tuple[Any, Any]:
        measures, gradients = self._gradients(part)
        return measures, self._update(gradients)

    def _gradients(self, part: Any) -> tuple[Any, Any]:
        """Loss and Dice as one vector, and this rank's share of the gradients."""
        measures, gradients = self._strategy.run(self._replica_gradients, args=(part,))
        local = self._strategy.experimental_local_results
        return local(measures)[0], [local(gradient)[0] for gradient in gradients]

    def _sums(self, part: Any) -> Any:
        return self._on_replica(self._replica_sums, part)

    def _over_replicas(self, sums: Any) -> Any:
        return self._on_replica(losses.sum_over_replicas, sums)

    def _on_replica(self, call: Callable[[Any], Any], argument: Any) -> Any:
        found = self._strategy.run(call, args=(argument,))
        return self._strategy.experimental_local_results(found)[0]

    def _replica_sums(self, part: Any) -> Any:
        image, label = augment(part, self._train, self._targets)
        return losses.sums_of(self._train.loss, label, self._outputs(image), self._targets)

    def _outputs(self, image: Any) -> list[Any]:
        outputs = self._forward(image)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    def _replica_gradients(self, part: Any) -> tuple[Any, Any]:
        """The gradients of the whole batch's loss, as far as they flow through this part.

        With `sums` those of the batch are known, of which this part's are a share; without, the
        replicas meet here.
        """
        image, label = augment(part, self._train, self._targets)
        all_sum = losses.shared_total
        if "sums" in part:

            def all_sum(own: Any) -> Any:
                return own + tf.stop_gradient(part["sums"] - own)

        with tf.GradientTape() as tape:
            outputs = self._outputs(image)
            loss, dice = losses.supervised(self._train.loss, label, outputs, self._targets, all_sum)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        return tf.concat([loss[None], dice], 0), gradients

    def _update(self, gradients: Any) -> Any:
        return self._strategy.experimental_local_results(
            self._strategy.run(self._replica_update, args=(gradients,))
        )[0]

    def _replica_update(self, gradients: Any) -> Any:
        gradients = self._summed(gradients)
        norm = tf.linalg.global_norm(gradients)
        if self._train.clip_norm is not None:
            scale = self._train.clip_norm / tf.maximum(norm, self._train.clip_norm)
            gradients = [gradient * scale for gradient in gradients]
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return norm

    def _summed(self, gradients: Any) -> Any:
        """The gradients of all ranks, which meet in one vector of all of them."""
        if self._ranks == 1:
            return gradients
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)
        sizes = [gradient.shape.num_elements() for gradient in gradients]
        parts = tf.split(losses.sum_over_replicas(flat), sizes)
        return [
            tf.reshape(part, gradient.shape)
            for part, gradient in zip(parts, gradients, strict=True)
        ]

    def _move_average(self, decay: Any) -> None:
        for mean, raw in zip(self.averaged.weights, self.model.weights, strict=True):
            mean.assign(decay * mean.value + (1.0 - decay) * tf.convert_to_tensor(raw.value))

    # --- for the loop ------------------------------------------------------------------

    def all_sum(self, values: list[float]) -> np.ndarray[Any, Any]:
        """Sum of a vector over all ranks, on every rank; all ranks call it."""

        @tf.function(autograph=False)
        def reduce(x: Any) -> Any:
            total = self._strategy.run(losses.sum_over_replicas, args=(x,))
            return self._strategy.experimental_local_results(total)[0]

        return np.asarray(reduce(tf.constant(values, tf.float32)).numpy(), np.float64)

    def variables(self) -> dict[str, list[Any]]:
        """Every variable of the training state, by group: what a checkpoint holds."""
        return {
            "model": [variable.value for variable in self.model.variables],
            "averaged": [variable.value for variable in self.averaged.weights],
            "optimizer": [variable.value for variable in self.optimizer.variables],
        }


class _Traced:
    """A graph of a function of a part of a batch, for any number of donors in it."""

    def __init__(self, call: Callable[[Part], Any]) -> None:
        self._call = call
        self.function: Any = None
        """`tf.function`'s, once it is known what a part looks like."""

    def __call__(self, part: Part) -> Any:
        if self.function is None:
            specs = {name: tf.nest.map_structure(_spec, part[name]) for name in part}
            for name, spec in specs.get("donors", {}).items():
                specs["donors"][name] = tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)
            self.function = tf.function(self._call, input_signature=[specs], autograph=False)
        return self.function(part)


def _spec(tensor: Any) -> Any:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


class _Summed:
    """An optimizer whose gradients are summed over replicas already; Keras would once more."""

    def _all_reduce_sum_gradients(self, pairs: Iterable[Any]) -> list[Any]:
        return list(pairs)


class _Adam(_Summed, keras.optimizers.Adam):  # type: ignore[misc]
    pass


class _AdamW(_Summed, keras.optimizers.AdamW):  # type: ignore[misc]
    pass


def _optimizer(train: TrainConfig) -> Any:
    if train.weight_decay:
        return _AdamW(train.learning_rate, weight_decay=train.weight_decay, name="adamw")
    # By their names, which of a class with a leading underscore is none for TensorFlow.
    return _Adam(train.learning_rate, name="adam")


def learning_rate(patches: int, total_patches: int, batch: int, train: TrainConfig) -> float:
    """Linear warm-up, then constant or cosine decay to zero (Loshchilov & Hutter 2017).

    Both are functions of the patches seen, whatever the size of a step. With AdamW the rate goes
    with the square root of that size (Malladi et al. 2022), from `reference_batch` on; Adam's, the
    original project's, is as it was written down.

    Args:
        patches: seen by all ranks before this step.
        total_patches: of the whole run.
        batch: patches of this step, of all ranks.
        train: highest rate, warm-up and schedule.
    """
    warm = min(1.0, (patches + batch) / (train.warmup_steps * train.reference_batch + batch))
    highest = train.learning_rate * warm
    if train.weight_decay:
        highest *= math.sqrt(batch / train.reference_batch)
    if train.schedule == "constant":
        return highest
    progress = min(1.0, patches / max(total_patches, 1))
    return highest * 0.5 * (1.0 + math.cos(math.pi * progress))


def averaging_decay(step: int, train: TrainConfig) -> float:
    """Decay of the average: grows with the steps, so early weights are forgotten; 0 without one."""
    decay = train.ema_decay
    return 0.0 if decay is None else min(decay, step / (step + 9.0))
