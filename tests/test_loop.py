"""The training loop on two real processes under MultiWorkerMirroredStrategy, against one."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_brats import recipes
from ray_brats.config import NetworkConfig, Recipe

pytestmark = pytest.mark.tf
STEPS = 12


def tiny(name: recipes.RecipeName, batch: int) -> Recipe:
    """The recipe with a small network, plain gradient of the loss, nothing random in the net."""
    recipe = recipes.get(name, steps=STEPS)
    network = NetworkConfig(kind="standard", widths=(4, 8), output=recipe.network.output)
    train = dataclasses.replace(
        recipe.train, patch_vox=(16, 16, 16), batch_per_worker=batch, validations=1
    )
    inference = dataclasses.replace(recipe.inference, window_vox=(16, 16, 16))
    return dataclasses.replace(recipe, network=network, train=train, inference=inference)


def make_dataset(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        case = folder / "cases" / f"c{number}"
        case.mkdir(parents=True)
        label = np.zeros((20, 20, 20), np.uint8)
        label[4:14, 5:15, 6:16] = 2
        label[7:11, 8:12, 9:13] = number % 2 * 2 + 1
        image = rng.normal(size=(20, 20, 20, 3)) + label[..., None]
        np.save(case / "image.npy", image.astype(np.float32))
        np.save(case / "label.npy", label)


def worker(rank: int, settings: dict[str, Any]) -> None:
    """One rank, in a process of its own; writes what it saw."""
    import tensorflow as tf

    from ray_brats import batches, config, loop

    recipe = config.from_json(Recipe, settings["recipe"])
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    cases = [batches.fetch(settings["dataset"], f"c{number}", run_uri="") for number in range(4)]
    data = loop.Data(
        training=cases[:3],
        validation=cases[rank :: settings["ranks"]][-1:],
        validation_vox=8000,
    )
    events: list[dict[str, Any]] = []
    kept: list[str] = []
    hooks = loop.Hooks(
        broadcast=lambda value: value,
        event=events.append,
        keep=lambda folder, _step: kept.append(str(folder)),
    )
    run = loop.Loop(strategy, recipe, data, hooks, rank=rank)
    run.run(settings.get("restore"))
    weights = [np.asarray(weight.value.numpy()).ravel() for weight in run.trainee.model.weights]
    np.save(settings["out"] + f"/weights{rank}.npy", np.concatenate(weights))
    Path(settings["out"], f"events{rank}.json").write_text(json.dumps([events, kept]))


def run_ranks(ranks: int, out: Path, **settings: Any) -> tuple[list[np.ndarray], list[Any]]:
    """Weights of every rank, and what rank 0 reported."""
    out.mkdir()
    sockets = [socket.socket() for _ in range(ranks)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for rank in range(ranks):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        values = {**settings, "ranks": ranks, "out": str(out)}
        code = (
            f"import json, test_loop; test_loop.worker({rank}, json.loads({json.dumps(values)!r}))"
        )
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parent,
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stderr=subprocess.PIPE,
            )
        )
    try:
        errors = [process.communicate(timeout=240)[1].decode()[-2000:] for process in processes]
    finally:
        for process in processes:
            process.kill()
    weights = []
    for rank in range(ranks):
        assert (out / f"events{rank}.json").exists(), errors[rank]
        weights.append(np.load(out / f"weights{rank}.npy"))
    return weights, json.loads((out / "events0.json").read_text())


@pytest.mark.parametrize("name", ["standard", "baseline"])
def test_two_workers_hold_equal_weights_and_equal_one_with_their_batch(
    name: recipes.RecipeName, tmp_path: Path
) -> None:
    from ray_brats import config

    make_dataset(tmp_path)
    common = {"dataset": str(tmp_path)}
    two, (events, _) = run_ranks(
        2, tmp_path / "two", recipe=config.as_json(tiny(name, 1)), **common
    )
    one, (alone, _) = run_ranks(1, tmp_path / "one", recipe=config.as_json(tiny(name, 2)), **common)
    assert (two[0] == two[1]).all()
    np.testing.assert_allclose(two[0], one[0], atol=2e-4)
    losses = [[line["loss"] for line in lines if "event" not in line] for lines in (events, alone)]
    assert len(losses[0]) == STEPS
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    # Adam moves every weight in the first steps: gradients arrived everywhere.
    assert losses[0][-1] < losses[0][0]
    (validated,) = [line for line in events if line.get("event") == "validation"]
    assert validated["cases"] == 2
    assert ("original_soft_on_crops" in validated) == (name == "baseline")


def test_a_run_resumed_from_a_checkpoint_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    from ray_brats import checkpoint, config

    make_dataset(tmp_path)
    recipe = tiny("standard", 1)
    train = dataclasses.replace(recipe.train, steps=24, validations=2)
    values = config.as_json(dataclasses.replace(recipe, train=train))
    common = {"dataset": str(tmp_path), "recipe": values}
    whole, (events, kept) = run_ranks(1, tmp_path / "whole", **common)
    assert checkpoint.describe(kept[0]).step == 12  # type: ignore[union-attr]
    again, (resumed, _) = run_ranks(1, tmp_path / "again", **common, restore=kept[0])
    assert resumed[0] == {"event": "resume", "step": 12}
    expected = {line["step"]: line["loss"] for line in events if "event" not in line}
    for line in resumed:
        if "event" not in line:
            assert line["loss"] == pytest.approx(expected[line["step"]], abs=1e-4)
    np.testing.assert_allclose(again[0], whole[0], atol=1e-4)
