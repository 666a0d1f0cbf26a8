"""The dataset folder: which cases a run learns from, and their copies on a node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_brats.errors import ArtefactError, UsageError
from ray_brats.files import ledger, storage
from ray_brats.recipes import jsonform, named
from ray_brats.recipes.tasks import TASKS
from ray_brats.training import data
from ray_brats.training.data import Dataset, PreparedCase, read_dataset

PATIENTS = 33
RECIPE = named.get("smoke")
DESCRIPTION = {
    "preprocess": jsonform.as_json(RECIPE.preprocess),
    "recipe": "smoke",
    "fingerprint": "f",
    "release": "brats2020",
}
COLUMNS = {
    **dict.fromkeys(("case_id", "patient_id", "grade", "status", "split"), pa.string()),
    **dict.fromkeys(("image_sha256", "label_sha256"), pa.string()),
    "shape_vox": pa.list_(pa.int32()),
}


def rows() -> list[dict[str, Any]]:
    """Two time points of each patient, two thirds of them of high grade; one patient for a test."""
    return [
        {
            "case_id": f"p{patient:02}-{time}",
            "patient_id": f"p{patient:02}",
            "grade": "LGG" if patient % 3 == 0 else "HGG",
            "status": "ok",
            "shape_vox": [20, 22, 18],
            "image_sha256": f"{patient}-{time}",
            "label_sha256": None if (patient, time) == (5, 1) else "x",
            "split": "test" if patient == PATIENTS - 1 else "train",
        }
        for patient in range(PATIENTS)
        for time in range(2)
    ]


def write_dataset(folder: Path, table: list[dict[str, Any]]) -> str:
    storage.write_json(data.description_uri(str(folder)), DESCRIPTION)
    ledger.write_table(data.table_uri(str(folder)), table, COLUMNS)
    return str(folder)


@pytest.fixture(params=[1, -1])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same cases in one order and in the other."""
    return write_dataset(tmp_path, rows()[:: request.param])


def folds(uri: str) -> list[Dataset]:
    return [read_dataset(uri, RECIPE, fold=fold) for fold in range(5)]


def test_the_split_says_what_is_trained_on_and_a_mask_is_needed(tmp_path: Path) -> None:
    table = rows()
    table[0]["split"], table[1]["status"] = "val", "rejected"
    table[1]["shape_vox"] = None
    read = read_dataset(write_dataset(tmp_path, table), RECIPE)
    assert [case.case_id for case in read.validation] == ["p00-0"]
    assert read.validation[0].shape_vox == (20, 22, 18)
    assert (len(read.training), read.unlabelled) == (2 * PATIENTS - 5, 1)
    assert (read.fingerprint, read.task) == ("f", TASKS["gli-2020"])


def test_a_table_without_what_training_needs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no dataset"):
        read_dataset(str(tmp_path), RECIPE)
    storage.write_json(data.description_uri(str(tmp_path)), DESCRIPTION)
    fewer = {name: kind for name, kind in COLUMNS.items() if name != "image_sha256"}
    ledger.write_table(data.table_uri(str(tmp_path)), rows(), fewer)
    with pytest.raises(ArtefactError, match="has no column image_sha256"):
        read_dataset(str(tmp_path), RECIPE)


@pytest.mark.parametrize("labelled", [(0, 0), (0, 7), (None, None)])
def test_cases_without_any_tumour_are_no_lesson(
    tmp_path: Path, labelled: tuple[int | None, ...]
) -> None:
    table = rows()[:4]
    for row, count in zip(table, [*labelled, 0, 0], strict=True):
        row["labelled_vox"] = count
    storage.write_json(data.description_uri(str(tmp_path)), DESCRIPTION)
    kinds = {**COLUMNS, "labelled_vox": pa.int64()}
    ledger.write_table(data.table_uri(str(tmp_path)), table, kinds)
    if any(count != 0 for count in labelled):
        assert len(read_dataset(str(tmp_path), RECIPE).training) == 4
        return
    with pytest.raises(UsageError, match=r"none of the 4 case.* has a voxel of tumour"):
        read_dataset(str(tmp_path), RECIPE)


def test_five_folds_share_the_labelled_cases_by_patient(dataset: str) -> None:
    validated = [{case.patient_id for case in one.validation} for one in folds(dataset)]
    assert sum(map(len, validated)) == len(set.union(*validated)) == PATIENTS - 1
    for one in folds(dataset):
        trained = {case.patient_id for case in one.training}
        assert not trained & {case.patient_id for case in one.validation}
        # All but the one without a mask and the two for a test.
        assert len(one.training) + len(one.validation) == 2 * PATIENTS - 3
        assert one.unlabelled == 1


def test_each_fold_has_its_share_of_every_grade(dataset: str) -> None:
    for one in folds(dataset):
        patients = {(case.patient_id, case.grade) for case in one.validation}
        counts = Counter(grade for _, grade in patients)
        assert counts["LGG"] in (2, 3)
        assert counts["HGG"] in (4, 5)


def test_a_fold_is_the_same_whatever_the_order_of_the_cases(tmp_path: Path) -> None:
    validated = []
    for order in (1, -1):
        uri = write_dataset(tmp_path / str(order), rows()[::order])
        validated.append([{case.case_id for case in one.validation} for one in folds(uri)])
    assert validated[0] == validated[1]


@pytest.mark.parametrize("fold", [-1, 5])
def test_other_folds_are_refused(dataset: str, fold: int) -> None:
    with pytest.raises(UsageError, match="expected 0 to 4"):
        read_dataset(dataset, RECIPE, fold=fold)


@pytest.mark.parametrize("kept_bytes", [0, 100, 1000])
def test_a_damaged_case_is_named(cases: list[PreparedCase], kept_bytes: int) -> None:
    file = cases[0].folder / "image.npy"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(ArtefactError, match=r"image\.npy is damaged .* preprocess the cohort"):
        cases[0].image()
