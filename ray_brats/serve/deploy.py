"""The service under Ray Serve: an ingress without a core of its own, models with theirs.

`application` builds it from plain values, so that `serve deploy` with a configuration file
(`import_path: ray_brats.serve.deploy:application`) and `ray-brats serve` deploy the same thing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray.exceptions
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.schema import LoggingConfig

from ray_brats import config, engine, labels, modelcard, storage
from ray_brats.config import Recipe
from ray_brats.errors import StageFailed, UsageError
from ray_brats.serve import replica
from ray_brats.serve.access import Keys, Pseudonyms, deployment_key
from ray_brats.serve.app import ServedModel, Service, build
from ray_brats.serve.gate import Gate
from ray_brats.serve.jobs import Jobs, Segment
from ray_brats.serve.jobs_store import Job, JobsStore
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.replica import Answer
from ray_brats.serve.telemetry import Telemetry

NAME = "ray-brats"
ONGOING = 2
"""Cases in one replica: one in the network, the next being read."""
INGRESS_ONGOING = 512
"""Far above what is accepted, so that refusing is the application's decision and fast."""
ATTEMPTS = 2
"""A case whose replica dies is given to another one once."""
_CARD = ("intended_use", "measured", "recipe", "parameters", "versions", "signatures", "limits")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One deployment; plain values, for they also come from a configuration file."""

    models: Mapping[str, tuple[str, ...]]
    """Name to bundles (several are averaged); the first is the default."""
    state: str
    pinned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    api_keys: str | None = None
    log_names: bool = False
    tta: str | None = None
    overlap: float | None = None
    replicas: int = 1
    """At most, of each model; the least is one."""
    cpus: float = 1.0
    gpus: float = 0.0
    drain_seconds: float = 120.0
    limits: Limits = field(default_factory=Limits)


def from_values(values: Mapping[str, Any]) -> Settings:
    """Settings from the `args` of a Serve configuration file; raises `UsageError`."""
    given = dict(values)
    try:
        if isinstance(given.get("models"), Mapping):
            given["models"] = {
                name: (uris,) if isinstance(uris, str) else tuple(uris)
                for name, uris in given["models"].items()
            }
        limits = dict(given.pop("limits", {}))
        limits["uri_prefixes"] = tuple(limits.get("uri_prefixes", ()))
        return Settings(**given, limits=Limits(**limits))
    except TypeError as error:
        raise UsageError(f"serve: a setting is unknown or missing ({error})") from error


def describe(settings: Settings) -> dict[str, ServedModel]:
    """The models as clients see them, from their cards; raises `ArtefactError`."""
    found: dict[str, ServedModel] = {}
    for name, uris in settings.models.items():
        pins = settings.pinned.get(name) or (None,) * len(uris)
        cards = [modelcard.read(uri, pinned=pin) for uri, pin in zip(uris, pins, strict=True)]
        card = cards[0][0]
        recipe = config.from_json(Recipe, card["recipe"])
        facts = {key: card[key] for key in _CARD if key in card}
        options = {"tta": settings.tta, "overlap": settings.overlap}
        identity = {"bundles": [sha256 for _, sha256 in cards], "options": options}
        found[name] = ServedModel(
            name=name,
            modalities=tuple(recipe.preprocess.modalities),
            release=card.get("release") or labels.DEFAULT_RELEASE,
            card={**facts, "identity": identity},
            default=not found,
            capacity=ONGOING * settings.replicas,
        )
    return found


class ModelReplica(replica.Model):
    """`replica.Model` over the bundles of a name."""

    def __init__(self, settings: Settings, name: str, pinned: tuple[str, ...]) -> None:
        options = {"tta": settings.tta, "overlap": settings.overlap}
        threads = max(1, math.floor(settings.cpus))
        bundles = settings.models[name]
        super().__init__(lambda: replica.load(bundles, pinned, options, threads))


def segment_by(handles: Mapping[str, Any]) -> Segment:
    """Asks models through their Serve handles."""

    async def segment(name: str, images: Mapping[str, bytes | str], release: str) -> Answer:
        for _ in range(ATTEMPTS):
            try:
                answer: Answer = await handles[name].segment.remote(dict(images), release)
                return answer
            except BackPressureError as error:
                raise Refusal(429, "all places are taken: try again later", "", 10) from error
            except DeploymentUnavailableError:
                break
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                continue
        raise Refusal(503, "the process of the model died: try again", "", 10)

    return segment


class JobsReplica:
    """The one process of the queue; Serve starts it again when it dies."""

    def __init__(self, settings: Settings, handles: Mapping[str, Any]) -> None:
        self._jobs = Jobs(
            JobsStore(settings.state),
            segment_by(handles),
            settings.limits,
            at_once=max(1, settings.replicas),
        )

    async def check_health(self) -> None:
        """Serve asks for this from the start, so it also begins what was left."""
        await self._jobs.start()

    async def call(self, method: str, *arguments: Any) -> Any:
        """One of the methods of `Jobs`."""
        return await getattr(self._jobs, method)(*arguments)


class RemoteJobs:
    """`Jobs` through a handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._handle.call.remote(method, *arguments)
        except Refusal as error:
            # Ray's own exception carries ours.
            raise getattr(error, "cause", error) from None
        except (ray.exceptions.RayActorError, DeploymentUnavailableError) as error:
            raise Refusal(503, "the queue starts again: try again", "", 5) from error

    async def submit(self, request: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
        """Keep and queue a job."""
        job: Job = await self._call("submit", dict(request), dict(files))
        return job

    async def get(self, job_id: str) -> Job | None:
        """The state of a job."""
        job: Job | None = await self._call("get", job_id)
        return job

    async def mask(self, job_id: str) -> bytes | None:
        """The mask of a job that is done."""
        mask: bytes | None = await self._call("mask", job_id)
        return mask

    async def cancel(self, job_id: str) -> Job | None:
        """Stop a job."""
        job: Job | None = await self._call("cancel", job_id)
        return job


class Ingress:
    """The HTTP application of one ingress process."""

    def __init__(self, settings: Settings, handles: Mapping[str, Any], jobs: Any) -> None:
        telemetry = Telemetry()
        names = None if settings.log_names else Pseudonyms(deployment_key(settings.state))
        self._gate = Gate(Keys(settings.api_keys), names, telemetry)
        self._service = Service(
            describe(settings), segment_by(handles), RemoteJobs(jobs), settings.limits, telemetry
        )

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        return build(self._service, self._gate)


def application(values: Mapping[str, Any] | Settings) -> Any:
    """The Serve application of some settings."""
    settings = values if isinstance(values, Settings) else from_values(values)
    scaled: dict[str, Any] = {"num_replicas": 1}
    if settings.replicas > 1:
        scaling = {"min_replicas": 1, "max_replicas": settings.replicas}
        scaled = {"autoscaling_config": {**scaling, "target_ongoing_requests": 1}}
    drained = {
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    actor = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    pins = {
        name: tuple(model.card["identity"]["bundles"]) for name, model in describe(settings).items()
    }
    models = {
        name: serve.deployment(
            ModelReplica,
            name=f"model-{name}",
            ray_actor_options=actor,
            max_ongoing_requests=ONGOING,
            health_check_period_s=5,
            **scaled,
            **drained,
        ).bind(settings, name, pins[name])
        for name in settings.models
    }
    light = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": INGRESS_ONGOING}
    jobs = serve.deployment(
        JobsReplica, name="jobs", health_check_period_s=2, **light, **drained
    ).bind(settings, models)
    # An update starts new ones before it ends the old.
    ingress = serve.deployment(
        serve.ingress()(Ingress), name="ingress", max_surge_percent=100, **light, **drained
    )
    return ingress.bind(settings, models, jobs)


def fitting(settings: Settings, there: engine.Resources, replicas: int | None) -> Settings:
    """Settings with replicas and cores that the cluster has; raises `UsageError`."""
    models = len(settings.models)
    count = replicas or max(1, there.gpus // models)
    if count < 1 or (there.gpus and count * models > there.gpus):
        raise UsageError(
            f"--replicas {count}: {models} model(s) need as many GPUs, there are {there.gpus}"
        )
    cpus = 1.0 if there.gpus else max(0.1, min(there.cpus / (models * count), there.node_cpus))
    return dataclasses.replace(
        settings, replicas=count, cpus=round(cpus, 2), gpus=1.0 if there.gpus else 0.0
    )


def free_port(host: str, port: int) -> int:
    """The port, or one that the system picks for 0; raises `UsageError` where it is taken."""
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


@contextlib.contextmanager
def served(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    tls: tuple[str, str] | None = None,
) -> Iterator[str]:
    """The service is up inside, at the URL; on leaving, accepted cases still get their answer.

    Args:
        tls: certificate and key file of HTTPS.

    Raises:
        StageFailed: a replica could not start.
    """
    limits = settings.limits
    http = HTTPOptions(
        host=host,
        port=port,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
        request_timeout_s=limits.upload_seconds + 2 * limits.answer_seconds,
    )
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    with engine.silenced():
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
    try:
        try:
            with engine.silenced():
                serve.run(application(settings), name=NAME, route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise StageFailed(f"serve: a model could not start: {error}") from error
        shown = f"[{host}]" if ":" in host else host
        yield f"{'https' if tls else 'http'}://{shown}:{port}"
    finally:
        with engine.silenced():
            serve.delete(NAME)
            serve.shutdown()


def state_of(uri: str) -> str:
    """The folder of the state, absolute, made where it is not there."""
    target = storage.absolute(uri)
    deployment_key(target)
    return target
