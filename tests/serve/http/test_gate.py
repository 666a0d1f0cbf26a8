"""What every request passes: no case's name in the log, and no error's words in an answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from serve_doubles import Double, parts

from ray_brats.serve.http import access

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
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"error": "something went wrong here", "file": ""}


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


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost:8000", 200), ("[::1]:8000", 200), ("box:8000", 200),
        ("evil.example:8000", 403), ("localhost.evil.example", 403), ("", 403),
    ],
)  # fmt: skip
async def test_without_keys_the_service_is_called_by_its_own_name(
    tmp_path: Path, name: str, status: int
) -> None:
    async with Double(tmp_path, host="box").client() as client:
        for path in ("/", "/v1/models", "/v1/jobs/x/mask"):
            answer = await client.get(path, headers={"host": name})
            assert (answer.status_code == 403) == (status == 403), path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://test", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://test:81"}, 403),
    ],
)
async def test_a_page_of_another_site_writes_nothing(
    double: Double,
    client: httpx.AsyncClient,
    files: dict[str, bytes],
    headers: dict[str, str],
    status: int,
) -> None:
    answer = await client.post(URL, files=parts(files), headers=headers)
    assert answer.status_code == status
    assert len(double.asked) == (status == 200)
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert (await client.delete("/v1/jobs/x", headers=headers)).status_code == (
        404 if status == 200 else 403
    )


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/models", "/openapi.json"])
async def test_head_is_get_without_its_body(client: httpx.AsyncClient, path: str) -> None:
    whole, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


async def test_no_answer_leads_elsewhere(client: httpx.AsyncClient) -> None:
    for path in ("/v1/segmentations/", "/v1/jobs/", "/healthz/"):
        answer = await client.post(path, headers={"host": "evil.example"}, content=b"x")
        assert (answer.status_code, "location" in answer.headers) == (404, False)


async def test_every_call_leaves_a_line_with_its_key_and_without_names(
    tmp_path: Path, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{access.line_of('ward', 'secret')}\n")
    double = Double(tmp_path / "state", keys=keys)
    async with double.client() as client:
        await client.get("/v1/jobs/Jane-Doe", headers={"x-api-key": "wrong"})
        await client.post("/v1/Jane-Doe", headers={"x-api-key": "secret"})
        double.service._pending["default"] = 99
        await client.post(URL, files=parts(files), headers={"x-api-key": "secret"})
        await client.get("/healthz")
    count, lines = double.gate.trail.after(0)
    seen = [json.loads(line) for line in lines]
    assert [(line["route"], line["status"], line["key"]) for line in seen] == [
        ("/v1/jobs/{job_id}", 401, None),
        ("other", 404, "ward"),
        ("/v1/segmentations", 429, "ward"),
    ]
    assert "Jane" not in "".join(lines)
    assert capsys.readouterr().err.splitlines() == lines
    assert double.gate.trail.after(count) == (3, [])
    assert double.gate.trail.after(2) == (3, lines[2:])
