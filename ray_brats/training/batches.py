"""Batches for training: patches cut from prepared cases, to be augmented inside the graph.

Volumes stay on disk, memory-mapped; a thread cuts the next batches while a step runs. The
time a step had to wait for them is measured.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_brats.arrays import Array
from ray_brats.labels import Targets
from ray_brats.recipes.config import TrainConfig
from ray_brats.training import samples
from ray_brats.training.data import PreparedCase
from ray_brats.training.samples import SampleStream, carve, draw_location


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One replica's share of a step."""

    image: npt.NDArray[np.float32]
    """`(N, H, W, D, C)`; where patches are zoomed, wider than a patch by `margin_vox` around."""
    label: npt.NDArray[np.uint8]
    """`(N, H, W, D)`, as wide as the image."""
    keys: npt.NDArray[np.int32]
    """`(N, 2)`: the key of each sample's random augmentation."""
    case_ids: tuple[str, ...]


class BatchStream:
    """Batches of one rank, from a step on, cut ahead of their use.

    Sample `i` of the global stream is the same whatever the number of ranks: step `s` of
    rank `r` of `R` holds samples `(s·R + r)·N … + N − 1`, and a run that goes on with other
    ranks takes the next sample first (`goes_on_at`).
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        train: TrainConfig,
        targets: Targets,
        *,
        rank: int,
        ranks: int,
    ) -> None:
        self._cases = list(cases)
        self._train = train
        self._regions = targets if train.foreground == "region" else None
        self._rank, self._ranks = rank, ranks
        self._stream = SampleStream(case_count=len(self._cases), seed=train.seed)
        self._size = train.batch_per_worker * train.accumulate
        self._origin = 0
        self.waited_seconds = 0.0

    def goes_on_at(self, step: int, sample: int) -> None:
        """Steps from `step` on hold the samples from `sample` on, whoever took those before."""
        self._origin = sample - step * self._ranks * self._size

    def first_sample(self, step: int) -> int:
        """Place in the global stream of the first sample of a step, over all ranks."""
        return self._origin + step * self._ranks * self._size

    def case_ids(self, step: int) -> list[str]:
        """The cases that all ranks together see in a step, each before who gave it a tumour."""
        first = self.first_sample(step)
        samples = (self._sample(first + i) for i in range(self._ranks * self._size))
        return [name for *_, names in samples for name in names]

    def batch(self, step: int) -> Batch:
        """This rank's samples of one step, all accumulated batches."""
        first = self.first_sample(step) + self._rank * self._size
        samples = [self._sample(index) for index in range(first, first + self._size)]
        images, labels, keys, names = zip(*samples, strict=True)
        return Batch(
            image=np.stack(images),
            label=np.stack(labels),
            keys=np.stack(keys),
            case_ids=tuple(case_id for case_id, *_ in names),
        )

    def _sample(self, index: int) -> tuple[Array, Array, Array, tuple[str, ...]]:
        """Image, label, key and cases of a sample: its own, then whose tumour is carved in."""
        train = self._train
        number, rng = self._stream.draw(index)
        case = self._cases[number]
        image, label = self._patch(case, train.foreground_share, rng)
        names: tuple[str, ...] = (case.case_id,)
        if train.carve_probability and rng.random() < train.carve_probability:
            # Another case, where there is one.
            further = 1 + int(rng.integers(max(1, len(self._cases) - 1)))
            donor = self._cases[(number + further) % len(self._cases)]
            image, label = carve(image, label, *self._patch(donor, 1.0, rng), rng)
            names = (case.case_id, donor.case_id)
        key = np.array([train.seed, index], np.int64).astype(np.int32)
        return image, label, key, names

    def _patch(
        self, case: PreparedCase, foreground_share: float, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Image and label of a random patch, with the margin that zoom needs."""
        train, label = self._train, case.label()
        location = draw_location(
            label,
            train.patch_vox,
            foreground_share=foreground_share,
            regions=self._regions,
            rng=rng,
        )
        if train.zoom_probability:
            location = location.wider(samples.margin_vox(train.patch_vox))
        return location.cut(case.image()).astype(np.float32), location.cut(label)

    def from_step(self, step: int, *, ahead: int = 2) -> Generator[Batch, None, None]:
        """Batches of `step`, `step + 1`, …, for ever; close the iterator to end its thread."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
        closed = threading.Event()

        def produce() -> None:
            current = step
            while not closed.is_set():
                try:
                    item: Batch | BaseException = self.batch(current)
                except BaseException as error:  # noqa: BLE001 - handed over: raised where the batch is used
                    item = error
                while not closed.is_set():
                    try:
                        ready.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                current += 1

        threading.Thread(target=produce, daemon=True, name="ray-brats-batches").start()
        try:
            while True:
                asked = time.perf_counter()
                item = ready.get()
                self.waited_seconds += time.perf_counter() - asked
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()
