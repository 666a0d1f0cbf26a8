"""Batches for training: patches cut from prepared cases, to be augmented inside the graph.

Volumes stay on disk, memory-mapped; a thread cuts the next batches while a step runs, or takes them
from processes that do (`producers`). The time a step had to wait for them is measured.
"""

from __future__ import annotations

import itertools
import math
import operator
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ray_brats.arrays import Array, PatchLocation, Shape
from ray_brats.labels import Targets
from ray_brats.recipes.config import TrainConfig
from ray_brats.training import samples
from ray_brats.training.cache import MOST_AHEAD, Ahead
from ray_brats.training.data import PreparedCase
from ray_brats.training.producers import Producers
from ray_brats.training.samples import SampleStream, draw_location, draw_reach

WAITING = 2
"""Batches that are ready at most."""
TOLD_SECONDS = 10.0
IMAGE_OF, LABEL_OF, DISTANCE_OF = map(operator.methodcaller, ("image", "label", "distance"))
"""What is read of a case."""
Made = TypeVar("Made")
"""What a batch becomes where it is used."""


@dataclass(frozen=True, kw_only=True)
class Donors:
    """Patches whose tumours some samples of a batch are given; see `augmentation.carved`."""

    image: Array
    """`(K, H, W, D, C)`, as wide as those of the batch."""
    label: npt.NDArray[np.uint8]
    """`(K, H, W, D)`."""
    distance: npt.NDArray[np.int8]
    """`(K, H, W, D)`, as `tumour.signed_distance`."""
    reach: npt.NDArray[np.float32]
    """`(K,)`, as `samples.draw_reach`."""
    receiver: npt.NDArray[np.int32]
    """`(K,)`: the number of the sample that is given the tumour; each but once."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One replica's share of a step."""

    image: Array
    """`(N, H, W, D, C)` in the type of the dataset; where patches are zoomed, wider than a patch by
    `margin_vox` around."""
    label: npt.NDArray[np.uint8]
    """`(N, H, W, D)`, as wide as the image."""
    keys: npt.NDArray[np.int32]
    """`(N, 2)`: the key of each sample's random augmentation."""
    case_ids: tuple[str, ...]
    donors: Donors | None = None
    """None where the recipe carves no tumours."""

    def parts(self, size: int) -> list[dict[str, Any]]:
        """The batches of so many samples that are accumulated, fields by name."""
        return [self._part(slice(first, first + size)) for first in range(0, len(self.image), size)]

    def _part(self, own: slice) -> dict[str, Any]:
        part: dict[str, Any] = {
            "image": self.image[own], "label": self.label[own], "keys": self.keys[own]
        }  # fmt: skip
        if self.donors is not None:
            receiver = self.donors.receiver
            given = (receiver >= own.start) & (receiver < own.stop)
            fields = vars(self.donors).items()
            part["donors"] = {name: values[given] for name, values in fields}
            part["donors"]["receiver"] = receiver[given] - own.start
        return part


@dataclass(frozen=True, kw_only=True)
class _Patch:
    """A place in a case, of which nothing but the place has been read."""

    case: PreparedCase
    location: PatchLocation


@dataclass(frozen=True, kw_only=True)
class _Sample:
    patch: _Patch
    key: Array
    donor: _Patch | None
    reach: float

    def names(self) -> tuple[str, ...]:
        """Its case, then whose tumour it is given."""
        return (self.patch.case.case_id, *([self.donor.case.case_id] if self.donor else []))


class BatchStream:
    """Batches of one rank, from a step on, cut ahead of their use.

    Sample `i` of the global stream is the same whatever the number of ranks. A step has `S` shares
    of `N` samples: share `v` of step `s` holds samples `(s·S + v)·N … + N − 1`, and rank `r` of `R`
    takes the shares `r`, `r + R`, …. A run that goes on with other shares takes the next sample
    first (`goes_on_at`).

    Args:
        cases: all of the run.
        train: what samples are.
        targets: what is learnt.
        rank: this one's number.
        ranks: how many there are.
        shares: of a step; by default one a rank.
        ahead: cases whose copies are made before they are needed, at most.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        train: TrainConfig,
        targets: Targets,
        *,
        rank: int,
        ranks: int,
        shares: int | None = None,
        ahead: int = MOST_AHEAD,
    ) -> None:
        self._cases, self._ahead = list(cases), ahead
        self._train = train
        self._regions = targets if train.foreground == "region" else None
        self._shares = shares or ranks
        self._own = range(rank, self._shares, ranks)
        self._stream = SampleStream(case_count=len(self._cases), seed=train.seed)
        self._size = train.batch_per_worker * train.accumulate
        self.step_samples = self._shares * self._size
        """How many all ranks together see in a step."""
        self._origin = 0
        self.waited_seconds = 0.0

    def goes_on_at(self, step: int, sample: int) -> None:
        """Steps from `step` on hold the samples from `sample` on, whoever took those before."""
        self._origin = sample - step * self.step_samples

    def first_sample(self, step: int) -> int:
        """Place in the global stream of the first sample of a step, over all ranks."""
        return self._origin + step * self.step_samples

    def _own_samples(self, step: int) -> list[int]:
        """This rank's samples of a step, share by share."""
        first = self.first_sample(step)
        return [first + share * self._size + n for share in self._own for n in range(self._size)]

    def case_ids(self, step: int) -> list[str]:
        """The cases that all ranks together see in a step, each before who gave it a tumour."""
        first = self.first_sample(step)
        samples = (self._sample(first + i) for i in range(self.step_samples))
        return [name for sample in samples for name in sample.names()]

    def cases_of(self, step: int) -> list[PreparedCase]:
        """The cases that this rank reads in a step, in order."""
        numbers = []
        for index in self._own_samples(step):
            numbers.append(self._stream.draw(index)[0])
            donor = self._stream.donor(index, self._train.carve_probability)
            numbers += [] if donor is None else [donor]
        return [self._cases[number] for number in numbers]

    def batch(self, step: int) -> Batch:
        """This rank's samples of one step, all accumulated batches of each share."""
        samples = [self._sample(index) for index in self._own_samples(step)]
        patches = [sample.patch for sample in samples]
        return Batch(
            image=self._cut(patches, IMAGE_OF),
            label=self._cut(patches, LABEL_OF),
            keys=np.stack([sample.key for sample in samples]),
            case_ids=tuple(patch.case.case_id for patch in patches),
            donors=self._donors(samples) if self._train.carve_probability else None,
        )

    def _donors(self, samples: Sequence[_Sample]) -> Donors:
        """Those of the samples that have one; with none, arrays of length 0."""
        given = [n for n, sample in enumerate(samples) if sample.donor]
        patches = [donor for sample in samples if (donor := sample.donor)]
        return Donors(
            image=self._cut(patches, IMAGE_OF),
            label=self._cut(patches, LABEL_OF),
            distance=self._cut(patches, DISTANCE_OF),
            reach=np.array([samples[n].reach for n in given], np.float32),
            receiver=np.array(given, np.int32),
        )

    def _cut(self, patches: Sequence[_Patch], read: Callable[[PreparedCase], Array]) -> Array:
        """What is read of each case, where the patches lie; cut once, to where it is used."""
        like = read(patches[0].case if patches else self._cases[0])
        size = self._size_vox()
        cut = np.zeros((len(patches), *size, *like.shape[3:]), like.dtype)
        for patch, into in zip(patches, cut, strict=True):
            patch.location.copy_to(into, read(patch.case))
        return cut

    def _size_vox(self) -> Shape:
        """That of a patch, with the margin that zoom needs."""
        patch = PatchLocation((0, 0, 0), self._train.patch_vox)
        return self._widened(patch).size_vox

    def _widened(self, location: PatchLocation) -> PatchLocation:
        if not self._train.zoom_probability:
            return location
        return location.wider(samples.margin_vox(self._train.patch_vox))

    def _sample(self, index: int) -> _Sample:
        train = self._train
        number, rng = self._stream.draw(index)
        patch = self._patch(self._cases[number], train.foreground_share, rng)
        donor, reach = None, 0.0
        giver = self._stream.donor(index, train.carve_probability)
        if giver is not None:
            donor = self._patch(self._cases[giver], 1.0, rng)
            reach = draw_reach(rng)
        key = np.array([train.seed, index], np.int64).astype(np.int32)
        return _Sample(patch=patch, key=key, donor=donor, reach=reach)

    def _patch(
        self, case: PreparedCase, foreground_share: float, rng: np.random.Generator
    ) -> _Patch:
        """A random patch, with the margin that zoom needs."""
        location = draw_location(
            case.labelled(),
            case.label().shape,
            self._train.patch_vox,
            foreground_share=foreground_share,
            regions=self._regions,
            rng=rng,
        )
        return _Patch(case=case, location=self._widened(location))

    def most_bytes(self) -> int:
        """The most that the arrays of a batch hold."""
        image = self._cases[0].image()
        # With its label; of a donor also the distances.
        voxel_bytes = image.shape[-1] * image.itemsize + 1
        if self._train.carve_probability:
            voxel_bytes = 2 * voxel_bytes + 1
        count = self._size * len(self._own)
        return count * (math.prod(self._size_vox()) * int(voxel_bytes) + 64)

    def from_step(
        self,
        step: int,
        *,
        placed: Callable[[Batch], Made],
        processes: int = 0,
        waits: Callable[[], None] = lambda: None,
    ) -> Generator[Made, None, None]:
        """Batches of `step`, `step + 1`, …, for ever; close the iterator to end its thread.

        Args:
            step: the first.
            placed: brings a batch to where it is used, in the thread.
            processes: how many make them; 0: the thread itself.
            waits: called every `TOLD_SECONDS` while a batch is waited for.
        """
        ready: queue.Queue[Made | BaseException] = queue.Queue(maxsize=WAITING)
        closed = threading.Event()
        size = self.most_bytes() if processes else 0
        needed = (case for at in itertools.count(step) for case in self.cases_of(at))
        with (
            Ahead(needed, self._ahead) as copies,
            Producers(self, step, processes, batch_bytes=size) as producers,
        ):
            make = producers.batch if processes else self.batch

            def produce() -> None:
                current = step
                while not closed.is_set():
                    try:
                        item: Made | BaseException = placed(make(current))
                    except BaseException as error:  # noqa: BLE001 - handed over: raised where the batch is used
                        item = error
                    copies.used(len(self.cases_of(current)))
                    while not closed.is_set():
                        try:
                            ready.put(item, timeout=0.2)
                            break
                        except queue.Full:
                            continue
                    current += 1

            thread = threading.Thread(target=produce, daemon=True, name="ray-brats-batches")
            thread.start()
            try:
                while True:
                    asked = time.perf_counter()
                    item = _taken(ready, waits)
                    self.waited_seconds += time.perf_counter() - asked
                    if isinstance(item, BaseException):
                        raise item
                    yield item
            finally:
                closed.set()
                producers.kill()
                thread.join()


def _taken(ready: queue.Queue[Any], waits: Callable[[], None]) -> Any:
    while True:
        try:
            return ready.get(timeout=TOLD_SECONDS)
        except queue.Empty:
            waits()
