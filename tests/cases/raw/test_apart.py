"""A study in a process of its own: what comes out of it, and what its files cannot do."""

from __future__ import annotations

import io
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import heads
import nibabel as nib
import numpy as np
import psutil
import pytest

from ray_brats.cases import volume
from ray_brats.cases.raw import apart, patient, studies
from ray_brats.cases.raw.apart import Limits
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.errors import CaseFailed, CaseRejected

OPTIONS = PreparationOptions(space="patient", keep_skull=True)
"""What needs no network that finds brains."""


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files have a folder of their own, which is empty at the end; no process is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(apart, "OPTIONS", OPTIONS)
    yield
    assert not list(folder.iterdir())
    assert not [one for one in psutil.Process().children(recursive=True) if is_ours(one)]


def is_ours(process: psutil.Process) -> bool:
    try:
        return apart.__name__ in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two series; read only."""
    folder = tmp_path_factory.mktemp("study") / "P1"
    heads.write_study(folder, 1, ("t1ce", "flair"))
    return folder


def rejected(archive: bytes, limits: Limits | None = None) -> str:
    with apart.opened(archive, limits, needed=("t1ce",)) as one:
        with pytest.raises(CaseRejected) as caught:
            one.prepare()
    return caught.value.reason


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.raw
def test_a_study_comes_out_as_it_does_of_this_process(study: Path) -> None:
    expected = patient.prepare("study", studies.find(study)[0], OPTIONS)
    with apart.opened(heads.archive_of(study)) as one:
        found = one.prepare()
    assert found.record == expected.record
    assert not found.is_dicom
    for name, image in expected.prepared.images.items():
        shown = found.scans[name]
        np.testing.assert_array_equal(shown.voxels_HWD, image.voxels)
        np.testing.assert_allclose(shown.geometry.canonical_affine, expected.prepared.grid.affine)
    scan, series = volume.parse(found.scan, "scan"), nib.load(study / "t1ce.nii.gz")
    np.testing.assert_array_equal(
        scan.geometry.to_native(scan.voxels_HWD), np.asarray(series.dataobj)
    )
    np.testing.assert_array_equal(scan.geometry.native_affine, series.affine)


@pytest.mark.raw
def test_what_is_no_study_is_a_sentence_without_a_place(study: Path) -> None:
    assert rejected(zipped(**{"notes.txt": b"no scan"})).startswith("no series of MR")
    scan = (study / "t1ce.nii.gz").read_bytes()
    two = zipped(**{"a/t1ce.nii.gz": scan, "b/t1ce.nii.gz": scan})
    assert rejected(two) == "2 studies: expected one, of one patient on one occasion"
    assert rejected(b"PK\x03\x04 nothing")
    plain = zipped(**{"flair.nii.gz": (study / "flair.nii.gz").read_bytes()})
    assert rejected(plain) == "modality t1ce is missing (the case has: flair)"
    assert "at most 3 are taken" in rejected(heads.archive_of(study), Limits(voxels=3))


@pytest.mark.raw
def test_a_process_over_its_limits_is_a_sentence(study: Path) -> None:
    archive = heads.archive_of(study)
    assert "more than fits into 0.03125 GiB" in rejected(archive, Limits(memory_bytes=32 << 20))
    began = time.monotonic()
    assert "not prepared after 0.5 s" in rejected(archive, Limits(seconds=0.5))
    assert time.monotonic() - began < 5


def test_a_study_that_nobody_waits_for_ends(study: Path) -> None:
    gone = threading.Event()
    with apart.opened(heads.archive_of(study), gone=gone) as one:
        threading.Timer(0.5, gone.set).start()
        began = time.monotonic()
        with pytest.raises(CaseFailed, match="nobody waits"):
            one.prepare()
        assert time.monotonic() - began < 5
