"""`score --flat`: masks and nothing else, also where nothing else can be written or reached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import file_of

from ray_brats.cases import phantom, preprocess
from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.preprocess import Prepared
from ray_brats.commands import flat, masks
from ray_brats.commands.masks import ScoreOptions
from ray_brats.errors import CaseFailed, CaseRejected, UsageError
from ray_brats.files import retry, storage
from ray_brats.model import card
from ray_brats.model.predict import Prediction
from ray_brats.recipes.tasks import GLIOMA, TASKS

CASES = ("BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003")
SHUT = """
set -e
mount --make-rprivate /
mount --bind "$2" "$2"
awk '{print $2}' /proc/self/mounts | while read -r place; do
  case "$place" in
    "$2" | /proc* | /sys* | /dev*) ;;
    *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;;
  esac
done
for place in "$HOME" "$1" /tmp; do
  if touch "$place/written" 2>/dev/null; then exit 99; fi
done
exec "$3" -m ray_brats.cli score --flat "$1" "$2" --json
"""
"""In namespaces of its own: all but the folder of masks is read-only, and there is no network."""


class Middle:
    """A Predictor that takes the middle of every case for edema."""

    def segment_prepared(self, prepared: Prepared) -> Prediction:
        if prepared.image_HWDC.shape[0] < 10:
            raise CaseRejected("too small")
        crop = np.zeros(prepared.image_HWDC.shape[:3], np.uint8)
        crop[tuple(slice(side // 3, 2 * side // 3) for side in crop.shape)] = 2
        mask = prepared.geometry.to_native(crop)
        return Prediction(mask_native=mask, geometry=prepared.geometry, targets=GLIOMA)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "_loaded", lambda chosen: Middle())


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_masks_are_left_and_nothing_else(cohort_folder: Path, tmp_path: Path, quick: None) -> None:
    summary = masks.score(
        ScoreOptions(cohort=str(cohort_folder), predictions=str(tmp_path / "out"), flat=True)
    )
    assert summary.counts == {"ok": 5}
    names = sorted(path.name for path in cohort_folder.iterdir())
    assert files_of(tmp_path / "out") == [f"{name}.nii.gz" for name in names]
    mask = nib.load(tmp_path / "out" / f"{names[0]}.nii.gz")
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 2}
    assert mask.shape == nib.load(file_of(cohort_folder / names[0], "t2")).shape


def test_one_bad_case_ends_no_other(tmp_path: Path, quick: None) -> None:
    phantom.write_cohort(tmp_path / "in", cases=3, shape_vox=(32, 32, 24))
    file_of(tmp_path / "in" / CASES[1], "t2").write_bytes(b"no image")
    summary = masks.score(
        ScoreOptions(cohort=str(tmp_path / "in"), predictions=str(tmp_path / "out"), flat=True)
    )
    assert [row.case_id for row in summary.failures] == [CASES[1]]
    assert summary.counts == {"ok": 2, "rejected": 1}
    assert files_of(tmp_path / "out") == [f"{CASES[0]}.nii.gz", f"{CASES[2]}.nii.gz"]


@pytest.mark.parametrize("step", ["preprocess_case", "segment_prepared", "write_bytes"])
def test_what_nobody_has_thought_of_ends_one_case_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, step: str
) -> None:
    phantom.write_cohort(tmp_path / "in", cases=3, shape_vox=(32, 32, 24))
    place = {"preprocess_case": preprocess, "segment_prepared": Middle, "write_bytes": storage}[
        step
    ]
    real, calls = getattr(place, step), []

    def second_fails(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("no room for it")
        return real(*args, **options)

    monkeypatch.setattr(place, step, second_fails)
    summary = masks.score(
        ScoreOptions(cohort=str(tmp_path / "in"), predictions=str(tmp_path / "out"), flat=True)
    )
    assert summary.counts == {"error": 1, "ok": 2}
    (row,) = summary.failures
    assert (row.case_id, row.reason) == (CASES[1], "MemoryError: no room for it")
    assert files_of(tmp_path / "out") == [f"{CASES[0]}.nii.gz", f"{CASES[2]}.nii.gz"]


def test_a_storage_that_does_not_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    phantom.write_cohort(tmp_path / "in", cases=1, shape_vox=(32, 32, 24))
    monkeypatch.setattr(retry, "PAUSES_SECONDS", (0.0, 0.0))
    real, calls = preprocess.preprocess_case, []

    def first_fails(*args: Any, **options: Any) -> Prepared:
        calls.append(args)
        if len(calls) == 1:
            raise CaseFailed("cannot be read: the network was away")
        return real(*args, **options)

    monkeypatch.setattr(preprocess, "preprocess_case", first_fails)
    summary = masks.score(
        ScoreOptions(cohort=str(tmp_path / "in"), predictions=str(tmp_path / "out"), flat=True)
    )
    assert summary.counts == {"ok": 1}


def test_what_is_there_already_is_kept(tmp_path: Path, quick: None) -> None:
    phantom.write_cohort(tmp_path / "in", cases=1, shape_vox=(32, 32, 24))
    theirs = tmp_path / "out" / f"{CASES[0]}.nii.gz"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    with pytest.raises(UsageError, match="there is such a file already"):
        masks.score(
            ScoreOptions(cohort=str(tmp_path / "in"), predictions=str(tmp_path / "out"), flat=True)
        )
    assert theirs.read_bytes() == b"theirs"


def test_no_service_and_no_bucket(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --endpoint and --workers"):
        masks.score(ScoreOptions(cohort="c", predictions="p", flat=True, workers=2))
    nothing = Cohort(uri="c", cases=(Case(case_id="a", patient_id="a", images={}),))
    chosen = card.choose([card.STARTER])
    with pytest.raises(UsageError, match="a folder of this machine"):
        flat.score(nothing, "s3://bucket/out", chosen, TASKS["gli-2020"])


@pytest.mark.tf
@pytest.mark.netns
def test_a_read_only_machine_without_a_network_is_enough(tmp_path: Path) -> None:
    cohort, out = tmp_path / "in", tmp_path / "out"
    phantom.write_cohort(cohort, cases=4, shape_vox=(64, 64, 48))
    out.mkdir()
    apart = ["unshare", "--mount", "--net"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("namespaces need root")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*apart, "bash", "-c", SHUT, "flat", str(cohort), str(out), sys.executable],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"ok": 4}
    assert files_of(out) == [f"BraTS20_Training_00{number}.nii.gz" for number in range(1, 5)]
    assert not list(cohort.rglob("written"))
