"""Prepared scans for the eye: are the series on each other, and is the brain the brain?

A case is one picture: a column a series, the reference first; axial, coronal and sagittal cuts
through the brain's middle. Every column has the edges of the reference (blue) on its own grey
values, and the outline of the brain (orange): edges that do not follow what lies under them are a
series that is not aligned. The display is radiological: the patient's right is on the left.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final, Literal

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ray_brats.arrays import Array, Mask, Spacing
from ray_brats.report import markup, page
from ray_brats.report.panels import OUTLINES, PLANES, Plane

_EDGES: Final = OUTLINES["reference"][0]
_BRAIN: Final = OUTLINES["prediction"][0]
_LEVELS: Final = (35, 80)
"""Percentiles of the reference's brain whose isolines are its edges."""
_WINDOW: Final = (1.0, 99.5)
_QUALITY: Final = 80
_INK: Final = "#f2f2f2"
_GUTTER_PX: Final = 16
"""Beside the first column, for the names of planes."""
DOUBTFUL: Final = "doubtful"
_FILTER: Final = (
    '<p class="filter"><label><input type="checkbox" id="filter"> doubtful only</label></p>\n'
)
"""The page's style hides the sections behind it that are not `DOUBTFUL`."""


@dataclass(frozen=True, kw_only=True)
class AlignedCase:
    """What the page tells of one case."""

    case_id: str
    facts: Mapping[str, str]
    """Heading to text."""
    series: Mapping[str, str] = field(default_factory=dict)
    """Modality to how the study calls its series, in the order of the picture's columns."""
    warnings: Sequence[str] = ()
    """Why somebody should look at it first."""
    jpeg: bytes = b""
    words: str = ""
    """What is on the picture, for those who do not see it."""


def picture(
    scans: Mapping[str, Array], brain: Mask | None, spacing_mm: Spacing = (1.0, 1.0, 1.0)
) -> bytes:
    """The JPEG of one case; equal arguments give equal bytes.

    Args:
        scans: modality to `(H, W, D)` in LPS order, the reference first; skull and all.
        brain: on the same grid, or None.
        spacing_mm: of that grid; a pixel is as large as its finest side.
    """
    first = next(iter(scans.values()))
    shown = first > np.percentile(first, 60) if brain is None else brain
    if not shown.any():
        shown = np.ones(first.shape, bool)
    middle = [round(float(axis.mean())) for axis in np.nonzero(shown)]
    view = _View(reference=first, brain=brain, shown=shown, middle=middle, spacing_mm=spacing_mm)
    columns = [[_panel(scan, view, plane) for plane in PLANES.values()] for scan in scans.values()]
    wide = max(panel.shape[1] for panel in columns[0])
    sheet = np.concatenate([_stacked(column, wide) for column in columns], axis=1)
    image = Image.fromarray(np.pad(sheet, ((0, 0), (_GUTTER_PX, 0), (0, 0))))
    _letter(image, columns, list(scans), wide)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class _View:
    """What all panels of a case have in common."""

    reference: Array
    brain: Mask | None
    shown: Mask
    """What windows and edges are taken from."""
    middle: Sequence[int]
    """Voxel that all planes go through."""
    spacing_mm: Spacing

    def cut(self, volume: Array, plane: Plane, *, order: Literal[0, 1] = 1) -> Array:
        """A cut in square pixels, float32; `order` 0 takes the nearest voxel's value."""
        cut = plane.cut(volume, self.middle[plane.axis]).astype(np.float32)
        finest = min(self.spacing_mm)
        sides = (self.spacing_mm[plane.upright], self.spacing_mm[plane.across])
        scales = [round(side / finest, 3) for side in sides]
        if scales == [1, 1]:
            return cut
        return np.asarray(
            ndimage.zoom(cut, scales, order=order, mode="nearest", grid_mode=True), np.float32
        )


def _panel(scan: Array, view: _View, plane: Plane) -> Array:
    """One cut in grey with lines on it, `(rows, columns, 3)` uint8, its top on top."""
    low, high = np.percentile(scan[view.shown], _WINDOW)
    grey = np.clip((view.cut(scan, plane) - low) / max(high - low, 1e-6), 0, 1) * 255
    panel = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    smooth = ndimage.gaussian_filter(view.cut(view.reference, plane), 1.0)
    for level in np.percentile(view.reference[view.shown], _LEVELS):
        panel[_rim(smooth > level)] = _rgb(_EDGES)
    if view.brain is not None:
        panel[_rim(view.cut(view.brain, plane, order=0) > 0.5)] = _rgb(_BRAIN)
    return panel[::-1] if plane.grows == "up" else panel


def _stacked(panels: Sequence[Array], wide: int) -> Array:
    """Panels one below the other, each in the middle of a column."""
    spares = [wide - panel.shape[1] for panel in panels]
    return np.concatenate(
        [
            np.pad(panel, ((0, 0), (spare // 2, spare - spare // 2), (0, 0)))
            for panel, spare in zip(panels, spares, strict=True)
        ]
    )


def _letter(
    sheet: Image.Image, columns: Sequence[Sequence[Array]], names: Sequence[str], wide: int
) -> None:
    """Write modalities on top, planes at the side, and what is left and right on each panel."""
    draw = ImageDraw.Draw(sheet)
    starts = [_GUTTER_PX + number * wide for number in range(len(columns))]
    for name, start in zip(names, starts, strict=True):
        draw.text((start + 6, 4), name, fill=_INK)
    top = 0
    for plane, panel in zip(PLANES.values(), columns[0], strict=True):
        height = panel.shape[0]
        middle = top + height // 2
        for start in starts:
            draw.text((start + 2, middle), plane.letters[0], fill=_INK, anchor="lm")
            draw.text((start + wide - 3, middle), plane.letters[1], fill=_INK, anchor="rm")
        written = Image.new("RGB", (height, _GUTTER_PX))
        ImageDraw.Draw(written).text(
            (height // 2, _GUTTER_PX // 2), plane.name, fill=_INK, anchor="mm"
        )
        sheet.paste(written.rotate(90, expand=True), (0, top))
        top += height


def _rim(mask: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def rendered(title: str, cases: Sequence[AlignedCase], failures: Sequence[page.Row]) -> str:
    """The page: doubtful cases first, then what could not be prepared, then the other cases."""
    doubtful = [case for case in cases if case.warnings]
    others = [case for case in cases if not case.warnings]
    words = (
        "Blue: edges of the reference, the first column, on every series. Orange: the brain's "
        "outline. Look whether blue lines follow what lies under them, and whether orange leaves "
        "out skin and takes in all of the brain. R and L are the patient's own right and left."
    )
    body = [
        f"<p>{len(cases)} case(s) prepared, {len(doubtful)} to be looked at first, "
        f'{len(failures)} could not be prepared.</p>\n<p class="soft">{words}</p>\n',
        _FILTER if doubtful and (others or failures) else "",
        markup.section("To be looked at first", "".join(map(_figure, doubtful)), anchor=DOUBTFUL),
        markup.section("Not prepared", _failures(failures)),
        markup.section("The others", "".join(map(_figure, others))),
    ]
    return page.whole(title, "\n".join(filter(None, body)))


def _figure(case: AlignedCase) -> str:
    facts = " · ".join(f"{escape(name)} {escape(text)}" for name, text in case.facts.items())
    warnings = "".join(f'<p class="warn">{escape(text)}</p>\n' for text in case.warnings)
    source = base64.b64encode(case.jpeg).decode()
    image = f'<img alt="{escape(case.words)}" src="data:image/jpeg;base64,{source}">'
    series = " · ".join(f"{escape(name)}: {escape(text)}" for name, text in case.series.items())
    caption = f'<figcaption>{escape(case.case_id)}</figcaption><p class="soft">{facts}</p>'
    if series:
        caption += f'<p class="soft">{series}</p>'
    return (
        f'<figure class="picture">{caption}\n{warnings}<div class="planes">{image}</div></figure>\n'
    )


def _failures(rows: Sequence[Any]) -> str:
    lines = [
        [markup.row_head(str(row["case_id"])), f"<td>{escape(str(row['reason']))}</td>"]
        for row in rows
    ]
    heads = markup.heads(["Case", "Reason"])
    return markup.table("problems", "Patients whose scans were left", heads, lines) if lines else ""
