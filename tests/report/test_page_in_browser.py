"""The report in a real browser: wide, on a phone, in the dark and in print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import classes
import numpy as np
import pytest

from ray_brats.cases import phantom
from ray_brats.metrics import comparison, scores, summary
from ray_brats.report import figures
from ray_brats.report import page as report

pytestmark = pytest.mark.browser

WIDTHS_PX = (1280, 390)
A4_LANDSCAPE_PX = 1032
"""297 mm less two margins of 12 mm, at 96 pixels an inch."""
LONG_ID = "BraTS-GLI-" + "0123456789" * 11 + "-000"
SPACING_MM = (3.75, 3.75, 3.75)

# What a reader would call broken, as a list of sentences; boxes are compared with a pixel of
# tolerance. Inside `.scroll` a table may be wider than the page: it scrolls there by itself.
FAULTS = """
() => {
  const faults = [], page = document.documentElement, width = page.clientWidth;
  const name = (e) => `${e.tagName.toLowerCase()}.${e.getAttribute("class") || ""} ` +
    JSON.stringify((e.textContent || e.alt || "").trim().slice(0, 40));
  const visible = (e) => {
    const r = e.getBoundingClientRect();
    return r.width > 0 && r.height > 0 && getComputedStyle(e).visibility !== "hidden";
  };
  const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 ||
    a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
  if (page.scrollWidth > width) faults.push(`the page is ${page.scrollWidth} wide, not ${width}`);
  const printed = matchMedia("print").matches;
  for (const e of document.body.querySelectorAll("*")) {
    if (!visible(e) || ["SCRIPT", "TITLE"].includes(e.tagName)) continue;
    const r = e.getBoundingClientRect(), svg = e.closest("svg");
    const scrolls = !printed && e.closest(".scroll") && !e.matches(".scroll");
    if (!scrolls && (r.left < -1 || r.right > width + 1)) faults.push(`outside: ${name(e)}`);
    if (svg && svg !== e) {
      const s = svg.getBoundingClientRect();
      if (r.left < s.left - 1 || r.right > s.right + 1 || r.top < s.top - 1 ||
          r.bottom > s.bottom + 1) faults.push(`outside of its plot: ${name(e)}`);
    } else if (!svg && !e.matches(".scroll") && e.clientWidth &&
               e.scrollWidth > e.clientWidth + 1) {
      faults.push(`cut: ${name(e)}`);
    }
    if (e.tagName === "IMG" && !e.naturalWidth) faults.push(`not loaded: ${name(e)}`);
    if (svg && svg !== e) continue;
    const parts = svg ? Array.from(e.querySelectorAll("text")) : Array.from(e.children);
    const boxes = parts.filter(visible).map((part) => [part, part.getBoundingClientRect()]);
    if (boxes.length > 400) continue;
    boxes.forEach(([part, box], i) => boxes.slice(i + 1).forEach(([other, its]) => {
      if (!apart(box, its)) faults.push(`${name(part)} overlaps ${name(other)}`);
    }));
  }
  return faults;
}
"""


def scored(case_id: str, index: int, rows: dict[str, list[Any]]) -> tuple[Any, Any]:
    """Truth and image of a phantom; its rows are added for two sets of predictions."""
    case = phantom.make_phantom(index, shape_vox=(64, 64, 41))
    for name, shift in (("ours/predictions", index % 3), ("theirs/predictions", 2)):
        prediction = np.roll(case.label, shift, 0)
        found = scores.case_metrics(case.label, prediction, SPACING_MM)
        rows[name] += [{"case_id": case_id, **row} for row in found]
        if name == "ours/predictions":
            by_label = scores.label_metrics(case.label, prediction, SPACING_MM)
            rows["labels"] += [{"case_id": case_id, **row} for row in by_label]
    return case.images["flair"], case.label


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything that a report can have, long names and dashes included."""
    rows: dict[str, list[Any]] = {"ours/predictions": [], "theirs/predictions": [], "labels": []}
    names = [f"BraTS20_Training_{index:03d}" for index in range(1, 7)]
    cases = {name: scored(name, index, rows) for index, name in enumerate(names)}
    nothing = np.zeros((8, 8, 8), np.uint8)
    absent = scores.missing_prediction_metrics(nothing, SPACING_MM)
    for key in ("ours/predictions", "theirs/predictions"):
        rows[key] += [{"case_id": LONG_ID, **row} for row in absent]
    pictures = []
    for name, (image, label) in list(cases.items())[:2]:
        title = f"{LONG_ID}, worst case 1 of 7: Dice WT 0.812, TC 0.703, ET 0.604"
        panels = []
        for plane in figures.PLANE_NAMES:
            figure = figures.draw_planes(
                image, label, np.roll(label, 2, 0), planes=[plane], spacing_mm=SPACING_MM
            )
            panels.append((f"{plane} slice of {name}", figures.png_bytes(figure)))
        pictures.append(report.Picture(title=title, panels=panels))
    events = [
        {"event": "validation", "step": step, "dice": dict.fromkeys(classes.REGIONS, step / 2000)}
        for step in (500, 1000)
    ]
    ours = rows["ours/predictions"]
    figures_of_it = {"accuracy": 0.985, "iou_score": 0.69, "mean_iou": 0.51, "dice_loss": 0.2236}
    content = report.Report(
        rows=ours,
        summary=summary.summarise(ours, [{**figures_of_it, "dice_loss_weighted": 0.8059}]),
        title="Segmentation report",
        statuses=[
            {
                "case_id": LONG_ID,
                "status": "rejected",
                "reason": "not on the grid of its case: shape (118, 120, 78) against "
                "(120, 120, 78); masks are never resampled in silence",
            }
        ],
        pictures=pictures,
        training=[{"step": n, "loss": 3 / (n + 1)} for n in range(1000)] + events,
        labels=summary.summarise_labels(rows["labels"]),
        comparison=comparison.compare(
            {name: rows[name] for name in ("ours/predictions", "theirs/predictions")}
        ),
        notes=["Labels read as brats2020.", "Rules: both."],
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.render_html(content), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """A function that opens the page; what it said and asked for is checked at the end."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(width_px: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width_px, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri(), wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {page_file.as_uri()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_nothing_overlaps_and_nothing_is_cut(
    opened: Any, tmp_path: Path, width_px: int, scheme: str
) -> None:
    page = opened(width_px, color_scheme=scheme)
    assert page.evaluate(FAULTS) == []
    picture = tmp_path / "page.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) > 384) == (scheme == "light")


def test_the_check_sees_what_is_broken(opened: Any) -> None:
    page = opened()
    page.evaluate("document.querySelector('h1').style.width = '2000px'")
    page.evaluate("document.querySelector('h2').style.marginTop = '-60px'")
    page.evaluate("document.querySelector('svg text').setAttribute('x', '900')")
    faults = "\n".join(page.evaluate(FAULTS))
    for words in ("the page is", "outside: h1", "overlaps", "outside of its plot: text"):
        assert words in faults


def test_text_stands_out_from_its_paper_in_both_schemes(opened: Any) -> None:
    """WCAG 2.1, level AA: a contrast of 4.5 to 1 for everything that is read."""
    contrast = """
    () => {
      const light = (css) => {
        const [r, g, b] = css.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
          .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      return Math.min(...Array.from(document.querySelectorAll(
        "p, a, th, td, small, caption, figcaption, button, svg text")).map((e) => {
        const style = getComputedStyle(e);
        const ink = light(e.closest("svg") ? style.fill : style.color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      }));
    }
    """
    for scheme in ("light", "dark"):
        assert opened(color_scheme=scheme).evaluate(contrast) >= 4.5


def test_every_column_of_the_cases_sorts_both_ways(opened: Any) -> None:
    page = opened()
    table = page.locator("table.cases").last
    read = """
    (table, column) => Array.from(table.tBodies[0].rows).map((row) => {
      const cell = row.cells[column];
      if (!cell.classList.contains("number")) return cell.textContent;
      return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    })
    """
    heads = table.locator("thead th")
    assert heads.count() == 2 + len(report.METRICS)
    for column in range(heads.count()):
        for order in ("ascending", "descending"):
            heads.nth(column).locator("button").click()
            assert heads.nth(column).get_attribute("aria-sort") == order
            values = table.evaluate(read, column)
            existing = [value for value in values if value is not None]
            assert existing == sorted(existing, reverse=order == "descending")
            assert values[: len(existing)] == existing, "what does not exist stands last"
    assert table.locator("thead th[aria-sort]").count() == 1
    assert page.evaluate(FAULTS) == []


def test_headings_are_reached_and_pressed_by_keyboard(opened: Any) -> None:
    page = opened()
    button = page.locator("table.cases").last.locator("thead button").nth(2)
    button.focus()
    page.keyboard.press("Enter")
    sort = "document.activeElement.closest('th').getAttribute('aria-sort')"
    assert page.evaluate(sort) == "ascending"


def test_a_phone_scrolls_wide_tables_and_not_the_page(opened: Any) -> None:
    page = opened(390, has_touch=True, is_mobile=True, device_scale_factor=2)
    wide = page.locator(".scroll").filter(has=page.locator("table.cases")).last
    room, content = wide.evaluate("e => [e.clientWidth, e.scrollWidth]")
    assert content > room
    wide.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    last = wide.locator("tbody tr").first.locator("td").last.bounding_box()
    assert last["x"] + last["width"] <= 390 + 1
    first = wide.locator("tbody th").first.bounding_box()
    assert 0 <= first["x"] < 390 / 2, "the name of the case stays in sight"


def test_it_prints_on_a4_with_every_column_on_the_paper(opened: Any) -> None:
    page = opened(A4_LANDSCAPE_PX, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate(FAULTS) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_everything_without_words_has_words_in_its_stead(opened: Any) -> None:
    wordless = """
    () => Array.from(document.querySelectorAll("img, svg, .scroll")).filter((e) =>
      !(e.getAttribute("alt") || e.getAttribute("aria-label") || "").trim()).length
    """
    assert opened().evaluate(wordless) == 0
