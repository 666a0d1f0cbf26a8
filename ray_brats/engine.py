"""Ray itself: join a cluster or start one on this machine, and map functions over cases.

The other modules of this layer are thin shells that stand on this one.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import re
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from ray_brats import blocks, ledger
from ray_brats.errors import RayBratsError, StageFailed, UsageError
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
WATCH = "ray_brats.frozen.watch"
"""What every worker does first."""
NODE_ENV = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_local_fs_monitor_interval_ms": "1000",
}
"""Of a local Ray itself. Where actors hold most CPUs, it would end every process that has been idle
for a second, and a new one costs more than a case's reading and writing. What it counts for a
dashboard nobody sees: there is none."""
MAX_BLOCKS = 1024
"""A block costs Ray some 10 ms: long manifests share them."""
LIMIT_SECONDS = 1800.0
NODES_SECONDS = 900.0
"""How long a cluster's first worker node may take to join."""
_OWN_ERROR = re.compile(r"^ray_brats\.errors\.\w+: ")


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
    memory_bytes: int
    nodes: int
    shapes: tuple[tuple[int, int], ...]
    """CPUs and GPUs of each node."""


def object_store_bytes(cpus: int) -> int:
    """Of a local Ray on so many CPUs.

    Rows are small; what fills it are prepared images that wait for an actor, a few for each. The
    cap is for containers that see all cores of a machine and little of its memory.
    """
    return min(2 << 30, max(256 << 20, cpus * (128 << 20)))


@contextlib.contextmanager
def running(*, patience_seconds: float = NODES_SECONDS) -> Iterator[Resources]:
    """Ray is there inside: the cluster of `RAY_ADDRESS`, or one sized to this machine.

    Args:
        patience_seconds: how long a cluster may still be without any CPU, since a head that does
            no work itself takes jobs before its workers have joined.

    Raises:
        UsageError: `RAY_ADDRESS` names a cluster that does not answer, or has no CPUs.
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
        for name, value in {**WORKER_ENV, **NODE_ENV}.items():
            os.environ.setdefault(name, value)
        with silenced():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=object_store_bytes(os.cpu_count() or 1),
                runtime_env={"worker_process_setup_hook": WATCH},
                **quiet,
            )
    try:
        found = _with_nodes(resources, patience_seconds) if address else resources()
        place = f"the cluster at {address}" if address else "this machine"
        say(f"Ray on {place}: {found.nodes} node(s), {found.cpus} CPUs, {found.gpus} GPUs")
        yield found
    except BaseException as error:
        _let_go(error)
        raise
    finally:
        ray.shutdown()


def _with_nodes(
    look: Callable[[], Resources], patience_seconds: float, pause_seconds: float = 5.0
) -> Resources:
    """What the cluster offers once any node offers CPUs."""
    until, told = time.monotonic() + patience_seconds, False
    while (found := look()).cpus == 0 and time.monotonic() < until:
        if not told:
            say(f"Ray: no node with CPUs has joined yet; waiting up to {patience_seconds:g} s")
            told = True
        time.sleep(pause_seconds)
    if found.cpus == 0 and patience_seconds > 0:
        raise UsageError(
            f"RAY_ADDRESS: the cluster has no CPUs, and no node with any joined within "
            f"{patience_seconds:g} s: look at `ray status`, or start the head with --num-cpus"
        )
    return found


def _let_go(error: BaseException) -> None:
    """Free what the frames of an error hold, while Ray is still there.

    Among it may be an executor of Ray Data, interrupted as it was set up. Freed after
    `ray.shutdown`, its finaliser would start Ray anew and fail in it.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    gc.collect()


def _join(address: str, quiet: Mapping[str, Any]) -> None:
    """Connect to a cluster; Ray itself would try an address where nobody listens for minutes."""
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()
        ours = {"env_vars": WORKER_ENV, "worker_process_setup_hook": WATCH}
        ray.init(address=address, runtime_env=ours, **quiet)
    except OSError as error:
        raise UsageError(
            f"RAY_ADDRESS is {address}, and no Ray cluster answers there: start one with "
            "`ray start --head`, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def resources() -> Resources:
    """What the cluster offers now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    memory = [int(node.get("memory", 0)) for node in nodes]
    return Resources(
        cpus=sum(cpus),
        gpus=sum(int(node.get("GPU", 0)) for node in nodes),
        node_cpus=max(cpus, default=0),
        node_memory_bytes=max(memory, default=0),
        memory_bytes=sum(memory),
        nodes=len(nodes),
        shapes=tuple((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes),
    )


def map_cases(
    work: Sequence[Work],
    task: Any,
    *,
    title: str,
    options: Mapping[str, Any],
    actors: int | None = None,
    arguments: Sequence[Any] = (),
    limit_seconds: float = LIMIT_SECONDS,
    timed: bool = False,
) -> list[Row]:
    """Run a task over cases with Ray Data: rows come back as cases finish.

    A case a block; only beyond `MAX_BLOCKS` cases do several share one. What can pass is tried
    again (`attempts.complete`); a case whose process dies (out of memory, a crash in native
    code) is tried again in a new one, `attempts.MAX_ATTEMPTS` times; a case over its time ends
    its process and is an error at once. No failure of a case ends the others.

    Args:
        work: the cases.
        task: an `attempts.Task`, or with `actors` a class whose instances are such.
        title: of the progress bar.
        options: Ray's resources for each task or actor: `memory` in bytes, `num_cpus`, ….
        actors: how many instances of the class stay alive.
        arguments: of the function after the work, or of the class.
        limit_seconds: the longest a case may take, all its attempts together.
        timed: rows carry `attempts` and `seconds`.

    Returns:
        A row for every case, in their order.

    Raises:
        StageFailed: Ray could not run the tasks at all.
    """
    if not work:
        return []
    results: dict[str, Row] = {}
    options = _stated(title, len(work), options, actors)
    frame = blocks.Frame(session=uuid.uuid4().hex, limit_seconds=limit_seconds, timed=timed)
    with Progress(title, len(work)) as progress, stopped_by_ray(title):
        for row in stream_cases(work, task, frame, options, actors, arguments):
            results[row["case_id"]] = row
            remark = "" if row["status"] == "ok" else f"{row['case_id']}: {row['status']}"
            progress.update(len(results), note=remark)
    return [results[item.case_id] for item in work]


def stream_cases(
    work: Sequence[Work],
    task: Any,
    frame: blocks.Frame,
    options: Mapping[str, Any],
    actors: int | None = None,
    arguments: Sequence[Any] = (),
) -> Iterator[Row]:
    """The rows of `map_cases` as blocks of cases finish; says nothing."""
    quiet_data()
    size = math.ceil(len(work) / MAX_BLOCKS)
    # Ray Data refuses GPUs without a batch size; a block is a batch either way.
    how = {**options, "batch_size": size, "batch_format": "pyarrow"}
    packed = [_table(work[at : at + size]) for at in range(0, len(work), size)]
    rows = ray.data.from_arrow(packed)
    if actors:
        pool = ray.data.ActorPoolStrategy(size=min(actors, len(packed)))
        made = [frame, task, list(arguments)]
        done = rows.map_batches(blocks.Keeper, fn_constructor_args=made, compute=pool, **how)
    else:
        done = rows.map_batches(blocks.run, fn_args=[frame, task, list(arguments)], **how)
    try:
        for item in done.iter_rows():
            yield ledger.parse_row(item["row"])
    finally:
        blocks.forget_notes(frame.session)


def quiet_data() -> None:
    """Ray Data without its own bars and lines, and rows as they finish."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # What only its dashboard and its log would tell, at some milliseconds a block.
    context.memory_usage_poll_interval_s = None
    context.issue_detectors_config.detectors = []
    context.execution_options.preserve_order = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def stopped_by_ray(title: str) -> Iterator[None]:
    """What no case can cause (workers without the package, an actor that cannot start), named."""
    try:
        yield
    except ray.exceptions.RayError as error:
        if isinstance(error, RayBratsError):
            raise
        cause = _OWN_ERROR.sub("", str(error).strip().splitlines()[-1])
        raise StageFailed(f"{title} stopped: {cause}; what is finished stays") from error


def _table(work: Sequence[Work]) -> pa.Table:
    return pa.Table.from_pylist([item.as_row() for item in work])


def _stated(
    title: str, cases: int, options: Mapping[str, Any], actors: int | None
) -> dict[str, Any]:
    """The resources of a task, capped to what a node has, and said before the start."""
    there = resources()
    # A task that asks for more than any node has would wait for ever.
    memory = min(options["memory"], int(0.9 * there.node_memory_bytes))
    cpus = options.get("num_cpus", 1)
    fitting = int(min(there.cpus / max(cpus, 1e-9), there.memory_bytes / max(memory, 1)))
    at_a_time = max(1, min(cases, actors or fitting))
    say(
        f"{title}: {cases} case(s), {at_a_time} at a time with {cpus} CPU(s) and "
        f"{options['memory'] / 2**30:.1f} GiB each ({there.memory_bytes / 2**30:.1f} GiB free)"
    )
    if memory < options["memory"]:
        say(
            f"warning: the largest node offers {there.node_memory_bytes / 2**30:.1f} GiB: "
            "cases may run out of memory"
        )
    return {**options, "memory": memory}
