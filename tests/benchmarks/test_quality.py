"""The quality benchmark: paired differences on paper, and a short run with both sides."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import classes
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_differences_are_paired_by_case_and_averaged_over_seeds() -> None:
    from ray_brats.benchmarks.quality import differences

    def scores(first: float, second: float) -> dict[str, dict[str, float]]:
        return {
            "a": dict.fromkeys(classes.REGIONS, first),
            "b": {"WT": second, "TC": 0.0, "ET": 0.0},
        }

    ours = {0: scores(0.9, 0.6), 1: scores(0.7, 0.6)}
    theirs = {0: scores(0.5, 0.5), 1: scores(0.5, 0.5)}
    found = differences(ours, theirs)
    # Case a: (0.4 + 0.2) / 2 in each region; case b: 0.1 in WT and 0 elsewhere.
    assert found["WT"]["mean"] == pytest.approx(0.2)
    assert found["WT"]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert found["mean"]["mean"] == pytest.approx((0.3 + 0.1 / 3) / 2)
    low, high = found["WT"]["ci95"]
    # Student's t with one degree of freedom: 12.706 standard errors of 0.1.
    assert (low, high) == pytest.approx((0.2 - 1.2706, 0.2 + 1.2706), abs=1e-3)


def test_one_case_has_no_interval() -> None:
    from ray_brats.benchmarks.quality import differences

    one = {0: {"a": dict.fromkeys(classes.REGIONS, 0.5)}}
    assert differences(one, one)["ET"] == {"mean": 0.0, "sd": None, "ci95": None}


def test_the_peer_s_augmentation_moves_image_and_masks_together() -> None:
    from ray_brats.benchmarks.quality_peer import augmented

    rng = np.random.default_rng(0)
    label = rng.integers(0, classes.CLASS_COUNT, (4, 5, 6)).astype(np.uint8)
    image = np.repeat(label[..., None], 3, axis=-1).astype(np.float32)
    for seed in range(8):
        moved, masks = augmented(image, label, np.random.default_rng(seed))
        assert moved.shape == (3, 4, 5, 6)
        assert masks.shape == (3, 4, 5, 6)
        # Background stays zero, and the whole tumour is where the image is not background.
        assert np.array_equal(moved[0] != 0, masks[0] == 1)


@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.slow
def test_both_sides_learn_from_the_same_cases(cohort_folder: Path) -> None:
    if importlib.util.find_spec("monai") is None:
        pytest.skip("the peers are not installed (pip install -e '.[bench]')")
    done = subprocess.run(
        [
            sys.executable,
            "jobs/benchmark.py",
            "quality",
            str(cohort_folder),
            "--minutes=0.5",
            "--seeds=0",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    result = json.loads(done.stdout)
    assert set(result["mean_dice"]) == {"standard", "MONAI DynUNet"}
    assert all(row["steps"] > 0 for row in result["training"].values())
    assert set(result["difference"]) == {*classes.REGIONS, "mean"}
