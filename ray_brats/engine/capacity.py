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
SEGMENT_SHARE, READ_SHARE, WRITE_SHARE = 0.5, 0.25, 0.25
"""Parts of the CPUs behind one actor, as Ray counts them; the system shares the cores."""
RESERVATION = 0.5
"""Ray Data's own: the share of all resources that it sets aside for the steps, in equal parts."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many actors score, and what each step may take."""

    actors: int
    threads: int
    """Threads of one actor."""
    read: Mapping[str, float]
    segment: Mapping[str, float]
    write: Mapping[str, float]
    """What Ray gives one task, or one actor, of each step."""
    reservation: float
    """Share of all resources that Ray Data sets aside for the steps. The first ones are served
    first: were a part more than a task of the last step asks for, nothing might be left for that,
    and no mask be written until every case has been read."""
    whole_actors: int
    whole: Mapping[str, float]
    """The same for actors that take cheap cases through all steps, with one thread each."""


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
        raise UsageError(f"--workers {asked}: expected a number above 0, or two as 2-8")
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
    """Actors and resources that fit the cluster, with room left for reading and writing.

    Raises:
        UsageError: more workers than the cluster has CPUs or GPUs for.
    """
    units, kind = _units(cluster)
    if workers is not None and (workers < 1 or (workers > units and not cluster.joined)):
        raise UsageError(
            f"--workers {workers}: the cluster has {units} {kind}; one worker needs one"
        )
    together = ACTOR_BYTES + READ_BYTES + WRITE_BYTES
    default = max(1, min(cluster.cpus // CPUS_AN_ACTOR, int(cluster.memory_bytes // together)))
    if cluster.on_gpus:
        default = max(1, cluster.gpus)
    actors = min(workers or default, max(1, cases))
    cpus = max(1.0, min(cluster.cpus / actors, cluster.node_cpus))
    # What no node has would be waited for for ever.
    share = min(1.0, 0.9 * cluster.node_memory_bytes / together)
    if share < 1:
        say(
            f"warning: a worker may take {together / 2**30:.1f} GiB, the largest node offers "
            f"{cluster.node_memory_bytes / 2**30:.1f} GiB: cases may run out of memory"
        )
    # A GPU takes the work: more than a whole CPU is of no use to a step beside it.
    most = 1.0 if cluster.on_gpus else cpus
    held, read_cpus, write_cpus = (
        min(most, share * cpus) for share in (SEGMENT_SHARE, READ_SHARE, WRITE_SHARE)
    )
    together = int(share * together)
    whole_actors = actors
    if workers is None and not cluster.on_gpus:
        whole_actors = max(1, min(cluster.cpus, int(cluster.memory_bytes // together)))
    return Capacity(
        whole_actors=whole_actors,
        whole={"num_cpus": 1.0, "num_gpus": 1.0 if cluster.on_gpus else 0.0, "memory": together},
        actors=actors,
        reservation=min(RESERVATION, 3 * min(read_cpus, write_cpus) / max(1, cluster.cpus)),
        threads=max(1, int(cpus)),
        read={"num_cpus": read_cpus, "memory": int(share * READ_BYTES)},
        segment={
            "num_cpus": held,
            "num_gpus": 1.0 if cluster.on_gpus else 0.0,
            "memory": int(share * ACTOR_BYTES),
        },
        write={"num_cpus": write_cpus, "memory": int(share * WRITE_BYTES)},
    )
