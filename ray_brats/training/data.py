"""What a run trains on and validates with: the labelled cases of a dataset, by split or fold."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.arrays import Array
from ray_brats.errors import ArtefactError, StageFailed, UsageError
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


SPARED_BYTES = 1 << 30
"""Of a node's disk, never filled with copies."""


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
        return _mapped(self.folder / "image.npy")

    def label(self) -> Array:
        """Memory-mapped `(H, W, D)` class indices; `ArtefactError` where the file is damaged."""
        return _mapped(self.folder / "label.npy")


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
    return Path(tempfile.gettempdir()) / "ray-brats-cache" / name


def fetch(dataset_uri: str, case_id: str, *, run_uri: str) -> PreparedCase:
    """The case on this node: where it is for a path, else a copy shared by the run's workers there.

    A worker that finds another one copying the case waits for it.

    Raises:
        StageFailed: the node's disk has no room for the copy.
    """
    source = storage.join(dataset_uri, "cases", case_id)
    if not storage.is_remote(dataset_uri):
        return PreparedCase(case_id=case_id, folder=Path(source))
    folder = cache_folder(dataset_uri, run_uri) / case_id
    folder.mkdir(parents=True, exist_ok=True)
    done = storage.read_bytes(storage.join(source, "done.json"))
    marker = folder / "done.json"
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
    for name in ("image.npy", "label.npy"):
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
