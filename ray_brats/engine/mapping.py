"""Functions over cases with Ray Data: a row for each case, whatever befalls its process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
import ray.exceptions

from ray_brats.engine import blocks, cluster
from ray_brats.engine.waiting import Waiting
from ray_brats.errors import RayBratsError, StageFailed
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.progress import Progress, say

MAX_BLOCKS = 1024
"""A block costs Ray some 10 ms: long manifests share them."""
LIMIT_SECONDS = 1800.0
_OURS_TO_TELL = (
    "ray.data._internal.execution.streaming_executor_state",
    "ray.data._internal.progress",
)
"""Who would log the traceback of what ends the work, and that there are no bars: both are said."""
_OWN_ERROR = re.compile(r"^ray_brats\.errors\.\w+: ")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """What is done with each case, and what Ray gives those who do it."""

    task: Any
    """A `retry.Task`."""
    options: Mapping[str, Any]
    """Ray's resources for each task: `memory` in bytes, `num_cpus`, …."""
    arguments: Sequence[Any] = ()
    """What the function gets after the work."""


def map_cases(
    work: Sequence[Work],
    tasks: Tasks,
    *,
    title: str,
    limit_seconds: float = LIMIT_SECONDS,
    timed: bool = False,
) -> list[CaseRow]:
    """Run a task over cases with Ray Data: rows come back as cases finish.

    A case a block; only beyond `MAX_BLOCKS` cases do several share one. What can pass is tried
    again (`retry.complete`); a case whose process dies (out of memory, a crash in native
    code) is tried again in a new one, `retry.MAX_ATTEMPTS` times; a case over its time ends
    its process and is an error at once. No failure of a case ends the others.

    Args:
        work: the cases.
        tasks: what is done with each.
        title: of the progress bar.
        limit_seconds: the longest a case may take, all its attempts together.
        timed: rows carry `attempts` and `seconds`.

    Returns:
        A row for every case, in their order.

    Raises:
        StageFailed: Ray could not run the tasks at all.
    """
    if not work:
        return []
    results: dict[str, CaseRow] = {}
    tasks = _stated(title, len(work), tasks)
    frame = blocks.Frame(limit_seconds=limit_seconds, timed=timed)
    needed = {"CPU": tasks.options.get("num_cpus", 1)}
    with (
        Progress(title, len(work)) as progress,
        Waiting(title, needed) as waiting,
        stopped_by_ray(title),
    ):
        for row in stream_cases(work, tasks, frame):
            waiting.moved()
            results[row.case_id] = row
            remark = "" if row.status == "ok" else f"{row.case_id}: {row.status}"
            progress.update(len(results), note=remark)
    return [results[item.case_id] for item in work]


def stream_cases(work: Sequence[Work], tasks: Tasks, frame: blocks.Frame) -> Iterator[CaseRow]:
    """The rows of `map_cases` as blocks of cases finish; says nothing."""
    quiet_data()
    size = math.ceil(len(work) / MAX_BLOCKS)
    # Ray Data refuses GPUs without a batch size; a block is a batch either way.
    how = {**tasks.options, "batch_size": size, "batch_format": "pyarrow"}
    packed = [_table(work[at : at + size]) for at in range(0, len(work), size)]
    rows = ray.data.from_arrow(packed)
    arguments = [frame, tasks.task, list(tasks.arguments)]
    done = rows.map_batches(blocks.run, fn_args=arguments, **how)
    try:
        for item in done.iter_rows():
            yield CaseRow.from_json(json.loads(item["row"]))
    finally:
        frame.forget_notes()


def quiet_data() -> None:
    """Ray Data without its own bars and lines, and rows as they finish."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # What only its dashboard and its log would tell, at some milliseconds a block.
    context.memory_usage_poll_interval_s = None
    context.issue_detectors_config.detectors = []
    context.execution_options.preserve_order = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _OURS_TO_TELL:
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


def _stated(title: str, cases: int, tasks: Tasks) -> Tasks:
    """The tasks, their memory capped to what a node has, and said before the start."""
    resources, asked = cluster.resources(), tasks.options["memory"]
    # A task that asks for more than any node has would wait for ever.
    memory = min(asked, int(0.9 * resources.node_memory_bytes))
    cpus = tasks.options.get("num_cpus", 1)
    fitting = int(min(resources.cpus / max(cpus, 1e-9), resources.memory_bytes / max(memory, 1)))
    at_a_time = max(1, min(cases, fitting))
    say(
        f"{title}: {cases} case(s), {at_a_time} at a time with {cpus} CPU(s) and "
        f"{asked / 2**30:.1f} GiB each ({resources.memory_bytes / 2**30:.1f} GiB free)"
    )
    if memory < asked:
        say(
            f"warning: the largest node offers {resources.node_memory_bytes / 2**30:.1f} GiB: "
            "cases may run out of memory"
        )
    return dataclasses.replace(tasks, options={**tasks.options, "memory": memory})
