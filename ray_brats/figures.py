"""Pictures of a case: slices in grey, masks in colour, drawn as a radiologist reads them.

Arrays come in canonical orientation, LPS in index order: index 0 grows to the patient's
Left, index 1 to Posterior, index 2 to Superior. The display is radiological: the patient's
right is on the left of the picture, anterior (axial) or superior (other planes) on top.
Colours are from the palette of Okabe and Ito, which colour-blind readers tell apart.
No pyplot, no window: every function returns a `Figure`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ray_brats import labels
from ray_brats.errors import UsageError
from ray_brats.labels import LabelMap

Volume = npt.NDArray[Any]
SpacingMm = tuple[float, float, float]
_Shape = tuple[int, int, int]
_Box = tuple[slice, ...]

CLASS_COLOURS: Final[Mapping[int, str]] = {
    labels.NECROTIC: "#D55E00",
    labels.EDEMA: "#56B4E9",
    labels.ENHANCING: "#F0E442",
}
OUTLINES: Final = {"reference": ("#56B4E9", "-"), "prediction": ("#E69F00", "--")}

_PANEL_ORDER: Final = ("flair", "t1ce", "t2", "t1")
_OVERLAY_ALPHA: Final = 0.65
_WINDOW_PERCENTILES: Final = (1.0, 99.5)
_MARGIN_VOXELS: Final = 6
_OUTLINE_WIDTHS: Final = (1.7, 1.1, 0.7)
_PANEL_INCHES: Final = 3.0
_LEGEND_INCHES: Final = 4.8
_RATIO_LIMITS: Final = (0.4, 2.5)
_PAPER: Final = "#101010"
_INK: Final = "#f2f2f2"
_TEXT: Final[dict[str, Any]] = {"color": _INK, "fontsize": 10, "parse_math": False}
_METADATA: Final[Mapping[str, dict[str, None]]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}
"""File name extension to the metadata to leave out: what names a clock or a version."""


@dataclass(frozen=True)
class _Plane:
    """How an anatomical plane of an LPS array is put on paper.

    It cuts array axis `axis`; `across` runs from left to right on paper, `upright` along its
    height; `letters` say where left, right, top and bottom lie in the body.
    """

    name: str
    axis: int
    across: int
    upright: int
    grows: Literal["down", "up"]
    letters: str

    def cut(self, volume: Volume, index: int) -> Volume:
        """Rows and columns of the paper; the row axis is `upright`."""
        return np.transpose(np.take(volume, index, axis=self.axis))


_AXIAL: Final = _Plane("axial", axis=2, across=0, upright=1, grows="down", letters="RLAP")
_CORONAL: Final = _Plane("coronal", axis=1, across=0, upright=2, grows="up", letters="RLSI")
_SAGITTAL: Final = _Plane("sagittal", axis=0, across=1, upright=2, grows="up", letters="APSI")


def draw_case(
    images: Mapping[str, Volume],
    label: LabelMap | None,
    prediction: LabelMap | None = None,
    *,
    slice_index: int | None = None,
    title: str = "",
    spacing_mm: SpacingMm = (1.0, 1.0, 1.0),
) -> Figure:
    """Draw one axial slice: each modality in grey, then the mask in colour.

    Args:
        images: canonical modality name to array (H, W, D) in LPS index order.
        label, prediction: class indices (H, W, D), side by side where both are given.
        slice_index: the slice; by default the one with most tumour, of the label if it
            has any, else of the prediction, else the middle one.
        title: text above the picture.
        spacing_mm: voxel size along the three axes.

    Raises:
        UsageError: no image, arrays that differ in shape, or a slice out of range.
    """
    if not images:
        raise UsageError("no image to draw: expected at least one modality")
    masks = _named(label, prediction)
    shape = _common_shape([*images.values(), *masks.values()])
    names = [name for name in _PANEL_ORDER if name in images]
    names += sorted(set(images) - set(names))
    index = _chosen_slice(shape, masks.values(), slice_index)
    box = _bounding_box([*images.values(), *masks.values()], shape)
    figure, axes = _row([_AXIAL] * (len(names) + len(masks)), box, spacing_mm)
    for ax, name in zip(axes, names, strict=False):
        _show_grey(ax, images[name], _AXIAL, index)
        ax.set_title(name.upper(), **_TEXT)
    for ax, (name, mask) in zip(axes[len(names) :], masks.items(), strict=True):
        _show_grey(ax, images[names[0]], _AXIAL, index)
        _show_classes(ax, mask, _AXIAL, index)
        ax.set_title(name, **_TEXT)
    position = f"axial slice {index} (0–{shape[2] - 1})"
    patches = [
        Patch(color=c, label=labels.CLASS_NAMES[i]) for i, c in CLASS_COLOURS.items() if masks
    ]
    _finish(figure, f"{title} · {position}" if title else position, patches)
    return figure


def draw_planes(
    image: Volume,
    label: LabelMap | None,
    prediction: LabelMap | None,
    *,
    title: str = "",
    spacing_mm: SpacingMm = (1.0, 1.0, 1.0),
) -> Figure:
    """Draw the three planes through the centre of the tumour with the outlines of both masks.

    The planes meet in the tumour voxel nearest to the tumour's centre of mass (of the label,
    else of the prediction), else in the middle of the image. The reference has full lines,
    the prediction dashes; each region has its own line width.

    Raises:
        UsageError: arrays that differ in shape.
    """
    masks = _named(label, prediction)
    shape = _common_shape([image, *masks.values()])
    centre = _tumour_centre(shape, masks.values(), spacing_mm)
    planes = [_AXIAL, _CORONAL, _SAGITTAL]
    figure, axes = _row(planes, _bounding_box([image, *masks.values()], shape), spacing_mm)
    for ax, plane in zip(axes, planes, strict=True):
        index = centre[plane.axis]
        _show_grey(ax, image, plane, index)
        for name, mask in masks.items():
            _show_outlines(ax, plane.cut(mask, index), *OUTLINES[name])
        ax.set_title(f"{plane.name} {index}", **_TEXT)
    lines = [Line2D([], [], color=c, ls=s, label=n) for n, (c, s) in OUTLINES.items() if n in masks]
    _finish(figure, title, lines, "outlines, thick to thin: " + ", ".join(labels.REGIONS))
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, PDF or SVG by the extension of `path`.

    The file appears under its name when it is whole, and holds no time stamp: the same
    figure gives the same bytes. Missing parent folders are made.

    Raises:
        UsageError: any other extension.
    """
    suffix = path.suffix.lower()
    if suffix not in _METADATA:
        endings = ", ".join(_METADATA)
        raise UsageError(f"cannot write a picture as {path.name!r}: expected one of {endings}")
    content = _encode(figure, suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file; the same figure gives the same bytes."""
    return _encode(figure, ".png")


def _encode(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "ray-brats"}):  # without it identifiers are random
        figure.savefig(buffer, format=suffix[1:], dpi=110, metadata=dict(_METADATA[suffix]))
    return buffer.getvalue()


def _named(label: LabelMap | None, prediction: LabelMap | None) -> dict[str, LabelMap]:
    return {n: m for n, m in zip(OUTLINES, (label, prediction), strict=True) if m is not None}


def _common_shape(arrays: Sequence[Volume]) -> _Shape:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1 or any(len(shape) != 3 or 0 in shape for shape in shapes):
        named = ", ".join("×".join(map(str, shape)) for shape in shapes)
        raise UsageError(f"cannot draw arrays of shape {named}: expected one shape of three axes")
    return shapes[0]


def _chosen_slice(shape: _Shape, masks: Iterable[LabelMap], wanted: int | None) -> int:
    if wanted is not None:
        if not 0 <= wanted < shape[2]:
            raise UsageError(f"slice {wanted} is out of range: expected 0 to {shape[2] - 1}")
        return wanted
    for mask in masks:
        tumour_per_slice = np.count_nonzero(mask != labels.BACKGROUND, axis=(0, 1))
        if tumour_per_slice.any():
            return int(tumour_per_slice.argmax())
    return shape[2] // 2


def _tumour_centre(shape: _Shape, masks: Iterable[LabelMap], spacing_mm: SpacingMm) -> _Shape:
    for mask in masks:
        if len(voxels := np.argwhere(mask != labels.BACKGROUND)):
            offsets_mm = (voxels - voxels.mean(axis=0)) * np.asarray(spacing_mm)
            x, y, z = voxels[int((offsets_mm**2).sum(axis=1).argmin())].tolist()
            return (x, y, z)
    return (shape[0] // 2, shape[1] // 2, shape[2] // 2)


def _bounding_box(arrays: Sequence[Volume], shape: _Shape) -> _Box:
    """The part that holds signal or tumour, with a margin; all of it where none does."""
    box = []
    for axis, size in enumerate(shape):
        others = tuple(other for other in range(3) if other != axis)
        signal = np.flatnonzero(np.any([(array != 0).any(axis=others) for array in arrays], axis=0))
        low, high = (signal[0], signal[-1] + 1) if signal.size else (0, size)
        box.append(slice(max(0, low - _MARGIN_VOXELS), min(size, high + _MARGIN_VOXELS)))
    return tuple(box)


def _row(planes: Sequence[_Plane], box: _Box, spacing_mm: SpacingMm) -> tuple[Figure, list[Axes]]:
    """Panels of equal height side by side, each as wide as what its plane shows."""
    extent_mm = [(part.stop - part.start) * mm for part, mm in zip(box, spacing_mm, strict=True)]
    ratios = [extent_mm[plane.across] / extent_mm[plane.upright] for plane in planes]
    widths = np.clip(ratios, *_RATIO_LIMITS)
    size = (max(_PANEL_INCHES * float(widths.sum()) + 0.3, _LEGEND_INCHES), _PANEL_INCHES + 1.0)
    figure = Figure(figsize=size, facecolor=_PAPER, layout="constrained")
    panels = figure.subplots(1, len(planes), squeeze=False, width_ratios=widths)[0]
    for ax, plane in zip(panels, planes, strict=True):
        x, y = box[plane.across], box[plane.upright]
        ax.set(xlim=(x.start - 0.5, x.stop - 0.5), ylim=(y.start - 0.5, y.stop - 0.5))
        ax.yaxis.set_inverted(plane.grows == "down")
        ax.set_aspect(spacing_mm[plane.upright] / spacing_mm[plane.across])
        ax.set_axis_off()
        places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.97), (0.5, 0.03))
        for letter, place in zip(plane.letters, places, strict=True):
            ax.text(*place, letter, ha="center", va="center", transform=ax.transAxes, **_TEXT)
    return figure, list(panels)


def _show_grey(ax: Axes, image: Volume, plane: _Plane, index: int) -> None:
    """Draw a cut; the window is of the whole volume and blind to background and outliers."""
    signal = (image != 0) & np.isfinite(image)
    low, high = np.percentile(image[signal], _WINDOW_PERCENTILES) if signal.any() else (0.0, 1.0)
    # Background is black even where intensities are z-scores and 0 is their middle.
    cut = np.where(plane.cut(signal, index), plane.cut(image, index), low)
    window = Normalize(float(low), float(max(high, low + 1e-6)))
    ax.imshow(cut, origin="lower", aspect=ax.get_aspect(), cmap="gray", norm=window)


def _show_classes(ax: Axes, mask: LabelMap, plane: _Plane, index: int) -> None:
    colours = [CLASS_COLOURS.get(i, "none") for i in range(labels.CLASS_COUNT)]
    table = to_rgba_array(colours, [_OVERLAY_ALPHA * (c != "none") for c in colours])
    cut = table[plane.cut(mask, index)]
    ax.imshow(cut, origin="lower", aspect=ax.get_aspect(), interpolation="nearest")


def _show_outlines(ax: Axes, cut: LabelMap, colour: str, dashes: str) -> None:
    for region, width in zip(labels.REGIONS, _OUTLINE_WIDTHS, strict=True):
        mask = labels.region_mask(cut, region)
        # A region that is absent from the cut, or fills it, has no outline.
        if mask.any() and not mask.all() and min(mask.shape) > 1:
            ax.contour(mask, levels=[0.5], colors=[colour], linestyles=[dashes], linewidths=width)


def _finish(figure: Figure, headline: str, handles: Sequence[Any], legend: str = "") -> None:
    """Add the headline and the legend, then fix the layout, so that redrawing moves nothing."""
    figure.suptitle(headline, **_TEXT)
    if handles:
        style: dict[str, Any] = {"frameon": False, "labelcolor": _INK, "ncols": len(handles)}
        box = figure.legend(handles=handles, loc="outside lower center", title=legend, **style)
        box.get_title().set_color(_INK)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
