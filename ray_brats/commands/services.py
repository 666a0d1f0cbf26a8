"""The commands `serve` and `key`."""

from __future__ import annotations

import contextlib
import re
import signal
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ray_brats.commands.arguments import CountOption, FileOption, Inference
from ray_brats.engine.devices import Device
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.files.ledger import Summary
from ray_brats.progress import say

if TYPE_CHECKING:
    from ray_brats.serve.settings import ServeSettings

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})=(?P<uri>.+)")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where a service listens, and to whom."""

    host: Annotated[str, arg(metavar="HOST")] = "127.0.0.1"
    """Address to listen on; anything but loopback asks for --api-keys."""
    port: Annotated[int, arg(metavar="PORT")] = 8000
    """Port to listen on; 0 lets the system choose."""
    api_keys: FileOption = None
    """File with the hashes of the keys, as `ray-brats key` writes it."""
    no_auth: bool = False
    """Serve everyone who can reach the address."""
    tls_cert: FileOption = None
    """Certificate (PEM) for HTTPS."""
    tls_key: FileOption = None
    """Its private key."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a service takes in, and how long it waits for it."""

    allow_uri: Annotated[tuple[str, ...], arg(metavar="PREFIX …")] = ()
    """Prefixes as s3://bucket/cohorts that clients may have read; none by default."""
    allow_output: Annotated[tuple[str, ...], arg(metavar="PREFIX …")] = ()
    """Prefixes that jobs over cohorts may write masks to; none by default."""
    waiting: Annotated[int, arg(metavar="N")] = 6
    """Cases accepted beyond those in work; more are told to come again (429)."""
    max_body_mib: Annotated[int, arg(metavar="MIB")] = 256
    """Longest body."""
    max_inflated_mib: Annotated[int, arg(metavar="MIB")] = 1024
    """Most that the files of a case may inflate to."""
    max_voxels: Annotated[int, arg(metavar="N")] = 32_000_000
    """Most voxels of a file; a BraTS volume has 8.9 million."""
    max_state_gib: Annotated[float, arg(metavar="GIB")] = 64.0
    """Most that the jobs in the state may hold together; more are refused (507)."""
    answer_seconds: Annotated[float, arg(metavar="SECONDS")] = 600.0
    """Longest time to a mask."""
    drain_seconds: Annotated[float, arg(metavar="SECONDS")] = 120.0
    """How long accepted cases may still take after Ctrl-C."""
    keep_days: Annotated[float, arg(metavar="DAYS")] = 30.0
    """How long an ended job and its mask are kept."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve models over HTTP, and a page for people, until Ctrl-C."""

    bundle: Annotated[tuple[str, ...], arg(metavar="[NAME=]BUNDLE …")] = ()
    """What train wrote; by default the starter model, where the installation has one.
    NAME=BUNDLE serves several side by side; the first is the default, and several bundles of one
    name are averaged. Name only bundles you trust."""
    bundle_sha256: Annotated[tuple[str, ...], arg(metavar="SHA256 …")] = ()
    """What the bundle.json of each bundle must hash to: any other bundle is refused."""
    access: Access = field(default_factory=Access)
    state: Annotated[str, arg(metavar="URI")] = "ray-brats-state"
    """Folder or s3:// prefix that keeps jobs."""
    replicas: CountOption = None
    """Processes a model may have; by default one a GPU, else one."""
    device: Device = "auto"
    """GPUs where the cluster has any now, or as asked for: a cluster that grows gets them."""
    bounds: Bounds = field(default_factory=Bounds)
    log_names: bool = False
    """Write case names to the log as they are, not as HMACs."""
    inference: Inference = field(default_factory=Inference)


def serve(options: ServeOptions) -> Summary:
    """Serve models over HTTP with Ray Serve, and a page for people, until Ctrl-C."""
    from ray_brats.serve import settings as deployments

    access = options.access
    # First: all else may leave a state behind.
    port = deployments.free_port(access.host, access.port)
    settings = _settings(options)
    from ray_brats.engine import cluster
    from ray_brats.serve import deploy

    deployments.describe(settings)
    tls = (access.tls_cert, access.tls_key) if access.tls_cert and access.tls_key else None
    with cluster.running() as resources:
        there = resources.asked_for(options.device)
        fitted = deployments.fitting(settings, there, options.replicas)
        say(f"serve: loading {', '.join(settings.models)}")
        # Until it is up, and again while it drains, Ctrl-C ends it at once.
        serving = deploy.served(fitted, host=access.host, port=port, tls=tls, told=_tell_call)
        with serving as url, stopped() as stop:
            say(f"serve: ready at {url} (Ctrl-C ends it). For research, not for diagnosis")
            while not stop.wait(1):
                pass
            say(f"serve: draining, up to {settings.drain_seconds:g} s")
    say("serve: drained and stopped; jobs that were not finished go on at the next start")
    return Summary(facts={"url": url, "models": sorted(settings.models)})


def _tell_call(line: str) -> None:
    """One call, to standard output, which is everybody else's standard error until the end."""
    if sys.__stdout__ is not None:
        sys.__stdout__.write(f"{line}\n")
        sys.__stdout__.flush()


def _settings(options: ServeOptions) -> ServeSettings:
    """What the application is made with; raises `UsageError` for options that cannot be."""
    access, bounds = options.access, options.bounds
    models, pinned = named(options.bundle, options.bundle_sha256)
    _check_access(access)
    if bounds.waiting < 0:
        raise UsageError(f"--waiting {bounds.waiting}: expected a number of cases, or 0")
    _check_positive(
        max_body_mib=bounds.max_body_mib,
        max_inflated_mib=bounds.max_inflated_mib,
        max_voxels=bounds.max_voxels,
        max_state_gib=bounds.max_state_gib,
        answer_seconds=bounds.answer_seconds,
        drain_seconds=bounds.drain_seconds,
        keep_days=bounds.keep_days,
        replicas=1 if options.replicas is None else options.replicas,
    )
    from ray_brats.model import card
    from ray_brats.serve import settings as deployments
    from ray_brats.serve.limits import Limits

    for name, uris in models.items():
        card.choose(uris, pinned.get(name, ()))  # Before the folder of the state is made.
    limits = Limits(
        body_bytes=bounds.max_body_mib << 20,
        inflated_bytes=bounds.max_inflated_mib << 20,
        voxels=bounds.max_voxels,
        state_bytes=int(bounds.max_state_gib * (1 << 30)),
        answer_seconds=bounds.answer_seconds,
        waiting=bounds.waiting,
        keep_days=bounds.keep_days,
        uri_prefixes=tuple(_prefix(uri, "--allow-uri") for uri in bounds.allow_uri),
        output_prefixes=tuple(_prefix(uri, "--allow-output") for uri in bounds.allow_output),
    )
    return deployments.ServeSettings(
        models=models,
        pinned=pinned,
        state=deployments.state_of(options.state),
        api_keys=storage.absolute(access.api_keys) if access.api_keys else None,
        # Without keys, any page that a reader of this machine opens could call it.
        host=None if access.api_keys or access.no_auth else access.host,
        log_names=options.log_names,
        tta=options.inference.tta,
        overlap=options.inference.overlap,
        allow_skull=options.inference.allow_skull,
        drain_seconds=bounds.drain_seconds,
        limits=limits,
    )


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """Make an API key: its hash goes into FILE, the key itself is told once."""

    file: Annotated[str, Positional, arg(metavar="FILE")]
    """Key file of `serve --api-keys`; made where it is not there."""
    name: Annotated[str, Positional, arg(metavar="NAME")]
    """Whose key it is."""


def key(options: KeyOptions) -> Summary:
    """Make an API key: its hash goes into FILE, and the key itself is told once."""
    from ray_brats.serve.http import access

    file, name = options.file, options.name
    if storage.is_remote(file):
        raise UsageError(f"{file}: keys lie in a file of this machine, which `serve` reads again")
    path = Path(file)
    known = access.read_keys(path) if path.exists() else {}
    if name in known:
        raise UsageError(f"{file} has a key named {name!r}: remove its line first")
    secret = access.make_key()
    access.add_line(path, access.line_of(name, secret))
    say(f"the key of {name}, told only now: {secret}")
    return Summary(facts={"key": secret, "name": name})


def named(
    bundles: Sequence[str], pins: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Model name to its bundles, and to their pins, from `--bundle` and `--bundle-sha256`."""
    from ray_brats.model import card

    bundles = bundles or (card.STARTER,)
    models: dict[str, tuple[str, ...]] = {}
    pinned: dict[str, tuple[str, ...]] = {}
    for text, pin in card.with_pins(bundles, pins):
        match = _NAMED.fullmatch(text)
        name, uri = (match["name"], match["uri"]) if match else ("default", text)
        models[name] = (*models.get(name, ()), card.uri_of(uri))
        if pin is not None:
            pinned[name] = (*pinned.get(name, ()), pin)
    return models, pinned


def _check_access(options: Access) -> None:
    from ray_brats.serve.http import access

    api_keys, tls = options.api_keys, (options.tls_cert, options.tls_key)
    if api_keys and options.no_auth:
        raise UsageError("--api-keys and --no-auth exclude each other: leave one of them out")
    if api_keys and not access.read_keys(Path(api_keys)):
        raise UsageError(f"{api_keys} holds no key: make one with `ray-brats key {api_keys} NAME`")
    if not (api_keys or options.no_auth or access.is_loopback(options.host)):
        raise UsageError(
            f"--host {options.host} can be reached from other machines, and there is no "
            "--api-keys: make a key with `ray-brats key keys.txt NAME` and pass --api-keys "
            "keys.txt, or say --no-auth where a gateway asks for keys"
        )
    if (tls[0] is None) != (tls[1] is None):
        raise UsageError("--tls-cert and --tls-key go together: one of them is missing")
    for file in tls:
        if file and not Path(file).is_file():
            raise UsageError(f"{file}: no such file; expected a PEM file for HTTPS")
    certificate, private_key = tls
    if certificate and private_key:
        try:
            # The server would ask a terminal that is not there for a pass phrase.
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                certificate, private_key, password=lambda: ""
            )
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(
                f"--tls-cert {certificate} --tls-key {private_key}: not a certificate and its "
                f"private key, in PEM and without a pass phrase ({error})"
            ) from error


def _check_positive(**options: float) -> None:
    for name, value in options.items():
        if value <= 0:
            raise UsageError(f"--{name.replace('_', '-')}: expected a number above zero")


def _prefix(uri: str, option: str) -> str:
    if not re.fullmatch(r"s3://[A-Za-z0-9.-]{3,63}(/.*)?", uri):
        raise UsageError(f"{option} {uri}: expected s3://BUCKET or s3://BUCKET/PREFIX")
    return uri


@contextlib.contextmanager
def stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets inside, in place of ending the process."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: event.set()) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
