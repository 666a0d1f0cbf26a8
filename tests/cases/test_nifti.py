"""Hostile files: every mutation is read correctly or is a named rejection, within bounds."""

from __future__ import annotations

import gzip
import io
import os
import time
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ray_brats.cases import nifti, volume
from ray_brats.errors import CaseRejected

MUTATIONS = int(os.environ.get("RAY_BRATS_MUTATIONS", "3000"))
"""How many; the first ones are always the same."""
VOXELS = np.random.default_rng(0).integers(0, 500, (9, 8, 7)).astype(np.int16)
AFFINE = np.array([[-1, 0.1, 0, 40], [0, -1.5, 0, 50], [0, 0, 2, -60], [0, 0, 0, 1.0]])


def image_bytes(voxels: np.ndarray = VOXELS, kind: type = nib.Nifti1Image) -> bytes:
    image = kind(voxels, AFFINE)
    image.set_qform(np.diag([-1.0, -1, 1, 1]), 1)
    return bytes(image.to_bytes())


def patched(at: int, kind: str, *values: float) -> bytes:
    """The plain image with other values in its header."""
    plain = bytearray(image_bytes())
    new = np.array(values, kind).tobytes()
    plain[at : at + len(new)] = new
    return bytes(plain)


def forms(*, qform_code: int = 1, sform: np.ndarray = AFFINE, unit_code: int = 0) -> bytes:
    """The plain image with an sform, codes and a unit as they are, beside its qform."""
    plain = bytearray(patched(280, "<f4", *sform[:3].ravel()))
    plain[252:256] = np.array([qform_code, 2], "<i2").tobytes()
    plain[123] = unit_code
    return bytes(plain)


def big_endian() -> bytes:
    header = nib.Nifti1Header(endianness=">")
    return bytes(nib.Nifti1Image(VOXELS, AFFINE, header).to_bytes())


def scaled() -> bytes:
    return patched(112, "<f4", 0.5, -3)


BASES = {
    "int16": image_bytes(),
    "float32": image_bytes(VOXELS.astype(np.float32) / 7),
    "scaled": scaled(),
    "big-endian": big_endian(),
    "one frame": image_bytes(VOXELS[..., None]),
    "nifti-2": image_bytes(kind=nib.Nifti2Image),
}


def nibabels(plain: bytes) -> np.ndarray | None:
    """What nibabel reads, in canonical axes; None where it reads nothing."""
    kind = nib.Nifti2Image if plain[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Image
    try:
        image = kind.from_bytes(plain)
        voxels = np.asarray(image.dataobj)
        voxels = voxels.reshape(voxels.shape[:3])
        transform = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("LPS")
        )
        return np.asarray(nib.orientations.apply_orientation(voxels, transform))
    except Exception:  # noqa: BLE001 - whatever it says of a broken file
        return None


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", BASES)
def test_every_kind_is_read_as_nibabel_reads_it(name: str, packed: bool) -> None:
    content = gzip.compress(BASES[name]) if packed else BASES[name]
    item = volume.parse(content, "a.nii.gz")
    assert item.voxels_HWD == pytest.approx(nibabels(BASES[name]))
    assert item.voxels_HWD.dtype.isnative


def mutated(random: np.random.Generator) -> tuple[bytes, bytes | None]:
    """A damaged file, and its inflated content where the damage is inside."""
    plain = bytearray(BASES[list(BASES)[random.integers(len(BASES))]])
    where = random.integers(7)
    if where <= 2:
        for _ in range(random.integers(1, 4)):
            _damage_header(plain, random)
    elif where == 3:
        plain = plain[: random.integers(len(plain))]
    elif where == 4:
        plain += random.bytes(random.integers(1, 5000))
    if random.integers(3) == 0:
        return bytes(plain), bytes(plain)
    content = bytearray(gzip.compress(bytes(plain), int(random.integers(0, 10)), mtime=0))
    if where <= 4:
        return bytes(content), bytes(plain)
    if where == 5:
        for _ in range(random.integers(1, 6)):
            content[random.integers(len(content))] ^= 1 << random.integers(8)
    else:
        cut = int(random.integers(len(content)))
        options = (
            content[:cut],
            content + random.bytes(random.integers(1, 300)),
            content[:cut] + random.bytes(random.integers(1, 30)) + content[cut:],
            content[:cut] + content[cut + random.integers(1, 30) :],
            content + content,
            content + bytes(random.integers(1, 600)),
        )
        content = options[random.integers(len(options))]
    return bytes(content), None


EXTREMES = {
    "<i2": [-1, 0, 1, 2, 7, 8, 32767, -32768, 2048, 2049],
    ">i2": [1, 3, 32767, -1],
    "<f4": [0, -1, 1e-30, 1e30, np.nan, np.inf, -np.inf, 352, 353, 351.5],
    "<i4": [348, 540, -1, 2**31 - 1],
}


def _damage_header(plain: bytearray, random: np.random.Generator) -> None:
    if random.integers(2):
        plain[random.integers(352)] = random.integers(256)
        return
    kind = list(EXTREMES)[random.integers(len(EXTREMES))]
    value = np.array(EXTREMES[kind][random.integers(len(EXTREMES[kind]))], kind).tobytes()
    # dim, datatype, pixdim, vox_offset, scl_slope, quaternion, sform: where it hurts.
    fields = [*range(40, 56, 2), 70, 72, *range(76, 120, 4), *range(252, 328, 4)]
    at = fields[random.integers(len(fields))]
    plain[at : at + len(value)] = value


def agrees(item: volume.Volume, plain: bytes) -> bool:
    expected = nibabels(plain)
    if expected is None:
        return False
    same_shape = item.voxels_HWD.shape == expected.shape
    return same_shape and np.allclose(item.voxels_HWD, expected, rtol=1e-5, equal_nan=True)


def read_or_reason(content: bytes) -> tuple[volume.Volume | None, str]:
    """The volume or why there is none; any other exception is a failure of the test."""
    try:
        return volume.parse(content, "hostile.nii.gz"), ""
    except CaseRejected as error:
        return None, error.reason if error.file == "hostile.nii.gz" else ""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_mutation_is_read_correctly_or_rejected_by_name() -> None:
    random = np.random.default_rng(20)
    ends: Counter[str] = Counter()
    slowest = 0.0
    for number in range(MUTATIONS):
        content, plain = mutated(random)
        began = time.process_time()
        item, problem = read_or_reason(content)
        if item is None:
            assert 0 < len(problem) < 300, number
            ends[problem.split(" ")[0]] += 1
        else:
            if plain is None:
                plain = b"".join(_members(content))
            assert agrees(item, plain), f"mutation {number} was read wrongly"
            ends["read"] += 1
        slowest = max(slowest, time.process_time() - began)
    assert slowest < 2
    assert ends["read"] > MUTATIONS / 10
    assert MUTATIONS - ends["read"] > MUTATIONS / 10
    assert len(ends) > 6


def _members(content: bytes) -> list[bytes]:
    """What zlib inflates, member by member, up to garbage."""
    found = []
    while content[:2] == b"\x1f\x8b":
        stream = zlib.decompressobj(31)
        found.append(stream.decompress(content))
        content = stream.unused_data
    return found or [content]


def peak_bytes(content: bytes, reason: str) -> int:
    """Most memory that the rejection of a file takes."""
    tracemalloc.start()
    with pytest.raises(CaseRejected, match=reason):
        volume.parse(content, "bomb.nii.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def stream_of(start: bytes, zeros: int) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(zeros >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def test_a_bomb_behind_a_small_image_is_not_inflated() -> None:
    content = stream_of(image_bytes(), 300 << 20)
    assert peak_bytes(content, "far more than its header promises") < 10 << 20


@pytest.mark.parametrize(
    ("dims", "reason"),
    [
        ((3, 32767, 32767, 32767), "voxels a side"),
        ((3, -1, -1, -1), "voxels a side"),  # 65,535 as the signed field holds it
        ((3, 2048, 2048, 2048), "at most"),
        ((3, 512, 512, 512), "no scan compresses so far"),
        ((3, 0, 8, 8), "voxels a side"),
        ((3, 8, 8, 9), "truncated"),
        ((4, 9, 8, 7, 2), "three axes"),
    ],
)
def test_an_absurd_promise_is_refused_before_inflating(dims: tuple[int, ...], reason: str) -> None:
    assert peak_bytes(gzip.compress(patched(40, "<i2", *dims)), reason) < 3 << 20


@pytest.mark.parametrize("end", [-1, -4, -5, -8], ids=["length", "length", "checksum", "checksum"])
def test_checksum_and_length_are_verified(end: int) -> None:
    content = bytearray(gzip.compress(image_bytes()))
    content[end] ^= 1
    with pytest.raises(CaseRejected, match="damaged gzip"):
        volume.parse(bytes(content), "a.nii.gz")


@pytest.mark.parametrize("missing", [1, 4, 8, 9])
def test_a_missing_end_is_noticed_although_all_voxels_are_there(missing: int) -> None:
    with pytest.raises(CaseRejected, match="truncated"):
        volume.parse(gzip.compress(image_bytes())[:-missing], "a.nii.gz")


def test_garbage_after_the_stream_and_several_members_are_read() -> None:
    plain = image_bytes()
    expected = volume.parse(plain, "a.nii").voxels_HWD
    members = gzip.compress(plain[:500]) + gzip.compress(plain[500:])
    for content in (gzip.compress(plain) + b"garbage" * 99, members, members + bytes(512)):
        assert (volume.parse(content, "a.nii.gz").voxels_HWD == expected).all()


def test_a_header_with_its_voxels_elsewhere_is_refused() -> None:
    with pytest.raises(CaseRejected, match="inside the header"):
        volume.parse(patched(108, "<f4", 0), "a.nii")


def test_an_sform_of_zeros_beside_a_qform_is_none() -> None:
    item = volume.parse(forms(sform=np.zeros((4, 4))), "a.nii")
    assert np.allclose(item.geometry.native_affine, np.diag([-1, -1, 1, 1]))


@pytest.mark.parametrize(("unit_code", "factor"), [(1, 1e-3), (3, 1e3), (0, 1), (2, 1)])
def test_a_header_may_count_in_metres_or_microns(unit_code: int, factor: float) -> None:
    sform = np.diag([factor] * 3 + [1]) @ AFFINE
    item = volume.parse(forms(sform=sform, unit_code=unit_code), "a.nii")
    assert np.allclose(item.geometry.native_affine, AFFINE, rtol=1e-5)
    mask = item.geometry.to_native(item.voxels_HWD.astype(np.uint8))
    written = gzip.decompress(volume.encode(mask, item.geometry))
    header = nib.Nifti1Header(written[:348])
    assert np.allclose(header.get_sform(), sform, rtol=1e-5)
    assert int(header["xyzt_units"]) == (unit_code or 2)


@pytest.mark.parametrize("unit_code", [1, 3])
def test_a_unit_that_makes_no_voxel_of_a_scan_is_not_believed(unit_code: int) -> None:
    item = volume.parse(forms(unit_code=unit_code), "a.nii")
    assert np.allclose(item.geometry.native_affine, AFFINE)


def test_a_mask_carries_both_forms_of_its_scan() -> None:
    turn = np.array([[0.98, -0.199, 0, 5], [0.199, 0.98, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]])
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(turn @ np.diag([-1.0, -1.5, 2, 1]), 1)
    image.set_sform(AFFINE, 2)
    item = volume.parse(bytes(image.to_bytes()), "a.nii")
    assert np.allclose(item.geometry.native_affine, AFFINE)
    assert item.geometry.forms_apart_mm > 5
    mask = item.geometry.to_native(item.voxels_HWD.astype(np.uint8))
    written = nib.Nifti1Header(gzip.decompress(volume.encode(mask, item.geometry))[:348])
    assert np.allclose(written.get_qform(), image.header.get_qform(), atol=1e-4)
    assert np.allclose(written.get_sform(), AFFINE, atol=1e-5)
    assert (int(written["qform_code"]), int(written["sform_code"])) == (1, 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"patient,age\nA,61\n" * 40, "not a NIfTI file, whatever its name says"),
        (gzip.compress(b"patient,age\nA,61\n" * 40, mtime=0), "not a NIfTI"),
        (b"", "truncated: 0 bytes"),
        (b"\x1f\x8b", "truncated"),
        (patched(280, "<f4", 1e-4), "mm a side"),
        (patched(280, "<f4", np.nan), "affine"),
        (forms(qform_code=0, sform=np.zeros((4, 4))), "the header's sform is damaged"),
        (patched(70, "<i2", 32), "integers or floats"),
        (patched(70, "<i2", 9999), "not valid"),
        (patched(108, "<f4", np.inf), "not valid"),
    ],
)
def test_other_things_are_named(content: bytes, reason: str) -> None:
    with pytest.raises(CaseRejected, match=reason):
        volume.parse(content, "table.nii.gz")


def test_only_the_head_of_a_file_is_needed_for_its_header() -> None:
    big = image_bytes(np.random.default_rng(0).integers(0, 9, (99, 99, 99)).astype(np.int16))
    for content in (big, gzip.compress(big)):
        header = nifti.read_header(content[: nifti.HEAD_BYTES], "a.nii.gz")
        assert (header.shape, header.promised_bytes) == ((99, 99, 99), len(big))


# --- 4-D files --------------------------------------------------------------------------------

CHANNELS_HWDC = np.stack([VOXELS, VOXELS[::-1] + 1, VOXELS * 2, 7 - VOXELS], axis=-1)
STORED = {
    "int16": image_bytes(CHANNELS_HWDC),
    "float32": image_bytes(CHANNELS_HWDC.astype(np.float32) / 7),
    "nifti-2": image_bytes(CHANNELS_HWDC, nib.Nifti2Image),
    "big-endian": bytes(
        nib.Nifti1Image(CHANNELS_HWDC, AFFINE, nib.Nifti1Header(endianness=">")).to_bytes()
    ),
}


def read_channels(content: bytes, *wanted: int | None) -> list[np.ndarray]:
    """The stored voxels of some channels."""
    headers = [
        nifti.read_header(content[: nifti.HEAD_BYTES], "a.nii.gz", channel=channel)
        for channel in wanted
    ]
    return nifti.read_voxels(content, headers, "a.nii.gz")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", STORED)
def test_channels_are_read_as_nibabel_reads_them(name: str, packed: bool) -> None:
    plain = STORED[name]
    kind = nib.Nifti2Image if name == "nifti-2" else nib.Nifti1Image
    expected = np.asarray(kind.from_bytes(plain).dataobj)
    content = gzip.compress(plain) if packed else plain
    for wanted in ((0,), (3,), (1, 2), (3, 0, 3)):
        for channel, voxels in zip(wanted, read_channels(content, *wanted), strict=True):
            assert voxels.dtype.isnative
            assert voxels.shape == VOXELS.shape
            assert (voxels == expected[..., channel]).all()


def test_scaled_channels_are_scaled_as_one_file_is(tmp_path: Path) -> None:
    image = nib.Nifti1Image(CHANNELS_HWDC, np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    expected = nib.load(tmp_path / "a.nii.gz").get_fdata()
    item = volume.read(f"{tmp_path}/a.nii.gz#2", exact=True)
    assert (item.voxels_HWD == expected[..., 2]).all()
    assert (item.channels, item.geometry.native_shape) == (4, VOXELS.shape)


def test_a_file_of_one_scan_has_a_first_channel() -> None:
    for plain in (BASES["int16"], BASES["one frame"]):
        (voxels,) = read_channels(plain, 0)
        assert (voxels == VOXELS).all()


@pytest.mark.parametrize(
    ("dims", "channel", "reason"),
    [
        ((4, 9, 8, 7, 4), None, r"three axes.*SCAN\.nii\.gz#0 to SCAN\.nii\.gz#3"),
        ((4, 9, 8, 7, 4), 4, "no channel 4: the file holds 4, and the first is #0"),
        ((3, 9, 8, 7, 1), 1, "no channel 1: the file holds 1"),
        ((4, 9, 8, 7, 32767), 32766, "truncated"),
        ((4, 2048, 2048, 1, 32767), 0, "at most"),
        ((4, 9, 8, 7, 0), 0, "not valid|three axes"),
        ((4, 9, 8, 7, -1), 0, "not valid|three axes"),
        ((5, 9, 8, 7, 1, 4), 0, "three axes"),
        ((5, 9, 8, 7, 2, 2), 0, "three axes"),
    ],
)
def test_no_channel_is_guessed(dims: tuple[int, ...], channel: int | None, reason: str) -> None:
    content = bytearray(STORED["int16"])
    content[40 : 40 + 2 * len(dims)] = np.array(dims, "<i2").tobytes()
    for stored in (bytes(content), gzip.compress(bytes(content))):
        with pytest.raises(CaseRejected, match=reason):
            read_channels(stored, channel)


def test_a_million_channels_are_within_the_same_bounds() -> None:
    image = nib.Nifti2Image(np.zeros((1, 1, 1, 1), np.int16), AFFINE)
    content = bytearray(image.to_bytes())
    for count, reason in ((10**6, "truncated"), (10**12, "at most 671088640 are read")):
        content[16:56] = np.array([4, 1, 1, 1, count], "<i8").tobytes()
        with pytest.raises(CaseRejected, match=reason):
            read_channels(bytes(content), 0)
    content[16:56] = np.array([4, 1, 1, 1, 10**6], "<i8").tobytes()
    voxels = np.arange(10**6, dtype=np.int16)
    (last,) = read_channels(gzip.compress(bytes(content[:544]) + voxels.tobytes()), 999_999)
    assert last.item() == voxels[-1]


def test_only_the_channels_asked_for_are_held() -> None:
    sides = (128, 128, 96)
    voxels = np.zeros((*sides, 8), np.float32)
    voxels[..., 5] = np.random.default_rng(0).random(sides)
    plain = image_bytes(voxels)
    content = gzip.compress(plain, 1)
    header = nifti.read_header(content[: nifti.HEAD_BYTES], "a.nii.gz", channel=5)
    for stored in (content, plain):
        tracemalloc.start()
        (found,) = nifti.read_voxels(stored, [header], "a.nii.gz")
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (found == voxels[..., 5]).all()
        assert held < 1.1 * header.voxel_bytes
        # What is inflated, what is left of the stream, and pieces of what is passed over.
        assert peak < 2 * header.voxel_bytes + 2 * len(content) + (24 << 20)
        assert peak < len(plain)


@pytest.mark.parametrize("channel", range(4))
def test_a_damage_behind_the_channel_is_noticed_too(channel: int) -> None:
    content = gzip.compress(STORED["int16"])
    for damaged in (content[:-9], content[: len(content) // 2]):
        with pytest.raises(CaseRejected, match="truncated"):
            read_channels(damaged, channel)
    changed = bytearray(content)
    changed[-6] ^= 1
    with pytest.raises(CaseRejected, match="damaged gzip"):
        read_channels(bytes(changed), channel)
    with pytest.raises(CaseRejected, match="truncated"):
        read_channels(STORED["int16"][:-1], channel)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_4d_files_are_read_correctly_or_rejected_by_name() -> None:
    random = np.random.default_rng(21)
    read, longest = 0, 0
    for number in range(MUTATIONS // 3):
        plain = bytearray(list(STORED.values())[random.integers(len(STORED))])
        _damage_header(plain, random)
        channel = int(random.integers(4))
        content = bytes(plain) if number % 2 else gzip.compress(bytes(plain), 1)
        try:
            (voxels,) = read_channels(content, channel)
        except CaseRejected as error:
            longest = max(longest, len(error.reason))
            continue
        is_2 = plain[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
        image = (nib.Nifti2Image if is_2 else nib.Nifti1Image).from_bytes(bytes(plain))
        expected = np.asarray(image.dataobj.get_unscaled())
        expected = expected.reshape(*expected.shape[:3], -1)[..., channel]
        assert np.array_equal(voxels, expected, equal_nan=voxels.dtype.kind == "f"), number
        read += 1
    assert read > MUTATIONS / 30
    assert 0 < longest < 300


def test_passing_over_channels_takes_a_time_that_grows_with_the_file_and_no_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stream copies the input that it leaves: all of the file for each piece of it, once."""
    voxels = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 8)).astype(np.uint8)
    content = gzip.compress(image_bytes(voxels), 1)
    left = []

    class Told:
        def __init__(self, wbits: int) -> None:
            self.stream = zlib.decompressobj(wbits)

        def decompress(self, given: bytes, count: int) -> bytes:
            part = self.stream.decompress(given, count)
            left.append(len(self.stream.unconsumed_tail))
            return part

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

    monkeypatch.setattr(nifti.isal_zlib, "decompressobj", Told)
    monkeypatch.setattr(nifti, "_SKIPPED_BYTES", 1 << 14)
    (last,) = read_channels(content, 7)
    assert (last == voxels[..., 7]).all()
    assert sum(left) < 6 * len(content), "60 times, once"
