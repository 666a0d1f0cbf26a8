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
from typing import Any

from ray_brats.labels import Targets, Task
from ray_brats.metrics.original import ORIGINAL_TITLES
from ray_brats.recipes import tasks
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.report import charts, markup, ranking
from ray_brats.report.charts import finite
from ray_brats.report.markup import METRICS

Row = Mapping[str, Any]


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
    """One a case and region: `case_id`, `region` and the keys of `METRICS`."""
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
    targets: Targets = GLIOMA
    """What was scored."""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """What `comparison.compare` returns."""
    notes: Sequence[str] = ()
    """Sentences that stand under the answer."""


def metrics_csv(rows: Sequence[Row], key: str = "region") -> str:
    """The rows as CSV: case, region (or label), the known metrics, then others by name."""
    known = ["case_id", key, *METRICS]
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
    regions = _regions(rows, summary)
    sections = (
        _answer(
            summary,
            regions,
            len({str(row["case_id"]) for row in report.statuses}),
            report.targets,
        ),
        "".join(f"<p>{escape(note)}</p>\n" for note in report.notes),
        markup.section("Compared", ranking.render(report.comparison)),
        markup.section("Distributions", _distributions(rows, regions)),
        markup.section(
            "Dice against lesion volume",
            markup.grid(charts.dice_against_volume(rows, name) for name in regions),
        ),
        markup.section(
            "Training",
            markup.grid((charts.loss_curve(training), charts.validation_curve(training))),
        ),
        markup.section("All metrics", _all_metrics(summary, regions)),
        markup.section("Each label", _metric_rows(report.labels, "The parts of the regions")),
        markup.section("Cases", _cases(rows)),
        markup.section("Problem cases", _problems(report.statuses), anchor="problems"),
        markup.section("Pictures", "".join(map(_picture, report.pictures))),
        markup.section("The original project's figures", _original(summary)),
    )
    template = files("ray_brats.report").joinpath("page.html.template").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(report.title), policy=_policy(template), body="\n".join(filter(None, sections))
    )


def _policy(template: str) -> str:
    """Nothing may be loaded but pictures in the page; only this style and script may run."""
    rules = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        text = "".join(re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL))
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        rules.append(f"{tag}-src 'sha256-{digest}'")
    return "; ".join(rules)


def _regions(rows: Sequence[Row], summary: Mapping[str, Any]) -> list[str]:
    """All regions named, the known ones first, from the widest to the innermost."""
    named = dict.fromkeys([*(summary.get("regions") or {}), *(str(row["region"]) for row in rows)])
    known = [name for name in tasks.region_titles() if name in named]
    return [*known, *(name for name in named if name not in known)]


def _region_head(region: str, targets: Targets) -> str:
    titles = {item.name: item.title for item in targets.regions}
    return markup.row_head(region, titles.get(region, ""))


def _distributions(rows: Sequence[Row], regions: Sequence[str]) -> str:
    keys = ("dice", "hd95_mm", "lesionwise_dice")
    plots = markup.grid(charts.distribution(rows, regions, key, METRICS[key][0]) for key in keys)
    text = "A dot is a case, a box the middle half of the cases, a thick line the median."
    return f'<p class="soft">{text}</p>\n{plots}' if plots else ""


def _numbers(summary: Mapping[str, Any], region: str) -> Mapping[str, Any]:
    """Numbers of a region in the summary, by metric."""
    return (summary.get("regions") or {}).get(region) or {}


def _summary_cell(numbers: Mapping[str, Any], key: str) -> str:
    """Mean, 95 % interval and median of one metric."""
    values = numbers.get(key) or {}
    decimals = METRICS[key][1]
    mean, median = (markup.text(values.get(name), decimals) for name in ("mean", "median"))
    interval = (
        " to ".join(markup.text(end, decimals) for end in values.get("ci95") or ()) or markup.DASH
    )
    return f"<td><b>{mean}</b><small>{interval}</small><small>median {median}</small></td>"


def _answer(
    summary: Mapping[str, Any], regions: Sequence[str], problems: int, targets: Targets
) -> str:
    """The first thing to read: how good, how sure, over how many cases."""
    numbers = [_numbers(summary, region) for region in regions]
    whole = any(finite((part.get("dice") or {}).get("mean")) is not None for part in numbers)
    lesionwise = any("lesionwise_dice" in part for part in numbers)
    keys = ("dice", "hd95_mm")
    if lesionwise and not whole:
        keys = ("lesionwise_dice", "lesionwise_hd95_mm")
    lines = [
        [
            _region_head(region, targets),
            *(_summary_cell(_numbers(summary, region), key) for key in keys),
        ]
        for region in regions
    ]
    cases = summary.get("cases") or 0
    caption = f"Mean over {cases} cases, its 95 % bootstrap interval, and the median"
    heads = markup.heads(["Region", *(METRICS[key][0] for key in keys)])
    text = markup.table("answer", caption, heads, lines)
    if not lines:
        text = "<p>No case was scored.</p>\n"
    if problems:
        are = "case is" if problems == 1 else "cases are"
        text += f'<p class="warn">{problems} {are} not ok: <a href="#problems">see below</a>.</p>\n'
    return text


def _all_metrics(summary: Mapping[str, Any], regions: Sequence[str]) -> str:
    caption = "Mean, 95 % bootstrap interval and median over the cases"
    text = _metric_rows({name: _numbers(summary, name) for name in regions}, caption)
    penalty = (
        "Where exactly one of the two masks is empty, Dice is 0 and HD95 the fixed penalty of "
        "the BraTS challenge: a few such cases pull the mean far from the median."
    )
    empty = "; ".join(
        f"{name} is empty in {numbers['empty_references']} reference(s) and "
        f"{numbers['empty_predictions']} prediction(s), missing ones included"
        for name in regions
        if {"empty_references", "empty_predictions"} <= (numbers := _numbers(summary, name)).keys()
    )
    counted = f'<p class="soft">{escape(empty)}.</p>\n' if empty else ""
    return f'{text}<p class="soft">{penalty}</p>\n{counted}' if text else ""


def _metric_rows(columns: Mapping[str, Mapping[str, Any]], caption: str) -> str:
    """A row a metric, a column a region or label; nothing where nothing was measured."""
    lines = [
        [markup.row_head(heading), *(_summary_cell(numbers, key) for numbers in columns.values())]
        for key, (heading, _) in METRICS.items()
        if any((numbers.get(key) or {}).get("mean") is not None for numbers in columns.values())
    ]
    heads = markup.heads(["Metric", *columns])
    return markup.table("metrics", caption, heads, lines) if lines else ""


def _cases(rows: Sequence[Row]) -> str:
    heads = markup.heads(["Case", "Region"]) + markup.heads(
        (text for text, _ in METRICS.values()), "number"
    )
    lines = [
        [markup.row_head(str(row["case_id"])), f"<td>{escape(str(row['region']))}</td>"]
        + [markup.cell(row.get(key), decimals) for key, (_, decimals) in METRICS.items()]
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
    sentences = [f"Labels read as {task.name if task else 'nobody says'}.", f"Rules: {rules}."]
    if rejected:
        sentences.append("Cases that could not be used are listed and not scored.")
    return sentences
