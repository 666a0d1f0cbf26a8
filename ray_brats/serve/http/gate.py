"""What every request passes first and last: the key, headers, errors as JSON, one log line."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match

from ray_brats.serve.http import access, hints
from ray_brats.serve.http.access import Keys, Pseudonyms
from ray_brats.serve.http.body import Incoming, Message, Patience, Receive
from ray_brats.serve.limits import Limits, Refusal
from ray_brats.serve.telemetry import Telemetry, Trail

Send = Callable[[Message], Awaitable[None]]
OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""Paths that need no key."""
OPEN_BELOW = "/page/"
"""The page's own files, which need none either."""
QUIET = ("/healthz", "/readyz", "/page", "/metrics")
"""Routes that machines and the page ask all the time: only what goes wrong there is told."""
SAFE = ("GET", "HEAD", "OPTIONS")
MAX_HEADER_BYTES = 32 << 10
UNEXPECTED = "something went wrong here"
SLOW = 408
"""Status after which the rest of a body is not waited for."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Gate:
    """An ASGI application around the application.

    Args:
        keys: who may call.
        pseudonyms: stand for case names in the log; None writes these as they are.
        telemetry: counts requests.
        limits: whose longest body is still read after an answer that did not wait for it.
        host: the address that the service listens on, where every caller is to name it, an IP
            address or `localhost`; a page of another site that calls by a name of its own does not.
    """

    def __init__(
        self,
        keys: Keys,
        pseudonyms: Pseudonyms | None,
        telemetry: Telemetry,
        limits: Limits,
        *,
        host: str | None = None,
    ) -> None:
        self._keys, self._pseudonyms, self._telemetry = keys, pseudonyms, telemetry
        self._host = host
        self._known = Patience(seconds=20.0, most_bytes=limits.body_bytes, places=16)
        # Without a key: what a client sends before it looks for an answer, and no more.
        self._strangers = Patience(seconds=2.0, most_bytes=64 << 10, places=4)
        self._app: FastAPI | None = None
        self.trail = Trail()

    def wrap(self, app: FastAPI) -> None:
        """Stand before this application, and word its refusals."""
        self._app = app

        @app.exception_handler(Refusal)
        async def refused(_: Any, error: Any) -> Any:
            return _Answer.of(error)

        @app.exception_handler(RequestValidationError)
        async def invalid(_: Any, error: Any) -> Any:
            return _Answer(422, "the request is not valid: see /openapi.json")

        @app.exception_handler(Exception)
        async def unexpected(*_: Any) -> Any:
            # Starlette answers in plain text otherwise; what was raised still comes to `__call__`.
            return _Answer(500, UNEXPECTED)

        @app.exception_handler(HTTPException)
        async def failed(_: Any, error: Any) -> Any:
            words = {404: "there is nothing here: see /openapi.json", 405: "not this method here"}
            return _Answer(
                error.status_code,
                words.get(error.status_code, str(error.detail)),
                headers=dict(error.headers or {}),
            )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert self._app is not None
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, method = time.monotonic(), 0, scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        # Where Serve's proxies were not told to, they have obeyed these already.
        scope = {**scope, "headers": hints.dropped(scope["headers"])}
        headers = Headers(scope=scope)
        incoming, caller = Incoming(receive, headers), self._keys.caller(headers)
        patience = self._strangers if caller is None else self._known

        async def answering(message: Message) -> None:
            nonlocal status
            if method == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers.update(HEADERS)
                if str(scope["path"]).startswith("/v1/"):
                    headers["Cache-Control"] = "no-store"
            elif not message.get("more_body", False) and status != SLOW:
                # The whole answer is out; a connection that is closed now, with a body that nobody
                # reads, would take it away from its client.
                await send({**message, "more_body": True})
                await incoming.drain(patience)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        scope.setdefault("state", {})["caller"] = caller
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, incoming.receive, answering)
            else:
                await self._app(scope, incoming.receive, answering)
        except Exception as error:  # noqa: BLE001 - no stack trace ever leaves, or names a patient
            self.trail.log(event="error", kind=type(error).__name__)
            if not status:
                await _Answer(500, UNEXPECTED)(scope, incoming.receive, answering)
        finally:
            self._note(scope, method, status, time.monotonic() - began)

    def _refusal(self, scope: Message) -> _Answer | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            return _Answer(431, f"the headers exceed {MAX_HEADER_BYTES} bytes")
        if reason := self._foreign(scope["method"], Headers(scope=scope)):
            return _Answer(403, reason)
        path = str(scope["path"])
        if path in OPEN or path.startswith(OPEN_BELOW):
            return None
        if scope["state"]["caller"] is None:
            reason = "an API key is needed: send it as Authorization: Bearer KEY"
            return _Answer(401, reason, headers={"WWW-Authenticate": "Bearer"})
        return None

    def _foreign(self, method: str, headers: Headers) -> str:
        """Why a request may not be its reader's own, but that of a page elsewhere; else empty."""
        host = headers.get("host", "")
        if self._host is not None and not access.is_own_name(host, self._host):
            return "the service is not called by its own name: use its address, or localhost"
        if method in SAFE:
            return ""
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        if site not in ("none", "same-origin") or (
            origin is not None and origin.split("://", 1)[-1].lower() != host.lower()
        ):
            return "a page of another site may not write here"
        return ""

    def _note(self, scope: Message, method: str, status: int, seconds: float) -> None:
        route = self._route(scope)
        self._telemetry.requests.labels(route, method, str(status)).inc()
        self._telemetry.seconds.labels("request").observe(seconds)
        if route in QUIET and status == 200:
            return
        case = scope["state"].get("case")
        if case and self._pseudonyms:
            case = self._pseudonyms.of(case)
        # Without the path, in which a client can write what it likes.
        facts = {"route": route, "method": method, "status": status, "case": case}
        facts["key"] = scope["state"]["caller"] or None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.trail.log(event="request", at=at, **facts, seconds=round(seconds, 3))

    def _route(self, scope: Message) -> str:
        """The template of the path, also of a request that the application never saw."""
        assert self._app is not None
        for route in self._app.routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path", "other"))
        return "other"


class _Answer:
    """A refusal as an ASGI application."""

    def __init__(
        self, status: int, error: str, file: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self._status, self._headers = status, headers or {}
        self._body = json.dumps({"error": error, "file": file}).encode()

    @staticmethod
    def of(error: Refusal) -> _Answer:
        """The answer to what was refused."""
        headers = {"Retry-After": str(error.retry_seconds)} if error.retry_seconds else {}
        return _Answer(error.status, error.reason, error.file, headers)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(self._body)),
            **self._headers,
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self._status, "headers": raw})
        await send({"type": "http.response.body", "body": self._body})
