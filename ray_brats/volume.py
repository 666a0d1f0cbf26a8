"""NIfTI volumes in BraTS's own orientation, and the geometry that leads back.

Canonical arrays are `(H, W, D)` in LPS order: the first index grows towards the patient's
left, the second to posterior, the third to superior, so the axial slice stands third.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from ray_brats import labels, storage
from ray_brats.config import Shape
from ray_brats.errors import CaseFailed, CaseRejected
from ray_brats.labels import LabelMap

Array = npt.NDArray[Any]
Affine = tuple[tuple[float, ...], ...]

_IsalError = cast(type[Exception], isal_zlib.error)
_HEADER_BYTES = 348
_MAX_SIDE_VOX = 2048
_MAX_VOLUME_BYTES = 2 << 30
_LPS = axcodes2ornt(("L", "P", "S"))


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a canonical, cropped array lies in the file it came from."""

    native_shape: Shape
    native_affine: Affine
    """Voxel index to world, mm, 4 × 4 rows."""
    qform_code: int
    sform_code: int
    axes: Shape
    """Native axis that becomes the first, second, third canonical axis."""
    flips: tuple[bool, bool, bool]
    """Whether each canonical axis runs against its native one."""
    crop_start_vox: Shape = (0, 0, 0)
    """First voxel of the crop in the canonical grid; negative where the crop is padded."""
    crop_shape_vox: Shape = (0, 0, 0)

    @property
    def canonical_shape(self) -> Shape:
        """Shape of the whole volume in canonical axes."""
        first, second, third = (self.native_shape[axis] for axis in self.axes)
        return first, second, third

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along each canonical axis."""
        columns = np.linalg.norm(np.array(self.native_affine)[:3, :3], axis=0)
        first, second, third = (float(columns[axis]) for axis in self.axes)
        return first, second, third

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return math.prod(self.spacing_mm) / 1000

    def crop(self, canonical: Array) -> Array:
        """The crop of a canonical volume; a view where nothing is padded."""
        inside, outside = self._overlap()
        if all(a.stop - a.start == n for a, n in zip(inside, self.crop_shape_vox, strict=True)):
            return canonical[outside]
        padded = np.zeros((*self.crop_shape_vox, *canonical.shape[3:]), canonical.dtype)
        padded[inside] = canonical[outside]
        return padded

    def to_canonical(self, cropped: Array) -> Array:
        """A cropped array in the whole canonical grid; zero outside the crop."""
        inside, outside = self._overlap()
        whole = np.zeros((*self.canonical_shape, *cropped.shape[3:]), cropped.dtype)
        whole[outside] = cropped[inside]
        return whole

    def to_native(self, cropped: Array) -> Array:
        """A cropped mask in the grid of the file it came from; zero outside the crop."""
        whole = self.to_canonical(cropped)
        whole = whole[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return np.ascontiguousarray(np.transpose(whole, np.argsort(self.axes)))

    def _overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        inside, outside = [], []
        for start, size, limit in zip(
            self.crop_start_vox, self.crop_shape_vox, self.canonical_shape, strict=True
        ):
            first, last = max(start, 0), min(start + size, limit)
            last = max(last, first)
            outside.append(slice(first, last))
            inside.append(slice(first - start, last - start))
        return tuple(inside), tuple(outside)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One file: voxels in canonical axes, in the type they were stored with."""

    voxels_HWD: Array
    geometry: Geometry


def read(uri: str) -> Volume:
    """Read one NIfTI file, plain or gzipped.

    Returns:
        Voxels in LPS order, of the stored type (scaled ones float32).

    Raises:
        CaseRejected: the file is absent, truncated, no NIfTI, or of an absurd size.
        CaseFailed: the storage did not answer; may pass next time.
    """
    name = storage.name_of(uri)
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise CaseRejected("no such file", uri) from error
    except OSError as error:
        raise CaseFailed(f"cannot be read: {error}", uri) from error
    return parse(content, name)


def parse(content: bytes, name: str) -> Volume:
    """The volume in the bytes of a `.nii` or `.nii.gz` file; see `read`."""
    header, plain = _inflate(content, name)
    shape = tuple(int(n) for n in header.get_data_shape())
    offset = int(header.get_data_offset())
    dtype = header.get_data_dtype()
    count = math.prod(shape)
    if len(plain) < offset + count * dtype.itemsize:
        raise CaseRejected(
            f"truncated: the header promises {offset + count * dtype.itemsize} bytes, "
            f"the file holds {len(plain)}",
            name,
        )
    voxels = np.frombuffer(plain, dtype, count, offset).reshape(shape, order="F")
    if len(shape) == 4:
        voxels = voxels[..., 0]
    voxels = _scaled(voxels, header)
    geometry = _geometry(header, voxels.shape, name)
    return Volume(voxels_HWD=_to_canonical(voxels, geometry), geometry=geometry)


def _inflate(content: bytes, name: str) -> tuple[nib.Nifti1Header, bytes | memoryview]:
    """Header first: nothing is inflated before its promise is known to be sane."""
    gzipped = content[:2] == b"\x1f\x8b"
    try:
        if not gzipped:
            header = _header(content[:_HEADER_BYTES], name)
            _check_promise(header, name)
            return header, content
        stream = isal_zlib.decompressobj(wbits=31)
        start = stream.decompress(content, 4096)
        header = _header(start[:_HEADER_BYTES], name)
        promised = _check_promise(header, name)
        rest = stream.decompress(stream.unconsumed_tail, max(promised - len(start), 1))
    except (_IsalError, zlib.error, EOFError) as error:
        raise CaseRejected(f"truncated or damaged gzip ({error})", name) from error
    return header, start + rest


def _header(start: bytes, name: str) -> nib.Nifti1Header:
    if len(start) < _HEADER_BYTES:
        raise CaseRejected(f"truncated: {len(start)} bytes are no NIfTI header", name)
    if not nib.Nifti1Header.may_contain_header(start):
        raise CaseRejected("not a NIfTI-1 file, whatever its name says", name)
    try:
        return nib.Nifti1Header(start, check=True)
    except (HeaderDataError, ValueError, KeyError) as error:
        raise CaseRejected(f"the NIfTI header is not valid: {error}", name) from error


def _check_promise(header: nib.Nifti1Header, name: str) -> int:
    """Bytes the whole file must hold; raises where dimensions, type or size are absurd."""
    shape = tuple(int(n) for n in header.get_data_shape())
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)):
        raise CaseRejected(f"shape {shape}: expected three axes, or a fourth of length 1", name)
    if any(not 0 < side <= _MAX_SIDE_VOX for side in shape[:3]):
        raise CaseRejected(f"shape {shape}: expected 1–{_MAX_SIDE_VOX} voxels a side", name)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise CaseRejected(f"voxels of type {dtype}: expected integers or floats", name)
    size = int(header.get_data_offset()) + math.prod(shape) * dtype.itemsize
    if size > _MAX_VOLUME_BYTES:
        raise CaseRejected(f"{size} bytes of voxels: at most {_MAX_VOLUME_BYTES} are read", name)
    return int(size)


def _scaled(voxels: Array, header: nib.Nifti1Header) -> Array:
    slope, intercept = header.get_slope_inter()
    if slope in (None, 1.0) and intercept in (None, 0.0):
        return voxels
    scaled = voxels.astype(np.float32) * np.float32(slope if slope is not None else 1)
    return np.asarray(scaled + np.float32(intercept or 0), np.float32)


def _geometry(header: nib.Nifti1Header, shape: Sequence[int], name: str) -> Geometry:
    affine = header.get_best_affine()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise CaseRejected(
            "the affine has no inverse: the header's qform and sform are damaged", name
        )
    transform = ornt_transform(io_orientation(affine), _LPS)
    native_of = np.argsort(transform[:, 0].astype(int))
    first, second, third = (int(n) for n in native_of)
    flips = tuple(bool(transform[axis, 1] < 0) for axis in (first, second, third))
    height, width, depth = (int(n) for n in shape)
    geometry = Geometry(
        native_shape=(height, width, depth),
        native_affine=tuple(tuple(float(x) for x in row) for row in affine),
        qform_code=int(header["qform_code"]),
        sform_code=int(header["sform_code"]),
        axes=(first, second, third),
        flips=(flips[0], flips[1], flips[2]),
    )
    return with_crop(geometry, (0, 0, 0), geometry.canonical_shape)


def with_crop(geometry: Geometry, start_vox: Sequence[int], shape_vox: Sequence[int]) -> Geometry:
    """The same geometry with another crop, in canonical voxels."""
    values = {**geometry.__dict__}
    values["crop_start_vox"] = tuple(int(n) for n in start_vox)
    values["crop_shape_vox"] = tuple(int(n) for n in shape_vox)
    return Geometry(**values)


def _to_canonical(voxels: Array, geometry: Geometry) -> Array:
    turned = np.transpose(voxels, geometry.axes)
    return turned[tuple(slice(None, None, -1 if flip else 1) for flip in geometry.flips)]


def same_grid(a: Geometry, b: Geometry) -> str:
    """ "" where two files share a grid, else what differs."""
    if a.native_shape != b.native_shape:
        return f"shape {a.native_shape} against {b.native_shape}"
    difference = np.abs(np.array(a.native_affine) - np.array(b.native_affine)).max()
    if difference > 1e-3:
        return f"affine differs by up to {difference:.3g} mm"
    return ""


def read_mask(uri: str, release: str | None, *, grid: Geometry | None = None) -> LabelMap:
    """A mask as class indices in canonical axes, uint8 `(H, W, D)`.

    Args:
        release: whose labels it carries.
        grid: where it must lie.

    Raises:
        CaseRejected: damaged, on another grid, or labels that the release does not define.
    """
    if release is None:
        raise CaseRejected("the names do not tell whose labels these are: pass --release", uri)
    item = read(uri)
    difference = same_grid(item.geometry, grid) if grid else ""
    if difference:
        raise CaseRejected(
            f"not on the grid of its case: {difference}; masks are never resampled in silence", uri
        )
    try:
        return labels.to_class_index(item.voxels_HWD, release)
    except labels.UnknownLabelsError as error:
        raise CaseRejected(str(error), uri) from error


def encode_mask(mask_native: npt.NDArray[np.uint8], geometry: Geometry) -> bytes:
    """A native mask as the bytes of a `.nii.gz`: the input's shape, affine and header codes.

    Equal masks give equal bytes: the gzip header holds neither a time nor a name.
    """
    image = nib.Nifti1Image(mask_native, np.array(geometry.native_affine))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, geometry.qform_code)
    image.set_sform(image.affine, geometry.sform_code)
    return gzip_bytes(image.to_bytes())


def gzip_bytes(plain: bytes) -> bytes:
    """gzip without a time or a name in its header."""
    stream = isal_zlib.compressobj(2, isal_zlib.DEFLATED, -15)
    body = stream.compress(plain) + stream.flush()
    trailer = zlib.crc32(plain).to_bytes(4, "little") + len(plain).to_bytes(4, "little")
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + body + trailer
