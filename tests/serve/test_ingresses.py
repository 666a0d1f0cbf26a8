"""A service with two ingresses: both answer, and each hears what the other holds.

`pytest -m slow tests/serve/test_ingresses.py`: a minute on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("tensorflow")
from model.test_bundle import RECIPE, make_model

from ray_brats.engine import cluster
from ray_brats.serve import counts, deploy
from ray_brats.serve import settings as deployments
from ray_brats.training import export
from serve.test_ray import files_of

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.slow]


def soon(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_two_ingresses_answer_and_hear_each_other(tmp_path: Path, cohort_folder: Path) -> None:
    from ray import serve

    folder = tmp_path / "bundle"
    export.write(make_model(), RECIPE, str(folder), facts={"release": "brats2020"})
    args: dict[str, Any] = {
        "models": {"default": str(folder)},
        "state": deployments.state_of(str(tmp_path / "state")),
        "no_auth": True,
        "ingresses": 2,
        "light_cpus": 0.1,
        "min_replicas": 1,
    }
    settings = deployments.from_args(args)
    port = deployments.free_port("127.0.0.1", 0)
    with cluster.running(), deploy.served(settings, port=port) as url:
        found = serve.status().applications[deploy.NAME].deployments["ingress"]
        assert found.replica_states["RUNNING"] == 2
        case = cohort_folder / "BraTS20_Training_001"
        answers = [
            httpx.post(f"{url}/v1/segmentations", files=files_of(case), timeout=300)
            for _ in range(6)
        ]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        # A third one, which only tells and hears, finds both of them there.
        jobs = serve.get_deployment_handle(deploy.JOBS, deploy.NAME)

        def names() -> set[str]:
            told: counts.Counts = jobs.tell.remote("a test", {"uploads x": 1}).result(timeout_s=30)
            return set(told)

        soon(lambda: "pending default" in names())
