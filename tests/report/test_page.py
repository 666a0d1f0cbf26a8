"""The report: it answers first, it opens offline, and nothing in the data can break out."""

import base64
import csv
import hashlib
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ray_brats.metrics import scores
from ray_brats.recipes.tasks import DEFAULT
from ray_brats.report import charts, markup, page
from ray_brats.report.markup import METRICS
from ray_brats.report.page import Picture, Report, metrics_csv, render_html

from .contents import HOSTILE, row, training

VOID = {"meta", "link", "img", "br", "line", "path", "rect"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data) -> None:
        if data.strip() and self._open[-1] not in ("style", "script"):
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def three_cases() -> list[dict[str, object]]:
    scores = {"case-a": 0.9, "case-b": 0.8, "case-c": 0.4}
    return [row(c, r, dice=d, hd95_mm=9.0 * d) for c, d in scores.items() for r in ("WT", "ET")]


def summary() -> dict[str, object]:
    dice = {"mean": 0.7, "median": 0.8, "ci95": [0.4, 0.9]}
    hd95 = {"mean": 6.3, "median": 7.2, "ci95": [3.6, 8.1]}
    original = {"accuracy": 0.985, "iou_score": 0.6946, "mean_iou": 0.5183}
    return {
        "cases": 3,
        "regions": {name: {"dice": dice, "hd95_mm": hd95} for name in ("WT", "ET")},
        "original": {**original, "dice_loss": 0.2236, "dice_loss_weighted": 0.8059},
    }


def html(rows=(), summary=None, *, title="t", **changes) -> str:
    return render_html(Report(title=title, rows=rows, summary=summary or {}, **changes))


def full_page(**changes) -> str:
    arguments = {
        "title": "Validation",
        "statuses": [{"case_id": "case-d", "status": "missing", "reason": "no prediction"}],
        "pictures": [Picture(title="Worst case", panels=[("three planes of case-c", b"\x89PNG")])],
        "training": training(),
        "notes": ["Labels of brats2021."],
        **changes,
    }
    return html(three_cases(), summary(), **arguments)


def test_the_answer_stands_before_everything_else() -> None:
    texts = Page(full_page()).texts
    at = [texts.index(words) for words in ("Validation", "For research, not for diagnosis.")]
    answer = ["WT", "whole tumour", "0.700", "0.400 to 0.900", "median 0.800"]
    at.append(texts.index("WT"))
    assert texts[at[-1] : at[-1] + 5] == answer
    assert texts[at[-1] + 5 : at[-1] + 8] == ["6.30", "3.60 to 8.10", "median 7.20"]
    at += [texts.index(words) for words in ("Distributions", "Dice against lesion volume")]
    at += [texts.index(words) for words in ("Training", "Cases", "Problem cases", "Pictures")]
    at.append(texts.index("The original project's figures"))
    assert at[1:] == sorted(at[1:])


def test_the_answer_is_lesionwise_where_nothing_else_was_measured() -> None:
    nothing = {"mean": None, "median": None, "ci95": [None, None]}
    some = {"mean": 0.4, "median": 0.5, "ci95": [0.2, 0.6]}
    numbers = {"dice": nothing, "lesionwise_dice": some, "lesionwise_hd95_mm": some}
    texts = Page(html([], {"cases": 1, "regions": {"WT": numbers}})).texts
    answer = texts.index("Lesion-wise Dice")
    assert texts[answer : answer + 5] == [
        "Lesion-wise Dice",
        "Lesion-wise HD95, mm",
        "WT",
        "whole tumour",
        "0.400",
    ]


def test_the_page_asks_for_nothing_outside_itself() -> None:
    content = full_page()
    assert not re.search(r"https?:|//|@import|url\(", content)
    page = Page(content)
    resources = [value for _, tag in page.tags for key, value in tag.items() if key in ("src",)]
    assert resources
    assert all(value.startswith("data:image/png;base64,") for value in resources)
    assert {link["href"] for link in page.all("link") + page.all("a")} == {"data:,", "#problems"}


def test_the_security_policy_admits_this_style_and_script_and_no_other() -> None:
    content = full_page()
    policies = [
        str(tag["content"])
        for tag in Page(content).all("meta")
        if tag.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert "unsafe" not in policies[0]
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policies[0]
    assert not any("style" in tag for _, tag in Page(content).tags)


def test_data_cannot_become_markup() -> None:
    rows = [row(HOSTILE, "WT"), row("case", HOSTILE)]
    content = html(
        rows,
        {"cases": HOSTILE, "regions": {HOSTILE: {}}, "original": {"accuracy": HOSTILE}},
        title=HOSTILE + "$title",
        statuses=[{"case_id": HOSTILE, "status": HOSTILE, "reason": HOSTILE}],
        pictures=[Picture(title=HOSTILE, panels=[(HOSTILE, b"")])],
        training=training(),
        notes=[HOSTILE],
    )
    page = Page(content)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert not any(key.startswith("on") for _, tag in page.tags for key in tag)
    assert sum(HOSTILE in text for text in page.texts) >= 8
    assert page.all("img")[0]["alt"] == HOSTILE


def test_equal_input_gives_equal_bytes_without_clock_or_path() -> None:
    assert full_page() == full_page()
    assert not re.search(r"/(home|tmp|work|usr)\b", full_page())


def test_nothing_scored_is_said_and_breaks_nothing() -> None:
    for empty in ({}, {"cases": 0, "regions": {}, "original": {}}, {"regions": None}):
        texts = Page(html([], empty, title="Nothing")).texts
        assert texts == [
            "Nothing",
            "Nothing",
            "For research, not for diagnosis.",
            "No case was scored.",
        ]


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_number_that_does_not_exist_is_an_en_dash(missing) -> None:
    rows = [row("case-a", "WT", **dict.fromkeys(METRICS, missing))]
    figures = {"dice": {"mean": missing, "median": missing, "ci95": None}, "hd95_mm": None}
    content = html(rows, {"cases": 1, "regions": {"WT": figures}})
    page = Page(content)
    assert page.texts.count("–") >= len(METRICS) + 4
    assert not any("data-value" in cell for cell in page.all("td"))
    assert not re.search(r"\b(nan|inf|None)\b", content)
    assert page.all("svg") == []


def test_cases_carry_the_values_that_sorting_needs() -> None:
    cells = Page(html([row("case-a", "WT", dice=np.float32(0.5))])).all("td")
    assert {"class": "number", "data-value": "0.5"} in cells


def test_regions_stand_from_the_widest_to_the_innermost_and_others_after() -> None:
    rows = [row("a", name) for name in ("edema", "ET", "TC", "WT")]
    texts = Page(html(rows)).texts
    heads = [text for text in texts if text in ("WT", "TC", "ET", "edema")]
    assert heads[:4] == ["WT", "TC", "ET", "edema"]


def test_every_plot_and_picture_has_words_in_its_stead() -> None:
    page = Page(full_page())
    plots = page.all("svg")
    assert len(plots) == 3 + 2 + 2
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    assert "WT, whole tumour: median 0.8" in str(plots[0]["aria-label"])
    assert [picture["alt"] for picture in page.all("img")] == ["three planes of case-c"]


def test_the_original_figures_have_their_definitions_and_their_label() -> None:
    texts = Page(full_page()).texts
    assert "From hard masks on the native grid" in texts
    for value, definition in (
        ("0.9850", "share of voxels"),
        ("0.6946", "soft Jaccard"),
        ("0.5183", "Keras MeanIoU"),
        ("0.8059", "1 − 0.25 × mean Dice"),
        ("0.2236", "1 − mean Dice"),
    ):
        assert texts[texts.index(value) + 1].startswith(definition)


def test_problem_cases_are_counted_at_the_top() -> None:
    assert "1 case is not ok:" in Page(full_page()).texts
    assert "problems" not in [tag.get("href") for tag in Page(full_page(statuses=())).all("a")]


def test_csv_has_stable_columns_and_empty_fields() -> None:
    rows = [row("a", "WT", dice=None, hd95_mm=math.nan, zebra=1, apple=np.float64(0.1))]
    lines = list(csv.reader(io.StringIO(metrics_csv(rows))))
    assert lines[0] == ["case_id", "region", *METRICS, "apple", "zebra"]
    assert lines[1][:5] == ["a", "WT", "", "", "0.5"]
    assert lines[1][-2:] == ["0.1", "1.0"]
    assert metrics_csv([]) == ",".join(["case_id", "region", *METRICS]) + "\n"


COLUMNS_2026 = scores.score_columns("2026", small=True)


def page_of_2026(**values: float | None) -> list[str]:
    cell = {"mean": 0.7, "median": 0.8, "ci95": [0.4, 0.9]}
    rows = [{"case_id": "case-a", "region": "WT", **dict.fromkeys(COLUMNS_2026, 0.5), **values}]
    numbers = {"cases": 1, "regions": {"WT": dict.fromkeys(COLUMNS_2026, cell)}}
    return Page(html(rows, numbers, columns=COLUMNS_2026)).texts


def test_every_column_of_any_rules_has_a_heading() -> None:
    assert set(markup.HEADINGS) == {*METRICS, *COLUMNS_2026}
    assert tuple(METRICS) == scores.score_columns("both")


def test_by_the_rules_of_2026_dice_nsd_and_hd95_answer() -> None:
    texts = page_of_2026()
    assert any("rules of BraTS 2026" in text for text in texts)
    at = texts.index("NSD at 1 mm")
    assert texts[at - 1 : at + 2] == ["Dice", "NSD at 1 mm", "Pooled HD95, mm"]
    assert any("373 mm in the means" in text for text in texts)
    assert not any("surface Dice" in text or "Lesion-wise" in text for text in texts)


def test_a_number_names_the_rule_it_follows() -> None:
    texts = page_of_2026()
    for heading in ("NSD at 2 mm", "Instance Dice", "Detection F1", "Small F1"):
        places = [at for at, text in enumerate(texts) if text == heading]
        assert "BraTS 2026" in [texts[at + 1] for at in places]
    value = {"mean": 0.7, "median": 0.8, "ci95": [0.4, 0.9]}
    numbers = {"surface_dice_1mm": value, "lesionwise_dice": value, "dice": value}
    texts = Page(html([], {"cases": 1, "regions": {"WT": numbers}})).texts
    assert any("rules of BraTS 2023" in text for text in texts)
    assert texts[texts.index("Nikolov's surface Dice at 1 mm") + 1] == "Nikolov 2018"
    assert texts[texts.index("Lesion-wise Dice") + 1] == "BraTS 2023"


def test_counts_are_whole_numbers_and_infinite_ones_a_dash() -> None:
    texts = page_of_2026(tp=3, hd95_pooled_mm=None)
    row = texts[texts.index("case-a") :]
    assert "3" in row
    assert "–" in row
    assert page.notes(DEFAULT, "2026", rejected=False)[1] == "Rules: 2026, of BraTS 2026."
    assert page.notes(DEFAULT, "both", rejected=False)[1] == "Rules: both, of BraTS 2023."


def test_what_is_told_and_ranks_nobody_is_named() -> None:
    means = {"dice": 0.9, "nsd_1mm": 0.8, "hd95_pooled_mm": 4.0}
    test = {"against": "b", "region": "WT", "cases": 2, "median_difference": 0.1, "p": 0.5}
    compared = {
        "set": "a",
        "ranking": [
            {"name": name, "mean_rank": rank, "mean": {"WT": means}}
            for name, rank in (("a", 1.0), ("b", 2.0))
        ],
        "tests": [{**test, "metric": name, "p_holm": 1.0} for name in ("dice", "nsd_1mm")],
    }
    texts = Page(html([], columns=COLUMNS_2026, comparison=compared)).texts
    assert any(text.endswith("Pooled HD95, mm is told and ranks nobody.") for text in texts)
    assert texts.index("WT Pooled HD95, mm") < texts.index("4.00")


def test_csv_has_the_columns_of_its_rules() -> None:
    head = metrics_csv([], "label", COLUMNS_2026).splitlines()[0]
    assert head == ",".join(["case_id", "label", *COLUMNS_2026])


def test_report_and_charts_import_no_framework() -> None:
    for module in (page, charts):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert not re.search(r"(import|from) (ray|tensorflow|keras|pandas)\b", source)
