"""`score`: a cohort to masks, by actors that keep the model and take cases from file to file.

What an actor does stands in `segmenting`; `model.predictions` says what lies in the folder
afterwards. All cases are one execution of Ray Data: some cases to a block, and actors that become
more where nodes join and fewer towards the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data

from ray_brats.cases.case import Cohort
from ray_brats.engine import capacity as capacities
from ray_brats.engine import devices, mapping
from ray_brats.engine.capacity import Capacity
from ray_brats.engine.cluster import Resources, on_node
from ray_brats.engine.waiting import Waiting
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.files.packed import Packed
from ray_brats.model.card import Asked
from ray_brats.model.predict import Predictor
from ray_brats.model.predictions import Predictions, ScoreSummary
from ray_brats.progress import Progress, say
from ray_brats.stages.segmenting import (
    SIDE_BY_SIDE,
    Entry,
    Frame,
    MakeSegmenter,
    Segment,
    Tally,
    as_block,
)

LIMIT_SECONDS = 1800.0
MOST_TOGETHER = 8
"""Cases of a block, which costs Ray Data some 15 ms."""
BLOCKS_AN_ACTOR = 8
"""At least so many blocks has each actor, or blocks of one case: the last ones end together."""
BUSY, IDLE = 0.9, 0.4
"""Shares of what actors can have with them: above the pool grows, below it shrinks."""


def score(
    cohort: Cohort,
    target: Predictions,
    *,
    make_segmenter: MakeSegmenter,
    cluster: Resources,
    workers: int | None = None,
    limit_seconds: float = LIMIT_SECONDS,
) -> ScoreSummary:
    """Segment every case that is not segmented yet.

    Args:
        cohort: the cases; its rejected rows enter the ledger.
        target: where the masks go, and what they depend on.
        make_segmenter: called once in each actor.
        cluster: what it offers.
        workers: actors at most; by default one a GPU, else one for two cores.
        limit_seconds: the longest one step may take over a case.

    Raises:
        UsageError: more workers than the cluster has CPUs or GPUs for.
        StageFailed: Ray could not run the steps at all.
    """
    finished, todo = target.split_finished(cohort)
    capacity = capacities.for_scoring(cluster, workers, len(todo))
    frame = Frame(
        preprocessing=target.preprocessing,
        limit_seconds=limit_seconds,
        readers=capacity.readers,
    )
    done = segment_all(todo, frame, capacity, make_segmenter)
    return target.conclude(cohort, finished, done)


def segment_all(
    work: Sequence[Work], frame: Frame, capacity: Capacity, make_segmenter: MakeSegmenter
) -> Sequence[CaseRow]:
    """A row for every case, in the order they finish."""
    if not work:
        return []
    held = capacity.actor["memory"] / 2**30
    more = "" if capacity.most == capacity.actors else ", more where nodes join"
    say(
        f"score: {len(work)} case(s), {capacity.actors} worker(s) of {capacity.threads} "
        f"thread(s){more}, each up to {held:.1f} GiB with {frame.readers} case(s) being read"
    )
    here = ray.get_runtime_context().get_node_id()
    tally = ray.remote(num_cpus=0)(Tally).options(scheduling_strategy=on_node(here)).remote()
    with (
        Progress("score", len(work)) as progress,
        _followed(tally, progress),
        Waiting("score"),
        mapping.stopped_by_ray("score"),
    ):
        rows = Packed(stream(work, frame, capacity, make_segmenter, tally))
        failed = sum(row.status != "ok" for row in rows)
        progress.update(len(rows), note=f"{failed} failed" if failed else "")
    return rows


@contextlib.contextmanager
def _followed(tally: Any, progress: Progress) -> Iterator[None]:
    """Show what the tally hears; the rows of a block come together and late."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(1.0):
            # Without it the rows still come.
            with contextlib.suppress(ray.exceptions.RayError):
                done, failed, last = ray.get(tally.counts.remote())
                progress.update(done, note=f"{failed} failed, last {last}" if failed else "")

    thread = threading.Thread(target=follow, daemon=True, name="ray-brats-tally")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)


def stream(
    work: Sequence[Work],
    frame: Frame,
    capacity: Capacity,
    make_segmenter: MakeSegmenter,
    tally: Any = None,
) -> Iterator[CaseRow]:
    """A row for every case, as blocks of them finish; those whose process died come last."""
    put_off = Packed[Entry]()
    entries = Packed(Entry(work=item) for item in work)
    while entries:
        for done in _one_pass(entries, frame, capacity, make_segmenter, tally):
            if isinstance(done, Entry):
                put_off.append(done)
            else:
                yield done
        entries, put_off = put_off, Packed()
        if entries:
            say(f"score: {len(entries)} case(s), whose process died, once more")
            frame = dataclasses.replace(frame, alone=True)


def _one_pass(
    entries: Packed[Entry],
    frame: Frame,
    capacity: Capacity,
    make_segmenter: MakeSegmenter,
    tally: Any,
) -> Iterator[CaseRow | Entry]:
    """One execution of Ray Data: a row for each case, or its entry where it was put off."""
    mapping.quiet_data()
    scaling = ray.data.DataContext.get_current().autoscaling_config
    scaling.actor_pool_util_upscaling_threshold = BUSY
    scaling.actor_pool_util_downscaling_threshold = IDLE
    size = 1 if frame.alone else together(len(entries), capacity.actors)
    grouped = [as_block(group) for group in entries.groups(size)]
    pool = ray.data.ActorPoolStrategy(
        min_size=capacity.actors if capacity.most == capacity.actors else 1,
        max_size=capacity.most,
        initial_size=capacity.actors,
        max_tasks_in_flight_per_actor=SIDE_BY_SIDE,
        max_concurrent_calls_per_actor=1 if frame.alone else SIDE_BY_SIDE,
    )
    done = ray.data.from_arrow(grouped).map_batches(
        Segment,
        fn_constructor_args=[frame, make_segmenter, capacity.threads, tally],
        compute=pool,
        batch_size=1,
        batch_format="pyarrow",
        **capacity.actor,
    )
    try:
        for item in done.iter_rows():
            if item["row"]:
                yield CaseRow.from_json(json.loads(item["row"]))
            else:
                yield Entry.from_json(item["again"])
    finally:
        frame.forget_notes()


def together(cases: int, actors: int) -> int:
    """How many of so many cases are a block for so many actors."""
    return max(1, min(MOST_TOGETHER, cases // (actors * BLOCKS_AN_ACTOR)))


def load_predictor(
    bundles: tuple[str, ...],
    pinned: tuple[str, ...],
    asked: Asked,
    threads: int,
) -> Predictor:
    """Load the bundles in an actor, with a TensorFlow of so many threads."""
    import tensorflow as tf

    from ray_brats.model import bundle

    devices.check(len(tf.config.list_physical_devices("GPU")))
    return bundle.load_predictor(bundles, pinned, asked=asked, threads=threads)
