"""`score`: a cohort to masks; CPU tasks read, actors that keep the model segment, tasks write.

`model.predictions` says what lies in the folder afterwards.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence

import ray.data

from ray_brats.cases.case import Cohort
from ray_brats.engine import capacity as capacities
from ray_brats.engine import devices, mapping
from ray_brats.engine.capacity import Capacity
from ray_brats.engine.cluster import Resources
from ray_brats.engine.waiting import Waiting
from ray_brats.files.ledger import CaseRow, Work
from ray_brats.model.card import Asked
from ray_brats.model.predict import Predictor
from ray_brats.model.predictions import Predictions, ScoreSummary
from ray_brats.progress import Progress, say
from ray_brats.stages import steps
from ray_brats.stages.steps import Frame, MakeSegmenter, Parcel

LIMIT_SECONDS = 1800.0
CHUNK, CHEAP_CHUNK = 4096, 25_000
"""Cases that pass through Ray Data at once: its bookkeeping for a block stays until the end."""
LONG = 1024
PROBE = 64
"""A cohort of more than `LONG` cases starts with so many, which tell how dear its cases are."""
CHEAP_SECONDS = 0.05
"""Cases that take less share blocks, and one actor takes them through all steps; in three steps a
block costs Ray some 20 ms, and no real case is as cheap."""


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
        workers: actors; by default one a GPU, else one for two cores.
        limit_seconds: the longest one step may take over a case.

    Raises:
        UsageError: more workers than the cluster has CPUs or GPUs for.
        StageFailed: Ray could not run the steps at all.
    """
    finished, todo = target.split_finished(cohort)
    capacity = capacities.for_scoring(cluster, workers, len(todo))
    frame = Frame(preprocessing=target.preprocessing, limit_seconds=limit_seconds)
    done = segment_all(todo, frame, capacity, make_segmenter)
    return target.conclude(cohort, finished, done)


def segment_all(
    work: Sequence[Work], frame: Frame, capacity: Capacity, make_segmenter: MakeSegmenter
) -> list[CaseRow]:
    """A row for every case, in the order they finish."""
    if not work:
        return []
    held, read = capacities.ACTOR_BYTES / 2**30, capacities.READ_BYTES / 2**30
    say(
        f"score: {len(work)} case(s), {capacity.actors} worker(s) of {capacity.threads} "
        f"thread(s), each up to {held:.0f} GiB, and {read:.0f} GiB a case being read"
    )
    rows: list[CaseRow] = []
    failed = 0
    with (
        Progress("score", len(work)) as progress,
        Waiting("score"),
        mapping.stopped_by_ray("score"),
    ):
        for row in stream(work, frame, capacity, make_segmenter):
            rows.append(row)
            failed += row.status != "ok"
            progress.update(len(rows), note=f"{failed} failed" if failed else "")
    return rows


def stream(
    work: Sequence[Work], frame: Frame, capacity: Capacity, make_segmenter: MakeSegmenter
) -> Iterator[CaseRow]:
    """A row for every case as it finishes: long cohorts in chunks, cheap cases in shared blocks."""
    first, cheap = 0, False
    put_off: list[Parcel] = []
    while first < len(work):
        probing = first == 0 and len(work) > LONG
        chunk = work[first : first + (PROBE if probing else CHEAP_CHUNK if cheap else CHUNK)]
        first += len(chunk)
        way = _shared_blocks if cheap else _pipeline
        spent: list[float] = []
        for done in way([Parcel(work=item) for item in chunk], frame, capacity, make_segmenter):
            if isinstance(done, Parcel):
                put_off.append(done)
                continue
            if done.status == "ok" and done.seconds is not None:
                spent.append(done.seconds)
            yield done
        # What cannot be read costs nothing and says nothing of the others.
        dear = not spent or statistics.fmean(spent) >= CHEAP_SECONDS
        cheap = (probing or cheap) and not dear
    if put_off:
        say(f"score: {len(put_off)} case(s), whose process died, once more")
    while put_off:
        again, put_off = put_off, []
        for done in _pipeline(again, frame, capacity, make_segmenter):
            if isinstance(done, Parcel):
                put_off.append(done)
            else:
                yield done


def _shared_blocks(
    parcels: Sequence[Parcel], frame: Frame, capacity: Capacity, make_segmenter: MakeSegmenter
) -> Iterator[CaseRow | Parcel]:
    """Cheap cases: each from its files to its mask in one actor, many to a block."""
    tasks = mapping.Tasks(
        task=steps.Whole,
        options=capacity.whole,
        actors=capacity.whole_actors,
        arguments=(frame.preprocessing, make_segmenter, 1),
    )
    return mapping.stream_cases([parcel.work for parcel in parcels], tasks, frame)


def _pipeline(
    parcels: Sequence[Parcel], frame: Frame, capacity: Capacity, make_segmenter: MakeSegmenter
) -> Iterator[CaseRow | Parcel]:
    """One Ray Data pipeline: read, segment, write; a case a block.

    A row for each case, or its parcel where it was put off.
    """
    mapping.quiet_data()
    ray.data.DataContext.get_current().op_resource_reservation_ratio = capacity.reservation
    how = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    # Two blocks an actor: one in work, the next one there when it is done.
    pool = ray.data.ActorPoolStrategy(size=capacity.actors, max_tasks_in_flight_per_actor=2)
    actor = {"fn_constructor_args": [frame, make_segmenter, capacity.threads], "compute": pool}
    done = (
        ray.data.from_arrow([parcel.as_table() for parcel in parcels])
        .map_batches(steps.read, fn_args=[frame], **how, **capacity.read)
        .map_batches(steps.Segment, **actor, **how, **capacity.segment)
        .map_batches(steps.write, fn_args=[frame], **how, **capacity.write)
    )
    try:
        for item in done.iter_rows():
            if item["row"]:
                yield CaseRow.from_json(json.loads(item["row"]))
            else:
                yield steps.resumed(item["parcel"])
    finally:
        frame.forget_notes()


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
