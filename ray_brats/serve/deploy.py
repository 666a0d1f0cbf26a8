"""The service under Ray Serve: an ingress without a core of its own, models with theirs.

`application` builds it from `ServeSettings`, so that `serve deploy` with a configuration file
(`import_path: ray_brats.serve.deploy:application`) and `ray-brats serve` deploy the same thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray.exceptions
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from ray_brats.engine import cluster
from ray_brats.errors import StageFailed, UsageError
from ray_brats.labels import Task
from ray_brats.progress import say
from ray_brats.serve import replica
from ray_brats.serve.counts import Counts, Exchange, keep_told
from ray_brats.serve.handles import RemoteJobs, segment_by
from ray_brats.serve.http.access import Keys, Pseudonyms, deployment_key
from ray_brats.serve.http.app import build
from ray_brats.serve.http.gate import Gate
from ray_brats.serve.jobs.queue import Jobs
from ray_brats.serve.jobs.store import JobsStore
from ray_brats.serve.models import ServedModel
from ray_brats.serve.service import Service
from ray_brats.serve.settings import ONGOING, ServeSettings, describe, from_args
from ray_brats.serve.telemetry import Telemetry

NAME = "ray-brats"
JOBS = "jobs"
INGRESS_ONGOING = 512
"""Requests in one ingress: far more than it accepts, so that the application refuses, and fast."""
TRAIL_SECONDS = 0.5
READY_SECONDS = 5.0
"""How long `/readyz` waits for Serve's controller."""


class ModelReplica(replica.Model):
    """`replica.Model` over the bundles of a name."""

    def __init__(
        self, settings: ServeSettings, name: str, pinned: tuple[str, ...], task: Task
    ) -> None:
        load = functools.partial(
            replica.load,
            settings.models[name],
            pinned,
            asked=settings.asked,
            threads=max(1, math.floor(settings.cpus)),
        )
        super().__init__(load, pinned, settings.limits, task)


class JobsReplica:
    """The one process of the queue; Serve starts it again when it dies.

    While a service is upgraded there are two, old and new: `leases` tell them apart.
    """

    def __init__(
        self,
        settings: ServeSettings,
        described: Mapping[str, ServedModel],
        handles: Mapping[str, Any],
    ) -> None:
        self._exchange = Exchange()
        self._jobs = Jobs(
            JobsStore(settings.state),
            described,
            segment_by(handles),
            settings.limits_of_requests(),
            at_once=max(1, settings.replicas),
        )

    async def check_health(self) -> None:
        """Serve asks for this from the start, so it also begins what was left."""
        await self._jobs.start()

    async def tell(self, who: str, counts: Counts) -> Counts:
        """As of `Exchange`."""
        return self._exchange.tell(who, counts)

    async def __del__(self) -> None:
        """Serve calls this when it ends the process in peace."""
        await self._jobs.stop()

    async def call(self, method: str, *arguments: Any) -> Any:
        """One of the methods of `Jobs`."""
        return await getattr(self._jobs, method)(*arguments)


def model_deployment(name: str) -> str:
    """The Serve deployment of a model."""
    return f"model-{name}"


async def not_up(deployments: Sequence[str]) -> list[str]:
    """Those without a replica that is up, as Serve's controller knows from its health checks.

    The replicas themselves would answer only after the cases that wait for them.
    """
    try:
        async with asyncio.timeout(READY_SECONDS):
            status = await asyncio.to_thread(serve.status)
    except (TimeoutError, ray.exceptions.RayError, RayServeException):
        return ["the controller of Ray Serve does not answer"]
    own = status.applications.get(serve.get_replica_context().app_name)
    known = own.deployments if own else {}
    return [
        name
        for name in deployments
        if name not in known or not known[name].replica_states.get("RUNNING", 0)
    ]


class Ingress:
    """The HTTP application of one ingress process."""

    def __init__(
        self,
        settings: ServeSettings,
        described: Mapping[str, ServedModel],
        handles: Mapping[str, Any],
        jobs: Any,
    ) -> None:
        telemetry = Telemetry()
        names = None if settings.log_names else Pseudonyms(deployment_key(settings.state))
        keys = Keys(settings.api_keys)
        self._gate = Gate(keys, names, telemetry, settings.limits, host=settings.host)
        self._service = Service(
            described,
            segment_by(handles),
            RemoteJobs(jobs),
            settings.limits_of_requests(),
            telemetry,
            missing=lambda: not_up([*map(model_deployment, described), JOBS]),
        )

        self._jobs, self._several = jobs, settings.ingresses > 1
        self._telling: asyncio.Task[None] | None = None

    async def check_health(self) -> None:
        """Serve asks for this from the start, so it also begins to meet the other ingresses."""
        if self._several and self._telling is None:
            me = uuid.uuid4().hex

            async def tell(counts: Counts) -> Counts:
                others: Counts = await self._jobs.tell.remote(me, counts)
                return others

            service = self._service
            self._telling = asyncio.create_task(keep_told(tell, service.held, service.hear))

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        return build(self._service, self._gate)

    async def trail(self, number: int) -> tuple[int, list[str]]:
        """What was told of requests since; see `Trail.after`."""
        return self._gate.trail.after(number)

    async def end(self) -> int:
        """Take no more cases for a while; see `Service.end`."""
        return self._service.end()


def application(args: Mapping[str, Any] | ServeSettings) -> Any:
    """The Serve application of some settings, or of the `args` of a configuration file."""
    settings = args if isinstance(args, ServeSettings) else from_args(args)
    scaled: dict[str, Any] = {"num_replicas": 1}
    if settings.replicas > 1 or settings.min_replicas != 1:
        scaling = {"min_replicas": settings.min_replicas, "max_replicas": settings.replicas}
        scaled = {"autoscaling_config": {**scaling, "target_ongoing_requests": 1}}
    drained = {
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    actor = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    # Read once, so that all processes of this deployment speak of the same bundles.
    described = describe(settings)
    models = {
        name: serve.deployment(
            ModelReplica,
            name=model_deployment(name),
            ray_actor_options=actor,
            max_ongoing_requests=ONGOING,
            health_check_period_s=5,
            **scaled,
            **drained,
        ).bind(settings, name, model.bundles, model.task)
        for name, model in described.items()
    }
    light: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": settings.light_cpus},
        "max_ongoing_requests": INGRESS_ONGOING,
    }
    jobs = serve.deployment(
        JobsReplica, name=JOBS, health_check_period_s=2, **light, **drained
    ).bind(settings, described, models)
    several = {}
    if settings.ingresses > 1:
        # Spread over the nodes; of an update's old and new ones a node may have two.
        several = {"num_replicas": settings.ingresses, "max_replicas_per_node": 2}
    # An update starts new ones before it ends the old.
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        max_surge_percent=100,
        **several,
        **light,
        **drained,
    )
    return ingress.bind(settings, described, models, jobs)


@contextlib.contextmanager
def served(
    settings: ServeSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    tls: tuple[str, str] | None = None,
    told: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """The service is up inside, at the URL; on leaving, accepted cases still get their answer.

    Args:
        tls: certificate and key file of HTTPS.
        told: gets a line of JSON for every call, a moment later.

    Raises:
        UsageError: Ray Serve runs on this cluster already.
        StageFailed: a replica could not start.
    """
    limits = settings.limits
    if (already := serve.status()).proxies:
        # It would keep its own address, and all of its applications would end with this one.
        names = ", ".join(already.applications) or "none yet"
        raise UsageError(
            f"Ray Serve runs on this cluster already (applications: {names}): add the models to "
            "its configuration file and `serve deploy` that, or end it with `serve shutdown`"
        )
    http = HTTPOptions(
        host=host,
        port=port,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
        request_timeout_s=limits.upload_seconds + 2 * limits.answer_seconds,
    )
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    ingress = None
    try:
        try:
            with cluster.silenced():
                serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
                ingress = serve.run(application(settings), name=NAME, route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise StageFailed(f"serve: a model could not start: {error}") from error
        shown = f"[{host}]" if ":" in host else host
        with _followed(ingress, told):
            try:
                yield f"{'https' if tls else 'http'}://{shown}:{port}"
            finally:
                _drain(ingress, settings.drain_seconds)
    finally:
        with cluster.silenced():
            try:
                if ingress is not None:
                    # Before the proxies go: answers may still be on their way.
                    with contextlib.suppress(TimeoutError):
                        serve.delete(NAME)
            finally:
                serve.shutdown()


@contextlib.contextmanager
def _followed(ingress: Any, told: Callable[[str], None] | None) -> Iterator[None]:
    """What the ingress tells of calls is passed on inside."""
    if told is None:
        yield
        return
    end = threading.Event()
    # Its handle would tell of its own affairs, beside the lines of the command.
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)

    def follow() -> None:
        number, ended = 0, False
        while not ended:
            ended = end.wait(TRAIL_SECONDS)
            with contextlib.suppress(TimeoutError, ray.exceptions.RayError, RayServeException):
                number, lines = ingress.trail.remote(number).result(timeout_s=READY_SECONDS)
                for line in lines:
                    told(line)

    thread = threading.Thread(target=follow, daemon=True, name="ray-brats-trail")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(2 * READY_SECONDS)


def _drain(ingress: Any, seconds: float) -> None:
    """Let accepted cases have their answers, for so long; new ones are refused meanwhile.

    Serve, told to end an application, takes the models from the cases that wait for one.
    """
    until, told = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            with cluster.silenced():
                waiting = ingress.end.remote().result(timeout_s=READY_SECONDS)
            if waiting == 0:
                return
            if waiting != told:
                say(f"serve: {waiting} call(s) wait for their answer")
                told = waiting
        except TimeoutError:
            continue
        except (ray.exceptions.RayError, RayServeException):
            return
        time.sleep(0.2)
