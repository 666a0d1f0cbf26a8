"""The body of a request: caps and time-outs, and what becomes of one that is refused."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_doubles import SERVED, Double, limited, listening, parts

from ray_brats.serve.http import access, body
from ray_brats.serve.http.body import Message

pytestmark = pytest.mark.anyio
URL = "/v1/segmentations"
ZIP = {"content-type": "application/zip"}


@limited(body_bytes=1 << 20)
async def test_bodies_over_the_cap_are_refused_however_they_come(client: httpx.AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10_000):
            read += 1 << 16
            yield bytes(1 << 16)

    assert (await client.post(URL, content=bytes(2 << 20), headers=ZIP)).status_code == 413
    assert (await client.post(URL, content=endless(), headers=ZIP)).status_code == 413
    assert read < 4 << 20


@limited(idle_seconds=0.2)
async def test_a_slow_upload_is_cut(client: httpx.AsyncClient) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"PK"
        await asyncio.sleep(60)

    assert (await client.post(URL, content=slow(), headers=ZIP)).status_code == 408


@limited(body_bytes=32 << 20)
@pytest.mark.parametrize("keyed", [False, True])
def test_a_refused_body_is_taken_in_so_that_its_sender_reads_the_answer(
    tmp_path: Path, limits: object, keyed: bool
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{access.line_of('ward', 'secret')}\n")
    # Larger than what sockets buffer: a server that closes at once would reset the connection.
    content, headers = bytes(24 << 20), {"content-type": "text/plain", "connection": "close"}
    if keyed:
        headers["x-api-key"] = "secret"
    double = Double(tmp_path, limits=limits, keys=keys if keyed else None)  # type: ignore[arg-type]
    with listening(double.app) as url:
        for path, status in ((URL, 415), ("/nothing/here", 404)):
            for _ in range(3):
                answer = httpx.post(url + path, content=content, headers=headers, timeout=30)
                assert answer.status_code == status
                assert answer.json()["error"]


@pytest.fixture
def two_keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text("".join(f"{access.line_of(name, name)}\n" for name in ("ward", "lab")))
    return file


async def answered(app: Any, path: str, key: str = "") -> int:
    """The status of a POST that promises a body and never sends it; returns when all is over."""
    status = 0

    async def silence() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"content-length", b"50000"), (b"x-api-key", key.encode())]
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "headers": headers,
        "query_string": b"", "scheme": "http", "server": ("test", 80), "raw_path": path.encode(),
    }  # fmt: skip
    await app(scope, silence, send)
    return status


@pytest.mark.parametrize(("path", "status"), [(URL, 401), ("/nothing", 401), ("/healthz", 405)])
async def test_strangers_that_send_nothing_hold_nothing(
    tmp_path: Path, two_keys: Path, path: str, status: int
) -> None:
    app = Double(tmp_path, keys=two_keys).app
    began = time.monotonic()
    calls = [asyncio.create_task(answered(app, path)) for _ in range(600)]
    over, _ = await asyncio.wait(calls, timeout=1)
    assert len(over) >= 590, "all but a few are done with at once"
    assert set(await asyncio.gather(*calls)) == {status}
    assert time.monotonic() - began < 4


async def test_a_body_at_less_than_the_least_rate_is_cut(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "GRACE_SECONDS", 0.3)

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"PK"
            await asyncio.sleep(0.05)

    began = time.monotonic()
    answer = await client.post(URL, content=trickle(), headers=ZIP)
    assert (answer.status_code, "KiB/s" in answer.json()["error"]) == (408, True)
    assert time.monotonic() - began < 5


async def test_slow_bodies_keep_no_model_idle_and_no_other_key_out(
    tmp_path: Path, two_keys: Path, files: dict[str, bytes]
) -> None:
    double = Double(tmp_path, keys=two_keys)
    places = SERVED.capacity + double.limits.waiting
    end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"PK"
        await end.wait()

    async with double.client() as client:
        held = [
            asyncio.create_task(
                client.post(URL, content=slow(), headers={**ZIP, "x-api-key": "ward"})
            )
            for _ in range(2 * places)
        ]
        await asyncio.sleep(0.3)
        other = await client.post(URL, files=parts(files), headers={"x-api-key": "lab"})
        assert other.status_code == 200
        end.set()
        seen = Counter(answer.status_code for answer in await asyncio.gather(*held))
        share = double.limits.uploads_a_key
        assert seen == {400: share, 429: 2 * places - share}, "no zips, and those beyond its share"
