"""Ray itself: join a cluster or start one on this machine, and map functions over cases.

The other modules of this layer are thin shells that stand on this one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from ray_brats.errors import CaseError, UsageError
from ray_brats.ledger import Row, Work
from ray_brats.progress import Progress, say

WORKER_ENV = {
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}
"""In every worker: oneDNN's convolutions (TensorFlow leaves them off on CPUs without AVX-512,
where they are ten times as fast as its own), no TensorFlow noise, GPU memory taken as needed,
patience with autoscaling."""
OBJECT_STORE_BYTES = 256 << 20
"""Rows are small: a local Ray needs no more."""


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing on standard error inside: for what TensorFlow and Ray say as they start.

    Their C++ side speaks before its logging is set up and obeys no option; errors come as
    exceptions all the same.
    """
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster offers, in total and on its largest node."""

    cpus: int
    gpus: int
    node_cpus: int
    node_memory_bytes: int
    nodes: int


@contextlib.contextmanager
def running() -> Iterator[Resources]:
    """Ray is there inside: the cluster of `RAY_ADDRESS`, or one sized to this machine.

    Raises:
        UsageError: `RAY_ADDRESS` names a cluster that does not answer.
    """
    if ray.is_initialized():
        yield resources()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _join(address, quiet)
    else:
        for name, value in {**WORKER_ENV, "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
            os.environ.setdefault(name, value)
        with silenced():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
    try:
        found = resources()
        place = f"the cluster at {address}" if address else "this machine"
        say(f"Ray on {place}: {found.nodes} node(s), {found.cpus} CPUs, {found.gpus} GPUs")
        yield found
    finally:
        ray.shutdown()


def _join(address: str, quiet: Mapping[str, Any]) -> None:
    """Connect to a cluster; Ray itself would try an address where nobody listens for minutes."""
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, runtime_env={"env_vars": WORKER_ENV}, **quiet)
    except OSError as error:
        raise UsageError(
            f"RAY_ADDRESS is {address}, and no Ray cluster answers there: start one with "
            "`ray start --head`, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def resources() -> Resources:
    """What the cluster offers now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    return Resources(
        cpus=sum(cpus),
        gpus=sum(int(node.get("GPU", 0)) for node in nodes),
        node_cpus=max(cpus, default=0),
        node_memory_bytes=max((int(node.get("memory", 0)) for node in nodes), default=0),
        nodes=len(nodes),
    )


def map_cases(
    work: Sequence[Work],
    task: Any,
    *,
    title: str,
    options: Mapping[str, Any],
    actors: int | None = None,
    arguments: Sequence[Any] = (),
) -> list[Row]:
    """Run a task over cases with Ray Data: one case a block, rows back as they finish.

    Args:
        work: the cases.
        task: a function from one flat row (`Work.as_row`) to `{"row": JSON}`, or with `actors`
            a class whose instances are such functions.
        title: of the progress bar.
        options: Ray's resources for each task or actor (`num_cpus`, `memory`, …).
        actors: how many instances of the class stay alive.
        arguments: of the function after the row, or of the class.
    """
    if not work:
        return []
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A task that asks for more than any node has would wait for ever.
    there = resources()
    memory = min(options["memory"], int(0.9 * there.node_memory_bytes))
    options = {**options, "memory": memory}
    rows = ray.data.from_items([item.as_row() for item in work], override_num_blocks=len(work))
    if actors:
        done = rows.map(
            task,
            fn_constructor_args=list(arguments),
            compute=ray.data.ActorPoolStrategy(size=actors),
            **options,
        )
    else:
        done = rows.map(task, fn_args=list(arguments), **options)
    results: list[Row] = []
    with Progress(title, len(work)) as progress:
        for item in done.iter_rows():
            row = json.loads(item["row"])
            results.append(row)
            remark = "" if row["status"] == "ok" else f"{row['case_id']}: {row['status']}"
            progress.update(len(results), note=remark)
    return results


def attempt(case_id: str, work: Callable[[], tuple[Row, list[str]]]) -> tuple[Row, list[str]]:
    """The row and the files of one case; whatever goes wrong becomes its row, without files."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - one case must never end the cohort
        return _failed_row(case_id, error), []


def _failed_row(case_id: str, error: Exception) -> Row:
    """The row of a case that could not be used, whatever the reason."""
    if isinstance(error, CaseError):
        return {
            "case_id": case_id,
            "status": error.status,
            "reason": error.reason,
            "file": error.file,
        }
    reason = f"{type(error).__name__}: {error}"
    return {"case_id": case_id, "status": "error", "reason": reason, "file": ""}
