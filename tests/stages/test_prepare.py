"""`prepare` on a real Ray: raw studies to a cohort, a row each; and masks that go home from it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import heads
import nibabel as nib
import numpy as np
import pytest
from commands.test_cli import called
from scipy import ndimage

from ray_brats.arrays import Array
from ray_brats.cases import cohort, inspection
from ray_brats.cases.raw import placed, record
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.commands import masks
from ray_brats.commands.masks import ScoreOptions
from ray_brats.engine import cluster
from ray_brats.files import ledger, storage
from ray_brats.model import card
from ray_brats.model.predict import Predictor
from ray_brats.recipes import named
from ray_brats.stages import prepare as preparing
from ray_brats.stages import score as stage

pytestmark = pytest.mark.ray
pytest.importorskip("SimpleITK")

SMOKE = named.get("smoke")
STUDIES = {
    "SECRET-A": ("t1ce", "t2", "flair"),
    "SECRET-B": ("t1ce", "flair"),
    "SECRET-C": ("t1ce", "flair"),
    "SECRET-D": (),
}
"""C is cut short, and nothing tells what D is."""
SCAN = "caf\udce9"
SHAPE_VOX = (135, 160, 133)
"""Of the box of a T1CE in voxels of 1 mm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call of `prepare`."""

    status: int
    summary: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with cluster.running():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw studies, and masks of their brains."""
    folder = tmp_path_factory.mktemp("prepare")
    for number, (name, modalities) in enumerate(STUDIES.items(), start=1):
        heads.write_study(folder / "raw" / name, number, modalities)
        heads.write_mask(folder / "masks" / f"{name}_brain.nii.gz", number)
    cut = folder / "raw/SECRET-C/t1ce.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-2000])
    heads.write_study(folder / "raw/SECRET-D", 4, ["t1"])
    (folder / "raw/SECRET-D/t1.nii.gz").rename(folder / f"raw/SECRET-D/{SCAN}.nii.gz")
    return folder


def prepare(folder: Path, out: Path, *options: str) -> Call:
    given = ("--space", "patient", "--brain-masks", folder / "masks", "--json")
    done = called("prepare", folder / "raw", out, *given, *options)
    return Call(status=done.returncode, summary=json.loads(done.stdout), said=done.stderr)


@pytest.fixture(scope="module")
def prepared(ray: None, folder: Path) -> Call:
    return prepare(folder, folder / "cohort", "--key", str(folder / "key.csv"))


@pytest.fixture(scope="module")
def case_ids(prepared: Call, folder: Path) -> dict[str, str]:
    """Study to case."""
    lines = (folder / "key.csv").read_text().splitlines()[1:]
    return {study: case_id for case_id, study, _ in (line.split(",") for line in lines)}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    """When each study was done."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/done.json")}


def test_every_study_is_a_row_and_bad_ones_have_a_sentence(
    prepared: Call, folder: Path, case_ids: dict[str, str]
) -> None:
    summary = prepared.summary
    assert (prepared.status, summary["counts"]) == (1, {"ok": 2, "rejected": 2})
    assert (summary["processed"], summary["skipped"]) == (4, 0)
    rows = {
        row["case_id"]: row for row in ledger.read_table(str(folder / "cohort/prepare.parquet"))
    }
    assert [*rows] == sorted(case_ids.values())
    found = {study: rows[case_id] for study, case_id in case_ids.items()}
    assert found["SECRET-A"]["modalities"] == "t1ce,t2,flair"
    assert found["SECRET-B"]["modalities"] == "t1ce,flair"
    for study in ("SECRET-A", "SECRET-B"):
        assert (found[study]["status"], found[study]["reference"]) == ("ok", "t1ce")
        assert 800 < found[study]["brain_ml"] < 1200
    assert (found["SECRET-C"]["status"], found["SECRET-D"]["status"]) == ("rejected",) * 2
    assert found["SECRET-C"]["reason"].startswith("t1ce: truncated")
    assert "no series is T1, T1 with contrast" in found["SECRET-D"]["reason"]
    assert "caf\ufffd" in found["SECRET-D"]["reason"]
    failures = {row["case_id"]: row["reason"] for row in summary["failures"]}
    assert failures == {
        case_ids[study]: found[study]["reason"] for study in ("SECRET-C", "SECRET-D")
    }


def test_what_is_prepared_is_a_cohort_as_brats_has_it(
    prepared: Call, folder: Path, case_ids: dict[str, str]
) -> None:
    out = folder / "cohort"
    found = cohort.find(str(out))
    images = {case.case_id: sorted(case.images) for case in found.cases}
    assert images == {case_ids[study]: sorted(STUDIES[study]) for study in ("SECRET-A", "SECRET-B")}
    assert (list(found.rejected), found.passed_over, found.notes) == ([], (), ())
    assert [case.patient_id for case in found.cases] == [name.split("_")[0] for name in images]
    for case in found.cases:
        assert sorted(path.name for path in (out / case.case_id).iterdir()) == sorted(
            [
                *(f"{case.case_id}_{modality}.nii.gz" for modality in case.images),
                "done.json",
                "prepare.jpg",
                "prepare.json",
            ]
        )
        config = dataclasses.replace(SMOKE.preprocess, modalities=tuple(case.images))
        assert inspection.check_case(case, config, deep=True).status == "ok"
        scans = [nib.load(uri) for uri in case.images.values()]
        assert {scan.shape for scan in scans} == {SHAPE_VOX}
        assert {scan.get_data_dtype() for scan in scans} == {np.dtype(np.int16)}
        assert nib.aff2axcodes(scans[0].affine) == ("L", "P", "S")
        filled = [np.asarray(scan.dataobj) > 0 for scan in scans]
        assert all((other == filled[0]).mean() > 0.99 for other in filled)
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "prepare.parquet",
        "prepare.html",
        "prepared.json",
    }


def test_the_series_of_a_study_were_brought_together(
    prepared: Call, folder: Path, case_ids: dict[str, str]
) -> None:
    for number, study in ((1, "SECRET-A"), (2, "SECRET-B")):
        uri = folder / "cohort" / case_ids[study] / "prepare.json"
        told = record.from_json(json.loads(uri.read_text()), str(uri))
        assert (told.reference, told.space) == ("t1ce", "patient")
        assert told.options["space"] == "patient"
        of = heads.head(number)
        for modality, item in told.series.items():
            true = np.linalg.inv(heads.motion_of(of, modality))
            between = np.array(item.motion) @ np.linalg.inv(true)
            middle = heads.middle_mm(of)[None]
            apart = placed.moved(between, middle) - middle
            assert placed.rotation_deg(between) < 1
            assert np.linalg.norm(apart) < 1


def test_the_page_shows_what_was_prepared_and_tells_the_rest(
    prepared: Call, folder: Path, case_ids: dict[str, str]
) -> None:
    text = (folder / "cohort/prepare.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 2
    assert all(case_id in text for case_id in case_ids.values())
    assert "2 case(s) prepared" in text
    assert "t1ce: t1ce · flair: flair · t2: t2</p>" in text
    assert "2 could not be prepared" in text
    assert "truncated" in text
    assert f"look at {folder}/cohort/prepare.html before you trust them" in prepared.said


def test_who_was_scanned_is_told_nowhere_but_in_the_key(prepared: Call, folder: Path) -> None:
    for name, content in contents(folder / "cohort").items():
        assert "SECRET" not in name
        assert b"SECRET" not in content, name
    assert "SECRET" not in prepared.said
    assert "SECRET" not in json.dumps(prepared.summary)


def test_the_same_call_again_does_nothing(prepared: Call, folder: Path) -> None:
    out = folder / "cohort"
    before, done = contents(out), times(out)
    again = prepare(folder, out)
    assert again.status == 1
    assert (again.summary["processed"], again.summary["skipped"]) == (0, 4)
    assert again.summary["failures"] == prepared.summary["failures"]
    assert (contents(out), times(out)) == (before, done)


def test_a_study_that_was_touched_is_redone_alone(
    prepared: Call, folder: Path, tmp_path: Path, case_ids: dict[str, str]
) -> None:
    out = tmp_path / "cohort"
    shutil.copytree(folder / "cohort", out)
    before, done = contents(out), times(out)
    touched = folder / "raw/SECRET-B/flair.nii.gz"
    was = touched.stat()
    os.utime(touched, ns=(was.st_atime_ns, was.st_mtime_ns + 10**9))
    again = prepare(folder, out)
    os.utime(touched, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (again.summary["processed"], again.summary["skipped"]) == (1, 3)
    changed = {name for name, time in times(out).items() if time != done[name]}
    assert changed == {case_ids["SECRET-B"]}
    after = contents(out)
    sidecar = f"{case_ids['SECRET-B']}/done.json"
    assert {name for name in before if after[name] != before[name]} == {sidecar}


def test_another_option_redoes_all_and_another_place_nothing(
    prepared: Call, folder: Path, tmp_path: Path, case_ids: dict[str, str]
) -> None:
    out = tmp_path / "cohort"
    for name in ("raw", "masks", "cohort"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.rmtree(tmp_path / "raw/SECRET-A")
    again = prepare(tmp_path, out)
    assert (again.summary["processed"], again.summary["skipped"]) == (0, 3)
    other = f"warning: {out} holds 1 other case(s) ({case_ids['SECRET-A']}): they are of no study"
    assert other in again.said
    assert "other case(s)" not in prepared.said
    # An outline that somebody corrected, of a study that is bad all the same.
    os.utime(tmp_path / "masks/SECRET-C_brain.nii.gz", (5, 5))
    again = prepare(tmp_path, out)
    assert (again.summary["processed"], again.summary["skipped"]) == (1, 2)
    again = prepare(tmp_path, out, "--keep-skull")
    assert (again.summary["processed"], again.summary["skipped"]) == (3, 0)
    assert again.summary["counts"] == {"ok": 1, "rejected": 2}
    name = f"{case_ids['SECRET-B']}/{case_ids['SECRET-B']}_t1ce.nii.gz"
    skull, brain = (nib.load(place / name).get_fdata() for place in (out, folder / "cohort"))
    assert np.count_nonzero(skull) > 1.2 * np.count_nonzero(brain)
    assert (skull[brain > 1] == brain[brain > 1]).all()


def other_cases(uri: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a call of one study says of a cohort with `prepare.json` in other places."""
    for place in ("new", "old-1", "old-2", "old-3", "old-4", "old-1/deep"):
        storage.write_bytes(f"{uri}/{place}/prepare.json", b"{}")
    storage.write_bytes(f"{uri}/masks/scores.json", b"{}")
    rows = [ledger.CaseRow(case_id="new", status="rejected", reason="no brain")]
    preparing.prepare([], uri, PreparationOptions(space="patient"), inputs=[], rejected=rows)
    return capsys.readouterr().err


def test_cases_of_other_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = other_cases(str(tmp_path / "out"), capsys)
    assert said == (
        f"warning: {tmp_path}/out holds 4 other case(s) (old-1, old-2, old-3 …): they are of no "
        "study in RAW: remove them, or use a new COHORT\n"
    )


def test_so_are_those_in_a_bucket(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "s3://cohorts/out holds 4 other case(s)" in other_cases(f"{bucket}/out", capsys)


# --- home again ------------------------------------------------------------------------------


def smooth(batch: Array) -> Array:
    """A network that finds what is bright on FLAIR, without ragged borders."""
    flair = ndimage.gaussian_filter(batch[..., 2], (0, 3, 3, 3))
    return np.stack([1 / (1 + np.exp(-4 * (flair - limit))) for limit in (0.5, 0.8, 1.1)], -1)


def fake(bundles: object, pinned: object, asked: object, threads: int) -> Predictor:
    """In the place of loading a bundle in an actor."""
    inference = dataclasses.replace(SMOKE.inference, whole_limit_vox=10**9)
    return Predictor([smooth], dataclasses.replace(SMOKE, inference=inference))


def test_masks_go_home_to_the_grid_of_the_t1ce(
    prepared: Call,
    folder: Path,
    tmp_path: Path,
    case_ids: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray import cloudpickle

    if not (Path(card.place(card.STARTER)) / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(stage, "load_predictor", fake)
    out = tmp_path / "out"
    given = {"cohort": str(folder / "cohort"), "native": str(folder / "raw")}
    summary = masks.score(ScoreOptions(predictions=str(out), **given))
    # What was prepared without T2 is missed where T2 is needed.
    assert summary.counts == {"ok": 1, "rejected": 1}
    (failure,) = summary.failures
    assert (failure.case_id, "t2 is missing" in failure.reason) == (case_ids["SECRET-B"], True)
    case_id = case_ids["SECRET-A"]
    scan = nib.load(folder / "raw/SECRET-A/t1ce.nii.gz")
    native, own = (nib.load(out / f"{case_id}{end}.nii.gz") for end in ("_native", ""))
    assert native.shape == scan.shape
    assert (native.affine == scan.affine).all()
    assert native.get_data_dtype() == np.uint8
    here = np.asarray(native.dataobj) > 0
    assert 0 < here.mean() < 0.5
    there = Placed(
        voxels=np.asarray(own.dataobj) > 0, grid=Grid(shape_vox=own.shape, affine=own.affine)
    )
    series = Grid(shape_vox=scan.shape, affine=scan.affine)
    brought = placed.resampled(there, series, np.eye(4)) >= 0.5
    assert 2 * np.count_nonzero(here & brought) / (here.sum() + brought.sum()) > 0.95
    (row,) = [
        row for row in ledger.read_table(str(out / "scores.parquet")) if row["status"] == "ok"
    ]
    assert row["wt_native_ml"] == pytest.approx(here.sum() * 2.5 * 2.5 * 3.5 / 1000)
    assert row["wt_native_ml"] == pytest.approx(row["wt_ml"], rel=0.05)
    again = masks.score(ScoreOptions(predictions=str(out), **given))
    assert (again.as_json()["processed"], again.as_json()["skipped"]) == (0, 2)
    plain = masks.score(ScoreOptions(predictions=str(out), cohort=given["cohort"]))
    assert plain.as_json()["processed"] == 2
    assert not (out / f"{case_id}_native.nii.gz").exists()
