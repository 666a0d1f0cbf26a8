"""Prepared scans for the eye: are the series on each other, and is the brain the brain?

A case is one picture: a column a series, the reference first; axial, coronal and sagittal cuts
through the brain's middle. Every column has the edges of the reference (blue) on its own grey
values, and the outline of the brain (orange): edges that do not follow what lies under them are a
series that is not aligned.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ray_brats.arrays import Array, Mask
from ray_brats.report import markup, page
from ray_brats.report.panels import OUTLINES, PLANES, Plane

_EDGES: Final = OUTLINES["reference"][0]
_BRAIN: Final = OUTLINES["prediction"][0]
_LEVELS: Final = (35, 80)
"""Percentiles of the reference's brain whose isolines are its edges."""
_WINDOW: Final = (1.0, 99.5)
_QUALITY: Final = 80
DOUBTFUL: Final = "doubtful"


@dataclass(frozen=True, kw_only=True)
class AlignedCase:
    """What the page tells of one case."""

    case_id: str
    facts: Mapping[str, str]
    """Heading to text."""
    warnings: Sequence[str] = ()
    """Why somebody should look at it first."""
    jpeg: bytes = b""
    words: str = ""
    """What is on the picture, for those who do not see it."""


def picture(scans: Mapping[str, Array], brain: Mask | None) -> bytes:
    """The JPEG of one case; equal arguments give equal bytes.

    Args:
        scans: modality to `(H, W, D)` at 1 mm in LPS order, the reference first; skull and all.
        brain: on the same grid, or None.
    """
    first = next(iter(scans.values()))
    shown = first > np.percentile(first, 60) if brain is None else brain
    if not shown.any():
        shown = np.ones(first.shape, bool)
    middle = [round(float(axis.mean())) for axis in np.nonzero(shown)]
    columns = [
        np.concatenate(
            [_panel(scan, first, brain, shown, plane, middle) for plane in PLANES.values()]
        )
        for scan in scans.values()
    ]
    sheet = Image.fromarray(np.concatenate(columns, axis=1))
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(scans):
        draw.text((number * columns[0].shape[1] + 6, 4), name, fill="#f2f2f2")
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def _panel(
    scan: Array,
    reference: Array,
    brain: Mask | None,
    shown: Mask,
    plane: Plane,
    middle: Sequence[int],
) -> Array:
    """One cut in grey with lines on it, `(rows, columns, 3)` uint8, as wide as the widest plane."""
    at = middle[plane.axis]
    low, high = np.percentile(scan[shown], _WINDOW)
    grey = np.clip((plane.cut(scan, at) - low) / max(high - low, 1e-6), 0, 1) * 255
    panel = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    smooth = ndimage.gaussian_filter(plane.cut(reference, at).astype(np.float32), 1.0)
    for level in np.percentile(reference[shown], _LEVELS):
        panel[_rim(smooth > level)] = _rgb(_EDGES)
    if brain is not None:
        panel[_rim(plane.cut(brain, at))] = _rgb(_BRAIN)
    if plane.grows == "up":
        panel = panel[::-1]
    spare = max(scan.shape[:2]) - panel.shape[1]
    return np.pad(panel, ((0, 0), (spare // 2, spare - spare // 2), (0, 0)))


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
        "out skin and takes in all of the brain."
    )
    body = [
        f"<p>{len(cases)} case(s) prepared, {len(doubtful)} to be looked at first, "
        f'{len(failures)} could not be prepared.</p>\n<p class="soft">{words}</p>\n',
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
    caption = f'<figcaption>{escape(case.case_id)}</figcaption><p class="soft">{facts}</p>'
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
