"""What every request passes: no case's name in the log, and no error's words in an answer."""

from __future__ import annotations

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
