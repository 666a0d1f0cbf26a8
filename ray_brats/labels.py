"""Tumour labels: classes, the regions that they join, and what the integers of a mask mean.

In memory a label map holds *class indices*: 0 is background, k the k-th class of its `Targets`.
A `Task` says which integer stands for which class on disk; `tasks` has those of the field. These
two modules alone spell integers, classes and regions.

A network that predicts regions learns some of them, in their order: `Targets.painting` says how
they become classes. A region within another is *nested* in it; two that share no voxel are
*disjoint*. With WT ⊃ TC ⊃ ET and the cavity RC beside WT:

    WT paints edema on background, TC necrosis on edema, ET enhancing tumour on necrosis, and RC
    the cavity on background: of regions that exclude each other the earlier one wins.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ray_brats.arrays import Array, Mask
from ray_brats.errors import UsageError

LabelMap = npt.NDArray[np.uint8]

BACKGROUND: Final = 0
BACKGROUND_NAME: Final = "background"
MOST_CLASSES: Final = 64
ENHANCING_TUMOUR: Final = "ET"
"""The region whose few voxels `inference.min_enhancing_vox` takes for what lies around them."""

WHOLE_WITHIN: Final = 0.01
"""Distance from a whole number at which a float is still a label: tools that scale a mask to
fit an 8-bit header (nibabel among them) leave it off by up to half a step, 4 / 255 / 2."""
_COLOUR: Final = re.compile(r"#[0-9A-Fa-f]{6}")
_TASK_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REGION_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,15}")


class UnknownLabelsError(ValueError):
    """A mask holds integers that its task does not define: `values`, where they are whole."""

    def __init__(self, message: str, values: Sequence[float] = ()) -> None:
        super().__init__(message, values)
        self.values = tuple(values)

    def __str__(self) -> str:
        return str(self.args[0])


class TaskError(UsageError):
    """Classes, regions or integers make no task.

    Args:
        message: the sentence.
        place: what is at fault, as `("classes", 2, "integer")`, counted from 1.
    """

    def __init__(self, message: str, place: Sequence[str | int] = ()) -> None:
        super().__init__(message, place)
        self.place = tuple(place)

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, kw_only=True)
class TumourClass:
    """What a voxel can be besides background."""

    name: str
    colour: str = field(compare=False)
    """As `#RRGGBB`; how a class looks makes it no other one."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """Classes that are scored as one mask."""

    name: str
    title: str = field(compare=False)
    classes: tuple[int, ...]
    """Class indices."""
    learnt: bool = True
    """Whether a network predicts it; else it follows from those that it predicts."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is segmented: classes and regions, whatever integers stand for them on disk.

    Raises:
        TaskError: two classes or regions of one name, a region of no class or of one that is
            none, or learnt regions that do not tell every class.
    """

    classes: tuple[TumourClass, ...]
    """The class of index k is `classes[k - 1]`."""
    regions: tuple[Region, ...]
    """In the order in which they are scored, shown and painted; the widest first."""

    def __post_init__(self) -> None:
        check_classes(self.classes)
        _check_names("regions", self.region_names, "name")
        _check_names("titles of regions", [item.title for item in self.regions], "title")
        for number, region in enumerate(self.regions, start=1):
            if not _REGION_NAME.fullmatch(region.name):
                raise TaskError(
                    f"region {region.name!r}: expected a name of at most 16 letters and digits, a "
                    "letter first: columns are named after it",
                    ("regions", number, "name"),
                )
            members = ("regions", number, "classes")
            if not region.classes or not set(region.classes) <= set(self.indices):
                raise TaskError(
                    f"region {region.name} joins no class, or one that is none", members
                )
            if len(set(region.classes)) < len(region.classes):
                raise TaskError(f"region {region.name} names a class twice", members)
        self.painting  # noqa: B018  # Regions from which no class follows are refused now.

    @property
    def indices(self) -> range:
        """Class indices without the background's."""
        return range(1, len(self.classes) + 1)

    @property
    def class_count(self) -> int:
        """Number of classes with the background."""
        return len(self.classes) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class by its index."""
        return (BACKGROUND_NAME, *(item.name for item in self.classes))

    @property
    def region_names(self) -> tuple[str, ...]:
        """Name of each region in order."""
        return tuple(region.name for region in self.regions)

    @functools.cached_property
    def learnt(self) -> tuple[Region, ...]:
        """The regions that a network predicts."""
        return tuple(region for region in self.regions if region.learnt)

    def region(self, name: str) -> Region:
        """A region by its name.

        Raises:
            UsageError: there is none of that name.
        """
        for region in self.regions:
            if region.name == name:
                return region
        raise UsageError(f"no region {name!r}: expected one of {', '.join(self.region_names)}")

    @functools.cached_property
    def painting(self) -> tuple[tuple[int, int], ...]:
        """For each learnt region the class that it paints, and the class on which it does.

        It paints what its nested regions leave of it, on what the smallest region around it
        paints, else on background.
        """
        members = [set(region.classes) for region in self.learnt]
        places = [("regions", self.regions.index(region) + 1, "classes") for region in self.learnt]
        for (wide, one), (later, other) in itertools.combinations(enumerate(members), 2):
            if one & other and not other < one:
                raise TaskError(
                    f"region {self.learnt[later].name} is neither within {self.learnt[wide].name} "
                    "nor apart from it: expected the wider of two learnt regions first",
                    places[later],
                )
        painted: list[tuple[int, int]] = []
        for number, own in enumerate(members):
            around = [place for place, other in enumerate(members[:number]) if own < other]
            left = own.difference(*(other for other in members[number + 1 :] if other < own))
            if len(left) != 1:
                names = ", ".join(self.class_names[index] for index in sorted(left)) or "no class"
                raise TaskError(
                    f"region {self.learnt[number].name} leaves {names} beside the regions in it: "
                    "expected one class, so that learnt regions tell every class",
                    places[number],
                )
            painted.append((left.pop(), painted[around[-1]][0] if around else BACKGROUND))
        if {paint for paint, _ in painted} != set(self.indices):
            told = {paint for paint, _ in painted}
            missing = [index for index in self.indices if index not in told]
            names = ", ".join(self.class_names[index] for index in missing)
            raise TaskError(
                f"no learnt region tells {names} from other classes", ("classes", missing[0])
            )
        return tuple(painted)

    @functools.cached_property
    def enhancing(self) -> tuple[int, int] | None:
        """The class of enhancing tumour, and the one that lies around it; None without such."""
        for region, pair in zip(self.learnt, self.painting, strict=True):
            if region.name == ENHANCING_TUMOUR:
                return pair
        return None

    @functools.cached_property
    def edema(self) -> int | None:
        """The class that lies around all others of the widest region; None where none does."""
        widest = self.learnt[0]
        return self.painting[0][0] if len(widest.classes) > 1 else None


def check_classes(classes: Sequence[TumourClass]) -> None:
    """`TaskError` for too many classes, two of one name, or a colour that is none."""
    if not 1 <= len(classes) <= MOST_CLASSES:
        most = ("classes", MOST_CLASSES + 1)
        raise TaskError(f"{len(classes)} classes: expected 1 to {MOST_CLASSES}", most)
    names = [item.name for item in classes]
    _check_names("classes", names, "name", taken=(BACKGROUND_NAME,))
    for number, item in enumerate(classes, start=1):
        if not _COLOUR.fullmatch(item.colour):
            place = ("classes", number, "colour")
            raise TaskError(f"{item.name}: colour {item.colour!r}: expected #RRGGBB", place)


def _check_names(what: str, names: Sequence[str], key: str, taken: Sequence[str] = ()) -> None:
    """`TaskError` for what cannot be shown, and for a name that is there before or is taken."""
    part = what.rpartition(" ")[2]
    # Columns and headers are called after names in one case of letters.
    before = {name.lower() for name in taken}
    for number, name in enumerate(names, start=1):
        if not name or len(name) > 80 or not name.isprintable():
            raise TaskError(
                f"{what}: {name!r}: expected 1 to 80 printable characters", (part, number, key)
            )
        if key == "name" and name.lower() in before:
            raise TaskError(f"{what}: {name!r} is there twice", (part, number, key))
        before.add(name.lower())


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the masks of a cohort hold.

    Raises:
        TaskError: not one integer of 1 to 255 for each class, or one of them twice.
    """

    name: str
    targets: Targets
    integers: tuple[int, ...]
    """What stands for each class on disk, in the order of `targets.classes`; 0 is background."""
    modalities: tuple[str, ...] = ()
    """Canonical names of the images that its cases usually have."""
    cases: str = field(default="", compare=False)
    """What its cases are of, in words for model cards."""
    small_lesion_mm3: float | None = None
    """Below which volume the rules of 2026 ask only whether a lesion was found."""
    has_skull: bool = field(default=False, compare=False)
    """Whether its scans usually have their skull on: what to ask of a recipe, not what masks
    hold."""

    def __post_init__(self) -> None:
        if not _TASK_NAME.fullmatch(self.name):
            raise TaskError(
                f"task {self.name!r}: expected a name of 1 to 64 letters, digits, '.', '_' or '-', "
                "a letter or digit first",
                ("name",),
            )
        small_mm3 = self.small_lesion_mm3
        if small_mm3 is not None and not 0 < small_mm3 < math.inf:
            raise TaskError(
                f"small_lesion_mm3 {small_mm3:g}: expected a volume above zero",
                ("small_lesion_mm3",),
            )
        if len(self.integers) != len(self.targets.classes):
            raise TaskError(f"{self.name}: expected one integer for each class")
        for number, integer in enumerate(self.integers, start=1):
            place = ("classes", number, "integer")
            if not 1 <= integer <= 255:
                raise TaskError(f"{self.name}: integer {integer}: expected 1 to 255", place)
            if integer in self.integers[: number - 1]:
                raise TaskError(f"{self.name}: integer {integer} stands for two classes", place)

    @property
    def meaning(self) -> dict[int, int]:
        """Integer on disk to class index."""
        return {BACKGROUND: BACKGROUND} | {
            integer: index for index, integer in enumerate(self.integers, start=1)
        }

    def means_as(self, other: Task) -> bool:
        """Whether equal integers mean equal classes, of equal regions."""
        return (self.targets, self.integers) == (other.targets, other.integers)

    @property
    def legend(self) -> dict[str, str]:
        """Integer on disk to the name of its class, for model cards and pictures."""
        names = self.targets.class_names
        return {str(integer): names[index] for integer, index in self.meaning.items()}


def to_class_index(raw: Array, task: Task, *, raw_3_is_enhancing: bool = False) -> LabelMap:
    """Turn the integers of a task into class indices.

    Args:
        raw: integers of any shape, or floats within `WHOLE_WITHIN` of integers.
        task: what they mean.
        raw_3_is_enhancing: read a 3 that the task does not define as its enhancing tumour, as
            the original project does.

    Returns:
        uint8 class indices of the same shape.

    Raises:
        UnknownLabelsError: a value that the task does not define.
    """
    meaning = task.meaning
    if raw_3_is_enhancing and task.targets.enhancing:
        meaning.setdefault(3, task.targets.enhancing[0])
    table = np.full(256, 255, np.uint8)
    for integer, meant in meaning.items():
        table[integer] = meant
    if not np.issubdtype(raw.dtype, np.integer):
        rounded = np.rint(raw)
        with np.errstate(invalid="ignore"):
            whole = bool(np.abs(rounded - raw).max(initial=0) <= WHOLE_WITHIN)
        if not whole:
            raise UnknownLabelsError("the mask holds values that are not whole numbers")
        raw = rounded
    low, high = (float(raw.min()), float(raw.max())) if raw.size else (0.0, 0.0)
    if low < 0 or high > 255:
        raise _unknown([low if low < 0 else high], task)
    index: LabelMap = table[raw.astype(np.uint8, copy=False)]
    if (index == 255).any():
        raise _unknown(np.unique(raw[index == 255]).tolist(), task)
    return index


def _unknown(values: Sequence[float], task: Task) -> UnknownLabelsError:
    named = ", ".join(f"{value:g}" for value in values[:5])
    expected = ", ".join(map(str, sorted(task.meaning)))
    return UnknownLabelsError(
        f"the mask holds label {named}, but {task.name} defines only {expected}", values
    )


def from_class_index(index: Array, task: Task) -> LabelMap:
    """Turn class indices into the integers of a task; uint8 of the same shape.

    Raises:
        ValueError: an index is no class of the task.
    """
    if index.size and index.max() > len(task.integers):
        raise ValueError(f"class index {index.max()}: {task.name} has {len(task.integers)} classes")
    raw = np.zeros_like(index, np.uint8)
    for integer, meant in task.meaning.items():
        if meant != BACKGROUND:
            np.copyto(raw, np.uint8(integer), where=index == meant)
    return raw


def mask_of(index: Array, classes: Collection[int]) -> Mask:
    """Mask of some classes of a class-index map; bool of the same shape."""
    table = np.zeros(256, bool)
    table[list(classes)] = True
    mask: Mask = table[index]
    return mask


def from_regions(masks: Mask, targets: Targets) -> LabelMap:
    """Class indices from masks of the learnt regions on the last axis, painted in their order.

    Whatever the masks say, regions are nested or disjoint as in the targets: a voxel outside the
    whole tumour is in no part of it, and one inside is no cavity.
    """
    index: LabelMap = np.zeros(masks.shape[:-1], np.uint8)
    for number, (paint, around) in enumerate(targets.painting):
        index[masks[..., number] & (index == around)] = paint
    return index
