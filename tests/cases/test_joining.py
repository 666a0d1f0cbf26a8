"""Every image file below a cohort is part of a case, or is passed over with why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import touch
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import cohort, joining, naming
from ray_brats.cases.case import Case, Cohort
from ray_brats.files import storage
from ray_brats.files.local import FileInfo
from ray_brats.recipes.tasks import TASKS

SCANS = ("t1ce", "t2", "flair")


def found(folder: Path, *names: str) -> Cohort:
    return cohort.find(str(touch(folder, *names)))


def scans(stem: str) -> list[str]:
    return [f"{stem}_{kind}.nii.gz" for kind in SCANS]


def masks(cases: tuple[Case, ...]) -> dict[str, str | None]:
    """Case to the name of its mask."""
    return {
        case.case_id: case.segmentation and storage.name_of(case.segmentation) for case in cases
    }


def passed(there: Cohort) -> dict[str, str]:
    return {item.name: item.why for item in there.passed_over}


@pytest.mark.parametrize(
    "spelling",
    [
        "segm",
        "SEGM",
        "segmentation",
        "tumor_segmentation",
        "tumour_segmentation",
        "Tumor-Segmentation",
        "GlistrBoost",
        "GlistrBoost_ManuallyCorrected",
    ],
)
@pytest.mark.parametrize("mark", ["_", "-"])
def test_a_mask_by_another_name_is_its_scans_mask(tmp_path: Path, spelling: str, mark: str) -> None:
    name = f"a{mark}{spelling}.nii.gz"
    there = found(tmp_path, *scans("scans/a"), f"masks/{name}")
    assert masks(there.cases) == {"a": name}
    assert spelling.lower().replace("-", "_") in there.notes[0]
    assert there.passed_over == ()


def test_of_a_mask_and_its_correction_the_corrected_one_is_taken_and_said(tmp_path: Path) -> None:
    names = ("a_GlistrBoost.nii.gz", "a_GlistrBoost_ManuallyCorrected.nii.gz")
    there = found(tmp_path, *scans("a"), *names)
    assert masks(there.cases) == {"a": names[1]}
    assert passed(there) == {names[0]: joining.CORRECTED}
    assert "manuallycorrected, beside a glistrboost" in there.notes[0]


def test_a_mask_that_is_called_seg_comes_before_all_others(tmp_path: Path) -> None:
    there = found(tmp_path, *scans("a"), "a_seg.nii.gz", "a_segmentation.nii.gz")
    assert masks(there.cases) == {"a": "a_seg.nii.gz"}
    assert passed(there) == {"a_segmentation.nii.gz": joining.HAS_MASK}


@pytest.mark.parametrize(
    "names",
    [
        ("a_segm.nii.gz", "a_tumor_segmentation.nii.gz"),
        ("x/a_segm.nii.gz", "y/a_segm.nii.gz"),
        ("a_segm.nii.gz", "a_GlistrBoost.nii.gz"),
    ],
)
def test_masks_of_which_no_name_is_better_are_left(tmp_path: Path, names: tuple[str, ...]) -> None:
    there = found(tmp_path, *scans("a"), *names)
    assert masks(there.cases) == {"a": None}
    assert set(passed(there).values()) == {joining.SEVERAL_MASKS}
    assert len(there.passed_over) == 2


@pytest.mark.parametrize(
    ("scan", "mask", "case_id"),
    [
        ("p/Patient_001_brain", "p/Patient_001_final", "Patient_001"),
        ("Patient_001", "Patient_001_final", "Patient_001"),
        ("Patient_001_brain", "Patient_001", "Patient_001"),
        ("anna/anna_brain", "anna/anna_final", "anna"),
        ("p1/p1_brain", "p1/final", "p1"),
        ("p1/p1", "p1/tumor", "p1"),
    ],
)
@pytest.mark.parametrize("kind", ["seg", "segmentation"])
def test_a_mask_under_another_stem_is_joined_where_no_other_reading_is_left(
    tmp_path: Path, scan: str, mask: str, case_id: str, kind: str
) -> None:
    there = found(tmp_path, *scans(scan), f"{mask}_{kind}.nii.gz")
    assert masks(there.cases) == {case_id: storage.name_of(f"{mask}_{kind}.nii.gz")}
    assert "another name than their scans" in there.notes[0]
    assert there.passed_over == ()


def test_a_flat_folder_is_joined_case_by_case(tmp_path: Path) -> None:
    stems = [f"Patient_{number:03d}" for number in range(1, 4)]
    names = [name for stem in stems for name in scans(f"{stem}_brain")]
    there = found(tmp_path, *names, *(f"{stem}_final_seg.nii.gz" for stem in stems))
    assert masks(there.cases) == {stem: f"{stem}_final_seg.nii.gz" for stem in stems}


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("Patient_001_brain", "Patient_002_final"),
        ("patient_anna", "patient_bob"),
        ("Brats18_CBICA_AAB_1", "Brats18_CBICA_AAC_1"),
        ("x/Patient_001_brain", "y/Patient_001_final"),
        ("Patient_001", "Patient_001_brain"),
        ("Patient_001", "Patient_001_rater2"),
    ],
)
def test_a_mask_that_may_be_another_patients_is_not_joined(
    tmp_path: Path, scan: str, mask: str
) -> None:
    there = found(tmp_path, *scans(scan), f"{mask}_seg.nii.gz")
    scan, mask = storage.name_of(scan), storage.name_of(mask)
    assert masks(there.cases) == {scan: None, mask: f"{mask}_seg.nii.gz"}


def test_masks_that_several_scans_may_have_are_passed_over(tmp_path: Path) -> None:
    there = found(tmp_path, *scans("a/P_1_brain"), "a/P_1_raw_t1.nii.gz", "a/P_1_final_seg.nii.gz")
    assert masks(there.cases) == {"P_1_brain": None, "P_1_raw": None}
    assert passed(there) == {"P_1_final_seg.nii.gz": joining.SEVERAL_MASKS}
    there = found(tmp_path / "two", *scans("P_1"), "P_1_one_segm.nii", "P_1_other_seg.nii")
    assert masks(there.cases) == {"P_1": None}
    assert len(there.passed_over) == 2


def test_a_joined_case_takes_no_other_cases_name(tmp_path: Path) -> None:
    names = [*scans("x/P_1"), "x/P_1_seg.nii.gz", *scans("y/P_1_brain"), "y/P_1_final_seg.nii.gz"]
    there = found(tmp_path, *names)
    assert masks(there.cases) == {"P_1": "P_1_seg.nii.gz", "P_1_brain": "P_1_final_seg.nii.gz"}
    assert there.rejected == ()


def test_masks_of_brains_are_no_cases_and_no_tumours(tmp_path: Path) -> None:
    extra = ("U_1_brain_segmentation.nii.gz", "U_1_brain_parenchyma_segmentation.nii.gz")
    there = found(tmp_path, *scans("U_1"), *extra)
    assert masks(there.cases) == {"U_1": None}
    assert passed(there) == dict.fromkeys(extra, joining.NO_SCANS)


def test_folders_that_an_archiver_made_of_files_tell_case_and_kind(tmp_path: Path) -> None:
    kinds = {kind: f"BraTS2021_00495_{kind}.nii.gz/00000057_brain_{kind}.nii" for kind in SCANS}
    mask = "BraTS2021_00495_seg.nii.gz/00000057_final_seg.nii"
    there = found(tmp_path, *kinds.values(), mask)
    (case,) = there.cases
    assert (case.case_id, case.task) == ("BraTS2021_00495", TASKS["gli-2021"])
    assert case.segmentation == str(tmp_path / mask)
    assert case.images == {kind: str(tmp_path / name) for kind, name in kinds.items()}
    assert "4 file(s) lie each in a folder" in there.notes[0]


def test_a_folder_named_as_a_file_tells_nothing_of_several_or_of_another_kind(
    tmp_path: Path,
) -> None:
    there = found(tmp_path, "A_t2.nii.gz/b_t2.nii", "A_t2.nii.gz/c_t2.nii", "A_t1.nii/d_flair.nii")
    assert [case.case_id for case in there.cases] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a_t2.hdr", joining.PAIR),
        ("a_t2.img", joining.PAIR),
        ("a_t2.IMG.gz", joining.PAIR),
        ("a_t2.hdr.gz", joining.PAIR),
        ("a_t2.mgz", joining.OTHER_FORMAT),
        ("a_t2.nrrd", joining.OTHER_FORMAT),
        ("a_t2.mha", joining.OTHER_FORMAT),
        ("0001.dcm", joining.OTHER_FORMAT),
        ("a_adc.nii.gz", joining.NO_KIND),
        ("a.nii", joining.NO_KIND),
        ("b_segm.nii.gz", joining.NO_SCANS),
        ("W39_1998.09.19_Segm.nii", joining.NO_SCANS),
    ],
)
def test_an_image_of_no_case_is_passed_over_with_why(tmp_path: Path, name: str, why: str) -> None:
    there = found(tmp_path, *scans("good"), name, "notes.txt", "._a_t2.hdr", ".x/a_t2.nii")
    assert passed(there) == {name: why}
    assert [case.case_id for case in there.cases] == ["good"]
    groups = cohort.passed_over_groups(there)
    assert groups == [{"why": why, "count": 1, "files": [name]}]


def test_a_flat_folder_of_thousands_is_not_compared_each_with_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    compare = joining.common_name
    monkeypatch.setattr(
        joining, "common_name", lambda *names: (asked.append(names[0]), compare(*names))[1]
    )
    names = [f"P_{number}_{name}.nii" for number in range(2000) for name in ("a_t2", "b_seg")] + [
        f"{'x' * number}_{name}.nii" for number in range(1, 200) for name in ("a_t2", "b_segm")
    ]
    files = [FileInfo(uri=f"/c/{name}", size_bytes=0, etag="") for name in names]
    joined = joining.join(files)
    assert len([name for name, kinds in joined.cases.items() if "seg" in kinds]) == 2000
    assert len(asked) <= 2000


WORDS = st.sampled_from(["P_1", "P_2", "P_1_brain", "P_1_final", "final", "P_2_brain", "é 1"])
KINDS = st.sampled_from(
    ["t1ce", "t2", "seg", "segm", "GlistrBoost", "GlistrBoost_ManuallyCorrected", "adc"]
)
ENDINGS = st.sampled_from([".nii", ".nii.gz", ".hdr", ".img", ".txt"])
FOLDERS = st.sampled_from(["", "P_1/", "x/", "P_1_t2.nii.gz/", "P_2_seg.nii/"])
PATHS = st.builds("{}{}_{}{}".format, FOLDERS, WORDS, KINDS, ENDINGS)


@given(st.sets(PATHS, max_size=14))
def test_no_image_is_lost_and_none_is_in_two_places(paths: set[str]) -> None:
    files = [FileInfo(uri=f"/c/{path}", size_bytes=0, etag="") for path in sorted(paths)]
    joined = joining.join(files)
    placed = [
        file.uri for _, kinds in joined.by_name() for items in kinds.values() for file in items
    ] + [item.uri for item in joined.passed_over]
    images = [file.uri for file in files if naming.image_format(storage.name_of(file.uri))]
    assert sorted(placed) == sorted(images)
    assert all(items for _, kinds in joined.by_name() for items in kinds.values())


PLAIN = st.builds("{}{}_{}{}".format, FOLDERS, WORDS, st.sampled_from([*SCANS, "seg"]), ENDINGS)


@given(st.sets(PLAIN, max_size=14))
def test_a_case_that_has_scans_and_a_mask_of_its_own_stays_as_it_is(paths: set[str]) -> None:
    files = [
        FileInfo(uri=f"/c/{path}", size_bytes=0, etag="")
        for path in sorted(paths)
        if "nii" not in path.rpartition("/")[0]
    ]
    before: dict[str, dict[str, set[str]]] = {}
    for file in files:
        if meant := naming.case_and_kind(storage.name_of(file.uri)):
            before.setdefault(meant[0], {}).setdefault(meant[1], set()).add(file.uri)
    after = {
        name: {kind: {file.uri for file in items} for kind, items in kinds.items()}
        for name, kinds in joining.join(files).by_name()
    }
    for name, kinds in before.items():
        if len(kinds) > 1 and "seg" in kinds:
            assert after[name] == kinds


FOLDERS = st.sampled_from(
    ["", "a/", "b/", "x/a/", "a/derivatives/", "P_1_t2.nii.gz/", "sub-01/anat/", "a-1/", "masks/"]
)
STEMS = st.sampled_from(["a", "b", "a-1", "P_1", "sub-01", "BraTS20_Training_355", "a_flair", "é"])
ENDS = st.sampled_from(
    [
        "_t1ce",
        "_t2",
        "-t1c",
        "_flair",
        "_seg",
        "_segmentation",
        "_dseg",
        "_label-tumor_mask",
        "_GlistrBoost",
        "",
        "_GlistrBoost_ManuallyCorrected",
        "_final",
        "_to_t2",
        "_T1w",
    ]
)
IMAGES = st.builds("{}{}{}{}".format, FOLDERS, STEMS, ENDS, st.sampled_from([".nii", ".nii.gz"]))
RELEASED = st.builds(
    lambda folder, stem, ends: [f"{folder}{stem}/{stem}{end}.nii.gz" for end in ends],
    st.sampled_from(["", "HGG/", "LGG/"]),
    STEMS,
    st.sets(st.sampled_from(["_t1", "_t1ce", "_t2", "_flair", "_seg"]), min_size=1),
)


@given(st.sets(IMAGES, max_size=8), st.lists(RELEASED, max_size=4))
def test_cases_with_a_folder_of_their_own_are_what_they_are_among_all(
    others: set[str], released: list[list[str]]
) -> None:
    files = _infos(others.union(*released))
    packed, (together, _) = joining.join(files), joining._join(files)
    assert [*packed.by_name()] == [*together.by_name()]
    assert packed.notes == together.notes
    assert sorted(packed.passed_over, key=str) == sorted(together.passed_over, key=str)


def test_a_release_is_packed() -> None:
    ours = [f"a/c{number}/c{number}_{kind}.nii.gz" for number in range(9) for kind in SCANS]
    joined = joining.join(_infos(ours))
    assert (len(joined.cases), len(joined.plain)) == (0, 9)
    joined = joining.join(_infos([*ours, *(f"b{path[1:]}" for path in ours[6:])]))
    assert (len(joined.cases), len(joined.plain)) == (7, 2)


def _infos(paths: Iterable[str]) -> list[FileInfo]:
    return [FileInfo(uri=f"/c/{path}", size_bytes=0, etag="") for path in sorted(paths)]
