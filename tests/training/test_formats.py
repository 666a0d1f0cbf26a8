"""Runs that earlier versions wrote: spelled here by hand, so that no change of ours mends both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from ray_brats.files import folders
from ray_brats.model import bundle
from ray_brats.recipes import jsonform, named
from ray_brats.training import export, log, loop, run
from ray_brats.training.cache import Cache
from ray_brats.training.step import Trainee

pytestmark = pytest.mark.tf
RECIPE = named.get(
    "smoke",
    steps=4,
    settings=[
        *("network.widths=4,8", "train.patch_vox=16,16,16", "train.validations=1"),
        *("inference.window_vox=32,32,32", "inference.overlap=0"),
    ],
)
CASES = ("c0", "c1")
DESCRIPTION = {
    "identity": "1",
    "lengthless": "2",
    "recipe": jsonform.as_json(RECIPE),
    "dataset_fingerprint": "3",
    "fold": None,
    "seed": 0,
    "workers": 1,
    "cases": {"training": 2, "validation": 1},
    "release": "brats2020",
    "training_cases_sha256": ["a", "b"],
    "validation_cases_sha256": ["a"],
    "versions": {"ray_brats": "0.1"},
    "finished": False,
}


def write_dataset(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in CASES:
        case = folder / "cases" / name
        case.mkdir(parents=True)
        label = np.zeros((32, 32, 32), np.uint8)
        label[9:20, 9:20, 9:20] = 2
        np.save(case / "image.npy", rng.normal(size=(32, 32, 32, 3)).astype(np.float32))
        np.save(case / "label.npy", label)
        (case / "done.json").write_text("{}")


def write_run(folder: Path) -> None:
    """A run that a command left after step 2, with one line of a step that will be made again."""
    kept = folder / "checkpoints" / "step-000002"
    kept.mkdir(parents=True)
    (folder / "attempts").mkdir()
    (folder / "run.json").write_text(json.dumps(DESCRIPTION))
    (folder / "attempts/000001.json").write_text('{"driver": 1}\n')
    (folder / "attempts/000002.json").write_text('{"driver": 1, "step": 0}\n')
    lines = [{"step": step, "loss": 0.5} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arrays = {
        f"{group}/{number}": np.asarray(variable.numpy())
        for group, variables in Trainee(tf.distribute.get_strategy(), RECIPE).variables().items()
        for number, variable in enumerate(variables)
    }
    np.savez(kept / "state.npz", **arrays)
    facts: dict[str, Any] = {
        "step": 2,
        "sha256": hashlib.sha256((kept / "state.npz").read_bytes()).hexdigest(),
        "loss": 0.5,
        "seconds": 1.0,
        "saved_unix": 1.7e9,
        "samples": 2 * RECIPE.train.batch_per_worker * RECIPE.train.accumulate,
        "plan": {"total_steps": 4, "checkpoint_every": 1},
        "asked": [4, None],
        "best_mean_dice": -1.0,
        "stale_validations": 0,
    }
    (kept / "checkpoint.json").write_text(json.dumps(facts))


def test_a_run_of_before_goes_on_and_is_exported(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    write_dataset(tmp_path / "dataset")
    write_run(tmp_path / "run")
    driver = run.begin(uri, DESCRIPTION, existing="resume")
    assert driver is not None
    claimed, newest = run.join(uri, driver.attempt.driver)
    assert newest is not None
    assert (newest.step, claimed.attempt.number, claimed.attempt.driver) == (2, 4, 3)
    cache = Cache(dataset_uri=str(tmp_path / "dataset"), fingerprint="", run_uri=uri)
    cases = [cache.case(name) for name in CASES]
    shares = loop.Data(
        training=cases, validation=cases[:1], validation_ids=CASES[:1], validation_vox=32**3
    )
    with log.RunLog(claimed.attempt, keep_until=newest.step) as lines:
        hooks = loop.Hooks(broadcast=lambda value: value, event=lines.add, keep=claimed.keep)
        strategy = tf.distribute.get_strategy()
        loop.Loop(strategy, RECIPE, shares, hooks, rank=0).run(newest.uri)
    steps = [line["step"] for line in log.read(uri) if "event" not in line]
    assert steps == [1, 2, 3, 4]
    chosen = run.choose(uri)
    assert chosen.checkpoint.step == 4
    export.export_run(chosen, driver.run.bundle_uri, put=driver.attempt.put, slim=True)
    driver.finish()
    assert run.begin(uri, DESCRIPTION, existing="resume") is None
    assert run.read(uri).summary(skipped=True).step == 4
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("run.json", "metrics.jsonl", "attempts", "checkpoints", "bundle", "tensorboard")
    }


def test_a_checkpoint_of_before_is_exported_by_its_name(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    chosen = run.choose(str(tmp_path / "run"), "step-000002")
    target = str(tmp_path / "bundle")
    card = export.export_run(chosen, target, put=folders.put, slim=True)
    assert card["release"] == "brats2020"
    batch = np.random.default_rng(0).normal(size=(1, 32, 32, 32, 3)).astype(np.float32)
    assert bundle.load(target).forward(batch).shape[:4] == (1, 32, 32, 32)
