"""From a DICOM study to a DICOM Segmentation, and back by two other readers."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import io
import logging
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicoms as make
import nibabel as nib
import numpy as np
import own_tasks
import pytest

import ray_brats
from ray_brats.cases import volume
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw import choice, dicomseg, studies
from ray_brats.errors import CaseRejected, UsageError
from ray_brats.labels import LabelMap, Targets
from ray_brats.recipes.tasks import TASKS

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")
pytest.importorskip("highdicom")

SHAPE = (20, 24, 12)
VOXELS = make.voxels_of(SHAPE)
GLIOMA = TASKS["gli-2023"].targets
TREATED = TASKS["gli-post"].targets
PLANES = {"axial": [0, 1, 2], "sagittal": [1, 2, 0], "coronal": [0, 2, 1]}


def grid(plane: str = "axial", *, down: bool = False, oblique: bool = False) -> np.ndarray:
    """A grid of 8 mm slices that holds a head, LPS; with `down` they come from the other end."""
    a, b = np.deg2rad([12, -8]) if oblique else (0, 0)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.eye(3)[:, PLANES[plane]]
    affine[:3, :3] *= [4.5, 4, -8 if down else 8]
    affine[:3, 3] = [-81.5, -70.25, 33]
    return affine


@dataclass(frozen=True, kw_only=True)
class Read:
    """A series that was found, converted and read."""

    geometry: Geometry
    sources: Sequence[Path]

    def mask(self, targets: Targets, seed: int = 0) -> LabelMap:
        """Every class in a box that reaches to some of the borders, on the file's own axes."""
        rng = np.random.default_rng(seed)
        mask = np.zeros(self.geometry.native_shape, np.uint8)
        box = tuple(slice(side // 4, None) for side in mask.shape)
        mask[box] = rng.integers(0, targets.class_count, mask[box].shape)
        return mask

    def encode(
        self, mask: LabelMap, targets: Targets = GLIOMA, made_by: str = "starter 1"
    ) -> bytes:
        return dicomseg.encode(mask, self.geometry, targets, self.sources, made_by=made_by)


def found_in(folder: Path) -> Read:
    """The way of `prepare` to the one series of a folder."""
    (study,) = studies.find(folder)
    series, _ = studies.series_of(study, folder.with_name("work"))
    (one,) = choice.choose(series).chosen.values()
    geometry = volume.read(str(one.path)).geometry
    return Read(geometry=geometry, sources=one.sources)


@pytest.fixture(scope="module")
def axial(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """An ordinary series; read only."""
    folder = tmp_path_factory.mktemp("axial")
    make.write(folder / "in", VOXELS, grid(), make.T1CE)
    return found_in(folder / "in")


def read(content: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(content))


def frames(found: Any) -> list[Any]:
    return list(found.PerFrameFunctionalGroupsSequence)


def position(frame: Any) -> tuple[float, ...]:
    return tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))


def number(frame: Any) -> int:
    return int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def referred(frame: Any) -> list[str]:
    """The images that a frame refers to."""
    return [
        image.ReferencedSOPInstanceUID
        for derivation in frame.get("DerivationImageSequence", [])
        for image in derivation.SourceImageSequence
    ]


def by_place(found: Any, geometry: Geometry) -> LabelMap:
    """The mask that frames and their places make, on the grid of a NIfTI file: pydicom alone."""
    shared = found.SharedFunctionalGroupsSequence[0]
    right, down = np.reshape(
        np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float), (2, 3)
    )
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    to_index = np.linalg.inv(make.lps_of(np.array(geometry.native_affine)))
    mask = np.zeros(geometry.native_shape, np.uint8)
    pixels = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    rows, columns = np.indices(pixels.shape[1:])[..., None]
    for frame, inside in zip(frames(found), pixels.astype(bool), strict=True):
        places = position(frame) + rows * row_mm * down + columns * column_mm * right
        index = places[inside] @ to_index[:3, :3].T + to_index[:3, 3]
        assert np.abs(index - np.rint(index)).max(initial=0) < 0.01
        into = tuple(np.rint(index).astype(int).T)
        assert not mask[into].any()
        mask[into] = number(frame)
    return mask


def by_dcmqi(content: bytes, geometry: Geometry, folder: Path) -> LabelMap:
    """The same by the reader of DCMTK and ITK, which writes NIfTI of what is not empty."""
    dcmqi = importlib.import_module("dcmqi")
    (folder / "seg.dcm").write_bytes(content)
    program = Path(dcmqi.__file__).parent / "bin" / "segimage2itkimage"
    command = [program, "--mergeSegments", "--outputType", "nii", "--outputDirectory", folder]
    subprocess.run([*command, "--inputDICOM", folder / "seg.dcm"], check=True, capture_output=True)
    image = nib.load(folder / "1.nii.gz")
    labels = np.asarray(image.dataobj)
    into = np.linalg.inv(np.array(geometry.native_affine)) @ image.affine
    index = np.argwhere(labels > 0)
    places = np.rint(index @ into[:3, :3].T + into[:3, 3]).astype(int)
    mask = np.zeros(geometry.native_shape, np.uint8)
    mask[tuple(places.T)] = labels[tuple(index.T)]
    return mask


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("oblique", [False, True])
def test_a_mask_comes_back_voxel_for_voxel(
    tmp_path: Path, plane: str, down: bool, oblique: bool
) -> None:
    make.write(tmp_path / "in", VOXELS, grid(plane, down=down, oblique=oblique), make.T1CE)
    one = found_in(tmp_path / "in")
    mask = one.mask(TREATED)
    found = read(one.encode(mask, TREATED))
    assert np.array_equal(by_place(found, one.geometry), mask)


@pytest.mark.parametrize(("plane", "missing"), [("axial", ()), ("sagittal", ()), ("coronal", (5,))])
def test_a_second_library_reads_the_same(
    tmp_path: Path, plane: str, missing: Sequence[int]
) -> None:
    there = [k for k in range(SHAPE[2]) if k not in missing]
    make.write(tmp_path / "in", VOXELS, grid(plane, oblique=True), make.T1CE, slices=there)
    one = found_in(tmp_path / "in")
    mask = one.mask(GLIOMA)
    assert np.array_equal(by_dcmqi(one.encode(mask), one.geometry, tmp_path), mask)


def test_each_frame_refers_to_the_image_of_its_place(axial: Read) -> None:
    lies = {}
    for path in axial.sources:
        image = pydicom.dcmread(path, stop_before_pixels=True)
        lies[image.SOPInstanceUID] = tuple(map(float, image.ImagePositionPatient))
        series = image.SeriesInstanceUID
    found = read(axial.encode(axial.mask(GLIOMA)))
    for frame in frames(found):
        (uid,) = referred(frame)
        assert lies[uid] == position(frame)
    (all_of,) = found.ReferencedSeriesSequence
    assert all_of.SeriesInstanceUID == series
    images = [item.ReferencedSOPInstanceUID for item in all_of.ReferencedInstanceSequence]
    assert sorted(images) == sorted(lies)


@pytest.mark.parametrize("down", [False, True])
def test_missing_slices_have_frames_that_refer_to_no_image(tmp_path: Path, down: bool) -> None:
    affine = grid("coronal", down=down, oblique=True)
    there = [k for k in range(SHAPE[2]) if k not in (4, 5, 9)]
    make.write(tmp_path / "in", VOXELS, affine, make.T1CE, slices=there)
    one = found_in(tmp_path / "in")
    mask = np.ones(one.geometry.native_shape, np.uint8)
    found = read(one.encode(mask))
    assert np.array_equal(by_place(found, one.geometry), mask)
    to_slice = np.linalg.inv(affine)
    slices = {
        round(float((to_slice @ [*position(frame), 1])[2])): len(referred(frame))
        for frame in frames(found)
    }
    assert slices == {k: int(k in there) for k in range(SHAPE[2])}


def test_uneven_slices_lie_where_their_images_do(tmp_path: Path) -> None:
    paths = []
    for k in range(SHAPE[2]):
        affine = grid()
        affine[2, 3] += 2 * (k % 3 == 1)
        paths += make.write(tmp_path / "in", VOXELS, affine, make.T1CE, slices=[k])
    one = found_in(tmp_path / "in")
    mask = np.broadcast_to(np.arange(SHAPE[2], dtype=np.uint8) % 4, SHAPE)
    found = read(one.encode(mask))
    heights = {position(frame)[2]: number(frame) for frame in frames(found)}
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in one.sources]
    assert heights == {
        float(image.ImagePositionPatient[2]): k % 4 for k, image in enumerate(images) if k % 4
    }
    assert all(len(referred(frame)) == 1 for frame in frames(found))


def test_of_two_echoes_both_are_referred_to(tmp_path: Path, axial: Read) -> None:
    paths = list(axial.sources)
    paths += make.write(tmp_path, VOXELS, grid(), dataclasses.replace(make.T1CE, te_ms=80), uid="2")
    both = dataclasses.replace(axial, sources=paths)
    found = read(both.encode(axial.mask(GLIOMA)))
    assert {len(set(referred(frame))) for frame in frames(found)} == {2}


# --- bytes ----------------------------------------------------------------------------------


def test_equal_inputs_give_equal_bytes(axial: Read) -> None:
    mask = axial.mask(GLIOMA)
    shuffled = random.Random(1).sample(axial.sources, len(axial.sources))
    first = axial.encode(mask)
    assert first == dataclasses.replace(axial, sources=shuffled).encode(np.asfortranarray(mask))
    assert f"{datetime.datetime.now(datetime.UTC):%Y%m}".encode() not in first


def test_what_is_made_of_other_things_has_other_uids(axial: Read) -> None:
    mask = axial.mask(GLIOMA)
    other = mask.copy()
    other[0, 0, 0] = 1
    made = [axial.encode(mask), axial.encode(other), axial.encode(mask, made_by="starter 2")]
    made.append(axial.encode(mask, TREATED))
    found = [read(content) for content in made]
    assert len({item.SOPInstanceUID for item in found}) == 4
    assert len({item.SeriesInstanceUID for item in found}) == 4
    assert len({item.FrameOfReferenceUID for item in found}) == 1


# --- what it says ---------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*TASKS.values(), own_tasks.FIVE], ids=lambda task: task.name)
def test_the_classes_of_every_task_are_segments_by_their_index(axial: Read, task: Any) -> None:
    found = read(axial.encode(axial.mask(task.targets), task.targets))
    assert [
        (item.SegmentNumber, item.SegmentLabel, item.SegmentAlgorithmType)
        for item in found.SegmentSequence
    ] == [(index, item.name, "AUTOMATIC") for index, item in enumerate(task.targets.classes, 1)]
    for item in found.SegmentSequence:
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (
            "ray-brats",
            ray_brats.__version__,
        )
    assert found.SegmentationType == "BINARY"
    assert (found.Manufacturer, found.ManufacturerModelName) == ("ray-brats", "starter 1")


@pytest.mark.parametrize("name", ["left\\right", "Ödem " * 16, "größer 腫瘍"])
def test_odd_names_of_classes_are_labels_all_the_same(axial: Read, name: str) -> None:
    classes = (dataclasses.replace(GLIOMA.classes[0], name=name), *GLIOMA.classes[1:])
    targets = dataclasses.replace(GLIOMA, classes=classes)
    found = read(axial.encode(axial.mask(targets), targets, made_by="a\nb\\c"))
    assert found.SegmentSequence[0].SegmentLabel == name.replace("\\", "/")[:64].strip()
    assert found.ManufacturerModelName == "a b/c"


def test_a_class_that_is_not_there_keeps_its_number(axial: Read) -> None:
    mask = np.zeros(axial.geometry.native_shape, np.uint8)
    mask[3, 4, 5] = 3
    found = read(axial.encode(mask))
    assert [item.SegmentNumber for item in found.SegmentSequence] == [1, 2, 3]
    assert [number(frame) for frame in frames(found)] == [3]
    assert np.array_equal(by_place(found, axial.geometry), mask)


def test_a_mask_without_a_tumour_says_so_on_every_slice(axial: Read) -> None:
    found = read(axial.encode(np.zeros(axial.geometry.native_shape, np.uint8)))
    assert len(frames(found)) == 3 * SHAPE[2]
    assert not found.pixel_array.any()


def test_patient_and_study_are_those_of_the_images(tmp_path: Path, axial: Read) -> None:
    source = pydicom.dcmread(axial.sources[0])
    found = read(axial.encode(axial.mask(GLIOMA)))
    for keyword in (
        *("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "StudyTime"),
        "FrameOfReferenceUID",
    ):
        assert found[keyword].value == source[keyword].value
    assert (found.Modality, found.SeriesNumber) == ("SEG", 1006)
    assert (found.ContentDate, found.ContentTime) == ("20200102", "101500")
    assert found.SeriesInstanceUID != source.SeriesInstanceUID


# --- what cannot be done --------------------------------------------------------------------


def test_without_dicom_it_is_a_sentence(axial: Read) -> None:
    with pytest.raises(CaseRejected, match="was given as NIfTI"):
        dataclasses.replace(axial, sources=()).encode(axial.mask(GLIOMA))


def test_a_file_of_several_frames_is_a_sentence(tmp_path: Path) -> None:
    make.enhanced(tmp_path / "in", VOXELS, grid(), make.T1CE)
    one = found_in(tmp_path / "in")
    with pytest.raises(CaseRejected, match="several frames"):
        one.encode(one.mask(GLIOMA))


def test_a_mask_on_another_grid_is_a_sentence(axial: Read) -> None:
    affine = np.array(axial.geometry.native_affine)
    affine[:3, 3] += 3
    moved = dataclasses.replace(axial.geometry, native_affine=tuple(map(tuple, affine)))
    with pytest.raises(CaseRejected, match="not on the grid of its DICOM images"):
        dataclasses.replace(axial, geometry=moved).encode(axial.mask(GLIOMA))


@pytest.mark.parametrize("package", ["pydicom", "highdicom"])
def test_a_missing_package_is_named_with_what_installs_it(
    axial: Read, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"pip install 'ray-brats\[raw\]'"):
        axial.encode(axial.mask(GLIOMA))


def test_what_is_no_mask_of_the_targets_is_the_callers_mistake(axial: Read) -> None:
    mask = axial.mask(GLIOMA)
    with pytest.raises(ValueError, match="class indices"):
        axial.encode(mask[1:])
    with pytest.raises(ValueError, match="class indices"):
        axial.encode(mask + np.uint8(1))


SECRETS = ("SECRET", "Doe", "Jane", "1950", "20200102", "1.2.840.99")


def damage(kind: str, image: Any) -> None:
    """Make a header odd or useless, with secrets wherever something may quote them."""
    image.PatientID, image.PatientBirthDate, image.PatientSex = "SECRET", "SECRET-1950", "SECRET"
    image.StudyID = "SECRET" * 20
    if kind == "other uid":
        image.SOPInstanceUID = "1.2.840.99.SECRET"
    elif kind == "no uid":
        image.SOPInstanceUID = ""
    elif kind == "elsewhere":
        image.ImagePositionPatient = [1, 2, 1950]
    elif kind == "turned":
        image.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    elif kind == "other series":
        image.SeriesInstanceUID = "1.2.840.99"
    elif kind == "no image":
        del image.PixelData


@pytest.mark.parametrize(
    "kind", ["odd", "other uid", "no uid", "elsewhere", "turned", "other series", "no image"]
)
def test_nothing_of_a_patient_is_told(
    tmp_path: Path,
    axial: Read,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    paths = []
    with pydicom.config.disable_value_validation():
        for number, source in enumerate(axial.sources):
            image = pydicom.dcmread(source)
            damage("odd" if number else kind, image)
            paths.append(tmp_path / f"Doe^Jane {number}")
            image.save_as(paths[-1])
    odd = dataclasses.replace(axial, sources=paths)
    said = ""
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        if kind == "odd":
            odd.encode(axial.mask(GLIOMA))
        else:
            with pytest.raises(CaseRejected) as caught:
                odd.encode(axial.mask(GLIOMA))
            said = str(caught.value)
    told = f"{said} {caplog.text} {[str(warning.message) for warning in recwarn]}"
    assert [secret for secret in SECRETS if secret in told] == []
