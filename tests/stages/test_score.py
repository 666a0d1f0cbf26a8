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

from ray_brats import arrays
from ray_brats.cases import cohort
from ray_brats.engine import capacity, cluster, mapping
from ray_brats.engine.cluster import Resources
from ray_brats.errors import UsageError
from ray_brats.files import ledger
from ray_brats.files.ledger import CaseRow
from ray_brats.model.predictions import Predictions, ScoreSummary
from ray_brats.recipes import named, tasks
from ray_brats.stages import score, steps

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
def test_cheap_cases_share_blocks_and_long_cohorts_go_in_chunks(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"case{number:02d}" for number in range(30)]
    write_cases(tmp_path / "cohort", names)
    for name, value in (
        ("LONG", 14),
        ("CHUNK", 14),
        ("CHEAP_CHUNK", 14),
        ("PROBE", 4),
        ("CHEAP_SECONDS", 1e9),
    ):
        monkeypatch.setattr(score, name, value)
    taken: list[tuple[str, int]] = []

    def watched(name: str) -> Any:
        real = getattr(score, name)

        def spy(work: Any, *rest: Any) -> Any:
            taken.append((name, len(work)))
            return real(work, *rest)

        return spy

    for name in ("_pipeline", "_shared_blocks"):
        monkeypatch.setattr(score, name, watched(name))
    summary = run(tmp_path / "cohort", tmp_path / "out", names)
    assert summary.counts == {"ok": 30}
    assert taken == [("_pipeline", 4), ("_shared_blocks", 14), ("_shared_blocks", 12)]
    assert sorted(table(tmp_path / "out")) == names
    masks = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.nii.gz")}
    monkeypatch.setattr(score, "CHEAP_SECONDS", 0)
    run(tmp_path / "cohort", tmp_path / "again", names)
    assert taken[3:] == [("_pipeline", 4), ("_pipeline", 14), ("_pipeline", 12)]
    for name, mask in masks.items():
        assert (tmp_path / "again" / name).read_bytes() == mask


@pytest.mark.parametrize(
    ("row", "ways"),
    [
        (CaseRow(case_id="", seconds=0.01), ["_pipeline", "_shared_blocks", "_shared_blocks"]),
        (CaseRow(case_id="", seconds=5.0), ["_pipeline", "_pipeline", "_pipeline"]),
        (
            CaseRow(case_id="", status="rejected", seconds=0.0),
            ["_pipeline", "_pipeline", "_pipeline"],
        ),
    ],
)
def test_only_what_was_segmented_tells_how_dear_a_case_is(
    monkeypatch: pytest.MonkeyPatch, row: CaseRow, ways: list[str]
) -> None:
    taken: list[str] = []

    def stand_in(name: str) -> Any:
        def way(parcels: Any, *_: Any) -> Any:
            taken.append(name)
            return (dataclasses.replace(row, case_id=parcel.work.case_id) for parcel in parcels)

        return way

    for name in ("_pipeline", "_shared_blocks"):
        monkeypatch.setattr(score, name, stand_in(name))
    for name in ("LONG", "CHUNK", "CHEAP_CHUNK"):
        monkeypatch.setattr(score, name, 10)
    monkeypatch.setattr(score, "PROBE", 4)
    work = [
        ledger.Work(case_id=f"{n:02d}", sidecar_uri=f"/x/{n}.json", key="k", payload={})
        for n in range(20)
    ]
    plan = capacity.for_scoring(resources(), None, len(work))
    frame = steps.Frame(preprocessing=PREPROCESSING, limit_seconds=1)
    rows = list(score.stream(work, frame, plan, lambda threads: Troubled([], Path())))
    assert [row.case_id for row in rows] == [item.case_id for item in work]
    assert taken == ways


@pytest.mark.ray
def test_in_shared_blocks_a_death_costs_one_case(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"case{number:02d}" for number in range(12)]
    names[6], names[8], names[10] = "dies_once", "poison", "raises"
    write_cases(tmp_path / "cohort", names)
    monkeypatch.setattr(score, "LONG", 4)
    monkeypatch.setattr(score, "PROBE", 2)
    monkeypatch.setattr(score, "CHEAP_SECONDS", 1e9)
    monkeypatch.setattr(mapping, "MAX_BLOCKS", 1)
    # The cohort is sorted by name: what is in trouble is in the shared block, behind others.
    order = sorted(names)
    summary = run(tmp_path / "cohort", tmp_path / "out", names)
    assert order[:2] == ["case00", "case01"]
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
    one = [plan.read, plan.segment, plan.write]
    assert sum(step["memory"] for step in one) <= there.node_memory_bytes
    assert sum(step["num_cpus"] for step in one) <= there.node_cpus
    assert plan.actors * plan.segment["num_cpus"] < there.cpus, "room for reading is left"
    assert plan.whole["memory"] <= there.node_memory_bytes
    assert 1 <= plan.whole_actors <= there.cpus
    assert plan.whole_actors * plan.whole["memory"] <= max(there.memory_bytes, plan.whole["memory"])
    assert plan.threads >= 1
    if there.gpus and not workers:
        assert plan.actors == there.gpus
    if there.cpus == 64 and not workers:
        assert plan.actors == 32


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("workers", [None, 1])
def test_what_ray_data_sets_aside_leaves_cpus_for_writing(cpus: int, workers: int | None) -> None:
    """By the rule of its ReservationOpResourceAllocator, which serves the first steps first."""
    there = resources(cpus=cpus, node_cpus=cpus, memory_bytes=1 << 40, node_memory_bytes=1 << 40)
    plan = capacity.for_scoring(there, workers, 1000)
    read, write = plan.read["num_cpus"], plan.write["num_cpus"]
    held = plan.actors * plan.segment["num_cpus"]
    # After some seconds the cluster counts for what the steps ask for, and no more.
    for limit in (cpus, read + held + write):
        part = plan.reservation * limit / 3
        left = limit - max(read, part) - max(held, part)
        assert left >= max(write, part) - 1e-9


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match="--workers 3"):
        capacity.for_scoring(resources(), 3, 10)
    assert capacity.for_scoring(resources(), 2, 10).actors == 2
    assert capacity.for_scoring(resources(), 2, 1).actors == 1


def test_a_parcel_crosses_as_it_is() -> None:
    payload = {"p": [1]}
    work = ledger.Work(case_id="a", sidecar_uri="/x/a.json", key="k", payload=payload, stale=["b"])
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)[:, ::-1]
    parcel = steps.Parcel(work=work, array=array, attempts=2, seconds=1.5)
    empty = steps.Parcel(work=work, row=CaseRow(case_id="a", status="error", reason="r"))
    back = steps.Parcel.from_table(parcel.as_table())
    assert (back.array == array).all()
    assert (back.work, back.attempts, back.seconds) == (work, 2, 1.5)
    assert steps.Parcel.from_table(empty.as_table()) == empty
