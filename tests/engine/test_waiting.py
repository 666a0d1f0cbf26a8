"""What jobs tell while they wait for a place, on a cluster whose GPU is a number alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from ray_brats.engine import devices, private, waiting
from ray_brats.engine.waiting import Waiting
from ray_brats.errors import StageFailed

pytestmark = pytest.mark.ray
HOLDER = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote(num_gpus=1, num_cpus=1)
class Holder:
    def here(self):
        return True
holder = Holder.remote()
ray.get(holder.here.remote())
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster that says it has one GPU; this process is one of its jobs."""
    head = {
        "num_cpus": 4,
        "num_gpus": 1,
        "object_store_memory": 100 << 20,
        "include_dashboard": False,
    }
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made.address
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def holder(address: str) -> Iterator[None]:
    """Another job, which holds the GPU."""
    command = [sys.executable, "-c", HOLDER, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.kill()


def soon(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_job_tells_what_it_waits_for_and_who_holds_it(
    holder: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert waiting.sentence() is None
    group = placement_group([{"GPU": 1, "CPU": 2}, {"GPU": 1, "CPU": 2}])
    with Waiting("train", period_seconds=0.2):
        soon(lambda: "waiting" in capsys.readouterr().err)
        soon(lambda: "waiting" in capsys.readouterr().err)
    told = waiting.sentence()
    assert told is not None
    first, last = told.split("; held by job ")
    assert first == "waiting for 2 × {1 GPU, 2 CPU}; free now: 0 of 1 GPU, 3 of 4 CPU"
    assert last.endswith("): {1 GPU, 1 CPU}")
    assert sys.executable.rsplit("/", 1)[-1] in last
    remove_placement_group(group)
    soon(lambda: waiting.sentence() is None)


def test_an_actor_waits_until_it_has_a_node(address: str) -> None:
    @ray.remote(num_gpus=1, num_cpus=0)
    class Actor:
        def ready(self) -> bool:
            return True

    first = Actor.remote()
    ray.get(first.ready.remote())
    second = Actor.remote()
    soon(lambda: private.waited_for(ray.get_runtime_context().get_job_id()) == [{"GPU": 1.0}])
    assert str(waiting.sentence()).startswith("waiting for 1 × {1 GPU}; free now: 0 of 1 GPU")
    ray.kill(first)
    assert ray.get(second.ready.remote())
    assert waiting.sentence() is None
    ray.kill(second)


def test_tasks_wait_where_nothing_is_done_and_none_has_room(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    soon(lambda: ray.available_resources().get("CPU") == 4)
    assert waiting.sentence({"CPU": 4}) is None
    assert str(waiting.sentence({"CPU": 5})).startswith("waiting for 1 × {5 CPU}; free now: ")
    with Waiting("preprocess", {"CPU": 5}, period_seconds=0.2) as told:
        for _ in range(20):
            told.moved()
            time.sleep(0.05)
    assert capsys.readouterr().err.count("waiting") <= 1


def test_a_gpu_that_only_ray_knows_is_a_sentence(address: str) -> None:
    def looked(seen: int) -> str | None:
        try:
            devices.check(seen)
        except StageFailed as error:
            return str(error)
        return None

    look = ray.remote(num_gpus=1)(looked)
    assert ray.get(look.remote(1)) is None
    told = ray.get(look.remote(0))
    assert told.startswith("Ray gave this process GPU 0 of node ")
    assert "TensorFlow sees none there: install NVIDIA's driver" in told
    assert ray.get(ray.remote(num_gpus=0)(looked).remote(0)) is None
    assert devices.granted() == []


def test_what_this_very_command_holds_is_said_to_be_its_own(address: str) -> None:
    @ray.remote(num_gpus=1, num_cpus=0)
    class Actor:
        def ready(self) -> bool:
            return True

    first, second = Actor.remote(), Actor.remote()
    ray.get(first.ready.remote())
    soon(lambda: "held by work of this command itself" in str(waiting.sentence()))
    ray.kill(first)
    ray.kill(second)
