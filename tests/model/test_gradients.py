"""N replicas with batch b have the gradients of one with N·b, for every recipe's loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tf
SMALL = ("train.patch_vox=16,16,16", "inference.window_vox=16,16,16")


def compare() -> None:
    """Print, for each recipe's loss, how far two replicas are from one; in its own process."""
    import numpy as np
    import tensorflow as tf

    from ray_brats.recipes import named
    from ray_brats.recipes.config import NetworkConfig
    from ray_brats.recipes.jsonform import with_settings
    from ray_brats.training.step import Trainee

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    rng = np.random.default_rng(0)
    label = np.zeros((2, 16, 16, 16), np.uint8)
    # The first sample has no enhancing tumour, the second all three tissues.
    label[0, 4:12, 4:12, 4:12] = 2
    label[1, 2:11, 3:12, 5:13], label[1, 4:8, 4:8, 6:10], label[1, 5:7, 5:7, 7:9] = 2, 1, 3
    image = (rng.normal(size=(2, 16, 16, 16, 3)) + label[..., None]).astype(np.float32)
    keys = np.array([[0, 0], [0, 1]], np.int32)

    def gradients(name: named.RecipeName, strategy: tf.distribute.Strategy) -> list[np.ndarray]:
        ranks = strategy.num_replicas_in_sync
        recipe = named.get(name)
        network = {
            "kind": "standard", "output": recipe.network.output,
            "widths": (4, 8), "deep_supervision": 1,
        }  # fmt: skip
        made = with_settings(
            type(recipe)(**{**vars(recipe), "network": NetworkConfig(**network)}),
            [
                "train.patch_vox=16,16,16",
                f"train.batch_per_worker={2 // ranks}",
                # Patches are handed over as they are; compiled or not, the loss is the same.
                "train.zoom_probability=0",
                "train.xla=false",
            ],
        )
        trainee = Trainee(strategy, made)

        def share(array: np.ndarray) -> object:
            parts = np.split(array, ranks)
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )

        @tf.function(autograph=False)
        def run(*given: object) -> list[object]:
            part = dict(zip(("image", "label", "keys"), given, strict=True))
            _, each = strategy.run(trainee._replica_gradients, args=(part,))
            return [strategy.experimental_local_results(gradient) for gradient in each]

        found = run(share(image), share(label), share(keys))
        # What Keras does before it applies them: sum over the replicas.
        return [np.sum([np.asarray(part) for part in parts], axis=0) for parts in found]

    pair = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    told = {}
    for name in named.RECIPES:
        one, two = gradients(name, tf.distribute.get_strategy()), gradients(name, pair)
        scale = max(float(np.abs(gradient).max()) for gradient in one)
        far = max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True))
        told[name] = {"scale": scale, "relative": far / scale, "arrays": len(one)}

    # One replica's gradients go wrong: both must know it before they keep anything.
    recipe = named.get("smoke", settings=["network.widths=4,8", *SMALL])
    trainee = Trainee(pair, recipe)

    def norm() -> object:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        wrong = tf.where(number == 1, np.nan, 1.0)
        weights = trainee.model.trainable_variables
        return trainee._replica_update([wrong * tf.ones(weight.shape) for weight in weights])

    norms = pair.experimental_local_results(tf.function(lambda: pair.run(norm))())
    told["norms"] = [str(float(value)) for value in norms]
    sys.stdout.write(json.dumps(told))


def test_two_replicas_have_the_gradients_of_one_with_both_samples() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import test_gradients; test_gradients.compare()"],
        cwd=Path(__file__).parent,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told.pop("norms") == ["nan", "nan"]
    assert {"baseline", "standard", "smoke"} <= set(told)
    for name, found in told.items():
        assert found["scale"] > 1e-4, name
        assert found["relative"] < 1e-5, (name, found)
