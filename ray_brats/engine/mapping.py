"""Functions over cases with Ray Data: a row for each case, whatever befalls its process."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
import ray.exceptions

from ray_brats.engine import blocks, cluster
from ray_brats.errors import RayBratsError, StageFailed
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.progress import Progress, say

MAX_BLOCKS = 1024
"""A block costs Ray some 10 ms: long manifests share them."""
LIMIT_SECONDS = 1800.0
_OWN_ERROR = re.compile(r"^ray_brats\.errors\.\w+: ")


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
) -> list[CaseRow]:
    """Run a task over cases with Ray Data: rows come back as cases finish.

    A case a block; only beyond `MAX_BLOCKS` cases do several share one. What can pass is tried
    again (`retry.complete`); a case whose process dies (out of memory, a crash in native
    code) is tried again in a new one, `retry.MAX_ATTEMPTS` times; a case over its time ends
    its process and is an error at once. No failure of a case ends the others.

    Args:
        work: the cases.
        task: a `retry.Task`, or with `actors` a class whose instances are such.
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
    results: dict[str, CaseRow] = {}
    options = _stated(title, len(work), options, actors)
    frame = blocks.Frame(session=uuid.uuid4().hex, limit_seconds=limit_seconds, timed=timed)
    with Progress(title, len(work)) as progress, stopped_by_ray(title):
        for row in stream_cases(work, task, frame, options, actors, arguments):
            results[row.case_id] = row
            remark = "" if row.status == "ok" else f"{row.case_id}: {row.status}"
            progress.update(len(results), note=remark)
    return [results[item.case_id] for item in work]


def stream_cases(
    work: Sequence[Work],
    task: Any,
    frame: blocks.Frame,
    options: Mapping[str, Any],
    actors: int | None = None,
    arguments: Sequence[Any] = (),
) -> Iterator[CaseRow]:
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
            yield CaseRow.from_json(json.loads(item["row"]))
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
    there = cluster.resources()
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
