"""`score` with stand-ins for the model: every case one row, whatever befalls it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats import arrays
from ray_brats.cases import cohort
from ray_brats.engine import capacity, cluster
from ray_brats.engine.cluster import Resources
from ray_brats.errors import StageFailed, UsageError
from ray_brats.files import ledger
from ray_brats.model.predictions import Predictions, ScoreSummary
from ray_brats.recipes import named, tasks
from ray_brats.stages import score

PREPROCESSING = named.get("smoke").preprocess
FIRST_SIDE = 10
"""Sides of the cases along the first axis tell them apart, once they are arrays."""


def write_cases(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        shape = (FIRST_SIDE + number, 12, 14)
        (folder / name).mkdir(parents=True)
        for kind in PREPROCESSING.modalities:
            voxels = np.where(arrays.ellipsoid(shape), rng.integers(1, 500, shape), 0)
            image = nib.Nifti1Image(voxels.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
            nib.save(image, folder / name / f"{name}_{kind}.nii.gz")


class Troubled:
    """Does what a case is called; otherwise every bright voxel is edema."""

    def __init__(self, names: list[str], calls: Path) -> None:
        self.names, self.calls = names, calls

    def class_index(self, image: np.ndarray, _: object = None) -> np.ndarray:
        name = self.names[image.shape[0] - FIRST_SIDE]
        calls = self.calls / name
        calls.write_text((calls.read_text() if calls.exists() else "") + "x")
        if name == "hang":
            import ctypes

            ctypes.PyDLL(None).sleep(600)  # in native code, and it keeps the GIL
        if name == "poison" or (name == "dies_once" and calls.stat().st_size == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "raises":
            raise RuntimeError("no such luck")
        return (image[..., 0] > 0).astype(np.uint8) * 2


def run(folder: Path, out: Path, names: list[str], **options: Any) -> ScoreSummary:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    calls = out.parent / "calls"
    calls.mkdir(exist_ok=True)
    with cluster.running() as there:
        return score.score(
            cohort.find(str(folder), task=tasks.TASKS["gli-2020"]),
            Predictions(
                uri=str(out),
                identity={"bundles": ["b"]},
                preprocessing=PREPROCESSING,
                task=tasks.TASKS["gli-2020"],
            ),
            make_segmenter=lambda threads: Troubled(names, calls),
            cluster=there,
            **options,
        )


def table(out: Path) -> dict[str, dict[str, Any]]:
    return {row["case_id"]: row for row in ledger.read_table(str(out / "scores.parquet"))}


@pytest.fixture
def ray() -> Iterator[None]:
    with cluster.running():
        yield


@pytest.mark.ray
def test_deaths_hangs_and_bad_files_are_rows_and_the_others_are_done(
    ray: None, tmp_path: Path
) -> None:
    names = ["good", "dies_once", "poison", "hang", "bad", "raises", "last"]
    write_cases(tmp_path / "cohort", names)
    damaged = tmp_path / "cohort/bad/bad_t2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    out = tmp_path / "out"
    out.mkdir()
    earlier = b"of an earlier version of the case"
    (out / "bad.nii.gz").write_bytes(earlier)
    sidecar = {"key": "old", "row": {"case_id": "bad"}, "files": {"bad.nii.gz": len(earlier)}}
    (out / "bad.json").write_text(json.dumps(sidecar))
    began = time.monotonic()
    summary = run(tmp_path / "cohort", out, names, limit_seconds=20)
    assert time.monotonic() - began < 300, "the limit was not kept"
    rows = table(out)
    status = {name: row["status"] for name, row in rows.items()}
    assert status == dict.fromkeys(names, "ok") | {
        "poison": "error",
        "hang": "error",
        "bad": "rejected",
        "raises": "error",
    }
    assert summary.counts == {"error": 3, "ok": 3, "rejected": 1}
    assert "died 2 times" in rows["poison"]["reason"]
    assert "longer than 20 s" in rows["hang"]["reason"]
    assert "no such luck" in rows["raises"]["reason"]
    assert rows["bad"]["file"].endswith("bad_t2.nii.gz")
    attempts = {name: row["attempts"] for name, row in rows.items()}
    assert attempts == dict.fromkeys(names, 1) | {"dies_once": 2, "poison": 2}
    assert all(row["seconds"] > 0 for row in rows.values() if row["status"] == "ok")
    calls = {path.name: path.stat().st_size for path in (tmp_path / "calls").iterdir()}
    assert calls == {name: attempts[name] for name in names if name != "bad"}
    masks = {path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz")}
    assert masks == {name for name in names if status[name] == "ok"}
    image = nib.load(out / "good.nii.gz")
    voxels = np.asarray(image.dataobj)
    assert voxels.dtype == np.uint8
    assert rows["good"]["wt_ml"] == pytest.approx(np.count_nonzero(voxels) / 1000)

    again = run(tmp_path / "cohort", out, ["fine"] * len(names), limit_seconds=60)
    assert (again.processed, again.skipped) == (3, 4), "errors are tried again, nothing else"
    assert again.counts == {"ok": 6, "rejected": 1}
    assert {path.suffix for path in out.iterdir()} == {".json", ".gz", ".parquet"}


@pytest.mark.ray
def test_cases_share_blocks_and_a_death_costs_those_in_work(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"case{number:02d}" for number in range(12)]
    names[6], names[8], names[10] = "dies_once", "poison", "raises"
    write_cases(tmp_path / "cohort", names)
    monkeypatch.setattr(score, "BLOCKS_AN_ACTOR", 2)
    assert score.together(12, 1) == 6
    summary = run(tmp_path / "cohort", tmp_path / "out", names)
    assert summary.counts == {"error": 2, "ok": 10}
    rows = table(tmp_path / "out")
    assert "died 2 times" in rows["poison"]["reason"]
    assert "no such luck" in rows["raises"]["reason"]
    attempts = {name: row["attempts"] for name, row in rows.items()}
    assert attempts == dict.fromkeys(names, 1) | {"dies_once": 2, "poison": 2}
    calls = {path.name: path.stat().st_size for path in (tmp_path / "calls").iterdir()}
    assert calls == attempts, "what was finished is not done again"
    again = run(tmp_path / "cohort", tmp_path / "out", ["fine"] * len(names))
    assert (again.processed, again.skipped) == (2, 10)


@pytest.mark.ray
@pytest.mark.parametrize("error", [UsageError("--bundle x: no such bundle"), ValueError("a bug")])
def test_an_actor_that_cannot_start_stops_the_stage_with_its_reason(
    ray: None, tmp_path: Path, error: Exception
) -> None:
    def fails(_: int) -> Any:
        raise error

    write_cases(tmp_path / "cohort", ["a"])
    target = Predictions(
        uri=str(tmp_path / "out"),
        identity={},
        preprocessing=PREPROCESSING,
        task=tasks.TASKS["gli-2020"],
    )
    with pytest.raises((UsageError, StageFailed), match=str(error)):
        score.score(
            cohort.find(str(tmp_path / "cohort"), task=tasks.TASKS["gli-2020"]),
            target,
            make_segmenter=fails,
            cluster=cluster.resources(),
        )


@given(cases=st.integers(1, 10**6), actors=st.integers(1, 1000))
def test_blocks_are_small_enough_that_all_actors_end_together(cases: int, actors: int) -> None:
    size = score.together(cases, actors)
    assert 1 <= size <= score.MOST_TOGETHER
    assert size == 1 or cases // size >= actors * score.BLOCKS_AN_ACTOR


def resources(**values: int) -> Resources:
    there = {"cpus": 2, "gpus": 0, "node_cpus": 2, "nodes": 1}
    memory = {"node_memory_bytes": 16 << 30, "memory_bytes": 16 << 30}
    every = there | memory | values
    shapes = ((every["node_cpus"], every["gpus"] // every["nodes"]),) * every["nodes"]
    return Resources(**every, shapes=shapes)


@pytest.mark.parametrize(
    "there",
    [
        resources(),
        resources(cpus=1, node_cpus=1),
        resources(cpus=64, node_cpus=16, memory_bytes=256 << 30, nodes=4),
        resources(node_memory_bytes=2 << 30, memory_bytes=2 << 30),
        resources(cpus=16, node_cpus=8, gpus=2, memory_bytes=64 << 30, nodes=2),
    ],
)
@pytest.mark.parametrize("workers", [None, 1])
def test_a_worker_and_the_tasks_beside_it_fit_a_node(there: Resources, workers: int | None) -> None:
    plan = capacity.for_scoring(there, workers, 1000)
    assert plan.actors >= 1
    assert plan.most == plan.actors, "nobody joins a Ray of one machine"
    assert plan.actor["memory"] <= there.node_memory_bytes
    assert plan.actor["num_cpus"] <= there.node_cpus
    assert plan.actors * plan.actor["num_cpus"] <= there.cpus
    assert plan.threads >= 1
    assert plan.readers >= 1
    if there.gpus and not workers:
        assert plan.actors == there.gpus
    if there.cpus == 64 and not workers:
        assert plan.actors == 32


def test_where_nodes_may_join_the_pool_grows_with_them() -> None:
    there = dataclasses.replace(resources(), joined=True)
    plan = capacity.for_scoring(there, None, 1000)
    assert (plan.actors, plan.most) == (1, None)
    # As many as were asked for, and as there is room for now at the start.
    plan = capacity.for_scoring(there, 8, 1000)
    assert (plan.actors, plan.most) == (2, 8)
    plan = capacity.for_scoring(there.asked_for("gpu"), None, 1000)
    assert (plan.actors, plan.most, plan.actor["num_gpus"]) == (1, None, 1.0)


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match="--workers 3"):
        capacity.for_scoring(resources(), 3, 10)
    assert capacity.for_scoring(resources(), 2, 10).actors == 2
    assert capacity.for_scoring(resources(), 2, 1).actors == 1
