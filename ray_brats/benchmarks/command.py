"""`python jobs/benchmark.py NAME …`: a table, or with `--json` one object with "ratios"."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.table
import tyro

from ray_brats import cli
from ray_brats.benchmarks import (
    dataset_growth,
    feeding,
    growth,
    preprocess,
    quality,
    score,
    serve,
    train,
)
from ray_brats.engine import cluster
from ray_brats.progress import Terminal

BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "preprocess": preprocess.preprocess,
    "train": train.measure,
    "input": feeding.feeding,
    "score": score.score,
    "serve": serve.serve,
    "growth": growth.growth,
    "growth_preprocess": dataset_growth.growth,
    "quality": quality.quality,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends the process with the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Before anything imports TensorFlow.
    for name in ("TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL"):
        os.environ.setdefault(name, cluster.WORKER_ENV[name])
    raise SystemExit(cli.guarded(lambda: _call(given)))


def _call(given: list[str]) -> int:
    as_json = "--json" in given
    result = tyro.extras.subcommand_cli_from_dict(
        {name: _alone(benchmark) for name, benchmark in BENCHMARKS.items()},
        prog="benchmark.py",
        description=f"{__doc__}",
        args=[item for item in given if item != "--json"],
    )
    if as_json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        _print(result)
    return 0


def _alone(benchmark: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The benchmark, with what Ray and the peers say on standard output sent elsewhere."""

    @functools.wraps(benchmark)
    def call(*arguments: Any, **options: Any) -> dict[str, Any]:
        with contextlib.redirect_stdout(sys.stderr):
            return benchmark(*arguments, **options)

    return call


def _print(result: Mapping[str, Any]) -> None:
    table = rich.table.Table("", "")
    for name, value in _flat(result):
        table.add_row(name, value)
    Terminal().print(table)


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Names and values of nested mappings, as rows."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{above}{name}: ")
        elif value is None:
            rows.append((above + name, "not measured"))
        else:
            rows.append((above + name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return rows
