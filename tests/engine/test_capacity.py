"""How many CPUs a training worker gets, so that all workers can be placed at once."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.commands.arguments import workers_of
from ray_brats.engine import capacity
from ray_brats.engine.capacity import Workers
from ray_brats.engine.cluster import Resources
from ray_brats.errors import UsageError

Shapes = list[tuple[int, int]]


def cluster(shapes: Shapes) -> Resources:
    return Resources(
        cpus=sum(cpus for cpus, _ in shapes),
        gpus=sum(gpus for _, gpus in shapes),
        node_cpus=max(cpus for cpus, _ in shapes),
        node_memory_bytes=16 << 30,
        memory_bytes=len(shapes) * 16 << 30,
        nodes=len(shapes),
        shapes=tuple(shapes),
    )


@pytest.mark.parametrize(
    ("shapes", "workers", "cpus"),
    [
        ([(2, 0)], 2, 1),
        ([(16, 0), (2, 0)], 2, 8),
        ([(16, 0), (2, 0)], 3, 5),
        ([(0, 0), (4, 0), (4, 0)], 2, 4),
        ([(16, 0), (4, 1)], 1, 4),
        ([(0, 0), (8, 1), (8, 1)], 2, 8),
        ([(64, 4)], 4, 8),
    ],
)
def test_workers_get_what_fits(shapes: Shapes, workers: int, cpus: int) -> None:
    assert capacity.cpus_of_worker(workers, cluster(shapes)) == cpus


def test_gpus_without_cpus_are_refused_with_the_reason_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="a GPU and a CPU each do not fit"):
        capacity.workers_for(None, cluster([(16, 0), (1, 2)]))
    assert capacity.workers_for(1, cluster([(16, 0), (1, 2)])).most == 1


def test_a_cluster_without_cpus_is_named() -> None:
    with pytest.raises(UsageError, match="the cluster has no CPUs"):
        capacity.workers_for(None, cluster([(0, 0)]))


def test_where_nodes_may_come_more_than_there_is_can_be_asked_for() -> None:
    there = dataclasses.replace(cluster([(0, 0), (16, 2)]), joined=True)
    asked = Workers(least=1, most=8)
    assert capacity.workers_for(asked, there) == asked
    # As beside the GPUs that are there; of a cluster without any nothing is known.
    assert capacity.cpus_of_worker(8, there) == 8
    empty = dataclasses.replace(cluster([(0, 0)]), joined=True)
    assert capacity.workers_for(asked, empty.asked_for("gpu")) == asked
    assert capacity.cpus_of_worker(8, empty.asked_for("gpu")) == 1
    with pytest.raises(UsageError, match="expected 1 to 2"):
        capacity.workers_for(asked, cluster([(16, 2)]))


def test_the_device_is_what_is_asked_for() -> None:
    both = cluster([(16, 2)])
    assert both.on_gpus
    assert not both.asked_for("cpu").on_gpus
    assert capacity.workers_for(None, both.asked_for("cpu")).most == 2
    with pytest.raises(UsageError, match="Ray sees no GPU of this machine"):
        cluster([(16, 0)]).asked_for("gpu")
    assert dataclasses.replace(cluster([(16, 0)]), joined=True).asked_for("gpu").on_gpus


@pytest.mark.parametrize("text", ["0", "2-1", "0-3"])
def test_workers_are_a_number_or_two(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number above 0"):
        capacity.workers_for(workers_of(text), cluster([(16, 0)]))
    for wrong in ("-", "two", "1-", "-2", "1-2-3", "1.5"):
        with pytest.raises(UsageError, match="expected a number, or two as 2-8"):
            workers_of(wrong)
    assert workers_of("2-8") == Workers(least=2, most=8)
    assert workers_of("4") == Workers(least=4, most=4)


@given(
    shapes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=5),
    workers=st.integers(1, 12),
)
def test_what_is_given_can_be_placed_and_more_could_not(shapes: Shapes, workers: int) -> None:
    there = cluster(shapes)

    def room(each: int) -> int:
        gpus = any(gpus for _, gpus in shapes)
        return sum(min(a // each, b) if gpus else a // each for a, b in shapes)

    try:
        each = capacity.cpus_of_worker(workers, there)
    except UsageError:
        assert room(1) < workers
        return
    assert room(each) >= workers
    assert room(each + 1) < workers or (there.gpus and each == capacity.CPUS_A_GPU)
