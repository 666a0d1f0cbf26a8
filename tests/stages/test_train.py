"""Runs that survive: workers and drivers killed, hangs, failures that another try cannot mend."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray.exceptions
from ray.cluster_utils import Cluster

from ray_brats.cases import phantom
from ray_brats.training import log

pytestmark = [pytest.mark.ray, pytest.mark.tf]
TINY = (
    "network.widths=4,8",
    "train.patch_vox=16,16,16",
    "inference.window_vox=64,64,64",
    "inference.overlap=0",
)
HANGS_ONCE = """
import os, time
from ray_brats.training.batches import BatchStream

from_step = BatchStream.from_step

def from_step_or_sleep(self, step, **options):
    for step, batch in enumerate(from_step(self, step, **options), start=step):
        if step == 20:
            try:
                os.close(os.open(os.environ["MARKER"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                time.sleep(1e9)
        yield batch

BatchStream.from_step = from_step_or_sleep
"""
"""One worker, once, sleeps for ever before a step, while the other waits for its gradients.

Only where its batch comes in: what else both do between two steps ends in a broadcast, in which
the other would wait instead.
"""
STOPS_ONCE = HANGS_ONCE.replace("time.sleep(1e9)", "os.kill(os.getpid(), 19)")
"""Not even the watchdog of the worker that stops can act then."""
FAILS = """
from ray_brats.training.length import Pace

after_step = Pace.after_step

def after_step_or_fail(self, step, **options):
    if step == 20:
        raise LookupError("a mistake of ours")
    return after_step(self, step, **options)

Pace.after_step = after_step_or_fail
"""

FILLS_MEMORY = """
import numpy as np
from ray_brats.engine import watchdog

beat, kept = watchdog.Watchdog.beat, []

def beat_and_fill(self):
    kept.append(np.ones(1 << 27))  # 1 GiB
    beat(self)

watchdog.Watchdog.beat = beat_and_fill
"""


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "ray_brats.cli", name, *map(str, arguments)]


def training(dataset: object, run: object, *settings: str, **options: object) -> list[str]:
    flags = [item for name, value in options.items() for item in (f"--{name}", value)]
    chosen = [*TINY, *settings]
    return command("train", dataset, run, "--recipe", "smoke", "--set", *chosen, *flags)


def finish(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    phantom.write_cohort(folder / "cohort", cases=5, shape_vox=(40, 40, 32))
    done = finish(command("preprocess", folder / "cohort", folder / "dataset", "--recipe", "smoke"))
    assert done.returncode == 0, done.stderr
    return folder / "dataset"


def losses(run: Path) -> dict[int, float]:
    steps = [line for line in log.read(str(run)) if "event" not in line]
    found = {line["step"]: line["loss"] for line in steps}
    assert len(found) == len(steps), "each step stands once"
    return found


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in log.read(str(run)) if line.get("event") == kind]


def finish_patched(
    patch: str, dataset: Path, folder: Path, hang_seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """Thirty steps in `folder/run`, a checkpoint after each, some code run in every process."""
    (folder / "sitecustomize.py").write_text(patch)
    often = "train.checkpoint_minutes=0.001"
    options = {"steps": 30, "hang-seconds": hang_seconds}
    return finish(
        training(dataset, folder / "run", often, **options),
        PYTHONPATH=f"{folder}:{os.environ.get('PYTHONPATH', '')}",
        MARKER=str(folder / "marker"),
    )


def check_noiseless(log: str) -> None:
    """Our own lines and the stacks of a hang, nothing of TensorFlow's and Ray's."""
    lines = [line for line in log.splitlines() if line and not line.startswith(("  ", "thread "))]
    assert lines
    for line in lines:
        assert line.startswith(
            ("train: ", "Ray on ", "run: ", "bundle: ", "validation", "ray-brats: ")
        )


def check_one_resume(run: Path) -> None:
    assert sorted(losses(run)) == list(range(1, 31))
    (resume,) = events(run, "resume")
    assert resume["step"] > 0


def test_a_hang_is_noticed_shown_and_the_run_goes_on(dataset: Path, tmp_path: Path) -> None:
    done = finish_patched(HANGS_ONCE, dataset, tmp_path, hang_seconds=40)
    assert done.returncode == 0, done.stderr
    assert "hangs after step" in done.stderr
    assert "in from_step_or_sleep" in done.stderr
    check_noiseless(done.stderr)
    check_one_resume(tmp_path / "run")


@pytest.mark.slow
def test_a_worker_that_is_stopped_altogether_is_replaced(dataset: Path, tmp_path: Path) -> None:
    # TensorFlow's heartbeats notice it on the other rank, before any watchdog has to.
    done = finish_patched(STOPS_ONCE, dataset, tmp_path, hang_seconds=40)
    assert done.returncode == 0, done.stderr
    check_noiseless(done.stderr)
    check_one_resume(tmp_path / "run")


@pytest.mark.slow
def test_a_mistake_of_our_own_ends_the_run_at_once(dataset: Path, tmp_path: Path) -> None:
    done = finish_patched(FAILS, dataset, tmp_path)
    assert done.returncode == 1
    assert "LookupError: a mistake of ours" in done.stderr
    check_noiseless(done.stderr)
    # The driver's, and one group of workers'.
    assert len(list((tmp_path / "run/attempts").iterdir())) == 2
    assert not events(tmp_path / "run", "resume")


def test_what_another_try_cannot_mend_is_known_by_its_type() -> None:
    from tensorflow import errors

    from ray_brats.files import claims
    from ray_brats.stages import rank

    def error(kind: Any, text: str) -> Any:
        return kind(None, None, text)

    for lasting in (
        LookupError("x"),
        TypeError("x"),
        FileNotFoundError(2, "x"),
        OSError(errno.ENOSPC, "x"),
        error(errors.InvalidArgumentError, "shapes must be equal"),
    ):
        assert not rank._may_pass(lasting), lasting
    for passing in (
        ConnectionResetError("x"),
        TimeoutError("x"),
        error(errors.UnavailableError, "connection reset by peer"),
        error(errors.InvalidArgumentError, "Collective ops is aborted by: …"),
        claims.Replaced("x"),
        ray.exceptions.RayError("x"),
    ):
        assert rank._may_pass(passing), passing


def test_a_loss_that_is_no_number_ends_the_run_at_once(dataset: Path, tmp_path: Path) -> None:
    poisoned = tmp_path / "dataset"
    subprocess.run(["cp", "-r", str(dataset), str(poisoned)], check=True)
    for path in poisoned.glob("cases/*/image.npy"):
        image = np.load(path)
        np.save(path, np.full_like(image, np.nan))
    done = finish(training(poisoned, tmp_path / "run", steps=30))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in ("step 1 ", "nan", "BraTS20_Training_", "last good checkpoint: none"):
        assert word in done.stderr
    # One group of workers started, and none again.
    claims = list((tmp_path / "run/attempts").iterdir())
    assert len(claims) == 2


@pytest.mark.slow
def test_too_little_memory_ends_with_what_was_needed_and_what_to_lower(
    dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FILLS_MEMORY)
    memory = psutil.virtual_memory()
    limit = memory.percent / 100 + (4 << 30) / memory.total
    if limit > 0.9:
        pytest.skip("too little memory here to fill some of it")
    done = finish(
        training(dataset, tmp_path / "run", steps=30),
        PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        RAY_memory_usage_threshold=f"{limit:.3f}",
        RAY_memory_monitor_refresh_ms="100",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in ("training", "too little memory", "GiB on each of 2 worker(s)", "batch_per_worker"):
        assert word in done.stderr
    check_noiseless(done.stderr)


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer_but_not_shorter(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert finish(training(dataset, run, steps=20)).returncode == 0
    first = losses(run)
    longer = finish([*training(dataset, run, steps=30), "--resume"])
    assert longer.returncode == 0, longer.stderr
    assert "goes on from step 20" in longer.stderr
    assert losses(run).keys() == set(range(1, 31))
    assert {step: losses(run)[step] for step in first} == first
    shorter = finish([*training(dataset, run, steps=25), "--resume"])
    assert (shorter.returncode, "not shortened" in shorter.stderr) == (2, True)
    again = finish([*training(dataset, run, steps=30), "--resume"])
    assert "nothing to do" in again.stderr


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The training workers below a driver that starts Ray itself."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if process.cmdline()[0].startswith("ray::RayTrainWorker"):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


def steps_done(run: Path) -> int:
    lines = log.read(str(run))
    return int(lines[-1]["step"]) if lines else 0


def wait_for_step(run: Path, step: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while steps_done(run) < step:
        assert driver.poll() is None, "training ended early"
        assert time.monotonic() < deadline, f"step {step} never came"
        time.sleep(0.1)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()


@pytest.mark.slow
def test_an_interrupt_of_the_command_alone_is_told(
    dataset: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    # A terminal sends it to all processes, `kill -INT` and schedulers to one.
    run, told = tmp_path / "run", tmp_path / "log"
    with told.open("wb") as log_file:
        driver = subprocess.Popen(training(dataset, run, steps=3000), stderr=log_file)
    started.append(driver)
    wait_for_step(run, 3, driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert "the same command goes on where this one ended" in told.read_text()
    check_noiseless(told.read_text())


@pytest.mark.slow
def test_chaos_killed_workers_and_driver_change_no_number(
    dataset: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    settings = ("train.checkpoint_minutes=0.02", "train.validations=3")
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    done = finish(training(dataset, calm, *settings, steps=420))
    assert done.returncode == 0, done.stderr
    arguments = training(dataset, wild, *settings, steps=420)
    rng = np.random.default_rng()
    driver = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    started.append(driver)
    for lowest in (80, 180):
        wait_for_step(wild, lowest + int(rng.integers(40)), driver)
        workers = workers_of(driver)
        assert len(workers) == 2
        workers[rng.integers(2)].kill()
        seen = len(events(wild, "resume"))
        deadline = time.monotonic() + 120
        while len(events(wild, "resume")) == seen:
            assert time.monotonic() < deadline, "no resume"
            time.sleep(0.2)
    wait_for_step(wild, 280 + int(rng.integers(40)), driver)
    driver.kill()
    driver.wait()
    resumed = finish([*arguments, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    expected, found = losses(calm), losses(wild)
    assert found.keys() == expected.keys() == set(range(1, 421))
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, abs=1e-4), step
    for one, other in zip(events(calm, "validation"), events(wild, "validation"), strict=True):
        assert one["step"] == other["step"]
        assert other["dice"] == pytest.approx(one["dice"], abs=1e-4)
    resumes = [event["step"] for event in events(wild, "resume")]
    assert len(resumes) == 3
    assert min(resumes) > 0
    cards = [json.loads((run / "bundle/bundle.json").read_text()) for run in (calm, wild)]
    assert cards[0]["measured"]["step"] == cards[1]["measured"]["step"]


# --- clusters that grow and shrink --------------------------------------------------------

LOOKS_OFTEN = """
import os, sys
if "train" in sys.argv and "RAY_ADDRESS" in os.environ:
    from ray_brats.stages import train
    train.RESIZE_SECONDS = 3.0
"""


@pytest.fixture
def grown() -> Iterator[Cluster]:
    """A head without CPUs, to which a test adds nodes."""
    head = {"num_cpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def soon(is_so: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
def test_workers_come_and_go_with_the_losses_of_an_undisturbed_run(
    dataset: Path, tmp_path: Path, grown: Cluster
) -> None:
    node = {"num_cpus": 2, "object_store_memory": 100 << 20}
    often, steps = "train.checkpoint_minutes=0.02", 400
    (tmp_path / "sitecustomize.py").write_text(LOOKS_OFTEN)
    environment = {
        "RAY_ADDRESS": grown.address,
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    }
    first = grown.add_node(**node)
    changed = tmp_path / "changed"

    def began(attempts: int) -> bool:
        """Whether the newest of so many groups of workers has made steps."""
        lines = list(log.read(str(changed))) if changed.exists() else []
        goes_on = [line for line in lines if line.get("event") == "resume"]
        steps = [line["step"] for line in lines if "event" not in line]
        since = goes_on[-1]["step"] if goes_on else 0
        return len(goes_on) == attempts - 1 and bool(steps) and steps[-1] > since + 5

    with subprocess.Popen(
        training(dataset, changed, often, steps=steps, workers="1-4"),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        soon(lambda: began(1))
        grown.add_node(**node)
        soon(lambda: began(2))
        grown.remove_node(first, allow_graceful=False)
        _, told = process.communicate(timeout=560)
    assert process.returncode == 0, told
    undisturbed = finish(
        training(dataset, tmp_path / "whole", often, steps=steps, workers="1-4"), **environment
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert len(events(changed, "resume")) >= 2
    found, expected = losses(changed), losses(tmp_path / "whole")
    assert sorted(found) == sorted(expected)
    np.testing.assert_allclose(
        [found[step] for step in sorted(found)],
        [expected[step] for step in sorted(expected)],
        rtol=1e-3,
    )
