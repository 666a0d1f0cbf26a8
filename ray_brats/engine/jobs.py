"""The Ray job that this process is, where `ray job submit` or KubeRay started it."""

from __future__ import annotations

import json
import os
import time
from typing import Final

from ray_brats.progress import say

STOPS: Final = "RAY_BRATS_STOP_JOB"
"""The environment variable: 1, a call that is wrong stops its own job."""
DASHBOARD: Final = "RAY_BRATS_DASHBOARD"
"""The environment variable: where Ray takes jobs, where that is not this node's port 8265."""
_CONFIG: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_STOPPED_SECONDS: Final = 60.0


def own() -> str | None:
    """The submission id of the job that this process is; None where it is none."""
    try:
        metadata = json.loads(os.environ.get(_CONFIG, "{}")).get("metadata", {})
    except (ValueError, AttributeError):
        return None
    name = metadata.get("job_submission_id")
    return str(name) if name else None


def tell() -> None:
    """Say in a job's log how it goes on where it ends early."""
    if name := own():
        say(
            f"Ray job {name}: where it is stopped or dies, submit it again with the same paths: it "
            "goes on from what is finished"
        )


def stop_wrong() -> None:
    """End the job that this process is for good, where that is asked for.

    A job that failed is tried again by who watches over it, as KubeRay does by `backoffLimit`; a
    call that is wrong stays wrong. A job that was stopped is not tried again.
    """
    name = own()
    if name is None or os.environ.get(STOPS) != "1":
        return
    from ray.job_submission import JobSubmissionClient

    address = os.environ.get(DASHBOARD, "http://127.0.0.1:8265")
    try:
        JobSubmissionClient(address).stop_job(name)
    except Exception as error:  # noqa: BLE001 - whatever it is, the call ends as it would
        say(f"ray-brats: Ray at {address} did not stop the job ({error}): it may be tried again")
        return
    say(f"ray-brats: the job {name} is stopped for good: tried again, it would fail again")
    # Ray ends this process; its status is what would count if it ended first.
    time.sleep(_STOPPED_SECONDS)
