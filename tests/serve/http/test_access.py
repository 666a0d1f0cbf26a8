"""Who may call: keys of a file, and addresses that need none."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from ray_brats.serve.http import access


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.mark.anyio
async def test_only_a_key_of_the_file_opens(client: httpx.AsyncClient, keys: Path) -> None:
    key, other = access.make_key(), access.make_key()
    keys.write_text(access.line_of("clinic", key) + "\n")

    async def status(url: str, **headers: str) -> int:
        return (await client.get(url, headers=headers)).status_code

    bearer = {"authorization": f"Bearer {key}"}
    other_bearer = {"authorization": f"Bearer {other}"}
    assert await status("/v1/models") == 401
    assert await status("/v1/models", **other_bearer) == 401
    assert await status("/metrics") == 401
    assert await status("/healthz") == 200
    assert await status("/openapi.json") == 200
    assert await status("/v1/models", **bearer) == 200
    assert await status("/v1/models", **{"x-api-key": key}) == 200
    keys.write_text(access.line_of("another", other) + "\n# rotated\n")
    assert await status("/v1/models", **bearer) == 401
    keys.unlink()
    assert await status("/v1/models", **other_bearer) == 401


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("10.0.0.1", False), ("::", False), ("example.org", False)],
)  # fmt: skip
def test_loopback_is_told_apart(host: str, local: bool) -> None:
    assert access.is_loopback(host) is local


def test_a_key_file_keeps_its_mode_and_a_new_one_is_private(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    access.add_line(file, access.line_of("ward", "a"))
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    file.write_text(file.read_text().rstrip())
    access.add_line(file, access.line_of("lab", "b"))
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(access.read_keys(file)) == ["ward", "lab"]
