"""The house: every file lies in a room, imports point down, and rooms are entered by their doors.

`ray_brats/docs/inside.md` tells people the same. A room is a folder of the package; the modules
beside the folders are the hall. A wing (`serve/http`) is a part of its room.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_brats.recipes.tasks import TASKS

PACKAGE = Path(__file__).resolve().parents[1] / "ray_brats"
MOST_ARROWS = 80
MOST_ENTRIES = 22
MOST_PARAMETERS = 7
MOST_LINES = 60

Sources = Mapping[str, str]
"""Path of a module below the package, without `.py`, to its text."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """A folder of the package; it may stand on the rooms that come before it in `ROOMS`."""

    doors: str
    """Modules that other rooms may import."""
    frameworks: str = ""

    def admits(self, module: str) -> bool:
        """Whether other rooms may import a module, a path within the room."""
        return module in self.doors.split()


ROOMS: Mapping[str, Room] = {
    "recipes": Room(doors="config jsonform named costs tasks"),
    "files": Room(
        doors="storage ledger folders retry claims local ownership channels access packed"
    ),
    "cases": Room(
        doors="cohort case volume geometry preprocess background phantom splits naming inspection "
        "nifti anatomy datasetjson phantom_head manifest raw/studies raw/patient raw/preparation "
        "raw/record raw/space raw/placed raw/identity raw/dicomseg raw/apart raw/sources raw/extra"
    ),
    "metrics": Room(doors="scores summary comparison original"),
    "report": Room(doors="page figures worst_cases aligned"),
    "model": Room(
        doors="predict bundle card predictions unet losses graph", frameworks="tensorflow keras"
    ),
    "training": Room(doors="loop data cache run log export", frameworks="tensorflow keras"),
    "engine": Room(
        doors="cluster capacity mapping blocks watchdog devices waiting jobs", frameworks="ray"
    ),
    "stages": Room(
        doors="prepare preprocess train score remote evaluate submission",
        frameworks="ray tensorflow keras",
    ),
    "serve": Room(doors="deploy settings limits http/access", frameworks="ray tensorflow keras"),
    "commands": Room(
        doors="arguments parser registry",
        frameworks="ray tensorflow keras",
    ),
    "benchmarks": Room(doors="command", frameworks="ray tensorflow keras"),
}
GROUND = {"__init__", "arrays", "errors", "labels", "progress"}
ROOF = {"api", "cli"}
"""Modules of the hall: those that everybody stands on, and those that stand on the rooms."""
SHED = "benchmarks"
"""It measures what is inside, so no door is closed to it; and nobody stands on it."""
FRAMEWORKS = {"ray", "tensorflow", "keras"}
STAGES = {"prepare", "preprocess", "train", "score", "evaluate", "submission", "remote"}
APART = {"stages", "serve"}
"""Rooms that import no stage: what joins two of them is in `commands`."""


# --- what a tree of modules says ---------------------------------------------------------


@functools.cache
def tree() -> Sources:
    """The package's modules."""
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text()
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@functools.lru_cache(maxsize=512)
def parsed(text: str) -> tuple[ast.AST, ...]:
    """All nodes of a module."""
    return tuple(ast.walk(ast.parse(text)))


@functools.cache
def imports(text: str) -> tuple[str, ...]:
    """Absolute name of everything that a module imports, also inside functions."""
    names: list[str] = []
    for node in parsed(text):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def own_imports(sources: Sources) -> set[tuple[str, str]]:
    """Module, and module of the package that it imports."""
    pairs = set()
    for module, text in sources.items():
        for name in imports(text):
            parts = name.split(".")[1:] if name.startswith("ray_brats.") else []
            paths = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
            target = next((path for path in paths if path in sources), None)
            if target not in (None, module):
                pairs.add((module, str(target)))
    return pairs


def room_of(module: str) -> str:
    """The room of a module, or the module itself where it stands in the hall."""
    return module.split("/", 1)[0]


def arrows(sources: Sources) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second; the hall counts as one room."""
    pairs = {
        tuple(room_of(module) if room_of(module) in ROOMS else "hall" for module in pair)
        for pair in own_imports(sources)
    }
    return {(one, other) for one, other in pairs if one != other}


# --- the rules ---------------------------------------------------------------------------


def faults(sources: Sources) -> set[str]:
    """A sentence for each thing that breaks a rule of the house."""
    known = {*ROOMS, *GROUND, *ROOF}
    homeless = {f"{name} lies in no room" for name in sources if room_of(name) not in known}
    if homeless:
        return homeless
    return {
        *(fault for pair in own_imports(sources) for fault in _of_import(*pair)),
        *(fault for name, text in sources.items() for fault in _of_frameworks(name, text)),
        *_of_circles(sources),
    }


def _of_import(module: str, target: str) -> Iterator[str]:
    mine, theirs = room_of(module), room_of(target)
    line = f"{module} imports {target}"
    inside = target.partition("/")[2]
    if theirs == "stages" and inside in STAGES and mine in APART:
        yield f"{line}: what joins stages is in commands"
    if _floor(theirs) > _floor(mine):
        yield f"{line}: imports point down"
    if theirs in ROOMS and mine not in (theirs, SHED) and not ROOMS[theirs].admits(inside):
        yield f"{line}: not by a door of {theirs}"


def _floor(name: str) -> int:
    if name == SHED:
        return len(ROOMS) + 1
    if name in ROOMS:
        return list(ROOMS).index(name)
    return len(ROOMS) if name in ROOF else -1


def _of_frameworks(module: str, text: str) -> Iterator[str]:
    room = ROOMS.get(room_of(module))
    allowed = room.frameworks.split() if room else []
    for root in sorted({name.split(".")[0] for name in imports(text)} & FRAMEWORKS):
        if root not in allowed:
            yield f"{module} imports {root}: not in this room"


def _of_circles(sources: Sources) -> Iterator[str]:
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for module, target in own_imports(sources):
        graph[module].add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"a circle: {' <- '.join(error.args[1])}"


def test_the_house_keeps_its_rules() -> None:
    assert faults(tree()) == set()


def test_few_arrows_run_between_rooms(capsys: pytest.CaptureFixture[str]) -> None:
    found = arrows(tree())
    with capsys.disabled():
        sys.stdout.write(f" {len(found)} arrows between {len(ROOMS) + 1} rooms, the hall as one ")
    assert len(found) <= MOST_ARROWS


def test_the_hall_is_no_store() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__pycache__"}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_a_room_says_what_it_is_for_and_imports_nothing() -> None:
    for room in ROOMS:
        text = tree()[f"{room}/__init__"]
        assert ast.get_docstring(ast.parse(text)), room
        assert not imports(text), room


def test_nothing_uses_the_legacy_keras_namespace() -> None:
    for module, text in tree().items():
        assert not re.search(r"\btf\.keras\b", text), module


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module."""
    for node in parsed(text):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names that a caller may give."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [item.arg for item in named if item and item.arg not in ("self", "cls")]


def test_functions_are_short_and_take_few_parameters() -> None:
    large = {
        f"{module}.{function.name}"
        for module, text in tree().items()
        for function in functions(text)
        if len(parameters(function)) > MOST_PARAMETERS
        or (function.end_lineno or 0) - function.lineno >= MOST_LINES
    }
    assert large == set()


# --- one owner for labels ----------------------------------------------------------------

OWNERS = ("labels", "recipes/tasks")
"""The modules that spell classes and regions."""
TISSUES = frozenset({"edema"})
"""What phantoms are drawn of: a tissue, with its contrast, that is called as a class is."""
SPELLED: Mapping[str, frozenset[str]] = {
    # How files of masks are called, which is told to the page's `naming.js` too.
    "cases/naming": frozenset({"gtv"}),
    "cases/phantom": TISSUES,
    "cases/phantom_tumours": TISSUES,
    # Names of the page's style, which every report has had since the first.
    "report/charts": frozenset({"wt", "tc", "et", "rc", "ed"}),
}
"""Module to the words that it may spell all the same."""


@functools.cache
def words_of_tasks() -> frozenset[str]:
    """Names of every region and class of the field, regions in small letters too."""
    targets = [task.targets for task in TASKS.values()]
    regions = {name for item in targets for name in item.region_names}
    classes = {item.name for own in targets for item in own.classes}
    return frozenset(regions | {name.lower() for name in regions} | classes)


def spelled(text: str) -> set[str]:
    """Words of tasks that stand in a module as texts of their own; amid others they are prose."""
    return {
        node.value
        for node in parsed(text)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } & words_of_tasks()


def test_labels_and_tasks_alone_spell_classes_and_regions() -> None:
    found = {module: spelled(text) for module, text in tree().items() if module not in OWNERS}
    assert {module: words for module, words in found.items() if words} == SPELLED


def test_the_page_is_told_classes_and_regions() -> None:
    words = "|".join(map(re.escape, sorted(words_of_tasks())))
    pattern = re.compile(rf"""(["'`])({words})\1|\.({words})\b|\b({words}):""")
    scripts = list((PACKAGE / "serve" / "page").glob("*.js"))
    assert scripts
    for script in scripts:
        found = [line.strip() for line in script.read_text().splitlines() if pattern.search(line)]
        assert found == (['"gtv",'] if script.name == "naming.js" else []), script.name
    assert pattern.search('colours["edema"]')
    assert pattern.search("volumes.WT + 1")


# --- the rules notice --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("model/unet", "from ray_brats.stages import train", "imports point down"),
        ("cases/volume", "from ray_brats.cli import main", "imports point down"),
        ("labels", "from ray_brats.files import storage", "imports point down"),
        ("serve/service", "from ray_brats.stages import score", "what joins stages is in commands"),
        ("stages/train", "from ray_brats.stages.score import score", "what joins stages"),
        (
            "stages/score",
            "from ray_brats.training import augmentation",
            "not by a door of training",
        ),
        ("commands/masks", "import ray_brats.serve.http.gate", "not by a door of serve"),
        ("commands/masks", "from ray_brats.benchmarks import growth", "imports point down"),
        ("cases/volume", "import tensorflow as tf", "not in this room"),
        ("training/loop", "def late():\n    from ray.train import report", "not in this room"),
        ("progress", "from ray_brats import labels", None),
        ("files/claims", "from ray_brats.files import ledger", None),
    ],
)
def test_a_line_that_breaks_a_rule_is_noticed(module: str, line: str, fault: str | None) -> None:
    before = faults(tree())
    after = faults({**tree(), module: f"{tree()[module]}\n{line}\n"}) - before
    if fault is None:
        assert after == set()
    else:
        assert any(sentence.startswith(module) and fault in sentence for sentence in after)


@pytest.mark.parametrize("line", ["X = 'WT'", "def f(m):\n    return m['rc'] + m['edema']"])
def test_a_word_of_a_task_is_noticed(line: str) -> None:
    assert spelled(f'"""Of WT and edema."""\n{line}\n')
    assert not spelled('def f():\n    """Of WT."""\n    return "WT, whole tumour"\n')


def test_a_file_outside_of_every_room_is_noticed() -> None:
    assert faults({**tree(), "utils": ""}) == {"utils lies in no room"}
    assert faults({**tree(), "misc/things": ""}) == {"misc/things lies in no room"}


def test_a_circle_is_noticed() -> None:
    storage = tree()["files/storage"] + "\nfrom ray_brats.files import ledger\n"
    assert any("circle" in fault for fault in faults({**tree(), "files/storage": storage}))
