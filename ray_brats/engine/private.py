"""What Ray offers no public way to: a Ray of one machine that is nobody else's, and who holds what.

Each has a test that fails where another version of Ray changes it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray._private import ray_constants, state
from ray.core.generated import gcs_pb2

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own switch, for any system: "0" makes a node that is all of its cluster, on loopback."""


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """What Ray starts inside listens where only this machine can reach it.

    Else its daemons and workers listen on all interfaces, a dozen ports and more. Whoever sets
    the variable decides alone; and nothing that is started later sees it.
    """
    if LOOPBACK in os.environ:
        yield
        return
    # Its processes read the variable; here it was read as Ray was imported.
    before, os.environ[LOOPBACK] = ray_constants.ENABLE_RAY_CLUSTER, "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[LOOPBACK]


def keep_token() -> None:
    """Make the token with which processes join this user's Rays, for this user's eyes alone.

    Ray makes it as readable as any file, and whoever knows it runs code as this user. One that is
    there keeps its words and loses its other readers.
    """
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    # A home that cannot be written to is Ray's to tell.
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            _create(path, secrets.token_hex(32).encode())
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _create(path: Path, content: bytes) -> None:
    """Whole from its first moment; another process may come first."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)


_NIL = b"\xff" * 28
"""How Ray writes that there is no such worker."""
Amounts = Mapping[str, float]
"""Ray's name of a resource (`CPU`, `GPU`, …) to how much of it."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one job of the cluster holds."""

    job_id: str
    command: str
    """How it was started."""
    amounts: Amounts


def held_by_jobs() -> list[Held]:
    """What each living job holds by actors and placement groups, not by tasks; GPUs first.

    Ray's own list of actors asks a dashboard, which need not be there, and tells no resources.
    """
    jobs = map(gcs_pb2.JobTableData.FromString, _accessor().get_job_table())
    commands = {job.job_id: job.entrypoint for job in jobs if not job.is_dead}
    sums: dict[bytes, Counter[str]] = defaultdict(Counter)
    for actor in _actors():
        # Those within a placement group are counted with that.
        if actor.state == gcs_pb2.ActorTableData.ALIVE and not actor.placement_group_id:
            sums[actor.job_id].update(dict(actor.required_resources))
    for group in _groups():
        if group.state == gcs_pb2.PlacementGroupTableData.CREATED:
            for bundle in group.bundles:
                sums[group.creator_job_id].update(dict(bundle.unit_resources))
    found = [
        Held(job_id=job.hex(), command=commands[job], amounts=dict(total))
        for job, total in sums.items()
        if job in commands and any(total.values())
    ]
    return sorted(found, key=lambda one: (-one.amounts.get("GPU", 0), one.job_id))


def waited_for(job_id: str) -> list[Amounts]:
    """What a job's actors and placement groups need that have no place yet, one entry a place.

    An actor that waits has the address of the node that was asked for a worker, and no worker.
    """
    job = bytes.fromhex(job_id)
    waiting = (gcs_pb2.ActorTableData.PENDING_CREATION, gcs_pb2.ActorTableData.RESTARTING)
    places: list[Amounts] = [
        dict(actor.required_resources)
        for actor in _actors()
        if actor.job_id == job
        and actor.state in waiting
        and actor.address.worker_id in (b"", _NIL)
        and not actor.placement_group_id
    ]
    settled = (gcs_pb2.PlacementGroupTableData.CREATED, gcs_pb2.PlacementGroupTableData.REMOVED)
    for group in _groups():
        if group.creator_job_id == job and group.state not in settled:
            places += [dict(one.unit_resources) for one in group.bundles if not one.node_id]
    return places


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that were told to leave."""
    return frozenset(state.state.get_draining_nodes())


def _accessor() -> Any:
    return state.state._connect_and_get_accessor()


def _actors() -> Iterator[Any]:
    return map(gcs_pb2.ActorTableData.FromString, _accessor().get_actor_table(None, None))


def _groups() -> Iterator[Any]:
    table = _accessor().get_placement_group_table()
    return map(gcs_pb2.PlacementGroupTableData.FromString, table)
