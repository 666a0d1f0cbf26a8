"""Plots of the report as inline SVG: text in, text out, every string of the data escaped.

Colours, light and dark, belong to the style sheet of the page: marks carry a class per
region. Each plot is narrow enough for a phone; several stand side by side on a wide screen.
A plot without anything to show is the empty string.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any, Final

import numpy as np

from ray_brats.labels import Targets
from ray_brats.recipes.tasks import GLIOMA

Row = Mapping[str, Any]

_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 336, 26, 204
_LOG_TICKS: Final = (0, 1, 3, 10, 30, 100, 300, 1000, 3000)
_LOSS_POINTS: Final = 300
_GOLDEN: Final = 0.6180339887498949


_KINDS: Final = ("wt", "tc", "et", "rc", "ed")
"""Classes of the page's style for regions in their order; further ones are grey."""


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """One axis of a plot; `log` shows log(1 + value), `names` makes it one of categories."""

    title: str
    high: float
    low: float = 0.0
    log: bool = False
    names: tuple[str, ...] = ()

    def place(self, value: float) -> float:
        """The place of a value: 0 is the start of the axis, 1 its end."""
        if self.log:
            return math.log1p(max(value, 0.0)) / math.log1p(self.high)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Values to mark and their texts."""
        if self.names:
            return [(index + 0.5, name) for index, name in enumerate(self.names)]
        if self.log:
            return [(tick, str(tick)) for tick in _LOG_TICKS if tick <= self.high]
        least = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(least))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= least * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(index * step, f"{index * step:.6g}") for index in range(first, last + 1)]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Two axes, and where a pair of values lies between them in the units of the SVG."""

    x: _Axis
    y: _Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Horizontal and vertical position."""
        return (
            round(_LEFT + (_RIGHT - _LEFT) * self.x.place(x), 1),
            round(_BOTTOM - (_BOTTOM - _TOP) * self.y.place(y), 1),
        )

    def dot(self, x: float, y: float, kind: str, hint: str) -> str:
        """A case: a dot that tells its name under the pointer."""
        across, down = self.at(x, y)
        title = f"<title>{escape(hint)}</title>"
        return f'<circle class="dot {kind}" cx="{across}" cy="{down}" r="3.5">{title}</circle>\n'

    def curve(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        """A line through points."""
        path = "L".join("{} {}".format(*self.at(*point)) for point in points)
        return f'<path class="curve {kind}" d="M{path}"/>\n'

    def render(self, caption: str, alt: str, marks: str) -> str:
        """Put the axes around the marks and the words beside them."""
        rules = []
        for value, text in self.y.ticks():
            y = self.at(self.x.low, value)[1]
            rules.append(f'<line class="rule" x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>')
            rules.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
        for value, text in self.x.ticks():
            x = self.at(value, self.y.low)[0]
            name = escape(text)
            rules.append(f'<text x="{x}" y="{_BOTTOM + 17}" text-anchor="middle">{name}</text>')
        middle = (_LEFT + _RIGHT) / 2
        return (
            f'<figure class="plot"><figcaption>{escape(caption)}</figcaption>\n'
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(alt)}">\n'
            + "\n".join(rules)
            + f'\n<text class="name" x="4" y="12">{escape(self.y.title)}</text>\n'
            f'<text class="name" x="{middle}" y="{_BOTTOM + 38}" text-anchor="middle">'
            f"{escape(self.x.title)}</text>\n{marks}</svg></figure>\n"
        )


def finite(value: object) -> float | None:
    """A number as a float; None for what is no number, NaN or infinite."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def region_title(region: str, targets: Targets) -> str:
    """A region in words, for example "WT, whole tumour"."""
    titles = {item.name: item.title for item in targets.regions}
    return f"{region}, {titles[region]}" if region in titles else region


def distribution(
    rows: Sequence[Row], regions: Sequence[str], key: str, heading: str, targets: Targets = GLIOMA
) -> str:
    """Draw every case as a dot, with quartiles and median, in a column per region.

    Args:
        rows: one a case and region, with `case_id`, `region` and `key`.
        regions: columns from left to right.
        key: metric to show; one in mm is drawn on a logarithmic axis.
        heading: the metric in words.
        targets: whose regions these are.
    """
    columns = {name: _pairs(rows, name, key) for name in regions}
    values = [value for column in columns.values() for value, _ in column]
    if not values:
        return ""
    log = key.endswith("_mm")
    y = _Axis(title=heading, high=max(10.0, *values) if log else 1.0, log=log)
    names = tuple(regions)
    frame = _Frame(x=_Axis(title="", high=len(names), names=names), y=y)
    marks, words = [], []
    for index, (name, column) in enumerate(columns.items()):
        if not column:
            continue
        low, middle, high = np.percentile([value for value, _ in column], (25, 50, 75)).tolist()
        words.append(
            f"{region_title(name, targets)}: median {middle:.3g}, quartiles {low:.3g} to {high:.3g}"
        )
        marks.append(_box(frame, index, (low, middle, high), _kind(name, targets)))
        for rank, (value, case) in enumerate(sorted(column)):
            # The golden ratio spreads neighbours in value evenly over the column.
            across = index + 0.5 + 0.44 * ((rank * _GOLDEN) % 1 - 0.5)
            marks.append(
                frame.dot(across, value, _kind(name, targets), f"{case}, {name}: {value:.4g}")
            )
    caption = heading.partition(",")[0]
    return frame.render(caption, f"{heading}. {'; '.join(words)}.", "".join(marks))


def dice_against_volume(rows: Sequence[Row], region: str, targets: Targets = GLIOMA) -> str:
    """Draw the Dice of one region against its reference volume, a dot a case."""
    points = []
    for row in rows:
        volume, dice = finite(row.get("reference_ml")), finite(row.get("dice"))
        if str(row["region"]) == region and volume is not None and dice is not None:
            points.append((volume, dice, str(row["case_id"])))
    if not points:
        return ""
    x = _Axis(title="reference volume, ml", high=max(1.0, *(p[0] for p in points)), log=True)
    frame = _Frame(x=x, y=_Axis(title="Dice", high=1.0))
    marks = "".join(
        frame.dot(volume, dice, _kind(region, targets), f"{case}: Dice {dice:.3f}, {volume:.2f} ml")
        for volume, dice, case in points
    )
    volumes = [point[0] for point in points]
    alt = (
        f"Dice of {region_title(region, targets)} against its reference volume: {len(points)} "
        f"cases from {min(volumes):.3g} to {max(volumes):.3g} ml."
    )
    return frame.render(region_title(region, targets), alt, marks)


def loss_curve(training: Sequence[Row]) -> str:
    """Draw the training loss by step; long runs as means over equal numbers of steps."""
    steps = [line for line in training if "event" not in line]
    pairs = [(finite(line.get("step")), finite(line.get("loss"))) for line in steps]
    points = sorted((step, loss) for step, loss in pairs if step is not None and loss is not None)
    if not points:
        return ""
    parts = np.array_split(np.asarray(points), min(len(points), _LOSS_POINTS))
    means = [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]
    y = _fitted("loss", [loss for _, loss in means])
    frame = _Frame(x=_fitted("step", [step for step, _ in points]), y=y)
    alt = f"Training loss over {len(points)} steps, from {points[0][1]:.3g} to {points[-1][1]:.3g}."
    return frame.render("Training loss", alt, frame.curve(means, _KINDS[0]))


def validation_curve(training: Sequence[Row], targets: Targets = GLIOMA) -> str:
    """Draw the Dice of each region in the validation events by step."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in training:
        step, dice = finite(line.get("step")), line.get("dice")
        if line.get("event") == "validation" and step is not None and isinstance(dice, Mapping):
            for name, value in dice.items():
                if (number := finite(value)) is not None:
                    curves.setdefault(str(name), []).append((step, number))
    if not curves:
        return ""
    x = _fitted("step", [step for points in curves.values() for step, _ in points])
    frame = _Frame(x=x, y=_Axis(title="Dice", high=1.0))
    marks, words = [], []
    for index, (name, points) in enumerate(curves.items()):
        left = _LEFT + 60 + 76 * index
        marks.append(frame.curve(sorted(points), _kind(name, targets)))
        marks.extend(
            frame.dot(*point, _kind(name, targets), f"{name}: {point[1]:.3f}") for point in points
        )
        marks.append(f'<path class="curve {_kind(name, targets)}" d="M{left} 8h26"/>')
        marks.append(f'<text class="name" x="{left + 31}" y="12">{escape(name)}</text>\n')
        words.append(f"{region_title(name, targets)} ends at {max(points)[1]:.3g}")
    return frame.render("Validation Dice", f"Validation Dice. {'; '.join(words)}.", "".join(marks))


def _kind(region: str, targets: Targets) -> str:
    """The class of a region's marks in the page's style."""
    names = targets.region_names
    place = names.index(region) if region in names else len(_KINDS)
    return _KINDS[place] if place < len(_KINDS) else "other"


def _pairs(rows: Sequence[Row], region: str, key: str) -> list[tuple[float, str]]:
    pairs = [(finite(row.get(key)), row) for row in rows if str(row["region"]) == region]
    return [(value, str(row["case_id"])) for value, row in pairs if value is not None]


def _fitted(title: str, values: Sequence[float]) -> _Axis:
    """A linear axis that holds 0 and the values, and is never of no length."""
    low, high = min(0.0, *values), max(0.0, *values)
    return _Axis(title=title, low=low, high=high if high > low else low + 1.0)


def _box(frame: _Frame, index: int, quartiles: tuple[float, float, float], kind: str) -> str:
    low, middle, high = quartiles
    left, top = frame.at(index + 0.2, high)
    right, bottom = frame.at(index + 0.8, low)
    across = frame.at(0, middle)[1]
    return (
        f'<rect class="box {kind}" x="{left}" y="{top}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}"/>'
        f'<line class="middle {kind}" x1="{left}" x2="{right}" y1="{across}" y2="{across}"/>\n'
    )
