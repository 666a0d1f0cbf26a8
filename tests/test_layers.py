"""Imports point down only (the layers, from the bottom to the top)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ray_brats"
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "errors labels config jsonform recipes listing placing storage folders ledger attempts "
        "progress fence watchdog frozen probe rates",
        "naming manifest cohort splits geometry nifti volume intensities preprocess inspection "
        "patches carving metrics keras_figures "
        "lesions surfaces phantom figures charts report submission modelcard trainingset runlog "
        "schedule pace footprint distances mappair summaries comparison markup standings "
        "worst_cases panels",
        "unet losses augmentation batches windows predict graph bundle checkpoint runs step "
        "validation hooks loop export",
        "engine mapping blocks capacity board rank dataset train score scoring evaluate serve "
        "endpoint",
        "commands serving pipeline doctor plan upload tables cli benchmarks",
    )
)
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
FRAMEWORKS = {"ray": 3, "tensorflow": 2, "keras": 2}
"""The lowest layer that may import each."""
ENGINE_SHELLS = {"dataset", "train", "score", "evaluate"}
FILES = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"} | {
    path.parent.name: sorted(path.parent.glob("*.py")) for path in PACKAGE.glob("*/__init__.py")
}
"""Module, or folder of modules, to its files."""
MODULES = sorted(FILES)


def nodes_of(module: str) -> list[ast.AST]:
    """The syntax of all files of a module."""
    return [node for path in FILES[module] for node in ast.walk(ast.parse(path.read_text()))]


def imports_of(module: str) -> set[str]:
    """Absolute names of everything a module imports, also inside functions."""
    found: set[str] = set()
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(module: str) -> set[str]:
    """Names of the package's own modules that a module imports."""
    parts = [name.split(".") for name in imports_of(module)]
    own = {part[1] for part in parts if part[0] == "ray_brats" and len(part) > 1}
    return own & set(MODULES)


def test_every_module_has_a_layer() -> None:
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    above = {name for name in own_imports(module) if LEVEL[name] > LEVEL[module]}
    assert not above


@pytest.mark.parametrize("module", MODULES)
def test_frameworks_stay_in_their_layers(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(module)}
    too_low = {
        name for name, level in FRAMEWORKS.items() if name in roots and LEVEL[module] < level
    }
    assert not too_low


@pytest.mark.parametrize("module", sorted(ENGINE_SHELLS))
def test_stages_do_not_import_each_other(module: str) -> None:
    assert not own_imports(module) & (ENGINE_SHELLS - {module})


def test_nothing_uses_the_legacy_keras_namespace() -> None:
    for module in MODULES:
        attributes = [node for node in nodes_of(module) if isinstance(node, ast.Attribute)]
        assert not [
            node
            for node in attributes
            if node.attr == "keras" and getattr(node.value, "id", "") == "tf"
        ]
