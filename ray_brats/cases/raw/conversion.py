"""One series of DICOM to NIfTI by dcm2niix, a program that hostile files are given to.

It runs for itself, over links to the images of one series alone: no name of a file, a patient or
another series reaches it. Time, memory and what it writes have limits. Of what it says only what is
in a table here is passed on, in our words: its own lines may quote headers.

dcm2niix takes slices as if none were missing. Where some are, the image is written anew with each
slice in its place, and what is missing filled in between its neighbours, which is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ray_brats.arrays import Array
from ray_brats.cases.raw.dicoms import DicomSeries
from ray_brats.cases.raw.extra import imported
from ray_brats.errors import CaseFailed, CaseRejected

_OPTIONS = (
    *("-g", "i"),  # No settings that a user keeps.
    *("-b", "y", "-ba", "y"),  # A sidecar without dates and names.
    *("-z", "n", "-f", "%s"),
    *("-l", "o", "-x", "i"),  # Voxels and axes as they are.
)
_MERGED = ("-m", "y")
"""One image of all slices, where headers have told that they are on one grid."""
_COMPUTED = re.compile(r"_(Eq|Tilt)(_\d+)?\Z")
"""Endings of what it computes besides: other slices than the scanner's."""
_COMPLAINTS = (
    (
        r"Unsupported transfer syntax|Unable to decompress|Unsupported compression",
        "its images are compressed in a way that dcm2niix does not read: "
        "`gdcmconv -w` or `dcmdjpeg` writes them plainly",
    ),
    (
        r"ecompression error|decode failure|ailed to (decode|read image)|Unable to decode|corrupt",
        "its images are damaged, or cannot be decompressed",
    ),
    (r"not large enough to store", "its images are truncated"),
    (r"Unsupported DICOM bit-depth", "its images are of a depth that dcm2niix does not read"),
    (r"Unable to determine slice direction", "dcm2niix cannot tell where its slices lie"),
)
"""What lines of dcm2niix hold, and what is said of it."""
NOTES = "ConversionNotes"
"""Key of a sidecar that is ours."""
_SAID_BYTES = 1 << 20
_LOOK_SECONDS = 0.02
_SAME_DISTANCE = 0.01
"""Share by which distances of slices may differ that are the same."""
_RAS = (-1.0, -1.0, 1.0)
"""Signs of a direction in NIfTI's world that is given in DICOM's."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the conversion of one series may take."""

    seconds: float = 300.0
    output_bytes: int = 2 << 30
    memory_bytes: int = 8 << 30
    """Address space, where the system can limit it (Linux)."""


def program() -> str:
    """Where dcm2niix is; `UsageError` where it is not installed."""
    return str(imported("dcm2niix").bin)


def converted(
    series: DicomSeries, folder: Path, *, limits: Limits | None = None
) -> list[tuple[Path, Mapping[str, Any]]]:
    """The images of a series as NIfTI files in an empty folder, each with its sidecar.

    Several echoes are several images. A sidecar has what headers say, in the keys of BIDS, and
    under `NOTES` a list of sentences about the conversion.

    Raises:
        CaseRejected: dcm2niix cannot read it, or it is larger than any series.
        CaseFailed: it took longer than it may.
        UsageError: dcm2niix is not installed.
    """
    limits = limits or Limits()
    if series.voxel_bytes > limits.output_bytes:
        raise CaseRejected(f"its images hold {series.voxel_bytes} bytes: {_allowed(limits)}")
    command = [program(), *_OPTIONS, *(_MERGED if series.volumes == 1 else ())]
    folder.mkdir(parents=True, exist_ok=True)
    with _linked(series.paths, folder) as links:
        said = _run([*command, "-o", str(folder), str(links)], folder, limits)
    images = [path for path in sorted(folder.glob("*.nii")) if not _COMPUTED.search(path.stem)]
    notes = [text for pattern, text in _COMPLAINTS if re.search(pattern, said)]
    if not images:
        raise CaseRejected(next(iter(notes), "dcm2niix makes no image of it"))
    notes += _placed(images, series)
    return [(path, {**series.sidecar, **_sidecar_of(path), NOTES: notes}) for path in images]


@contextlib.contextmanager
def _linked(paths: Sequence[Path], folder: Path) -> Iterator[Path]:
    """A folder of links to files, which are called by their order alone."""
    with tempfile.TemporaryDirectory(prefix=".links-", dir=folder) as links:
        for number, path in enumerate(paths):
            Path(links, f"{number:06d}").symlink_to(path.absolute())
        yield Path(links)


def _run(command: Sequence[str], folder: Path, limits: Limits) -> str:
    """Run a program that writes into a folder; what it says."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"LC_ALL": "C", "PATH": os.defpath},
        )
        try:
            _limit_memory(process.pid, limits.memory_bytes)
            _watch(process, lambda: _size(folder) + os.fstat(output.fileno()).st_size, limits)
        finally:
            # Nothing of it stays behind, whatever ends this.
            process.kill()
            process.wait()
        output.seek(0)
        return output.read(_SAID_BYTES).decode(errors="replace")


def _watch(process: subprocess.Popen[bytes], size: Callable[[], int], limits: Limits) -> None:
    """Wait for a program's end; an error where it takes or writes more than it may."""
    end = time.monotonic() + limits.seconds
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_SECONDS)
            return
        if size() > limits.output_bytes:
            raise CaseRejected(f"dcm2niix writes more and more of it: {_allowed(limits)}")
        if time.monotonic() > end:
            raise CaseFailed(f"dcm2niix was not done with it after {limits.seconds:g} s")


def _limit_memory(process_id: int, most_bytes: int) -> None:
    if sys.platform == "linux":
        import resource

        # It may have ended already, and not every system lets us.
        with contextlib.suppress(OSError):
            resource.prlimit(process_id, resource.RLIMIT_AS, (most_bytes, most_bytes))


def _size(folder: Path) -> int:
    """Of the files of a folder, which come and go meanwhile."""
    size = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _allowed(limits: Limits) -> str:
    return f"at most {limits.output_bytes} are allowed"


def _sidecar_of(path: Path) -> dict[str, Any]:
    """What dcm2niix wrote beside an image; nothing where it did not."""
    try:
        content = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


# --- slices in their places -----------------------------------------------------------------


def _placed(images: Sequence[Path], series: DicomSeries) -> list[str]:
    """Put each slice of a stack where its header says; what is said of that.

    Raises:
        CaseRejected: there is another image than one of all slices.
    """
    if series.volumes != 1 or series.slice_mm is None or series.orientation is None:
        return []
    shapes = [nib.load(path).shape for path in images]
    if len(images) != 1 or shapes[0][2:] != (len(series.paths),):
        raise CaseRejected(
            f"dcm2niix makes images of {', '.join(map(str, shapes))} voxels of its "
            f"{len(series.paths)} slices: expected one image of all"
        )
    image = nib.load(images[0])
    distance_mm = float(np.linalg.norm(image.affine[:3, 2]))
    is_there = abs(distance_mm - series.slice_mm) < _SAME_DISTANCE * series.slice_mm
    if not series.places and is_there:
        return []
    places = series.places or tuple(range(len(series.paths)))
    affine = np.array(image.affine)
    normal = np.cross(series.orientation[:3], series.orientation[3:]) * _RAS
    if affine[:3, 2] @ normal < 0:
        places = tuple(places[-1] - place for place in reversed(places))
    affine[:3, 2] *= series.slice_mm / distance_mm
    # Read before the file is written anew.
    voxels = filled_in(np.asarray(image.dataobj).copy(), places)
    header = image.header.copy()
    header.set_data_dtype(voxels.dtype)
    nib.save(nib.Nifti1Image(voxels, affine, header), images[0])
    if not series.places:
        return []
    return [
        f"what {series.missing_slices} missing slice(s) would show is filled in between their "
        "neighbours, and shows nothing of the patient"
    ]


def filled_in(voxels_IJK: Array, places: Sequence[int]) -> Array:
    """Slices in their places along the third axis, and between them what lies between.

    Args:
        voxels_IJK: the slices that are there.
        places: which slice of the whole each one is, from 0 and rising.
    """
    there, whole = np.array(places), np.arange(places[-1] + 1)
    above = np.searchsorted(there, whole)
    below = np.where(there[above] == whole, above, above - 1)
    share = (whole - there[below]) / np.maximum(there[above] - there[below], 1)
    low, high = voxels_IJK[:, :, below], voxels_IJK[:, :, above].astype(np.float32)
    between = low + share.astype(np.float32) * (high - low)
    if voxels_IJK.dtype.kind in "iu":
        return np.asarray(np.rint(between), voxels_IJK.dtype)
    return np.asarray(between, np.float32)
