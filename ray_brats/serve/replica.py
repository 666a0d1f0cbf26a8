"""One process that keeps a model loaded and segments cases with `predict.Predictor`.

Reading and preprocessing the next case overlaps with the forward passes of the one before;
the passes themselves never run side by side, for they share the same cores.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ray_brats import labels
from ray_brats.cases import nifti, volume
from ray_brats.cases.nifti import Header
from ray_brats.cases.preprocess import Prepared
from ray_brats.cases.volume import encode
from ray_brats.errors import CaseError, CaseFailed, UsageError
from ray_brats.files import channels
from ray_brats.labels import Task
from ray_brats.model import predict
from ray_brats.model.card import Asked
from ray_brats.model.predict import Prediction, Predictor
from ray_brats.recipes import tasks
from ray_brats.recipes.config import Recipe
from ray_brats.serve.limits import Limits, Refusal, check_voxels
from ray_brats.serve.models import Answer

MakePredictor = Callable[[], tuple[Predictor, Recipe]]
RETRY_SECONDS = 10
"""When a client is to come again whose storage did not answer."""
HANG_SECONDS = 1800.0
"""A case whose forward passes take longer hangs: Serve then replaces the process."""


def load(
    bundles: tuple[str, ...],
    pinned: tuple[str, ...],
    *,
    asked: Asked,
    threads: int,
) -> tuple[Predictor, Recipe]:
    """TensorFlow with so many threads, and the bundles; a pass of zeros so that all is warm."""
    from ray_brats.model import bundle

    predictor = bundle.load_predictor(bundles, pinned, asked=asked, threads=threads)
    recipe = predictor.recipe
    channels = len(recipe.preprocess.modalities)
    predictor.class_index(np.zeros((*recipe.inference.window_vox, channels), np.float32))
    return predictor, recipe


class Model:
    """What a model replica does; the same class serves in tests without Ray.

    Args:
        make: loads the model.
        bundles: sha256 of the card of each of its bundles, told with every answer.
        limits: what the headers of files elsewhere may promise; bodies were judged before.
    """

    def __init__(
        self,
        make: MakePredictor,
        bundles: Sequence[str] = (),
        limits: Limits | None = None,
        task: Task = tasks.DEFAULT,
    ) -> None:
        self._predictor, self._recipe = make()
        self._limits = limits or Limits()
        self._bundles, self._task = tuple(bundles), task
        # A lock of threads: a request that is cancelled does not end the pass that it began.
        self._one_pass = threading.Lock()
        self._began: float | None = None

    async def segment(self, images: Mapping[str, bytes | str], task: str) -> Answer | Refusal:
        """The mask of one case, or why there is none.

        Args:
            images: canonical modality to the bytes of a file, or its URI.
            task: name of the one whose labels the mask carries.
        """
        began, gone = time.monotonic(), threading.Event()
        uris = {kind: uri for kind, uri in images.items() if isinstance(uri, str)}
        try:
            await asyncio.to_thread(self._check_headers, images)
            prepared = await asyncio.to_thread(predict.read, images, self._recipe.preprocess)
            read = time.monotonic()
            prediction, started = await asyncio.to_thread(self._segment, prepared, gone)
            segmented = time.monotonic()
            mask = await asyncio.to_thread(_encoded, prediction, self._task_named(task))
        except asyncio.CancelledError:
            gone.set()
            raise
        except Refusal as error:
            return error
        except CaseError as error:
            # What a file is called on the way is the server's business.
            kinds = {uri: kind for kind, uri in uris.items()}
            kind = error.file if error.file in images else kinds.get(error.file, "")
            if isinstance(error, CaseFailed):
                return Refusal(503, "the storage did not answer: try again", kind, RETRY_SECONDS)
            return Refusal(422, error.reason, kind)
        return Answer(
            mask=mask,
            bundles=self._bundles,
            volumes_ml={name: round(ml, 6) for name, ml in prediction.region_ml().items()},
            remarks=prepared.remarks,
            seconds={
                "read": read - began,
                "wait": started - read,
                "segment": segmented - started,
                "encode": time.monotonic() - segmented,
            },
        )

    def _check_headers(self, images: Mapping[str, bytes | str]) -> None:
        """`Refusal` 413 for files that promise too much, before their voxels are read."""
        headers = {kind: _header(source, kind) for kind, source in images.items()}
        for kind, header in headers.items():
            check_voxels(header, self._limits, kind, self._recipe.preprocess.spacing_mm)
        # The channels of one file are inflated together.
        files = {
            channels.file_of(source) if isinstance(source, str) else kind: headers[kind]
            for kind, source in images.items()
        }
        promised = sum(header.promised_bytes for header in files.values())
        if promised > self._limits.inflated_bytes:
            most = self._limits.inflated_bytes
            raise Refusal(413, f"the files promise {promised} bytes: at most {most} are read")

    def _segment(self, prepared: Prepared, gone: threading.Event) -> tuple[Prediction, float]:
        with self._one_pass:
            if gone.is_set():
                raise CaseFailed("nobody waits for this case any more")
            self._began = started = time.monotonic()
            try:
                return self._predictor.segment_prepared(prepared), started
            finally:
                self._began = None

    def _task_named(self, name: str) -> Task:
        try:
            task = self._task if name == self._task.name else tasks.named(name)
        except UsageError as error:
            raise Refusal(422, str(error), "task") from error
        if task.targets != self._task.targets:
            raise Refusal(422, f"this model has not learnt {name}", "task")
        return task

    def check_health(self) -> None:
        """Raises where a forward pass hangs."""
        began = self._began
        if began is not None and time.monotonic() - began > HANG_SECONDS:
            raise RuntimeError(f"a forward pass takes longer than {HANG_SECONDS:g} s")

    def process(self) -> int:
        """The id of this process."""
        return os.getpid()


def _header(source: bytes | str, kind: str) -> Header:
    if isinstance(source, str):
        return volume.read_header(source)
    return nifti.read_header(source[: nifti.HEAD_BYTES], kind)


def _encoded(prediction: Prediction, task: Task) -> bytes:
    raw = labels.from_class_index(prediction.mask_native, task)
    return encode(raw, prediction.geometry)
