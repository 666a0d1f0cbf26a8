"""Places for cases: what was accepted is answered, and the rest is told so at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from serve_doubles import Double, expected, limited, parts

from ray_brats.serve import service

pytestmark = pytest.mark.anyio
URL = "/v1/segmentations"


async def test_a_service_that_ends_answers_what_it_accepted_and_takes_no_more(
    double: Double,
    client: httpx.AsyncClient,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    double.hold.clear()
    accepted = [asyncio.create_task(client.post(URL, files=parts(files))) for _ in range(3)]
    while double.waiting < 3:
        await asyncio.sleep(0.01)
    assert double.service.end() == 3
    for path in (URL, "/v1/jobs"):
        refused = await client.post(path, files=parts(files))
        assert (refused.status_code, "ending" in refused.text) == (503, True)
        assert int(refused.headers["retry-after"]) > 0
    unready = await client.get("/readyz")
    assert (unready.status_code, unready.json()["file"]) == (503, "")
    assert "ending" in unready.json()["error"]
    double.hold.set()
    assert {(await answer).content for answer in accepted} == {expected(files)}
    assert double.service.end() == 0
    monkeypatch.setattr(service, "ENDING_SECONDS", 0.0)
    double.service.end()
    assert (await client.get("/readyz")).status_code == 200


async def test_a_body_on_its_way_when_the_end_comes_is_answered(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    request = client.build_request("POST", URL, files=parts(files))
    body, rest = request.read(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        await rest.wait()
        yield body[len(body) // 2 :]

    headers = {"content-type": request.headers["content-type"]}
    sent = asyncio.create_task(client.post(URL, content=pieces(), headers=headers))
    while double.service._uploads.total() == 0:
        await asyncio.sleep(0.01)
    assert double.service.end() == 1
    rest.set()
    answer = await sent
    assert (answer.status_code, answer.content) == (200, expected(files))
    assert double.service.end() == 0


@limited(waiting=1)
async def test_a_full_service_says_so_before_it_reads(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    double.hold.clear()
    accepted = [asyncio.create_task(client.post(URL, files=parts(files))) for _ in range(3)]
    while double.waiting < 3:
        await asyncio.sleep(0.01)
    sent, messages = asyncio.Event(), list[Any]()

    async def receive() -> dict[str, Any]:
        await sent.wait()
        return {"type": "http.request", "body": bytes(9), "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)
        if message["type"] == "http.response.body" and message["body"]:
            assert not sent.is_set(), "the answer waited for the body"
            sent.set()

    headers = [(b"content-type", b"application/zip"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": URL, "query_string": b""}
    await asyncio.wait_for(double.app({**scope, "headers": headers}, receive, send), 10)
    start, *_, end = messages
    assert start["status"] == 429
    assert int(dict(start["headers"])[b"retry-after"]) >= 1
    assert end == {"type": "http.response.body", "body": b""}
    double.hold.set()
    assert [answer.status_code for answer in await asyncio.gather(*accepted)] == [200, 200, 200]
