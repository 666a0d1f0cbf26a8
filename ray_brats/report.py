"""The report of an evaluation: one HTML file that opens offline, and the table as CSV.

The page asks for nothing outside itself, and its Content-Security-Policy forbids it to; all
that comes from data is escaped. It holds no clock, host or path: equal input, equal bytes.
A number that does not exist (None, NaN or infinite) is an en dash on the page, an empty
field in the CSV.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from numbers import Real
from string import Template
from typing import Any, Final

from ray_brats import charts
from ray_brats.charts import finite
from ray_brats.labels import REGION_TITLES, REGIONS

Row = Mapping[str, Any]

METRICS: Final[Mapping[str, tuple[str, int]]] = {
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95, mm", 2),
    "iou": ("IoU", 3),
    "sensitivity": ("Sensitivity", 3),
    "specificity": ("Specificity", 4),
    "precision": ("Precision", 3),
    "surface_dice_1mm": ("Surface Dice at 1 mm", 3),
    "lesionwise_dice": ("Lesion-wise Dice", 3),
    "lesionwise_hd95_mm": ("Lesion-wise HD95, mm", 2),
    "reference_ml": ("Reference, ml", 2),
    "predicted_ml": ("Predicted, ml", 2),
    "volume_difference_ml": ("Volume difference, ml", 2),
}
"""Column to its heading and the decimals shown, in the order of the tables."""

_ORIGINAL: Final = (
    ("accuracy", "Accuracy", "share of voxels whose class is right, background included"),
    ("iou_score", "IoU score", "soft Jaccard index, mean of four classes, at threshold 0.5"),
    ("mean_iou", "Mean IoU", "Keras MeanIoU of the argmax over the four classes"),
    ("dice_loss_weighted", "Dice loss, weighted", "1 − 0.25 × mean Dice, as that project had it"),
    ("dice_loss", "Dice loss, plain", "1 − mean Dice of the four classes"),
)
_DASH: Final = "–"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture for the report: a PNG and the words that stand for it."""

    title: str
    alt: str
    png: bytes


def metrics_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV: case, region, the known metrics, then others by name."""
    known = ["case_id", "region", *METRICS]
    others = sorted({key for row in rows for key in row} - set(known))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(known + others)
    for row in rows:
        values = (row.get(key) for key in known + others)
        writer.writerow([finite(v) if isinstance(v, Real) else v for v in values])
    return buffer.getvalue()


def render_html(
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    *,
    title: str,
    statuses: Sequence[Row] = (),
    pictures: Sequence[Picture] = (),
    training: Sequence[Row] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return the report as one HTML page.

    Args:
        rows: one a case and region: `case_id`, `region` and the keys of `METRICS`.
        summary: content of `summary.json`: `cases`, `regions`, `original`.
        title: heading of the page.
        statuses: `case_id`, `status` and `reason` of the cases that are not ok.
        pictures: shown in the order given.
        training: lines of `metrics.jsonl`: `step`, `loss`, and validation events.
        notes: sentences that stand under the answer.
    """
    regions = _regions(rows, summary)
    sections = (
        _answer(summary, regions, len(statuses)),
        "".join(f"<p>{escape(note)}</p>\n" for note in notes),
        _section("Distributions", _distributions(rows, regions)),
        _section(
            "Dice against lesion volume",
            _grid(charts.dice_against_volume(rows, name) for name in regions),
        ),
        _section(
            "Training", _grid((charts.loss_curve(training), charts.validation_curve(training)))
        ),
        _section("All metrics", _all_metrics(summary, regions)),
        _section("Cases", _cases(rows)),
        _section("Problem cases", _problems(statuses), anchor="problems"),
        _section("Pictures", "".join(map(_picture, pictures))),
        _section("The original project's figures", _original(summary)),
    )
    template = files("ray_brats").joinpath("report.html.template").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title), policy=_policy(template), body="\n".join(filter(None, sections))
    )


def _policy(template: str) -> str:
    """Nothing may be loaded but pictures in the page; only this style and script may run."""
    rules = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        text = "".join(re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL))
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        rules.append(f"{tag}-src 'sha256-{digest}'")
    return "; ".join(rules)


def _text(value: object, decimals: int) -> str:
    number = finite(value)
    return _DASH if number is None else f"{number:.{decimals}f}".replace("-", "−")


def _regions(rows: Sequence[Row], summary: Mapping[str, Any]) -> list[str]:
    """All regions named, the known ones first, from the widest to the innermost."""
    named = dict.fromkeys([*(summary.get("regions") or {}), *(str(row["region"]) for row in rows)])
    return [name for name in REGIONS if name in named] + [n for n in named if n not in REGIONS]


def _section(heading: str, body: str, anchor: str = "") -> str:
    mark = f' id="{anchor}"' if anchor else ""
    return f"<section{mark}>\n<h2>{escape(heading)}</h2>\n{body}</section>\n" if body else ""


def _grid(plots: Iterable[str]) -> str:
    body = "".join(plots)
    return f'<div class="grid">\n{body}</div>\n' if body else ""


def _table(kind: str, caption: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of finished cells in a box that scrolls sideways where the page is narrow."""
    rows = "".join(f"<tr>{''.join(line)}</tr>\n" for line in lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
        f'<table class="{kind}"><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def _heads(texts: Iterable[str], kind: str = "") -> list[str]:
    mark = f' class="{kind}"' if kind else ""
    return [f'<th scope="col"{mark}>{escape(text)}</th>' for text in texts]


def _row_head(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _region_head(region: str) -> str:
    words = escape(REGION_TITLES.get(region, ""))
    return f'<th scope="row">{escape(region)}<small>{words}</small></th>'


def _cell(value: object, decimals: int) -> str:
    number = finite(value)
    key = "" if number is None else f' data-value="{number!r}"'
    return f'<td class="number"{key}>{_text(number, decimals)}</td>'


def _distributions(rows: Sequence[Row], regions: Sequence[str]) -> str:
    keys = ("dice", "hd95_mm", "lesionwise_dice")
    plots = _grid(charts.distribution(rows, regions, key, METRICS[key][0]) for key in keys)
    text = "A dot is a case, a box the middle half of the cases, a thick line the median."
    return f'<p class="soft">{text}</p>\n{plots}' if plots else ""


def _summary_cell(summary: Mapping[str, Any], region: str, key: str) -> str:
    """Mean, 95 % interval and median of one metric in one region."""
    figures = ((summary.get("regions") or {}).get(region) or {}).get(key) or {}
    decimals = METRICS[key][1]
    mean, median = (_text(figures.get(name), decimals) for name in ("mean", "median"))
    interval = " to ".join(_text(end, decimals) for end in figures.get("ci95") or ()) or _DASH
    return f"<td><b>{mean}</b><small>{interval}</small><small>median {median}</small></td>"


def _answer(summary: Mapping[str, Any], regions: Sequence[str], problems: int) -> str:
    """The first thing to read: how good, how sure, over how many cases."""
    keys = ("dice", "hd95_mm")
    lines = [
        [_region_head(region), *(_summary_cell(summary, region, key) for key in keys)]
        for region in regions
    ]
    cases = summary.get("cases") or 0
    caption = f"Mean over {cases} cases, its 95 % bootstrap interval, and the median"
    text = _table("answer", caption, _heads(["Region", "Dice", "HD95, mm"]), lines)
    if not lines:
        text = "<p>No case was scored.</p>\n"
    if problems:
        are = "case is" if problems == 1 else "cases are"
        text += f'<p class="warn">{problems} {are} not ok: <a href="#problems">see below</a>.</p>\n'
    return text


def _all_metrics(summary: Mapping[str, Any], regions: Sequence[str]) -> str:
    measured = {key for figures in (summary.get("regions") or {}).values() for key in figures or ()}
    lines = [
        [_row_head(heading), *(_summary_cell(summary, region, key) for region in regions)]
        for key, (heading, _) in METRICS.items()
        if key in measured
    ]
    caption = "Mean, 95 % bootstrap interval and median over the cases"
    text = _table("metrics", caption, _heads(["Metric", *regions]), lines)
    penalty = (
        "Where exactly one of the two masks is empty, Dice is 0 and HD95 the fixed penalty of "
        "the BraTS challenge: a few such cases pull the mean far from the median."
    )
    return f'{text}<p class="soft">{penalty}</p>\n' if lines else ""


def _cases(rows: Sequence[Row]) -> str:
    heads = _heads(["Case", "Region"]) + _heads((text for text, _ in METRICS.values()), "number")
    lines = [
        [_row_head(str(row["case_id"])), f"<td>{escape(str(row['region']))}</td>"]
        + [_cell(row.get(key), decimals) for key, (_, decimals) in METRICS.items()]
        for row in rows
    ]
    caption = "Every case and region; press a heading to sort by it"
    return _table("cases", caption, heads, lines) if lines else ""


def _problems(statuses: Sequence[Row]) -> str:
    keys = ("status", "reason")
    lines = [
        [_row_head(str(row["case_id"]))]
        + [f"<td>{escape(str(row.get(key) or _DASH))}</td>" for key in keys]
        for row in statuses
    ]
    caption = "Cases that could not be scored as they should be"
    return _table("problems", caption, _heads(["Case", "Status", "Reason"]), lines) if lines else ""


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure class="picture"><figcaption>{escape(picture.title)}</figcaption>\n'
        f'<img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}"></figure>\n'
    )


def _original(summary: Mapping[str, Any]) -> str:
    figures = summary.get("original") or {}
    lines = [
        [_row_head(name), _cell(figures.get(key), 4), f"<td>{escape(definition)}</td>"]
        for key, name, definition in _ORIGINAL
    ]
    heads = _heads(["Figure"]) + _heads(["Value"], "number") + _heads(["Definition"])
    return _table("original", "From hard masks on the native grid", heads, lines) if figures else ""
