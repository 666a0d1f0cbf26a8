"""One study from its files to a case with its record."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import ray_brats
from ray_brats.arrays import Floats
from ray_brats.cases import phantom, phantom_head, volume
from ray_brats.cases.phantom_head import Head, grid_around, motion_about, scanned
from ray_brats.cases.raw import brain, patient, placed, record, registration, studies
from ray_brats.cases.raw.patient import Patient
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.cases.raw.registration import Registration
from ray_brats.errors import CaseRejected

MODALITIES = ("t1", "t1ce", "t2", "flair")
KEPT = PreparationOptions(space="patient", keep_skull=True)
SIZE_MM = (84, 86, 90)
SPACINGS = {"t1": (1, 1, 3), "t1ce": (1, 1, 1), "t2": (1, 1, 4), "flair": (1, 1, 5)}
SHIFT_MM = np.array([1.0, -2.0, 1.5])


@pytest.fixture(scope="module")
def head() -> Head:
    return phantom_head.head_of(
        phantom.make_phantom(1, shape_vox=(48, 48, 32), modalities=MODALITIES)
    )


@pytest.fixture(scope="module")
def raw(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four series by names, each on its own grid; all but T1CE are shifted."""
    folder = tmp_path_factory.mktemp("raw") / "P1"
    folder.mkdir()
    for name in MODALITIES:
        grid = grid_around(head.brain.grid.centre_mm, SIZE_MM, SPACINGS[name])
        voxels = scanned(head.images[name], grid, there(name))
        save(folder / f"{name}.nii.gz", Placed(voxels=voxels.astype(np.int16), grid=grid))
    return folder


def there(name: str) -> Floats:
    """The map from the world of a series to that of the head."""
    return motion_about(np.zeros(3), (0, 0, 0), SHIFT_MM * (name != "t1ce"))


def save(path: Path, image: Placed) -> str:
    nib.save(nib.Nifti1Image(image.voxels, image.grid.affine), path)
    return str(path)


@pytest.fixture(scope="module")
def aligned_at_once() -> Iterator[None]:
    """The shift is known, and the brains of small heads are usual."""
    back = np.linalg.inv(there("t2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            registration, "register", lambda *_: Registration(motion=back, similarity=0.51234)
        )
        patch.setattr(brain, "LEAST_ML", 1.0)
        patch.setattr(brain, "PLAUSIBLE_ML", (2.0, 2000.0))
        yield


@pytest.fixture(scope="module")
def ready(raw: Path, aligned_at_once: None) -> Patient:
    """The folder as a case."""
    return prepared(raw)


def prepared(folder: Path, options: PreparationOptions = KEPT, **other: object) -> Patient:
    (study,) = studies.find(folder)
    return patient.prepare("case-1", study, options, **other)  # type: ignore[arg-type]


def test_a_folder_of_series_becomes_a_case(ready: Patient, head: Head) -> None:
    told, images = ready.record, ready.prepared.images
    assert (told.case_id, told.space, told.reference) == ("case-1", "patient", "t1ce")
    assert (told.brain, told.brain_ml) == (patient.NOBODY, None)
    assert list(told.series) == list(images) == list(MODALITIES)
    grid = ready.prepared.grid
    assert record.grid_of(told.grid).shape_vox == grid.shape_vox == SIZE_MM
    true = placed.resampled(head.images["t1ce"], grid, np.eye(4))
    assert np.allclose(images["t1ce"].head, true, atol=1)
    for name in MODALITIES:
        series = told.series[name]
        assert series.name == name
        assert series.reason.startswith("its name says ")
        assert series.geometry.spacing_mm == pytest.approx(SPACINGS[name])
        assert series.scale == images[name].scale
        assert np.allclose(series.motion, np.linalg.inv(there(name)))
        assert series.similarity == (None if name == "t1ce" else 0.5123)
        inside = placed.resampled(head.brain, grid, np.eye(4)) > 0.9
        own = placed.resampled(head.images[name], grid, np.eye(4))[inside]
        assert np.corrcoef(images[name].head[inside], own)[0, 1] > 0.75


def test_its_record_survives_json(ready: Patient) -> None:
    told = ready.record
    assert record.from_json(json.loads(json.dumps(told.as_json())), "prepare.json") == told


def test_versions_are_on_record(ready: Patient) -> None:
    versions = ready.record.versions
    assert versions["ray_brats"] == ray_brats.__version__
    assert set(versions) <= {"ray_brats", *patient.PACKAGES}
    for package in patient.PACKAGES:
        try:
            assert versions.get(package) == importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            assert package not in versions


@pytest.mark.usefixtures("aligned_at_once")
def test_a_series_that_somebody_asks_for_is_taken(raw: Path) -> None:
    told = prepared(raw, asked={"t1ce": "t1", "t1": "t1ce"}).record
    assert told.series["t1"].name == "t1ce"
    assert "--series" in told.series["t1"].reason


@pytest.mark.usefixtures("aligned_at_once")
def test_a_modality_that_nobody_wants_is_left_out(raw: Path) -> None:
    told = prepared(raw, asked={"t1ce": "none"}).record
    assert list(told.series) == ["t1", "t2", "flair"]
    assert ("t1ce", "t1ce: left out because it was asked for") in told.ignored
    assert not any("looks like it" in text for text in told.warnings)


@pytest.mark.usefixtures("aligned_at_once")
def test_how_it_was_prepared_is_on_record_and_no_place(raw: Path, tmp_path: Path) -> None:
    told = prepared(raw).record
    assert told.options == {
        "space": "patient",
        "freedom": "rigid",
        "keep_skull": True,
        "n4": False,
    }
    atlas = tmp_path / "atlas.nii.gz"
    atlas.write_bytes((raw / "t1ce.nii.gz").read_bytes())
    options = PreparationOptions(space=str(atlas), keep_skull=True)
    mask = save(tmp_path / "mask.nii.gz", ball(raw))
    told = prepared(raw, options, mask_uri=mask).record
    assert (told.space, told.options["space"]) == ("atlas", "atlas")
    assert str(tmp_path) not in json.dumps(told.as_json())


def ball(raw: Path) -> Placed:
    """Something in the middle of the T1CE."""
    image = volume.read(str(raw / "t1ce.nii.gz"))
    grid = record.grid_of(image.geometry)
    away = np.linalg.norm(np.indices(grid.shape_vox).T - np.array(grid.shape_vox) / 2, axis=-1).T
    return Placed(voxels=(away < 20).astype(np.uint8), grid=grid)


@pytest.mark.usefixtures("aligned_at_once")
def test_a_t1ce_that_is_damaged_is_missed(raw: Path, tmp_path: Path) -> None:
    folder = copied(raw, tmp_path)
    (folder / "t1ce.nii.gz").write_bytes(b"no image")
    (first, *_) = prepared(folder).record.warnings
    assert first.startswith("t1ce: t1ce looks like it and was ignored: truncated")


@pytest.mark.usefixtures("aligned_at_once")
def test_a_reference_without_a_skull_is_told(raw: Path, head: Head, tmp_path: Path) -> None:
    assert not any("no skull already" in text for text in prepared(raw).record.warnings)
    folder = copied(raw, tmp_path)
    image = head.phantom.images["t1ce"]
    voxels = np.pad(image, 26).astype(np.int16)
    save(
        folder / "t1ce.nii.gz",
        Placed(voxels=voxels, grid=Grid(shape_vox=voxels.shape, affine=np.eye(4))),
    )
    assert any("no skull already" in text for text in prepared(folder).record.warnings)


def copied(raw: Path, folder: Path) -> Path:
    """The study in a folder of its own."""
    return Path(shutil.copytree(raw, folder / "P1"))


@pytest.mark.usefixtures("aligned_at_once")
def test_a_mask_of_somebody_else_strips_the_skull(raw: Path, head: Head, tmp_path: Path) -> None:
    voxels = head.brain.voxels.astype(np.uint8)
    uri = save(tmp_path / "mask.nii.gz", Placed(voxels=voxels, grid=head.brain.grid))
    stripped = prepared(raw, PreparationOptions(space="patient"), mask_uri=uri)
    assert stripped.record.brain == patient.MASK
    true_ml = np.count_nonzero(voxels) / 1000
    assert stripped.record.brain_ml == pytest.approx(true_ml, rel=0.03)
    assert stripped.prepared.brain is not None
    for image in stripped.prepared.images.values():
        assert ((image.voxels > 0) <= stripped.prepared.brain).all()
    (tmp_path / "mask.nii.gz").write_bytes(b"no image")
    with pytest.raises(CaseRejected, match=r"mask\.nii\.gz"):
        prepared(raw, PreparationOptions(space="patient"), mask_uri=uri)


@pytest.mark.usefixtures("aligned_at_once")
def test_how_a_file_orders_its_axes_does_not_matter(
    raw: Path, ready: Patient, tmp_path: Path
) -> None:
    turned = tmp_path / "P1"
    turned.mkdir()
    for path in raw.iterdir():
        image = nib.load(path)
        nib.save(image.as_reoriented([[1, -1], [2, 1], [0, -1]]), turned / path.name)
    one, other = ready.prepared, prepared(turned).prepared
    assert np.allclose(one.grid.affine, other.grid.affine)
    for name, image in one.images.items():
        assert np.abs(image.voxels - other.images[name].voxels.astype(int)).max() <= 1


@pytest.mark.usefixtures("aligned_at_once")
def test_what_is_left_is_on_record(raw: Path, tmp_path: Path) -> None:
    folder = copied(raw, tmp_path)
    (folder / "dwi.nii.gz").write_bytes((raw / "t2.nii.gz").read_bytes())
    (folder / "flair_2.nii.gz").write_bytes(b"no image")
    ignored = dict(prepared(folder).record.ignored)
    assert set(ignored) == {"dwi", "flair_2"}
    assert all(ignored.values())


# --- a real patient --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_patients_brain_is_that_of_hd_bet(real_data: Path) -> None:
    for package in ("SimpleITK", "torch", "deepbet", "nilearn"):
        pytest.importorskip(package)
    folder = real_data / "raw" / "TCGA-FG-6692"
    if not folder.is_dir():
        pytest.skip("no raw patients among the real cases")
    ready = prepared(folder, PreparationOptions())
    assert {name: item.name for name, item in ready.record.series.items()} == {
        name: f"{name}_raw" for name in MODALITIES
    }
    assert all(item.covered >= 0.9 for item in ready.record.series.values())
    assert not [text for text in ready.record.warnings if " shows " in text]
    theirs = volume.read(str(folder / "t1ce_brainmask_hdbet_native.nii.gz"))
    assert ready.prepared.brain is not None
    reference = ready.record.series["t1ce"]
    upright = Placed(voxels=ready.prepared.brain.astype(np.float32), grid=ready.prepared.grid)
    home = np.linalg.inv(np.array(reference.motion))
    a = placed.resampled(upright, record.grid_of(theirs.geometry), home) >= 0.5
    b = theirs.voxels_HWD > 0
    assert 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)) >= 0.95
