"""The settings of a service, from a configuration file and on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.serve import settings
from ray_brats.serve.limits import Limits
from ray_brats.serve.settings import ServeSettings, fitting, from_args

CONFIGURATION = Path(__file__).resolve().parents[2] / "cluster" / "serve.yaml"


def test_a_configuration_file_says_who_may_call() -> None:
    args = {"models": {"a": "/a"}, "state": "/s"}
    for odd in ({}, {"api_keys": "/k", "no_auth": True}):
        with pytest.raises(UsageError, match="api_keys"):
            from_args({**args, **odd})
    assert from_args({**args, "api_keys": "/k"}).models == {"a": ("/a",)}
    assert from_args({**args, "no_auth": True}).api_keys is None


def test_arguments_of_a_configuration_file_are_settings_to_the_letter() -> None:
    limits = {"waiting": 2, "uri_prefixes": ["s3://ours"], "output_prefixes": ["s3://out"]}
    args = {"models": {"a": ["/a", "/b"]}, "state": "/s", "no_auth": True, "limits": limits}
    assert from_args(args) == ServeSettings(
        models={"a": ("/a", "/b")},
        state="/s",
        no_auth=True,
        limits=Limits(waiting=2, uri_prefixes=("s3://ours",), output_prefixes=("s3://out",)),
    )


@pytest.mark.parametrize(
    ("odd", "name"),
    [({"state": "/s", "replica": 2}, "replica"), ({"state": "/s", "limits": {"wait": 2}}, "wait"),
     ({}, "state")],
)  # fmt: skip
def test_an_argument_that_is_unknown_or_missing_is_named(odd: dict[str, object], name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown or missing .*'{name}'"):
        from_args({"models": {"a": "/a"}, "no_auth": True, **odd})


def test_the_configuration_file_of_the_repository_is_understood() -> None:
    (application,) = yaml.safe_load(CONFIGURATION.read_text())["applications"]
    settings = from_args(application["args"])
    assert (settings.replicas, settings.cpus, settings.gpus) == (2, 4, 1)
    assert list(settings.models) == ["default"]


def test_a_port_that_is_picked_is_none_of_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray's dashboard answers any path there with 200, in every cluster.
    picked = iter([44227, 44227, 40001])
    monkeypatch.setattr(settings, "_listened", lambda _host, _port: next(picked))
    assert settings.free_port("127.0.0.1", 0) == 40001


def test_a_port_that_somebody_names_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_listened", lambda _host, port: port)
    assert settings.free_port("127.0.0.1", 44227) == 44227


def nodes_of(*nodes: int, gpus: int = 0) -> cluster.Resources:
    return cluster.Resources(
        cpus=sum(nodes), gpus=gpus, node_cpus=max(nodes), node_memory_bytes=1 << 34,
        memory_bytes=len(nodes) << 34, nodes=len(nodes),
        shapes=tuple((cpus, 0) for cpus in nodes),
    )  # fmt: skip


@pytest.mark.parametrize("nodes", [(2,), (3,), (5,), (8,), (4, 4), (7, 2), (16, 1, 1)])
@pytest.mark.parametrize("models", [1, 2, 3, 7, 30])
def test_all_replicas_find_a_place_at_once(nodes: tuple[int, ...], models: int) -> None:
    given = ServeSettings(models={str(number): ("b",) for number in range(models)}, state="s")
    for replicas in (None, 2, 3):
        fitted = fitting(given, nodes_of(*nodes), replicas)
        # As Ray places them: whole replicas a node, in ten-thousandths of a CPU.
        each = round(fitted.cpus * 10_000)
        rooms = sum(cpus * 10_000 // each for cpus in nodes)
        assert rooms >= models * (replicas or 1)
    alone = fitting(ServeSettings(models={"a": ("b",)}, state="s"), nodes_of(*nodes), None)
    assert alone.cpus == max(nodes)


def test_a_state_of_this_machine_is_private(tmp_path: Path) -> None:
    made = Path(settings.state_of(str(tmp_path / "made")))
    assert made.stat().st_mode & 0o777 == 0o700
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    settings.state_of(str(theirs))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (theirs, *theirs.iterdir())}
    assert modes == {"theirs": 0o755, "log.key": 0o600, "jobs": 0o700}
