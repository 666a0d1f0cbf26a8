"""What a run trains on and validates with: the labelled cases of a dataset, by split or fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_brats.errors import UsageError
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import Row
from ray_brats.recipes import jsonform
from ray_brats.recipes.config import Recipe

_COLUMNS = ("case_id", "status", "split", "patient_id", "grade", "label_sha256")


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The cases of a dataset that a run trains on and validates with."""

    uri: str
    description: Mapping[str, Any]
    training: tuple[Row, ...]
    validation: tuple[Row, ...]
    unlabelled: int
    """Usable cases left out because they have no mask."""
    fold: int | None = None
    """Of five; None: the dataset's own split."""


def read_training_set(uri: str, recipe: Recipe, *, fold: int | None = None) -> TrainingSet:
    """The labelled cases of a dataset, by split or by one of five folds.

    Raises:
        UsageError: no dataset, prepared by another recipe, or nothing to train on.
        ArtefactError: the dataset's table or description is damaged.
    """
    try:
        description = storage.read_json(
            storage.join(uri, "dataset.json"), required=("preprocess", "recipe", "fingerprint")
        )
        rows = ledger.read_table(storage.join(uri, "cases.parquet"), required=_COLUMNS)
    except FileNotFoundError as error:
        raise UsageError(
            f"{uri} is no dataset: expected what `ray-brats preprocess COHORT DATASET` writes"
        ) from error
    if description["preprocess"] != jsonform.as_json(recipe.preprocess):
        raise UsageError(
            f"{uri} was prepared by the recipe {description['recipe']!r}, whose preprocessing "
            f"differs from that of {recipe.name!r}: preprocess the cohort again with "
            f"--recipe {recipe.name}, into another folder"
        )
    usable = [row for row in rows if row["status"] == "ok"]
    labelled = [row for row in usable if row["label_sha256"]]
    if fold is not None:
        labelled = _with_fold(labelled, fold)
    training = tuple(row for row in labelled if row["split"] == "train")
    validation = tuple(row for row in labelled if row["split"] == "val")
    if not training:
        raise UsageError(
            f"{uri} holds no labelled case to train on ({len(usable)} usable cases, "
            f"{len(labelled)} of them with a mask): check the split and the masks"
        )
    return TrainingSet(
        uri=uri,
        description=description,
        training=training,
        validation=validation,
        unlabelled=sum(not row["label_sha256"] for row in usable),
        fold=fold,
    )


def _with_fold(rows: Sequence[Row], fold: int) -> list[Row]:
    """Fold `fold` of five is for validation; patients are whole, grades are spread evenly."""
    if not 0 <= fold < 5:
        raise UsageError(f"--fold {fold}: expected 0 to 4")
    members = [row for row in rows if row["split"] in ("train", "val")]
    patients = sorted({(row["grade"] or "", row["patient_id"]) for row in members})
    order = sorted(patients, key=lambda item: (item[0], jsonform.fingerprint(item[1])))
    fold_of = {patient: number % 5 for number, (_, patient) in enumerate(order)}
    return [
        {**row, "split": "val" if fold_of[row["patient_id"]] == fold else "train"}
        for row in members
    ]
