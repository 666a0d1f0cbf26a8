"""`benchmark.py serve`: the service on loopback beside the Predictor alone, and under overload."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ray_brats import labels
from ray_brats.benchmarks import measure
from ray_brats.benchmarks.processes import cpu_seconds
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import phantom
from ray_brats.cases.volume import encode
from ray_brats.engine import cluster
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.model import card as modelcard
from ray_brats.model.card import Asked
from ray_brats.model.predict import Predictor
from ray_brats.progress import say
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import Recipe
from ray_brats.serve import deploy
from ray_brats.serve import settings as deployments
from ray_brats.stages import score as stage

CLIENTS = 3
"""Side by side: two in the replica, and one whose files are already there."""
OVERLOAD = 4
"""Times as many cases a second as the service can do."""
MEASURED = ("predictor", "serve", "predictor CPU", "serve CPU")
SHAPE_VOX = (240, 240, 155)
_BOUNDARY = b"ray-brats-benchmark"
_PIECE_BYTES = 1 << 18

Files = dict[str, bytes]


def serve(
    *,
    bundle: str = modelcard.STARTER,
    cohort: str | None = None,
    cases: int = 3,
    rounds: int = 2,
    repeats: int = 3,
) -> dict[str, Any]:
    """Compressed bytes to compressed mask: through the service and by the Predictor alone.

    Args:
        bundle: The model; by default the starter.
        cohort: Folder, s3:// prefix or CSV; by default phantoms as large as real cases.
        cases: How many different cases.
        rounds: How often each of them is segmented in one repeat.
        repeats: How often each way is measured, alternating; medians are reported.
    """
    uri = modelcard.uri_of(bundle)
    card, sha256 = modelcard.read(uri)
    recipe = jsonform.from_json(Recipe, card["recipe"])
    bodies = _cases(cohort, cases, recipe.preprocess.modalities)
    predictor = stage.load_predictor((uri,), (sha256,), Asked(), os.cpu_count() or 1)
    expected = [_mask(predictor, files) for files in bodies]
    seconds: dict[str, list[float]] = {name: [] for name in MEASURED}
    with tempfile.TemporaryDirectory(prefix="ray-brats-benchmark-") as state:
        settings = deployments.ServeSettings(models={"default": (uri,)}, state=state)
        port = deployments.free_port("127.0.0.1", 0)
        with cluster.running() as resources:
            fitted = deployments.fitting(settings, resources, 1)
            with deploy.served(fitted, port=port) as url:
                work = [*range(len(bodies))] * rounds
                for number in range(repeats):
                    _repeat(url, predictor, bodies, expected, work, seconds)
                    last = {name: round(values[-1], 3) for name, values in seconds.items()}
                    say(f"benchmark serve: repeat {number + 1} of {repeats}: {last} s a case")
                rate = 1 / statistics.median(seconds["serve"])
                say(f"benchmark serve: {OVERLOAD} × {rate:.2f} cases/s for a while")
                overload = asyncio.run(_overloaded(url, bodies, rate, len(work)))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "measured": {f"{name} seconds a case": value for name, value in medians.items()},
        "ratios": {
            "serve_vs_predictor": measure.ratio(medians["predictor"], medians["serve"]),
            # Tells on a busy machine what the service costs besides.
            "serve_vs_predictor_cpu": measure.ratio(medians["predictor CPU"], medians["serve CPU"]),
        },
        "overload": overload,
        "cases": len(bodies),
        "cores": os.cpu_count(),
        "parameters": card["parameters"],
        "body_mib": sum(map(len, bodies[0].values())) / 2**20,
        "all_seconds_a_case": seconds,
    }


def _repeat(
    url: str,
    predictor: Predictor,
    bodies: Sequence[Files],
    expected: Sequence[bytes],
    work: Sequence[int],
    seconds: Mapping[str, list[float]],
) -> None:
    """Each way once over the work; wall and CPU seconds a case are added to `seconds`."""
    began, used = time.perf_counter(), time.process_time()
    for index in work:
        _mask(predictor, bodies[index])
    seconds["predictor"].append((time.perf_counter() - began) / len(work))
    seconds["predictor CPU"].append((time.process_time() - used) / len(work))
    used = cpu_seconds(os.getpid())
    seconds["serve"].append(asyncio.run(_saturated(url, bodies, expected, work)))
    served = len(work) + 2 * CLIENTS
    seconds["serve CPU"].append((cpu_seconds(os.getpid()) - used) / served)


def _cases(cohort: str | None, cases: int, modalities: Sequence[str]) -> list[Files]:
    """The files of so many cases."""
    with tempfile.TemporaryDirectory(prefix="ray-brats-benchmark-") as folder:
        if cohort is None:
            phantom.write_cohort(Path(folder), cases=cases, shape_vox=SHAPE_VOX)
        found_cases = cohorts.find(cohort or folder).cases
        usable = [case for case in found_cases if set(modalities) <= set(case.images)][:cases]
        if not usable:
            raise UsageError(f"{cohort} has no case with all of {', '.join(modalities)}")
        return [
            {kind: storage.read_bytes(case.images[kind]) for kind in modalities} for case in usable
        ]


def _mask(predictor: Predictor, files: Files) -> bytes:
    prediction = predictor.segment(files)
    raw = labels.from_class_index(np.asarray(prediction.mask_native), tasks.DEFAULT)
    return encode(raw, prediction.geometry)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a client got."""

    status: int
    content: bytes
    seconds: float
    """Time from the end of the request's headers to the status line."""


async def _saturated(
    url: str, bodies: Sequence[Files], expected: Sequence[bytes], work: Sequence[int]
) -> float:
    """Seconds a case from the first mask to the last, with `CLIENTS` always waiting.

    A few cases more come before and after, so that the places are full all the while.
    """
    task = tasks.DEFAULT.name
    ahead = [work[n % len(work)] for n in range(CLIENTS)]
    left, moments = iter([*ahead, *work, *ahead]), list[float]()

    async def client() -> None:
        for index in left:
            reply = await _post(url, bodies[index], f"?task={task}")
            if reply.status != 200 or reply.content != expected[index]:
                raise UsageError(f"the service answered {reply.status}: {reply.content[:200]!r}")
            moments.append(time.perf_counter())

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    first, last = CLIENTS - 1, CLIENTS - 1 + len(work)
    return (moments[last] - moments[first]) / len(work)


async def _overloaded(
    url: str, bodies: Sequence[Files], rate: float, masks: int
) -> dict[str, float | int]:
    """Cases that come `OVERLOAD` times as fast as they can be done, whatever becomes of them."""
    tasks = []
    for number in range(max(24, OVERLOAD * masks)):
        tasks.append(asyncio.create_task(_post(url, bodies[number % len(bodies)])))
        await asyncio.sleep(1 / (OVERLOAD * rate))
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    answered = [reply for reply in replies if isinstance(reply, Reply)]
    refused = [reply.seconds for reply in answered if reply.status == 429]
    masks_got = sum(reply.status == 200 for reply in answered)
    return {
        "offered": len(tasks),
        "masks": masks_got,
        "refused with 429": len(refused),
        "anything else": len(tasks) - masks_got - len(refused),
        "seconds to 429, 95th percentile": float(np.percentile(refused, 95)) if refused else 0.0,
        "seconds to 429, longest": max(refused, default=0.0),
    }


async def _post(url: str, files: Files, query: str = "") -> Reply:
    """Post a case and read the answer while the body is still on its way."""
    host, port = str(urlsplit(url).hostname), urlsplit(url).port
    body = _multipart(files)
    head = (
        f"POST /v1/segmentations{query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY.decode()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(head.encode())
    await writer.drain()
    began = time.perf_counter()
    sending = asyncio.create_task(_send(writer, body))
    try:
        status = int((await reader.readline()).split()[1])
        seconds = time.perf_counter() - began
        await reader.readuntil(b"\r\n\r\n")
        return Reply(status=status, content=await reader.read(), seconds=seconds)
    finally:
        sending.cancel()
        writer.close()


async def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
    for start in range(0, len(body), _PIECE_BYTES):
        writer.write(body[start : start + _PIECE_BYTES])
        await writer.drain()


def _multipart(files: Files) -> bytes:
    parts = []
    for kind, content in files.items():
        header = f'Content-Disposition: form-data; name="{kind}"; filename="{kind}.nii.gz"'
        parts += [b"--" + _BOUNDARY, header.encode(), b"", content]
    return b"\r\n".join([*parts, b"--" + _BOUNDARY + b"--", b""])
