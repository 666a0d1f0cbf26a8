"""`check`: headers alone where they suffice, and never less found than preprocessing finds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from classes import EDEMA, NECROTIC
from conftest import SHAPE_VOX, file_of, rewrite
from shapes import radiotherapy

from ray_brats.arrays import Array
from ray_brats.cases import anatomy, cohort, inspection, phantom, preprocess
from ray_brats.cases.anatomy import Outline
from ray_brats.commands import datasets
from ray_brats.files import storage
from ray_brats.files.ledger import CaseRow
from ray_brats.recipes import named
from ray_brats.recipes.config import PreprocessConfig
from ray_brats.recipes.tasks import TASKS

STANDARD = named.get("standard").preprocess
BASELINE = named.get("baseline").preprocess


def exchanged(raw: Array) -> Array:
    """Raw labels with 1 and 2 exchanged."""
    return np.choose(raw.astype(np.uint8), [0, 2, 1, 3, 4])


def look(folder: Path, config: PreprocessConfig = STANDARD, *, deep: bool = False) -> CaseRow:
    (case,) = cohort.find(str(folder)).cases
    return inspection.check_case(case, config, deep=deep)


def test_a_sound_case_is_judged_by_headers_and_its_mask(
    one_case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = storage.read_bytes

    def count(uri: str, **limits: int) -> bytes:
        content = original(uri, **limits)
        read.append((storage.name_of(uri), len(content)))
        return content

    monkeypatch.setattr(storage, "read_bytes", count)
    row = look(one_case)
    assert (row.status, row.facts["shape_vox"], row.facts["masked"]) == (
        "ok",
        list(SHAPE_VOX),
        True,
    )
    images = [size for name, size in read if "seg" not in name]
    assert sum(images) <= 3 * (16 << 10) + 3 * 4
    assert sum(images) < sum(file_of(one_case, kind).stat().st_size for kind in ("t1ce", "t2"))


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        ("t2", Path.unlink, "t2 is missing"),
        ("t2", lambda path: path.write_bytes(path.read_bytes()[:9000]), "truncated"),
        ("t2", lambda path: path.write_bytes(b"text" * 200), "not a NIfTI"),
        ("t2", lambda path: rewrite(path, lambda v: v[1:]), "grid"),
        ("t2", lambda path: rewrite(path, np.zeros_like), "zero everywhere"),
        ("t2", lambda path: rewrite(path, lambda v: np.where(v > 0, np.nan, v)), "NaN"),
        ("seg", lambda path: rewrite(path, lambda v: v + 7), "label 7"),
    ],
)
def test_what_preprocessing_would_reject_is_found(
    one_case: Path, kind: str, damage: object, reason: str, deep: bool
) -> None:
    damage(file_of(one_case, kind))  # type: ignore[operator]
    row = look(one_case, deep=deep)
    assert row.status == "rejected"
    assert reason in row.reason


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
def test_the_recipes_own_rule_is_told(one_case: Path, deep: bool) -> None:
    rewrite(file_of(one_case, "seg"), np.zeros_like)
    assert look(one_case, BASELINE, deep=deep).status == "filtered"
    assert look(one_case, STANDARD, deep=deep).status == "ok"


def test_voxels_are_read_only_when_asked_for(one_case: Path) -> None:
    path = file_of(one_case, "t2")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))
    assert look(one_case).status == "ok"
    deep = look(one_case, deep=True)
    assert (deep.status, "gzip" in deep.reason) == ("rejected", True)


def test_empty_integer_images_are_noticed_by_their_size(tmp_path: Path) -> None:
    phantom.write_cohort(tmp_path, cases=1, shape_vox=SHAPE_VOX)
    case = tmp_path / "BraTS20_Training_001"
    path = file_of(case, "flair")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.int16), image.affine), path)
    assert "zero everywhere" in look(case).reason


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
def test_a_skull_is_found_unless_it_is_allowed(one_case: Path, deep: bool) -> None:
    noise = np.random.default_rng(0)
    for kind in ("t1ce", "t2", "flair"):
        image = nib.load(file_of(one_case, kind))
        voxels = np.asarray(image.dataobj)
        air = noise.integers(0, 60, voxels.shape)
        with_skull = np.where(voxels, voxels, air).astype(np.int16)
        nib.save(nib.Nifti1Image(with_skull, image.affine), file_of(one_case, kind))
    row = look(one_case, deep=deep)
    assert (row.status, "skull-stripped" in row.reason) == ("rejected", True)
    allowed = dataclasses.replace(STANDARD, allow_skull=True)
    assert look(one_case, allowed, deep=deep).status == "ok"


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
def test_a_row_tells_how_the_tumour_lies(one_case: Path, deep: bool) -> None:
    before = Outline.from_json(look(one_case, deep=deep).facts[anatomy.FACT])
    assert not before.lies_around(NECROTIC, EDEMA)
    rewrite(file_of(one_case, "seg"), exchanged)
    after = Outline.from_json(look(one_case, deep=deep).facts[anatomy.FACT])
    assert after.lies_around(NECROTIC, EDEMA)
    assert sum(after.volume_vox) == sum(before.volume_vox)
    file_of(one_case, "seg").unlink()
    assert anatomy.FACT not in look(one_case, deep=deep).facts


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
def test_check_warns_of_labels_in_another_order_and_fails_nobody(
    tmp_path: Path, deep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = phantom.write_cohort(tmp_path, cases=3, shape_vox=SHAPE_VOX)
    options = datasets.CheckOptions(cohort=str(tmp_path), deep=deep)
    assert datasets.check(options).facts["notes"] == []
    assert "warning" not in capsys.readouterr().err
    for name in ids[:2]:
        rewrite(file_of(tmp_path / name, "seg"), exchanged)
    told = datasets.check(options)
    (warning,) = told.as_json()["notes"]
    assert "in 2 of 3 case(s)" in warning
    assert "the masks look as if label 1 were edema" in warning
    assert f"check: {warning}" in capsys.readouterr().err
    assert (told.failures, told.counts) == ([], {"ok": 3})


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
def test_a_case_of_one_scan_is_sound_for_recipes_of_that_scan(
    one_case: Path, tmp_path: Path, deep: bool
) -> None:
    (four,) = cohort.find(str(one_case)).cases
    folder = radiotherapy(four, tmp_path / "rt")
    settings = ("preprocess.modalities=t1ce", "preprocess.allow_skull=true")
    config = named.get("standard", settings=settings).preprocess
    row = look(folder, config, deep=deep)
    assert (row.status, row.reason, row.facts["masked"]) == ("ok", "", True)
    (case,) = cohort.find(str(folder)).cases
    assert (case.task, sorted(case.images)) == (TASKS["men-rt"], ["t1ce"])
    prepared = preprocess.preprocess_case(case, config)
    assert prepared.image_HWDC.shape[-1] == 1
    assert prepared.label_HWD is not None
    assert np.unique(prepared.label_HWD).tolist() == [0, 1]
