"""Folders of one case whose files are named as somebody liked."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import touch
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import cohort, folders, joining, naming, spelling
from ray_brats.cases.case import Cohort
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.files.local import FileInfo


def found(folder: Path, *names: str) -> Cohort:
    return cohort.find(str(touch(folder, *(f"{name}.nii.gz" for name in names))))


def images(there: Cohort) -> dict[str, dict[str, str]]:
    """Case to modality to the name of its file."""
    return {
        case.case_id: {
            kind: storage.name_of(uri).removesuffix(".nii.gz") for kind, uri in case.images.items()
        }
        for case in there.cases
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["t1ce"], {"t1ce": "t1ce"}),
        (["T1", "t1c", "T2w", "T2-FLAIR"], {"t1": "T1", "t1ce": "t1c", "t2": "T2w", "flair": "*"}),
        (["x_t1gd_brain", "x_t2_brain"], {"t1ce": "x_t1gd_brain", "t2": "x_t2_brain"}),
        (
            ["t1_raw", "T1_Gd_to_t1", "T2_to_t1", "flair to t1 x"],
            {"t1": "t1_raw", "t1ce": "T1_Gd_to_t1", "t2": "T2_to_t1", "flair": "flair to t1 x"},
        ),
        (["T1post_reg", "FLAIR_reg"], {"t1ce": "T1post_reg", "flair": "FLAIR_reg"}),
        (["ax T1 post contrast", "ax T2"], {"t1ce": "ax T1 post contrast", "t2": "ax T2"}),
    ],
)
def test_the_one_reading_of_a_folder_is_its_case(
    tmp_path: Path, names: list[str], expected: dict[str, str]
) -> None:
    there = found(tmp_path, *(f"anna/{name}" for name in names))
    expected = {kind: "T2-FLAIR" if name == "*" else name for kind, name in expected.items()}
    assert images(there) == {"anna": expected}
    assert (there.rejected, there.passed_over) == ((), ())
    assert "anna among them with" in there.notes[0]


@pytest.mark.parametrize(
    ("names", "readings"),
    [
        (["t1_raw", "t1_reference"], r"t1 may be t1_raw\.nii\.gz or t1_reference\.nii\.gz"),
        (["flair_to_t1_x"], r"t1 may be flair_to_t1_x.*flair may be flair_to_t1_x"),
        (["T2_to_T1_x", "FLAIR_to_T1_x"], r"t1 may be .* or .*, t2 may be .*, flair may be"),
        (["P1_t1_a", "P2_t1_a", "P1_t2_a", "P2_t2_a"], r"t1 may be .*, t2 may be"),
        ([f"{n}_t2_x" for n in range(9)], r"t2 may be 0_t2_x\.nii\.gz or .* …"),
    ],
)
def test_of_several_readings_none_is_taken_and_all_are_said(
    tmp_path: Path, names: list[str], readings: str
) -> None:
    with pytest.raises(UsageError, match=readings) as caught:
        found(tmp_path, *(f"p/{name}" for name in names))
    assert joining.SEVERAL_READINGS in str(caught.value)
    there = found(tmp_path, "good_t2", "good_seg")
    assert {item.why for item in there.passed_over} == {joining.SEVERAL_READINGS}
    assert len(there.passed_over) == len(names)
    assert "in 1 folder(s) the names can be read in more than one way, in p" in there.notes[0]


@pytest.mark.parametrize(
    ("mask", "is_taken"),
    [
        ("seg", True),
        ("Segmentation", True),
        ("P_seg_final", True),
        ("tumor", True),
        ("lesion_mask", True),
        ("gtv", True),
        ("tumour_label", True),
        ("mask", False),
        ("brain_mask", False),
        ("brainmask_tumor", False),
        ("tissue_seg_x", False),
        ("tumor_prob", False),
        ("adc", False),
    ],
)
def test_the_mask_of_a_tumour_is_known_by_its_words(
    tmp_path: Path, mask: str, is_taken: bool
) -> None:
    there = found(tmp_path, "p/t1ce", "p/t2", f"p/{mask}")
    (case,) = there.cases
    assert case.segmentation == (f"{tmp_path}/p/{mask}.nii.gz" if is_taken else None)
    left = {} if is_taken else {f"{mask}.nii.gz": joining.NO_KIND}
    assert {item.name: item.why for item in there.passed_over} == left


def test_of_several_masks_none_is_taken(tmp_path: Path) -> None:
    there = found(tmp_path, "p/t1ce", "p/seg", "p/tumor")
    assert there.cases[0].segmentation is None
    assert {item.why for item in there.passed_over} == {joining.SEVERAL_MASKS}


def test_what_is_made_of_scans_is_no_scan(tmp_path: Path) -> None:
    extra = ["t1_brain_mask", "t2_bias_field", "flair_to_t1_warp", "t1_pve_0"]
    there = found(tmp_path, "p/t1x", "p/t2", "p/flair", *(f"p/{name}" for name in extra))
    assert images(there) == {"p": {"t2": "t2", "flair": "flair"}}
    assert {item.name.split(".")[0] for item in there.passed_over} == {*extra, "t1x"}


def test_files_that_end_in_a_modality_and_those_that_do_not_are_one_case(tmp_path: Path) -> None:
    there = found(tmp_path, "x/P1_t1ce", "x/P1_t2", "x/P1_FLAIR_brain", "x/P1_T1w", "x/P1_seg")
    assert images(there) == {
        "P1": {"t1": "P1_T1w", "t1ce": "P1_t1ce", "t2": "P1_t2", "flair": "P1_FLAIR_brain"}
    }
    assert there.cases[0].segmentation == f"{tmp_path}/x/P1_seg.nii.gz"


def test_an_end_that_another_modality_precedes_is_read_with_the_rest(tmp_path: Path) -> None:
    there = found(tmp_path, "P1/P1_T1", "P1/P1_T1c", "P1/P1_T2", "P1/P1_T2_FLAIR")
    assert images(there) == {
        "P1": {"t1": "P1_T1", "t1ce": "P1_T1c", "t2": "P1_T2", "flair": "P1_T2_FLAIR"}
    }


@pytest.mark.parametrize(
    "names",
    [
        ["a_t1_t2"],
        ["a_t1_t2", "a_t1_flair", "a_t1_seg"],
        ["x/t1_study_1_flair", "x/t1_study_2_flair"],
        ["P1_T2_FLAIR", "P1_T1", "P2_T2_FLAIR", "P2_T1"],
    ],
)
def test_where_a_folder_is_not_one_case_ends_count_as_ever(
    tmp_path: Path, names: list[str]
) -> None:
    there = found(tmp_path, *names)
    expected: dict[str, set[str]] = {}
    for name in names:
        case, kind = naming.case_and_kind(f"{storage.name_of(name)}.nii.gz") or ("", "")
        expected.setdefault(case, set()).add(kind)
    assert {case.case_id: {*case.images} for case in there.cases} == {
        case: kinds - {"seg"} for case, kinds in expected.items()
    }
    assert there.passed_over == ()


def test_nothing_is_added_to_the_files_of_a_release(tmp_path: Path) -> None:
    name = "BraTS20_Training_001"
    there = found(tmp_path, f"{name}/{name}_t2", f"{name}/{name}_t1_copy", f"{name}/t1ce")
    assert images(there) == {name: {"t2": f"{name}_t2"}}
    assert {item.why for item in there.passed_over} == {joining.NO_KIND}


def test_cases_are_called_after_what_tells_them_apart(tmp_path: Path) -> None:
    there = found(tmp_path, "P1/anat/t1ce", "P1/anat/t2", "P2/anat/t1ce", "P2/anat/t2")
    assert [case.case_id for case in there.cases] == ["P1", "P2"]
    there = found(tmp_path / "x", "scans/P_07_t1ce_brain", "scans/P_07_t2_brain")
    assert [case.case_id for case in there.cases] == ["P_07"]
    assert folders.names_of(["s3://b/a/x", "s3://b/b/x"]) == {"s3://b/a/x": "a", "s3://b/b/x": "b"}
    assert folders.names_of(["/a/x", "/a/x/x"]) == {"/a/x": "a", "/a/x/x": "x"}
    assert folders.names_of([]) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("P1_T2_FLAIR", {"flair"}),
        ("T2-FLAIR_to_T2", {"flair", "t2"}),
        ("t1_gd", {"t1ce"}),
        ("T1 post contrast", {"t1ce"}),
        ("ceT1", {"t1ce"}),
        ("at1", set()),
        ("t1ce2", set()),
        ("", set()),
    ],
)
def test_words_of_a_name_are_modalities(name: str, meant: set[str]) -> None:
    assert spelling.modalities_in(name) == meant


def test_every_spelling_means_its_own_modality_alone() -> None:
    assert tuple(spelling.SPELLINGS) == naming.MODALITIES
    for modality, names in spelling.SPELLINGS.items():
        for name in names:
            for mark in (" ", "_", "-"):
                spelled = name.replace(" ", mark)
                assert spelling.modality_of(spelled.upper()) == modality
                assert spelling.modalities_in(f"P1_{spelled}_x") == {modality}, spelled
    for alias, modality in naming.ALIASES.items():
        assert spelling.modality_of(alias) == modality


WORDS = st.sampled_from(
    ["t1", "t1ce", "T2", "flair", "to", "P_1", "brain", "seg", "mask", "tumor", "gd", "sub-1", "é"]
)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map("_".join)
PATHS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "p/", "q/", "imagesTr/"]),
    NAMES,
    st.sampled_from([".nii", ".nii.gz", ".mgz"]),
)


@given(st.sets(PATHS, max_size=10))
def test_no_image_is_lost_and_none_is_in_two_places(paths: set[str]) -> None:
    files = [FileInfo(uri=f"/c/{path}", size_bytes=0, etag="") for path in sorted(paths)]
    joined = joining.join(files)
    placed = [
        file.uri for _, kinds in joined.by_name() for items in kinds.values() for file in items
    ] + [item.uri for item in joined.passed_over]
    assert sorted(placed) == [file.uri for file in files]
    assert all(items for _, kinds in joined.by_name() for items in kinds.values())
