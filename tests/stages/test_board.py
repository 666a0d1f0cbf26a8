"""The board of a run, as the driver follows it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
import ray

from ray_brats.stages.board import Follower


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.ActorDiedError(),
        ray.exceptions.ActorUnavailableError("no answer", None),
        ray.exceptions.OutOfMemoryError("killed by the memory monitor"),
        ray.exceptions.WorkerCrashedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_board_that_is_gone_ends_in_silence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", fail)
    with Follower(SimpleNamespace(take=SimpleNamespace(remote=lambda: None))):
        pass
    assert raised == []
