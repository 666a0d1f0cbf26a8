"""DICOM to NIfTI by dcm2niix: geometry, gaps, compression, limits, and what is said."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dicoms as make
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases.raw import conversion
from ray_brats.cases.raw.conversion import Limits
from ray_brats.cases.raw.dicoms import DicomSeries, inventory
from ray_brats.errors import CaseFailed, CaseRejected, UsageError

pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")

SHAPE = (20, 24, 12)
VOXELS = make.voxels_of(SHAPE)


def oblique(*, plane: str = "axial") -> np.ndarray:
    """A grid of 5 mm slices that is turned out of every plane, LPS."""
    axes = {"axial": [0, 1, 2], "sagittal": [1, 2, 0], "coronal": [0, 2, 1]}[plane]
    a, b = np.deg2rad([12, -8])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (about_x @ about_z @ np.eye(3)[:, axes]) * [0.9, 0.8, 5]
    affine[:3, 3] = [-81.5, -70.25, 33]
    return affine


def series_of(*paths: Path) -> DicomSeries:
    found = inventory(paths)
    (series,) = found.series
    assert found.ignored == ()
    return series


def one(series: DicomSeries, folder: Path) -> tuple[nib.Nifti1Image, Mapping[str, Any]]:
    ((path, sidecar),) = conversion.converted(series, folder)
    return nib.load(path), sidecar


def by_place(image: nib.Nifti1Image, affine_lps: np.ndarray) -> np.ndarray:
    """The voxels of an image at the voxels of a grid; both must be the same up to their order."""
    between = np.linalg.inv(image.affine) @ make.lps_of(affine_lps)
    index = np.indices(SHAPE).reshape(3, -1)
    found = between[:3, :3] @ index + between[:3, 3:]
    assert np.abs(found - np.rint(found)).max() < 0.01
    return np.asarray(image.dataobj)[tuple(np.rint(found).astype(int))].reshape(SHAPE)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_every_voxel_is_where_its_header_says(tmp_path: Path, plane: str) -> None:
    affine = oblique(plane=plane)
    image, sidecar = one(
        series_of(*make.write(tmp_path / "in", VOXELS, affine, make.FLAIR)), tmp_path / "out"
    )
    assert np.array_equal(by_place(image, affine), VOXELS)
    assert sidecar["SeriesDescription"] == "t2_tirm_tra_dark-fluid"
    assert sidecar["InversionTime"] == pytest.approx(2.5)
    assert sidecar[conversion.NOTES] == []


@pytest.mark.parametrize("missing", [(4, 5), (1,), (10,), (1, 2, 3, 7)])
@pytest.mark.parametrize("down", [False, True])
def test_with_missing_slices_the_others_are_where_they_were(
    tmp_path: Path, missing: tuple[int, ...], down: bool
) -> None:
    affine = oblique()
    if down:
        affine[:3, 2] *= -1
    there = [k for k in range(SHAPE[2]) if k not in missing]
    series = series_of(*make.write(tmp_path / "in", VOXELS, affine, make.T1, slices=there))
    assert series.missing_slices == len(missing)
    image, sidecar = one(series, tmp_path / "out")
    found = by_place(image, affine)
    assert np.array_equal(found[:, :, there], VOXELS[:, :, there])
    (note,) = sidecar[conversion.NOTES]
    assert note.startswith(f"what {len(missing)} missing slice(s) would show")
    assert sidecar["EchoTime"] == pytest.approx(0.012)
    # Slices grow by 20 each, and noise is up to 50.
    expected = VOXELS.astype(float)[:, :, list(missing)]
    assert np.abs(found[:, :, list(missing)] - expected).max() < 60


@given(st.sets(st.integers(1, 8), max_size=5))
def test_what_is_linear_is_filled_in_as_it_was(missing: set[int]) -> None:
    whole = np.broadcast_to(np.arange(10, dtype=np.int16) * 7, (2, 3, 10))
    there = [k for k in range(10) if k not in missing]
    filled = conversion.filled_in(whole[:, :, there], there)
    assert filled.dtype == np.int16
    assert np.array_equal(filled, whole)


def test_uneven_slices_have_their_mean_distance(tmp_path: Path) -> None:
    heights = [0, 5, 10, 17, 22]
    paths = []
    for number, height in enumerate(heights):
        affine = np.array(make.AXIAL_5MM)
        affine[2, 3] = height - 5 * number
        tags = dataclasses.replace(make.T1, others={"InstanceNumber": number + 1})
        paths += make.write(tmp_path / "in", VOXELS, affine, tags, slices=[number])
    series = series_of(*paths)
    assert "vary" in series.warnings[0]
    image, _ = one(series, tmp_path / "out")
    assert image.affine[2, 2] == pytest.approx(5.5)


@pytest.mark.parametrize("compressed", ["rle", "enhanced"])
def test_compressed_and_enhanced_images_are_the_same_voxels(
    tmp_path: Path, compressed: str
) -> None:
    affine = oblique()
    if compressed == "rle":
        paths = make.write(tmp_path / "in", VOXELS, affine, make.T2, rle=True)
    else:
        paths = [make.enhanced(tmp_path / "in", VOXELS, affine, make.T2)]
    image, sidecar = one(series_of(*paths), tmp_path / "out")
    assert np.array_equal(by_place(image, affine), VOXELS)
    assert sidecar["SeriesNumber"] == 3


def test_two_echoes_are_two_images(tmp_path: Path) -> None:
    paths = []
    for echo, te_ms in enumerate((12, 98), start=1):
        tags = dataclasses.replace(make.T2, te_ms=te_ms, others={"EchoNumbers": echo})
        paths += make.write(tmp_path / f"{echo}", VOXELS, make.AXIAL_5MM, tags, uid=f"e{echo}")
    series = series_of(*paths)
    assert series.volumes == 2
    assert "EchoTime" not in series.sidecar
    found = conversion.converted(series, tmp_path / "out")
    assert sorted(sidecar["EchoTime"] for _, sidecar in found) == pytest.approx([0.012, 0.098])
    assert len({path.name for path, _ in found}) == 2


def test_slices_of_several_echo_times_are_one_image_all_the_same(tmp_path: Path) -> None:
    paths = []
    for k in range(SHAPE[2]):
        tags = dataclasses.replace(make.T1, te_ms=12 + 0.5 * (k % 2))
        paths += make.write(tmp_path / "in", VOXELS, make.AXIAL_5MM, tags, slices=[k])
    image, _ = one(series_of(*paths), tmp_path / "out")
    assert np.array_equal(by_place(image, make.AXIAL_5MM), VOXELS)


def test_names_of_files_and_patients_reach_nothing_that_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "Doe^Jane 1950"
    tags = dataclasses.replace(make.T1, patient="SECRET-1", others={"PatientBirthDate": "19500101"})
    ((path, sidecar),) = conversion.converted(
        series_of(*make.write(folder, VOXELS, make.AXIAL_5MM, tags)), tmp_path / "out"
    )
    told = [str(sidecar), path.name, path.with_suffix(".json").read_text()]
    content = path.read_bytes()
    for secret in ("Doe", "Jane", "SECRET", "1950", "20200102"):
        assert not any(secret in text for text in told)
        assert secret.encode() not in content


def test_what_it_cannot_read_is_a_sentence(tmp_path: Path) -> None:
    paths = make.write(tmp_path / "in", VOXELS, make.AXIAL_5MM, make.T1, rle=True)
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.9"))
    with pytest.raises(CaseRejected, match="compressed in a way that dcm2niix does not read"):
        conversion.converted(series_of(*paths), tmp_path / "out")


def of_pydicom(name: str) -> Path:
    """A file of pydicom's own, in its wheel."""
    import pydicom.data.data_manager

    return Path(pydicom.data.data_manager.DATA_ROOT, "test_files", name)


COMPRESSED = ["jp2klossless", "jpeg_ls_lossless", "RLE"]


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_what_others_compressed_has_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    expected, _ = one(series_of(of_pydicom("MR_small.dcm")), tmp_path / "plain")
    found, _ = one(series_of(of_pydicom(f"MR_small_{syntax}.dcm")), tmp_path / "out")
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_what_breaks_off_is_a_sentence_without_a_path(tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "in.dcm"
    path.write_bytes(of_pydicom(f"MR_small_{syntax}.dcm").read_bytes()[:-2500])
    with pytest.raises(CaseRejected, match=r"\Aits images are (damaged|truncated)"):
        conversion.converted(series_of(path), tmp_path / "out")


def fake(tmp_path: Path, script: str) -> str:
    """A program in the place of dcm2niix; the last but one of its arguments is where it writes."""
    path = tmp_path / "program"
    path.write_text(f"#!{sys.executable}\nimport sys, time\nout = sys.argv[-2]\n{script}\n")
    path.chmod(0o755)
    return str(path)


WILD = [
    ("time.sleep(60)", r"not done with it after 0\.3 s"),
    ("with open(out + '/a.nii', 'wb') as f:\n while True: f.write(bytes(9999))", "more and more"),
    ("while True: print('x' * 9999)", "writes more and more"),
    ("bytes(1 << 33)", "makes no image of it"),
    ("print('Error: Unable to decode JPEG.')\nsys.exit(1)", "damaged"),
    ("print('Doe^Jane')", r"\Adcm2niix makes no image of it\Z"),
]


@pytest.mark.parametrize(("script", "reason"), WILD)
def test_a_program_that_runs_wild_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    binary = fake(tmp_path, script)
    monkeypatch.setattr(conversion, "program", lambda: binary)
    series = series_of(*make.write(tmp_path / "in", VOXELS, make.AXIAL_5MM, make.T1))
    is_slow = "time.sleep" in script
    seconds = 0.3 if is_slow else 20
    limits = Limits(seconds=seconds, output_bytes=8 << 20, memory_bytes=1 << 30)
    began = time.monotonic()
    with pytest.raises(CaseFailed if is_slow else CaseRejected, match=reason):
        conversion.converted(series, tmp_path / "out", limits=limits)
    assert time.monotonic() - began < 5


def test_a_series_that_promises_too_much_is_not_begun(tmp_path: Path) -> None:
    series = series_of(*make.write(tmp_path / "in", VOXELS, make.AXIAL_5MM, make.T1))
    huge = dataclasses.replace(series, voxel_bytes=1 << 40)
    with pytest.raises(CaseRejected, match="at most 2147483648 are allowed"):
        conversion.converted(huge, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = series_of(*make.write(tmp_path / "in", VOXELS, make.AXIAL_5MM, make.T1))
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    with pytest.raises(UsageError, match=r"pip install 'ray-brats\[raw\]'"):
        conversion.converted(series, tmp_path / "out")
