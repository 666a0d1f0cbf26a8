"""The memory that a plan names is about what a worker takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ray_brats.recipes import costs, jsonform, named

STEPS = """
import json, sys
import numpy as np, ray.train, tensorflow as tf
from ray_brats.recipes import config, jsonform
from ray_brats.training.batches import Batch
from ray_brats.training.step import Trainee

recipe = jsonform.from_json(config.Recipe, json.loads(sys.argv[1]))
shape = (recipe.train.batch_per_worker, *recipe.train.patch_vox)
batch = Batch(
    image=np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32),
    label=np.zeros(shape, np.uint8), keys=np.zeros((shape[0], 2), np.int32), case_ids=("x",),
)
trainee = Trainee(tf.distribute.get_strategy(), recipe)
for _ in range(2):
    trainee.step(trainee.placed(batch), learning_rate=1e-3, averaging_decay=0.9)
status = open("/proc/self/status").read().splitlines()
print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("standard", []), ("standard", ["train.batch_per_worker=3"]), ("baseline", [])],
)
def test_the_estimate_is_near_the_peak_of_a_real_worker(
    name: named.RecipeName, settings: list[str]
) -> None:
    recipe = named.get(name, settings=settings)
    done = subprocess.run(
        [sys.executable, "-c", STEPS, json.dumps(jsonform.as_json(recipe))],
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"},
    )
    peak_bytes = int(done.stdout.split()[-1]) * 1024
    assert 0.67 < costs.training_bytes(recipe) / peak_bytes < 1.5


def test_a_plan_says_what_is_needed_what_is_there_and_what_to_lower() -> None:
    recipe = named.get("standard")
    need = costs.training_bytes(recipe)
    assert 1 << 30 < need < 4 << 30
    assert "lower" not in costs.sentence(recipe, 2, 1, 10 * need)
    told = costs.sentence(recipe, 2, 1, need)
    for word in ("may not be enough", "train.patch_vox (now 96×96×96)", "batch_per_worker (now 1)"):
        assert word in told
