"""A real HTTP S3 endpoint (moto's) behind a proxy that counts requests and injects faults."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Fault = Literal["403", "500", "503", "cut", "slow", "hang"]
_CODES = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}


@dataclass
class FaultyS3:
    """What happened, and what shall happen; `faults` maps a part of a path to what comes next."""

    backend: tuple[str, int]
    url: str = ""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    """Method and kind (GET, HEAD, PUT, LIST…) to how many."""
    bytes_sent: int = 0
    signed: set[bool] = field(default_factory=set)
    at_once: int = 0
    """Most requests that were under way together."""
    delay_seconds: float = 0.0
    private: bool = False
    """Refuse what is not signed."""
    renamed: Callable[[str], str] = str
    """What is read in place of a path: a few objects can stand for many."""
    read: Counter[str] = field(default_factory=Counter)
    """Path of an object to how often it was asked for."""
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> str:
        """The address to use as AWS_ENDPOINT_URL."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                owner.handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Count from zero."""
        self.requests.clear()
        self.at_once = self.bytes_sent = 0

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Forward one request, or do the fault that is due."""
        kind = "LIST" if "list-type" in request.path else request.command
        with self._lock:
            self.requests[kind] += 1
            if kind == "GET":
                self.read[request.path] += 1
            self.signed.add("Authorization" in request.headers)
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
            fault = self._due(request.path) if request.command in ("GET", "PUT") else None
        refused = self.private and "Authorization" not in request.headers
        try:
            time.sleep(self.delay_seconds)
            self._answer(request, "403" if refused else fault)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True
        finally:
            with self._lock:
                self._under_way -= 1

    def _due(self, path: str) -> Fault | None:
        for part, waiting in self.faults.items():
            if part in path and waiting:
                return waiting.pop(0)
        return None

    def _answer(self, request: BaseHTTPRequestHandler, fault: Fault | None) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        if fault in _CODES:
            code = _CODES[fault]
            text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self._send(request, int(fault), {"Content-Type": "application/xml"}, text)
            return
        backend = http.client.HTTPConnection(*self.backend)
        path = self.renamed(request.path) if request.command in ("GET", "HEAD") else request.path
        backend.request(request.command, path, body, dict(request.headers))
        response = backend.getresponse()
        content = response.read()
        headers = {name: value for name, value in response.getheaders() if name not in _HOP}
        if fault == "cut":
            self._start(request, response.status, headers, len(content))
            request.wfile.write(content[: len(content) // 2])
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
            return
        if fault == "slow":
            self._start(request, response.status, headers, len(content))
            for at in range(0, len(content), max(1, len(content) // 5)):
                request.wfile.write(content[at : at + max(1, len(content) // 5)])
                request.wfile.flush()
                time.sleep(0.2)
            return
        if fault == "hang":
            time.sleep(60)
        self._send(request, response.status, headers, content)

    def _start(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], length: int
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if request.command != "HEAD":
            request.send_header("Content-Length", str(length))
        request.end_headers()

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes
    ) -> None:
        if request.command == "HEAD":
            headers = {**headers, "Content-Length": headers.get("Content-Length", "0")}
            self._start(request, status, headers, 0)
            return
        headers.pop("Content-Length", None)
        self._start(request, status, headers, len(content))
        request.wfile.write(content)
        with self._lock:
            self.bytes_sent += len(content)


def credentials(url: str) -> dict[str, str]:
    """Environment variables that send every S3 client there."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CA_BUNDLE": _one_certificate(),
    }


@functools.cache
def _one_certificate() -> str:
    """A file with one authority, where each client would read all that this machine trusts.

    They speak no TLS to servers on loopback, yet get ready for it.
    """
    import certifi

    end = "-----END CERTIFICATE-----\n"
    folder = Path(tempfile.mkdtemp(prefix="ray-brats-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "authority.pem"
    file.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    return str(file)


@functools.cache
def moto(address: str = "127.0.0.1") -> tuple[str, int]:
    """Host and port of a server that lives as long as this process.

    Stopping one takes half a second, and its buckets belong to the process anyway.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication
    from moto.server import ThreadedMotoServer

    _read_service_models_once()
    # It lists its own folders, and tries the patterns of all services, for each request.
    chosen = functools.cache(DomainDispatcherApplication.get_backend_for_host)
    DomainDispatcherApplication.get_backend_for_host = chosen
    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    return server.get_host_and_port()


def ask(method: str, path: str, address: str = "127.0.0.1") -> None:
    """One request to that server itself; an answer that is no success ends the test.

    By the standard library: httpx would read all certificates of this machine first.
    """
    connection = http.client.HTTPConnection(*moto(address))
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.read()!r}"


_FORGOTTEN: list[Any] = []


def forget_clients() -> None:
    """Let what is opened from here on have clients of its own.

    The old ones stay in memory: s3fs closes one that the garbage collector finds in the event
    loop that happens to run there, which fails where that is another one.
    """
    import s3fs

    _FORGOTTEN.extend(s3fs.S3FileSystem._cache.values())
    s3fs.S3FileSystem.clear_instance_cache()


def _read_service_models_once() -> None:
    """Let all sessions of this process share what botocore has read of its models.

    They are megabytes of JSON, read anew for each session, and each thread and test has its own.
    Clients of one session share them just so. Credentials stay each session's own.
    """
    import botocore.session

    if not hasattr(botocore.session.create_loader, "cache_info"):
        botocore.session.create_loader = functools.cache(botocore.session.create_loader)


@contextlib.contextmanager
def running() -> Iterator[FaultyS3]:
    """A server on loopback, behind the proxy."""
    # Filesystems are kept by fsspec, with the endpoint of an earlier test's server.
    forget_clients()
    faulty = FaultyS3(backend=moto())
    faulty.url = faulty.start()
    try:
        yield faulty
    finally:
        faulty.stop()
        forget_clients()


_HOP = frozenset({"Connection", "Transfer-Encoding", "Server", "Date"})
