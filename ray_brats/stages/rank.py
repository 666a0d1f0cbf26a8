"""One rank of a training run inside Ray Train: files and settings in, `loop.Loop` run.

Whatever dies is started again by Ray Train, all ranks together; they go on from the newest
complete checkpoint. What another try cannot mend is told to the board and ends the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective

from ray_brats.engine import devices
from ray_brats.engine.cluster import Leaving
from ray_brats.engine.watchdog import Watchdog
from ray_brats.errors import RayBratsError
from ray_brats.files import claims, retry
from ray_brats.recipes import jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.training import run
from ray_brats.training.cache import Cache, depth_of
from ray_brats.training.run import ClaimedRun

START_SECONDS = 3600.0
"""Longest start of a rank, which waits for the others."""


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """What every rank of a run must know; JSON on its way through Ray Train."""

    recipe: Recipe
    dataset_uri: str
    run_uri: str
    driver: int
    """Number of the command's own attempt."""
    training: tuple[str, ...]
    """Names of the cases to train on."""
    validation: tuple[str, ...]
    """Names of the cases to validate with, of all ranks."""
    validation_vox: int
    """Voxels that pass through the network for them."""
    hang_seconds: float
    """Longest time without a step."""
    fingerprint: str
    """Of the dataset's content."""
    cache_bytes: int | None
    """The most that copies of a bucket's cases may take on a node; None: what its disk has."""
    case_bytes: int
    """What a case takes, in the mean."""
    threads: int = 1
    """CPUs of one rank."""
    shares: int = 1
    """Of a step, whoever takes them."""
    producers: int = 0
    """Processes that make the samples of one rank; 0: a thread of it."""
    began_unix: float = 0.0
    """When the command started."""

    @property
    def cache(self) -> Cache:
        """The copies of the run on this node."""
        return Cache(
            dataset_uri=self.dataset_uri,
            fingerprint=self.fingerprint,
            run_uri=self.run_uri,
            most_bytes=self.cache_bytes,
        )


def rank_main(config: dict[str, Any]) -> None:
    """Run this rank; returns early, on every rank, where the run has failed for good.

    Args:
        config: `settings`, those of `RankSettings` as JSON, and the `board` of the driver.
    """
    settings = jsonform.from_json(RankSettings, config["settings"])
    with _failures_told_to(config["board"]) as has_failed:
        if not has_failed:
            with settings.cache.held():
                _run(settings, config["board"])
                if ray.train.get_context().get_local_rank() == 0:
                    settings.cache.forget()


@contextlib.contextmanager
def _failures_told_to(board: Any) -> Iterator[bool]:
    """Tell the board what another try cannot mend; yields whether that happened before."""
    import tensorflow as tf

    rank = ray.train.get_context().get_world_rank()
    try:
        yield ray.get(board.failure.remote()) is not None
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        ray.get(board.fail.remote(rank, f"out of memory: {str(error).splitlines()[0]}"))
        raise
    except Exception as error:
        if not _may_pass(error):
            ours = isinstance(error, RayBratsError)
            reason = str(error) if ours else f"{type(error).__name__}: {error}"
            ray.get(board.fail.remote(rank, reason))
        raise


def _may_pass(error: Exception) -> bool:
    """Whether another try of all ranks could succeed: something died, or did not answer."""
    import tensorflow as tf

    if isinstance(error, tf.errors.OpError):
        # A collective passes on what befell another rank, under any of TensorFlow's codes.
        ours = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
        return not isinstance(error, ours) or "ollective" in str(error)
    if isinstance(error, OSError):
        return retry.may_pass(error)
    return isinstance(error, ray.exceptions.RayError | claims.Replaced)


def _run(settings: RankSettings, board: Any) -> None:
    import tensorflow as tf

    from ray_brats.training import loop
    from ray_brats.training.log import RunLog

    _prepare_devices(settings.threads)
    rank = ray.train.get_context().get_world_rank()
    broadcast = ray.train.collective.broadcast_from_rank_zero
    training: loop.Loop | None = None

    def hang(text: str) -> None:
        step = training.step if training else 0
        event = {"event": "hang", "step": step, "rank": rank, "text": text}
        ray.wait([board.put.remote(event)], timeout=5)

    with Watchdog(max(START_SECONDS, settings.hang_seconds), hang):
        claimed, newest = None, None
        if rank == 0:
            claimed, newest = run.join(settings.run_uri, settings.driver)
        # The others start from what rank 0 found, whatever they would see themselves.
        restore_from = broadcast(newest.uri if newest else None)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        data = _data(settings)
        # From here on the patience for a step counts, so all begin together.
        broadcast(True)
    log = RunLog(claimed.attempt if claimed else None, keep_until=newest.step if newest else 0)

    def event(line: dict[str, Any]) -> None:
        log.add(line)
        board.put.remote(line)

    def others_wait() -> bool:
        return bool(ray.get(board.is_waiting.remote(), timeout=10))

    with log, Watchdog(settings.hang_seconds, hang, others_wait) as watchdog:

        def waits() -> None:
            watchdog.beat()
            board.wait.remote()

        hooks = loop.Hooks(
            broadcast=broadcast,
            event=event,
            keep=_keeper(claimed, log.flush),
            picture=log.picture,
            beat=watchdog.beat,
            waits=waits,
            report=_report,
            is_leaving=Leaving() if rank == 0 else lambda: False,
        )
        began = settings.began_unix
        training = loop.Loop(strategy, settings.recipe, data, hooks, rank=rank, began_unix=began)
        training.run(restore_from)


def _report(scores: dict[str, float]) -> None:
    """Let Ray's own tools show how far the run is; every rank calls it."""
    ray.train.report(scores)


def _prepare_devices(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    gpus = tf.config.list_physical_devices("GPU")
    devices.check(len(gpus))
    for device in gpus:
        tf.config.experimental.set_memory_growth(device, True)


def _data(settings: RankSettings) -> Any:
    """The `loop.Data` of this rank; cases of a bucket are copied when they are needed."""
    from ray_brats.training.loop import Data

    context = ray.train.get_context()
    share = slice(context.get_world_rank(), None, context.get_world_size())
    beside = context.get_local_world_size()
    return Data(
        training=[settings.cache.case(name) for name in settings.training],
        validation=[settings.cache.case(name) for name in settings.validation[share]],
        validation_ids=settings.validation,
        validation_vox=settings.validation_vox,
        ahead=depth_of(settings.cache_bytes, settings.case_bytes, beside),
        producers=settings.producers,
        shares=settings.shares,
    )


def _keeper(claimed: ClaimedRun | None, flush: Callable[[], None]) -> Callable[[Path, int], None]:
    """What keeps a checkpoint: the log first, then the state; rank 0 alone calls it."""

    def keep(folder: Path, step: int) -> None:
        assert claimed is not None
        flush()
        claimed.keep(folder, step)

    return keep
