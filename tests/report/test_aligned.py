"""Pictures of prepared scans, and the page that holds them."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from ray_brats.arrays import Spacing, ellipsoid
from ray_brats.report import aligned
from ray_brats.report.aligned import AlignedCase

from .contents import HOSTILE

SHAPE = (40, 52, 36)
GUTTER = 16
"""Pixels beside the first column."""
BRAIN = np.pad(ellipsoid((28, 40, 24)), 6)


def scan(seed: int) -> np.ndarray:
    voxels = np.random.default_rng(seed).uniform(300, 900, SHAPE) * np.where(BRAIN, 1, 0.2)
    return voxels.astype(np.float32)


def scans() -> dict[str, np.ndarray]:
    return {name: scan(seed) for seed, name in enumerate(("t1ce", "t1", "t2"))}


def opened(jpeg: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    return np.asarray(image)


def test_a_picture_has_a_column_a_series_and_three_cuts() -> None:
    pixels = opened(aligned.picture(scans(), BRAIN))
    wide = max(SHAPE[:2])
    assert pixels.shape == (SHAPE[1] + 2 * SHAPE[2], GUTTER + 3 * wide, 3)
    assert pixels.std() > 20


def test_equal_scans_give_equal_bytes() -> None:
    assert aligned.picture(scans(), BRAIN) == aligned.picture(scans(), BRAIN)
    assert aligned.picture(scans(), BRAIN) != aligned.picture(scans(), None)


def orange(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    return (red - blue > 60) & (red - green > 15)


def test_the_brain_is_outlined_in_every_column_where_it_is_known() -> None:
    dull = {name: np.full(SHAPE, 100.0) + BRAIN for name in scans()}
    outlined = orange(opened(aligned.picture(dull, BRAIN)))[:, GUTTER:]
    for column in np.split(outlined, 3, axis=1):
        assert np.count_nonzero(column.any(axis=1)) > 25
    assert not orange(opened(aligned.picture(dull, None))).any()


def test_the_front_and_the_top_are_on_top() -> None:
    bright = np.ones(SHAPE, np.float32)
    bright[:, :13, :] += 10
    bright[:, :, 27:] += 10
    column = grey({"t1": bright})
    axial, coronal = column[: SHAPE[1]], column[SHAPE[1] : SHAPE[1] + SHAPE[2]]
    inner = slice(10, 40)
    assert axial[3:10, inner].mean() > axial[30:-4, inner].mean() + 50
    assert coronal[2:7, inner].mean() > coronal[14:-4, inner].mean() + 50


def grey(shown: dict[str, np.ndarray], spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> np.ndarray:
    """The columns of a picture whose brain is all of it."""
    shape = next(iter(shown.values())).shape
    picture = aligned.picture(shown, np.ones(shape, bool), spacing_mm)
    return opened(picture).mean(axis=2)[:, GUTTER:]


def test_the_patients_left_is_on_the_right_and_says_so() -> None:
    """The first index grows to the left."""
    dark = np.ones((120, 120, 120), np.float32)
    bright = dark.copy()
    bright[70:, :, :] += 10
    for number, plane in enumerate(("axial", "coronal")):
        panel = grey({"t1": bright})[120 * number : 120 * (number + 1)]
        assert panel[20:40, 80:115].mean() > panel[20:40, 15:50].mean() + 50, plane
        blank = grey({"t1": dark})[120 * number : 120 * (number + 1)]
        right, left = blank[54:67, 1:10] > 80, blank[54:67, 109:118] > 80
        assert right.sum() > 1.2 * left.sum() > 10, "an R has more ink than an L"


def test_the_planes_are_named_beside_the_first_column() -> None:
    pixels = opened(aligned.picture({"t1": np.ones((90, 90, 90), np.float32)}, None))
    for part in np.split(pixels[:, :GUTTER], 3):
        assert (part > 120).any()


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 3.0), (2.0, 2.0, 6.0)])
def test_voxels_of_unequal_sides_are_drawn_as_they_are(spacing_mm: Spacing) -> None:
    shape = (60, 60, 20)
    ball = np.indices(shape) - np.reshape([29.5, 29.5, 9.5], (3, 1, 1, 1))
    away_mm = np.linalg.norm(ball * np.reshape([1, 1, 3], (3, 1, 1, 1)), axis=0)
    pixels = grey({"t1": np.where(away_mm < 22, 100.0, 1.0)}, spacing_mm)
    assert pixels.shape == (180, 60)
    for panel in np.split(pixels, 3):
        # Between the letters.
        inside = panel[:, 22:38] > 100
        assert abs(np.count_nonzero(inside.sum(axis=1) > 3) - 44) < 5
    masked = aligned.picture({"t1": np.ones(shape)}, away_mm < 22, spacing_mm)
    for panel in np.split(orange(opened(masked))[:, GUTTER:], 3):
        rows, columns = np.nonzero(panel)
        assert abs(np.ptp(rows) - np.ptp(columns)) < 5


@pytest.mark.parametrize("brain", [None, np.zeros(SHAPE, bool)])
def test_a_scan_without_content_has_a_picture(brain: np.ndarray | None) -> None:
    jpeg = aligned.picture({"t1": np.zeros(SHAPE, np.float32)}, brain)
    assert opened(jpeg).shape == (SHAPE[1] + 2 * SHAPE[2], GUTTER + max(SHAPE[:2]), 3)


# --- the page --------------------------------------------------------------------------------


def case(name: str, *warnings: str, words: str = "cuts") -> AlignedCase:
    return AlignedCase(
        case_id=name, facts={"brain": "1432 ml"}, warnings=warnings, jpeg=b"\xff\xd8", words=words
    )


def test_doubtful_cases_come_first_then_those_that_were_left() -> None:
    cases = [case("good-1"), case("bad-1", "t2 lies 30° away"), case("good-2"), case("bad-2", "x")]
    failures = [{"case_id": "left-1", "reason": "no brain was found in it", "status": "rejected"}]
    html = aligned.rendered("Prepared scans", cases, failures)
    order = ["bad-1", "bad-2", "left-1", "good-1", "good-2"]
    places = [html.index(f">{name}<") for name in order]
    assert places == sorted(places)
    assert "4 case(s) prepared, 2 to be looked at first, 1 could not be prepared" in html
    assert f'id="{aligned.DOUBTFUL}"' in html
    assert html.count('<p class="warn">') == 2
    assert "no brain was found in it" in html
    assert aligned.rendered("Prepared scans", cases, failures) == html


def test_what_a_study_calls_its_series_stands_with_the_case() -> None:
    named = dataclasses.replace(case("one"), series={"t1ce": "5 AX T1 +C", "t2": HOSTILE})
    html = aligned.rendered("Prepared scans", [named], [])
    assert "t1ce: 5 AX T1 +C · t2: " in html
    assert HOSTILE not in html


def test_doubtful_cases_are_shown_alone_where_there_are_others() -> None:
    mixed = aligned.rendered("Prepared scans", [case("one"), case("two", "look")], [])
    assert mixed.count('id="filter"') == 1
    assert f":has(#filter:checked) > section:not(#{aligned.DOUBTFUL})" in mixed
    for alone in ([case("one")], [case("two", "look")]):
        assert 'id="filter"' not in aligned.rendered("Prepared scans", alone, [])


def test_sections_without_a_case_are_left_out() -> None:
    html = aligned.rendered("Prepared scans", [case("good")], [])
    assert "To be looked at first" not in html
    assert "Not prepared" not in html
    assert "0 case(s) prepared" in aligned.rendered("Prepared scans", [], [])


def test_no_name_breaks_out() -> None:
    hostile = AlignedCase(
        case_id=HOSTILE,
        facts={HOSTILE: HOSTILE},
        warnings=[HOSTILE],
        jpeg=b"x",
        words=f'{HOSTILE}" onerror="alert(1)',
    )
    html = aligned.rendered(HOSTILE, [hostile], [{"case_id": HOSTILE, "reason": HOSTILE}])
    assert HOSTILE not in html
    assert '" onerror="' not in html
    assert html.count("<script>") == 1


def test_the_page_asks_for_nothing_outside_itself() -> None:
    html = aligned.rendered("Prepared scans", [case("one"), case("two", "look")], [])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    assert "unsafe" not in policy
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    images = [source.split(",")[1] for source in sources if source.startswith("data:image/jpeg")]
    assert [base64.b64decode(text) for text in images] == [b"\xff\xd8"] * 2
    assert not re.search(r"https?://|url\(|@import", html)
