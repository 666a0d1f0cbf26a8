"""Which modality a series is: by the habits of makers and people, and by its times."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases.geometry import affine_of
from ray_brats.cases.raw import kinds, words
from ray_brats.cases.raw.series import Series

from . import names

FILES = "research"
"""The table of names that files have; the others are descriptions by scanners."""


def series(name: str = "", *, is_file: bool = False, **values: Any) -> Series:
    """An axial series of 24 slices."""
    found = Series(
        path=Path(f"{Path(name).name}.nii.gz" if is_file else "5.nii"),
        name=name or "5",
        description="" if is_file else name,
        shape_vox=(256, 256, 24),
        spacing_mm=(0.9, 0.9, 5.0),
        affine=affine_of(np.diag([-0.9, 0.9, 5, 1])),
    )
    return dataclasses.replace(found, **values)


@pytest.mark.parametrize(("maker", "kind", "name"), names.rows())
def test_a_name_is_read_as_its_maker_means_it(maker: str, kind: str | None, name: str) -> None:
    found = kinds.kind_of(series(name, is_file=maker == FILES))
    assert found.modality == kind, found.reason
    assert found.sure
    assert found.reason


def test_the_tables_are_large_and_of_all_makers() -> None:
    assert len(names.rows()) > 400
    for maker in names.TABLES:
        told = {kind for whose, kind, _ in names.rows() if whose == maker}
        assert told == {None, "t1", "t1ce", "t2", "flair"}, maker


@pytest.mark.parametrize("change", [str.upper, str.lower, lambda name: name.replace("_", " ")])
def test_capitals_and_blanks_make_no_other_kind(change: Any) -> None:
    def modality(name: str) -> str | None:
        return kinds.kind_of(series(name)).modality

    rows = [name for maker, _, name in names.rows() if maker != FILES]
    assert {name for name in rows if modality(name) != modality(change(name))} == set()


TSE_T1 = {"te_ms": 12, "tr_ms": 600, "sequence": "SE SK"}
MPRAGE = {"te_ms": 2.3, "tr_ms": 1900, "ti_ms": 900, "sequence": "GR_IR SK_SP_MP"}
SPGR = {"te_ms": 3, "tr_ms": 8, "sequence": "GR SK"}
T1_FLAIR = {"te_ms": 9, "tr_ms": 2400, "ti_ms": 860, "sequence": "SE_IR"}
TSE_T2 = {"te_ms": 98, "tr_ms": 4500, "sequence": "SE SK"}
FLAIR = {"te_ms": 95, "tr_ms": 9000, "ti_ms": 2500, "sequence": "SE_IR"}
SPACE_FLAIR = {"te_ms": 390, "tr_ms": 5000, "ti_ms": 1800, "sequence": "SE_IR"}
STIR = {"te_ms": 60, "tr_ms": 4000, "ti_ms": 160, "sequence": "SE_IR"}
PD = {"te_ms": 12, "tr_ms": 3000, "sequence": "SE"}
T2_STAR = {"te_ms": 20, "tr_ms": 600, "sequence": "GR"}
EPI = {"te_ms": 90, "tr_ms": 5000, "sequence": "EP_SE"}


@pytest.mark.parametrize(
    ("times", "modality"),
    [
        (TSE_T1, "t1"),
        (MPRAGE, "t1"),
        (SPGR, "t1"),
        (T1_FLAIR, "t1"),
        (TSE_T2 | {"ti_ms": 50}, "t2"),
        (FLAIR, "flair"),
        (SPACE_FLAIR, "flair"),
    ],
)
def test_times_tell_where_the_name_does_not_and_are_not_sure(
    times: dict[str, Any], modality: str
) -> None:
    found = kinds.kind_of(series("Ax brain", **times))
    assert (found.modality, found.sure) == (modality, False)
    assert f"TE {times['te_ms']:.4g}" in found.reason


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (TSE_T2, "T2 or FLAIR"),
        (STIR, "a STIR"),
        (PD, "proton density"),
        (T2_STAR, "a T2\\* image"),
        (EPI, "an echo-planar image"),
        ({}, "neither its name nor its times"),
        ({"te_ms": 50, "tr_ms": 1500}, "neither its name nor its times"),
    ],
)
def test_other_times_are_none_of_the_four(times: dict[str, Any], reason: str) -> None:
    found = kinds.kind_of(series("Ax brain", **times))
    assert found.modality is None
    assert reason.replace("\\", "") in found.reason


@pytest.mark.parametrize(
    ("name", "times", "sure"),
    [
        ("t1_mprage", MPRAGE, True),
        ("Ax T1 FLAIR", T1_FLAIR, True),
        ("Ax T1", TSE_T2, False),
        ("Ax T2", TSE_T2, True),
        ("Ax T2", TSE_T1, False),
        ("Ax T2", FLAIR, False),
        ("Ax T2", EPI, False),
        ("Ax FLAIR", FLAIR, True),
        # Not every maker writes an inversion time.
        ("Ax FLAIR", TSE_T2, True),
        ("Ax FLAIR", T1_FLAIR, False),
        ("Ax FLAIR", {}, True),
    ],
)
def test_a_name_against_its_times_counts_and_is_not_sure(
    name: str, times: dict[str, Any], sure: bool
) -> None:
    found = kinds.kind_of(series(name, **times))
    assert (found.modality, found.sure) == (kinds.kind_of(series(name)).modality, sure)
    assert ("but TE" in found.reason) is not sure


@pytest.mark.parametrize(
    ("name", "contrast", "modality", "sure"),
    [
        ("Ax T1", True, "t1ce", True),
        ("Ax T1", False, "t1", True),
        ("Ax T1", None, "t1", True),
        ("Ax T1 PRE", True, "t1", False),
        ("Ax T1 PRE", False, "t1", True),
        ("Ax T1 +C", False, "t1ce", False),
        ("Ax T1 +C", True, "t1ce", True),
        ("Ax T2", True, "t2", True),
        ("Ax FLAIR", True, "flair", True),
        ("Ax T1 BRAIN W/WO CONTRAST", True, "t1ce", True),
        ("Ax T1 BRAIN W/WO CONTRAST", None, "t1", True),
        ("Ax T1 W & W/O", None, "t1", True),
        ("Ax T1 pre and post", None, "t1", True),
    ],
)
def test_contrast_is_by_name_then_by_agent(
    name: str, contrast: bool | None, modality: str, sure: bool
) -> None:
    found = kinds.kind_of(series(name, contrast=contrast))
    assert (found.modality, found.sure) == (modality, sure)


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("T1 POST FOSSA POSTERIOR", "t1ce"),
        ("AX T1 POSTERIOR FOSSA", "t1"),
        ("T1 post-op", "t1"),
        ("T1 POSTRADIATION", "t1"),
        ("T1 COR", "t1"),
        ("T1 POST W/O FAT SAT", "t1ce"),
        ("T1 KONTRASTSIZ", "t1"),
        ("T1 KONTRASTLI", "t1ce"),
        ("T1 SE + MT", "t1"),
        ("Ax T2 FLAIR AIR Recon DL", "flair"),
        ("Ax T2 AIR Recon DL", "t2"),
        ("T1 FA 15", "t1"),
        ("Ax T12", None),
        ("PREPOST2", None),
        ("POST1", None),
        ("T2 T1", None),
    ],
)
def test_words_are_whole_words(name: str, modality: str | None) -> None:
    assert kinds.kind_of(series(name)).modality == modality


def test_the_protocol_counts_where_there_is_no_description() -> None:
    assert kinds.kind_of(series(protocol="t1_mprage_KM")).modality == "t1ce"
    named = series("Ax T2", protocol="BRAIN W/WO T1 PERFUSION")
    assert kinds.kind_of(named) == kinds.kind_of(series("Ax T2"))


def test_a_file_that_people_named_counts_more_than_its_sidecar() -> None:
    described = series("t1_mprage_sag")
    assert kinds.kind_of(described).modality == "t1"
    for name in ("t1ce", "P1_t1ce", "sub-1_ce-gd_T1w", "T1-Gd"):
        told = dataclasses.replace(described, path=Path(f"{name}.nii.gz"))
        assert kinds.kind_of(told).modality == "t1ce", name
    dcm2niix = dataclasses.replace(described, path=Path("BRAIN_W_CONTRAST_t1_2001_5.nii.gz"))
    assert kinds.kind_of(dcm2niix).modality == "t1"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"volumes": 40}, "40 images behind one another"),
        ({"shape_vox": (256, 256, 7)}, "7 slice"),
        ({"shape_vox": (256, 256, 12)}, "60 mm along one axis"),
        ({"shape_vox": (80, 256, 24)}, "72 mm along one axis"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "a reformat: its image type says 'mpr'"),
        ({"image_type": ("DERIVED", "PRIMARY", "PROJECTION", "IMAGE")}, "a projection"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "P", "ND")}, "susceptibility"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "a localiser"),
        ({"image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")}, "diffusion"),
        ({"image_type": ("DERIVED", "PRIMARY", "T1", "MAP")}, "a map"),
    ],
)
def test_a_grid_or_an_image_type_rules_out(values: dict[str, Any], reason: str) -> None:
    assert kinds.kind_of(series("Ax T1", **values)).modality is None
    assert reason in kinds.kind_of(series("Ax T1", **values)).reason


@pytest.mark.parametrize(
    "image_type",
    [
        (),
        ("ORIGINAL", "PRIMARY", "M", "ND", "NORM", "MAGNITUDE"),
        ("ORIGINAL", "PRIMARY", "OTHER"),
        ("ORIGINAL", "PRIMARY", "M_SE", "M", "SE"),
        ("DERIVED", "PRIMARY", "M", "DIS3D"),
        ("ORIGINAL", "PRIMARY", "T1", "NONE"),
    ],
)
def test_image_types_of_scans_rule_nothing_out(image_type: tuple[str, ...]) -> None:
    assert kinds.kind_of(series("Ax T1", image_type=image_type)).modality == "t1"


@pytest.mark.parametrize(
    ("times", "modality"), [(FLAIR, "flair"), (STIR, None), (TSE_T2, None), ({}, None)]
)
def test_an_inversion_without_a_word_for_fluid_is_told_by_its_time(
    times: dict[str, Any], modality: str | None
) -> None:
    assert kinds.kind_of(series("t2_tirm_tra", **times)).modality == modality


def test_two_echoes_of_one_name_are_told_apart_by_their_echo_time() -> None:
    assert kinds.kind_of(series("Ax PD/T2", **PD)).modality is None
    assert kinds.kind_of(series("Ax PD/T2", **TSE_T2)).modality == "t2"


def test_what_a_program_made_is_known() -> None:
    assert kinds.is_made(series("T1_reg", is_file=True))
    assert kinds.is_made(series("t1_to_t2", is_file=True))
    assert kinds.is_made(series("T1", image_type=("DERIVED", "SECONDARY")))
    assert not kinds.is_made(series("T1 AX BRAIN VIEW"))
    assert not kinds.is_made(series("T1", image_type=("ORIGINAL", "PRIMARY")))


@given(st.text(max_size=80))
def test_any_name_is_some_kind_or_none_with_a_reason(name: str) -> None:
    assert kinds.kind_of(series(name)).reason
    assert words.spaced(name) == words.spaced(name).strip().lower()


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("5 AX T1 +C", "t1ce"),
        ("t1ce.mgz", "t1ce"),
        ("sub-01_ses-1_T1w", "t1"),
        ("t2_tirm_tra_dark-fluid", "flair"),
        ("Ax PD T2 e2", "t2"),
        ("Ax PD T2", None),
        ("t2 gre", None),
        ("T1 POST MPR", None),
        ("t1ce_brainmask", None),
        ("flair_to_t1", "flair"),
        ("T1 T2", None),
        ("IM0001", None),
    ],
)
def test_a_name_alone_says_a_modality_or_none(name: str, modality: str | None) -> None:
    assert kinds.modality_in(name) == modality
