"""What clients say to Ray Serve itself is not heard."""

from __future__ import annotations

import ast
import asyncio
import inspect
from typing import Any

import httpx
import pytest
from ray import serve
from ray.serve._private import constants, http_util
from ray.serve.config import HTTPOptions
from serve_doubles import Double

from ray_brats.engine import cluster
from ray_brats.serve.http import hints
from ray_brats.serve.settings import free_port

NAMES = (
    constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
    constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
    constants.SERVE_MULTIPLEXED_MODEL_ID,
    constants.SERVE_SESSION_ID,
    constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX + "anything",
)
OURS = [(b"host", b"localhost"), (b"x-api-key", b"k"), (b"content-type", b"application/zip")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spelled", [str, str.upper, lambda name: name.replace("-", "_")])
def test_what_would_steer_serve_is_dropped(name: str, spelled: Any) -> None:
    steering = [(spelled(name).encode(), b"x"), (spelled(name).replace("_", "-").encode(), b"x")]
    assert hints.dropped([*steering[:1], *OURS, *steering[1:]]) == OURS


def test_every_header_that_this_version_of_serve_obeys_is_known() -> None:
    """A newer Ray may know more of them."""
    tree = ast.parse(inspect.getsource(constants))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    headers = {text for text in texts if isinstance(text, str) and text.startswith("x-")}
    assert headers >= {"x-request-id", "x-session-id"}
    obeyed = {text for text in headers if hints.dropped([(text.encode(), b"not plain")])}
    assert obeyed == set()


@pytest.mark.parametrize(
    ("given", "kept"), [(b"a-1.B_2", True), (b"a b", False), (b"\xff", False), (b"a" * 65, False)]
)
def test_a_requests_id_is_heard_where_it_is_plain(given: bytes, kept: bool) -> None:
    assert bool(hints.dropped([(b"X-Request-ID", given)])) is kept


def test_serves_proxies_drop_them_before_they_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the proxy process wraps its application, by the path that the engine hands it."""
    path = cluster.WORKER_ENV["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    monkeypatch.setattr(http_util, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", path)
    options = http_util.configure_http_middlewares(HTTPOptions())
    seen = list[dict[str, Any]]()

    async def proxy(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)

    app = http_util._apply_middlewares(proxy, options.middlewares)
    steering = [(name.encode(), b"x") for name in NAMES]
    scope = {
        "type": "http",
        "method": "GET",
        "headers": [*steering, *OURS, (b"x-request-id", b"\x1b[2J")],
    }
    asyncio.run(app(scope, None, None))
    asyncio.run(hints.Unsteered(proxy)({"type": "lifespan"}, None, None))
    (*headers, (name, value)) = seen[0]["headers"]
    # Serve gives the request an id of its own.
    assert (headers, name, b"\x1b" in value) == (OURS, b"x-request-id", False)


@pytest.mark.anyio
async def test_the_gate_lets_none_through_either(double: Double) -> None:
    seen = list[list[tuple[bytes, bytes]]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    double.gate._app = type("App", (), {"routes": [], "__call__": staticmethod(app)})()  # type: ignore[assignment]
    async with double.client() as client:
        await client.get("/healthz", headers=dict.fromkeys(NAMES, "x"))
    sent = {name.decode() for name, _ in seen[0]}
    assert "host" in sent
    assert not sent & set(NAMES)


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_proxy_obeys_none_of_them() -> None:

    class Echo:
        async def __call__(self, request: Any) -> dict[str, Any]:
            return {"model": serve.get_multiplexed_model_id(), "names": list(request.headers)}

    port = free_port("127.0.0.1", 0)
    with cluster.running():
        try:
            serve.start(http_options=HTTPOptions(port=port, request_timeout_s=60))
            serve.run(serve.deployment(Echo).bind(), route_prefix="/")
            # A time-out of a thousandth of a second would be 408.
            steering = dict.fromkeys(NAMES, "0.001")
            answer = httpx.get(f"http://127.0.0.1:{port}/", headers=steering, timeout=60)
        finally:
            serve.shutdown()
    assert answer.status_code == 200
    assert answer.json()["model"] == ""
    assert not set(answer.json()["names"]) & set(NAMES)
