"""The settings of one service, from the command line or a Serve configuration file.

Beside them stands what they come to: the models that they name, replicas that find a place on the
cluster, a port that is free, the folder of the state.
"""

from __future__ import annotations

import dataclasses
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.dashboard.consts import DASHBOARD_METRIC_PORT

from ray_brats.engine.cluster import Resources
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.model import card
from ray_brats.recipes import jsonform
from ray_brats.serve.http.access import LOG_KEY, deployment_key
from ray_brats.serve.jobs.store import FOLDER as JOBS
from ray_brats.serve.limits import Limits
from ray_brats.serve.models import ServedModel

ONGOING = 2
"""Cases in one replica: one in the network, the next being read."""
_CARD = ("intended_use", "measured", "recipe", "parameters", "versions", "signatures", "limits")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Everything that one service is told; Ray carries it to all of its processes."""

    models: Mapping[str, tuple[str, ...]]
    """Name to bundles (several are averaged); the first is the default."""
    state: str
    pinned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    api_keys: str | None = None
    no_auth: bool = False
    """Stated where a configuration file is to serve without keys."""
    host: str | None = None
    """Where it listens, if every caller is to name that, an IP address or `localhost`."""
    log_names: bool = False
    tta: str | None = None
    overlap: float | None = None
    allow_skull: bool = False
    replicas: int = 1
    """Most processes of each model."""
    min_replicas: int = 1
    """The least, which also wait where nobody asks."""
    ingresses: int = 1
    """Processes that take calls, each on a node of its own; they admit as one would."""
    cpus: float = 1.0
    """CPUs of one replica."""
    gpus: float = 0.0
    """GPUs of one replica."""
    light_cpus: float = 0.0
    """CPUs of an ingress, and of the queue of jobs. Without any Ray may put them on a head that is
    to do no work."""
    drain_seconds: float = 120.0
    limits: Limits = field(default_factory=Limits)

    @property
    def asked(self) -> card.Asked:
        """What is asked of the bundles in place of what they say."""
        return card.Asked(tta=self.tta, overlap=self.overlap, allow_skull=self.allow_skull)

    def limits_of_requests(self) -> Limits:
        """The limits, with what no request may have written over: the state and the bundles."""
        bundles = [uri for uris in self.models.values() for uri in uris]
        return dataclasses.replace(self.limits, kept_uris=(self.state, *bundles))


def from_args(args: Mapping[str, Any]) -> ServeSettings:
    """Settings from the `args` of a Serve configuration file; raises `UsageError`."""
    values = dict(args)
    try:
        if isinstance(values.get("models"), Mapping):
            values["models"] = {
                name: (uris,) if isinstance(uris, str) else tuple(uris)
                for name, uris in values["models"].items()
            }
        limits = dict(values.pop("limits", {}))
        for name in ("uri_prefixes", "output_prefixes"):
            limits[name] = tuple(limits.get(name, ()))
        settings = ServeSettings(**values, limits=Limits(**limits))
    except TypeError as error:
        raise UsageError(f"serve: a setting is unknown or missing ({error})") from error
    if not 0 <= settings.min_replicas <= settings.replicas or settings.ingresses < 1:
        raise UsageError(
            f"serve: min_replicas {settings.min_replicas}, replicas {settings.replicas}, ingresses "
            f"{settings.ingresses}: expected 0 to replicas, and at least one ingress"
        )
    if bool(settings.api_keys) == settings.no_auth:
        # Which address Serve listens on is not known here.
        raise UsageError(
            "serve: expected api_keys: FILE (`ray-brats key FILE NAME` makes one), or no_auth: "
            "true where a gateway asks for keys"
        )
    return settings


def describe(settings: ServeSettings) -> dict[str, ServedModel]:
    """The models as clients see them, from their cards; raises as `card.choose`."""
    models: dict[str, ServedModel] = {}
    for name, uris in settings.models.items():
        pins = settings.pinned.get(name, ())
        chosen = card.choose(uris, pins, settings.asked)
        facts = {key: chosen.cards[0][key] for key in _CARD if key in chosen.cards[0]}
        # Also the voxel size at which cases come, which enters the keys of their masks.
        asked = {"preprocess": jsonform.as_json(chosen.recipe.preprocess)}
        facts["recipe"] = {**facts["recipe"], **asked}
        models[name] = ServedModel(
            name=name,
            modalities=tuple(chosen.recipe.preprocess.modalities),
            task=chosen.task,
            card={**facts, "identity": chosen.identity},
            default=not models,
            capacity=ONGOING * settings.replicas,
        )
    return models


def fitting(settings: ServeSettings, cluster: Resources, replicas: int | None) -> ServeSettings:
    """Settings with replicas and cores that the cluster has; raises `UsageError`."""
    models = len(settings.models)
    count = replicas or max(1, cluster.gpus // models)
    too_many = cluster.on_gpus and not cluster.joined and count * models > cluster.gpus
    if count < 1 or too_many:
        raise UsageError(
            f"--replicas {count}: {models} model(s) need as many GPUs, there are {cluster.gpus}"
        )
    cpus = 1.0 if cluster.on_gpus else _cpus_of_each(models * count, cluster)
    gpus = 1.0 if cluster.on_gpus else 0.0
    return dataclasses.replace(settings, replicas=count, cpus=cpus, gpus=gpus)


def _cpus_of_each(replicas: int, cluster: Resources) -> float:
    """The most that each of so many replicas can have, all of them placed at once.

    What no node has room for would be waited for for ever.
    """
    nodes = [cpus for cpus, _ in cluster.shapes if cpus]
    shares = sorted({cpus / n for cpus in nodes for n in range(1, replicas + 1)}, reverse=True)
    most = next(
        share for share in shares if sum(int(cpus / share + 1e-9) for cpus in nodes) >= replicas
    )
    # Down: Ray counts in hundredths here, and three times 0.67 is more than 2.
    return max(0.01, math.floor(most * 100 + 1e-9) / 100)


def free_port(host: str, port: int) -> int:
    """The port, or one that the system picks for 0; raises `UsageError` where it is taken.

    What is picked is not the port of the metrics of Ray's own dashboard, which every Ray opens as
    it starts, and which answers any path.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: expected 1 to 65535, or 0 for one that is free")
    found = _listened(host, port)
    while port == 0 and found == DASHBOARD_METRIC_PORT:
        found = _listened(host, port)
    return found


def _listened(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"--host {host} --port {port}: cannot be listened on ({error.strerror})"
            ) from error
        return int(probe.getsockname()[1])


def state_of(uri: str) -> str:
    """The folder of the state, absolute, made where it is not there.

    Of this machine, nobody else can read what is in it: scans, masks, the key of names in the log.
    """
    target = storage.absolute(uri)
    if storage.is_remote(target):
        deployment_key(target)
        return target
    folder = Path(target.removeprefix("file://"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deployment_key(target)
    # The folder itself may be somebody's for other things too, and keeps its mode then.
    (folder / LOG_KEY).chmod(0o600)
    (folder / JOBS).mkdir(exist_ok=True)
    (folder / JOBS).chmod(0o700)
    return target
