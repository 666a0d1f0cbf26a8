"""One study in a process of its own: what its files do there, stays there.

For whoever takes files of strangers. An archive goes in; voxels, a record and, on request, a DICOM
Segmentation come out. The process has limits of time, memory and size, and its death is a sentence.
What it says is thrown away: libraries quote what stands in headers.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ray_brats.arrays import Array, Floats
from ray_brats.cases import geometry as geometries
from ray_brats.cases import volume
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw import archives, dicomseg, extra, patient, preparation, record, studies
from ray_brats.cases.raw.patient import Patient
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.cases.raw.record import Record
from ray_brats.cases.volume import Volume
from ray_brats.errors import CaseError, CaseFailed, CaseRejected, UsageError
from ray_brats.labels import LabelMap, Task
from ray_brats.recipes import jsonform, tasks

OPTIONS: Final = PreparationOptions()
"""How studies are prepared: there is nobody to ask."""
_ARCHIVE, _FILES, _ORDER = "study.zip", "study", "order.json"
_RECORD, _SOURCES, _SCAN, _PROBLEM = "record.json", "sources.json", "scan.nii.gz", "problem.json"
_GRID, _MASK, _ASKED, _SEGMENTATION = "grid.npy", "mask.npy", "asked.json", "mask.dcm"
_LOOK_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 5.0
"""So much later than its parent would the process ends itself, should that be gone."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one study may take."""

    seconds: float = 300.0
    """Of each of its processes."""
    memory_bytes: int = 4 << 30
    """What such a process may write to, where the system can limit it (Linux)."""
    files: int = 20_000
    inflated_bytes: int = 1 << 30
    voxels: int = 32_000_000
    """Of the series that masks go home to."""


@dataclass(frozen=True, kw_only=True)
class Upright:
    """A study that was prepared."""

    scans: Mapping[str, Volume]
    """By modality, on one grid, stripped."""
    record: Record
    scan: bytes
    """The series that masks go home to as it left the scanner, a `.nii.gz`."""
    is_dicom: bool
    """Whether that series is one of DICOM."""


class Apart:
    """A study in a folder of its own, which is gone at the end of `opened`.

    Args:
        folder: where its archive is.
        limits: what it may take.
        gone: once it is set, nobody waits for the study any more.
    """

    def __init__(self, folder: Path, limits: Limits, gone: threading.Event) -> None:
        self._folder, self._limits, self._gone = folder, limits, gone

    def prepare(self) -> Upright:
        """Bring the study to one upright grid.

        Raises:
            CaseRejected: as `archives.unpack` and `patient.prepare`; there is no study or several
                of them; or its process took more than it may, or died.
            CaseFailed: nobody waits any more.
        """
        self._run("prepare")
        values = json.loads((self._folder / _RECORD).read_text())
        told = record.from_json(values, _RECORD)
        affine: Floats = np.load(self._folder / _GRID)
        arrays = {name: np.load(self._folder / f"{name}.npy") for name in told.series}
        return Upright(
            scans={name: volume.from_array(array, affine) for name, array in arrays.items()},
            record=told,
            scan=(self._folder / _SCAN).read_bytes(),
            is_dicom=bool(json.loads((self._folder / _SOURCES).read_text())),
        )

    def dicom_seg(self, mask: LabelMap, geometry: Geometry, task: Task, made_by: str) -> bytes:
        """A mask of class indices as a DICOM Segmentation of that series; see `dicomseg.encode`."""
        np.save(self._folder / _MASK, mask)
        asked = {
            "geometry": geometry.as_json(),
            "task": tasks.as_json(task),
            "made_by": made_by,
        }
        (self._folder / _ASKED).write_text(json.dumps(asked))
        self._run("segmentation")
        return (self._folder / _SEGMENTATION).read_bytes()

    def _run(self, step: str) -> None:
        """Do one step in a process; its problem is ours."""
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, step, str(self._folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        try:
            self._watch(process)
        finally:
            # With the programs that it started itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        problem = self._folder / _PROBLEM
        if problem.exists():
            raise CaseRejected(json.loads(problem.read_text()))
        if process.returncode:
            raise CaseRejected(
                "the process that prepared the study died: it holds more than fits into "
                f"{self._limits.memory_bytes / 2**30:g} GiB, or files that crash what reads them"
            )

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + self._limits.seconds
        while process.poll() is None:
            if self._gone.wait(_LOOK_SECONDS):
                raise CaseFailed("nobody waits for this study any more")
            if time.monotonic() > end:
                raise CaseRejected(
                    f"the study was not prepared after {self._limits.seconds:g} s: "
                    "send one with fewer files, or use `ray-brats prepare`"
                )


def check_packages() -> None:
    """`UsageError` where a package of the extra is missing."""
    preparation.check_packages(OPTIONS, has_masks=False, has_dicom=True)
    for name in ("pydicom", "highdicom"):
        extra.found(name)


@contextlib.contextmanager
def opened(
    archive: bytes,
    limits: Limits | None = None,
    gone: threading.Event | None = None,
    needed: Sequence[str] = (),
) -> Iterator[Apart]:
    """A study out of the bytes of a zip; its files are gone afterwards.

    Args:
        archive: the zip.
        limits: what it may take.
        gone: once it is set, nobody waits for the study any more.
        needed: modalities without which it is rejected, before it is prepared.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="ray-brats-study-") as name:
        folder = Path(name)
        (folder / _ARCHIVE).write_bytes(archive)
        order = _Order(limits=limits, options=OPTIONS, needed=tuple(needed))
        (folder / _ORDER).write_text(json.dumps(jsonform.as_json(order)))
        yield Apart(folder, limits, gone or threading.Event())


# --- in the process ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What the parent wants."""

    limits: Limits
    options: PreparationOptions
    needed: tuple[str, ...]


def _prepare(folder: Path, order: _Order) -> None:
    """Unpack and prepare the study, and leave what its parent reads."""
    files, limits = folder / _FILES, order.limits
    files.mkdir()
    archives.unpack(
        folder / _ARCHIVE,
        files,
        archives.Limits(files=limits.files, inflated_bytes=limits.inflated_bytes),
    )
    (folder / _ARCHIVE).unlink()
    try:
        found = studies.find(files)
    except UsageError as error:
        # It begins with a place that is nobody's business.
        raise CaseRejected(str(error).removeprefix(f"{files.resolve()}: ")) from error
    if len(found) > 1:
        raise CaseRejected(f"{len(found)} studies: expected one, of one patient on one occasion")
    ready = patient.prepare("study", found[0], order.options, needed=order.needed)
    _check_voxels(ready.scan.geometry, limits.voxels)
    _leave(folder, ready)


def _check_voxels(geometry: Geometry, most: int) -> None:
    count = int(np.prod(geometry.native_shape))
    if count > most:
        raise CaseRejected(f"its T1CE has {count} voxels: at most {most} are taken")


def _leave(folder: Path, ready: Patient) -> None:
    for name, image in ready.prepared.images.items():
        np.save(folder / f"{name}.npy", image.voxels)
    np.save(folder / _GRID, ready.prepared.grid.affine)
    scan = ready.scan
    content = volume.encode(scan.geometry.to_native(_storable(scan.voxels_HWD)), scan.geometry)
    (folder / _SCAN).write_bytes(content)
    sources = [str(path) for path in ready.sources[ready.record.home_modality]]
    (folder / _SOURCES).write_text(json.dumps(sources))
    (folder / _RECORD).write_text(json.dumps(ready.record.as_json()))


def _storable(voxels: Array) -> Array:
    """Whole numbers as such, where they fit: a viewer fetches half as many bytes."""
    rounded = np.rint(voxels)
    limits = np.iinfo(np.int16)
    is_small = rounded.min() >= limits.min and rounded.max() <= limits.max
    if is_small and (rounded == voxels).all():
        return rounded.astype(np.int16)
    return voxels.astype(np.float32)


def _segmentation(folder: Path, _: _Order) -> None:
    """Leave the DICOM Segmentation of a mask."""
    asked = json.loads((folder / _ASKED).read_text())
    sources = [Path(name) for name in json.loads((folder / _SOURCES).read_text())]
    content = dicomseg.encode(
        np.load(folder / _MASK),
        geometries.from_json(asked["geometry"]),
        tasks.from_json(asked["task"]).targets,
        sources,
        made_by=asked["made_by"],
    )
    (folder / _SEGMENTATION).write_bytes(content)


_STEPS: Final[Mapping[str, Callable[[Path, _Order], None]]] = {
    "prepare": _prepare,
    "segmentation": _segmentation,
}


def _limit(limits: Limits) -> None:
    faulthandler.dump_traceback_later(limits.seconds + _GRACE_SECONDS, exit=True)
    if sys.platform == "linux":
        import resource

        most = limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seconds = int(4 * limits.seconds)
        # Also of the programs that it starts, should it be gone before them.
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def main(step: str, place: str) -> None:
    """Do a step; a problem that somebody can mend is left as a sentence."""
    folder = Path(place)
    order = jsonform.from_json(_Order, json.loads((folder / _ORDER).read_text()))
    _limit(order.limits)
    try:
        _STEPS[step](folder, order)
    except (CaseError, UsageError) as error:
        reason = error.reason if isinstance(error, CaseError) else str(error)
        (folder / _PROBLEM).write_text(json.dumps(reason))


if __name__ == "__main__":
    main(*sys.argv[1:])
