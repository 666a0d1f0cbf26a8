"""What surrounds the training loop: its cases, and what it asks of whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_brats.training.batches import PreparedCase
from ray_brats.training.validation import Example


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop asks of its surroundings."""

    broadcast: Callable[[Any], Any]
    """Rank 0's value, on every rank; all ranks call it."""
    event: Callable[[dict[str, Any]], None]
    """One line of `metrics.jsonl`; called on rank 0 alone."""
    keep: Callable[[Path, int], None]
    """Keep the checkpoint in a folder, of a step; called on rank 0 alone."""
    picture: Callable[[int, Example], None] = lambda _step, _example: None
    """Show a validated case; called on rank 0 alone."""
    beat: Callable[[], None] = lambda: None
    """A sign of life."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The cases of one rank: all training cases, its own share of the validation cases."""

    training: Sequence[PreparedCase]
    validation: Sequence[PreparedCase]
    """Of R ranks, rank r has every R-th of `validation_ids`, from the r-th on."""
    validation_ids: Sequence[str]
    """The validation cases of all ranks."""
    validation_vox: int
    """Voxels that pass through the network for the validation cases of all ranks."""
