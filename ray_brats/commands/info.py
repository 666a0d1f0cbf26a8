"""The command `info`: what is installed here, and what it can do."""

from __future__ import annotations

import importlib.metadata
import inspect
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import rich.table

import ray_brats
from ray_brats.errors import ArtefactError
from ray_brats.files.ledger import Summary
from ray_brats.progress import Terminal
from ray_brats.recipes import named, tasks

ENGINES = ("ray", "tensorflow", "keras")


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Say what is installed: versions, commands, tasks, recipes, the starter."""


def info(_options: InfoOptions, commands: Mapping[str, str]) -> Summary:
    """Versions, commands, tasks, recipes, and the starter model's card; loads nothing.

    Args:
        commands: name to what it does, in a line.
    """
    facts = {
        "version": ray_brats.__version__,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ENGINES},
        "commands": dict(commands),
        "tasks": {
            name: {"labels": task.legend, "regions": list(task.targets.region_names)}
            for name, task in tasks.TASKS.items()
        },
        "recipes": {
            name: inspect.cleandoc(str(recipe.__doc__)).splitlines()[0]
            for name, recipe in named.RECIPES.items()
        },
        "starter": _starter(),
    }
    return Summary(facts=facts)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _starter() -> dict[str, Any] | None:
    """What the card of the starter model says of its use; None where there is no such model."""
    from ray_brats.model import card as modelcard

    try:
        card, sha256 = modelcard.read(modelcard.STARTER)
    except ArtefactError:
        return None
    task = tasks.told_by(card)
    return {
        "intended_use": card.get("intended_use"),
        "limits": card.get("limits", []),
        "modalities": card["recipe"]["preprocess"]["modalities"],
        "task": task.name if task else None,
        "measured_dice": card["measured"]["validation"].get("dice"),
        "quality": modelcard.quality(card),
        "cite": card.get("cite_for_brats_cases", []),
        "sha256": sha256,
    }


def tell(summary: Summary) -> None:
    """Print it for people."""
    grid = rich.table.Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in _rows(summary.facts):
        grid.add_row(*row)
    console = Terminal(highlight=False)
    with console.capture() as text:
        console.print(grid)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.get().splitlines()))


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    engines = (f"{name} {version or 'absent'}" for name, version in facts["versions"].items())
    yield "ray-brats", f"{facts['version']}, Python {facts['python']}, {', '.join(engines)}"
    yield "commands", ", ".join(facts["commands"])
    yield "tasks", ", ".join(facts["tasks"])
    for number, (name, line) in enumerate(facts["recipes"].items()):
        yield "" if number else "recipes", f"{name}: {line}"
    starter = facts["starter"]
    if starter is None:
        yield "starter", "this installation has none"
        return
    yield "starter", starter["intended_use"]
    yield "", f"takes {', '.join(starter['modalities'])}; labels as in {starter['task']}"
    for line in (*starter["limits"], starter["quality"], f"sha256 {starter['sha256']}"):
        yield "", line
    yield "cite", "; ".join(starter["cite"])
