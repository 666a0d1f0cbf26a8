"""The house: every file lies in a room, imports point down, and rooms are entered by their doors.

`docs/inside.md` tells the same to people. A room is a folder of the package; the files beside the
folders are the hall, in which everybody may stand. A wing (`serve/http`) belongs to its room.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ray_brats"


@dataclass(frozen=True)
class Room:
    """A folder of the package; it may stand on the rooms that come before it in `ROOMS`."""

    doors: str
    """Modules that other rooms may import, or `*`."""
    frameworks: str = ""

    def admits(self, module: str) -> bool:
        """Whether others may import the module, a path within the room."""
        return self.doors == "*" or module.replace(".", "/") in self.doors.split()


TF, RAY = "tensorflow keras", "ray"
ROOMS: Mapping[str, Room] = {
    "recipes": Room("config jsonform named costs"),
    "files": Room("storage ledger folders retry claims local"),
    "cases": Room("cohort case volume geometry preprocess phantom splits naming inspection nifti"),
    "metrics": Room("scores summary comparison original"),
    "report": Room("page figures worst_cases"),
    "model": Room("predict bundle card predictions unet losses graph", TF),
    "training": Room("loop data run log export batches checkpoint", TF),
    "engine": Room("cluster capacity mapping blocks watchdog", RAY),
    "stages": Room("preprocess train score steps remote evaluate submission", f"{TF} {RAY}"),
    "serve": Room("deploy settings limits http/access", f"{TF} {RAY}"),
    "commands": Room(
        "datasets models masks reports pipeline services output arguments "
        "preflight/doctor preflight/plan preflight/storage preflight/upload",
        f"{TF} {RAY}",
    ),
    "benchmarks": Room("command", f"{TF} {RAY}"),
}
GROUND = {"__init__", "arrays", "errors", "labels", "progress"}
ROOF = {"cli"}
"""Modules of the hall: those that everybody stands on, and those that stand on all rooms."""
FRAMEWORKS = {"ray", "tensorflow", "keras"}
APART = {"stages", "serve"}
"""Rooms whose modules do not import a stage: what joins two stages is in `commands`."""


@dataclass(frozen=True)
class Import:
    """One line that brings a module of the package into another."""

    file: str
    source: str
    target: str
    """Both as paths below the package, without `.py`."""


def files(package: Path) -> Iterator[Path]:
    """All modules of the package."""
    return (path for path in sorted(package.rglob("*.py")) if "__pycache__" not in path.parts)


def place(path: str) -> str:
    """The room of a module, or the module itself where it stands in the hall."""
    return path.split("/", 1)[0]


def imports(package: Path) -> list[tuple[str, str]]:
    """Module and the absolute name of everything that it imports, also inside functions."""
    found = []
    for path in files(package):
        name = path.relative_to(package).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                found += [(name, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def own_imports(package: Path) -> list[tuple[str, str]]:
    """Module and module of the package that it imports, both as paths without `.py`."""
    modules = {path.relative_to(package).with_suffix("").as_posix() for path in files(package)}
    found = set()
    for name, imported in imports(package):
        parts = imported.split(".")
        if parts[0] != "ray_brats" or len(parts) == 1:
            continue
        candidates = ("/".join(parts[1:end]) for end in range(len(parts), 1, -1))
        target = next(
            (
                found
                for path in candidates
                for found in (path, f"{path}/__init__")
                if found in modules
            ),
            None,
        )
        if target is not None and target != name:
            found.add((name, target))
    return sorted(found)


def faults(package: Path) -> list[str]:
    """A sentence for each line that breaks a rule of the house."""
    known = {*ROOMS, *GROUND, *ROOF}
    homeless = [
        f"{path.relative_to(package)} lies in no room"
        for path in files(package)
        if place(path.relative_to(package).with_suffix("").as_posix()) not in known
    ]
    if homeless:
        return homeless
    return [
        *itertools.chain.from_iterable(
            _faults_of_import(source, target) for source, target in own_imports(package)
        ),
        *_faults_of_frameworks(package),
    ]


def _faults_of_import(source: str, target: str) -> Iterator[str]:
    mine, theirs = place(source), place(target)
    if theirs in ROOMS and mine != theirs:
        inside = target.split("/", 1)[1]
        if _floor(theirs) > _floor(mine):
            yield f"{source} imports {target}: upwards"
        if mine != "benchmarks" and not ROOMS[theirs].admits(inside):
            yield f"{source} imports {target}: not by a door of {theirs}"
        if mine in ROOMS and theirs in ("benchmarks",):
            yield f"{source} imports {target}: nobody stands on the benchmarks"
    stage = theirs == "stages" and inside_of(target) in STAGES
    if stage and mine in APART and source != target:
        yield f"{source} imports {target}: {mine} may not import a stage"


STAGES = {"preprocess", "train", "score", "evaluate", "submission"}


def inside_of(path: str) -> str:
    """The path of a module within its room."""
    return path.split("/", 1)[1]


def _floor(name: str) -> int:
    return list(ROOMS).index(name) if name in ROOMS else len(ROOMS) * (name in ROOF)


def _faults_of_frameworks(package: Path) -> Iterator[str]:
    for name, imported in imports(package):
        root = imported.split(".")[0]
        allowed = ROOMS[place(name)].frameworks.split() if place(name) in ROOMS else ()
        if root in FRAMEWORKS - {*allowed}:
            yield f"{name} imports {root}: not in this room"


def arrows(package: Path) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second; the hall's modules are one room."""
    pairs = {
        tuple(place(path) if place(path) in ROOMS else "hall" for path in pair)
        for pair in own_imports(package)
    }
    return {(first, second) for first, second in pairs if first != second}


NOT_YET = {
    "serve/jobs/cohort imports stages/score: serve may not import a stage",
    "stages/remote imports stages/score: stages may not import a stage",
}
"""What is left to mend."""


def test_the_house_keeps_its_rules() -> None:
    assert set(faults(PACKAGE)) - NOT_YET == set()


def test_nothing_uses_the_legacy_keras_namespace() -> None:
    for path in files(PACKAGE):
        attributes = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
        ]
        assert not [
            n for n in attributes if n.attr == "keras" and getattr(n.value, "id", "") == "tf"
        ]
