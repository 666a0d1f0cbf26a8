"""`run --task` from phantoms to numbers: trained, exported, scored, evaluated, and served alone.

Some ten minutes a task on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import phantom
from ray_brats.files import ledger
from ray_brats.recipes.tasks import TASKS

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.tf, pytest.mark.timeout(3600)]

CASES = 14
SHAPE_VOX = (128, 128, 96)
STEPS = 400
LONGEST_SECONDS = 2400
LEAST_DICE = {
    "gli-post": {"RC": 0.8, "WT": 0.8},
    "ped": {"WT": 0.8},
    "met": {"TC": 0.6},
}
"""Mean over unseen phantoms, of the regions that are looked at."""
SEGMENT = """
import sys
import numpy as np
import tensorflow as tf
bundle, scans, target = sys.argv[1:]
segment = tf.saved_model.load(bundle).signatures["segment"]
np.save(target, segment(image=tf.constant(np.load(scans)))["labels"].numpy())
assert not any(name.startswith(("ray", "ray_brats")) for name in sys.modules)
"""
"""Somebody's program that has TensorFlow and the bundle, and none of our code."""


@pytest.fixture(scope="module", params=list(LEAST_DICE))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task's name, the cohort, and what `run` left."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    phantom.write_cohort(
        folder / "cohort", cases=CASES, shape_vox=SHAPE_VOX, task=TASKS[name], seed=1
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ray_brats.cli", "run", folder / "cohort", folder / "out"),
            *("--task", name, "--rules", "2026", "--recipe", "smoke", "--steps", str(STEPS)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return name, folder


def test_regions_of_unseen_phantoms_are_found(trained: tuple[str, Path]) -> None:
    name, folder = trained
    rows = ledger.read_table(str(folder / "out/report/metrics.parquet"))
    assert {row["region"] for row in rows} == set(TASKS[name].targets.region_names)
    seen = json.loads((folder / "out/run/run.json").read_text())["cases"]
    assert len({row["case_id"] for row in rows}) == CASES - seen["training"]
    for region, least in LEAST_DICE[name].items():
        dice = [row["dice"] for row in rows if row["region"] == region]
        assert np.mean(dice) >= least, (region, dice)


def test_masks_have_the_integers_of_the_task(trained: tuple[str, Path]) -> None:
    name, folder = trained
    masks = sorted((folder / "out/predictions").glob("*.nii.gz"))
    found = {int(value) for path in masks for value in np.unique(nib.load(path).dataobj)}
    assert found <= set(TASKS[name].meaning)
    assert len(found) >= 3
    card = json.loads((folder / "out/run/bundle/bundle.json").read_text())
    assert card["task"] == name


def test_plain_tensorflow_gives_the_masks_of_score(
    trained: tuple[str, Path], tmp_path: Path
) -> None:
    name, folder = trained
    found = cohorts.find(str(folder / "cohort"), task=TASKS[name])
    masks = folder / "out/predictions"
    card = json.loads((folder / "out/run/bundle/bundle.json").read_text())
    modalities = card["modalities"]
    for case in found.cases:
        mask = masks / f"{case.case_id}.nii.gz"
        if not mask.exists():
            continue
        scans = [np.asarray(nib.load(case.images[kind]).dataobj) for kind in modalities]
        np.save(tmp_path / "scans.npy", np.stack(scans, axis=-1).astype(np.float32))
        bundle = folder / "out/run/bundle/saved_model"
        files = (str(bundle), str(tmp_path / "scans.npy"), str(tmp_path / "mask.npy"))
        subprocess.run([sys.executable, "-c", SEGMENT, *files], check=True, cwd=tmp_path)
        given = np.load(tmp_path / "mask.npy")
        expected = np.asarray(nib.load(mask).dataobj)
        assert np.mean(given == expected) >= 0.9999
