"""Three nodes with addresses and disks of their own: the whole pipeline, and nodes that die."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import nodes
import psutil
import pytest
from conftest import s3_server
from nodes import ROOT, Cluster, Node
from stages.test_preprocess import finished

from ray_brats.cases import phantom
from ray_brats.files import ledger, storage
from ray_brats.training import log

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]
CASES = 8
STEPS = 300
"""A second for a kill to be noticed, where a step takes a fiftieth of one."""
SETTINGS = (
    "network.widths=4,8",
    "train.patch_vox=16,16,16",
    "inference.window_vox=64,64,64",
    "inference.overlap=0",
    "train.checkpoint_minutes=0.02",
)
WORKER = "ray::RayTrainWorker"


@contextlib.contextmanager
def lab(folder: Path, **more: str) -> Iterator[Cluster]:
    """Three nodes, and a bucket with a cohort that all of them reach."""
    if why := nodes.unavailable():
        pytest.skip(why)
    with nodes.bridge() as made, s3_server(made.gateway, "lab") as environment:
        phantom.write_cohort(folder / "cohort", cases=CASES, shape_vox=(40, 40, 32))
        for path in (folder / "cohort").rglob("*.nii.gz"):
            storage.write_bytes(
                f"s3://lab/cohort/{path.parent.name}/{path.name}", path.read_bytes()
            )
        # A stopped process is ended by its companion, which clusters have where they are told.
        nodes.start(made, 3, folder, {**environment, "RAY_BRATS_COMPANIONS": "1", **more})
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Whole again after each test."""
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def calm(cluster: Cluster) -> str:
    """What a run left that nobody disturbed; its training went over two nodes."""
    out = "s3://lab/calm"
    running = whole_run(cluster, out)
    wait_until(lambda: losses(out).get(5), running)
    at_work = [node.name for node in cluster.nodes if node.processes(WORKER)]
    assert len(at_work) == 2, "training workers share a node"
    assert finished(running)["counts"] == {"ok": CASES}
    return out


def whole_run(cluster: Cluster, out: str) -> subprocess.Popen[str]:
    return cluster.command(
        *("run", "s3://lab/cohort", out, "--recipe", "smoke", "--steps", STEPS),
        *("--workers", 2, "--json", "--set", *SETTINGS),
    )


def wait_until(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.1)


def names(prefix: str, end: str) -> list[str]:
    return [file.uri for file in storage.list_files(prefix) if file.uri.endswith(end)]


def losses(out: str) -> dict[int, float]:
    lines = [line for line in log.read(f"{out}/run") if "event" not in line]
    assert len({line["step"] for line in lines}) == len(lines), "each step stands once"
    return {line["step"]: line["loss"] for line in lines}


def check_equal(wild: str, calm: str) -> None:
    """What two runs left is the same: arrays and tables to the byte, training to rounding."""
    for path in names(f"{calm}/dataset", ".npy"):
        assert storage.read_bytes(path.replace(calm, wild)) == storage.read_bytes(path), path
    # Image and mask, and what is kept of the mask: where it is labelled, and how far that is.
    assert len(names(f"{wild}/dataset", ".npy")) == 4 * CASES
    table = "dataset/cases.parquet"
    assert ledger.read_table(f"{wild}/{table}") == ledger.read_table(f"{calm}/{table}")
    expected, found = losses(calm), losses(wild)
    assert set(found) == set(expected) == set(range(1, STEPS + 1))
    assert found == pytest.approx(expected, abs=1e-4)
    summaries = [storage.read_json(f"{out}/report/summary.json") for out in (wild, calm)]
    dice = [
        {name: region["dice"]["mean"] for name, region in summary["regions"].items()}
        for summary in summaries
    ]
    assert dice[0] == pytest.approx(dice[1], abs=1e-3)
    left = [file.uri for file in storage.list_files(wild) if ".tmp" in file.uri]
    assert not left, "half-written"


BEGUN: dict[str, Callable[[str], object]] = {
    "preprocess": lambda out: names(f"{out}/dataset", "done.json"),
    "train": lambda out: losses(out).get(20),
    "score": lambda out: names(f"{out}/run/bundle", "bundle.json"),
}
"""Stage, and how to see that a run is at it."""


def at_work(cluster: Cluster) -> Node:
    """A node that is not the head, and trains where one does."""
    return next((node for node in cluster.nodes[1:] if node.processes(WORKER)), cluster.nodes[1])


@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=() if one == "train" else pytest.mark.slow) for one in BEGUN]
)
def test_a_node_that_dies_changes_nothing(cluster: Cluster, calm: str, stage: str) -> None:
    wild = f"s3://lab/node-{stage}"
    running = whole_run(cluster, wild)
    wait_until(lambda: BEGUN[stage](wild), running)
    lost = at_work(cluster)
    lost.kill()
    assert finished(running)["counts"] == {"ok": CASES}
    check_equal(wild, calm)
    lost.start(cluster.head)


@pytest.mark.slow
@pytest.mark.parametrize("stage", BEGUN)
def test_a_driver_that_dies_is_resumed(cluster: Cluster, calm: str, stage: str) -> None:
    wild = f"s3://lab/driver-{stage}"
    running = whole_run(cluster, wild)
    wait_until(lambda: BEGUN[stage](wild), running)
    running.kill()
    running.communicate()
    assert finished(whole_run(cluster, wild))["counts"] == {"ok": CASES}
    check_equal(wild, calm)


@pytest.mark.slow
@pytest.mark.parametrize("stage", BEGUN)
def test_a_node_that_was_cut_off_overwrites_nothing(
    cluster: Cluster, calm: str, stage: str
) -> None:
    wild = f"s3://lab/cut-{stage}"
    running = whole_run(cluster, wild)
    wait_until(lambda: BEGUN[stage](wild), running)
    lost = at_work(cluster)
    lost.link("down")
    time.sleep(20)
    lost.link("up")
    assert finished(running)["counts"] == {"ok": CASES}
    check_equal(wild, calm)
    lost.kill()
    lost.start(cluster.head)


AT: dict[str, str] = {
    "preprocess": "ray::MapBatches(run)",
    "train": WORKER,
    "score": "ray::MapWorker(MapBatches(Segment))",
}
"""Stage, and the start of the command of a process that does its work."""


@pytest.mark.slow
@pytest.mark.parametrize("stage", AT)
def test_a_process_that_is_frozen_is_replaced(cluster: Cluster, calm: str, stage: str) -> None:
    wild = f"s3://lab/frozen-{stage}"
    running = whole_run(cluster, wild)

    def working() -> list[psutil.Process]:
        return [one for node in cluster.nodes for one in node.processes(AT[stage])]

    wait_until(lambda: BEGUN[stage](wild) and working(), running)
    working()[0].suspend()
    assert finished(running)["counts"] == {"ok": CASES}
    check_equal(wild, calm)


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_then_no_matter(cluster: Cluster, calm: str) -> None:
    wild = "s3://lab/full"
    ballast = f"{cluster.mount}/ballast"
    for node in cluster.nodes:
        subprocess.run(node.inside("fallocate", "-l", nodes.BALLAST, ballast), check=True)
    stopped = whole_run(cluster, wild)
    _, said = stopped.communicate(timeout=300)
    assert stopped.returncode == 1
    assert "Traceback" not in said, said
    assert "no room in" in said
    assert "set TMPDIR to a larger disk" in said
    for node in cluster.nodes:
        subprocess.run(node.inside("rm", ballast), check=True)
    assert finished(whole_run(cluster, wild))["counts"] == {"ok": CASES}
    check_equal(wild, calm)


@pytest.mark.slow
def test_serving_from_the_cluster_gives_the_masks_of_score(cluster: Cluster, calm: str) -> None:
    serving = cluster.command(
        *("serve", "--bundle", f"{calm}/run/bundle", "--host", "0.0.0.0", "--no-auth"),
        *("--state", f"{cluster.mount}/state"),
    )
    url = f"http://{cluster.head.address}:8000"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").is_success
        except httpx.HTTPError:
            return False

    wait_until(ready, serving)
    (mask, *_) = names(f"{calm}/predictions", ".nii.gz")
    case_id = storage.name_of(mask).removesuffix(".nii.gz")
    files = {
        kind: storage.read_bytes(f"s3://lab/cohort/{case_id}/{case_id}_{kind}.nii.gz")
        for kind in ("t1ce", "t2", "flair")
    }
    answer = httpx.post(f"{url}/v1/segmentations", files=files, timeout=300)
    answer.raise_for_status()
    assert answer.content == storage.read_bytes(mask)
    serving.send_signal(signal.SIGINT)
    serving.communicate(timeout=200)


@pytest.mark.slow
def test_a_job_on_a_cluster_that_asks_for_a_token(tmp_path: Path) -> None:
    secrets = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-test-" + "x" * 32}
    with lab(tmp_path, **secrets) as cluster:
        submit = (
            *(Path(sys.executable).parent / "ray", "job", "submit", "--working-dir", ROOT, "--"),
            *(sys.executable, "jobs/pipeline.py", "s3://lab/cohort", "s3://lab/job"),
            *("--recipe", "smoke", "--steps", STEPS, "--workers", 2, "--set", *SETTINGS),
        )

        def submitted(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                cluster.head.inside(*submit),
                capture_output=True,
                text=True,
                check=False,
                timeout=500,
                env={**environment, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265"},
            )

        time.sleep(15)  # Ray's agent takes jobs a little after the node is up.
        known = dict(cluster.head.environment)
        refused = submitted({**known, "RAY_AUTH_TOKEN": "y" * 40})
        assert refused.returncode != 0
        done = submitted(known)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        assert names("s3://lab/job/report", "report.html")
