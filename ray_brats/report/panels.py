"""Panels of a picture: a cut through a volume in grey, masks on it in colour.

Arrays come in canonical orientation, LPS in index order: index 0 grows to the patient's
Left, index 1 to Posterior, index 2 to Superior. The display is radiological: the patient's
right is on the left of the picture, anterior (axial) or superior (other planes) on top.
Colours are from the palette of Okabe and Ito, which colour-blind readers tell apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.figure import Figure

from ray_brats import arrays, labels
from ray_brats.arrays import Array, Box, Shape, Spacing
from ray_brats.labels import LabelMap, Targets

PlaneName = Literal["axial", "coronal", "sagittal"]
Move = Callable[[int], None]
"""Takes a panel to another slice."""

OUTLINES: Final = {"reference": ("#56B4E9", "-"), "prediction": ("#E69F00", "--")}

PANEL_ORDER: Final = ("flair", "t1ce", "t2", "t1")
"""Modalities from left to right, as in the original project's picture."""
_OVERLAY_ALPHA: Final = 0.65
_WINDOW_PERCENTILES: Final = (1.0, 99.5)
_MARGIN_VOX: Final = 6
_OUTLINE_WIDTHS: Final = (1.7, 0.7)
"""Of the first region and of the last."""
_PANEL_INCHES: Final = 3.0
_LEGEND_INCHES: Final = 4.8
_RATIO_LIMITS: Final = (0.4, 2.5)
_PAPER: Final = "#101010"
_INK: Final = "#f2f2f2"
TEXT: Final[dict[str, Any]] = {"color": _INK, "fontsize": 10, "parse_math": False}


@dataclass(frozen=True)
class Plane:
    """An anatomical plane of an LPS array, and the way it is put on paper.

    It cuts array axis `axis`; `across` runs from left to right on paper, `upright` along its
    height; `letters` say where left, right, top and bottom lie in the body.
    """

    name: str
    axis: int
    across: int
    upright: int
    grows: Literal["down", "up"]
    letters: str

    def cut(self, volume: Array, index: int) -> Array:
        """Rows and columns of the paper; the row axis is `upright`."""
        return np.transpose(np.take(volume, index, axis=self.axis))


AXIAL: Final = Plane("axial", axis=2, across=0, upright=1, grows="down", letters="RLAP")
CORONAL: Final = Plane("coronal", axis=1, across=0, upright=2, grows="up", letters="RLSI")
SAGITTAL: Final = Plane("sagittal", axis=0, across=1, upright=2, grows="up", letters="APSI")
PLANES: Final = {plane.name: plane for plane in (AXIAL, CORONAL, SAGITTAL)}
PLANE_NAMES: Final[tuple[PlaneName, ...]] = get_args(PlaneName)


def shown_box(volumes: Sequence[Array], shape: Shape) -> Box:
    """The part that holds signal or tumour, with a margin; all of it where none does."""
    boxes = [box for box in map(arrays.bounding_box, volumes) if not arrays.is_empty(box)]
    whole = arrays.box_at((0, 0, 0), shape)
    signal = functools.reduce(arrays.joint, boxes) if boxes else whole
    return arrays.clipped(arrays.grown(signal, (_MARGIN_VOX,) * 3), shape)


def row(planes: Sequence[Plane], box: Box, spacing_mm: Spacing) -> tuple[Figure, list[Axes]]:
    """Panels of equal height side by side, each as wide as what its plane shows."""
    extent_mm = np.multiply(arrays.shape_of(box), spacing_mm).tolist()
    ratios = [extent_mm[plane.across] / extent_mm[plane.upright] for plane in planes]
    widths = np.clip(ratios, *_RATIO_LIMITS)
    size = (max(_PANEL_INCHES * float(widths.sum()) + 0.3, _LEGEND_INCHES), _PANEL_INCHES + 1.0)
    figure = Figure(figsize=size, facecolor=_PAPER)
    figure.set_layout_engine("constrained", h_pad=0.09)
    panels = figure.subplots(1, len(planes), squeeze=False, width_ratios=widths)[0]
    for ax, plane in zip(panels, planes, strict=True):
        x, y = box[plane.across], box[plane.upright]
        ax.set(xlim=(x.start - 0.5, x.stop - 0.5), ylim=(y.start - 0.5, y.stop - 0.5))
        # They would not be drawn, but laid out many times: half of what a picture takes.
        ax.set(xticks=[], yticks=[])
        ax.yaxis.set_inverted(plane.grows == "down")
        ax.set_aspect(spacing_mm[plane.upright] / spacing_mm[plane.across])
        ax.set_axis_off()
        places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.97), (0.5, 0.03))
        for letter, place in zip(plane.letters, places, strict=True):
            ax.text(*place, letter, ha="center", va="center", transform=ax.transAxes, **TEXT)
    return figure, list(panels)


def show_grey(ax: Axes, image: Array, plane: Plane, index: int) -> Move:
    """Draw a cut; the window is of the whole volume and blind to background and outliers."""
    signal = (image != 0) & np.isfinite(image)
    low, high = np.percentile(image[signal], _WINDOW_PERCENTILES) if signal.any() else (0.0, 1.0)

    def cut(at: int) -> Array:
        # Background is black even where intensities are z-scores and 0 is their middle.
        return np.where(plane.cut(signal, at), plane.cut(image, at), low)

    window = Normalize(float(low), float(max(high, low + 1e-6)))
    drawn = ax.imshow(cut(index), origin="lower", aspect=ax.get_aspect(), cmap="gray", norm=window)
    return lambda at: drawn.set_data(cut(at))


def show_classes(ax: Axes, mask: LabelMap, plane: Plane, index: int, targets: Targets) -> Move:
    """Draw the classes of a cut in their colours."""
    colours = ["none", *(item.colour for item in targets.classes)]
    table = to_rgba_array(colours, [_OVERLAY_ALPHA * (c != "none") for c in colours])
    drawn = ax.imshow(
        table[plane.cut(mask, index)],
        origin="lower",
        aspect=ax.get_aspect(),
        interpolation="nearest",
    )
    return lambda at: drawn.set_data(table[plane.cut(mask, at)])


def show_outlines(ax: Axes, cut: LabelMap, colour: str, dashes: str, targets: Targets) -> None:
    """Draw the border of each learnt region in a cut, thinner the later it comes."""
    widths = np.linspace(*_OUTLINE_WIDTHS, num=len(targets.learnt)).tolist()
    for region, width in zip(targets.learnt, widths, strict=True):
        mask = labels.mask_of(cut, region.classes)
        # A region that is absent from the cut, or fills it, has no outline.
        if mask.any() and not mask.all() and min(mask.shape) > 1:
            ax.contour(mask, levels=[0.5], colors=[colour], linestyles=[dashes], linewidths=width)


def finish(figure: Figure, headline: str, handles: Sequence[Any], legend: str = "") -> None:
    """Add the headline and the legend, then fix the layout, so that redrawing moves nothing."""
    figure.suptitle(headline, **TEXT)
    if handles:
        style: dict[str, Any] = {"frameon": False, "labelcolor": _INK, "ncols": len(handles)}
        box = figure.legend(handles=handles, loc="outside lower center", title=legend, **style)
        box.get_title().set_color(_INK)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
