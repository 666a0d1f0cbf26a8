"""Headers by which a client would steer Ray Serve itself: dropped before anything obeys them.

Serve's proxies look at them before any application does: the first ends the time-outs of a call,
the second has it go on after its client went away, the id of a model is kept for ever (so a client
without a key fills the proxy's memory), those of a session choose the process. The proxies call
`middlewares`, where `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it: `engine.cluster` sets
that where it starts Ray or joins a cluster; for `serve deploy` the nodes' environment must.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

from ray_brats.serve.http.pacing import Paced

Header = tuple[bytes, bytes]
STEERING = (
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"serve-multiplexed-model-id",
    b"x-session-id",
)
STEERING_PREFIX = b"x-serve-"
REQUEST_ID = b"x-request-id"
_PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def dropped(headers: Iterable[Header]) -> list[Header]:
    """The headers without those that steer Serve, and without a request's id that is not plain.

    Serve takes `_` for `-` in some of these names, and any case.
    """
    return [(name, value) for name, value in headers if not _steers(name, value)]


def _steers(name: bytes, value: bytes) -> bool:
    plain = name.lower().replace(b"_", b"-")
    if plain == REQUEST_ID:
        # It goes into every line of Serve's logs.
        return _PLAIN_ID.fullmatch(value) is None
    return plain in STEERING or plain.startswith(STEERING_PREFIX)


class Unsteered:
    """An ASGI application around a proxy of Serve."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one call."""
        if "headers" in scope:
            scope = {**scope, "headers": dropped(scope["headers"])}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Serve's proxies are to put around themselves."""
    return [Middleware(Unsteered), Middleware(Paced)]
