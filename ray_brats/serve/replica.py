"""One process that keeps a model loaded and segments cases with `predict.Predictor`.

Reading and preprocessing the next case overlaps with the forward passes of the one before;
the passes themselves never run side by side, for they share the same cores.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ray_brats import labels
from ray_brats.cases import nifti, volume
from ray_brats.cases.nifti import Header
from ray_brats.cases.raw import apart
from ray_brats.cases.volume import encode
from ray_brats.engine import devices
from ray_brats.errors import CaseError, CaseFailed, UsageError
from ray_brats.files import channels
from ray_brats.labels import Task
from ray_brats.model import predict
from ray_brats.model.card import Asked
from ray_brats.model.predict import Prediction, Predictor
from ray_brats.recipes import tasks
from ray_brats.recipes.config import Recipe
from ray_brats.serve.limits import Limits, Refusal, check_voxels
from ray_brats.serve.models import RAW, Answer, AtHome

T = TypeVar("T")
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
    import tensorflow as tf

    from ray_brats.model import bundle

    devices.check(len(tf.config.list_physical_devices("GPU")))
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
        self._one_pass, self._one_study = threading.Lock(), threading.Lock()
        self._began: float | None = None

    async def segment(self, images: Mapping[str, bytes | str], task: str) -> Answer | Refusal:
        """The mask of one case, or why there is none.

        Args:
            images: canonical modality to the bytes of a file, or its URI; or `RAW` to the zip of a
                raw study.
            task: name of the one whose labels the mask carries.
        """
        gone = threading.Event()
        uris = {kind: uri for kind, uri in images.items() if isinstance(uri, str)}
        try:
            if isinstance(archive := images.get(RAW), bytes):
                return await asyncio.to_thread(self._raw, archive, task, gone)
            return await self._case(images, task, gone)
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

    async def _case(
        self, images: Mapping[str, bytes | str], task: str, gone: threading.Event
    ) -> Answer:
        began = time.monotonic()
        await asyncio.to_thread(self._check_headers, images)
        prepared = await asyncio.to_thread(predict.read, images, self._recipe.preprocess)
        read = time.monotonic()
        work = functools.partial(self._predictor.segment_prepared, prepared)
        prediction, started = await asyncio.to_thread(self._pass, work, gone)
        segmented = time.monotonic()
        mask = await asyncio.to_thread(_encoded, prediction, self._task_named(task))
        return Answer(
            mask=mask,
            bundles=self._bundles,
            volumes_ml=_volumes_ml(prediction),
            remarks=prepared.remarks,
            seconds=_seconds(began, read, started, segmented),
        )

    def _raw(self, archive: bytes, task_name: str, gone: threading.Event) -> Answer:
        """The mask of a study as it left the scanner, on the grid of its T1CE.

        One is prepared at a time: it takes a core, and memory beside the model's.
        """
        began, task = time.monotonic(), self._task_named(task_name)
        _check_extra()
        limits, needed = _apart(self._limits), self._recipe.preprocess.modalities
        with self._one_study, apart.opened(archive, limits, gone, needed) as study:
            one = study.prepare()
            home = one.record.home
            prepared = predict.read(one.scans, self._recipe.preprocess)
            read = time.monotonic()
            work = functools.partial(self._predictor.segment_at_home, prepared, home)
            (_, native), started = self._pass(work, gone)
            segmented = time.monotonic()
            made_by = ", ".join(sha256[:12] for sha256 in self._bundles)
            dicom = None
            if one.is_dicom:
                mask, grid = native.mask_native, native.geometry
                dicom = study.dicom_seg(mask, grid, task, made_by)
        return Answer(
            mask=_encoded(native, task),
            bundles=self._bundles,
            volumes_ml=_volumes_ml(native),
            remarks=(*one.record.warnings, *prepared.remarks),
            home=AtHome(modality=one.record.home_modality, scan=one.scan, dicom=dicom),
            seconds=_seconds(began, read, started, segmented),
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

    def _pass(self, work: Callable[[], T], gone: threading.Event) -> tuple[T, float]:
        """What a forward pass gives, and when it began."""
        with self._one_pass:
            if gone.is_set():
                raise CaseFailed("nobody waits for this case any more")
            self._began = started = time.monotonic()
            try:
                return work(), started
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


def _check_extra() -> None:
    """`Refusal` 422 where the packages that read raw studies are missing."""
    try:
        apart.check_packages()
    except UsageError as error:
        raise Refusal(422, f"this server takes no raw studies: {error}", RAW) from error


def _apart(limits: Limits) -> apart.Limits:
    return apart.Limits(
        seconds=limits.raw_seconds,
        memory_bytes=limits.raw_memory_bytes,
        files=limits.raw_files,
        inflated_bytes=limits.inflated_bytes,
        voxels=limits.voxels,
    )


def _volumes_ml(prediction: Prediction) -> dict[str, float]:
    return {name: round(ml, 6) for name, ml in prediction.region_ml().items()}


def _seconds(began: float, read: float, started: float, segmented: float) -> dict[str, float]:
    """What each stage took that ends now."""
    return {
        "read": read - began,
        "wait": started - read,
        "segment": segmented - started,
        "encode": time.monotonic() - segmented,
    }


def _encoded(prediction: Prediction, task: Task) -> bytes:
    raw = labels.from_class_index(prediction.mask_native, task)
    return encode(raw, prediction.geometry)
