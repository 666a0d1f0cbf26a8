"""Checkpoints of a training run: every variable in one file, and a description beside it.

step-000500/state.npz         model, averaged weights, optimizer: one array a variable
step-000500/checkpoint.json   step, plan, scores, and the sha256 of state.npz
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.errors import ArtefactError
from ray_brats.files import storage

STATE = "state.npz"
CARD = "checkpoint.json"
_NAME = re.compile(r"step-\d+")

Groups = Mapping[str, Sequence[Any]]
"""Group name (`model`, `averaged`, `optimizer`) to its variables, in a fixed order."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The description of one checkpoint."""

    uri: str
    step: int
    facts: Mapping[str, Any]

    @property
    def mean_dice(self) -> float | None:
        """Score of the validation made at this step, if one was."""
        value = self.facts.get("sample_dice", self.facts.get("mean_dice"))
        return None if value is None else float(value)


def folder_name(step: int) -> str:
    """Name of the checkpoint of a step; sorts by step."""
    return f"step-{step:06d}"


def save(groups: Groups, folder: Path, *, step: int, facts: Mapping[str, Any]) -> None:
    """Write the values of all variables, then the description."""
    arrays = {
        f"{group}/{number}": np.asarray(variable.numpy())
        for group, variables in groups.items()
        for number, variable in enumerate(variables)
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    storage.write_bytes(str(folder / STATE), content)
    card = {**facts, "step": step, "sha256": hashlib.sha256(content).hexdigest()}
    storage.write_json(str(folder / CARD), card)


def restore(groups: Groups, uri: str) -> Checkpoint:
    """Set all variables to their saved values.

    Raises:
        ArtefactError: damaged, or saved from another architecture.
    """
    described = describe(uri)
    if described is None:
        raise ArtefactError(f"{uri} is no checkpoint: it has no {CARD}")
    content = storage.read_bytes(storage.join(uri, STATE))
    if hashlib.sha256(content).hexdigest() != described.facts["sha256"]:
        raise ArtefactError(f"{uri}: {STATE} does not match its description: it is damaged")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for group, variables in groups.items():
            saved = sum(name.startswith(f"{group}/") for name in arrays.files)
            if saved != len(variables):
                raise ArtefactError(
                    f"{uri}: {saved} saved arrays in {group!r}, this network has {len(variables)}"
                )
            for number, variable in enumerate(variables):
                variable.assign(arrays[f"{group}/{number}"])
    return described


def describe(uri: str) -> Checkpoint | None:
    """The description of a checkpoint, or None where it is not complete."""
    card = storage.read_json_or_none(storage.join(uri, CARD))
    if card is None or "step" not in card:
        return None
    return Checkpoint(uri=uri, step=int(card["step"]), facts=card)


def list_checkpoints(uri: str) -> list[Checkpoint]:
    """The complete checkpoints below a prefix, by step."""
    names = {
        file.uri.rsplit("/", 1)[0]
        for file in storage.list_files(uri)
        if file.uri.endswith(f"/{CARD}")
    }
    # A killed process may have left one under a temporary name, with or without its state.
    named = (name for name in names if _NAME.fullmatch(storage.name_of(name)))
    checkpoints = [item for name in named if (item := describe(name)) is not None]
    return sorted(checkpoints, key=lambda item: item.step)


def newest(uri: str) -> Checkpoint | None:
    """The complete checkpoint of the highest step below a prefix, or None."""
    checkpoints = list_checkpoints(uri)
    return checkpoints[-1] if checkpoints else None


def prune(uri: str, *, keep: int, delete: Callable[[str], None]) -> None:
    """Delete all but the `keep` newest checkpoints and the best one, and what kills left over.

    Args:
        uri: the prefix of the checkpoints.
        keep: how many of the newest stay.
        delete: removes a file or a folder.
    """
    checkpoints = list_checkpoints(uri)
    kept = {item.uri for item in checkpoints[-keep:]}
    if checkpoints:
        kept.add(best(checkpoints).uri)
    # A file right below the prefix, which is none of ours, must not take all with it.
    kept.add(uri.rstrip("/"))
    for folder in {file.uri.rsplit("/", 1)[0] for file in storage.list_files(uri)} - kept:
        # The description first: what is left without one counts as absent.
        delete(storage.join(folder, CARD))
        delete(folder)


def best(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The highest validated mean Dice; the newest where none was validated."""
    scored = [item for item in checkpoints if item.mean_dice is not None]
    if scored:
        return max(scored, key=lambda item: (item.mean_dice or 0.0, item.step))
    return checkpoints[-1]
