"""The dataset folder: its files by name, the cases that a run learns from, copies on a node.

dataset/dataset.json                    what it is; written last
dataset/cases.parquet                   one row a case
dataset/cases/<case_id>/image.npy       (H, W, D, C)
dataset/cases/<case_id>/label.npy       (H, W, D) class indices; absent without a mask
dataset/cases/<case_id>/case.json       the geometry that takes a mask back
dataset/cases/<case_id>/done.json       the sidecar
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_brats.arrays import Array, Shape, Spacing
from ray_brats.errors import ArtefactError, StageFailed, UsageError
from ray_brats.files import ledger, local, storage
from ray_brats.files.ledger import Row
from ray_brats.labels import Task
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import PreprocessConfig, Recipe

IMAGE, LABEL, GEOMETRY, SIDECAR = "image.npy", "label.npy", "case.json", "done.json"
"""The files of one case, in `case_uri`."""
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

SPARED_BYTES = 1 << 30
"""Room on a node's disk that copies never fill."""
ABANDONED_SECONDS = 24 * 3600.0
"""So long the copies of a run that nobody works on stay, while there is room."""
HELD = "held"
"""The file that a run's workers on a node lock; its time is when the last of them left."""


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


def _mapped(path: Path) -> Array:
    try:
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    except (ValueError, EOFError) as error:
        raise ArtefactError(
            f"{path} is damaged ({error}): preprocess the cohort into this dataset again, which "
            "does that case anew"
        ) from error


def cache_folder(dataset_uri: str, run_uri: str) -> Path:
    """Where this node keeps a run's copies of a dataset's cases."""
    name = hashlib.sha256(f"{dataset_uri} {run_uri}".encode()).hexdigest()[:16]
    return local.private_folder() / "cache" / name


def fetch(dataset_uri: str, case_id: str, *, run_uri: str) -> PreparedCase:
    """The case on this node: where it is for a path, else a copy shared by the run's workers there.

    A worker that finds another one copying the case waits for it.

    Raises:
        StageFailed: the node's disk has no room for the copy.
    """
    source = case_uri(dataset_uri, case_id)
    if not storage.is_remote(dataset_uri):
        return PreparedCase(case_id=case_id, folder=Path(source))
    folder = cache_folder(dataset_uri, run_uri) / case_id
    folder.mkdir(parents=True, exist_ok=True)
    done = storage.read_bytes(storage.join(source, SIDECAR))
    marker = folder / SIDECAR
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (marker.exists() and marker.read_bytes() == done):
            _copy(source, folder)
            storage.write_bytes(str(marker), done)
    return PreparedCase(case_id=case_id, folder=folder)


@contextlib.contextmanager
def held(dataset_uri: str, *, run_uri: str) -> Iterator[None]:
    """Inside, this process keeps its run's copies from being taken for abandoned ones.

    Those of runs that nobody on this node has worked on for a day go.
    """
    if not storage.is_remote(dataset_uri):
        yield
        return
    folder = cache_folder(dataset_uri, run_uri)
    with _locked(folder, fcntl.LOCK_SH):
        drop_abandoned(folder.parent, older_than_seconds=ABANDONED_SECONDS)
        yield


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """A lock on a run's copies; BlockingIOError where LOCK_NB finds it taken."""
    path = folder / HELD
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, kind)
            # Whoever had it before may have removed the folder.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                try:
                    yield
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(path)
                return


def drop_abandoned(root: Path, *, older_than_seconds: float) -> None:
    """Remove the copies of runs that no process here holds and that have lain for so long."""
    for folder in root.iterdir():
        try:
            idle = time.time() - (folder / HELD).stat().st_mtime
            if idle >= older_than_seconds:
                with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(folder)
        except (BlockingIOError, FileNotFoundError):
            continue


def _copy(source: str, folder: Path) -> None:
    for name in (IMAGE, LABEL):
        content = storage.read_bytes(storage.join(source, name))
        if len(content) > shutil.disk_usage(folder).free - SPARED_BYTES:
            drop_abandoned(folder.parents[1], older_than_seconds=0)
        free = shutil.disk_usage(folder).free
        if len(content) > free - SPARED_BYTES:
            raise StageFailed(
                f"no room in {folder.parent} for a copy of {source}: {len(content) >> 20} MiB "
                f"needed, {free >> 20} MiB free of which {SPARED_BYTES >> 20} MiB are left to "
                "others; set TMPDIR to a larger disk on the nodes that train"
            )
        storage.write_bytes(str(folder / name), content)


def forget(dataset_uri: str, *, run_uri: str) -> None:
    """Remove a run's copies on this node, if there are any."""
    shutil.rmtree(cache_folder(dataset_uri, run_uri), ignore_errors=True)
