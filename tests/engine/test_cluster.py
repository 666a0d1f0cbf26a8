"""The engine: what it asks of a machine and a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from ray_brats.engine import cluster, private
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


def listeners(process: psutil.Process) -> set[str]:
    """Addresses that a process and those below it listen on."""
    found = set[str]()
    for one in (process, *process.children(recursive=True)):
        try:
            sockets = one.net_connections("inet")
        except psutil.Error:
            continue
        found |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.ray
def test_a_local_ray_listens_where_only_this_machine_reaches_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(private.LOOPBACK, raising=False)

    def work() -> int:
        return os.getpid()

    with cluster.running():
        cluster.ray.get(cluster.ray.remote(num_cpus=0)(work).remote())
        found = listeners(psutil.Process())
    assert found
    assert found <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert private.LOOPBACK not in os.environ


def test_a_ray_that_others_are_to_reach_is_left_to_whoever_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(private.LOOPBACK, "1")
    with private.on_loopback():
        assert os.environ[private.LOOPBACK] == "1"
        assert private.ray_constants.ENABLE_RAY_CLUSTER
    assert os.environ[private.LOOPBACK] == "1"


def test_the_token_of_a_local_ray_is_its_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    private.keep_token()
    made = token.read_text()
    assert len(made) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    # As Ray itself leaves it.
    token.chmod(0o644)
    private.keep_token()
    assert (token.read_text(), token.stat().st_mode & 0o777) == (made, 0o600)
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    token.unlink()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    private.keep_token()
    assert not token.exists()


def test_a_node_that_is_told_to_leave_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draining: set[str] = set()
    monkeypatch.setattr(private, "draining_nodes", lambda: frozenset(draining))
    leaving = cluster.Leaving(period_seconds=0)
    assert not leaving()
    draining.add("a")
    assert leaving()
    assert not leaving()
    draining.add("b")
    assert leaving()
    draining.clear()
    assert not leaving()
    seldom = cluster.Leaving(period_seconds=60)
    assert not seldom()
    draining.add("c")
    assert not seldom(), "asked a moment ago"
