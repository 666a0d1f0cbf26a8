"""The task that a `dataset.json` tells: what its labels are called says what their integers mean.

Where the names are those of a glioma's classes or regions, the classes are those of every glioma
task, whatever integers stand for them: what has learnt from BraTS cases segments these too. Other
names make a task of the set's own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from ray_brats.cases.datasetjson import DatasetJson
from ray_brats.errors import UsageError
from ray_brats.labels import (
    BACKGROUND,
    ENHANCING_TUMOUR,
    Region,
    Targets,
    Task,
    TumourClass,
)
from ray_brats.recipes.tasks import (
    CALLED,
    GLIOMA,
    PALETTE,
    REGIONS_CALLED,
    TASKS,
    TUMOUR_CORE,
    WHOLE_TUMOUR,
)

_NECROTIC, _EDEMA, _ENHANCING = GLIOMA.indices
_COMPLETE = 3
_IGNORED = "ignore"
"""nnU-Net's word for voxels that nobody has judged: a mask that holds them is rejected."""


def task_of(told: DatasetJson) -> Task | None:
    """What the masks of a described set hold; None where its description says nothing of labels.

    Raises:
        UsageError: regions from which no class follows.
    """
    labels = {
        name: values
        for name, values in told.labels.items()
        if set(values) != {BACKGROUND} and name != _IGNORED
    }
    if not labels:
        return None
    possible = _possible(told, labels)
    if len(distinct := {task.targets for task in possible}) == 1:
        return possible[0]
    if distinct:
        # Gliomas after treatment and metastases have the same classes: that is not guessed.
        names = [task.name for task in possible]
        raise UsageError(
            f"{told.uri}: its labels are those of {' and of '.join(names)}: pass "
            f"{' or '.join(f'--task {name}' for name in names)}"
        )
    try:
        return _own_regions(told, labels) if told.has_regions else _own_classes(told, labels)
    except UsageError as error:
        raise UsageError(
            f"{told.uri}: its labels make no task: {error}; say what they mean in a file, "
            "`--task FILE.toml` (`ray-brats guide tasks`)"
        ) from error


def _possible(told: DatasetJson, labels: Mapping[str, Sequence[int]]) -> list[Task]:
    """The tasks that have labels of these names; one of a field's targets has any integers."""
    if told.has_regions:
        integers = _of_regions(labels)
        if integers is None:
            return _with_regions(labels)
        fitting = [(GLIOMA, integers)]
    else:
        fitting = _of_classes(labels)
    found = []
    for targets, integers in fitting:
        alike = Task(name=_name(told), targets=targets, integers=integers)
        known = [task for task in TASKS.values() if task.means_as(alike)]
        # Of several targets those count whose integers these are: nobody could ask for others.
        found += known[:1] or ([alike] if len(fitting) == 1 else [])
    return found


def _with_regions(labels: Mapping[str, Sequence[int]]) -> list[Task]:
    """The tasks of the field whose learnt regions are called so, and have these integers."""
    members = {_region_of(name): set(values) for name, values in labels.items()}
    if len(members) < len(labels):
        return []
    return [
        task
        for task in TASKS.values()
        if members
        == {
            region.name: {task.integers[index - 1] for index in region.classes}
            for region in task.targets.learnt
        }
    ]


def _region_of(name: str) -> str | None:
    """The region of the field that is called so, or None."""
    plain = _plain(name)
    return next(
        (region for region, words in REGIONS_CALLED.items() if plain in words.split()), None
    )


def _plain(name: str) -> str:
    """A name as it is compared: letters alone, in lower case, American."""
    return re.sub(r"[^a-z]", "", name.lower()).replace("oedem", "edem").replace("tumour", "tumor")


def _of_classes(labels: Mapping[str, Sequence[int]]) -> list[tuple[Targets, tuple[int, ...]]]:
    """The targets of the field whose classes are called so, with the integer of each class."""
    found = []
    for targets in dict.fromkeys(task.targets for task in TASKS.values()):
        called = {
            item.name: [
                values
                for name, values in labels.items()
                if _plain(name) in CALLED.get(item.name, "").split()
            ]
            for item in targets.classes
        }
        alone = all(len(places) == 1 and len(places[0]) == 1 for places in called.values())
        if alone and len(labels) == len(targets.classes):
            found.append((targets, tuple(places[0][0] for places in called.values())))
    return found


def _of_regions(labels: Mapping[str, Sequence[int]]) -> tuple[int, ...] | None:
    """The same from the whole tumour, its core, and what of that enhances."""
    members: dict[str, set[int]] = {}
    for name, values in labels.items():
        region = _region_of(name)
        if region not in (WHOLE_TUMOUR, TUMOUR_CORE, ENHANCING_TUMOUR) or region in members:
            return None
        members[region] = set(values)
    if len(members) < _COMPLETE:
        return None
    whole, core, enhancing = (
        members[name] for name in (WHOLE_TUMOUR, TUMOUR_CORE, ENHANCING_TUMOUR)
    )
    parts = {_ENHANCING: enhancing, _NECROTIC: core - enhancing, _EDEMA: whole - core}
    if not enhancing < core < whole or any(len(part) != 1 for part in parts.values()):
        return None
    return tuple(next(iter(parts[index])) for index in GLIOMA.indices)


def _own_classes(told: DatasetJson, labels: Mapping[str, Sequence[int]]) -> Task:
    """Each label is a class, and a region."""
    ordered = sorted((values[0], name) for name, values in labels.items())
    return Task(
        name=_name(told),
        targets=Targets(
            classes=_coloured([name for _, name in ordered]),
            regions=tuple(
                Region(name=word, title=name, classes=(index,))
                for index, (word, (_, name)) in enumerate(
                    zip(_words([name for _, name in ordered]), ordered, strict=True), start=1
                )
            ),
        ),
        integers=tuple(integer for integer, _ in ordered),
    )


def _own_regions(told: DatasetJson, labels: Mapping[str, Sequence[int]]) -> Task:
    """Each integer is a class; regions join them, the widest first."""
    integers = sorted({value for values in labels.values() for value in values} - {BACKGROUND})
    index_of = {integer: index for index, integer in enumerate(integers, start=1)}
    ordered = sorted(labels.items(), key=lambda item: -len(item[1]))
    regions = (
        Region(name=word, title=name, classes=tuple(sorted(index_of[value] for value in values)))
        for word, (name, values) in zip(_words([name for name, _ in ordered]), ordered, strict=True)
    )
    return Task(
        name=_name(told),
        targets=Targets(
            classes=_coloured([f"label {integer}" for integer in integers]),
            regions=tuple(regions),
        ),
        integers=tuple(integers),
    )


def _coloured(names: Sequence[str]) -> tuple[TumourClass, ...]:
    return tuple(
        TumourClass(name=name, colour=PALETTE[number % len(PALETTE)])
        for number, name in enumerate(names)
    )


def _words(names: Sequence[str]) -> list[str]:
    """What regions are called in the columns of tables: letters and digits of their names."""
    words: list[str] = []
    for number, name in enumerate(names, start=1):
        word = re.sub(r"[^A-Za-z0-9]", "", name)[:12]
        taken = {other.lower() for other in words}
        if not word[:1].isalpha() or word.lower() in taken:
            free = (f"R{n}" for n in itertools.count(number) if f"r{n}" not in taken)
            word = next(free)
        words.append(word)
    return words


def _name(told: DatasetJson) -> str:
    """The set's own name, which no task of the field has."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", told.name).strip("-.")[:60] or told.kind
    return f"{name}-labels" if name in TASKS else name
