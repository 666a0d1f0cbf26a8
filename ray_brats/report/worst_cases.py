"""Which cases of an evaluation are worth a look, and their pictures: the worst and the median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ray_brats.cases import volume
from ray_brats.cases.case import Case
from ray_brats.cases.geometry import same_grid
from ray_brats.cases.volume import Volume
from ray_brats.errors import CaseError
from ray_brats.labels import LabelMap, Task
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.report import figures
from ray_brats.report.page import Picture
from ray_brats.report.panels import PLANE_NAMES

Row = Mapping[str, Any]

PICTURED: Final = 3
"""Number of the worst cases that are shown, beside the median one."""
_BACKGROUNDS: Final = ("flair", "t2", "t1ce", "t1")
"""Modalities, of which the first that a case has is drawn behind its masks."""


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What a picture is drawn of."""

    modality: str
    image: Volume
    reference: LabelMap
    prediction: LabelMap


def pictures(
    scored: Sequence[Row],
    cases: Mapping[str, Case],
    predictions: Mapping[str, str],
    task: Task | None,
    *,
    made_for: Task | None = None,
    raw_3_is_enhancing: bool = False,
) -> list[Picture]:
    """Pictures of the worst cases by mean Dice, the worst first, then of the median one.

    Args:
        scored: `case_id` and `regions`, the rows of `metrics.case_metrics`, of each case that
            has a prediction.
        cases: by `case_id`.
        predictions: URI of the mask, by `case_id`.
        task: whose labels the references carry.
        made_for: whose the predictions do; by default the same.
        raw_3_is_enhancing: of the references; see `labels.to_class_index`.
    """
    if not scored:
        return []
    key = _key(scored)
    ranked = sorted(scored, key=lambda row: (_mean_dice(row, key), row["case_id"]))
    words = "Dice" if key == "dice" else "lesion-wise Dice"
    median = ranked[(len(ranked) - 1) // 2]
    chosen = [*ranked[:PICTURED], *([median] if median not in ranked[:PICTURED] else [])]
    shown = []
    for place, row in enumerate(chosen, 1):
        kind = "the median case" if row is median else f"worst case {place} of {len(ranked)}"
        dices = ", ".join(f"{item['region']} {_told(item[key])}" for item in row["regions"])
        title = f"{row['case_id']}, {kind}: {words} {dices}"
        case, mask_uri = cases[row["case_id"]], predictions[row["case_id"]]
        read = _read(case, mask_uri, (task, made_for or task), raw_3_is_enhancing)
        picture = _picture(read, title, task) if read else None
        shown += [picture] if picture else []
    return shown


def _key(rows: Sequence[Row]) -> str:
    """Dice of the whole mask, or of its lesions where the rules leave the former out."""
    regions = [region for row in rows for region in row["regions"]]
    known = any(region["dice"] is not None for region in regions)
    return "dice" if known or "lesionwise_dice" not in regions[0] else "lesionwise_dice"


def _mean_dice(row: Row, key: str) -> float:
    """1 where no region has a Dice: there was nothing to find, and nothing was found."""
    values = [float(region[key]) for region in row["regions"] if region[key] is not None]
    return sum(values) / len(values) if values else 1.0


def _told(dice: float | None) -> str:
    return "none" if dice is None else f"{dice:.3f}"


def _read(
    case: Case, prediction_uri: str, meant: tuple[Task | None, Task | None], raw_3: bool
) -> _Read | None:
    """None where the case has no image, or one that cannot be drawn behind its masks."""
    name = next((kind for kind in _BACKGROUNDS if kind in case.images), None)
    if name is None or case.segmentation is None:
        return None
    try:
        reference = volume.read_mask(case.segmentation, meant[0], raw_3_is_enhancing=raw_3)
        grid = volume.read_header(case.segmentation).geometry
        prediction = volume.read_mask(prediction_uri, meant[1], grid=grid)
        image = volume.read(case.images[name])
    except CaseError:
        return None  # the case is scored on its masks; only the picture is missing
    if same_grid(image.geometry, grid):
        return None
    return _Read(modality=name, image=image, reference=reference, prediction=prediction)


def _picture(read: _Read, title: str, task: Task | None) -> Picture:
    name, spacing_mm = read.modality, read.image.geometry.spacing_mm
    panels = []
    for plane in PLANE_NAMES:
        figure = figures.draw_planes(
            read.image.voxels_HWD,
            read.reference,
            read.prediction,
            planes=[plane],
            spacing_mm=spacing_mm,
            targets=task.targets if task else GLIOMA,
        )
        alt = (
            f"{title}. {plane.capitalize()} {name.upper()} slice through the tumour with the "
            "outlines of the reference (full lines) and of the prediction (dashes)."
        )
        panels.append((alt, figures.png_bytes(figure)))
    return Picture(title=title, panels=panels)
