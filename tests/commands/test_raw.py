"""`prepare`, `score --native` and `segment` of a study: what is refused before Ray starts."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dicoms as make
import nibabel as nib
import numpy as np
import pytest
from conftest import touch

from commands.test_cli import called
from ray_brats.cases import phantom
from ray_brats.cases.raw import extra, preparation, space
from ray_brats.commands import case, masks, raw
from ray_brats.commands.arguments import Bundles, Inference
from ray_brats.commands.case import SegmentOptions
from ray_brats.commands.masks import ScoreOptions
from ray_brats.commands.raw import PrepareOptions
from ray_brats.engine import cluster
from ray_brats.errors import ArtefactError, UsageError
from ray_brats.files import storage
from ray_brats.files.ledger import Summary
from ray_brats.model import card
from ray_brats.stages import prepare as stage
from ray_brats.stages.prepare import PrepareSummary, Raw

HEADER = "case_id,t1,t1ce,t2,flair\n"


class NotRefusedError(Exception):
    """Ray would have started."""


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster; and the packages of the extra count as installed."""

    def refuse(*_: object, **__: object) -> None:
        raise NotRefusedError

    monkeypatch.setattr(cluster, "running", refuse)
    missing(monkeypatch)


def save(path: Path) -> None:
    """A header that says it is a head, and no voxel that anybody reads here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([40.0, 40, 40, 1]))
    nib.save(image, path)


@pytest.fixture
def studies_folder(tmp_path: Path) -> Path:
    """Two studies of NIfTI, `P1` and `P2/b`."""
    for name in ("P1/t1", "P1/t1ce", "P2/b/t1", "P2/b/t2"):
        save(tmp_path / f"in/{name}.nii")
    return tmp_path / "in"


def options(folder: Path | str, out: Path | str, **given: Any) -> PrepareOptions:
    return PrepareOptions(raw=str(folder), cohort=str(out), **{"space": "patient", **given})


def refused(sentence: str, *places: Path | str, **given: Any) -> str:
    """What `prepare` says, as it leaves nothing behind."""
    with pytest.raises(UsageError, match=sentence) as caught:
        raw.prepare(options(*places, **given))
    assert not Path(places[1]).exists()
    return str(caught.value)


def asked_of(
    *places: Path | str,
    monkeypatch: pytest.MonkeyPatch,
    told: Mapping[str, Any] | None = None,
    **given: Any,
) -> list[Raw]:
    """What the stage is asked to do by a call that is not refused; `told` is how it ends."""
    seen: list[Raw] = []

    class Nowhere:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    def note(wanted: Sequence[Raw], target: str, *_: Any, **__: Any) -> Summary:
        seen.extend(wanted)
        ending = {"cohort": target, "page": "p", "processed": 0, "skipped": 0, "notes": []}
        return PrepareSummary(**{**ending, **(told or {})})

    monkeypatch.setattr(cluster, "running", Nowhere)
    monkeypatch.setattr(cluster, "check_shared", lambda *_: None)
    monkeypatch.setattr(cluster, "check_seen", lambda *_: None)
    monkeypatch.setattr(stage, "prepare", note)
    raw.prepare(options(*places, **given))
    return seen


# --- prepare: where from, where to -----------------------------------------------------------


def test_a_call_that_is_right_comes_to_ray(studies_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotRefusedError):
        raw.prepare(options(studies_folder, tmp_path / "out"))


def test_where_no_studies_are_is_a_sentence(studies_folder: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "in/P1/t1.nii"
    refused("nowhere is not there: expected a folder of studies", tmp_path / "nowhere", out)
    refused(r"t1\.nii is a file: expected a folder of studies", file, out)
    refused("list.csv: no such file", tmp_path / "list.csv", out)
    refused("in.zip: nothing is there", tmp_path / "in.zip", out)
    refused("s3://list.csv: expected a CSV of this machine", "s3://list.csv", out)
    (tmp_path / "empty").mkdir()
    refused("empty: no series of MR.*: it is empty", tmp_path / "empty", out)
    done = called("prepare", tmp_path / "nowhere", out)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_cohort_among_the_raw_studies_is_refused(studies_folder: Path, tmp_path: Path) -> None:
    sentence = "is within .*: expected a cohort beside the raw studies"
    (tmp_path / "link").symlink_to(studies_folder)
    for folder in (studies_folder, tmp_path / "link"):
        refused(sentence, folder, studies_folder / "out")
        refused(sentence, folder, tmp_path / "link/deep/er")
        with pytest.raises(UsageError, match=sentence):
            raw.prepare(options(folder, studies_folder))
    refused("is a file; expected a folder there", studies_folder, studies_folder / "P1/t1.nii/out")
    with pytest.raises(NotRefusedError):
        raw.prepare(options(studies_folder, tmp_path / "in-prepared"))
    scratch = str(tmp_path / "out/scratch")
    refused("cohort beside the scratch folder", studies_folder, tmp_path / "out", scratch=scratch)
    with pytest.raises(UsageError, match=sentence):
        raw.prepare(options("s3://bucket/raw", "s3://bucket/raw/out"))


def test_a_zip_is_unpacked_for_the_call_and_gone_after_it(
    studies_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scratch = tmp_path / "in.zip", tmp_path / "scratch"
    shutil.make_archive(str(tmp_path / "in"), "zip", studies_folder)
    places = folder, tmp_path / "out"
    found = asked_of(*places, monkeypatch=monkeypatch, scratch=str(scratch))
    assert [item.study.name for item in found] == ["P1", "P2/b"]
    plain = asked_of(studies_folder, tmp_path / "out", monkeypatch=monkeypatch)
    assert [item.case_id for item in plain] == [item.case_id for item in found]
    assert list(scratch.iterdir()) == []
    again = asked_of(*places, monkeypatch=monkeypatch, scratch=str(scratch))
    assert [item.etag for item in again] == [item.etag for item in found]
    failed = {"counts": {"error": 1, "ok": 1}}
    asked_of(*places, monkeypatch=monkeypatch, told=failed, scratch=str(scratch))
    assert list(scratch.iterdir()), "what is tried again is not brought again"


def test_a_table_of_studies_names_cases_and_series(
    studies_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "in.csv"
    table.write_text("case_id;t1;t2\nA;in/P1/t1.nii;\nB;in/P2/b/t1.nii;in/P2/b/t2.nii\n")
    found = asked_of(table, tmp_path / "out", monkeypatch=monkeypatch)
    assert [item.case_id for item in found] == ["A", "B"]
    named = [{kind: Path(file).name for kind, file in item.asked.items()} for item in found]
    assert named == [{"t1": "t1.nii"}, {"t1": "t1.nii", "t2": "t2.nii"}]
    table.write_text("case_id,study\nA,in/P2\n")
    (one,) = asked_of(table, tmp_path / "out", monkeypatch=monkeypatch)
    assert (one.case_id, len(one.study.nifti), one.asked) == ("A", 2, {})


def test_a_key_does_not_travel_with_its_cohort(studies_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused("--key .* is within", studies_folder, out, key=str(out / "key.csv"))


def test_options_that_contradict_are_refused(studies_folder: Path, tmp_path: Path) -> None:
    places = studies_folder, tmp_path / "out"
    save(tmp_path / "atlas.nii.gz")
    refused("patient turns nothing", *places, atlas=str(tmp_path / "atlas.nii.gz"))
    refused("--case-limit 0: expected seconds above zero", *places, case_limit=0)
    for name in ("nowhere.nii.gz", "in/P1", "note.txt"):
        (tmp_path / "note.txt").write_text("no image")
        refused(f"--atlas .*{name}", *places, atlas=str(tmp_path / name), space="mni152")


# --- prepare: tables and masks ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "expected the columns case_id"),
        (HEADER, "expected the columns case_id"),
        ("name,t1\nP1,a\n", r"expected the columns case_id \(or study\) and some of t1, t1ce"),
        ("study,t1,adc\nP1,a,b\n", "expected the columns"),
        ("study,t1\nP1,a,b\n", "the row P1, … has more cells than the header"),
        (HEADER + "P1,a,,,\nP9,,,,\nP8,,,,\n", "names 2 that are no study: P9 and such"),
        ("study|t1\nP1|a\n", "expected the columns"),
        ("study,t1\nP1," + "x" * 200_000, "not a CSV"),
        ("study,t1\nP1,a\nP2/b,\nP1,c\n", "P1 stands there more than once: expected one row"),
    ],
)
def test_a_wrong_table_of_series_is_a_sentence(
    studies_folder: Path, tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "series.csv").write_text(content)
    refused(sentence, studies_folder, tmp_path / "out", series=str(tmp_path / "series.csv"))


def test_a_table_of_series_that_cannot_be_read_is_a_sentence(
    studies_folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "series.csv"
    table.write_bytes("study,t1\nP1,ä\n".encode("latin-1"))
    places = studies_folder, tmp_path / "a"
    refused(r"--series .*series\.csv: not a text file in UTF-8", *places, series=str(table))
    for name, why in (("nowhere.csv", "no such file"), ("in", "cannot be read")):
        refused(f"--series .*{name}: {why}", *places, series=str(tmp_path / name))


def test_a_table_names_studies_or_cases_and_leaves_the_rest_to_the_choice(
    studies_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, table = tmp_path / "key.csv", tmp_path / "series.csv"
    places = studies_folder, tmp_path / "out"
    found = asked_of(*places, monkeypatch=monkeypatch, key=str(key))
    assert {item.study.name: dict(item.asked) for item in found} == {"P1": {}, "P2/b": {}}
    rows = list(csv.DictReader(key.read_text().splitlines()))
    assert [row["case_id"] for row in rows] == [item.case_id for item in found]
    assert [(row["study"], row["patient"]) for row in rows] == [("P1", "P1"), ("P2/b", "P2/b")]
    for lines in (
        "study,t2,t1\r\nP2/b, 5 ,\r\n",
        "study;t2;t1;\nP2/b;5;;\n",
        "study\tt2\nP2/b\t5\n",
        f"case_id,t2\n{found[1].case_id}, 5 \n",
    ):
        table.write_text("\ufeff" + lines, encoding="utf-8", newline="")
        again = asked_of(*places, monkeypatch=monkeypatch, series=str(table))
        assert [dict(item.asked) for item in again] == [{}, {"t2": "5"}]


def test_masks_of_brains_are_found_by_case_or_study(
    studies_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = studies_folder, tmp_path / "out"
    for name in ("nowhere", "other", "in"):
        touch(tmp_path / "other", "P3.nii.gz", "P1.txt", "deep/P1.nii.gz")
        refused("holds no mask of any study", *places, brain_masks=str(tmp_path / name))
    touch(tmp_path / "some", "P1_brain_mask.nii.gz", "b_t1.nii")
    given = {"monkeypatch": monkeypatch, "brain_masks": str(tmp_path / "some")}
    one, other = asked_of(*places, **given)
    assert one.mask is not None
    assert one.mask.uri == str(tmp_path / "some/P1_brain_mask.nii.gz")
    assert other.mask is None
    assert f"1 case(s) have no mask in {tmp_path}/some, and are stripped: {other.case_id}\n" in (
        capsys.readouterr().err
    )
    touch(tmp_path / "some", f"{one.case_id}.nii.gz", "b.nii")
    one, other = asked_of(*places, **given)
    assert [storage.name_of(item.mask.uri) for item in (one, other) if item.mask] == [
        f"{one.case_id}.nii.gz",
        "b.nii",
    ]
    os.utime(tmp_path / "some/b.nii", (5, 5))
    assert asked_of(*places, **given)[1].mask != other.mask


def test_a_key_replaces_no_other_file(
    studies_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, key = (studies_folder, tmp_path / "out"), tmp_path / "new/key.csv"
    for _ in range(2):
        assert len(asked_of(*places, monkeypatch=monkeypatch, key=str(key))) == 2
    before = key.read_bytes()
    refused("is there already and says otherwise", *places, key=str(key), names="folder")
    assert key.read_bytes() == before
    scan = studies_folder / "P1/t1.nii"
    before = scan.read_bytes()
    refused("is there already and says otherwise", *places, key=str(scan))
    assert scan.read_bytes() == before
    refused("that is a folder; expected the name of a file", *places, key=str(tmp_path))
    refused("is a file; expected a folder there", *places, key=str(scan / "key.csv"))


def test_a_key_is_text_whatever_folders_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/P1/t1.nii")
    (tmp_path / "in/P1").rename(tmp_path / "in/P\udce9")
    asked_of(
        tmp_path / "in", tmp_path / "out", monkeypatch=monkeypatch, key=str(tmp_path / "key.csv")
    )
    (row,) = csv.DictReader((tmp_path / "key.csv").read_text("utf-8").splitlines())
    assert row["study"] == "P\ufffd"


def test_names_that_collide_are_refused(tmp_path: Path) -> None:
    for name in ("P-1/t1", "P-1/t2", "P 1/t1", "P 1/t2"):
        save(tmp_path / f"in/{name}.nii")
    said = refused(
        "several studies with --names patient", tmp_path / "in", tmp_path / "out", names="patient"
    )
    assert "P-1" not in said
    with pytest.raises(NotRefusedError):
        raw.prepare(options(tmp_path / "in", tmp_path / "out"))


# --- prepare: packages -----------------------------------------------------------------------


@pytest.fixture
def dicom_folder(tmp_path: Path) -> Path:
    """Two studies of DICOM."""
    pytest.importorskip("pydicom")
    for patient in ("1", "2"):
        tags = dataclasses.replace(make.T1CE, patient=patient)
        make.write(tmp_path / "dicom" / patient, make.voxels_of((8, 8, 20)), np.eye(4), tags)
    return tmp_path / "dicom"


@pytest.mark.parametrize(
    ("package", "given"),
    [
        ("SimpleITK", {}),
        ("SimpleITK", {"keep_skull": True}),
        ("torch", {}),
        ("deepbet", {}),
        ("deepbet", {"brain_masks": "masks"}),
        ("deepbet", {"keep_skull": True, "space": "mni152"}),
        ("nilearn", {"space": "mni152"}),
    ],
)
def test_a_missing_package_is_named_before_the_work(
    studies_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    given: dict[str, Any],
) -> None:
    missing(monkeypatch, package)
    if given.get("space") == "mni152" and package != "nilearn":
        pytest.importorskip("nilearn")
    if "brain_masks" in given:
        # Of one study of two.
        touch(tmp_path / "masks", "P1.nii.gz")
        given = {"brain_masks": str(tmp_path / "masks")}
    sentence = rf"raw scans need {package}, .*: pip install 'ray-brats\[raw\]'"
    refused(sentence, studies_folder, tmp_path / "out", **given)


@pytest.mark.parametrize(
    ("without", "given"),
    [
        (("torch", "deepbet", "nilearn", "pydicom", "dcm2niix"), {"keep_skull": True}),
        (("torch", "deepbet", "nilearn", "pydicom", "dcm2niix"), {"brain_masks": "masks"}),
        (("nilearn", "pydicom", "dcm2niix"), {}),
    ],
)
def test_a_package_that_nobody_needs_is_not_missed(
    studies_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without: Sequence[str],
    given: dict[str, Any],
) -> None:
    missing(monkeypatch, *without)
    if "brain_masks" in given:
        touch(tmp_path / "masks", "P1.nii.gz", "b.nii.gz")
        given = {"brain_masks": str(tmp_path / "masks")}
    with pytest.raises(NotRefusedError):
        raw.prepare(options(studies_folder, tmp_path / "out", **given))


@pytest.mark.parametrize("package", ["pydicom", "dcm2niix"])
def test_what_reads_dicom_is_named_where_there_is_some(
    dicom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    with pytest.raises(NotRefusedError):
        raw.prepare(options(dicom_folder, tmp_path / "out"))
    missing(monkeypatch, package)
    refused(rf"need {package}, .*: pip install", dicom_folder, tmp_path / "out")


def missing(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """These are not installed, and all others are."""

    def found(name: str) -> None:
        if name in packages:
            raise UsageError(f"raw scans need {name}, which is not installed: {extra.INSTALL}")

    monkeypatch.setattr(preparation, "found", found)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    space.space_of.cache_clear()


# --- score --native --------------------------------------------------------------------------


@pytest.fixture
def starter() -> None:
    """What segments by default."""
    if not (Path(card.place(card.STARTER)) / card.CARD).is_file():
        pytest.skip("this checkout has no starter model")


def test_native_masks_need_ray_and_bundles_here(tmp_path: Path) -> None:
    given = {"cohort": "in", "predictions": str(tmp_path / "out"), "native": str(tmp_path)}
    for other in ({"flat": True}, {"endpoint": "http://x"}):
        with pytest.raises(UsageError, match="--native needs a Ray and bundles here: leave out"):
            masks.score(ScoreOptions(**given, **other))


@pytest.mark.usefixtures("starter")
def test_without_a_way_back_no_mask_goes_home(tmp_path: Path) -> None:
    (name,) = phantom.write_cohort(tmp_path / "in", cases=1, shape_vox=(24, 24, 24))

    def score(native: str = "raw") -> None:
        masks.score(
            ScoreOptions(
                cohort=str(tmp_path / "in"),
                predictions=str(tmp_path / "out"),
                native=str(tmp_path / native),
            )
        )

    with pytest.raises(UsageError, match=r"--native .*raw: no such folder, or nothing in it"):
        score()
    touch(tmp_path / "raw", "P1/t1.nii")
    with pytest.raises(UsageError, match=rf"{name} has no prepare\.json .* `ray-brats prepare`"):
        score()
    record = tmp_path / "in" / name / "prepare.json"
    for content, sentence in (("{}", "format None"), ('{"format": 1}', "is damaged")):
        record.write_text(content)
        with pytest.raises(ArtefactError, match=rf"prepare\.json .*{sentence}.*prepare the case"):
            score()
    assert not (tmp_path / "out").exists()


# --- segment of a study ----------------------------------------------------------------------


def refused_study(sentence: str, folder: Path, **given: Any) -> None:
    out = folder.parent / "mask.nii.gz"
    with pytest.raises(UsageError, match=sentence):
        case.segment(SegmentOptions(folder=str(folder), out=str(out), **given))
    assert not out.exists()


def test_a_folder_of_two_studies_is_refused(dicom_folder: Path, studies_folder: Path) -> None:
    refused_study("holds 2 studies: expected one; `ray-brats prepare` takes all", dicom_folder)
    refused_study("no file is named as a BraTS release|expected the folder of one", studies_folder)


def test_a_study_in_dicom_needs_what_reads_it(
    dicom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(monkeypatch, "pydicom")
    refused_study(r"need pydicom, .*: pip install 'ray-brats\[raw\]'", dicom_folder / "1")
    done = called("segment", dicom_folder / "1", "-o", dicom_folder.parent / "mask.nii.gz")
    assert (done.returncode, "need pydicom" in done.stderr) == (2, True)


def test_files_beside_the_folder_of_a_study_are_not_passed_over(dicom_folder: Path) -> None:
    refused_study("expected either FOLDER or the files of a case", dicom_folder / "1", t2="a.nii")


def test_a_skull_that_is_allowed_is_taken_for_no_raw_study(dicom_folder: Path) -> None:
    bundles = Bundles(inference=Inference(allow_skull=True))
    refused_study("no file is named as a BraTS", dicom_folder / "1", bundles=bundles)
