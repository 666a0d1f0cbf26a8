"""Summaries of commands as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.table

from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.progress import Terminal


def print_summary(summary: Summary) -> None:
    """Print what a command did as tables, on standard output."""
    console = Terminal()
    if summary.cases is not None:
        console.print(_case_table(summary.cases))
    elif summary.checks is not None:
        console.print(_check_table(summary.checks))
    elif summary.failures:
        console.print(_case_table(summary.failures))
    for line in summary.lines or ():
        console.print(line, soft_wrap=True, highlight=False)
    if summary.counts:
        counted = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
        console.print(f"cases: {counted}")
    # Without a case that could be scored all of these would be dashes.
    if summary.summary and summary.summary["cases"]:
        console.print(_score_table(summary.summary))
        console.print(_original_table(summary.summary, summary.original_soft_on_crops))
    if summary.comparison:
        console.print(_ranking_table(summary.comparison))
    for name, uri in summary.places().items():
        console.print(f"{name}: {uri}", soft_wrap=True)


def _table(title: str, columns: Sequence[str]) -> rich.table.Table:
    table = rich.table.Table(title=title, box=rich.box.SIMPLE, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _case_table(rows: Sequence[CaseRow]) -> rich.table.Table:
    table = _table("", ("case", "status", "file", "reason"))
    for row in rows:
        table.add_row(row.case_id, row.status, row.file.rsplit("/", 1)[-1], row.reason)
    return table


def _check_table(rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    table = _table("", ("", "check", "found", "what to do"))
    for row in rows:
        table.add_row(row["status"], row["check"], row["found"], row["remedy"])
    return table


_SHOWN = {
    "2023": {
        "hd95_mm": ("HD95 mm", 1),
        "lesionwise_dice": ("lesion-wise Dice", 3),
        "lesionwise_hd95_mm": ("and HD95 mm", 1),
    },
    "2026": {
        "nsd_1mm": ("NSD 1 mm", 3),
        "hd95_pooled_mm": ("HD95 mm", 1),
        "instance_dice": ("instance Dice", 3),
        "detection_f1": ("detection F1", 3),
    },
}
"""What stands beside Dice, by the year of the rules: column to its heading and decimals."""


def _score_table(summary: Mapping[str, Any]) -> rich.table.Table:
    regions = summary["regions"]
    challenge = any("nsd_1mm" in scores for scores in regions.values())
    shown = _SHOWN["2026" if challenge else "2023"]
    title = f"{summary['cases']} cases, means; the interval is a 95 % bootstrap of the mean Dice"
    table = _table(
        title + ("; rules of BraTS 2026" if challenge else ""),
        ("region", "Dice", "interval", "median", *(heading for heading, _ in shown.values())),
    )
    for region, scores in regions.items():
        dice = scores["dice"]
        table.add_row(
            region,
            _number(dice["mean"], 3),
            " – ".join(_number(bound, 3) for bound in dice["ci95"]),
            _number(dice["median"], 3),
            *(_number(scores[name]["mean"], digits) for name, (_, digits) in shown.items()),
        )
    return table


def _ranking_table(compared: Mapping[str, Any]) -> rich.table.Table:
    """Who ranks first, and the smallest corrected p of the first set against each other one."""
    title = "ranked in every case, region and metric, 1 the best; p: the smallest after Holm"
    table = _table(title, ("predictions", "mean rank", f"p against {compared['set']}"))
    for row in compared["ranking"]:
        tests = [test for test in compared["tests"] if test["against"] == row["name"]]
        known = [test["p_holm"] for test in tests if test["p_holm"] is not None]
        table.add_row(
            row["name"], _number(row["mean_rank"], 2), _number(min(known, default=None), 4)
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _original_table(
    summary: Mapping[str, Any], soft: Mapping[str, float] | None
) -> rich.table.Table:
    from ray_brats.metrics.original import ORIGINAL_TITLES

    table = _table("the original project's figures", ("figure", "hard masks, native grid"))
    if soft:
        table.add_column("probabilities, crops")
    for name, (title, definition) in ORIGINAL_TITLES.items():
        value = summary["original"][name]
        cells = [value, soft[name]] if soft else [value]
        table.add_row(f"{title}: {definition}", *(_number(cell, 4) for cell in cells))
    return table
