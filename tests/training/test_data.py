"""Which cases a run trains on and validates with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ray_brats.errors import UsageError
from ray_brats.files import ledger, storage
from ray_brats.recipes import jsonform, named
from ray_brats.training.data import TrainingSet, read_training_set

PATIENTS = 33
RECIPE = named.get("smoke")


def rows() -> list[dict[str, Any]]:
    """Two time points of each patient, two thirds of them of high grade; one patient for a test."""
    return [
        {
            "case_id": f"p{patient:02}-{time}",
            "patient_id": f"p{patient:02}",
            "grade": "LGG" if patient % 3 == 0 else "HGG",
            "status": "ok",
            "label_sha256": "" if (patient, time) == (5, 1) else "x",
            "split": "test" if patient == PATIENTS - 1 else "train",
        }
        for patient in range(PATIENTS)
        for time in range(2)
    ]


@pytest.fixture(params=[1, -1])
def dataset(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cases in one order and in the other."""
    description = {"preprocess": jsonform.as_json(RECIPE.preprocess), "recipe": "smoke"}
    monkeypatch.setattr(storage, "read_json", lambda _, **__: description)
    monkeypatch.setattr(ledger, "read_table", lambda _, **__: rows()[:: request.param])


def folds() -> list[TrainingSet]:
    return [read_training_set("d", RECIPE, fold=fold) for fold in range(5)]


def test_five_folds_share_the_labelled_cases_by_patient(dataset: None) -> None:
    validated = [{row["patient_id"] for row in one.validation} for one in folds()]
    assert sum(map(len, validated)) == len(set.union(*validated)) == PATIENTS - 1
    for one in folds():
        trained = {row["patient_id"] for row in one.training}
        assert not trained & {row["patient_id"] for row in one.validation}
        # All but the one without a mask and the two for a test.
        assert len(one.training) + len(one.validation) == 2 * PATIENTS - 3
        assert one.unlabelled == 1


def test_each_fold_has_its_share_of_every_grade(dataset: None) -> None:
    for one in folds():
        patients = {(row["patient_id"], row["grade"]) for row in one.validation}
        counts = Counter(grade for _, grade in patients)
        assert counts["LGG"] in (2, 3)
        assert counts["HGG"] in (4, 5)


def test_a_fold_is_the_same_whatever_the_order_of_the_cases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    description = {"preprocess": jsonform.as_json(RECIPE.preprocess), "recipe": "smoke"}
    monkeypatch.setattr(storage, "read_json", lambda _, **__: description)
    found = []
    for order in (1, -1):
        monkeypatch.setattr(ledger, "read_table", lambda _, order=order, **__: rows()[::order])
        found.append([{row["case_id"] for row in one.validation} for one in folds()])
    assert found[0] == found[1]


@pytest.mark.parametrize("fold", [-1, 5])
def test_other_folds_are_refused(dataset: None, fold: int) -> None:
    with pytest.raises(UsageError, match="expected 0 to 4"):
        read_training_set("d", RECIPE, fold=fold)
