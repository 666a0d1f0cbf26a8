"""How many workers of `train` and actors of `score` a cluster holds, and what these may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_brats.engine.cluster import Resources
from ray_brats.errors import UsageError
from ray_brats.progress import say

ACTOR_BYTES = 3 << 30
READ_BYTES = 1 << 30
WRITE_BYTES = 512 << 20
CPUS_A_GPU = 8
"""More than that a training worker with a GPU has no use for."""
CPUS_AN_ACTOR = 2
"""Two cores share one forward pass well; more actors need more memory."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many actors score, and what each of them gets."""

    actors: int
    """At the start."""
    most: int | None
    """At most; None: as many as there is room for."""
    threads: int
    """Of the network, in one actor."""
    readers: int
    """Cases that one actor reads at a time."""
    actor: Mapping[str, float]
    """What Ray gives one: `num_cpus`, `num_gpus` and `memory` in bytes."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes train together: as many as there is room for, within bounds."""

    least: int
    most: int
    """So many shares has each step, whoever takes them."""

    def __str__(self) -> str:
        return str(self.most) if self.least == self.most else f"{self.least}-{self.most}"


def default_workers(cluster: Resources) -> int:
    """One worker a GPU, else two where two cores are free: data-parallel is what all run."""
    if cluster.on_gpus:
        return max(1, cluster.gpus)
    return min(2, max(1, cluster.cpus))


def workers_for(asked: Workers | int | None, cluster: Resources) -> Workers:
    """How many workers train: as many as asked for, or the default.

    A cluster that others start may grow: there, more than it has room for now wait.

    Raises:
        UsageError: there are no GPUs or CPUs for so many, or not on the same nodes.
    """
    if not isinstance(asked, Workers):
        count = default_workers(cluster) if asked is None else asked
        asked = Workers(least=count, most=count)
    units, kind = _units(cluster)
    if units == 0 and not cluster.joined:
        raise UsageError("the cluster has no CPUs: add nodes, or start its head with --num-cpus")
    if not 1 <= asked.least <= asked.most:
        raise UsageError(
            f"--workers {asked}: expected a number above 0, or two as 2-8, the smaller first"
        )
    if asked.most > units and not cluster.joined:
        raise UsageError(
            f"--workers {asked}: expected 1 to {units}, as the cluster has {units} {kind} and "
            "each worker needs one"
        )
    cpus_of_worker(asked.most, cluster)
    return asked


def cpus_of_worker(workers: int, cluster: Resources) -> int:
    """The most CPUs that each of so many training workers can have, all of them placed at once.

    Nodes may differ: what counts is how many workers fit on each of them. Where more nodes may
    come, those that do not fit yet are taken to come to nodes like the largest one here.

    Raises:
        UsageError: not even one CPU each, beside a GPU where there are any.
    """
    most = min(max(1, cluster.cpus // workers), cluster.node_cpus)
    if cluster.on_gpus:
        most = min(most, CPUS_A_GPU)
    for each in range(most, 0, -1):
        rooms = (
            min(cpus // each, gpus) if cluster.on_gpus else cpus // each
            for cpus, gpus in cluster.shapes
        )
        if sum(rooms) >= workers:
            return each
    if cluster.joined:
        with_gpus = [cpus // gpus for cpus, gpus in cluster.shapes if gpus]
        return min(CPUS_A_GPU, max([1, *with_gpus])) if cluster.on_gpus else 1
    kind = "a GPU and a CPU" if cluster.on_gpus else "a CPU"
    raise UsageError(
        f"{workers} worker(s) with {kind} each do not fit on the {cluster.nodes} node(s): lower "
        "--workers, or give the nodes with GPUs more CPUs"
    )


def _units(cluster: Resources) -> tuple[int, str]:
    return (cluster.gpus, "GPUs") if cluster.on_gpus else (cluster.cpus, "CPUs")


def for_scoring(cluster: Resources, workers: int | None, cases: int) -> Capacity:
    """Actors that fit the cluster now, and how many there may be later.

    Raises:
        UsageError: more workers than the cluster has CPUs or GPUs for.
    """
    units, kind = _units(cluster)
    if workers is not None and (workers < 1 or (workers > units and not cluster.joined)):
        raise UsageError(
            f"--workers {workers}: the cluster has {units} {kind}; one worker needs one"
        )
    gpus_each = 1.0 if cluster.on_gpus else 0.0
    if cluster.on_gpus:
        # Reading a case costs about as much as a GPU's work on it, on one CPU.
        room, cpus = max(1, cluster.gpus), float(cpus_of_worker(max(1, cluster.gpus), cluster))
        readers, threads = max(1, int(cpus) - 1), max(1, int(cpus))
    else:
        alone = memory_of_actor(1)
        room = max(1, min(cluster.cpus // CPUS_AN_ACTOR, int(cluster.memory_bytes // alone)))
        readers = 1
    actors = min(workers or room, max(1, cases), max(room, units, 1))
    if not cluster.on_gpus:
        cpus = max(1.0, min(cluster.cpus / actors, cluster.node_cpus))
        threads = max(1, int(cpus))
    asked = memory_of_actor(readers)
    # What no node has would be waited for for ever.
    memory = min(asked, int(0.9 * cluster.node_memory_bytes)) if cluster.nodes else asked
    if memory < asked:
        say(
            f"warning: a worker may take {asked / 2**30:.1f} GiB, the largest node offers "
            f"{cluster.node_memory_bytes / 2**30:.1f} GiB: cases may run out of memory"
        )
    return Capacity(
        actors=actors,
        most=min(workers or actors, max(1, cases)) if workers or not cluster.joined else None,
        threads=threads,
        readers=readers,
        actor={"num_cpus": cpus, "num_gpus": gpus_each, "memory": memory},
    )


def memory_of_actor(readers: int) -> int:
    """The most bytes that an actor of scoring takes, which reads so many cases at a time."""
    return ACTOR_BYTES + readers * READ_BYTES + WRITE_BYTES
