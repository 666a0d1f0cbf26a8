"""The report's section on several sets of predictions: their ranking, and the tests."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ray_brats.report import markup
from ray_brats.report.markup import HEADINGS


def render(comparison: Mapping[str, Any]) -> str:
    """The section as HTML: who ranks first, and whether the differences are more than chance.

    Args:
        comparison: what `comparison.compare` returns; empty where nothing was compared.
    """
    ranking, tests = comparison.get("ranking") or (), comparison.get("tests") or ()
    if not ranking:
        return ""
    measured = [(test["region"], test["metric"]) for test in tests]
    # What is told, and ranks nobody, is in the means alone.
    means = ranking[0]["mean"]
    told = [(region, key) for region, numbers in means.items() for key in numbers]
    columns = list(dict.fromkeys([*measured, *told]))
    heads = markup.heads(["Predictions"]) + markup.heads(["Mean rank"], "number")
    heads += markup.heads((f"{region} {HEADINGS[key][0]}" for region, key in columns), "number")
    places = [
        [markup.row_head(row["name"]), markup.cell(row["mean_rank"], 2)]
        + [markup.cell(row["mean"][region].get(key), HEADINGS[key][1]) for region, key in columns]
        for row in ranking
    ]
    words = (
        "In every case, region and metric the sets of predictions are ranked, 1 the best; the "
        "mean of all ranks decides, as in the BraTS challenges. Then the means."
    )
    ranked = {metric for _, metric in measured}
    names = [HEADINGS[key][0] for key in dict.fromkeys(key for _, key in told) if key not in ranked]
    if ranked and names:
        words += f" {' and '.join(names)} is told and ranks nobody."
    text = f'<p class="soft">{words}</p>\n'
    text += markup.table("cases", "Ranking; press a heading to sort by it", heads, places)
    heads = markup.heads(["Against", "Region", "Metric"])
    heads += markup.heads(["Cases", "Median difference", "p", "p after Holm"], "number")
    lines = [
        [markup.row_head(test["against"])]
        + [f"<td>{escape(words)}</td>" for words in (test["region"], HEADINGS[test["metric"]][0])]
        + [markup.cell(test["cases"], 0)]
        + [markup.cell(test["median_difference"], HEADINGS[test["metric"]][1])]
        + [markup.cell(test[name], 4) for name in ("p", "p_holm")]
        for test in tests
    ]
    caption = (
        f"Wilcoxon's signed-rank test, two-sided, by case: {comparison['set']} minus the other"
    )
    return text + markup.table("cases", caption, heads, lines)
