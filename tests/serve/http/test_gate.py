"""What every request passes: no case's name in the log, and no error's words in an answer."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from serve_doubles import Double, parts

pytestmark = pytest.mark.anyio
URL = "/v1/segmentations"


async def test_logs_name_no_case(
    client: httpx.AsyncClient, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await client.post(URL, files=parts(files), data={"case_id": "Jane-Doe"})
    assert answer.status_code == 200
    logged = capsys.readouterr().err
    assert '"case"' in logged
    assert "Jane" not in logged


async def test_an_error_that_nobody_expects_is_told_without_its_words(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    double.broken = True
    answer = await client.post(URL, files=parts(files))
    assert (answer.status_code, "nobody" in answer.text) == (500, False)


async def test_headers_of_any_length_are_not_looked_at(client: httpx.AsyncClient) -> None:
    kind = "multipart/form-data; " + "a" * (1 << 20)
    answer = await client.post(URL, content=b"x", headers={"content-type": kind})
    assert (answer.status_code, "headers exceed" in answer.json()["error"]) == (431, True)


async def test_whether_all_is_up_is_looked_for_once_whoever_asks(
    double: Double, client: httpx.AsyncClient
) -> None:
    looked = 0

    async def not_up() -> list[str]:
        nonlocal looked
        looked += 1
        await asyncio.sleep(0.05)
        return []

    double.service._missing = not_up
    answers = await asyncio.gather(*[client.get("/readyz") for _ in range(50)])
    assert {answer.status_code for answer in answers} == {200}
    assert looked == 1
