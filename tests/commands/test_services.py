"""What the options of `serve` mean, before anything starts."""

from __future__ import annotations

import pytest

from ray_brats.commands import services
from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.model import card
from ray_brats.serve.settings import ServeOptions, fitting


def test_bundles_of_one_name_are_one_model_and_keep_their_pins() -> None:
    models, pinned = services.named(["fast=a", "exact=b", "exact=c"], ["1", "2", "3"])
    assert models == {
        "fast": (storage.absolute("a"),),
        "exact": (storage.absolute("b"), storage.absolute("c")),
    }
    assert pinned == {"fast": ("1",), "exact": ("2", "3")}


def test_without_a_bundle_the_starter_is_served() -> None:
    assert services.named([], []) == ({"default": (card.STARTER,)}, {})


def test_pins_are_one_a_bundle_or_none() -> None:
    with pytest.raises(UsageError, match="--bundle-sha256 names 1 and --bundle 2: expected one"):
        services.named(["a", "b"], ["1"])


def there(*nodes: int, gpus: int = 0) -> cluster.Resources:
    return cluster.Resources(
        cpus=sum(nodes), gpus=gpus, node_cpus=max(nodes), node_memory_bytes=1 << 34,
        memory_bytes=len(nodes) << 34, nodes=len(nodes),
        shapes=tuple((cpus, 0) for cpus in nodes),
    )  # fmt: skip


@pytest.mark.parametrize("nodes", [(2,), (3,), (5,), (8,), (4, 4), (7, 2), (16, 1, 1)])
@pytest.mark.parametrize("models", [1, 2, 3, 7, 30])
def test_all_replicas_find_a_place_at_once(nodes: tuple[int, ...], models: int) -> None:
    given = ServeOptions(models={str(number): ("b",) for number in range(models)}, state="s")
    for replicas in (None, 2, 3):
        fitted = fitting(given, there(*nodes), replicas)
        # As Ray places them: whole replicas a node, in ten-thousandths of a CPU.
        each = round(fitted.cpus * 10_000)
        rooms = sum(cpus * 10_000 // each for cpus in nodes)
        assert rooms >= models * (replicas or 1)
    alone = fitting(ServeOptions(models={"a": ("b",)}, state="s"), there(*nodes), None)
    assert alone.cpus == max(nodes)
