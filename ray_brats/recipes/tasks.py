"""The tasks of the field by name, and anybody's own as text.

Sources: the data pages of the BraTS challenges of 2018 to 2026 and `dataset.json` of the Medical
Segmentation Decathlon (Antonelli et al. 2022, Nature Communications 13:4128). The names of cases
(`cases.naming`) leave open which of some tasks a cohort is of; then `--task` says it.

A task of somebody's own is a TOML or JSON file:

    name = "stroke"
    modalities = ["flair", "t1"]

    [[classes]]
    name = "lesion"
    integer = 1

    [[regions]]
    name = "LES"
    title = "lesion"
    classes = ["lesion"]
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ray_brats.errors import UsageError
from ray_brats.labels import (
    ENHANCING_TUMOUR,
    Region,
    Targets,
    Task,
    TaskError,
    TumourClass,
    check_classes,
)
from ray_brats.recipes.lines import Place, at, of_json, of_toml

WHOLE_TUMOUR: Final = "WT"
TUMOUR_CORE: Final = "TC"
RESECTION_CAVITY: Final = "RC"
CYSTIC_COMPONENT: Final = "CC"

_ORANGE, _SKY, _YELLOW = "#D55E00", "#56B4E9", "#F0E442"
_GREEN, _PINK, _BLUE = "#009E73", "#CC79A7", "#0072B2"
PALETTE: Final = (_ORANGE, _SKY, _YELLOW, _GREEN, _PINK, _BLUE)
"""Colours that people who see colours differently tell apart (Wong 2011, Nature Methods 8:441)."""
MOST_BYTES: Final = 1 << 20
"""Longest file of a task."""
_OPTIONAL: Final = ("modalities", "has_skull", "small_lesion_mm3")
_SMALL: Final = ("small_lesion_mm3",)
_MOST_MM3: Final = 1e9


def _whole(*classes: int) -> Region:
    return Region(name=WHOLE_TUMOUR, title="whole tumour", classes=classes)


def _core(*classes: int) -> Region:
    return Region(name=TUMOUR_CORE, title="tumour core", classes=classes)


def _enhancing(*classes: int) -> Region:
    return Region(name=ENHANCING_TUMOUR, title="enhancing tumour", classes=classes)


_CAVITY: Final = Region(name=RESECTION_CAVITY, title="resection cavity", classes=(4,))
_EDEMA: Final = TumourClass(name="edema", colour=_SKY)
_ENHANCING: Final = TumourClass(name="enhancing tumour", colour=_YELLOW)
_NON_ENHANCING: Final = TumourClass(name="non-enhancing tumour core", colour=_ORANGE)

GLIOMA: Final = Targets(
    classes=(TumourClass(name="necrotic core", colour=_ORANGE), _EDEMA, _ENHANCING),
    regions=(_whole(1, 2, 3), _core(1, 3), _enhancing(3)),
)
"""Tumours before treatment, of all challenges until 2023 and of most since."""
_TREATED_CLASSES: Final = (
    _NON_ENHANCING,
    _EDEMA,
    _ENHANCING,
    TumourClass(name="resection cavity", colour=_GREEN),
)
TREATED_GLIOMA: Final = Targets(
    classes=_TREATED_CLASSES,
    regions=(
        *GLIOMA.regions,
        Region(name="NETC", title="non-enhancing tumour core", classes=(1,), learnt=False),
        Region(name="SNFH", title="edema", classes=(2,), learnt=False),
        _CAVITY,
    ),
)
METASTASES: Final = Targets(classes=_TREATED_CLASSES, regions=(*GLIOMA.regions, _CAVITY))
CHILDREN: Final = Targets(
    classes=(
        _ENHANCING,
        TumourClass(name="non-enhancing tumour", colour=_ORANGE),
        TumourClass(name="cystic component", colour=_PINK),
        _EDEMA,
    ),
    regions=(
        _whole(1, 2, 3, 4),
        _core(1, 2, 3),
        _enhancing(1),
        Region(name="NET", title="non-enhancing tumour", classes=(2,), learnt=False),
        Region(name=CYSTIC_COMPONENT, title="cystic component", classes=(3,)),
        Region(name="ED", title="edema", classes=(4,), learnt=False),
    ),
)
RADIOTHERAPY: Final = Targets(
    classes=(TumourClass(name="gross tumour volume", colour=_ORANGE),),
    regions=(Region(name="GTV", title="gross tumour volume", classes=(1,)),),
)

FOUR_MODALITIES: Final = ("t1", "t1ce", "t2", "flair")


_UNTIL_2021: Final = (1, 2, 4)
_FROM_2023: Final = (1, 2, 3)
_FOUR: Final = (1, 2, 3, 4)


def _task(name: str, targets: Targets, integers: Sequence[int], cases: str) -> Task:
    return Task(
        name=name,
        targets=targets,
        integers=tuple(integers),
        modalities=FOUR_MODALITIES,
        cases=cases,
    )


_ADULTS: Final = "adult glioma"
TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        *(_task(f"gli-{year}", GLIOMA, _UNTIL_2021, _ADULTS) for year in range(2018, 2022)),
        _task("gli-2023", GLIOMA, _FROM_2023, _ADULTS),
        _task("ssa", GLIOMA, _FROM_2023, "glioma in Sub-Saharan Africa"),
        _task("goat", GLIOMA, _FROM_2023, "several brain tumours"),
        _task("men-pre", GLIOMA, _FROM_2023, "meningioma before treatment"),
        _task("gli-post", TREATED_GLIOMA, _FOUR, "adult glioma after treatment"),
        dataclasses.replace(
            _task("met", METASTASES, _FOUR, "brain metastases"), small_lesion_mm3=20.0
        ),
        _task("ped", CHILDREN, _FOUR, "brain tumours of children"),
        dataclasses.replace(
            _task("men-rt", RADIOTHERAPY, (1,), "meningioma before radiotherapy"),
            modalities=("t1ce",),
            has_skull=True,
        ),
        # There, 1 is edema and 2 the non-enhancing core.
        dataclasses.replace(
            _task("msd-task01", GLIOMA, (2, 1, 3), _ADULTS),
            modalities=("flair", "t1", "t1ce", "t2"),
        ),
    )
}
"""Name to task."""
DEFAULT: Final = TASKS["gli-2023"]
"""Whose integers are written where neither an option, a name nor a bundle tells."""
OLD_NAMES: Final[Mapping[str, str]] = {
    **{f"brats{year}": f"gli-{year}" for year in (*range(2018, 2022), 2023)},
    "brats2024": "gli-post",
}
"""What `--release` called them."""
_WITHOUT_CAVITY: Final = "brats2024"

_CORE_WORDS: Final = (
    "ncr net ncrnet netc necrosis necroticcore necrotictumor necrotictumorcore nonenhancing "
    "nonenhancingtumor nonenhancingtumorcore necroticandnonenhancingtumorcore "
    "necrosisandnonenhancingtumor"
)
_ENHANCING_WORDS: Final = "et enhancing enhancingtumor gdenhancingtumor"
_CAVITY_WORDS: Final = "rc cavity resectioncavity"
_CYST_WORDS: Final = "cc cyst cysticcomponent"
CALLED: Final[Mapping[str, str]] = {
    "necrotic core": _CORE_WORDS,
    "non-enhancing tumour core": _CORE_WORDS,
    "non-enhancing tumour": _CORE_WORDS,
    "edema": (
        "ed edema peritumoraledema peritumoraledematous snfh "
        "surroundingnonenhancingflairhyperintensity"
    ),
    "enhancing tumour": _ENHANCING_WORDS,
    "resection cavity": _CAVITY_WORDS,
    "cystic component": _CYST_WORDS,
    "gross tumour volume": "gtv grosstumorvolume",
}
"""Class of a task of the field to what sets of other people call it: letters alone, American."""
REGIONS_CALLED: Final[Mapping[str, str]] = {
    WHOLE_TUMOUR: "wt whole wholetumor",
    TUMOUR_CORE: "tc core tumorcore",
    ENHANCING_TUMOUR: _ENHANCING_WORDS,
    RESECTION_CAVITY: _CAVITY_WORDS,
    CYSTIC_COMPONENT: _CYST_WORDS,
}
"""The same of the regions that are learnt."""


def region_titles() -> dict[str, str]:
    """What the regions of all tasks are."""
    return {region.name: region.title for task in TASKS.values() for region in task.targets.regions}


def old_name(name: str) -> str:
    """The release that a task was called by; the name itself where by none."""
    return next((old for old, new in OLD_NAMES.items() if new == name), name)


def key_of(task: Task | None) -> dict[str, Any]:
    """What stands for a task in the keys of finished work: as earlier versions had it.

    Those called all of 2023 `brats2023`, whose labels mean the same.
    """
    return described(DEFAULT if task and task.means_as(DEFAULT) else task)


def name_before(name: str) -> str:
    """What earlier versions call a task, where `of_release` gives it back; else its name."""
    old = old_name(name)
    return old if of_release(old) == name else name


def described(task: Task | None) -> dict[str, Any]:
    """How files of ours tell a task, in the words of earlier versions where these know it."""
    value = as_json(task) if task else None
    if value is None or (isinstance(value, str) and name_before(value) != value):
        return {"release": value and name_before(str(value))}
    return {"task": value}


def of_release(release: str) -> str:
    """Name of the task that what was written before calls a release; inverse of `old_name`.

    With 2024's a cavity was background, and masks had the labels of 2023; a task is no release.
    """
    return DEFAULT.name if release == _WITHOUT_CAVITY else OLD_NAMES.get(release, release)


def fitting(possible: Iterable[str], targets: Targets) -> Task | None:
    """The first of some tasks that has these targets, or None."""
    return next((TASKS[name] for name in possible if TASKS[name].targets == targets), None)


def usual(targets: Targets) -> Task | None:
    """The task of these targets whose integers are written where nothing tells, or None."""
    return fitting((DEFAULT.name, *TASKS), targets)


def named(text: str) -> Task:
    """The task of a name, also of an old one.

    Raises:
        UsageError: there is none of that name.
    """
    task = TASKS.get(OLD_NAMES.get(text, text))
    if task is None:
        close = difflib.get_close_matches(text, TASKS, n=1)
        raise UsageError(
            f"no task {text!r}: expected one of {', '.join(TASKS)}, or a .toml or .json file that "
            "says what labels mean (`ray-brats guide tasks`)"
            + (f"; do you mean {close[0]}?" if close else "")
        )
    return task


def that_define(values: Iterable[float], targets: Targets | None = None) -> list[str]:
    """Names of the tasks that define all of some integers, of some targets or of any."""
    wanted = set(values)
    return [
        task.name
        for task in TASKS.values()
        if wanted <= set(task.meaning) and targets in (None, task.targets)
    ]


def told_by(description: Mapping[str, Any]) -> Task | None:
    """The task that a `dataset.json`, `run.json`, `score.json` or model card tells, if any.

    Those of before tell a release.
    """
    if description.get("task") is not None:
        return from_json(description["task"])
    release = description.get("release")
    return None if release is None else named(of_release(str(release)))


# --- as JSON, and as a file ------------------------------------------------------------------


def as_json(task: Task) -> str | dict[str, Any]:
    """What files and rows hold: the name, or all of a task of somebody's own."""
    if TASKS.get(task.name) == task:
        return task.name
    others = {"has_skull": task.has_skull, "small_lesion_mm3": task.small_lesion_mm3}
    return {
        "name": task.name,
        "modalities": list(task.modalities),
        **{key: value for key, value in others.items() if value},
        **targets_as_json(task.targets, task.integers),
    }


def targets_as_json(targets: Targets, integers: Sequence[int] = ()) -> dict[str, Any]:
    """Classes and regions for those who do not have the task, with integers where given."""
    classes = [dataclasses.asdict(item) for item in targets.classes]
    for values, integer in zip(classes, integers, strict=False):
        values["integer"] = integer
    regions = [
        {
            "name": region.name,
            "title": region.title,
            "classes": [targets.class_names[index] for index in region.classes],
            "learnt": region.learnt,
        }
        for region in targets.regions
    ]
    return {"classes": classes, "regions": regions}


def from_json(value: object, lines: Mapping[Place, int] | None = None) -> Task:
    """The task of `as_json`'s value, or of what a file holds.

    Args:
        value: as a name, or a table as above.
        lines: where in the file its parts are: what is wrong is told with its line there.

    Raises:
        UsageError: what is missing, unknown or contradicts itself.
    """
    if isinstance(value, str):
        return named(value)
    try:
        return _built(value)
    except TaskError as error:
        raise UsageError(f"{at(lines or {}, error.place)}{error}") from error


def _built(value: object) -> Task:
    """The task of a table; raises `TaskError`."""
    table = _table(value, (), "the task", ("name", "classes", "regions"), _OPTIONAL)
    classes = _rows(table, "classes", ("name", "integer"), ("colour",))
    regions = _rows(table, "regions", ("name", "classes"), ("title", "learnt"))
    if not isinstance(table["name"], str) or table["name"] in OLD_NAMES:
        raise TaskError(f"{table['name']!r}: expected a name of its own, as text", ("name",))
    modalities = table.get("modalities", [])
    known = isinstance(modalities, list) and all(name in FOUR_MODALITIES for name in modalities)
    if not known or len(set(modalities)) < len(modalities):
        expected = f"expected a list of {', '.join(FOUR_MODALITIES)}, each once at most"
        raise TaskError(f"modalities {modalities!r}: {expected}", ("modalities",))
    small_mm3 = table.get("small_lesion_mm3")
    if small_mm3 is not None and (type(small_mm3) not in (int, float) or small_mm3 > _MOST_MM3):
        raise TaskError(f"{small_mm3!r}: expected a volume in mm³ above zero", _SMALL)
    has_skull = table.get("has_skull", False)
    if not isinstance(has_skull, bool):
        raise TaskError(f"{has_skull!r}: expected true or false", ("has_skull",))
    return Task(
        name=table["name"],
        targets=_targets(classes, regions),
        integers=tuple(row["integer"] for row in classes),
        modalities=tuple(modalities),
        has_skull=has_skull,
        small_lesion_mm3=None if small_mm3 is None else float(small_mm3),
    )


def _targets(classes: Sequence[Mapping[str, Any]], regions: Sequence[Mapping[str, Any]]) -> Targets:
    made = []
    for number, row in enumerate(classes, start=1):
        _check_type(row, ("classes", number), "name", str)
        _check_type(row, ("classes", number), "colour", str)
        _check_type(row, ("classes", number), "integer", int)
        colour = row.get("colour", PALETTE[(number - 1) % len(PALETTE)])
        made.append(TumourClass(name=row["name"], colour=colour))
    check_classes(made)
    index_of = {item.name: index for index, item in enumerate(made, start=1)}
    return Targets(
        classes=tuple(made),
        regions=tuple(_region(row, number, index_of) for number, row in enumerate(regions, 1)),
    )


def _region(row: Mapping[str, Any], number: int, index_of: Mapping[str, int]) -> Region:
    for key, kind in (("name", str), ("title", str), ("learnt", bool)):
        _check_type(row, ("regions", number), key, kind)
    place, named = ("regions", number, "classes"), row["classes"]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        what = f"region {row['name']}: classes {named!r}"
        raise TaskError(f"{what}: expected a list of names of classes", place)
    for name in named:
        if name not in index_of:
            raise TaskError(
                f"region {row['name']}: {name!r} is no class of this task: expected some of "
                f"{', '.join(index_of)}",
                place,
            )
    return Region(
        name=row["name"],
        title=row.get("title", row["name"]),
        classes=tuple(sorted(index_of[name] for name in named)),
        learnt=row.get("learnt", True),
    )


_IN_WORDS: Final = {str: "text", int: "a whole number", bool: "true or false"}


def _check_type(row: Mapping[str, Any], place: Place, key: str, kind: type) -> None:
    """`TaskError` for a value of another type; one that may be left out is none."""
    if key in row and type(row[key]) is not kind:
        whose = f"{row['name']}: " if key != "name" and isinstance(row["name"], str) else ""
        value = row[key]
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        raise TaskError(f"{whose}{key} {shown}: expected {_IN_WORDS[kind]}", (*place, key))


def _table(
    value: object, place: Place, what: str, required: Sequence[str], others: Sequence[str]
) -> dict[str, Any]:
    """A table with all of some keys, and no unknown one; raises `TaskError`."""
    if not isinstance(value, dict):
        raise TaskError(f"{what}: {value!r}: expected a table with {', '.join(required)}", place)
    for key in value:
        if key not in (*required, *others):
            expected = f"expected {', '.join((*required, *others))}"
            raise TaskError(f"{what} has no {key!r}: {expected}", (*place, str(key)))
    for key in required:
        if key not in value:
            raise TaskError(f"{what} lacks {key!r}", place)
    return value


def _rows(
    table: Mapping[str, Any], key: str, required: Sequence[str], others: Sequence[str]
) -> list[dict[str, Any]]:
    """A list of tables, of one at least; raises `TaskError`."""
    rows = table[key]
    if not isinstance(rows, list) or not rows:
        raise TaskError(f"{key}: expected [[{key}]], one table each", (key,))
    return [
        _table(row, (key, number), f"{key} {number}", required, others)
        for number, row in enumerate(rows, start=1)
    ]


def parse(text: str, name: str) -> Task:
    """The task of a TOML or JSON file.

    Args:
        text: its content.
        name: of the file, whose ending tells which of the two it is.

    Raises:
        UsageError: it is neither, or as `from_json`; with the line where one can be told.
    """
    is_toml = name.lower().endswith(".toml")
    try:
        value = tomllib.loads(text) if is_toml else json.loads(text, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise UsageError(f"{name}: brackets in brackets without end: expected a task") from error
    except ValueError as error:
        raise UsageError(f"{name} is no {'TOML' if is_toml else 'JSON'}: {error}") from error
    lines = of_toml(text) if is_toml else of_json(text)
    if not isinstance(value, dict):
        raise UsageError(f"{name}: expected a table with name, classes and regions")
    if isinstance(value.get("name"), str) and value["name"] in TASKS:
        where = at(lines, ("name",))
        raise UsageError(
            f"{name}: {where}{value['name']!r}: expected a name of its own, and not that of a task "
            "of the field"
        )
    try:
        return from_json(value, lines)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; `ValueError` for a key that is there twice, as in TOML."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice in one object")
    return dict(pairs)
