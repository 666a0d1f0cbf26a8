"""The folder of predictions: one spelling of its names, and masks that nobody makes twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import touch

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import geometry as geometries
from ray_brats.cases import naming
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.preprocess import preprocess_case
from ray_brats.cases.raw.record import Home
from ray_brats.errors import UsageError
from ray_brats.files import ledger, retry, storage
from ray_brats.files.ledger import CaseRow
from ray_brats.model import predictions
from ray_brats.model.predictions import Predictions
from ray_brats.recipes import named
from ray_brats.recipes.tasks import GLIOMA, TASKS

SMOKE = named.get("smoke").preprocess
KINDS = ("t1ce", "t2", "flair", "seg")
CASE = Case(
    case_id="a",
    patient_id="p",
    images={kind: f"s3://b/a_{kind}.nii.gz" for kind in KINDS[:3]},
    segmentation="s3://b/a_seg.nii.gz",
    etags={f"s3://b/a_{kind}.nii.gz": kind for kind in KINDS},
)


def folder(uri: str, task: str = "gli-2020") -> Predictions:
    return Predictions(uri=uri, identity={"bundles": ["b"]}, preprocessing=SMOKE, task=TASKS[task])


def test_masks_count_as_made_until_the_version_of_their_stage_changes() -> None:
    """Another key would make every mask anew: this one is that of version 3."""
    item = folder("s3://out").work_of(CASE)
    assert item.key == "22a3dbb4968c22bb59cc339de52f7ccc"
    assert (item.sidecar_uri, item.outputs) == ("s3://out/a.json", ("a.nii.gz",))
    assert predictions.task_of(item) == TASKS["gli-2020"]
    assert predictions.case_of(item).images == CASE.images


def test_what_a_mask_depends_on_changes_its_key_and_nothing_else_does() -> None:
    item = folder("s3://out").work_of(CASE)
    other = {**CASE.etags, "s3://b/a_t2.nii.gz": "new"}
    assert folder("s3://out").work_of(dataclasses.replace(CASE, etags=other)).key != item.key
    assert folder("s3://out", "gli-2023").work_of(CASE).key != item.key
    reference = dataclasses.replace(CASE, segmentation=None)
    assert folder("s3://elsewhere").work_of(reference).key == item.key


@pytest.mark.parametrize("ours", [False, True])
def test_a_mask_replaces_no_scan_of_its_cohort(tmp_path: Path, ours: bool) -> None:
    """Named as the mask will be, and even where it was a mask of ours once."""
    names = ("scan1.nii.gz", "t2.nii.gz", "flair.nii.gz")
    touch(tmp_path, *names)
    (tmp_path / "c.csv").write_text(f"case_id,t1ce,t2,flair\nscan1,{','.join(names)}\n")
    if ours:
        sidecar = {"key": "old", "row": {"case_id": "scan1"}, "files": {"scan1.nii.gz": 0}}
        storage.write_json(f"{tmp_path}/scan1.json", sidecar)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match="this call reads it"):
        folder(str(tmp_path)).split_finished(cohorts.find(str(tmp_path / "c.csv")))
    assert sorted(tmp_path.iterdir()) == before


def cohort_of(*case_ids: str, rejected: str = "") -> Cohort:
    cases = tuple(Case(case_id=name, patient_id=name, images={}) for name in case_ids)
    rows = (CaseRow(case_id=rejected, status="rejected"),) if rejected else ()
    return Cohort(uri="x", cases=cases, rejected=rows)


def test_masks_right_in_a_folder_are_found_by_case(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii", "a.json", "older/c.nii.gz", "._c.nii.gz", "r.nii.gz")
    masks = predictions.find_masks(str(tmp_path), cohort_of("a", "b", "c", rejected="r"))
    assert {case_id: file.uri for case_id, file in masks.of_case.items()} == {
        "a": str(tmp_path / predictions.mask_name("a")),
        "b": str(tmp_path / "b.nii"),
        "r": str(tmp_path / "r.nii.gz"),
    }
    assert (masks.of_no_case, masks.notes()) == ([], [])
    for name in ("absent", "a.nii.gz"):
        with pytest.raises(UsageError, match="holds no <case_id>"):
            predictions.find_masks(str(tmp_path / name), cohort_of("a"))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("mark", ["", "_seg", "-seg"])
@pytest.mark.parametrize("name", ["a", "Müller 1"])
def test_a_mask_may_be_called_as_other_programs_call_it(
    tmp_path: Path, name: str, mark: str, ending: str
) -> None:
    case_id = naming.id_of_name(name)
    for stem in (name, case_id):
        folder = touch(tmp_path / stem, f"{stem}{mark}{ending}")
        masks = predictions.find_masks(str(folder), cohort_of(case_id, "b"))
        assert [*masks.of_case] == [case_id]


def test_a_case_whose_own_name_ends_so_keeps_its_mask(tmp_path: Path) -> None:
    touch(tmp_path, "a_seg.nii.gz", "a.nii.gz")
    masks = predictions.find_masks(str(tmp_path), cohort_of("a", "a_seg"))
    assert {name: file.uri.rpartition("/")[2] for name, file in masks.of_case.items()} == {
        "a": "a.nii.gz",
        "a_seg": "a_seg.nii.gz",
    }


def test_of_several_masks_ours_is_taken_and_said_or_both_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a.nii", "a_seg.nii.gz")
    masks = predictions.find_masks(str(tmp_path), cohort_of("a"))
    assert masks.of_case["a"].uri.endswith("/a.nii.gz")
    assert "1 case(s) have several masks, a among them: a.nii.gz is taken" in masks.notes()
    (tmp_path / "a.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"several masks of a, a\.nii and a_seg\.nii\.gz: keep"):
        predictions.find_masks(str(tmp_path), cohort_of("a"))


def test_masks_of_no_case_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", *(f"z{number}_seg.nii" for number in range(4)))
    masks = predictions.find_masks(str(tmp_path), cohort_of("a"))
    (note,) = masks.notes()
    assert note.startswith("4 mask(s) of no case")
    assert "z0_seg.nii, z1_seg.nii, z2_seg.nii …" in note
    assert len(masks.uris()) == 5


def test_masks_of_none_of_the_cases_are_another_cohorts(tmp_path: Path) -> None:
    touch(tmp_path, "y.nii.gz", "z_seg.nii")
    with pytest.raises(UsageError, match=r"holds 2 mask\(s\), y.nii.gz among them, and none of"):
        predictions.find_masks(str(tmp_path), cohort_of("a"))


def test_a_reference_beside_the_masks_is_no_prediction(tmp_path: Path) -> None:
    touch(tmp_path, "a_t2.nii.gz", "a_seg.nii.gz", "b_t2.nii.gz", "b_seg.nii.gz", "a.nii.gz")
    masks = predictions.find_masks(str(tmp_path), cohorts.find(str(tmp_path)))
    assert [file.uri for file in masks.of_case.values()] == [str(tmp_path / "a.nii.gz")]
    assert masks.notes() == []


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
    row = CaseRow(case_id="a", facts={"wt_ml": 1.0, "remarks": "t2: was turned"})
    summary = target.conclude(cohort, [], [row])
    assert summary.counts == {"ok": 1, "rejected": 1}
    assert (summary.processed, summary.skipped) == (1, 0)
    assert list(summary.failures) == [rejected]
    assert (summary.notes, summary.remarked) == (["t2: was turned (a)"], ["a"])
    table = ledger.read_table(f"{tmp_path}/scores.parquet")
    assert [(row["case_id"], row["wt_ml"]) for row in table] == [("0", None), ("a", 1.0)]
    assert pq.read_schema(tmp_path / "scores.parquet").names == list(predictions.columns_of(GLIOMA))
    told = storage.read_json(f"{tmp_path}/score.json")
    assert (told["identity"], told["release"]) == ({"bundles": ["b"]}, "brats2020")


def test_masks_of_other_integers_stay_beside_none_of_a_cohort(tmp_path: Path) -> None:
    """Also where the call that made those of before was killed: what is there would be misread."""
    before, after = folder(str(tmp_path), "gli-2023"), folder(str(tmp_path), "msd-task01")
    before.split_finished(cohort_of("a", "b", "c"))
    touch(tmp_path, "a.nii.gz", "b.nii")
    for ended in (False, True):
        if ended:
            before.conclude(cohort_of("a", "b", "c"), [], [])
        there = {path: path.read_bytes() for path in tmp_path.iterdir()}
        sentence = r"masks of the task gli-2023 \(1 necrotic core, .* b\.nii would stay beside"
        with pytest.raises(UsageError, match=sentence):
            after.split_finished(cohort_of("a", "c"))
        with pytest.raises(UsageError, match=r"a\.nii\.gz and 1 more would stay"):
            after.split_finished(cohort_of("c", rejected="a"))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == there
    folder(str(tmp_path), "ssa").split_finished(cohort_of("c"))


@pytest.mark.parametrize("ended", [False, True])
def test_while_masks_are_replaced_by_those_of_other_integers_nobody_reads_them(
    tmp_path: Path, ended: bool
) -> None:
    """Killed midway, a folder holds masks of both: they would be read as what they are not."""
    place, cohort = str(tmp_path), cohort_of("a", "b")
    before, after = folder(place, "gli-2023"), folder(place, "msd-task01")
    _, todo = before.split_finished(cohort)
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    for item in todo:
        ledger.finish(item, CaseRow(case_id=item.case_id), item.outputs)
    if ended:
        before.conclude(cohort, [], [])
    # The second time it goes on with what a killed call has left.
    for left in (("a", "b"), ("b",)):
        finished, todo = after.split_finished(cohort)
        assert [item.case_id for item in todo] == [*left]
        with pytest.raises(UsageError, match=r"gli-2023 that were to be .* msd-task01.*once more"):
            predictions.find_masks(place, cohort)
        with pytest.raises(UsageError, match="once more"):
            predictions.check_place(place, TASKS["gli-2023"])
        ledger.finish(todo[0], CaseRow(case_id=todo[0].case_id), todo[0].outputs)
    after.conclude(cohort, finished, [CaseRow(case_id="b")])
    assert predictions.find_masks(place, cohort).made_for == TASKS["msd-task01"]


@pytest.mark.parametrize("task", ["gli-2020", "msd-task01", "ped"])
def test_a_folder_tells_its_task_from_the_first_mask_on(tmp_path: Path, task: str) -> None:
    target = folder(str(tmp_path), task)
    assert predictions.made_for(str(tmp_path)) is None
    target.split_finished(cohort_of("a"))
    assert predictions.made_for(str(tmp_path)) == TASKS[task]
    target.conclude(cohort_of("a"), [], [])
    assert predictions.made_for(str(tmp_path)) == TASKS[task]
    assert not (tmp_path / "begun.json").exists()


def test_a_file_of_that_name_that_is_somebody_elses_tells_nothing(tmp_path: Path) -> None:
    for content in ({"task": "segmentation"}, {"task": 5}, {"release": "v2"}, [1]):
        storage.write_json(f"{tmp_path}/score.json", content)
        assert predictions.made_for(str(tmp_path)) is None
    ours = {"task": "segmentation", "versions": {"ray_brats": "9"}}
    storage.write_json(f"{tmp_path}/score.json", ours)
    with pytest.raises(UsageError, match=r"score\.json: no task 'segmentation'"):
        predictions.made_for(str(tmp_path))


# --- masks that also go home -----------------------------------------------------------


HOME = Home(
    geometry=geometries.of_file(
        (6, 5, 4),
        np.diag([1.0, 1.0, 5.0, 1.0]) + np.diag([0.25] * 3, 1),
        qform_code=1,
        sform_code=1,
    ),
    motion=np.eye(4) + 0.125,
)


def homing(uri: str, **homes: Home) -> Predictions:
    return dataclasses.replace(folder(uri), homes=homes)


def test_only_a_home_of_its_own_changes_what_a_mask_depends_on() -> None:
    """Without one the key is that of before there were any: see the first test."""
    other = homing("s3://out", b=HOME).work_of(CASE)
    assert (other.key, other.outputs) == ("22a3dbb4968c22bb59cc339de52f7ccc", ("a.nii.gz",))
    assert other == folder("s3://out").work_of(CASE)
    assert predictions.home_of(other) is None
    item = homing("s3://out", a=HOME).work_of(CASE)
    moved = dataclasses.replace(HOME, motion=np.eye(4))
    grid = dataclasses.replace(HOME.geometry, native_shape=(6, 5, 9))
    elsewhere = dataclasses.replace(HOME, geometry=grid)
    keys = {homing("s3://out", a=home).work_of(CASE).key for home in (HOME, moved, elsewhere)}
    assert len(keys | {other.key}) == 4
    assert item.outputs == ("a.nii.gz", "a_native.nii.gz")
    back = predictions.home_of(ledger.Work.from_row(item.as_row()))
    assert back is not None
    assert back.geometry == HOME.geometry
    assert (back.motion == HOME.motion).all()
    assert homing("s3://elsewhere", a=HOME).work_of(CASE).key == item.key


def test_a_mask_and_the_one_at_home_are_written_with_their_volumes(
    one_case: Path, tmp_path: Path
) -> None:
    (case,) = cohorts.find(str(one_case)).cases
    geometry: Geometry = preprocess_case(case, SMOKE).geometry
    index = np.zeros(geometry.crop_shape_vox, np.uint8)
    index[:10, 0, 0] = 2
    native = np.zeros((6, 5, 4), np.uint8)
    native[:2, 1, 2], native[3, 1, 2] = 3, 1
    target = homing(str(tmp_path / "out"), **{case.case_id: HOME})
    item = target.work_of(case)
    row, files = predictions.save(item, index, geometry, ["t2: was turned"], native)
    assert files == [f"{case.case_id}.nii.gz", f"{case.case_id}_native.nii.gz"]
    voxel_ml = HOME.geometry.voxel_ml
    at_home = {
        "wt_native_ml": 3 * voxel_ml,
        "tc_native_ml": 3 * voxel_ml,
        "et_native_ml": 2 * voxel_ml,
    }
    assert row.facts == {
        "wt_ml": round(10 * geometry.voxel_ml, 6),
        "tc_ml": 0,
        "et_ml": 0,
        "remarks": "t2: was turned",
        **{name: round(ml, 6) for name, ml in at_home.items()},
    }
    image = nib.load(tmp_path / "out" / files[1])
    assert image.get_data_dtype() == np.uint8
    assert np.allclose(image.affine, HOME.geometry.native_affine)
    assert (np.asarray(image.dataobj) == np.array([0, 1, 2, 4])[native]).all()
    ledger.finish(item, row, files)
    sidecar = json.loads((tmp_path / "out" / f"{case.case_id}.json").read_text())
    assert [*sidecar["files"]] == files
    cohort = Cohort(uri="x", cases=(case,))
    assert target.split_finished(cohort) == ([row], [])
    (tmp_path / "out" / files[1]).unlink()
    assert [work.case_id for work in target.split_finished(cohort)[1]] == [case.case_id]


def test_the_ledger_has_columns_of_home_only_where_masks_go_there(tmp_path: Path) -> None:
    cohort = Cohort(uri="x", cases=(CASE,))
    plain = list(predictions.columns_of(GLIOMA))
    assert "wt_native_ml" not in plain
    both = list(predictions.columns_of(GLIOMA, native=True))
    assert both == [*plain, "wt_native_ml", "tc_native_ml", "et_native_ml"]
    row = CaseRow(case_id="a", facts={"wt_ml": 1.0, "wt_native_ml": 1.25})
    for homes, names in (({}, plain), ({"a": HOME}, both)):
        target = homing(str(tmp_path / f"{len(homes)}"), **homes)
        target.split_finished(cohort)
        target.conclude(cohort, [], [row])
        path = tmp_path / f"{len(homes)}/scores.parquet"
        assert pq.read_schema(path).names == names
        assert ledger.read_table(str(path))[0].get("wt_native_ml") == (1.25 if homes else None)


def test_masks_at_home_are_neither_predictions_nor_strangers(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_native.nii.gz", "b_native.nii.gz", "c_native.nii.gz")
    masks = predictions.find_masks(str(tmp_path), cohort_of("a", "b"))
    assert [*masks.of_case] == ["a"]
    assert [storage.name_of(file.uri) for file in masks.of_no_case] == ["c_native.nii.gz"]


def test_a_case_whose_own_name_ends_as_theirs_keeps_its_mask(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_native.nii.gz")
    masks = predictions.find_masks(str(tmp_path), cohort_of("a", "a_native"))
    assert {name: storage.name_of(file.uri) for name, file in masks.of_case.items()} == {
        "a": "a.nii.gz",
        "a_native": "a_native.nii.gz",
    }


def test_two_masks_under_one_name_are_refused(tmp_path: Path) -> None:
    target = homing(str(tmp_path), a=HOME)
    with pytest.raises(UsageError, match=r"a_native\.nii\.gz would be .* two"):
        target.split_finished(cohort_of("a", "a_native"))
    assert not [*tmp_path.iterdir()]


def test_masks_at_home_go_with_those_they_belong_to(tmp_path: Path) -> None:
    """Of another network, or of other integers, they would be taken for what they are not."""
    cohort = cohort_of("a")
    for target, names in (
        (homing(str(tmp_path), a=HOME), ["a.nii.gz", "a_native.nii.gz"]),
        (dataclasses.replace(folder(str(tmp_path)), identity={"bundles": ["c"]}), ["a.nii.gz"]),
        (homing(str(tmp_path), a=HOME), ["a.nii.gz", "a_native.nii.gz"]),
        (
            dataclasses.replace(folder(str(tmp_path), "msd-task01"), homes={"a": HOME}),
            ["a.nii.gz", "a_native.nii.gz"],
        ),
    ):
        (item,) = target.split_finished(cohort)[1]
        retry.clear(item)
        assert not [*tmp_path.glob("*.nii.gz")]
        touch(tmp_path, *names)
        row = CaseRow(case_id="a")
        ledger.finish(item, row, names)
        target.conclude(cohort, [], [row])
        assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == names


def test_masks_at_home_of_other_integers_stay_beside_none(tmp_path: Path) -> None:
    cohort = cohort_of("a")
    before = homing(str(tmp_path), a=HOME)
    before.split_finished(cohort)
    touch(tmp_path, "a.nii.gz", "a_native.nii.gz")
    before.conclude(cohort, [], [])
    with pytest.raises(UsageError, match=r"a_native\.nii\.gz would stay beside"):
        folder(str(tmp_path), "msd-task01").split_finished(cohort)
