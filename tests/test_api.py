"""The Python door: what it offers, how soon, and a program that a user would write."""

from __future__ import annotations

import json
import pickle
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import classes
import nibabel as nib
import numpy as np
import pytest
from commands.test_help import imported_by
from conftest import file_of

from ray_brats import api, labels
from ray_brats.cases.volume import read_mask
from ray_brats.model import card
from ray_brats.model.predict import Prediction
from ray_brats.recipes.tasks import GLIOMA, TASKS

PROGRAM = """
import sys
from pathlib import Path

from ray_brats import api

predictor: api.Predictor = api.load_predictor()
case: api.Case = api.find(Path(sys.argv[1])).cases[0]
try:
    prediction: api.Prediction = predictor.segment(case)
except api.CaseRejected as error:
    sys.exit(error.reason)
api.save_mask(prediction, "mask.nii.gz", task="gli-2020")
scores: api.RegionScores = api.evaluate(prediction, case.segmentation or "")["WT"]
print(f"{case.case_id}: {scores.predicted_ml:.1f} ml, Dice {scores.dice:.2f}")
"""
WRONG = """
from ray_brats.api import evaluate, load_predictor

load_predictor(threads="two")
evaluate("a.nii.gz", "b.nii.gz")["WT"].dicee
"""
"""Two mistakes that types must find."""


def test_what_is_offered_is_held() -> None:
    assert api.__all__ == [
        "ArtefactError",
        "Case",
        "CaseError",
        "CaseFailed",
        "CaseRejected",
        "ChallengeScores",
        "Cohort",
        "Prediction",
        "Predictor",
        "RayBratsError",
        "RegionScores",
        "Task",
        "UsageError",
        "Volume",
        "evaluate",
        "find",
        "load_predictor",
        "save_mask",
        "volume_from_array",
    ]
    assert all(getattr(api, name).__doc__ for name in api.__all__ if name != "Task")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = api.nonsense  # type: ignore[attr-defined]


def test_importing_it_is_cheap_and_finding_needs_little(cohort_folder: Path) -> None:
    assert imported_by("import ray_brats.api") == set()
    code = f"from ray_brats import api; assert len(api.find({str(cohort_folder)!r}).cases) == 5"
    assert imported_by(code) == set()


def test_a_folder_a_path_and_a_release(cohort_folder: Path) -> None:
    cohort = api.find(cohort_folder, release="brats2023")
    assert isinstance(cohort, api.Cohort)
    assert {case.task for case in cohort.cases} == {TASKS["gli-2023"]}
    with pytest.raises(api.UsageError):
        api.find(cohort_folder / "nowhere")


def seg(case: Path) -> Path:
    return file_of(case, "seg")


def test_a_file_scores_one_against_itself_and_less_against_others(
    one_case: Path, cohort_folder: Path
) -> None:
    own = api.evaluate(seg(one_case), seg(one_case))
    assert list(own) == list(classes.REGIONS)
    assert {scores.dice for scores in own.values()} == {1.0}
    other = api.evaluate(seg(cohort_folder / "BraTS20_Training_002"), str(seg(one_case)))
    assert 0 <= other["WT"].dice < 1
    assert other["WT"].volume_difference_ml == pytest.approx(
        other["WT"].predicted_ml - other["WT"].reference_ml
    )


def test_files_arrays_and_predictions_agree(one_case: Path) -> None:
    index = read_mask(str(seg(one_case)), TASKS["gli-2020"])
    shifted = np.roll(index, 2, axis=0)
    by_arrays = api.evaluate(shifted, index, spacing_mm=(1, 1, 1))
    assert by_arrays == api.evaluate(shifted, seg(one_case))
    geometry = api.volume_from_array(
        np.asarray(nib.load(seg(one_case)).dataobj), nib.load(seg(one_case)).affine
    ).geometry
    native = np.asarray(geometry.to_native(geometry.crop(shifted)))
    prediction = Prediction(mask_native=native, geometry=geometry, targets=GLIOMA)
    assert by_arrays == api.evaluate(prediction, index)
    assert by_arrays == api.evaluate(prediction, seg(one_case))
    assert by_arrays["WT"].dice < 1


def test_small_lesions_are_told_where_the_task_treats_them_apart() -> None:
    index = np.zeros((24, 24, 24), np.uint8)
    index[2:10, 2:10, 2:10], index[20, 20, 20] = 2, 3
    found = api.evaluate(index, index, task="met", spacing_mm=(1, 1, 1), rules="2026")
    enhancing, whole = found["ET"], found["WT"]
    assert (enhancing.small_tp, enhancing.small_fn, enhancing.small_f1) == (1, 0, 1.0)
    assert (whole.tp, whole.small_tp) == (2, 1)
    of_all = api.evaluate(index, index, task="gli-post", spacing_mm=(1, 1, 1), rules="2026")
    assert (of_all["WT"].tp, of_all["WT"].small_tp) == (2, None)


def test_scores_by_the_rules_of_2026(one_case: Path) -> None:
    index = read_mask(str(seg(one_case)), TASKS["gli-2020"])
    shifted = np.roll(index, 2, axis=0)
    found = api.evaluate(shifted, index, spacing_mm=(1, 1, 1), rules="2026")
    assert found == api.evaluate(shifted, seg(one_case), rules="2026")
    assert list(found) == list(classes.REGIONS)
    whole = found["WT"]
    assert isinstance(whole, api.ChallengeScores)
    by_2023 = api.evaluate(shifted, index, spacing_mm=(1, 1, 1), rules="2023")["WT"]
    assert by_2023 == api.evaluate(shifted, index, spacing_mm=(1, 1, 1))["WT"]
    assert whole.dice == by_2023.dice
    assert 0 < whole.nsd_05mm < whole.nsd_1mm < whole.nsd_2mm <= 1
    assert (type(whole.tp), whole.detection_recall) == (int, 1.0)
    with pytest.raises(api.UsageError, match="2024"):
        api.evaluate(shifted, index, spacing_mm=(1, 1, 1), rules="2024")  # type: ignore[call-overload]


def test_a_mask_is_saved_with_the_labels_of_a_release(one_case: Path, tmp_path: Path) -> None:
    image = nib.load(seg(one_case))
    volume = api.volume_from_array(np.asarray(image.dataobj), image.affine)
    index = labels.to_class_index(np.asarray(image.dataobj), TASKS["gli-2020"])
    prediction = Prediction(mask_native=index, geometry=volume.geometry, targets=GLIOMA)
    for release in ("brats2020", "brats2023"):
        path = tmp_path / f"{release}.nii.gz"
        api.save_mask(prediction, path, release=release)
        assert api.evaluate(prediction, path, release=release)["ET"].dice == 1.0
    assert 4 in np.asarray(nib.load(tmp_path / "brats2020.nii.gz").dataobj)
    assert 4 not in np.asarray(nib.load(tmp_path / "brats2023.nii.gz").dataobj)


def test_a_mask_replaces_a_file_only_where_that_is_asked_for(
    one_case: Path, tmp_path: Path
) -> None:
    image = nib.load(seg(one_case))
    volume = api.volume_from_array(np.asarray(image.dataobj), image.affine)
    prediction = Prediction(
        mask_native=np.zeros(image.shape, np.uint8),
        geometry=volume.geometry,
        targets=TASKS["gli-2020"].targets,
    )
    theirs = tmp_path / "mask.nii.gz"
    theirs.write_bytes(b"theirs")
    with pytest.raises(api.UsageError, match="there is such a file already"):
        api.save_mask(prediction, theirs)
    assert theirs.read_bytes() == b"theirs"
    api.save_mask(prediction, theirs, overwrite=True)
    assert theirs.read_bytes() != b"theirs"


def folder_of(task: str, mask: Path, folder: Path, name: str) -> Path:
    """A mask in a folder that says of itself what task it is of."""
    folder.mkdir()
    (folder / "score.json").write_text(json.dumps({"task": task}))
    shutil.copy(mask, folder / name)
    return folder / name


def test_masks_of_children_give_no_number_against_adults(one_case: Path, tmp_path: Path) -> None:
    truth = seg(one_case)
    of_children = folder_of("ped", truth, tmp_path / "ped", f"{one_case.name}.nii.gz")
    sentence = "holds masks of the task ped, .* of gli-2020"
    for rules in ("2023", "2026"):
        with pytest.raises(api.UsageError, match=sentence):
            api.evaluate(of_children, truth, rules=rules)  # type: ignore[call-overload]
        with pytest.raises(api.UsageError, match=sentence):
            api.evaluate(of_children, truth, task="gli-2020", rules=rules)  # type: ignore[call-overload]
    with pytest.raises(api.UsageError, match="holds masks of the task ped"):
        api.evaluate(truth, of_children)
    geometry = api.volume_from_array(
        np.asarray(nib.load(truth).dataobj), nib.load(truth).affine
    ).geometry
    empty = np.zeros(geometry.native_shape, np.uint8)
    child = Prediction(mask_native=empty, geometry=geometry, targets=TASKS["ped"].targets)
    for task in (None, "gli-2020"):
        with pytest.raises(api.UsageError, match="expected masks of one task"):
            api.evaluate(child, truth, task=task)
    with pytest.raises(api.UsageError, match="holds masks of the task ped"):
        api.evaluate(empty, of_children, task="gli-2020")
    # Nor where the folders alone tell what their masks hold.
    child_mask = folder_of("ped", truth, tmp_path / "children", "case.nii.gz")
    treated_mask = folder_of("gli-post", truth, tmp_path / "treated", "case.nii.gz")
    for pair in ((child_mask, treated_mask), (treated_mask, child_mask)):
        with pytest.raises(api.UsageError, match="expected masks of one task"):
            api.evaluate(*pair)
    # Names that tell two tasks tell none.
    name = tmp_path / "BraTS-PED-00001-000.nii.gz"
    shutil.copy(truth, name)
    with pytest.raises(api.CaseRejected, match="pass --task"):
        api.evaluate(name, truth)


def test_a_file_is_read_by_the_integers_that_its_folder_tells(
    one_case: Path, tmp_path: Path
) -> None:
    image = nib.load(seg(one_case))
    index = labels.to_class_index(np.asarray(image.dataobj), TASKS["gli-2020"])
    raw = labels.from_class_index(index, TASKS["msd-task01"])
    nib.save(nib.Nifti1Image(raw, image.affine), tmp_path / "mask.nii.gz")
    other = folder_of("msd-task01", tmp_path / "mask.nii.gz", tmp_path / "msd", "mask.nii.gz")
    for found in (
        api.evaluate(other, seg(one_case)),
        api.evaluate(other, seg(one_case), task="gli-2020"),
        api.evaluate(other, other),
    ):
        assert {scores.dice for scores in found.values()} == {1.0}


def test_no_mask_is_saved_among_those_of_another_meaning(one_case: Path, tmp_path: Path) -> None:
    folder = folder_of("gli-2020", seg(one_case), tmp_path / "out", "other.nii.gz").parent
    image = nib.load(seg(one_case))
    geometry = api.volume_from_array(np.asarray(image.dataobj), image.affine).geometry
    index = np.zeros(geometry.native_shape, np.uint8)
    prediction = Prediction(mask_native=index, geometry=geometry, targets=GLIOMA)
    with pytest.raises(api.UsageError, match=r"out holds masks of the task gli-2020"):
        api.save_mask(prediction, folder / "mask.nii.gz", task="gli-2023")
    assert not (folder / "mask.nii.gz").exists()
    api.save_mask(prediction, folder / "mask.nii.gz", task="gli-2021")


def test_what_cannot_be_scored_is_told(one_case: Path, tmp_path: Path) -> None:
    index = read_mask(str(seg(one_case)), TASKS["gli-2020"])
    with pytest.raises(api.UsageError, match="spacing_mm"):
        api.evaluate(index, index)
    with pytest.raises(ValueError, match="shape"):
        api.evaluate(index[1:], seg(one_case))
    (tmp_path / "mask.nii.gz").write_bytes(seg(one_case).read_bytes())
    with pytest.raises(api.CaseRejected, match="--task"):
        api.evaluate(tmp_path / "mask.nii.gz", tmp_path / "mask.nii.gz")
    with pytest.raises(api.CaseRejected, match="no such file"):
        api.evaluate(tmp_path / "none.nii.gz", seg(one_case))


def test_wrong_bundles_are_told_before_tensorflow_is_loaded(tmp_path: Path) -> None:
    code = f"""
from ray_brats import api
try:
    api.load_predictor({str(tmp_path)!r})
except api.ArtefactError as error:
    assert "is no bundle" in str(error)
try:
    api.load_predictor(sha256=["1", "2"])
except api.UsageError:
    pass
"""
    assert imported_by(code) == set()


def test_scores_cross_processes(one_case: Path) -> None:
    scores = api.evaluate(seg(one_case), seg(one_case))
    assert pickle.loads(pickle.dumps(scores)) == scores


@pytest.mark.tf
def test_a_user_program_runs(
    cohort_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not (Path(card.place(card.STARTER)) / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr("sys.argv", ["program.py", str(cohort_folder)])
    runpy.run_path("program.py")
    assert capsys.readouterr().out.startswith("BraTS20_Training_001: ")


@pytest.mark.tf
@pytest.mark.parametrize("given", [None, "0"])
def test_convolutions_are_fast_unless_the_user_says_otherwise(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    code = """
from ray_brats import api
api.load_predictor()
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(given is None)


@pytest.mark.tf
def test_paths_bytes_and_arrays_give_one_mask(one_case: Path) -> None:
    predictor = api.load_predictor()
    files = {name: file_of(one_case, name) for name in ("t1ce", "t2", "flair")}
    images = {name: nib.load(file) for name, file in files.items()}
    volumes = {
        name: api.volume_from_array(np.asarray(image.dataobj), image.affine)
        for name, image in images.items()
    }
    contents = {name: file.read_bytes() for name, file in files.items()}
    (case,) = api.find(one_case).cases
    masks = [predictor.segment(source).mask_native for source in (files, contents, volumes, case)]
    assert all((mask == masks[0]).all() for mask in masks)
