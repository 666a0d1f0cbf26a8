"""The table of measured rates that `plan` counts with: package data, or the user's own file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from ray_brats.errors import UsageError
from ray_brats.files import storage

Stage = Literal["preprocess", "train", "score"]
STAGES: tuple[Stage, ...] = ("preprocess", "train", "score")
MOST = 10**9
"""Largest count or measure that is believed: what is beyond is a slip of the keyboard."""
STORED = ("raw", "dataset", "predictions", "run")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How long one unit takes: core-seconds, or seconds of one GPU."""

    stage: Stage
    recipe: str
    on: Literal["cpu", "gpu"]
    seconds: float | None
    """None: nobody measured."""
    hardware: str
    date: str

    @property
    def source(self) -> str:
        """Where and when it was measured."""
        return "not measured" if self.seconds is None else f"{self.hardware}, {self.date}"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """All rates, and the megabytes (10⁶ bytes) that a case takes in each place."""

    rates: tuple[Rate, ...]
    storage_mb: dict[str, float]
    """Megabytes of each of `STORED`; `run` is a whole run, not a case."""
    storage_source: str

    def find(self, stage: Stage, recipe: str, on: Literal["cpu", "gpu"]) -> Rate:
        """The rate of this very recipe, else that of any; one that is not measured where none."""
        for name in (recipe, "any"):
            for rate in self.rates:
                if (rate.stage, rate.recipe, rate.on) == (stage, name, on):
                    return rate
        unknown = "not measured"
        return Rate(stage=stage, recipe=recipe, on=on, seconds=None, hardware=unknown, date=unknown)


def read(uri: str | None) -> Rates:
    """The user's table, or the one that ships with the package.

    Raises:
        UsageError: the file is not there or not such a table.
    """
    if uri is None:
        text = (
            resources.files("ray_brats.commands.preflight")
            .joinpath("rates.toml")
            .read_text("utf-8")
        )
    else:
        text = _text(uri)
    try:
        return _parse(tomllib.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--rates {uri}: not a table of rates ({error!r}); expected the form of the shipped "
            "ray_brats/commands/preflight/rates.toml"
        ) from error


def _text(uri: str) -> str:
    try:
        return storage.read_bytes(storage.absolute(uri)).decode()
    except FileNotFoundError as error:
        raise UsageError(f"--rates {uri}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--rates {uri}: not a text file; expected TOML") from error


def _parse(table: dict[str, Any]) -> Rates:
    stored = table["storage_mb"]
    return Rates(
        rates=tuple(_rate(row) for row in table["rate"]),
        storage_mb={name: _amount(name, stored[name]) for name in STORED},
        storage_source=f"{stored['hardware']}, {stored['date']}",
    )


def _amount(name: str, value: Any) -> float:
    """The number, neither negative nor beyond reason."""
    if not 0 <= float(value) <= MOST:
        raise ValueError(f"{name} = {value}; expected 0 to {MOST:,}")
    return float(value)


def _rate(row: dict[str, Any]) -> Rate:
    if unknown := set(row) - {"stage", "recipe", "on", "seconds", "hardware", "date"}:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    seconds = None if "seconds" not in row else _amount("seconds", row["seconds"])
    if row["stage"] not in STAGES or row["on"] not in ("cpu", "gpu"):
        raise ValueError(f"stage {row['stage']!r} on {row['on']!r}")
    if seconds == 0:
        raise ValueError("seconds = 0; expected more than 0")
    named = {name: str(row[name]) for name in ("recipe", "hardware", "date")}
    return Rate(stage=row["stage"], on=row["on"], seconds=seconds, **named)
