"""`segment` of a raw study: prepared in this process, and its mask on its own T1CE's grid."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import heads
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ray_brats.arrays import Array
from ray_brats.cases.raw import patient, preparation, registration, space
from ray_brats.cases.raw.patient import Patient
from ray_brats.cases.raw.placed import Placed
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.cases.raw.registration import Registration
from ray_brats.cases.raw.studies import Study
from ray_brats.commands import case as command
from ray_brats.commands import study
from ray_brats.commands.case import SegmentOptions, SegmentSummary
from ray_brats.errors import UsageError
from ray_brats.model import card
from ray_brats.model.predict import Predictor
from ray_brats.recipes import named

NEEDED = ("t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three series with their skull on, each on its own grid; read only."""
    folder = tmp_path_factory.mktemp("study")
    heads.write_study(folder / "P1", 1, NEEDED)
    heads.write_mask(folder / "brain.nii.gz", 1)
    return folder


def bright(batch: Array) -> Array:
    """A network that finds what is bright on FLAIR, without ragged borders."""
    flair = ndimage.gaussian_filter(batch[..., 2], (0, 3, 3, 3))
    return np.stack([1 / (1 + np.exp(-4 * (flair - limit))) for limit in (0.5, 0.8, 1.1)], -1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The way without what takes long: motions are known, so is the brain, heads are not turned,
    grids are coarse, and the network is arithmetic."""
    if not (Path(card.place(card.STARTER)) / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")
    prepare, of = patient.prepare, heads.head(1)
    motions = {
        heads.grid_of(of, name).spacing_mm: np.linalg.inv(heads.motion_of(of, name))
        for name in NEEDED
    }

    def known(moving: Placed, fixed: Placed, freedom: str = "rigid") -> Registration:
        return Registration(motion=motions[moving.grid.spacing_mm], similarity=1.0)

    def outlined(
        case_id: str, found: Study, options: PreparationOptions, needed: Sequence[str]
    ) -> Patient:
        assert options == PreparationOptions()
        here = dataclasses.replace(options, space="patient")
        brain = str(folder / "brain.nii.gz")
        return prepare(case_id, found, here, mask_uri=brain, needed=needed)

    coarse = functools.partial(space.upright, step_mm=3.0)
    monkeypatch.setattr(space, "upright", coarse)
    monkeypatch.setattr(preparation, "upright", coarse)
    monkeypatch.setattr(registration, "register", known)
    monkeypatch.setattr(patient, "prepare", outlined)
    recipe = named.get("smoke")
    inference = dataclasses.replace(recipe.inference, whole_limit_vox=10**9)
    recipe = dataclasses.replace(recipe, inference=inference)
    monkeypatch.setattr(command, "_predictor", lambda _: Predictor([bright], recipe))


def segment(folder: Path, out: Path, **given: Any) -> SegmentSummary:
    told = command.segment(SegmentOptions(folder=str(folder), out=str(out), **given))
    assert isinstance(told, SegmentSummary)
    return told


@pytest.mark.usefixtures("quick")
def test_a_study_comes_to_its_mask_on_its_own_grid(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "mask.nii.gz", tmp_path / "case.png"
    told = segment(folder / "P1", out, show=str(picture))
    scan, mask = nib.load(folder / "P1/t1ce.nii.gz"), nib.load(out)
    assert mask.shape == scan.shape
    assert (mask.affine == scan.affine).all()
    assert mask.get_data_dtype() == np.uint8
    voxels = np.asarray(mask.dataobj)
    assert set(np.unique(voxels)) == {0, 1, 2, 4}
    voxel_ml = float(np.prod(mask.header.get_zooms())) / 1000
    assert told.volumes_ml["WT"] == pytest.approx(np.count_nonzero(voxels) * voxel_ml, rel=1e-5)
    assert told.volumes_ml["ET"] == pytest.approx(
        np.count_nonzero(voxels == 4) * voxel_ml, rel=1e-5
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (told.case_id, told.mask, told.picture) == ("mask", str(out), str(picture))
    # What is told of other masks was measured on none like this one.
    assert told.measured is None
    assert "was not measured" in str(told.quality)
    said = capsys.readouterr().err
    assert "segment: t1ce is t1ce: " in said
    assert "no other reading" not in said
    json.dumps(told.as_json(), allow_nan=False)


@pytest.mark.usefixtures("quick")
def test_no_series_of_a_study_is_written_over(folder: Path, tmp_path: Path) -> None:
    series = folder / "P1/t2.nii.gz"
    before = series.read_bytes()
    (tmp_path / "link.nii.gz").symlink_to(series)
    for out in (series, tmp_path / "link.nii.gz"):
        with pytest.raises(UsageError, match="this call reads that file, which would be lost"):
            segment(folder / "P1", out, overwrite=True)
    assert series.read_bytes() == before
    (tmp_path / "mask.nii.gz").write_bytes(b"theirs")
    with pytest.raises(UsageError, match="there is such a file already"):
        segment(folder / "P1", tmp_path / "mask.nii.gz")
    (tmp_path / "score.json").write_text('{"task": "ped"}')
    with pytest.raises(UsageError, match="holds masks of the task ped"):
        segment(folder / "P1", tmp_path / "other.nii.gz")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"t1ce": "t1ce", "flair": "flair"}, "t2 is missing"),
        ({"a_t1ce": "t1ce", "a_t2": "t2"}, "flair is missing"),
    ],
)
def test_a_study_that_cannot_be_used_is_a_row(
    folder: Path,
    tmp_path: Path,
    names: Mapping[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparation, "prepare", lambda *_: pytest.fail("a minute's work"))
    (tmp_path / "raw").mkdir()
    for name, series in names.items():
        shutil.copy(folder / f"P1/{series}.nii.gz", tmp_path / f"raw/{name}.nii.gz")
    out = tmp_path / "mask.nii.gz"
    told = command.segment(SegmentOptions(folder=str(tmp_path / "raw"), out=str(out)))
    (row,) = told.failures
    assert (row.status, reason in row.reason) == ("rejected", True)
    assert not out.exists()


def test_only_heads_as_they_left_the_scanner_are_raw(
    folder: Path, whole_case: Path, tmp_path: Path
) -> None:
    found = study.found(str(folder / "P1"))
    assert found is not None
    assert sorted(path.name for path in found.nifti) == [
        "flair.nii.gz",
        "t1ce.nii.gz",
        "t2.nii.gz",
    ]
    (tmp_path / "link").symlink_to(folder / "P1")
    assert study.found(str(tmp_path / "link")) is not None
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/t1ce.nii.gz").write_bytes(b"no image")
    for place in (whole_case, tmp_path / "empty", tmp_path / "cut", tmp_path / "nowhere"):
        assert study.found(str(place)) is None
    assert study.found(str(folder / "P1/t1ce.nii.gz")) is None
    assert study.found("s3://bucket/P1") is None


@pytest.mark.slow
@pytest.mark.tf
def test_a_real_study_has_the_tumour_of_its_own_reference(
    real_data: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Against scans of the same patient that another pipeline aligned and stripped."""
    for package in ("SimpleITK", "torch", "deepbet", "nilearn"):
        pytest.importorskip(package)
    there = real_data / "raw" / "TCGA-FG-6692"
    if not there.is_dir():
        pytest.skip("no raw patients among the real cases")
    told = in_a_process(there, tmp_path / "raw.nii.gz")
    files = {f"--{name}": there / f"{name}_reference_brats_space.nii.gz" for name in NEEDED}
    other = in_a_process(*itertools.chain(*files.items()), tmp_path / "reference.nii.gz")
    ml, expected = told["volumes_ml"]["WT"], other["volumes_ml"]["WT"]
    record_property("whole tumour, ml", (ml, expected))
    assert ml == pytest.approx(expected, rel=0.2)
    mask, scan = nib.load(tmp_path / "raw.nii.gz"), nib.load(there / "t1ce_raw.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)


def in_a_process(*arguments: object) -> dict[str, Any]:
    """The summary of `segment`; the mask comes last."""
    *first, out = map(str, arguments)
    command = [sys.executable, "-m", "ray_brats.cli", "segment", *first, "-o", out, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
