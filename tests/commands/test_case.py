"""`segment`: one case in this process; wrong calls before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import classes
import nibabel as nib
import numpy as np
import pytest
from conftest import file_of

from commands.test_cli import called
from ray_brats.cases.preprocess import Prepared
from ray_brats.commands import case as command
from ray_brats.commands.arguments import Bundles, Inference
from ray_brats.commands.case import SegmentOptions
from ray_brats.errors import ArtefactError, UsageError
from ray_brats.model import card
from ray_brats.model.predict import Prediction
from ray_brats.recipes.tasks import GLIOMA


@pytest.fixture(autouse=True)
def starter() -> None:
    """All of these tests segment with the starter model, or are refused before."""
    if not (Path(card.place(card.STARTER)) / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the network: all voxels of the crop are edema."""

    class Edema:
        def segment_prepared(self, prepared: Prepared) -> Prediction:
            crop = np.full(prepared.image_HWDC.shape[:3], classes.EDEMA, np.uint8)
            mask, geometry = prepared.geometry.to_native(crop), prepared.geometry
            return Prediction(mask_native=mask, geometry=geometry, targets=GLIOMA)

    monkeypatch.setattr(command, "_predictor", lambda _: Edema())


def files(folder: Path) -> dict[str, str]:
    return {name: str(file_of(folder, name)) for name in ("t1ce", "t2", "flair")}


@pytest.mark.usefixtures("predicted")
def test_files_and_their_folder_give_the_same_mask(one_case: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    told = command.segment(SegmentOptions(**files(one_case), out=str(first)))
    again = command.segment(SegmentOptions(folder=str(one_case), out=str(second)))
    assert first.read_bytes() == second.read_bytes()
    assert told == dataclasses.replace(again, mask=str(first))
    assert (told.case_id, told.task) == ("BraTS20_Training_001", "gli-2020")
    mask, image = nib.load(first), nib.load(file_of(one_case, "flair"))
    assert mask.shape == image.shape
    assert (mask.affine == image.affine).all()
    assert told.volumes_ml["WT"] == pytest.approx(np.count_nonzero(mask.dataobj) / 1000)
    assert told.volumes_ml["ET"] == 0
    assert list(told.bundles) == ["starter"]
    assert "such masks were measured on" in str(told.quality)
    json.dumps(told.as_json(), allow_nan=False)


@pytest.mark.usefixtures("predicted")
def test_the_picture_shows_the_mask_and_names_may_be_any(one_case: Path, tmp_path: Path) -> None:
    for name, file in files(one_case).items():
        Path(file).rename(tmp_path / f"{name}.nii.gz")
    given = {name: str(tmp_path / f"{name}.nii.gz") for name in files(one_case)}
    picture = tmp_path / "case.png"
    options = SegmentOptions(**given, out=str(tmp_path / "mask.nii.gz"), show=str(picture))
    told = command.segment(options)
    assert (told.case_id, told.task, told.picture) == (
        "mask",
        "gli-2018",
        str(picture),
    )
    assert str(told.quality).endswith("another origin than those nothing was measured")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("predicted")
def test_the_labels_are_those_that_are_asked_for(one_case: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "mask.nii.gz")
    told = command.segment(SegmentOptions(folder=str(one_case), out=out, task="gli-2023"))
    assert told.task == "gli-2023"


def test_no_mask_is_written_among_those_of_another_meaning(one_case: Path, tmp_path: Path) -> None:
    (tmp_path / "score.json").write_text('{"task": "ped"}')
    sentence = "holds masks of the task ped .*: expected another folder"
    refused(sentence, folder=str(one_case), out=str(tmp_path / "mask.nii.gz"))


@pytest.mark.usefixtures("predicted")
def test_what_nobody_measured_is_not_said_to_be_measured(one_case: Path, tmp_path: Path) -> None:
    bundles = Bundles(inference=Inference(tta="flips"))
    out = str(tmp_path / "mask.nii.gz")
    told = command.segment(SegmentOptions(folder=str(one_case), out=out, bundles=bundles))
    assert not {"quality", "measured"} & set(told.as_json())
    assert told.options == {"tta": "flips", "overlap": None}


@pytest.mark.usefixtures("predicted")
def test_how_good_a_mask_is_is_said_only_of_cases_such_as_those_measured(
    one_case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mask.nii.gz"
    own = command.segment(SegmentOptions(folder=str(one_case), out=str(out))).quality
    assert str(own).endswith("(95 % interval of the mean)")
    (one_case / "prepare.json").write_text("{}")
    raw = command.segment(SegmentOptions(folder=str(one_case), out=str(out), overwrite=True))
    assert raw.quality is None
    (one_case / "prepare.json").unlink()
    other = tmp_path / "BraTS-MEN-00001-000"
    other.mkdir()
    for name, file in files(one_case).items():
        shutil.copy(file, other / f"{other.name}-{name}.nii.gz")
    told = command.segment(SegmentOptions(folder=str(other), out=str(out), overwrite=True))
    assert not {"quality", "measured"} & set(told.as_json())
    assert "was not measured: 1 of meningioma" in capsys.readouterr().err
    affine = np.diag([2, 2, 2, 1]) @ nib.load(file_of(one_case, "flair")).affine
    for name in files(one_case):
        path = file_of(one_case, name)
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), affine), path)
    told = command.segment(SegmentOptions(folder=str(one_case), out=str(out), overwrite=True))
    assert "resampled" in told.remarks[-1]
    assert not {"quality", "measured"} & set(told.as_json())
    assert "1 with scans that were not as usual" in capsys.readouterr().err


def refused(sentence: str, **given: Any) -> None:
    with pytest.raises(UsageError, match=sentence):
        command.segment(SegmentOptions(**given))


def test_a_wrong_call_is_a_sentence(one_case: Path, tmp_path: Path) -> None:
    out, three = str(tmp_path / "mask.nii.gz"), files(one_case)
    refused("expected the files of a case", out=out)
    refused("not both", out=out, folder=str(one_case), t2=three["t2"])
    refused(r"--out mask\.png: expected MASK\.nii\.gz", out="mask.png", **three)
    refused("--t2 /nowhere: no such file", out=out, **{**three, "t2": "/nowhere"})
    refused("pass --t2 FILE --flair FILE", out=out, t1ce=three["t1ce"])
    refused("no such folder", out=out, folder="/nowhere")
    refused("cannot write a picture", out=out, show="a.jpg", **three)
    with pytest.raises(ArtefactError, match="is no bundle"):
        refused("", out=out, bundles=Bundles(bundle=(str(tmp_path),)), **three)
    assert not Path(out).exists()


@pytest.mark.parametrize("kind", ["t1ce", "seg"])
def test_no_file_of_the_case_is_overwritten(one_case: Path, tmp_path: Path, kind: str) -> None:
    before = file_of(one_case, kind).read_bytes()
    link = tmp_path / "link.nii.gz"
    link.symlink_to(file_of(one_case, kind))
    for out in (file_of(one_case, kind), link, one_case / ".." / one_case.name / link.name):
        if out.name == link.name and out != link:
            out.symlink_to(file_of(one_case, kind))
        refused(
            "this call reads that file, which would be lost", out=str(out), folder=str(one_case)
        )
    assert file_of(one_case, kind).read_bytes() == before


@pytest.mark.usefixtures("predicted")
@pytest.mark.parametrize("option", ["out", "show"])
def test_a_file_that_is_there_already_goes_only_where_that_is_asked_for(
    one_case: Path, tmp_path: Path, option: str
) -> None:
    targets = {"out": str(tmp_path / "mask.nii.gz"), "show": str(tmp_path / "a.png")}
    theirs = Path(targets[option])
    theirs.write_bytes(b"theirs")
    refused("there is such a file already", folder=str(one_case), **targets)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [theirs.name]
    assert theirs.read_bytes() == b"theirs"
    command.segment(SegmentOptions(folder=str(one_case), overwrite=True, **targets))
    assert theirs.read_bytes() != b"theirs"


def test_a_case_that_cannot_be_used_is_a_row_and_exit_status_1(
    one_case: Path, tmp_path: Path
) -> None:
    file_of(one_case, "t2").write_bytes(b"no scan")
    done = called("segment", one_case, "-o", tmp_path / "mask.nii.gz", "--json")
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)["failures"]
    assert (row["case_id"], row["status"]) == ("BraTS20_Training_001", "rejected")
    assert row["file"].endswith("_t2.nii.gz")
    shown = called("segment", one_case, "-o", tmp_path / "mask.nii.gz")
    assert (shown.returncode, "truncated" in shown.stdout) == (1, True)
    file_of(one_case, "t2").unlink()
    missing = called("segment", one_case, "-o", tmp_path / "mask.nii.gz")
    assert (missing.returncode, "t2 is missing" in missing.stdout) == (1, True)
    assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.tf
def test_no_ray_is_started_or_even_imported(one_case: Path, tmp_path: Path) -> None:
    code = """
import sys
from ray_brats import cli
try:
    cli.main(sys.argv[1:])
finally:
    assert "ray" not in sys.modules
    assert "tensorflow" in sys.modules
"""
    out = tmp_path / "mask.nii.gz"
    done = subprocess.run(
        [sys.executable, "-c", code, "segment", str(one_case), "-o", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "segment: loading TensorFlow and the model\n"
    for words in ("ml  whole tumour", "made by: starter", "were measured on", "research"):
        assert words in done.stdout
    assert nib.load(out).shape == nib.load(file_of(one_case, "flair")).shape


def test_a_file_may_be_a_channel_of_a_4d_file(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").touch()
    files = {"t1ce": f"{tmp_path}/x.nii.gz#2", "t2": f"{tmp_path}/x.nii.gz#0"}
    read = command._case_of_files(SegmentOptions(out="m.nii.gz", **files))
    assert (read.case_id, read.images) == ("m", files)
    options = SegmentOptions(out="m.nii.gz", t2=f"{tmp_path}/y.nii.gz#0")
    with pytest.raises(UsageError, match="no such file"):
        command._case_of_files(options)


def test_a_folder_behind_a_list_of_bundles_is_asked_for_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FOLDER comes before --bundle and"):
        command.segment(
            SegmentOptions(bundles=Bundles(bundle=("b", str(tmp_path))), out="mask.nii.gz")
        )
