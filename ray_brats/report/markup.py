"""Pieces of the report's HTML: headings, sections, tables and cells, all text escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Final

from ray_brats.report.charts import finite

DASH: Final = "–"
"""Stands for a number that does not exist."""
METRICS: Final[Mapping[str, tuple[str, int]]] = {
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95, mm", 2),
    "iou": ("IoU", 3),
    "sensitivity": ("Sensitivity", 3),
    "specificity": ("Specificity", 4),
    "precision": ("Precision", 3),
    "surface_dice_1mm": ("Nikolov's surface Dice at 1 mm", 3),
    "lesionwise_dice": ("Lesion-wise Dice", 3),
    "lesionwise_hd95_mm": ("Lesion-wise HD95, mm", 2),
    "reference_ml": ("Reference, ml", 2),
    "predicted_ml": ("Predicted, ml", 2),
    "volume_difference_ml": ("Volume difference, ml", 2),
}
"""Column to its heading and the decimals shown, in the order of the tables; rules of 2023."""
HEADINGS: Final[Mapping[str, tuple[str, int]]] = {
    **METRICS,
    "nsd_1mm": ("NSD at 1 mm", 3),
    "nsd_05mm": ("NSD at 0.5 mm", 3),
    "nsd_2mm": ("NSD at 2 mm", 3),
    "hd95_pooled_mm": ("Pooled HD95, mm", 2),
    "instance_dice": ("Instance Dice", 3),
    "instance_nsd_1mm": ("Instance NSD at 1 mm", 3),
    "tp": ("TP", 0),
    "fp": ("FP", 0),
    "fn": ("FN", 0),
    "detection_f1": ("Detection F1", 3),
    "detection_precision": ("Detection precision", 3),
    "detection_recall": ("Detection recall", 3),
    "instance_hd95_pooled_mm": ("Instance pooled HD95, mm", 2),
    "nsd_voxel": ("NSD at a voxel's side", 3),
    "instance_nsd_voxel": ("Instance NSD at a voxel's side", 3),
    "small_tp": ("Small TP", 0),
    "small_fn": ("Small FN", 0),
    "small_f1": ("Small F1", 3),
}
"""The same of the columns under any rules."""
FOLLOWS: Final[Mapping[str, str]] = {
    "hd95_mm": "Nikolov 2018, BraTS 2023",
    "surface_dice_1mm": "Nikolov 2018",
    **dict.fromkeys(("lesionwise_dice", "lesionwise_hd95_mm"), "BraTS 2023"),
    **{name: "BraTS 2026" for name in HEADINGS if name not in METRICS},
}
"""Column to the rule that it follows, where there are others of the same name in the field."""


def year(columns: Collection[str]) -> str:
    """The year of the BraTS challenge whose rules a table with these columns follows."""
    return "2026" if "nsd_1mm" in columns else "2023"


def text(value: object, decimals: int) -> str:
    """A number as it is read: a real minus sign, a dash where there is none."""
    number = finite(value)
    return DASH if number is None else f"{number:.{decimals}f}".replace("-", "−")


def section(heading: str, body: str, anchor: str = "") -> str:
    """A part of the page; nothing where it has no body."""
    mark = f' id="{anchor}"' if anchor else ""
    return f"<section{mark}>\n<h2>{escape(heading)}</h2>\n{body}</section>\n" if body else ""


def grid(plots: Iterable[str]) -> str:
    """Plots side by side, as many as fit."""
    body = "".join(plots)
    return f'<div class="grid">\n{body}</div>\n' if body else ""


def table(kind: str, caption: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of finished cells in a box that scrolls sideways where the page is narrow."""
    rows = "".join(f"<tr>{''.join(line)}</tr>\n" for line in lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
        f'<table class="{kind}"><caption><span>{escape(caption)}</span></caption>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def heads(texts: Iterable[str], kind: str = "") -> list[str]:
    """Cells of a table's head."""
    mark = f' class="{kind}"' if kind else ""
    return [f'<th scope="col"{mark}>{escape(text)}</th>' for text in texts]


def row_head(text: str, words: str = "") -> str:
    """The first cell of a row, with softer words below."""
    small = f"<small>{escape(words)}</small>" if words else ""
    return f'<th scope="row">{escape(text)}{small}</th>'


def cell(value: object, decimals: int) -> str:
    """A number; the full value goes with it, for sorting."""
    number = finite(value)
    key = "" if number is None else f' data-value="{number!r}"'
    return f'<td class="number"{key}>{text(number, decimals)}</td>'
