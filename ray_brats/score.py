"""`score`: a cohort to masks, with Ray Data actors that keep the model loaded.

predictions/<case_id>.nii.gz    uint8, the input's shape and affine, the release's labels
predictions/<case_id>.json      the sidecar
predictions/scores.parquet      the ledger: one row a case
predictions/score.json          what made them; written last
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

import ray_brats
from ray_brats import config, engine, labels, ledger, storage
from ray_brats.cohort import Case, Cohort
from ray_brats.config import Recipe
from ray_brats.engine import Resources
from ray_brats.errors import UsageError
from ray_brats.ledger import Row, Work
from ray_brats.predict import STAGE_VERSION, Predictor
from ray_brats.volume import encode_mask

ACTOR_MEMORY_BYTES = 3 << 30
CPUS_AN_ACTOR = 2
"""Two cores share one forward pass well; more actors need more memory."""
COLUMNS = {
    "case_id": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "file": pa.string(),
    "attempts": pa.int64(),
    "seconds": pa.float64(),
    **{f"{region.lower()}_ml": pa.float64() for region in labels.REGIONS},
}

MakePredictor = Callable[[], Predictor]


def score(
    cohort: Cohort,
    predictions_uri: str,
    *,
    make_predictor: MakePredictor,
    identity: Mapping[str, Any],
    modalities: Sequence[str],
    release: str,
    there: Resources,
    workers: int | None = None,
) -> dict[str, Any]:
    """Segment every case that is not segmented yet.

    Args:
        cohort: the cases; its rejected rows enter the ledger.
        predictions_uri: where the masks go.
        make_predictor: called once in each actor.
        identity: what determines the masks besides the inputs: bundles by sha256, options.
        modalities: what the bundle reads.
        release: whose labels the masks carry, where the cohort's names do not tell.
        there: what the cluster offers.
        workers: actors; by default one a GPU, else one for two cores.

    Returns:
        A summary: `predictions`, `counts`, `processed`, `skipped`, `failures`.
    """
    chosen = cohort.release_or(release) or release
    work = [_work(case, predictions_uri, identity, modalities, chosen) for case in cohort.cases]
    finished, todo = ledger.split_finished(work, predictions_uri)
    actors = workers or there.gpus or max(1, there.cpus // CPUS_AN_ACTOR)
    actors = min(actors, max(1, len(todo)))
    options: dict[str, Any] = {"num_cpus": max(1, min(there.cpus // actors, there.node_cpus))}
    if there.gpus:
        options = {"num_cpus": 1, "num_gpus": 1}
    if options["num_cpus"] * actors > there.cpus:
        raise UsageError(f"--workers {workers}: the cluster has {there.cpus} CPUs")
    done = engine.map_cases(
        todo,
        Segment,
        title="score",
        options={**options, "memory": ACTOR_MEMORY_BYTES},
        actors=actors,
        arguments=(make_predictor, options["num_cpus"]),
    )
    rows = ledger.in_order([*finished, *done, *cohort.rejected])
    ledger.write_table(storage.join(predictions_uri, "scores.parquet"), rows, COLUMNS)
    description = {
        "identity": dict(identity),
        "release": chosen,
        "counts": ledger.counts(rows),
        "versions": {"ray_brats": ray_brats.__version__},
    }
    storage.write_json(storage.join(predictions_uri, "score.json"), description)
    return {
        "predictions": predictions_uri,
        "release": chosen,
        "counts": description["counts"],
        "processed": len(done),
        "skipped": len(finished),
        "failures": [row for row in rows if row["status"] != "ok"],
    }


def _work(
    case: Case,
    predictions_uri: str,
    identity: Mapping[str, Any],
    modalities: Sequence[str],
    release: str,
) -> Work:
    inputs = {kind: etag for kind, etag in case.inputs(modalities).items() if kind != "seg"}
    key = config.fingerprint(inputs, dict(identity), {"release": release, "stage": STAGE_VERSION})
    sidecar = storage.join(predictions_uri, f"{case.case_id}.json")
    payload = {"case": case.as_row(), "release": release}
    return Work(case_id=case.case_id, sidecar_uri=sidecar, key=key, payload=payload)


class Segment:
    """The actor: keeps a Predictor; reads, segments and writes one case a call."""

    def __init__(self, make_predictor: MakePredictor, threads: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._predictor = make_predictor()

    def __call__(self, row: Mapping[str, str]) -> dict[str, str]:
        """One status row for one flat row."""
        began = time.monotonic()
        result, files = engine.attempt(row["case_id"], lambda: self._segment(row))
        result |= {"attempts": 1, "seconds": round(time.monotonic() - began, 3)}
        ledger.finish(row["sidecar_uri"], row["key"], result, files)
        return {"row": json.dumps(result)}

    def _segment(self, row: Mapping[str, str]) -> tuple[Row, list[str]]:
        payload = json.loads(row["payload"])
        prediction = self._predictor.segment(Case.from_row(payload["case"]))
        volumes_ml = prediction.region_ml()
        raw = labels.from_class_index(prediction.mask_native, payload["release"])
        target = f"{row['sidecar_uri'].removesuffix('.json')}.nii.gz"
        storage.write_bytes(target, encode_mask(raw, prediction.geometry))
        volumes = {f"{name.lower()}_ml": round(value, 6) for name, value in volumes_ml.items()}
        result = {"case_id": row["case_id"], "status": "ok", "reason": "", "file": "", **volumes}
        return result, [f"{row['case_id']}.nii.gz"]


def describe_bundles(cards: Sequence[Mapping[str, Any]]) -> tuple[Recipe, str]:
    """Recipe and label release of the first of several bundle cards."""
    recipe = config.from_json(Recipe, cards[0]["recipe"])
    release = cards[0].get("release") or "brats2023"
    return recipe, release
