"""The dataset folder: its files by name, and the cases that a run learns from.

dataset/dataset.json                    what it is; written last
dataset/cases.parquet                   one row a case
dataset/cases/<case_id>/image.npy       (H, W, D, C)
dataset/cases/<case_id>/label.npy       (H, W, D) class indices; absent without a mask
dataset/cases/<case_id>/labelled.npy    where the mask is not background (`tumour`); as the next
dataset/cases/<case_id>/distance.npy    (H, W, D) how far the border of that is
dataset/cases/<case_id>/case.json       the geometry that takes a mask back
dataset/cases/<case_id>/done.json       the sidecar
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_brats.arrays import Array, Shape, Spacing
from ray_brats.errors import ArtefactError, UsageError
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import Row
from ray_brats.labels import Task
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import PreprocessConfig, Recipe
from ray_brats.training import tumour

IMAGE, LABEL, GEOMETRY, SIDECAR = "image.npy", "label.npy", "case.json", "done.json"
"""The files of one case, in `case_uri`."""
LABELLED, DISTANCE = "labelled.npy", "distance.npy"
"""What is kept of a mask beside it; absent from datasets that were made before."""
_REQUIRED = ("preprocess", "recipe", "fingerprint")


def description_uri(dataset_uri: str) -> str:
    """`dataset.json`: what a dataset is."""
    return storage.join(dataset_uri, "dataset.json")


def table_uri(dataset_uri: str) -> str:
    """`cases.parquet`: one row a case, at least with the fields of `DatasetCase`."""
    return storage.join(dataset_uri, "cases.parquet")


def case_uri(dataset_uri: str, case_id: str) -> str:
    """The folder of one prepared case."""
    return storage.join(dataset_uri, "cases", case_id)


@dataclass(frozen=True, kw_only=True)
class DatasetCase:
    """A usable case, as its row in the dataset's table says."""

    case_id: str
    patient_id: str
    grade: str | None
    split: str | None
    shape_vox: Shape
    """Size of the prepared image."""
    image_sha256: str
    label_sha256: str | None
    """None without a mask."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a run learns from: the labelled cases of a dataset, by split or fold."""

    uri: str
    fingerprint: str
    """Hash of all that training sees; other cases may come and go."""
    task: Task | None
    """What the masks hold; None where no case has one, or nothing told."""
    training: tuple[DatasetCase, ...]
    validation: tuple[DatasetCase, ...]
    unlabelled: int
    """Usable cases left out because they have no mask."""
    spacing_mm: Spacing | None = None
    """Size of the voxels that training sees, in the middle of its cases; None: not written down."""
    fold: int | None = None
    """The one of five that validates; None: the dataset's own split."""


def read_dataset(uri: str, recipe: Recipe, *, fold: int | None = None) -> Dataset:
    """The labelled cases of a dataset, by split or by one of five folds.

    Raises:
        UsageError: no dataset, prepared by another recipe, nothing to train on, or no tumour in it.
        ArtefactError: the dataset's table or description is damaged.
    """
    columns = ["status", *(field.name for field in dataclasses.fields(DatasetCase))]
    try:
        description = storage.read_json(description_uri(uri), required=_REQUIRED)
        rows = ledger.read_table(table_uri(uri), required=columns)
    except FileNotFoundError as error:
        raise UsageError(
            f"{uri} is no dataset: expected what `ray-brats preprocess COHORT DATASET` writes"
        ) from error
    prepared_by = jsonform.from_json(PreprocessConfig, description["preprocess"])
    if prepared_by != recipe.preprocess:
        raise UsageError(
            f"{uri} was prepared by the recipe {description['recipe']!r}, whose preprocessing "
            f"differs from that of {recipe.name!r}: preprocess the cohort again with "
            f"--recipe {recipe.name}, into another folder"
        )
    usable = [_case(row) for row in rows if row["status"] == "ok"]
    labelled = [case for case in usable if case.label_sha256]
    members = labelled if fold is None else _with_fold(labelled, fold)
    training = tuple(case for case in members if case.split == "train")
    if not training:
        raise UsageError(
            f"{uri} holds no labelled case to train on ({len(usable)} usable cases, "
            f"{len(members)} of them with a mask): check the split and the masks"
        )
    labelled_vox = {row["case_id"]: row.get("labelled_vox") for row in rows}
    if all(labelled_vox[case.case_id] == 0 for case in training):
        raise UsageError(
            f"{uri}: none of the {len(training)} case(s) to train on has a voxel of tumour: check "
            "that the masks are those of these cases and that --task tells what they mean"
        )
    return Dataset(
        uri=uri,
        fingerprint=description["fingerprint"],
        task=tasks.told_by(description),
        training=training,
        validation=tuple(case for case in members if case.split == "val"),
        unlabelled=len(usable) - len(labelled),
        spacing_mm=recipe.preprocess.spacing_mm or _spacing_mm(rows, training),
        fold=fold,
    )


def _spacing_mm(rows: Sequence[Row], training: Sequence[DatasetCase]) -> Spacing | None:
    """The median along each axis."""
    names = {case.case_id for case in training}
    known = [row["spacing_mm"] for row in rows if row["case_id"] in names and row.get("spacing_mm")]
    if not known:
        return None
    first, second, third = (
        round(statistics.median(sides), 3) for sides in zip(*known, strict=True)
    )
    return first, second, third


def _case(row: Row) -> DatasetCase:
    fields = {field.name: row[field.name] for field in dataclasses.fields(DatasetCase)}
    height, width, depth = row["shape_vox"]
    return DatasetCase(**{**fields, "shape_vox": (height, width, depth)})


def _with_fold(cases: Sequence[DatasetCase], fold: int) -> list[DatasetCase]:
    """Fold `fold` of five is for validation; patients are whole, grades are spread evenly."""
    if not 0 <= fold < 5:
        raise UsageError(f"--fold {fold}: expected 0 to 4")
    members = [case for case in cases if case.split in ("train", "val")]
    patients = sorted({(case.grade or "", case.patient_id) for case in members})
    order = sorted(patients, key=lambda item: (item[0], jsonform.fingerprint(item[1])))
    fold_of = {patient: number % 5 for number, (_, patient) in enumerate(order)}
    return [
        dataclasses.replace(case, split="val" if fold_of[case.patient_id] == fold else "train")
        for case in members
    ]


# --- one case on a node ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """The arrays of one prepared case on this node."""

    case_id: str
    folder: Path

    def image(self) -> Array:
        """Memory-mapped `(H, W, D, C)`; `ArtefactError` where the file is damaged."""
        return _mapped(self.folder / IMAGE)

    def label(self) -> Array:
        """Memory-mapped `(H, W, D)` class indices; `ArtefactError` where the file is damaged."""
        return _mapped(self.folder / LABEL)

    def labelled(self) -> Array:
        """As `tumour.labelled_voxels`; `ArtefactError` where the file is damaged."""
        path = self.folder / LABELLED
        return _mapped(path) if path.exists() else tumour.labelled_voxels(self.label())

    def distance(self) -> Array:
        """As `tumour.signed_distance`; `ArtefactError` where the file is damaged."""
        path = self.folder / DISTANCE
        return _mapped(path) if path.exists() else tumour.signed_distance(self.label())


def kept_of(label_HWD: Array) -> dict[str, Array]:
    """File name to array: what a dataset keeps of a mask beside it."""
    return {
        LABELLED: tumour.labelled_voxels(label_HWD),
        DISTANCE: tumour.signed_distance(label_HWD),
    }


def _mapped(path: Path) -> Array:
    try:
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    except (ValueError, EOFError) as error:
        raise ArtefactError(
            f"{path} is damaged ({error}): preprocess the cohort into this dataset again, which "
            "does that case anew"
        ) from error
