"""Pictures of a case: slices in grey, masks in colour, drawn as a radiologist reads them.

Arrays, orientation and colours are those of `panels`. No pyplot, no window.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypedDict, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from ray_brats import labels
from ray_brats.arrays import Array, Shape, Spacing
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.labels import LabelMap, Targets
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.report import panels
from ray_brats.report.panels import (
    OUTLINES,
    PANEL_ORDER,
    PLANE_NAMES,
    PLANES,
    TEXT,
    Plane,
    PlaneName,
)

ANIMATED: Final = ".gif"
_FRAME_MS: Final = 90
_FRAME_DPI: Final = 72

MAKER: Final = "ray-brats"
_METADATA: Final[Mapping[str, dict[str, str | None]]] = {
    ".png": {"Software": MAKER},
    ".pdf": {"Creator": MAKER, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": MAKER, "Date": None},
}
"""File name extension to its metadata: who made it, and nothing that names a clock or a version."""
_MARKS: Final = {
    ".png": b"tEXtSoftware\0ray-brats",
    ".pdf": b"/Creator (ray-brats)",
    ".svg": b"<dc:title>ray-brats</dc:title>",
    ANIMATED: b"\x21\xfe\x09ray-brats",
}
EXTENSIONS: Final = (*_METADATA, ANIMATED)


class View(TypedDict, total=False):
    """How a case is looked at; every key may be left out."""

    plane: PlaneName
    """Which way slices lie; by default axial."""
    title: str
    """Text above the picture."""
    spacing_mm: Spacing
    """Voxel size along the three axes; by default 1 mm."""
    targets: Targets
    """What class indices mean; by default a glioma's."""


def draw_case(
    images: Mapping[str, Array],
    label: LabelMap | None,
    prediction: LabelMap | None = None,
    *,
    slice_index: int | None = None,
    **view: Unpack[View],
) -> Figure:
    """Draw one slice: each modality in grey, then the mask in colour.

    Args:
        images: canonical modality name to array (H, W, D) in LPS index order.
        label, prediction: class indices (H, W, D), side by side where both are given.
        slice_index: the slice; by default the one with most tumour, of the label if it
            has any, else of the prediction, else the middle one.
        view: as `View` says.

    Raises:
        UsageError: no image, arrays that differ in shape, a plane that is none, or a slice out
            of range.
    """
    masks = _named(label, prediction)
    plane = view.get("plane", "axial")
    shape = _checked_shape(images, masks, plane)
    index = _chosen_slice(shape, masks.values(), PLANES[plane], slice_index)
    return _case_figure(images, masks, index, view)[0]


def animate_case(
    images: Mapping[str, Array],
    label: LabelMap | None,
    prediction: LabelMap | None = None,
    **view: Unpack[View],
) -> bytes:
    """A GIF that goes through all slices with signal, each drawn as by `draw_case`.

    Arguments and errors are those of `draw_case`; equal arguments give equal bytes.
    """
    masks = _named(label, prediction)
    plane = view.get("plane", "axial")
    shape = _checked_shape(images, masks, plane)
    box = panels.shown_box([*images.values(), *masks.values()], shape)
    within = box[PLANES[plane].axis]
    figure, move = _case_figure(images, masks, within.start, view)
    figure.set_dpi(_FRAME_DPI)
    frames = []
    for pixels in _frames(figure, move, range(within.start, within.stop)):
        frames.append(Image.fromarray(pixels).quantize(128, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    first, *others = frames
    options: dict[str, Any] = {"save_all": True, "duration": _FRAME_MS, "loop": 0}
    options["comment"] = MAKER.encode()
    first.save(buffer, format="GIF", append_images=others, **options)
    return buffer.getvalue()


def draw_planes(
    image: Array,
    label: LabelMap | None,
    prediction: LabelMap | None,
    *,
    planes: Sequence[PlaneName] = PLANE_NAMES,
    title: str = "",
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
    targets: Targets = GLIOMA,
) -> Figure:
    """Draw planes through the centre of the tumour with the outlines of both masks.

    The planes meet in the tumour voxel nearest to the tumour's centre of mass (of the label,
    else of the prediction), else in the middle of the image. The reference has full lines,
    the prediction dashes; each region has its own line width.

    Raises:
        UsageError: arrays that differ in shape.
    """
    masks = _named(label, prediction)
    shape = _common_shape([image, *masks.values()])
    centre = _tumour_centre(shape, masks.values(), spacing_mm)
    chosen = [PLANES[name] for name in planes]
    box = panels.shown_box([image, *masks.values()], shape)
    figure, axes = panels.row(chosen, box, spacing_mm)
    for ax, plane in zip(axes, chosen, strict=True):
        index = centre[plane.axis]
        panels.show_grey(ax, image, plane, index)
        for name, mask in masks.items():
            panels.show_outlines(ax, plane.cut(mask, index), *OUTLINES[name], targets)
        ax.set_title(f"{plane.name} {index}", **TEXT)
    lines = [Line2D([], [], color=c, ls=s, label=n) for n, (c, s) in OUTLINES.items() if n in masks]
    names = ", ".join(region.name for region in targets.learnt)
    panels.finish(figure, title, lines, f"outlines, thick to thin: {names}")
    return figure


def check_name(name: str) -> str:
    """The extension of a picture's name; `UsageError` where it is none of `EXTENSIONS`."""
    suffix = "." + name.rsplit(".", 1)[-1].lower()
    if suffix not in EXTENSIONS:
        endings = ", ".join(EXTENSIONS)
        raise UsageError(f"cannot write a picture as {name!r}: expected one of {endings}")
    return suffix


def is_ours(uri: str) -> bool:
    """Whether there is a picture that says of itself that it was made here."""
    mark = _MARKS[check_name(storage.name_of(uri))]
    try:
        return mark in storage.read_bytes(uri)
    except OSError:
        return False


def save_figure(figure: Figure, uri: str) -> None:
    """Write a figure as PNG, PDF or SVG by the extension of `uri`.

    The file appears under its name when it is whole, and holds no time stamp: the same
    figure gives the same bytes. Missing parent folders are made.

    Raises:
        UsageError: any other extension.
    """
    suffix = check_name(storage.name_of(uri))
    if suffix == ANIMATED:
        raise UsageError(f"{uri}: one slice does not move; expected {', '.join(_METADATA)}")
    storage.write_bytes(uri, _encode(figure, suffix))


def png_bytes(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file; the same figure gives the same bytes."""
    return _encode(figure, ".png")


def _encode(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "ray-brats"}):  # without it identifiers are random
        figure.savefig(buffer, format=suffix[1:], dpi=110, metadata=dict(_METADATA[suffix]))
    return buffer.getvalue()


def _case_figure(
    images: Mapping[str, Array],
    masks: Mapping[str, LabelMap],
    index: int,
    view: View,
) -> tuple[Figure, Callable[[int], None]]:
    """The figure of one slice, and a function that moves it to another."""
    plane, targets = PLANES[view.get("plane", "axial")], view.get("targets", GLIOMA)
    title, spacing_mm = view.get("title", ""), view.get("spacing_mm", (1.0, 1.0, 1.0))
    shape = _common_shape([*images.values(), *masks.values()])
    names = [name for name in PANEL_ORDER if name in images]
    names += sorted(set(images) - set(names))
    box = panels.shown_box([*images.values(), *masks.values()], shape)
    figure, axes = panels.row([plane] * (len(names) + len(masks)), box, spacing_mm)
    moves = []
    for ax, name in zip(axes, names, strict=False):
        moves.append(panels.show_grey(ax, images[name], plane, index))
        ax.set_title(name.upper(), **TEXT)
    for ax, (name, mask) in zip(axes[len(names) :], masks.items(), strict=True):
        moves.append(panels.show_grey(ax, images[names[0]], plane, index))
        moves.append(panels.show_classes(ax, mask, plane, index, targets))
        ax.set_title(name, **TEXT)

    def headline(at: int) -> str:
        position = f"{plane.name} slice {at} (0–{shape[plane.axis] - 1})"
        return f"{title} · {position}" if title else position

    patches = [Patch(color=item.colour, label=item.name) for item in targets.classes if masks]
    panels.finish(figure, headline(index), patches)

    def move(at: int) -> None:
        for move_panel in moves:
            move_panel(at)
        figure.suptitle(headline(at), **TEXT)

    return figure, move


def _frames(figure: Figure, move: Callable[[int], None], indices: range) -> Iterator[Array]:
    """The pixels (rows, columns, RGB) of a figure at each index.

    What moves, and the letters that lie on it, is drawn over the rest, which is drawn once: a
    whole drawing lays out all texts and ticks again, three quarters of its time.
    """
    moving: list[Any] = [image for ax in figure.axes for image in ax.images]
    moving += [text for ax in figure.axes for text in ax.texts] + figure.texts
    canvas: Any = FigureCanvasAgg(figure)
    for artist in moving:
        artist.set_visible(False)
    canvas.draw()
    rest = canvas.copy_from_bbox(figure.bbox)
    for artist in moving:
        artist.set_visible(True)
    for index in indices:
        canvas.restore_region(rest)
        move(index)
        for artist in moving:
            artist.draw(canvas.get_renderer())
        yield np.array(canvas.buffer_rgba())[..., :3]


def _checked_shape(images: Mapping[str, Array], masks: Mapping[str, LabelMap], plane: str) -> Shape:
    if not images:
        raise UsageError("no image to draw: expected at least one modality")
    if plane not in PLANES:
        raise UsageError(f"plane {plane!r}: expected one of {', '.join(PLANES)}")
    return _common_shape([*images.values(), *masks.values()])


def _named(label: LabelMap | None, prediction: LabelMap | None) -> dict[str, LabelMap]:
    return {n: m for n, m in zip(OUTLINES, (label, prediction), strict=True) if m is not None}


def _common_shape(arrays: Sequence[Array]) -> Shape:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1 or any(len(shape) != 3 or 0 in shape for shape in shapes):
        named = ", ".join("×".join(map(str, shape)) for shape in shapes)
        raise UsageError(f"cannot draw arrays of shape {named}: expected one shape of three axes")
    return shapes[0]


def _chosen_slice(shape: Shape, masks: Iterable[LabelMap], plane: Plane, wanted: int | None) -> int:
    count = shape[plane.axis]
    if wanted is not None:
        if not 0 <= wanted < count:
            raise UsageError(
                f"slice {wanted} is out of range: expected 0 to {count - 1} in the {plane.name} "
                "plane"
            )
        return wanted
    others = tuple(axis for axis in range(3) if axis != plane.axis)
    for mask in masks:
        tumour_per_slice = np.count_nonzero(mask != labels.BACKGROUND, axis=others)
        if tumour_per_slice.any():
            return int(tumour_per_slice.argmax())
    return count // 2


def _tumour_centre(shape: Shape, masks: Iterable[LabelMap], spacing_mm: Spacing) -> Shape:
    for mask in masks:
        if len(voxels := np.argwhere(mask != labels.BACKGROUND)):
            offsets_mm = (voxels - voxels.mean(axis=0)) * np.asarray(spacing_mm)
            x, y, z = voxels[int((offsets_mm**2).sum(axis=1).argmin())].tolist()
            return (x, y, z)
    return (shape[0] // 2, shape[1] // 2, shape[2] // 2)
