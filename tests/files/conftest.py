"""A bucket on an HTTP server of S3 that counts, delays and refuses as it is told."""

from __future__ import annotations

from collections.abc import Iterator

import faulty_s3
import pytest
from faulty_s3 import FaultyS3


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FaultyS3]:
    """A server on loopback, for all tests of this file."""
    with faulty_s3.running() as found:
        yield found


@pytest.fixture
def faulty_bucket(
    endpoint: FaultyS3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """An empty bucket."""
    for name, value in (faulty_s3.credentials(endpoint.url) | {"AWS_MAX_ATTEMPTS": "2"}).items():
        monkeypatch.setenv(name, value)
    faulty_s3.forget_clients()
    name = f"bucket-{abs(hash(request.node.name))}"
    faulty_s3.ask("PUT", f"/{name}")
    endpoint.faults.clear()
    endpoint.signed.clear()
    endpoint.delay_seconds, endpoint.private = 0, False
    endpoint.forget()
    return f"s3://{name}"
