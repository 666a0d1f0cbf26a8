"""The body of a request: caps and time-outs, and what becomes of one that is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from serve_doubles import Double, limited, listening

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
    keys.write_text("# none\n")
    # Larger than what sockets buffer: a server that closes at once would reset the connection.
    content, headers = bytes(24 << 20), {"content-type": "text/plain", "connection": "close"}
    double = Double(tmp_path, limits=limits, keys=keys if keyed else None)  # type: ignore[arg-type]
    with listening(double.app) as url:
        for path, status in ((URL, 415), ("/nothing/here", 404)):
            for _ in range(3):
                answer = httpx.post(url + path, content=content, headers=headers, timeout=30)
                assert answer.status_code == (401 if keyed else status)
                assert answer.json()["error"]
