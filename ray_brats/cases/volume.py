"""Volumes: the voxels of one NIfTI file in BraTS's own orientation, and masks as files.

Canonical arrays are `(H, W, D)` in LPS order: the first index grows towards the patient's
left, the second to posterior, the third to superior, so the axial slice stands third.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from ray_brats import labels
from ray_brats.arrays import Array, Floats
from ray_brats.cases import nifti
from ray_brats.cases.geometry import UNITS_MM, Geometry, Unit, of_file, same_grid, scaled
from ray_brats.cases.nifti import Header
from ray_brats.errors import CaseFailed, CaseRejected
from ray_brats.files import channels, storage
from ray_brats.labels import LabelMap, Task
from ray_brats.recipes import tasks

REMOTE_BYTES = 64 << 20
"""First request for a file elsewhere: a usual scan comes whole with it. Of a larger file the
header is judged before the rest is asked for."""

_ENDINGS = (".nii", ".nii.gz")
_UNIT_NAMES: dict[Unit, str] = {"mm": "mm", "metre": "meter", "micron": "micron"}


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One file: voxels in canonical axes, in the type they were stored with."""

    voxels_HWD: Array
    geometry: Geometry
    channels: int = 1
    """How many scans the file holds that this one was read from."""


def missing_modality(wanted: Sequence[str], available: Collection[str]) -> tuple[str, str] | None:
    """Why the modalities of a case do not suffice, and the first that is missing; None else."""
    missing = [name for name in wanted if name not in available]
    if not missing:
        return None
    has = ", ".join(sorted(available)) or "none"
    return f"modality {', '.join(missing)} is missing (the case has: {has})", missing[0]


def read(uri: str, *, exact: bool = False) -> Volume:
    """Read one NIfTI file, plain or gzipped.

    Args:
        uri: the file; of a 4-D file with the number of a channel behind it, `FILE.nii.gz#0`.
        exact: scale voxels in float64, as nibabel does, where the header asks for it; in float32
            a scan of bytes takes half of that.

    Returns:
        Voxels in LPS order, of the stored type where they are not scaled.

    Raises:
        CaseRejected: the file is absent, truncated, no NIfTI, of an absurd size, or 4-D where no
            channel of it is named.
        CaseFailed: the storage did not answer; may pass next time.
    """
    return read_together([uri], exact=exact)[uri]


def read_together(uris: Sequence[str], *, exact: bool = False) -> dict[str, Volume]:
    """The volumes of one file, by URI; it is fetched and inflated once, whatever is read of it.

    Args:
        uris: one URI, or several channels of one 4-D file.
        exact: as of `read`, which says what is raised.
    """
    name = uris[0]
    file = channels.file_of(name)
    with _named(name):
        remote = storage.is_remote(file)
        first = REMOTE_BYTES if remote else nifti.HEAD_BYTES
        content = storage.read_bytes(file, end=first)
        head = content[: nifti.HEAD_BYTES]
        headers = [nifti.read_header(head, uri, channel=channels.split(uri)[1]) for uri in uris]
        if not remote or len(content) == first:
            del content
            # Deflate cannot make voxels longer by more than a thousandth.
            most = int(headers[0].promised_bytes * 1.01) + (2 << 20)
            content = storage.read_bytes(file, end=most)
    read_voxels = nifti.read_voxels(content, headers, name)
    found = zip(uris, headers, read_voxels, strict=True)
    return {uri: _volume(header, voxels, exact=exact) for uri, header, voxels in found}


def read_header(uri: str) -> Header:
    """The header of one file, from its first bytes; raises as `read`."""
    file, channel = channels.split(uri)
    with _named(uri):
        head = storage.read_bytes(file, end=nifti.HEAD_BYTES)
        return nifti.read_header(head, uri, channel=channel)


@contextlib.contextmanager
def _named(uri: str) -> Iterator[None]:
    """Errors of the storage inside become errors of the case."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise CaseRejected(f"no such file{_hint(uri)}", uri) from error
    except OSError as error:
        raise CaseFailed(f"cannot be read: {error}", uri) from error


def _hint(uri: str) -> str:
    """What to say of a name that seems to mean a channel and names none, or of a lost link."""
    file, mark, _ = uri.rpartition("#")
    is_meant = mark and channels.split(uri)[1] is None and file.lower().endswith(_ENDINGS)
    if is_meant:
        return "; a channel of a 4-D file is a number, as in SCAN.nii.gz#0"
    place = Path(channels.file_of(uri))
    is_lost = not storage.is_remote(uri) and place.is_symlink()
    return f": it is a link to {place.readlink()}, which is not there" if is_lost else ""


def from_array(voxels: Array, affine: Floats) -> Volume:
    """A volume from an array in native index order and its affine (voxel index to world, mm).

    Raises:
        CaseRejected: not three axes, or an affine without an inverse.
    """
    if voxels.ndim != 3:
        raise CaseRejected(f"an array of shape {voxels.shape}: expected three axes")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise CaseRejected("the affine has no inverse")
    geometry = of_file(voxels.shape, affine, qform_code=1, sform_code=1)
    return Volume(voxels_HWD=geometry.canonical(voxels), geometry=geometry)


def parse(content: bytes, name: str, *, exact: bool = False) -> Volume:
    """The volume in the bytes of a `.nii` or `.nii.gz` file; see `read`."""
    header = nifti.read_header(content[: nifti.HEAD_BYTES], name)
    (voxels,) = nifti.read_voxels(content, [header], name)
    return _volume(header, voxels, exact=exact)


def _volume(header: Header, voxels: Array, *, exact: bool) -> Volume:
    if header.scale is not None:
        voxels = _scaled(voxels, header.scale, np.float64 if exact else np.float32)
    return Volume(
        voxels_HWD=header.geometry.canonical(voxels),
        geometry=header.geometry,
        channels=header.channels,
    )


def _scaled(voxels: Array, scale: tuple[float, float], dtype: npt.DTypeLike) -> Array:
    """The voxels as their header scales them, in float64 a slab at a time, and rounded once."""
    values = np.empty_like(voxels, dtype)
    # What becomes infinite here is rejected with the other infinite voxels.
    with np.errstate(over="ignore", invalid="ignore"):
        for plane in range(voxels.shape[-1]):
            values[..., plane] = voxels[..., plane] * np.float64(scale[0]) + scale[1]
    return values


def read_mask(
    uri: str,
    task: Task | None,
    *,
    grid: Geometry | None = None,
    raw_3_is_enhancing: bool = False,
) -> LabelMap:
    """A mask as class indices in canonical axes, uint8 `(H, W, D)`.

    Args:
        task: whose labels it carries; None where no name tells.
        grid: where it must lie.
        raw_3_is_enhancing: see `labels.to_class_index`.

    Raises:
        CaseRejected: damaged, on another grid, of a task that nobody tells, or with labels that the
            task does not define.
    """
    if task is None:
        raise CaseRejected("the names do not tell whose labels these are: pass --task", uri)
    mask = read(uri)
    difference = same_grid(mask.geometry, grid) if grid else ""
    if difference:
        raise CaseRejected(
            f"not on the grid of its case: {difference}; masks are never resampled in silence", uri
        )
    return class_indices(mask, task, uri, raw_3_is_enhancing=raw_3_is_enhancing)


def class_indices(
    mask: Volume, task: Task | None, uri: str, *, raw_3_is_enhancing: bool = False
) -> LabelMap:
    """The class indices of a mask that has been read; arguments and errors as of `read_mask`."""
    if task is None:
        raise CaseRejected("the names do not tell which task the labels follow: pass --task", uri)
    try:
        return labels.to_class_index(mask.voxels_HWD, task, raw_3_is_enhancing=raw_3_is_enhancing)
    except labels.UnknownLabelsError as error:
        held = np.rint(np.unique(mask.voxels_HWD)).tolist() if error.values else []
        others = tasks.that_define(held) if held else []
        advice = f"; {', '.join(others)} would: pass --task if it is one of them" if others else ""
        raise CaseRejected(f"{error}{advice}", uri) from error


def encode(native: Array, geometry: Geometry) -> bytes:
    """A native array as the bytes of a `.nii.gz`: the input's shape, unit, and both its forms.

    Where the forms of a scan disagree, programs that read different ones still see its mask on
    it. Equal arrays give equal bytes: the gzip header holds neither a time nor a name.
    """
    from_mm = 1 / UNITS_MM[geometry.unit]
    affine = scaled(geometry.native_affine, from_mm)
    image = nib.Nifti1Image(native, affine)
    image.header.set_xyzt_units(_UNIT_NAMES[geometry.unit])
    qform = affine if geometry.qform is None else scaled(geometry.qform, from_mm)
    image.set_qform(qform, geometry.qform_code)
    image.set_sform(affine, geometry.sform_code)
    return gzip_bytes(image.to_bytes())


def gzip_bytes(plain: bytes) -> bytes:
    """gzip without a time or a name in its header."""
    stream = isal_zlib.compressobj(2, isal_zlib.DEFLATED, -15)
    body = stream.compress(plain) + stream.flush()
    trailer = zlib.crc32(plain).to_bytes(4, "little") + len(plain).to_bytes(4, "little")
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + body + trailer
