"""A cluster of Ray's own test provider that begins with a head alone and grows with what is asked.

`pytest -m slow tests/test_autoscaled.py`, as root on Linux: eight minutes on two cores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import ROOT, unavailable
from stages.test_preprocess import finished

from ray_brats.cases import phantom

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]
HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""The head's id in Ray's provider of nodes that are processes of one machine."""
TINY = (
    "network.widths=4,8",
    "train.patch_vox=16,16,16",
    "inference.window_vox=64,64,64",
    "inference.overlap=0",
)


def configuration(nodes: dict[str, dict[str, int]]) -> str:
    """Ray's, of a head without CPUs and up to two nodes of each kind."""
    memory = {"object_store_memory": 100 << 20}
    kinds = {
        name: {
            "resources": {**has, **memory},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        }
        for name, has in nodes.items()
    }
    tables = ("auth", "docker", "file_mounts")
    lists = (
        *("initialization_commands", "setup_commands", "head_setup_commands"),
        *("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
        *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
    )
    empty: dict[str, object] = {name: {} for name in tables} | {name: [] for name in lists}
    return json.dumps(
        {
            **empty,
            "cluster_name": "grows",
            "max_workers": 4,
            "idle_timeout_minutes": 5,
            "upscaling_speed": 100,
            "file_mounts_sync_continuously": False,
            "provider": {
                # By its class: the package lacks the file that its name stands for.
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider."
                "FakeMultiNodeProvider",
                "launch_multiple": True,
                "head_node_id": HEAD,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {
                **kinds,
                "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            },
        }
    )


class Cluster:
    """A namespace of processes and one of networks, which end with their first process."""

    def __init__(self, folder: Path, nodes: dict[str, dict[str, int]]) -> None:
        self.log = folder / "cluster.log"
        (folder / "nodes.json").write_text(configuration(nodes))
        (folder / "tmp").mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        }
        start = (
            "ip link set lo up && mount -t tmpfs tmpfs /tmp && "
            f"exec {Path(sys.executable).parent / 'ray'} start --head --port=6379 --num-cpus=0 "
            f"--object-store-memory={100 << 20} --include-dashboard=false --block "
            f"--autoscaling-config={folder / 'nodes.json'}"
        )
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                ["unshare", "-npfm", "--mount-proc", "--kill-child", "sh", "-c", start],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment,
            )
        self.wait_until(lambda: "Ray runtime started" in self.log.read_text(errors="replace"))

    def wait_until(self, true: Callable[[], object], seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < until, self.log.read_text(errors="replace")
            time.sleep(0.1)

    def command(self, *arguments: object) -> subprocess.Popen[str]:
        """`ray-brats …` on the head."""
        return self.python("-m", "ray_brats.cli", *arguments)

    def python(self, *arguments: object) -> subprocess.Popen[str]:
        """Python on the head."""
        (child,) = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        )
        known = {
            name: value
            for name, value in self.environment.items()
            if not name.startswith(("RAY_CLOUD", "RAY_OVERRIDE", "RAY_FAKE"))
        }
        return subprocess.Popen(
            [
                *("nsenter", f"--target={child}", "--net", "--mount", "--pid"),
                *(sys.executable, *map(str, arguments)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**known, "RAY_ADDRESS": "127.0.0.1:6379"},
        )


@pytest.fixture
def grows(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if why := unavailable():
        pytest.skip(why)
    folder = Path(ROOT.anchor) / "var" / "tmp" / f"rb{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = Cluster(folder, request.param)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(30)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cohort() -> Iterator[Path]:
    """Not below /tmp, which is another one in the cluster."""
    folder = Path(ROOT.anchor) / "var" / "tmp" / f"rbc{os.getpid()}"
    phantom.write_cohort(folder / "cohort", cases=6, shape_vox=(40, 40, 32))
    prepare = ("preprocess", folder / "cohort", folder / "dataset", "--recipe", "smoke")
    command = [sys.executable, "-m", "ray_brats.cli", *map(str, prepare)]
    subprocess.run(command, check=True, cwd=ROOT)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("grows", [{"cpu": {"CPU": 2}}], indirect=True)
def test_a_whole_run_begins_without_a_node(grows: Cluster, cohort: Path) -> None:
    running = grows.command(
        *("run", cohort / "cohort", cohort / "out", "--recipe", "smoke", "--steps", 30),
        *("--workers", 2, "--json", "--set", *TINY),
    )
    assert finished(running)["counts"] == {"ok": 6}


@pytest.mark.parametrize("grows", [{"cpu": {"CPU": 2}, "gpu": {"CPU": 4, "GPU": 1}}], indirect=True)
def test_gpus_that_are_asked_for_come_and_one_that_is_none_is_a_sentence(
    grows: Cluster, cohort: Path
) -> None:
    asked = ("--device", "gpu", "--workers", "1", "--recipe", "smoke", "--set", *TINY)
    dataset, run = cohort / "dataset", cohort / "gpu-run"
    training = grows.command("train", dataset, run, "--steps", 30, *asked)
    _, said = training.communicate(timeout=300)
    assert training.returncode == 1, said
    assert "begins when there is a GPU for each of 1; now for 0" in said
    assert "Ray gave this process GPU 0 of node" in said
    assert "TensorFlow sees none there" in said
    assert "Traceback" not in said
    scoring = grows.command("score", cohort / "cohort", cohort / "gpu-masks", "--device", "gpu")
    _, said = scoring.communicate(timeout=300)
    assert scoring.returncode == 1, said
    assert "TensorFlow sees none there" in said


NOTES_ITS_NODE = """
import sys, time
from pathlib import Path

import numpy as np
import ray
from ray import cloudpickle

from ray_brats.cases import cohort
from ray_brats.engine import cluster
from ray_brats.model.predictions import Predictions
from ray_brats.recipes import named, tasks
from ray_brats.stages import score

folder = Path(sys.argv[1])
notes = folder / "nodes"
notes.mkdir()

class Slow:
    def class_index(self, image, geometry=None):
        with (notes / ray.get_runtime_context().get_node_id()).open("a") as file:
            file.write("x")
        time.sleep(0.5)
        return np.zeros(image.shape[:3], np.uint8)

cloudpickle.register_pickle_by_value(sys.modules["__main__"])
task = tasks.TASKS["gli-2020"]
with cluster.running() as there:
    done = score.score(
        cohort.find(str(folder / "many"), task=task),
        Predictions(
            uri=str(folder / "masks"),
            identity={},
            preprocessing=named.get("smoke").preprocess,
            task=task,
        ),
        make_segmenter=lambda threads: Slow(),
        cluster=there,
    )
assert done.counts == {"ok": 120}, done
"""


@pytest.mark.parametrize("grows", [{"cpu": {"CPU": 2}}], indirect=True)
def test_nodes_that_join_take_cases(grows: Cluster, cohort: Path) -> None:
    """The first node comes for the command; work for more than it can do brings the second."""
    phantom.write_cohort(cohort / "many", cases=120, shape_vox=(40, 40, 32))
    scoring = grows.python("-c", NOTES_ITS_NODE, cohort)
    _, said = scoring.communicate(timeout=400)
    assert scoring.returncode == 0, said
    calls = {path.name: path.stat().st_size for path in (cohort / "nodes").iterdir()}
    assert sum(calls.values()) == 120
    assert len(calls) == 2, calls
    assert min(calls.values()) > 10
