"""`doctor`: what a run would find, before it starts: versions, devices, memory, storage, Ray.

Each check is a row `{check, status, found, remedy}` with status `ok`, `warn` or `fail`; a `fail`
says what to do and makes the exit status 1. Facts of a node are gathered by a task on that node,
so that a cluster is looked at as a whole and this process stays without TensorFlow.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import packaging.requirements
from tyro.conf import Positional, arg

import ray_brats
from ray_brats.commands.preflight import storage as probe
from ray_brats.commands.preflight.storage import Check, check_row
from ray_brats.errors import RayBratsError, UsageError
from ray_brats.files import storage
from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.progress import silenced
from ray_brats.recipes import costs, named

if TYPE_CHECKING:
    from ray_brats.engine.cluster import Resources

PINNED = ("ray", "tensorflow", "keras")
NODE_SECONDS = 180.0
"""The first task on a node starts a process and imports TensorFlow."""
LEAST_DISK_BYTES = 2 << 30
LOW_DISK_BYTES = 10 << 30


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Say what a run would find: versions, devices, memory, Ray and storage."""

    uris: Annotated[tuple[str, ...], Positional, arg(metavar="[URI …]")] = ()
    """Folders or s3:// prefixes to write a small file to, read it back and delete it."""
    working_dir: Annotated[str | None, arg(metavar="FOLDER")] = None
    """The folder of a `ray job submit --working-dir`: would it be taken, and is everything in it
    that the job needs?"""


def doctor(options: DoctorOptions) -> Summary:
    """Say what a run would find: versions, devices, memory, Ray, storage, and what is used."""
    if "" in options.uris:
        raise UsageError("a URI is empty: expected folders or s3:// prefixes to try")
    checks = [*versions(), raw_studies(), authentication()]
    for uri in options.uris:
        checks += probe.checks(storage.absolute(uri))
    if options.working_dir is not None:
        from ray_brats.commands.preflight import upload

        checks += upload.checks(options.working_dir)
    checks += cluster()
    failed = [check for check in checks if check["status"] == "fail"]
    rows = [CaseRow(case_id=row["check"], status="fail", reason=row["remedy"]) for row in failed]
    return Summary(checks=checks, failures=rows)


def versions() -> list[Check]:
    """Python and the packages that must be the same everywhere, against the pins."""
    found = f"Python {platform.python_version()}, ray-brats {ray_brats.__version__}"
    checks = [check_row("python", "ok", found)]
    try:
        required = importlib.metadata.requires("ray-brats") or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "install ray-brats with pip, so that its pins can be compared"
        checks.append(check_row("pins", "warn", "ray-brats runs from files, not installed", remedy))
        required = []
    pins = {pin.name: pin for pin in map(packaging.requirements.Requirement, required)}
    return checks + [_version(name, pins.get(name)) for name in PINNED]


def _version(name: str, pin: packaging.requirements.Requirement | None) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return check_row(name, "fail", "not installed", f"pip install '{pin or name}'")
    if pin is not None and not pin.specifier.contains(version, prereleases=True):
        wanted = str(pin.specifier)
        return check_row(
            name, "fail", f"{version}, pinned {wanted}", f"pip install '{name}{wanted}'"
        )
    return check_row(name, "ok", version)


def raw_studies() -> Check:
    """Whether the extra that raw studies need is here; who has none needs none of it."""
    from ray_brats.cases.raw import extra

    missing = extra.missing()
    if not missing:
        return check_row("raw studies", "ok", "all packages are here")
    found = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    return check_row("raw studies", "ok", found, extra.INSTALL)


def authentication() -> Check:
    """Whether Ray asks for a token; it does by default where it starts itself."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    remedy = "set RAY_AUTH_MODE=token on every node; without, who reaches a port can run code"
    if mode == "token" and os.environ.get("RAY_ADDRESS") and not _has_token():
        remedy = "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
        return check_row("authentication", "fail", "by token, and no token is here", remedy)
    if mode == "token":
        return check_row("authentication", "ok", "by token")
    if mode:
        return check_row("authentication", "warn", f"off (RAY_AUTH_MODE={mode})", remedy)
    if os.environ.get("RAY_ADDRESS") and not _has_token():
        return check_row("authentication", "warn", "off (RAY_AUTH_MODE unset, no token)", remedy)
    return check_row("authentication", "ok", "by token (Ray's default)")


def _has_token() -> bool:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(path).is_file()


# --- Ray and its nodes -----------------------------------------------------------------


def cluster() -> list[Check]:
    """Whether Ray answers or starts; then every node's facts, and what would be used."""
    import ray.exceptions

    from ray_brats.engine import cluster as engine

    address = os.environ.get("RAY_ADDRESS")
    place = f"the cluster at {address}" if address else "this machine"
    try:
        with engine.running(patience_seconds=0) as resources:
            nodes, cpus, gpus = resources.nodes, resources.cpus, resources.gpus
            found = f"{place}: {nodes} node(s), {cpus} CPUs, {gpus} GPUs"
            return [check_row("ray starts", "ok", found), *_nodes(), *usage(resources)]
    except (RayBratsError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        remedy = "look at the message and at the logs below /tmp/ray"
        if address:
            remedy = "start the cluster, set RAY_ADDRESS and its token, or unset RAY_ADDRESS"
        return [check_row("ray starts", "fail", _last_line(error), remedy)]


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _nodes() -> list[Check]:
    import ray.exceptions
    import ray.util.scheduling_strategies

    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    look = ray.remote(num_cpus=0, max_retries=0)(node_facts)
    asked = [
        (
            node["NodeManagerAddress"],
            int(node["Resources"].get("GPU", 0)),
            look.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote(),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    checks: list[Check] = []
    for name, gpus, task in asked:
        try:
            checks += node_checks(name, ray.get(task, timeout=NODE_SECONDS), gpus)
        except ray.exceptions.RayError as error:
            remedy = (
                "give every node the same image, or submit with --working-dir . and the package "
                "installed there"
            )
            checks.append(check_row(f"node {name}", "fail", _last_line(error), remedy))
    return checks


def node_facts() -> dict[str, Any]:
    """What the node that this runs on has; imports TensorFlow."""
    with silenced():
        import tensorflow as tf
        from tensorflow.python.util import _pywrap_util_port

        devices = [device.device_type for device in tf.config.list_physical_devices()]
    shm = Path("/dev/shm")
    return {
        "versions": {
            "python": platform.python_version(),
            "ray_brats": ray_brats.__version__,
            **{name: importlib.metadata.version(name) for name in PINNED},
        },
        "devices": devices,
        "onednn": bool(_pywrap_util_port.IsMklEnabled()),
        "temporary": tempfile.gettempdir(),
        "disk_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        "shm_bytes": shutil.disk_usage(shm).free if shm.is_dir() else None,
    }


def node_checks(name: str, facts: dict[str, Any], gpus: int = 0) -> list[Check]:
    """A node's facts, judged against this process, what stages need, and GPUs that Ray counts."""
    from ray_brats.engine import cluster as engine
    from ray_brats.engine import devices as engine_devices

    least_shm = engine.object_store_bytes(os.cpu_count() or 1)
    here = {item: importlib.metadata.version(item) for item in PINNED}
    here |= {"ray_brats": ray_brats.__version__}
    other = {
        item: facts["versions"][item] for item in here if facts["versions"][item] != here[item]
    }
    node = f"node {name}"
    same = check_row(f"{node}: versions", "ok", "as here")
    if other:
        differing = ", ".join(f"{item} {version}" for item, version in other.items())
        same = check_row(f"{node}: versions", "fail", differing, "use one image on all nodes")
    onednn = check_row(f"{node}: oneDNN", "ok", "on")
    if not facts["onednn"]:
        remedy = "set TF_ENABLE_ONEDNN_OPTS=1: without, convolutions may be ten times slower"
        onednn = check_row(f"{node}: oneDNN", "warn", "off", remedy)
    devices = ", ".join(
        f"{facts['devices'].count(kind)} {kind}" for kind in sorted({*facts["devices"]})
    )
    seen = check_row(f"{node}: TensorFlow's devices", "ok", devices or "none")
    if facts["devices"].count("GPU") < gpus:
        found = f"{devices or 'none'}, and Ray counts {gpus} GPU"
        seen = check_row(f"{node}: TensorFlow's devices", "fail", found, engine_devices.REMEDY)
    disk, shm = facts["disk_bytes"], facts["shm_bytes"]
    return [
        same,
        seen,
        onednn,
        _room(f"{node}: free in {facts['temporary']}", disk, LEAST_DISK_BYTES, LOW_DISK_BYTES,
              "free some disk, or set TMPDIR and RAY_TMPDIR to a larger one"),
        _room(f"{node}: free in /dev/shm", shm, least_shm, 2 * least_shm,
              "start the container with --shm-size=2g; on Kubernetes mount memory at /dev/shm"),
    ]  # fmt: skip


def _room(check: str, free: int | None, least: int, low: int, remedy: str) -> Check:
    if free is None:
        return check_row(check, "warn", "not there", remedy)
    found = f"{free / 2**30:.1f} GiB"
    if free >= low:
        return check_row(check, "ok", found)
    return check_row(check, "fail" if free < least else "warn", found, remedy)


def usage(resources: Resources) -> list[Check]:
    """What the stages would take by default, and whether the memory is enough for it."""
    from ray_brats.engine import capacity
    from ray_brats.stages import preprocess

    standard = named.get("standard")
    workers, plan = (
        capacity.default_workers(resources),
        capacity.for_scoring(resources, None, 1 << 20),
    )
    tasks = max(1, min(resources.cpus, resources.memory_bytes // preprocess.TASK_MEMORY_BYTES))
    here = -(-workers // max(resources.nodes, 1))
    need = max(costs.training_bytes(standard) * here, capacity.ACTOR_BYTES + capacity.READ_BYTES)
    memory = check_row(
        "memory", "ok", f"the largest node offers {resources.node_memory_bytes / 2**30:.1f} GiB"
    )
    if need > resources.node_memory_bytes:
        remedy = f"give a node {need / 2**30:.1f} GiB, or lower train.patch_vox and --workers"
        memory = {**memory, "status": "warn", "remedy": remedy}
    kind = "a GPU" if resources.gpus else "the CPU"
    return [
        memory,
        check_row("preprocess would use", "ok", f"{tasks} task(s) at a time"),
        check_row("train would use", "ok", f"{workers} worker(s) on {kind}"),
        check_row("score would use", "ok", f"{plan.actors} worker(s) of {plan.threads} thread(s)"),
    ]
