"""What Python users import: load a predictor, segment cases, find a cohort, score masks.

    from ray_brats import api

    predictor = api.load_predictor()
    prediction = predictor.segment({"t1ce": "a.nii.gz", "t2": "b.nii.gz", "flair": "c.nii.gz"})
    prediction.region_ml()
    api.save_mask(prediction, "mask.nii.gz", task="gli-2023")
    api.evaluate(prediction, "expert_seg.nii.gz", task="gli-2023")["WT"].dice

Nothing here starts Ray; importing it is cheap, and TensorFlow comes with `load_predictor` alone.
Whole cohorts on many machines are the commands' business.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from ray_brats.errors import (
    ArtefactError,
    CaseError,
    CaseFailed,
    CaseRejected,
    RayBratsError,
    UsageError,
)
from ray_brats.labels import Targets, Task

if TYPE_CHECKING:
    from ray_brats.cases.case import Case, Cohort
    from ray_brats.cases.geometry import Geometry
    from ray_brats.cases.volume import Volume
    from ray_brats.model.predict import Prediction, Predictor

__all__ = [
    "ArtefactError",
    "Case",
    "CaseError",
    "CaseFailed",
    "CaseRejected",
    "ChallengeScores",
    "Cohort",
    "Prediction",
    "Predictor",
    "RayBratsError",
    "RegionScores",
    "Task",
    "UsageError",
    "Volume",
    "evaluate",
    "find",
    "load_predictor",
    "save_mask",
    "volume_from_array",
]

Place = str | os.PathLike[str]
"""A local path, or a URI as s3://bucket/name."""

if not TYPE_CHECKING:
    _PLACES = {
        "Case": "ray_brats.cases.case",
        "Cohort": "ray_brats.cases.case",
        "Prediction": "ray_brats.model.predict",
        "Predictor": "ray_brats.model.predict",
        "Volume": "ray_brats.cases.volume",
    }

    def __getattr__(name: str) -> Any:
        """A class of another module, imported when it is asked for."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_PLACES[name]), name)


@dataclass(frozen=True, kw_only=True)
class RegionScores:
    """How well a mask meets its reference in one region; None is a number that does not exist.

    Distances are in mm, volumes in ml. Lesion-wise scores follow the rules of BraTS 2023.
    """

    dice: float
    hd95_mm: float
    iou: float
    sensitivity: float | None
    specificity: float | None
    precision: float | None
    surface_dice_1mm: float
    lesionwise_dice: float
    lesionwise_hd95_mm: float
    reference_ml: float
    predicted_ml: float
    volume_difference_ml: float
    """Predicted minus reference."""


@dataclass(frozen=True, kw_only=True)
class ChallengeScores:
    """`RegionScores` by the rules of BraTS 2026; None also where a distance is infinite.

    NSD is over border voxels and not the surface Dice of `RegionScores`; HD95 pools both borders.
    """

    dice: float | None
    nsd_1mm: float | None
    nsd_05mm: float | None
    nsd_2mm: float | None
    hd95_pooled_mm: float | None
    instance_dice: float | None
    """Mean over the matched instances, as the next."""
    instance_nsd_1mm: float | None
    tp: int
    fp: int
    fn: int
    detection_f1: float | None
    detection_precision: float | None
    detection_recall: float | None
    instance_hd95_pooled_mm: float | None
    nsd_voxel: float | None
    """Within the smallest side of a voxel, as the next."""
    instance_nsd_voxel: float | None
    reference_ml: float
    predicted_ml: float
    volume_difference_ml: float
    """Predicted minus reference."""
    small_tp: int | None = None
    """Small instances that were found, where the task treats them apart; None as the next two
    where it does not, or where the reference has none."""
    small_fn: int | None = None
    small_f1: float | None = None


def load_predictor(
    *bundles: Place,
    sha256: Sequence[str] = (),
    tta: Literal["none", "flips"] | None = None,
    overlap: float | None = None,
    allow_skull: bool = False,
    threads: int | None = None,
) -> Predictor:
    """What segments cases: `Predictor.segment` takes paths, bytes, volumes or a case of a cohort.

    Args:
        bundles: What `ray-brats train` writes; the probabilities of several are averaged. By
            default the starter model. A SavedModel can read and write files, so name only
            bundles you trust.
        sha256: For each bundle the hash that its bundle.json must have.
        tta: Average over mirrored inputs; by default as the first bundle says.
        overlap: Segment by sliding windows that overlap by this share.
        allow_skull: Take also scans that look as if they were not skull-stripped.
        threads: How many TensorFlow may use, where this process has not used it yet.

    Raises:
        UsageError: Another number of hashes than of bundles, or an option out of its range.
        ArtefactError: No bundle, one that was changed, or bundles that cannot be averaged.
    """
    from ray_brats.model import card
    from ray_brats.progress import silenced

    uris = [card.uri_of(os.fspath(bundle)) for bundle in bundles or (card.STARTER,)]
    # Judged before TensorFlow is loaded, which takes seconds.
    asked = card.Asked(tta=tta, overlap=overlap, allow_skull=allow_skull)
    card.choose(uris, sha256, asked)
    # On CPUs without AVX-512 TensorFlow leaves oneDNN's convolutions off, which are far faster.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with silenced():
        from ray_brats.model import bundle as loader

        return loader.load_predictor(tuple(uris), tuple(sha256), asked=asked, threads=threads)


def volume_from_array(voxels: npt.NDArray[Any], affine: npt.NDArray[Any]) -> Volume:
    """A modality that is in memory already, for `Predictor.segment`.

    Args:
        voxels: Intensities, in the index order that the affine belongs to.
        affine: Voxel index to world in mm, 4 × 4, as nibabel has it.

    Raises:
        CaseRejected: Not three axes, or an affine without an inverse.
    """
    from ray_brats.cases import volume

    return volume.from_array(voxels, np.asarray(affine, np.float64))


def find(uri: Place, *, task: Task | str | None = None, release: str | None = None) -> Cohort:
    """All cases below a folder or prefix, or in a CSV; no image is opened.

    Raises:
        UsageError: Nothing there, no case in it, or several tasks mixed.
    """
    from ray_brats.cases import cohort

    return cohort.find(os.fspath(uri), task=_task(task or release))


def _task(asked: Task | str | None) -> Task | None:
    from ray_brats.cases import cohort

    return cohort.task_of(asked) if isinstance(asked, str) else asked


def save_mask(
    prediction: Prediction,
    path: Place,
    *,
    task: Task | str | None = None,
    release: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a mask as `.nii.gz` on the grid of the input, with the labels of a task.

    Raises:
        UsageError: There is such a file already, and `overwrite` is not set; the task has other
            classes; or the folder's `score.json` says that its masks hold other integers.
    """
    from ray_brats import labels
    from ray_brats.cases.volume import encode
    from ray_brats.files import ownership, storage
    from ray_brats.model import predictions
    from ray_brats.recipes import tasks

    target = storage.absolute(os.fspath(path))
    ownership.check_files({"path": target}, (), overwrite=overwrite)
    meant = _task(task or release) or tasks.usual(prediction.targets)
    if meant is None or meant.targets != prediction.targets:
        raise UsageError(
            f"the mask holds {', '.join(prediction.targets.class_names[1:])}, and not what "
            f"{meant.name if meant else 'a task of the field'} has: pass the task that its bundle "
            "has learnt"
        )
    predictions.check_place(storage.parent_of(target), meant)
    raw = labels.from_class_index(prediction.mask_native, meant)
    storage.write_bytes(target, encode(raw, prediction.geometry))


@overload
def evaluate(
    prediction: Prediction | Place | npt.NDArray[Any],
    reference: Place | npt.NDArray[Any],
    *,
    task: Task | str | None = None,
    release: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    rules: Literal["2023", "both"] = "2023",
) -> dict[str, RegionScores]: ...


@overload
def evaluate(
    prediction: Prediction | Place | npt.NDArray[Any],
    reference: Place | npt.NDArray[Any],
    *,
    task: Task | str | None = None,
    release: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    rules: Literal["2026"],
) -> dict[str, ChallengeScores]: ...


def evaluate(
    prediction: Prediction | Place | npt.NDArray[Any],
    reference: Place | npt.NDArray[Any],
    *,
    task: Task | str | None = None,
    release: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    rules: Literal["2023", "both", "2026"] = "2023",
) -> dict[str, RegionScores] | dict[str, ChallengeScores]:
    """Scores of one mask against its reference, by region of their task.

    Args:
        prediction: A prediction, a file (read by the `score.json` beside it, where there is one,
            as `reference` is), or class indices of the task `(H, W, D)`: 0 is
            background, k its k-th class.
        reference: A file, or class indices on the same grid. Beside a file or a prediction an
            array has LPS order: its axes grow to the left, to posterior and to superior.
        task: What the masks hold, by name or as a value, where neither the names of files nor the
            prediction tell; of arrays alone by default gli-2023.
        release: The old name of `task`.
        spacing_mm: Size of a voxel along each axis; needed where both are arrays.
        rules: The year of the BraTS challenge whose rules the scores follow; `both` is 2023.

    Raises:
        CaseRejected: A file that is damaged, on another grid, or with labels of another task.
        UsageError: Masks of two tasks, other rules, or neither a file nor `spacing_mm` tells the
            size of a voxel.
        ValueError: The shapes differ, or an array does not hold class indices.
    """
    from ray_brats.metrics import scores

    if rules not in ("2023", "both", "2026"):
        raise UsageError(f"unknown rules {rules!r}: expected 2023 or 2026")
    meant = _task(task or release) or _told(prediction, reference)
    made = _made_for(prediction, meant)
    found = _made_for(reference, meant or made)
    predicted, grid = _class_index(prediction, made or meant, None)
    truth, grid = _class_index(reference, found or meant, grid)
    spacing = grid.spacing_mm if grid and spacing_mm is None else spacing_mm
    if spacing is None:
        raise UsageError("two arrays do not tell the size of their voxels: pass spacing_mm")
    meant = meant or made or found
    targets = _targets(prediction, meant)
    small_mm3 = meant.small_lesion_mm3 if meant and rules == "2026" else None
    rows = scores.case_metrics(
        truth, predicted, spacing, targets=targets, rules=rules, small_mm3=small_mm3
    )
    if rules == "2026":
        return {row.pop("region"): ChallengeScores(**row) for row in rows}
    return {row.pop("region"): RegionScores(**row) for row in rows}


def _made_for(mask: Prediction | Place | npt.NDArray[Any], task: Task | None) -> Task | None:
    """The task that the folder of a file tells; raises `UsageError` where it is not the other's."""
    from ray_brats.files import storage
    from ray_brats.model import predictions

    if not isinstance(mask, str | os.PathLike):
        return None
    folder = storage.parent_of(storage.absolute(os.fspath(mask)))
    made = predictions.made_for(folder)
    if made and task and made.targets != task.targets:
        raise UsageError(
            f"{folder} holds masks of the task {made.name}, and the other is of {task.name}: "
            "expected masks of one task"
        )
    return made


def _targets(prediction: Prediction | Place | npt.NDArray[Any], task: Task | None) -> Targets:
    """What is scored; raises `UsageError` where a prediction is of another task."""
    from ray_brats.recipes import tasks

    asked = task.targets if task else tasks.GLIOMA
    if isinstance(prediction, str | os.PathLike | np.ndarray):
        return asked
    if task and prediction.targets != asked:
        raise UsageError(
            f"the prediction holds {', '.join(prediction.targets.class_names[1:])}, the "
            f"reference is of {task.name}: expected masks of one task"
        )
    return prediction.targets


def _told(*masks: Prediction | Place | npt.NDArray[Any]) -> Task | None:
    """The task that the names of files tell, else that of the prediction, else of arrays alone."""
    from ray_brats.cases import naming
    from ray_brats.files import storage
    from ray_brats.recipes import tasks

    files = [mask for mask in masks if isinstance(mask, str | os.PathLike)]
    possible = {
        name for file in files for name in naming.tasks_of(storage.name_of(os.fspath(file)))
    }
    if len(possible) == 1:
        return tasks.TASKS[possible.pop()]
    for mask in masks:
        if not isinstance(mask, str | os.PathLike | np.ndarray):
            if files:
                return tasks.fitting(sorted(possible), mask.targets)
            return tasks.usual(mask.targets)
    return None if files else tasks.DEFAULT


def _class_index(
    mask: Prediction | Place | npt.NDArray[Any], task: Task | None, grid: Geometry | None
) -> tuple[npt.NDArray[Any], Geometry | None]:
    """Class indices in LPS order, and the grid they lie on, where it is known."""
    from ray_brats.cases import volume
    from ray_brats.files import storage

    if isinstance(mask, np.ndarray):
        return mask, grid
    if not isinstance(mask, str | os.PathLike):
        return mask.geometry.canonical(mask.mask_native), mask.geometry
    uri = storage.absolute(os.fspath(mask))
    grid = grid or volume.read_header(uri).geometry
    return volume.read_mask(uri, task, grid=grid), grid
