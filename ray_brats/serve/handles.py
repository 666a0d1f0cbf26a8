"""Models and the queue of jobs in other processes, asked through their Ray Serve handles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from ray_brats.serve.jobs.records import Job, JobRequest
from ray_brats.serve.limits import Refusal
from ray_brats.serve.models import Answer, Segment, Segmentation

ATTEMPTS = 2
"""A case whose replica dies is given to another one once."""


def segment_by(handles: Mapping[str, Any]) -> Segment:
    """Asks models through their Serve handles."""

    async def segment(name: str, images: Mapping[str, bytes | str], task: str) -> Answer | Refusal:
        for _ in range(ATTEMPTS):
            try:
                answer: Answer | Refusal = await handles[name].segment.remote(dict(images), task)
                return answer
            except BackPressureError as error:
                raise Refusal(429, "all places are taken: try again later", "", 10) from error
            except DeploymentUnavailableError:
                break
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
                continue
        raise Refusal(503, "the process of the model died: try again", "", 10)

    return segment


class RemoteJobs:
    """`Jobs` through a handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._handle.call.remote(method, *arguments)
        except Refusal as error:
            # Ray's own exception carries ours.
            raise getattr(error, "cause", error) from None
        except (ray.exceptions.RayActorError, DeploymentUnavailableError) as error:
            raise Refusal(503, "the queue starts again: try again", "", 5) from error

    async def check_room(self, size_bytes: int) -> None:
        """Do nothing where a body of this size may be kept; raises `Refusal` 507."""
        await self._call("check_room", size_bytes)

    async def submit(self, request: JobRequest, files: Mapping[str, bytes]) -> Job:
        """Keep and queue a job."""
        job: Job = await self._call("submit", request, dict(files))
        return job

    async def get(self, job_id: str) -> Job | None:
        """The state of a job."""
        job: Job | None = await self._call("get", job_id)
        return job

    async def result(self, job_id: str) -> Segmentation | None:
        """The mask of a job that is done, with what made it."""
        result: Segmentation | None = await self._call("result", job_id)
        return result

    async def cancel(self, job_id: str) -> Job | None:
        """Stop a job, or forget one that has ended."""
        job: Job | None = await self._call("cancel", job_id)
        return job

    async def metrics(self) -> bytes:
        """Metrics of the queue's process."""
        text: bytes = await self._call("metrics")
        return text
