"""One service in this process and its client, for all tests of the room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from serve_doubles import Double, files_of

from ray_brats.serve.limits import Limits


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def files(cohort_folder: Path) -> dict[str, bytes]:
    """The files of one phantom, by modality."""
    return files_of(cohort_folder / "BraTS20_Training_001")


@pytest.fixture
def limits() -> Limits:
    """The limits of the service; `serve_doubles.limited` gives a test others."""
    return Limits()


@pytest.fixture
def keys() -> Path | None:
    """The key file of the service, where it has one."""
    return None


@pytest.fixture
def double(tmp_path: Path, limits: Limits, keys: Path | None) -> Double:
    return Double(tmp_path, limits=limits, keys=keys)


@pytest.fixture
async def client(double: Double) -> AsyncIterator[httpx.AsyncClient]:
    async with double.client() as client:
        yield client
