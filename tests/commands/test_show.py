"""`show` as a Python caller uses it: files in, one picture out, wrong calls told."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from conftest import file_of

from ray_brats.cases import phantom
from ray_brats.commands import reports
from ray_brats.commands.reports import ShowOptions
from ray_brats.errors import UsageError


def small_case(folder: Path) -> Path:
    """As few slices as a phantom can have."""
    phantom.write_cohort(folder / "small", cases=1, shape_vox=(24, 24, 24))
    return folder / "small" / "BraTS20_Training_001"


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("deep/er/a.pdf", b"%PDF"), ("a.SVG", b"<?xml")]
)
def test_the_extension_decides_the_format(
    cohort_folder: Path, tmp_path: Path, name: str, start: bytes
) -> None:
    case = cohort_folder / "BraTS20_Training_001"
    summary = reports.show(
        ShowOptions(case=str(case), picture=str(tmp_path / name), plane="coronal")
    )
    assert (tmp_path / name).read_bytes().startswith(start)
    assert summary.as_json() == {
        "picture": str(tmp_path / name),
        "case_id": "BraTS20_Training_001",
        "failures": [],
    }


def test_a_gif_goes_through_the_slices_beside_a_prediction(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    target = tmp_path / "a.gif"
    reports.show(
        ShowOptions(
            case=str(case), picture=str(target), prediction=str(file_of(case, "seg")), animate=True
        )
    )
    with PIL.Image.open(io.BytesIO(target.read_bytes())) as movie:
        assert 12 < movie.n_frames <= 24


def test_a_case_without_a_mask_is_shown(one_case: Path, tmp_path: Path) -> None:
    file_of(one_case, "seg").unlink()
    reports.show(ShowOptions(case=str(one_case), picture=str(tmp_path / "a.png"), slice_index=3))
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("a.jpg", {}, r"expected one of \.png, \.pdf, \.svg, \.gif"),
        ("a", {}, r"expected one of \.png"),
        ("a.png", {"animate": True}, r"expected OUT\.gif"),
        ("a.gif", {"slice_index": 3}, "leave one of them out"),
        ("a.png", {"slice_index": 99, "plane": "sagittal"}, "0 to 63 in the sagittal plane"),
        ("a.png", {"prediction": "/nowhere.nii.gz"}, "no such file"),
    ],
)
def test_a_wrong_call_is_told_and_nothing_is_written(
    cohort_folder: Path, tmp_path: Path, name: str, options: dict[str, object], sentence: str
) -> None:
    case = cohort_folder / "BraTS20_Training_001"
    with pytest.raises(UsageError, match=sentence):
        reports.show(ShowOptions(case=str(case), picture=str(tmp_path / name), **options))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_prediction_or_modality_of_another_grid_is_told(one_case: Path, tmp_path: Path) -> None:
    image = nib.load(file_of(one_case, "seg"))
    other = nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine)
    nib.save(other, tmp_path / "mask.nii.gz")
    with pytest.raises(UsageError, match="not on the grid"):
        reports.show(
            ShowOptions(
                case=str(one_case),
                picture=str(tmp_path / "a.png"),
                prediction=str(tmp_path / "mask.nii.gz"),
            )
        )
    nib.save(other, file_of(one_case, "t2"))
    with pytest.raises(UsageError, match="not on the grid"):
        reports.show(ShowOptions(case=str(one_case), picture=str(tmp_path / "a.png")))


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".gif"])
def test_a_picture_replaces_one_that_was_made_here_and_no_other(
    tmp_path: Path, suffix: str
) -> None:
    case = small_case(tmp_path)
    picture = tmp_path / f"a{suffix}"
    asked = ShowOptions(case=str(case), picture=str(picture), animate=suffix == ".gif")
    reports.show(asked)
    first = picture.read_bytes()
    reports.show(asked)
    assert picture.read_bytes() == first
    picture.write_bytes(theirs := first.replace(b"ray-brats", b"somebody!"))
    with pytest.raises(UsageError, match="there is such a file already"):
        reports.show(asked)
    assert picture.read_bytes() == theirs
    reports.show(dataclasses.replace(asked, overwrite=True))
    assert picture.read_bytes() == first
