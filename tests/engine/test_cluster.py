"""The engine: what it asks of a machine and a cluster."""

from __future__ import annotations

import pytest

from ray_brats.engine import cluster
from ray_brats.errors import UsageError


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
