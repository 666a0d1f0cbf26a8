"""Ray itself: join a cluster, or start one on this machine; what it offers.

The other modules of this layer are thin shells that stand on this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_brats.engine import jobs, private
from ray_brats.engine.devices import Device
from ray_brats.errors import RayBratsError, StageFailed, UsageError
from ray_brats.files import access, storage
from ray_brats.progress import say
from ray_brats.progress import silenced as silenced  # noqa: PLC0414 - known from here

WORKER_ENV = {
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ray_brats.serve.http.hints:middlewares",
}
"""The environment of every worker: oneDNN's convolutions (TensorFlow leaves them off on CPUs
without AVX-512, where they are ten times as fast as its own), no TensorFlow noise, GPU memory
taken as needed, and proxies that clients do not steer."""
WATCH = "ray_brats.engine.companion.watch"
"""What every worker does first on a Ray of this machine."""
WATCHED = "RAY_BRATS_COMPANIONS"
"""The environment variable: 1, and workers of a cluster do so too."""
NODE_ENV = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_local_fs_monitor_interval_ms": "1000",
}
"""Settings of a local Ray itself. Where actors hold most CPUs, it would end every process that has
been idle for a second, and a new one costs more than a case's reading and writing. What it counts
for a dashboard nobody sees: there is none."""
NODES_SECONDS = 900.0
"""How long a cluster's first worker node may take to join."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster offers now, in total and on its largest node."""

    cpus: int
    gpus: int
    node_cpus: int
    node_memory_bytes: int
    memory_bytes: int
    nodes: int
    shapes: tuple[tuple[int, int], ...]
    """CPUs and GPUs of each node."""
    joined: bool = False
    """Whether others decide which nodes there are: more may come."""
    device: Device = "auto"
    """What was asked for."""

    @property
    def on_gpus(self) -> bool:
        """Whether networks run on GPUs, of which there may be none yet."""
        return self.device == "gpu" or (self.device == "auto" and self.gpus > 0)

    def asked_for(self, device: Device) -> Resources:
        """The same for networks on a device.

        Raises:
            UsageError: GPUs are asked for where there are none, and no node can join.
        """
        if device == "gpu" and not self.gpus and not self.joined:
            raise UsageError(
                "--device gpu: Ray sees no GPU of this machine; `ray-brats doctor` looks for them"
            )
        return dataclasses.replace(self, device=device)


def object_store_bytes(cpus: int) -> int:
    """Size of the object store of a local Ray on so many CPUs.

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
        StageFailed: Ray does not start, or is gone again at once.
    """
    if ray.is_initialized():
        yield resources()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address:
        with _told(address):
            _join(address, quiet)
    else:
        for name, value in {**WORKER_ENV, **NODE_ENV}.items():
            os.environ.setdefault(name, value)
        private.keep_token()
        with silenced(), _told(None), private.on_loopback():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=object_store_bytes(os.cpu_count() or 1),
                runtime_env={
                    "env_vars": access.for_workers(),
                    "worker_process_setup_hook": WATCH,
                },
                **quiet,
            )
    try:
        with _told(address):
            cluster = _with_nodes(resources, patience_seconds) if address else resources()
        place = f"the cluster at {address}" if address else "this machine"
        say(f"Ray on {place}: {cluster.nodes} node(s), {cluster.cpus} CPUs, {cluster.gpus} GPUs")
        jobs.tell()
        yield cluster
    except BaseException as error:
        _let_go(error)
        raise
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _told(address: str | None) -> Iterator[None]:
    """What keeps Ray from starting, or a cluster from being joined, in a sentence; what helps."""
    try:
        yield
    except RayBratsError:
        raise
    except Exception as error:
        ray.shutdown()
        lines = str(error).strip().splitlines()
        what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        if address:
            raise StageFailed(
                f"the Ray cluster at {address} could not be joined ({what.rstrip('.')}). `ray "
                "status` there tells whether it is well, and `ray-brats doctor` whether its Ray "
                "and Python are those of this installation. Then run the same command again"
            ) from error
        raise StageFailed(
            f"Ray did not start ({what.rstrip('.')}). It takes some 2 GiB of memory, room below "
            f"{tempfile.gettempdir()}, and a machine that is not overloaded: `ray-brats doctor` "
            "looks at these; what the last start wrote is in ray/session_latest/logs there. Then "
            "run the same command again"
        ) from error


def _with_nodes(
    look: Callable[[], Resources], patience_seconds: float, pause_seconds: float = 5.0
) -> Resources:
    """What the cluster offers once any node offers CPUs."""
    until, asked = time.monotonic() + patience_seconds, None
    while (cluster := look()).cpus == 0 and time.monotonic() < until:
        if asked is None:
            say(f"Ray: no node with CPUs has joined yet; waiting up to {patience_seconds:g} s")
            # A cluster that grows with what is asked of it has to be asked.
            asked = _ask_for_a_cpu()
        time.sleep(pause_seconds)
    if cluster.cpus == 0 and patience_seconds > 0:
        raise UsageError(
            f"RAY_ADDRESS: the cluster has no CPUs, and no node with any joined within "
            f"{patience_seconds:g} s: look at `ray status`, or start the head with --num-cpus"
        )
    return cluster


def _ask_for_a_cpu() -> Any:
    return ray.remote(num_cpus=1)(_nothing).remote() if ray.is_initialized() else True


def _nothing() -> None:
    pass


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
    if "://" in address and not address.startswith("ray://"):
        raise UsageError(
            f"RAY_ADDRESS is {address}, where `ray job submit` sends jobs: expected the HOST:PORT "
            "of a cluster, or no RAY_ADDRESS; from here, send the command as a job"
        )
    if ":" not in address and address not in ("auto", "local"):
        raise UsageError(
            f"RAY_ADDRESS is {address}: expected the HOST:PORT of a cluster, auto on one of its "
            "nodes, or no RAY_ADDRESS to run on this machine alone"
        )
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()
        ours: dict[str, Any] = {"env_vars": {**WORKER_ENV, **access.for_workers()}}
        if os.environ.get(WATCHED) == "1":
            ours["worker_process_setup_hook"] = WATCH
        ray.init(address=address, runtime_env=ours, **quiet)
    except OSError as error:
        raise UsageError(
            f"RAY_ADDRESS is {address}, and no Ray cluster answers there: start one with "
            "`ray start --head`, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def resources(device: Device = "auto") -> Resources:
    """What the cluster offers now; raises as `Resources.asked_for`."""
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
        joined=bool(os.environ.get("RAY_ADDRESS")),
    ).asked_for(device)


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """The strategy of a task or actor that runs on this node or not at all."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def check_shared(folder_uri: str, cluster: Resources) -> None:
    """`UsageError` for an output folder that not all nodes see: its files would be scattered."""
    if cluster.nodes == 1 or storage.is_remote(folder_uri):
        return
    probe = storage.join(folder_uri, ".shared-by-all-nodes")
    storage.write_bytes(probe, b"")
    try:
        check_seen(probe, cluster)
    finally:
        storage.delete(probe)


def check_seen(file_uri: str, cluster: Resources) -> None:
    """`UsageError` for a file that is here, on a path that not all nodes see."""
    if cluster.nodes == 1 or storage.is_remote(file_uri):
        return
    look = ray.remote(num_cpus=0)(storage.exists)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    seen = ray.get(
        [look.options(scheduling_strategy=on_node(node)).remote(file_uri) for node in nodes]
    )
    if not all(seen):
        raise UsageError(
            f"{storage.parent_of(file_uri)} is a path that {seen.count(False)} of the cluster's "
            f"{len(seen)} nodes do not see: pass s3://, or a folder on storage that all nodes share"
        )


class Leaving:
    """Whether a node was told to leave (a spot machine that ends) since this was last asked.

    Ray Train's own question meets all ranks each time; this one is rank 0's alone, and asks the
    cluster at most every `period_seconds`.
    """

    def __init__(self, period_seconds: float = 5.0) -> None:
        self._period, self._next, self._told = period_seconds, 0.0, frozenset[str]()

    def __call__(self) -> bool:
        """Ask."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._period
        before, self._told = self._told, private.draining_nodes()
        return not self._told <= before
