"""`benchmark.py growth`: a long manifest and a Predictor that does nothing."""

from __future__ import annotations

import csv
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.benchmarks import measure
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import phantom
from ray_brats.engine import cluster
from ray_brats.labels import LabelMap
from ray_brats.model.predictions import Predictions
from ray_brats.recipes import named, tasks
from ray_brats.stages import score as stage


class NoPredictor:
    """Background everywhere: what remains is the cost of moving a case through."""

    def class_index(self, image_HWDC: Any, geometry: Any = None) -> LabelMap:
        """Zeros on the grid of the image."""
        return np.zeros(image_HWDC.shape[:3], np.uint8)


def growth(*, rows: int = 100_000, side: int = 32) -> dict[str, Any]:
    """Score a manifest whose rows all name one tiny phantom: driver memory, overhead a case.

    Args:
        rows: Rows of the manifest.
        side: Side of the phantom in voxels; it is read, and its mask written, for each row.
    """
    with tempfile.TemporaryDirectory(prefix="ray-brats-growth-") as name:
        manifest = write_manifest(Path(name), rows, (side, side, side))
        memory, began = measure.Watch(), time.monotonic()
        with memory:
            cohort = cohorts.find(str(manifest), task=tasks.TASKS["gli-2020"])
            finding_seconds = time.monotonic() - began
            with cluster.running() as resources:
                summary = stage.score(
                    cohort,
                    Predictions(
                        uri=f"{name}/predictions",
                        identity={},
                        preprocessing=named.get("smoke").preprocess,
                        task=tasks.TASKS["gli-2020"],
                    ),
                    make_segmenter=lambda threads: NoPredictor(),
                    cluster=resources,
                )
        seconds = time.monotonic() - began
    return {
        "measured": {
            "wall ms a case": round(1000 * seconds / rows, 2),
            "of these to find it": round(1000 * finding_seconds / rows, 2),
            "driver MiB after a fifth": round(memory.at(0.2)),
            "driver MiB at the end": round(memory.at(1.0)),
        },
        "ratios": {
            "growth_ms_per_case": measure.ratio(1000 * seconds, rows),
            "growth_driver_gib": measure.ratio(max(memory.mib), 1024),
        },
        "rows": rows,
        "counts": summary.counts,
        "cores": os.cpu_count(),
        "driver_mib_over_time": [round(memory.at(share / 20)) for share in range(21)],
    }


def write_manifest(folder: Path, rows: int, shape_vox: tuple[int, int, int]) -> Path:
    """A CSV of so many cases, which all name the files of one phantom."""
    (case_id,) = phantom.write_cohort(folder / "cohort", cases=1, shape_vox=shape_vox)
    kinds = named.get("smoke").preprocess.modalities
    files = [f"cohort/{case_id}/{case_id}_{kind}.nii.gz" for kind in kinds]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", *kinds])
        writer.writerows([f"case{number:06d}", *files] for number in range(rows))
    return folder / "manifest.csv"
