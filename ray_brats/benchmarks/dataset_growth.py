"""`benchmark growth_preprocess`: what a case costs besides its voxels, and the driver's memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ray_brats import arrays
from ray_brats.benchmarks import measure
from ray_brats.cases import cohort as cohorts
from ray_brats.engine import cluster
from ray_brats.recipes import named
from ray_brats.stages import preprocess

_SIDE_VOX = 8


def growth(*, cases: int = 10_000) -> dict[str, Any]:
    """Preprocess many tiny cases: wall milliseconds a case, and the driver's memory.

    Args:
        cases: How many; each has three modalities of 8³ voxels.
    """
    with tempfile.TemporaryDirectory(prefix="ray-brats-growth-") as folder, cluster.running():
        _write_tiny(Path(folder) / "cohort", cases)
        small = _prepare(folder, "small", cases // 10)
        began, memory = time.monotonic(), measure.Watch()
        with memory:
            counts = _prepare(folder, "all", cases)
        seconds = time.monotonic() - began
    return {
        "measured": {
            "wall ms a case": round(1000 * seconds / cases, 2),
            "driver MiB after a tenth": round(memory.at(0.1)),
            "driver MiB at the most": round(max(memory.mib)),
        },
        "ratios": {
            "growth_preprocess_ms_per_case": measure.ratio(1000 * seconds, cases),
            "growth_preprocess_driver_gib": measure.ratio(max(memory.mib), 1024),
        },
        "cases": cases,
        "counts": counts,
        "counts_of_a_tenth": small,
    }


def _prepare(folder: str, name: str, cases: int) -> dict[str, int]:
    cohort = cohorts.find(f"{folder}/cohort")
    summary = preprocess.preprocess(
        cohort, cohort.cases[:cases], f"{folder}/{name}", named.get("standard")
    )
    return dict(summary.counts or {})


def _write_tiny(folder: Path, cases: int) -> None:
    random = np.random.default_rng(0)
    affine = np.diag([-1.0, -1, 1, 1])
    brain = arrays.ellipsoid([_SIDE_VOX] * 3)
    images = [
        nib.Nifti1Image(
            np.where(brain, random.integers(1, 99, brain.shape), 0).astype(np.int16), affine
        ).to_bytes()
        for _ in range(3)
    ]
    for number in range(cases):
        case = f"BraTS2021_{number:05}"
        (folder / case).mkdir(parents=True)
        for kind, content in zip(("t1ce", "t2", "flair"), images, strict=True):
            (folder / case / f"{case}_{kind}.nii").write_bytes(content)
