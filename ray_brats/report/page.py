"""The report of an evaluation: one HTML page that opens offline, and its tables as CSV.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from numbers import Real
from string import Template
from typing import Any, Final

from ray_brats.labels import Targets, Task
from ray_brats.metrics import scores
from ray_brats.metrics.original import ORIGINAL_TITLES
from ray_brats.recipes import tasks
from ray_brats.report import charts, markup, ranking
from ray_brats.report.charts import finite
from ray_brats.report.markup import HEADINGS, METRICS

Row = Mapping[str, Any]

_PENALTIES: Final = {
    "2023": (
        "Where exactly one of the two masks is empty, Dice is 0 and HD95 the fixed penalty of "
        "the BraTS challenge: a few such cases pull the mean far from the median."
    ),
    "2026": (
        "Where exactly one of the two masks is empty, or they share no voxel, Dice and NSD are 0 "
        "and HD95 is infinite: a dash by case, 373 mm in the means. Where both are empty no score "
        "exists, and the case is left out of the means."
    ),
}
"""What rules make of empty masks, by their year."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A case in pictures: PNGs side by side, or one below the other, and words for each."""

    title: str
    panels: Sequence[tuple[str, bytes]]
    """Alternative text and content of each PNG."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that an evaluation has to tell; what is left out has no section."""

    title: str
    rows: Sequence[Row] = ()
    """One a case and region: `case_id`, `region` and the columns."""
    columns: Sequence[str] = tuple(METRICS)
    """The metrics of the rules that the rows follow, in order; keys of `markup.HEADINGS`."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Content of `summary.json`: `cases`, `regions`, `original`."""
    statuses: Sequence[Row] = ()
    """`case_id`, `status` and `reason` of the cases that are not ok."""
    pictures: Sequence[Picture] = ()
    """Pictures in the order in which they are shown."""
    training: Sequence[Row] = ()
    """Lines of a run's log: `step`, `loss`, and validation events."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Name of a label to numbers such as `summary` holds by region."""
    targets: Targets = tasks.GLIOMA
    """What was scored."""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """What `comparison.compare` returns."""
    notes: Sequence[str] = ()
    """Sentences that stand under the answer."""


def metrics_csv(
    rows: Sequence[Row], key: str = "region", columns: Sequence[str] = tuple(METRICS)
) -> str:
    """The rows as CSV: case, region (or label), the columns, then others by name."""
    known = ["case_id", key, *columns]
    others = sorted({name for row in rows for name in row} - set(known))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(known + others)
    for row in rows:
        values = (row.get(name) for name in known + others)
        writer.writerow([finite(v) if isinstance(v, Real) else v for v in values])
    return buffer.getvalue()


def render_html(report: Report) -> str:
    """The report as one HTML page."""
    rows, summary, training = report.rows, report.summary, report.training
    columns = report.columns
    regions = _regions(rows, summary, report.targets)
    sections = (
        _answer(report, regions, columns),
        _warning(report.statuses),
        "".join(f"<p>{escape(note)}</p>\n" for note in report.notes),
        markup.section("Compared", ranking.render(report.comparison)),
        markup.section("Distributions", _distributions(report, regions)),
        markup.section(
            "Dice against lesion volume",
            markup.grid(charts.dice_against_volume(rows, name, report.targets) for name in regions),
        ),
        markup.section(
            "Training",
            markup.grid(
                (
                    charts.loss_curve(training),
                    charts.validation_curve(training, report.targets),
                )
            ),
        ),
        markup.section("All metrics", _all_metrics(summary, regions, columns)),
        markup.section(
            "Each label", _metric_rows(report.labels, columns, "The parts of the regions")
        ),
        markup.section("Cases", _cases(rows, columns)),
        markup.section("Problem cases", _problems(report.statuses), anchor="problems"),
        markup.section("Pictures", "".join(map(_picture, report.pictures))),
        markup.section("The original project's figures", _original(summary)),
    )
    return whole(report.title, "\n".join(filter(None, sections)))


def whole(title: str, body: str) -> str:
    """A page of this look: the title as text, the body as HTML that is escaped already."""
    template = files("ray_brats.report").joinpath("page.html.template").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), policy=_policy(template), body=body)


def _policy(template: str) -> str:
    """Nothing may be loaded but pictures in the page; only this style and script may run."""
    rules = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        text = "".join(re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL))
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        rules.append(f"{tag}-src 'sha256-{digest}'")
    return "; ".join(rules)


def _regions(rows: Sequence[Row], summary: Mapping[str, Any], targets: Targets) -> list[str]:
    """All regions named, the known ones first, from the widest to the innermost."""
    named = dict.fromkeys([*(summary.get("regions") or {}), *(str(row["region"]) for row in rows)])
    known = [name for name in targets.region_names if name in named]
    return [*known, *(name for name in named if name not in known)]


def _region_head(region: str, targets: Targets) -> str:
    titles = {item.name: item.title for item in targets.regions}
    return markup.row_head(region, titles.get(region, ""))


def _distributions(report: Report, regions: Sequence[str]) -> str:
    wanted = ("dice", "hd95_mm", "lesionwise_dice", "nsd_1mm", "hd95_pooled_mm")
    keys = [key for key in wanted if key in report.columns]
    plots = markup.grid(
        charts.distribution(report.rows, regions, key, HEADINGS[key][0], report.targets)
        for key in keys
    )
    text = "A dot is a case, a box the middle half of the cases, a thick line the median."
    return f'<p class="soft">{text}</p>\n{plots}' if plots else ""


def _numbers(summary: Mapping[str, Any], region: str) -> Mapping[str, Any]:
    """Numbers of a region in the summary, by metric."""
    return (summary.get("regions") or {}).get(region) or {}


def _summary_cell(numbers: Mapping[str, Any], key: str) -> str:
    """Mean, 95 % interval and median of one metric."""
    values = numbers.get(key) or {}
    decimals = HEADINGS[key][1]
    mean, median = (markup.text(values.get(name), decimals) for name in ("mean", "median"))
    interval = (
        " to ".join(markup.text(end, decimals) for end in values.get("ci95") or ()) or markup.DASH
    )
    return f"<td><b>{mean}</b><small>{interval}</small><small>median {median}</small></td>"


def _answer(report: Report, regions: Sequence[str], columns: Sequence[str]) -> str:
    """The first thing to read: how good, how sure, over how many cases."""
    summary, targets = report.summary, report.targets
    keys = _answered(summary, regions, columns)
    lines = [
        [
            _region_head(region, targets),
            *(_summary_cell(_numbers(summary, region), key) for key in keys),
        ]
        for region in regions
    ]
    cases = summary.get("cases") or 0
    caption = (
        f"Mean over {cases} cases, its 95 % bootstrap interval, and the median; rules of BraTS "
        f"{markup.year(columns)}"
    )
    heads = markup.heads(["Region", *(HEADINGS[key][0] for key in keys)])
    return (
        markup.table("answer", caption, heads, lines) if lines else "<p>No case was scored.</p>\n"
    )


def _answered(
    summary: Mapping[str, Any], regions: Sequence[str], columns: Sequence[str]
) -> Sequence[str]:
    """The metrics that answer how good it is."""
    if "nsd_1mm" in columns:
        return ("dice", "nsd_1mm", "hd95_pooled_mm")
    numbers = [_numbers(summary, region) for region in regions]
    whole = any(finite((part.get("dice") or {}).get("mean")) is not None for part in numbers)
    lesionwise = any("lesionwise_dice" in part for part in numbers)
    if lesionwise and not whole:
        return ("lesionwise_dice", "lesionwise_hd95_mm")
    return ("dice", "hd95_mm")


def _warning(statuses: Sequence[Row]) -> str:
    """How many cases are not as they should be."""
    problems = len({str(row["case_id"]) for row in statuses})
    if not problems:
        return ""
    are = "case is" if problems == 1 else "cases are"
    return f'<p class="warn">{problems} {are} not ok: <a href="#problems">see below</a>.</p>\n'


def _all_metrics(summary: Mapping[str, Any], regions: Sequence[str], columns: Sequence[str]) -> str:
    caption = "Mean, 95 % bootstrap interval and median over the cases"
    text = _metric_rows({name: _numbers(summary, name) for name in regions}, columns, caption)
    penalty = _PENALTIES[markup.year(columns)]
    empty = "; ".join(
        f"{name} is empty in {numbers['empty_references']} reference(s) and "
        f"{numbers['empty_predictions']} prediction(s), missing ones included"
        for name in regions
        if {"empty_references", "empty_predictions"} <= (numbers := _numbers(summary, name)).keys()
    )
    counted = f'<p class="soft">{escape(empty)}.</p>\n' if empty else ""
    return f'{text}<p class="soft">{penalty}</p>\n{counted}' if text else ""


def _metric_rows(
    parts: Mapping[str, Mapping[str, Any]], columns: Sequence[str], caption: str
) -> str:
    """A row a metric, a column a region or label; nothing where nothing was measured."""
    lines = [
        [
            markup.row_head(HEADINGS[key][0], markup.FOLLOWS.get(key, "")),
            *(_summary_cell(numbers, key) for numbers in parts.values()),
        ]
        for key in columns
        if any((numbers.get(key) or {}).get("mean") is not None for numbers in parts.values())
    ]
    heads = markup.heads(["Metric", *parts])
    return markup.table("metrics", caption, heads, lines) if lines else ""


def _cases(rows: Sequence[Row], columns: Sequence[str]) -> str:
    heads = markup.heads(["Case", "Region"]) + markup.heads(
        (HEADINGS[key][0] for key in columns), "number"
    )
    lines = [
        [markup.row_head(str(row["case_id"])), f"<td>{escape(str(row['region']))}</td>"]
        + [markup.cell(row.get(key), HEADINGS[key][1]) for key in columns]
        for row in rows
    ]
    caption = "Every case and region; press a heading to sort by it"
    return markup.table("cases", caption, heads, lines) if lines else ""


def _problems(statuses: Sequence[Row]) -> str:
    keys = ("status", "reason")
    lines = [
        [markup.row_head(str(row["case_id"]))]
        + [f"<td>{escape(str(row.get(key) or markup.DASH))}</td>" for key in keys]
        for row in statuses
    ]
    caption = "Cases that could not be scored as they should be"
    return (
        markup.table("problems", caption, markup.heads(["Case", "Status", "Reason"]), lines)
        if lines
        else ""
    )


def _picture(picture: Picture) -> str:
    images = "".join(
        f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">\n'
        for alt, png in picture.panels
    )
    caption = f"<figcaption>{escape(picture.title)}</figcaption>"
    return f'<figure class="picture">{caption}\n<div class="planes">\n{images}</div></figure>\n'


def _original(summary: Mapping[str, Any]) -> str:
    figures = summary.get("original") or {}
    lines = [
        [markup.row_head(name), markup.cell(figures.get(key), 4), f"<td>{escape(definition)}</td>"]
        for key, (name, definition) in ORIGINAL_TITLES.items()
    ]
    heads = (
        markup.heads(["Figure"]) + markup.heads(["Value"], "number") + markup.heads(["Definition"])
    )
    return (
        markup.table("original", "From hard masks on the native grid", heads, lines)
        if figures
        else ""
    )


def notes(task: Task | None, rules: str, rejected: bool) -> list[str]:
    """Sentences under the answer: how labels were read, and what is left out."""
    year = markup.year(scores.score_columns(rules))
    sentences = [
        f"Labels read as {task.name if task else 'nobody says'}.",
        f"Rules: {rules}, of BraTS {year}.",
    ]
    if rejected:
        sentences.append("Cases that could not be used are listed and not scored.")
    return sentences
