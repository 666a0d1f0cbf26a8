"""The engine: what it asks of a machine and a cluster."""

from __future__ import annotations

import pytest

from ray_brats.engine import cluster
from ray_brats.errors import StageFailed, UsageError


def test_a_local_object_store_grows_with_the_actors_it_feeds_and_is_bounded() -> None:
    sizes_mib = {cpus: cluster.object_store_bytes(cpus) >> 20 for cpus in (1, 2, 8, 64)}
    assert sizes_mib == {1: 256, 2: 256, 8: 1024, 64: 2048}


def test_a_cluster_is_waited_for_until_a_node_with_cpus_joins() -> None:
    def of(cpus: int) -> cluster.Resources:
        return cluster.Resources(
            cpus=cpus,
            gpus=0,
            node_cpus=cpus,
            node_memory_bytes=0,
            memory_bytes=0,
            nodes=1,
            shapes=((cpus, 0),),
        )

    seen = iter([of(0), of(0), of(4)])
    assert cluster._with_nodes(lambda: next(seen), 60, 0.01).cpus == 4
    with pytest.raises(UsageError, match="no node with any joined within"):
        cluster._with_nodes(lambda: of(0), 0.05, 0.01)
    assert cluster._with_nodes(lambda: of(0), 0).cpus == 0


STARTS = ("start_gcs_server", "start_raylet", "start_log_monitor", "start_head_processes")


@pytest.mark.ray
@pytest.mark.parametrize("step", STARTS)
def test_a_step_of_rays_start_that_fails_is_a_sentence_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("The current node timed out during startup.\nAnd so on")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(f"ray._private.node.Node.{step}", fails)
    with (
        pytest.raises(StageFailed, match=r"did not start \(RuntimeError: The current node"),
        cluster.running(),
    ):
        pytest.fail("Ray is there")
    monkeypatch.undo()
    assert not cluster.ray.is_initialized()


@pytest.mark.parametrize("address", ["nonsense", "my-cluster", "http://head:8265"])
def test_what_is_no_address_is_told_before_ray_tries_it(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match="expected the HOST:PORT"), cluster.running():
        pytest.fail("Ray is there")


class Socket:
    def close(self) -> None:
        """As that of a connection."""


@pytest.mark.parametrize(
    "error", [TimeoutError("slow"), ConnectionError(), OSError(28, "No space"), ValueError("x")]
)
@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
@pytest.mark.parametrize("step", ["init", "nodes"])
def test_whatever_ray_raises_before_the_first_case_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, address: str | None, step: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr("socket.create_connection", lambda *_, **__: Socket())
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(cluster.ray, step, fails)
    with pytest.raises((StageFailed, UsageError), match=r"Ray") as told, cluster.running():
        pytest.fail("Ray is there")
    assert any(word in str(told.value) for word in ("run the same command again", "unset RAY"))
