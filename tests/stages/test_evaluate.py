"""`evaluate` as a whole: what it makes of missing, extra and damaged predictions, and of sets."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from classes import CLASS_NAMES, REGIONS
from conftest import SHAPE_VOX, file_of, rewrite

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import phantom, splits
from ray_brats.engine import cluster, mapping
from ray_brats.errors import UsageError
from ray_brats.files import ledger
from ray_brats.metrics import scores
from ray_brats.stages import evaluate
from ray_brats.stages.evaluate import EvaluateSummary, Options

pytestmark = pytest.mark.ray

CASES = [f"BraTS20_Training_{index:03d}" for index in range(1, 6)]
PERFECT, SHIFTED, MISSING, MISPLACED, EMPTY = CASES


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with cluster.running():
        yield


def mask_of(cohort_folder: Path, case_id: str) -> Any:
    return nib.load(file_of(cohort_folder / case_id, "seg"))


def write(path: Path, voxels: Any, like: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(voxels, np.uint8), like.affine), path)


@pytest.fixture(scope="module")
def predictions(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One perfect, one shifted, one of another shape, one empty, one missing; and strangers."""
    folder = tmp_path_factory.mktemp("sets") / "ours" / "predictions"
    masks = {case_id: mask_of(cohort_folder, case_id) for case_id in CASES}
    truth = {case_id: np.asarray(mask.dataobj) for case_id, mask in masks.items()}
    changed = {
        PERFECT: truth[PERFECT],
        SHIFTED: np.roll(truth[SHIFTED], 1, 0),
        MISPLACED: truth[MISPLACED][1:],
        EMPTY: np.zeros_like(truth[EMPTY]),
        "stranger": truth[PERFECT],
    }
    for name, voxels in changed.items():
        write(folder / f"{name}.nii.gz", voxels, masks.get(name, masks[PERFECT]))
    shutil.copytree(folder, folder / "older")
    return folder


@pytest.fixture(scope="module")
def others(cohort_folder: Path, predictions: Path) -> Path:
    """A better set: every mask is there, most of them perfect."""
    folder = predictions.parents[1] / "theirs" / "predictions"
    for case_id in CASES:
        mask = mask_of(cohort_folder, case_id)
        write(folder / f"{case_id}.nii.gz", np.asarray(mask.dataobj), mask)
    return folder


@pytest.fixture(scope="module")
def done(
    ray_here: None, cohort_folder: Path, predictions: Path, others: Path
) -> tuple[Path, EvaluateSummary]:
    report = predictions.parents[1] / "report"
    found = cohorts.find(str(cohort_folder))
    training = [{"step": step, "loss": 1 / (step + 1)} for step in range(9)]
    summary = evaluate.evaluate(
        str(predictions), found, str(report), against=[str(others)], training=training
    )
    return report, summary


def rows_of(report: Path, table: str = "metrics") -> dict[tuple[str, str], dict[str, Any]]:
    key = "region" if table == "metrics" else "label"
    rows = ledger.read_table(str(report / f"{table}.parquet"))
    return {(row["case_id"], row[key]): row for row in rows}


def test_every_selected_case_has_its_rows_and_no_other_has(done: tuple[Path, Any]) -> None:
    report, summary = done
    rows = rows_of(report)
    assert list(rows) == [(case_id, region) for case_id in CASES for region in REGIONS]
    assert summary.counts == {"ok": 3, "rejected": 2}
    (note,) = summary.as_json()["notes"]
    assert note == (
        "ours/predictions: 1 mask(s) of no case that is asked for were left out: stranger.nii.gz"
    )
    assert [rows[PERFECT, region]["dice"] for region in REGIONS] == [1.0] * 3
    assert 0 < rows[SHIFTED, "WT"]["dice"] < 1
    for region in REGIONS:
        assert (rows[EMPTY, region]["dice"], rows[EMPTY, region]["hd95_mm"]) == (0, 373.12866)


def test_missing_and_misplaced_predictions_count_as_nothing_found(done: tuple[Path, Any]) -> None:
    report, summary = done
    rows = rows_of(report)
    for case_id in (MISSING, MISPLACED):
        for region in REGIONS:
            row = rows[case_id, region]
            assert (row["dice"], row["hd95_mm"], row["lesionwise_dice"]) == (0, 373.12866, 0)
            assert (row["lesionwise_hd95_mm"], row["precision"]) == (374, None)
    reasons = {row.case_id: row.reason for row in summary.failures}
    assert set(reasons) == {MISSING, MISPLACED}
    assert "no prediction" in reasons[MISSING]
    assert "(63, 64, 48) against (64, 64, 48)" in reasons[MISPLACED]


def test_the_tables_agree_with_the_metrics_and_with_each_other(
    done: tuple[Path, Any], cohort_folder: Path
) -> None:
    report, summary = done
    with (report / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row, twin in zip(table, rows_of(report).values(), strict=True):
        assert row["case_id"] == twin["case_id"]
        for name in scores.SCORE_COLUMNS:
            assert (float(row[name]) if row[name] else None) == twin[name]
    labels = rows_of(report, "labels")
    assert list(labels) == [(case_id, name) for case_id in CASES for name in CLASS_NAMES[1:]]
    enhancing, region = labels[SHIFTED, CLASS_NAMES[3]], rows_of(report)[SHIFTED, "ET"]
    assert enhancing["dice"] == region["dice"]
    assert (report / "labels.csv").read_text().startswith("case_id,label,dice")
    assert json.loads((report / "summary.json").read_text()) == summary.summary


def test_the_summary_has_the_agreed_form(done: tuple[Path, Any]) -> None:
    report, _ = done
    summary = json.loads((report / "summary.json").read_text())
    assert set(summary) == {"cases", "regions", "original"}
    assert summary["cases"] == len(CASES)
    assert set(summary["regions"]) == set(REGIONS)
    for region in summary["regions"].values():
        for name in ("dice", "hd95_mm", "lesionwise_dice", "lesionwise_hd95_mm"):
            assert set(region[name]) == {"mean", "median", "ci95"}
            low, high = region[name]["ci95"]
            assert low <= region[name]["mean"] <= high
        assert (region["empty_references"], region["empty_predictions"]) == (0, 3)
    assert set(summary["original"]) == {
        "accuracy",
        "iou_score",
        "mean_iou",
        "dice_loss",
        "dice_loss_weighted",
    }


def test_the_better_set_ranks_first(done: tuple[Path, Any]) -> None:
    report, summary = done
    compared = json.loads((report / "comparison.json").read_text())
    assert compared == summary.comparison
    assert compared["set"] == "ours/predictions"
    ranks = {row["name"]: row["mean_rank"] for row in compared["ranking"]}
    assert list(ranks) == ["theirs/predictions", "ours/predictions"]
    # A tie where ours is perfect too, first place in the other four cases.
    assert ranks["theirs/predictions"] == pytest.approx((1.5 + 4) / 5)
    dice = next(test for test in compared["tests"] if test["metric"] == "dice")
    assert (dice["against"], dice["cases"]) == ("theirs/predictions", 5)
    assert dice["p"] == pytest.approx(2 / 2**4)
    assert dice["median_difference"] < 0


def test_the_page_shows_all_of_it(done: tuple[Path, Any]) -> None:
    page = (done[0] / "report.html").read_text()
    for words in ("Compared", "theirs/predictions", "Training loss", "Each label", MISSING):
        assert words in page
    # Of three cases with a mask: the three worst, the median among them; three planes each.
    assert page.count("<img ") == 3 * 3
    assert f"{EMPTY}, worst case 1 of 3: Dice WT 0.000" in page
    assert f"{SHIFTED}, the median case" in page
    assert "stranger" not in page


def test_nothing_is_measured_twice_and_a_new_mask_is(
    done: tuple[Path, Any], cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    report, summary = done
    shutil.copytree(report, tmp_path / "report")
    found = cohorts.find(str(cohort_folder))
    again = evaluate.evaluate(str(predictions), found, str(tmp_path / "report"))
    assert (again.processed, again.skipped) == (0, 5)
    assert again.summary == summary.summary
    assert again.comparison is None
    assert not (tmp_path / "report" / "comparison.json").exists(), "what is stale is removed"
    shutil.copytree(predictions, tmp_path / "masks", copy_function=shutil.copy2)
    shutil.copy(file_of(cohort_folder / MISSING, "seg"), tmp_path / "masks" / f"{MISSING}.nii.gz")
    os.utime(tmp_path / "masks" / f"{PERFECT}.nii.gz", ns=(1, 1))
    mended = evaluate.evaluate(str(tmp_path / "masks"), found, str(tmp_path / "report"))
    assert mended.processed == 2
    assert {row.case_id for row in mended.failures} == {MISPLACED}


def test_a_report_that_lost_a_file_is_written_again(
    done: tuple[Path, Any], cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    shutil.copytree(done[0], report)
    found = cohorts.find(str(cohort_folder))
    evaluate.evaluate(str(predictions), found, str(report))
    whole = {path.name: path.read_bytes() for path in report.iterdir() if path.is_file()}
    for name, content in whole.items():
        (report / name).unlink()
        again = evaluate.evaluate(str(predictions), found, str(report))
        assert again.processed == 0
        assert (report / name).read_bytes() == content


def test_references_with_the_raw_3_that_a_recipe_reads_as_enhancing_are_scored(
    ray_here: None, tmp_path: Path
) -> None:
    (name,) = phantom.write_cohort(tmp_path / "cohort", cases=1, shape_vox=SHAPE_VOX)
    seg = file_of(tmp_path / "cohort" / name, "seg")
    (tmp_path / "masks").mkdir()
    shutil.copy(seg, tmp_path / "masks" / f"{name}.nii.gz")
    rewrite(seg, lambda voxels: np.where(voxels == 4, 3, voxels))
    found = cohorts.find(str(tmp_path / "cohort"))
    places = (str(tmp_path / "masks"), found, str(tmp_path / "report"))
    (refused,) = evaluate.evaluate(*places).failures
    assert "label 3" in refused.reason
    read = evaluate.evaluate(*places, options=Options(raw_3_is_enhancing=True))
    assert read.failures == []
    assert read.summary["regions"]["ET"]["dice"]["mean"] == 1


def test_a_selection_is_all_that_counts(
    ray_here: None, cohort_folder: Path, predictions: Path, tmp_path: Path
) -> None:
    found = cohorts.find(str(cohort_folder))
    split = {case_id: "val" if case_id in (PERFECT, SHIFTED) else "train" for case_id in CASES}
    selected = splits.select(found, split, "val")
    summary = evaluate.evaluate(
        str(predictions), selected, str(tmp_path), options=Options(rules="legacy")
    )
    assert summary.failures == []
    assert summary.summary["cases"] == 2
    assert summary.summary["regions"]["WT"]["lesionwise_dice"]["mean"] is None


def test_the_rules_of_2026_have_tables_of_their_own(
    ray_here: None, cohort_folder: Path, predictions: Path, others: Path, tmp_path: Path
) -> None:
    found, options = cohorts.find(str(cohort_folder)), Options(rules="2026")
    evaluated = evaluate.evaluate(
        str(predictions), found, str(tmp_path), options=options, against=[str(others)]
    )
    rows, columns = rows_of(tmp_path), scores.score_columns("2026")
    assert all(list(row) == ["case_id", "region", *columns] for row in rows.values())
    head = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert head == ",".join(["case_id", "region", *columns])
    assert rows[PERFECT, "WT"]["nsd_05mm"] == 1
    for case_id in (MISSING, MISPLACED, EMPTY):
        row = rows[case_id, "ET"]
        assert (row["dice"], row["nsd_1mm"], row["hd95_pooled_mm"]) == (0, 0, None)
    distances_mm = [
        373.0 if row["hd95_pooled_mm"] is None else row["hd95_pooled_mm"]
        for (_, region), row in rows.items()
        if region == "WT"
    ]
    whole = evaluated.summary["regions"]["WT"]
    assert whole["hd95_pooled_mm"]["mean"] == pytest.approx(np.mean(distances_mm))
    assert {test["metric"] for test in evaluated.comparison["tests"]} == {"dice", "nsd_1mm"}
    page = (tmp_path / "report.html").read_text()
    assert "Rules: 2026, of BraTS 2026." in page
    assert "Lesion-wise" not in page
    again = evaluate.evaluate(str(predictions), found, str(tmp_path), options=options)
    assert (again.processed, again.skipped) == (0, 5)
    apart = Options(rules="2026", small_mm3=20.0)
    assert evaluate.evaluate(str(predictions), found, str(tmp_path), options=apart).processed == 5
    assert "small_f1" in rows_of(tmp_path)[PERFECT, "WT"]


def test_2023_is_both_and_nothing_is_measured_twice_for_the_name() -> None:
    assert Options(rules="2023") == Options()
    with pytest.raises(UsageError, match="--rules 2024"):
        Options(rules="2024")
    with pytest.raises(UsageError, match="2026 alone"):
        Options(small_mm3=20.0)


def test_wrong_calls_are_told(cohort_folder: Path, predictions: Path, tmp_path: Path) -> None:
    found = cohorts.find(str(cohort_folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no"):
        evaluate.evaluate(str(tmp_path / "empty"), found, str(tmp_path / "report"))
    with pytest.raises(UsageError, match="holds no"):
        evaluate.evaluate(
            str(predictions), found, str(tmp_path / "report"), against=[str(tmp_path / "empty")]
        )
    with pytest.raises(UsageError, match="twice"):
        evaluate.evaluate(
            str(predictions), found, str(tmp_path / "report"), against=[str(predictions)]
        )
    assert not (tmp_path / "report").exists(), "nothing was begun"


@pytest.mark.parametrize("name", [evaluate.MARKER, *evaluate.FILES])
def test_a_report_replaces_nobody_elses_file(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(mapping, "map_cases", lambda *_, **__: pytest.fail("the work began"))
    mask = mask_of(cohort_folder, PERFECT)
    write(tmp_path / "predictions" / f"{PERFECT}.nii.gz", mask.dataobj, mask)
    theirs = tmp_path / "report" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    found = cohorts.find(str(cohort_folder))
    with pytest.raises(UsageError, match=f"holds {name}"):
        evaluate.evaluate(str(tmp_path / "predictions"), found, str(theirs.parent))
    assert [path.name for path in theirs.parent.iterdir()] == [name]
    assert theirs.read_bytes() == b"theirs"


def turned(image: Any) -> Any:
    """The same mask stored in other axes."""
    start = nib.orientations.io_orientation(image.affine)
    end = nib.orientations.axcodes2ornt("RAS")
    return image.as_reoriented(nib.orientations.ornt_transform(start, end))


def moved(image: Any) -> Any:
    """The same mask four micrometres beside its place."""
    affine = image.affine.copy()
    affine[0, 3] += 0.004
    return nib.Nifti1Image(np.asarray(image.dataobj), affine)


@pytest.mark.parametrize("change", [turned, moved])
@pytest.mark.parametrize("whose", ["prediction", "reference"])
def test_masks_that_lie_on_one_another_are_compared_however_they_are_stored(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, whose: str
) -> None:
    monkeypatch.setattr(
        mapping, "map_cases", lambda todo, tasks, **_: [tasks.task(item)[0] for item in todo]
    )
    shutil.copytree(cohort_folder / SHIFTED, tmp_path / "references" / SHIFTED)
    mask = mask_of(tmp_path / "references", SHIFTED)
    other = change(mask)
    (tmp_path / "predictions").mkdir()
    nib.save(other if whose == "prediction" else mask, tmp_path / f"predictions/{SHIFTED}.nii.gz")
    if whose == "reference":
        (tmp_path / "seg.nii.gz").write_bytes(gzip.compress(other.to_bytes()))
        shutil.move(tmp_path / "seg.nii.gz", file_of(tmp_path / "references" / SHIFTED, "seg"))
    found = cohorts.find(str(tmp_path / "references"))
    told = evaluate.evaluate(str(tmp_path / "predictions"), found, str(tmp_path / "report"))
    rows = rows_of(tmp_path / "report")
    assert [rows[SHIFTED, region]["dice"] for region in REGIONS] == [1.0] * 3
    assert told.counts == {"ok": 1}


def exchanged(voxels: Any) -> Any:
    """Raw labels with 1 and 2 exchanged."""
    return np.choose(voxels.astype(np.uint8), [0, 2, 1, 3, 4])


@pytest.mark.parametrize("wrong", [(), ("references",), ("predictions",), tuple(evaluate.OUTLINES)])
def test_labels_in_another_order_are_told_of_references_and_predictions_apart(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...]
) -> None:
    monkeypatch.setattr(
        mapping, "map_cases", lambda todo, tasks, **_: [tasks.task(item)[0] for item in todo]
    )
    shutil.copytree(cohort_folder, tmp_path / "references")
    for case_id in CASES[1:]:
        mask = mask_of(cohort_folder, case_id)
        write(tmp_path / "predictions" / f"{case_id}.nii.gz", mask.dataobj, mask)
    for folder in wrong:
        for path in (tmp_path / folder).rglob("*.nii.gz"):
            if folder == "predictions" or "_seg" in path.name:
                rewrite(path, exchanged)
    found = cohorts.find(str(tmp_path / "references"))
    report = str(tmp_path / "report")
    told = evaluate.evaluate(str(tmp_path / "predictions"), found, report)
    notes = told.as_json()["notes"]
    assert [note.split(" look as if label 1 were edema")[0] for note in notes] == [
        f"warning: the {name}" for name in wrong
    ]
    for name, note in zip(wrong, notes, strict=True):
        # A reference without a prediction is a reference all the same.
        count = len(CASES) if name == "references" else len(CASES) - 1
        assert f"in {count} of {count} case(s)" in note
    assert [row.case_id for row in told.failures] == CASES[:1]


PREDICTIONS = 200


@pytest.mark.slow
def test_two_hundred_predictions_on_two_cores_take_under_four_minutes(tmp_path: Path) -> None:
    """Real references, linked under 200 names; each prediction is one of them, perturbed."""
    if "RAY_BRATS_REAL_DATA" not in os.environ:
        pytest.skip("RAY_BRATS_REAL_DATA names a folder of real BraTS cases with masks")
    masks = sorted(Path(os.environ["RAY_BRATS_REAL_DATA"]).resolve().rglob("*_seg.nii.gz"))
    random = np.random.default_rng(0)
    predictions = tmp_path / "predictions"
    for index in range(PREDICTIONS):
        source = masks[index % len(masks)]
        stem, case_id = source.name.split("_seg")[0], f"BraTS20_Training_{index + 1:03d}"
        case = tmp_path / "cohort" / case_id
        case.mkdir(parents=True)
        for file in source.parent.glob(f"{stem}_*"):
            (case / file.name.replace(stem, case_id, 1)).symlink_to(file)
        mask = nib.load(source)
        moved = np.roll(np.asarray(mask.dataobj), random.integers(-4, 5, 3), (0, 1, 2))
        moved[random.random(moved.shape) < 1e-5] = 2
        write(predictions / f"{case_id}.nii.gz", moved, mask)
    found = cohorts.find(str(tmp_path / "cohort"))
    start = time.perf_counter()
    with cluster.running() as room:
        summary = evaluate.evaluate(str(predictions), found, str(tmp_path / "report"))
    seconds = time.perf_counter() - start
    print(f"{PREDICTIONS} predictions: {seconds:.0f} s on {room.cpus} cores")  # noqa: T201
    assert (summary.counts, summary.failures) == ({"ok": PREDICTIONS}, [])
    assert seconds * room.cpus < 240 * 2
