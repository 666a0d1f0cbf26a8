"""The commands `serve` and `key`."""

from __future__ import annotations

import contextlib
import re
import signal
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.model import card
from ray_brats.progress import say

if TYPE_CHECKING:
    from ray_brats.serve.settings import ServeOptions

Summary = dict[str, Any]
FileArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
NameArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
BundleOption = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]BUNDLE")]
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})=(?P<uri>.+)")


def serve(
    *,
    bundle: BundleOption = (),
    bundle_sha256: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    api_keys: str | None = None,
    no_auth: bool = False,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    state: str = "ray-brats-state",
    allow_uri: tuple[str, ...] = (),
    replicas: int | None = None,
    waiting: int = 6,
    max_body_mib: int = 256,
    max_inflated_mib: int = 1024,
    answer_seconds: float = 600.0,
    drain_seconds: float = 120.0,
    keep_days: float = 30.0,
    log_names: bool = False,
    tta: Literal["none", "flips"] | None = None,
    overlap: float | None = None,
) -> Summary:
    """Serve models over HTTP with Ray Serve, and a page for people, until Ctrl-C.

    Args:
        bundle: What train wrote; by default the starter model, where the installation has one.
            NAME=BUNDLE serves several side by side; the first is the default, and several bundles
            of one name are averaged. Name only bundles you trust.
        bundle_sha256: Of each bundle's bundle.json: any other bundle is refused.
        host: Address to listen on; anything but loopback asks for --api-keys.
        port: Port to listen on; 0 lets the system choose.
        api_keys: File with the hashes of the keys, as `ray-brats key` writes it.
        no_auth: Serve everyone who can reach the address.
        tls_cert: Certificate (PEM) for HTTPS.
        tls_key: Its private key.
        state: Folder or s3:// prefix that keeps jobs.
        allow_uri: Prefixes as s3://bucket/cohorts that clients may name; none by default.
        replicas: Processes a model may have; by default one a GPU, else one.
        waiting: Cases accepted beyond those in work; more are told to come again (429).
        max_body_mib: Longest body.
        max_inflated_mib: Most that the files of a case may inflate to.
        answer_seconds: Longest time to a mask.
        drain_seconds: How long accepted cases may still take after Ctrl-C.
        keep_days: How long an ended job and its mask are kept.
        log_names: Write case names to the log as they are, not as HMACs.
        tta: Average over mirrored inputs; by default as the bundle says.
        overlap: Segment by sliding windows that overlap by this share (0-1).
    """
    models, pinned = named(bundle, bundle_sha256)
    _check_access(host, api_keys, no_auth, (tls_cert, tls_key))
    _check_positive(
        waiting=waiting + 1,
        max_body_mib=max_body_mib,
        max_inflated_mib=max_inflated_mib,
        answer_seconds=answer_seconds,
        drain_seconds=drain_seconds,
        keep_days=keep_days,
        replicas=1 if replicas is None else replicas,
    )
    from ray_brats.serve import settings
    from ray_brats.serve.limits import Limits

    limits = Limits(
        body_bytes=max_body_mib << 20,
        inflated_bytes=max_inflated_mib << 20,
        answer_seconds=answer_seconds,
        waiting=waiting,
        keep_days=keep_days,
        uri_prefixes=tuple(_prefix(uri) for uri in allow_uri),
    )
    options = settings.ServeOptions(
        models=models,
        pinned=pinned,
        state=settings.state_of(state),
        api_keys=storage.absolute(api_keys) if api_keys else None,
        log_names=log_names,
        tta=tta,
        overlap=overlap,
        drain_seconds=drain_seconds,
        limits=limits,
    )
    settings.describe(options)
    port = settings.free_port(host, port)
    tls = (tls_cert, tls_key) if tls_cert and tls_key else None
    return _until_stopped(options, replicas, host=host, port=port, tls=tls)


def _until_stopped(
    options: ServeOptions,
    replicas: int | None,
    *,
    host: str,
    port: int,
    tls: tuple[str, str] | None,
) -> Summary:
    from ray_brats.serve import deploy, settings

    with cluster.running() as resources:
        fitted = settings.fitting(options, resources, replicas)
        say(f"serve: loading {', '.join(options.models)}")
        # Until it is up, and again while it drains, Ctrl-C ends it at once.
        with deploy.served(fitted, host=host, port=port, tls=tls) as url, stopped() as stop:
            say(f"serve: ready at {url} (Ctrl-C ends it). For research, not for diagnosis")
            while not stop.wait(1):
                pass
            say(f"serve: draining, up to {options.drain_seconds:g} s")
    say("serve: drained and stopped; jobs that were not finished go on at the next start")
    return {"url": url, "models": sorted(options.models), "failures": []}


def key(file: FileArgument, name: NameArgument, /) -> Summary:
    """Make an API key: its hash goes into FILE, and the key itself is told once.

    Args:
        file: Key file of `serve --api-keys`; made where it is not there.
        name: Whose key it is.
    """
    from ray_brats.serve.http import access

    path = Path(file)
    known = access.read_keys(path) if path.exists() else {}
    if name in known:
        raise UsageError(f"{file} has a key named {name!r}: remove its line first")
    new = access.make_key()
    kept = path.read_text() if path.exists() else ""
    lines = kept + ("\n" if kept and not kept.endswith("\n") else "")
    storage.write_bytes(storage.absolute(file), f"{lines}{access.line_of(name, new)}\n".encode())
    say(f"the key of {name}, told only now: {new}")
    return {"key": new, "name": name, "failures": []}


def named(
    bundles: Sequence[str], pins: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Model name to its bundles, and to their pins, from `--bundle` and `--bundle-sha256`."""
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


def _check_access(
    host: str, api_keys: str | None, no_auth: bool, tls: tuple[str | None, str | None]
) -> None:
    from ray_brats.serve.http import access

    if api_keys and no_auth:
        raise UsageError("--api-keys and --no-auth exclude each other: leave one of them out")
    if api_keys and not access.read_keys(Path(api_keys)):
        raise UsageError(f"{api_keys} holds no key: make one with `ray-brats key {api_keys} NAME`")
    if not (api_keys or no_auth or access.is_loopback(host)):
        raise UsageError(
            f"--host {host} can be reached from other machines, and there is no --api-keys: make "
            "a key with `ray-brats key keys.txt NAME` and pass --api-keys keys.txt, or say "
            "--no-auth where a gateway asks for keys"
        )
    if (tls[0] is None) != (tls[1] is None):
        raise UsageError("--tls-cert and --tls-key go together: one of them is missing")
    for file in tls:
        if file and not Path(file).is_file():
            raise UsageError(f"{file}: no such file; expected a PEM file for HTTPS")
    certificate, private_key = tls
    if certificate and private_key:
        try:
            # Of a pass phrase the server would ask a terminal that is not there.
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


def _prefix(uri: str) -> str:
    if not re.fullmatch(r"s3://[A-Za-z0-9.-]{3,63}(/.*)?", uri):
        raise UsageError(f"--allow-uri {uri}: expected s3://BUCKET or s3://BUCKET/PREFIX")
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
