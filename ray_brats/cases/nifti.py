"""NIfTI headers and gzip streams, read as if every file were hostile.

The header comes first: nothing more is inflated, and no more of the file is read, before
dimensions, type and size are known to be sane. Streams are inflated only as far as the header
promises, and their checksums are verified.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError

from ray_brats.arrays import Array, Floats, Shape
from ray_brats.cases import geometry
from ray_brats.cases.geometry import Geometry
from ray_brats.errors import CaseRejected

HEAD_BYTES = 16 << 10
"""First bytes of a file that are enough for its header, also of a gzipped one."""
MAX_FILE_BYTES = 640 << 20
"""Limit of an inflated file: a float32 scan of 512³ voxels and then some."""
GZIP_MAGIC = b"\x1f\x8b"
LENGTH_BYTES = 4
"""The end of a gzip stream: the length of what it inflates to, little-endian."""

_IsalError = cast(type[Exception], isal_zlib.error)
_HEADER_BYTES = 348
_NIFTI2_BYTES = 540
_MAX_SIDE_VOX = 2048
_SPACING_MM = (0.01, 100.0)
_SAME_FORM_MM = 1e-5
"""A qform holds a rotation as a quaternion of float32: the same grid is never quite the same."""
_UNIT_CODES: dict[int, geometry.Unit] = {1: "metre", 2: "mm", 3: "micron"}
_BOMB_BYTES = 128 << 20
_BOMB_RATIO = 500
"""A stream that inflates to so much, by so much, is no scan: those compress some tenfold."""
_SLACK_BYTES = 1 << 20
"""Bytes that may follow the voxels, as some writers pad."""
_SKIPPED_BYTES = 8 << 20
"""How much of a channel that nobody asked for is held at a time."""
_INVALID = (HeaderDataError, ValueError, KeyError, OverflowError, IndexError, TypeError)
_SILENT = logging.Logger("nibabel's remarks", logging.CRITICAL + 1)


@dataclass(frozen=True, kw_only=True)
class Header:
    """The promises of a header."""

    shape: Shape
    """Of one channel."""
    dtype: np.dtype[Any]
    """Type of the stored voxels, byte order included."""
    offset_bytes: int
    """Where the voxels of the first channel begin."""
    scale: tuple[float, float] | None
    """Slope and intercept, where voxels are to be scaled."""
    geometry: Geometry
    gzipped: bool
    channels: int = 1
    """How many lie one behind the other: the length of the fourth axis."""
    channel: int = 0
    """Which of them is asked for."""

    @property
    def voxel_bytes(self) -> int:
        """Length of the voxels of one channel."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def promised_bytes(self) -> int:
        """Length of the whole file with all of its channels, once inflated."""
        return self.offset_bytes + self.channels * self.voxel_bytes


def is_gzip(content: bytes) -> bool:
    """Whether a file that begins so is gzipped, whatever its name says."""
    return content[:2] == GZIP_MAGIC


def read_header(head: bytes, name: str, *, channel: int | None = None) -> Header:
    """The header in the first `HEAD_BYTES` of a file, plain or gzipped.

    Args:
        head: the bytes.
        name: what errors call the file.
        channel: which scan of a 4-D file is meant, from 0; None of a file that holds one alone.

    Raises:
        CaseRejected: no NIfTI, damaged, a promise that is absurd, or no such channel.
    """
    gzipped = is_gzip(head)
    start = Inflater(head, name).take(_NIFTI2_BYTES, exactly=False) if gzipped else head
    header = _header(start, name)
    if channel is None and header.channels > 1:
        raise CaseRejected(
            f"shape {(*header.shape, header.channels)}: expected three axes, or a fourth of "
            "length 1; of a 4-D file one channel is read, which a number behind its name says: "
            f"SCAN.nii.gz#0 to SCAN.nii.gz#{header.channels - 1}",
            name,
        )
    if channel is not None and channel >= header.channels:
        raise CaseRejected(
            f"no channel {channel}: the file holds {header.channels}, and the first is #0", name
        )
    return dataclasses.replace(header, gzipped=gzipped, channel=channel or 0)


def _header(start: bytes, name: str) -> Header:
    if len(start) < _HEADER_BYTES:
        raise CaseRejected(f"truncated: {len(start)} bytes are no NIfTI header", name)
    if nib.Nifti1Header.may_contain_header(start):
        kind, length = nib.Nifti1Header, _HEADER_BYTES
    elif len(start) >= _NIFTI2_BYTES and nib.Nifti2Header.may_contain_header(start):
        kind, length = nib.Nifti2Header, _NIFTI2_BYTES
    else:
        raise CaseRejected("not a NIfTI file, whatever its name says", name)
    try:
        # NumPy speaks of NaN in fields that are refused below anyway.
        with np.errstate(all="ignore"):
            header = kind(start[:length], check=False)
            header.check_fix(logger=_SILENT, error_level=40)
            return _checked(header, length, name)
    except _INVALID as error:
        raise CaseRejected(f"the NIfTI header is not valid: {error}", name) from error


def _checked(header: Any, length: int, name: str) -> Header:
    sides = tuple(int(n) for n in header.get_data_shape())
    if len(sides) < 3 or any(n != 1 for n in sides[4:]) or any(n < 1 for n in sides[3:]):
        raise CaseRejected(f"shape {sides}: expected three axes, or a fourth of length 1", name)
    shape = (sides[0], sides[1], sides[2])
    if any(not 0 < side <= _MAX_SIDE_VOX for side in shape):
        raise CaseRejected(f"shape {shape}: expected 1–{_MAX_SIDE_VOX} voxels a side", name)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise CaseRejected(f"voxels of type {dtype}: expected integers or floats", name)
    offset = int(header.get_data_offset())
    if offset < length:
        raise CaseRejected(
            f"voxels begin at byte {offset}, inside the header: expected a single file with both",
            name,
        )
    checked = Header(
        gzipped=False,
        shape=shape,
        dtype=dtype,
        offset_bytes=offset,
        scale=_scale(header),
        geometry=_geometry(header, shape, name),
        channels=math.prod(sides[3:]),
    )
    size = checked.promised_bytes
    if size > MAX_FILE_BYTES:
        raise CaseRejected(
            f"the header promises {size} bytes: at most {MAX_FILE_BYTES} are read",
            name,
        )
    return checked


def _scale(header: Any) -> tuple[float, float] | None:
    slope, intercept = header.get_slope_inter()
    scale = (1.0 if slope is None else float(slope), float(intercept or 0.0))
    return None if scale == (1.0, 0.0) else scale


def _geometry(header: Any, shape: Shape, name: str) -> Geometry:
    qform, sform = _forms(header)
    which, affine = "dimensions", header.get_base_affine()
    if qform is not None:
        which, affine = "qform", qform
    if sform is not None:
        which, affine = "sform", sform
    if not _is_sound(affine):
        raise CaseRejected(f"the affine has no inverse: the header's {which} is damaged", name)
    unit = _unit(header, affine)
    affine = geometry.scaled(affine, geometry.UNITS_MM[unit])
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if not _is_plausible(spacing_mm):
        sides = " × ".join(f"{side:.3g}" for side in spacing_mm)
        least, most = _SPACING_MM
        raise CaseRejected(f"voxels of {sides} mm: expected {least}–{most:g} mm a side", name)
    whole = geometry.of_file(
        shape,
        affine,
        qform_code=int(header["qform_code"]),
        sform_code=int(header["sform_code"]),
    )
    return dataclasses.replace(whole, qform=_other_form(qform, unit, affine), unit=unit)


def _forms(header: Any) -> tuple[Floats | None, Floats | None]:
    """The header's qform and sform, as it counts; None where it has none."""
    try:
        qform = header.get_qform(coded=False) if header["qform_code"] > 0 else None
    except HeaderDataError:
        # A quaternion that is none counts only where nothing else tells.
        qform = np.full((4, 4), np.nan)
    sform = header.get_sform(coded=False) if header["sform_code"] > 0 else None
    if qform is not None and sform is not None and not sform[:3, :3].any():
        # Some software leaves an sform of zeros under a code that says it counts.
        sform = None
    return qform, sform


def _is_sound(affine: Floats) -> bool:
    return bool(np.isfinite(affine).all()) and np.linalg.matrix_rank(affine[:3, :3]) == 3


def _unit(header: Any, affine: Floats) -> geometry.Unit:
    """What the affine counts in: what the header says, where that makes a voxel of a scan."""
    named: geometry.Unit | None = _UNIT_CODES.get(int(header["xyzt_units"]) & 7)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    return named if named and _is_plausible(sides * geometry.UNITS_MM[named]) else "mm"


def _is_plausible(spacing_mm: Floats) -> bool:
    least, most = _SPACING_MM
    return bool(least <= spacing_mm.min() and spacing_mm.max() <= most)


def _other_form(form: Floats | None, unit: geometry.Unit, affine: Floats) -> geometry.Affine | None:
    """A form of the header in mm where it is not the affine; None where it is, or is damaged."""
    if form is None or not _is_sound(form):
        return None
    form = geometry.scaled(form, geometry.UNITS_MM[unit])
    near = _SAME_FORM_MM * np.array([1, 1, 1, 100])
    return None if (np.abs(form - affine)[:3] <= near).all() else geometry.affine_of(form)


class Inflater:
    """Inflates a gzip file piece by piece, member by member.

    Zero bytes or other garbage after the last member are ignored, as gzip itself does.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._at, self._name = memoryview(content), 0, name
        self._stream = isal_zlib.decompressobj(wbits=31)
        self._ended = False

    def take(self, count: int, *, exactly: bool = True) -> bytes:
        """The next `count` bytes; fewer at the end, which is an error where `exactly`.

        Raises:
            CaseRejected: truncated or damaged.
        """
        parts = list(self._parts(count, exactly=exactly))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes, of which few are held at a time; raises as `take`."""
        for _ in self._parts(count, most=_SKIPPED_BYTES):
            pass

    @property
    def _is_used_up(self) -> bool:
        return self._at >= len(self._content)

    def _parts(
        self, count: int, *, exactly: bool = True, most: int | None = None
    ) -> Iterator[bytes]:
        while count > 0 and not self._ended:
            part = self._piece(count if most is None else min(count, most), fed=most)
            yield part
            count -= len(part)
            if not part and self._is_used_up and not self._ended:
                if exactly:
                    raise CaseRejected("truncated: the gzip stream breaks off", self._name)
                break
        if count > 0 and exactly:
            raise CaseRejected(
                f"truncated: the file holds {count} bytes fewer than its header promises",
                self._name,
            )

    def _piece(self, count: int, *, fed: int | None = None) -> bytes:
        # The stream copies what it leaves of its input: small pieces of a long one take long.
        given = self._content[self._at :][:fed]
        try:
            part = bytes(self._stream.decompress(given, count))
        except (_IsalError, zlib.error, EOFError) as error:
            raise CaseRejected(f"damaged gzip stream ({error})", self._name) from error
        stream = self._stream
        self._at += len(given) - len(stream.unused_data if stream.eof else stream.unconsumed_tail)
        if stream.eof:
            self._ended = not is_gzip(bytes(self._content[self._at :][:2]))
            self._stream = isal_zlib.decompressobj(wbits=31)
        return part

    def finish(self) -> None:
        """Reach the end, and with it the checksum; little may come before it.

        Raises:
            CaseRejected: truncated, damaged, or far more than was promised.
        """
        left = _SLACK_BYTES
        while not self._ended:
            part = self._piece(left)
            left -= len(part)
            if left <= 0:
                raise CaseRejected("holds far more than its header promises", self._name)
            if not part and self._is_used_up and not self._ended:
                raise CaseRejected("truncated: the gzip stream breaks off", self._name)


def read_voxels(content: bytes, headers: Sequence[Header], name: str) -> list[Array]:
    """The stored voxels of a whole file, unscaled, in the machine's byte order.

    Args:
        content: the file.
        headers: its header, once for each channel that is asked for.
        name: what errors call it.

    Returns:
        An array `(i, j, k)` for each header. Of a 4-D file those channels alone are held.
    """
    header = headers[0]
    if is_gzip(content):
        if header.promised_bytes > max(_BOMB_BYTES, _BOMB_RATIO * len(content)):
            raise CaseRejected(
                f"{len(content)} bytes promise {header.promised_bytes}: no scan compresses so far",
                name,
            )
        read = _inflated(content, header, {item.channel for item in headers}, name)
        return [_array(read[item.channel], item, 0) for item in headers]
    if len(content) < header.promised_bytes:
        raise CaseRejected(
            f"truncated: the header promises {header.promised_bytes} bytes, "
            f"the file holds {len(content)}",
            name,
        )
    starts = (item.offset_bytes + item.channel * item.voxel_bytes for item in headers)
    found = [_array(content, item, at) for item, at in zip(headers, starts, strict=True)]
    # A view of one channel would keep the others in memory.
    return [voxels.copy("K") for voxels in found] if header.channels > 1 else found


def _inflated(
    content: bytes, header: Header, wanted: Collection[int], name: str
) -> dict[int, bytes]:
    """Bytes of the voxels of some channels; the stream is passed once, and to its end."""
    stream = Inflater(content, name)
    stream.take(header.offset_bytes)
    read, at = {}, 0
    for channel in sorted(wanted):
        stream.skip((channel - at) * header.voxel_bytes)
        read[channel] = stream.take(header.voxel_bytes)
        at = channel + 1
    stream.skip((header.channels - at) * header.voxel_bytes)
    stream.finish()
    return read


def _array(plain: bytes, header: Header, at: int) -> Array:
    flat = np.frombuffer(plain, header.dtype, math.prod(header.shape), at)
    if not header.dtype.isnative:
        flat = flat.astype(header.dtype.newbyteorder("="))
    return flat.reshape(header.shape, order="F")
