"""The folder of predictions: one spelling of its names, and masks that nobody makes twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.preprocess import preprocess_case
from ray_brats.errors import UsageError
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import CaseRow
from ray_brats.model import predictions
from ray_brats.model.predictions import Predictions
from ray_brats.recipes import named

SMOKE = named.get("smoke").preprocess
KINDS = ("t1ce", "t2", "flair", "seg")
CASE = Case(
    case_id="a",
    patient_id="p",
    images={kind: f"s3://b/a_{kind}.nii.gz" for kind in KINDS[:3]},
    segmentation="s3://b/a_seg.nii.gz",
    etags={f"s3://b/a_{kind}.nii.gz": kind for kind in KINDS},
)


def folder(uri: str, release: str = "brats2020") -> Predictions:
    return Predictions(uri=uri, identity={"bundles": ["b"]}, preprocessing=SMOKE, release=release)


def test_masks_count_as_made_until_the_version_of_their_stage_changes() -> None:
    """Another key would make every mask anew: this one is that of version 3."""
    item = folder("s3://out").work_of(CASE)
    assert item.key == "22a3dbb4968c22bb59cc339de52f7ccc"
    assert (item.sidecar_uri, item.outputs) == ("s3://out/a.json", ("a.nii.gz",))
    assert predictions.release_of(item) == "brats2020"
    assert predictions.case_of(item).images == CASE.images


def test_what_a_mask_depends_on_changes_its_key_and_nothing_else_does() -> None:
    item = folder("s3://out").work_of(CASE)
    other = {**CASE.etags, "s3://b/a_t2.nii.gz": "new"}
    assert folder("s3://out").work_of(dataclasses.replace(CASE, etags=other)).key != item.key
    assert folder("s3://out", "brats2023").work_of(CASE).key != item.key
    reference = dataclasses.replace(CASE, segmentation=None)
    assert folder("s3://elsewhere").work_of(reference).key == item.key


def test_masks_right_in_a_folder_are_found_by_case(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii", "a.json", "older/c.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"m")
    masks = predictions.find_masks(str(tmp_path))
    assert {case_id: file.uri for case_id, file in masks.items()} == {
        "a": str(tmp_path / predictions.mask_name("a"))
    }
    with pytest.raises(UsageError, match="holds no <case_id>"):
        predictions.find_masks(str(tmp_path / "absent"))


def test_a_mask_is_written_with_its_volumes(one_case: Path, tmp_path: Path) -> None:
    (case,) = cohorts.find(str(one_case)).cases
    geometry: Geometry = preprocess_case(case, SMOKE).geometry
    index = np.zeros(geometry.crop(np.zeros(geometry.canonical_shape)).shape, np.uint8)
    index[:10, 0, 0] = 2
    item = folder(str(tmp_path)).work_of(case)
    row, files = predictions.save(item, index, geometry)
    assert files == [f"{case.case_id}.nii.gz"]
    assert row.facts == {"wt_ml": round(10 * geometry.voxel_ml, 6), "tc_ml": 0, "et_ml": 0}
    content = storage.read_bytes(f"{tmp_path}/{files[0]}")
    again = predictions.put(item, content, {"WT": 1.23456789, "TC": 0.5, "ET": 0.0})
    facts = {"wt_ml": 1.234568, "tc_ml": 0.5, "et_ml": 0.0}
    assert again == (CaseRow(case_id=case.case_id, facts=facts), files)


def test_the_ledger_holds_every_case_and_what_made_the_masks(tmp_path: Path) -> None:
    rejected = CaseRow(case_id="0", status="rejected", reason="two files", file="x")
    cohort = Cohort(uri="x", cases=(CASE,), rejected=(rejected,))
    target = folder(str(tmp_path))
    assert target.split_finished(cohort) == ([], [target.work_of(CASE)])
    row = CaseRow(case_id="a", facts={"wt_ml": 1.0})
    summary = target.conclude(cohort, [], [row])
    assert summary.counts == {"ok": 1, "rejected": 1}
    assert (summary.processed, summary.skipped) == (1, 0)
    assert list(summary.failures) == [rejected]
    table = ledger.read_table(f"{tmp_path}/scores.parquet")
    assert [(row["case_id"], row["wt_ml"]) for row in table] == [("0", None), ("a", 1.0)]
    assert pq.read_schema(tmp_path / "scores.parquet").names == list(predictions.COLUMNS)
    told = storage.read_json(f"{tmp_path}/score.json")
    assert (told["identity"], told["release"]) == ({"bundles": ["b"]}, "brats2020")
