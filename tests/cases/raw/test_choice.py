"""Which series is taken for each modality, and what is said of the others."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases.geometry import affine_of
from ray_brats.cases.raw import choice
from ray_brats.cases.raw.series import Series
from ray_brats.errors import CaseRejected

PLANES = {
    "axial": np.diag([-1.0, 1, 1]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
}


def series(name: str, number: int | None = None, **values: Any) -> Series:
    """A whole head in slices of 5 mm."""
    spacing = values.pop("spacing_mm", (0.9, 0.9, 5.0))
    affine = np.eye(4)
    affine[:3, :3] = PLANES[values.pop("plane", "axial")] * spacing
    shape = tuple(round(mm / side) for mm, side in zip((230, 230, 150), spacing, strict=True))
    return Series(
        path=values.pop("path", Path(f"{name.replace('/', '')}-{number}.nii")),
        name=name,
        description=name,
        number=number,
        spacing_mm=spacing,
        affine=affine_of(affine),
        **{"shape_vox": shape, **values},
    )


STUDY = (
    series("localizer", 1, shape_vox=(200, 200, 3)),
    series("Ax T1", 2),
    series("Ax T2", 3),
    series("Ax FLAIR", 4),
    series("Ax DWI", 5),
    series("Ax T1 +C", 6),
)


def test_a_usual_study_has_each_modality_once() -> None:
    found = choice.choose(STUDY)
    assert {name: one.number for name, one in found.chosen.items()} == {
        "t1": 2,
        "t1ce": 6,
        "t2": 3,
        "flair": 4,
    }
    assert list(found.chosen) == ["t1", "t1ce", "t2", "flair"]
    assert found.reasons["t1ce"] == "its name says 't1', '+ c'"
    assert [(one.number, why.split(":")[0]) for one, why in found.ignored] == [
        (1, "a localiser"),
        (5, "diffusion"),
    ]
    assert found.unsure == frozenset()


@given(st.permutations(STUDY))
def test_the_order_of_the_series_makes_no_difference(shuffled: list[Series]) -> None:
    assert choice.choose(shuffled).chosen == choice.choose(STUDY).chosen


BETTER = [
    (series("Ax FLAIR", 1), series("Ax FLAIR", 2, te_ms=12, tr_ms=600), "sure by its name"),
    (series("Ax T1 +C", 1), series("Ax T1", 2, contrast=True), "enhanced by its name"),
    (series("Ax FLAIR", 1), series("Ax FLAIR", 2, missing_slices=1), "without missing slices"),
    (series("Ax FLAIR", 1), series("Ax FLAIR reg", 2), "an original image"),
    (series("Ax FLAIR", 1), series("Ax FLAIR", 2, image_type=("DERIVED",)), "an original image"),
    (series("Ax FLAIR", 1), series("Ax FLAIR POST", 2), "taken before contrast agent"),
    (series("Ax FLAIR", 1), series("Sag FLAIR", 2, plane="sagittal"), "axial or 3-D"),
    (
        series("Sag FLAIR 3D", 1, plane="sagittal", spacing_mm=(1.0, 1.0, 1.0)),
        series("Ax FLAIR", 2),
        "of thinner slices",
    ),
    (series("Ax FLAIR", 1), series("Ax FLAIR", 2, shape_vox=(255, 255, 17)), "of more of the head"),
    (
        series("Ax FLAIR", 1, spacing_mm=(0.5, 0.5, 5.0)),
        series("Ax FLAIR", 2),
        "finer in its planes",
    ),
    (series("Ax FLAIR", 2), series("Ax FLAIR", 1), "the later series"),
    (series("Ax T1", 1), series("Ax T1", 2), "the earlier T1"),
    (series("Ax T1 +C", 2), series("Ax T1 +C", 1), "the later series"),
]


@pytest.mark.parametrize(("better", "worse", "why"), BETTER)
def test_the_first_criterion_that_tells_two_apart_decides_and_is_said(
    better: Series, worse: Series, why: str
) -> None:
    for pair in itertools.permutations((better, worse)):
        found = choice.choose(pair)
        assert list(found.chosen.values()) == [better]
        ((name, reason),) = found.reasons.items()
        assert why in reason
        assert worse.label in reason
        assert found.ignored == [(worse, found.ignored[0][1])]
        assert why in found.ignored[0][1]
        assert name in found.ignored[0][1]


def test_every_criterion_is_tried_here() -> None:
    for item in choice.ORDER:
        assert any(item.better.startswith(why) for *_, why in BETTER), item.better


def test_what_nothing_tells_apart_is_rejected_with_the_candidates() -> None:
    twins = (series("t1_raw"), series("t1_copy"), series("Ax T2", 3))
    with pytest.raises(CaseRejected, match=r"t1: nothing tells t1_raw .*t1_copy .*--series"):
        choice.choose(twins)


def test_files_of_the_same_bytes_are_one_series() -> None:
    twins = (series("t1_raw", content="x"), series("t1_copy", content="x"))
    found = choice.choose((*twins, series("Ax T2", 3)))
    assert found.chosen["t1"] is twins[0]
    assert found.reasons["t1"] == "its name says 't1', no contrast agent is named"
    assert found.ignored == [(twins[1], "the same as t1_raw")]
    assert choice.choose(twins, {"t1": "t1_copy"}).chosen["t1"] is twins[1]
    with pytest.raises(CaseRejected, match="nothing tells"):
        choice.choose((*twins, series("t1_other", content="y")))


def test_of_the_same_bytes_that_is_taken_whose_name_is_better() -> None:
    twins = (series("t1 reg", content="x"), series("t1", content="x"))
    found = choice.choose(twins)
    assert (found.chosen, found.ignored) == ({"t1": twins[1]}, [(twins[0], "the same as t1")])
    both = choice.choose([series("t1", content="x"), series("t2", content="x")])
    assert list(both.chosen) == ["t1", "t2"]


def test_a_study_of_other_things_is_rejected_with_what_is_there() -> None:
    with pytest.raises(CaseRejected, match="no image"):
        choice.choose([])
    with pytest.raises(CaseRejected, match=r"localizer .*: a localiser: .*Ax DWI .*: diffusion"):
        choice.choose([STUDY[0], STUDY[4]])
    many = [series("Ax DWI", number) for number in range(99)]
    with pytest.raises(CaseRejected, match="and 87 more"):
        choice.choose(many)


def test_what_is_missing_is_no_error_here() -> None:
    assert list(choice.choose(STUDY[2:4]).chosen) == ["t2", "flair"]


def test_of_unnamed_contrast_it_is_said() -> None:
    pair = (series("Ax T1", 3), series("Ax T1", 9))
    found = choice.choose(pair)
    assert found.chosen["t1"].number == 3
    assert "may have been taken with contrast agent" in found.reasons["t1"]
    named = choice.choose((*pair, series("Ax T1 +C", 10)))
    assert "may have been taken" not in named.reasons["t1"]


def test_what_only_times_say_is_to_be_looked_at() -> None:
    unnamed = series("Ax brain", 7, te_ms=95, tr_ms=9000, ti_ms=2500)
    assert choice.choose([*STUDY[1:3], unnamed]).unsure == {"flair"}


@pytest.mark.parametrize("text", ["5", " 5 ", "Ax DWI", "ax dwi", "Ax DWI-5", "Ax DWI-5.nii"])
def test_what_is_asked_for_is_taken_whatever_it_seems_to_be(text: str) -> None:
    found = choice.choose(STUDY, {"t2": text})
    assert found.chosen["t2"].number == 5
    assert found.reasons["t2"] == "asked for by --series"
    assert (STUDY[2], "t2 too, and another was asked for") in found.ignored
    assert found.chosen["flair"].number == 4


def test_a_series_that_is_asked_for_is_no_candidate_for_another_modality() -> None:
    found = choice.choose(STUDY, {"t1": "6"})
    assert found.chosen["t1"].number == 6
    assert "t1ce" not in found.chosen


@pytest.mark.parametrize("text", ["none", " NONE ", "-"])
def test_a_modality_that_nobody_wants_is_left_out(text: str) -> None:
    found = choice.choose(STUDY, {"t1ce": text, "t2": text})
    assert list(found.chosen) == ["t1", "flair"]
    assert found.left_out == {"t1ce", "t2"}
    assert (STUDY[5], "t1ce: left out because it was asked for") in found.ignored
    assert "may have been taken" not in found.reasons["t1"]
    with pytest.raises(CaseRejected, match=r"Ax T2 .*: t2: left out because it was asked for"):
        choice.choose(STUDY, dict.fromkeys(("t1", "t1ce", "t2", "flair"), text))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"t2": "77"}, r"t2: no series is called '77': the study has localizer .*Ax T1"),
        ({"t2": "nothing"}, "no series is called 'nothing'"),
        ({"t1": "2", "t2": "2"}, "one series is asked for as two of t1, t2"),
        ({"t1c": "2"}, "modality 't1c': expected one of t1, t1ce"),
    ],
)
def test_what_is_asked_for_must_be_there_once(asked: dict[str, str], reason: str) -> None:
    with pytest.raises(CaseRejected, match=reason):
        choice.choose(STUDY, asked)


def test_a_name_of_several_series_is_told_apart_by_number_or_file() -> None:
    pair = [series("Ax T2", 3), series("Ax T2", 8), series("Ax T2", 8, path=Path("8_e2.nii"))]
    with pytest.raises(CaseRejected, match=r"3 series are called 'Ax T2'.*their numbers or"):
        choice.choose(pair, {"t2": "Ax T2"})
    with pytest.raises(CaseRejected, match="2 series are called '8'"):
        choice.choose(pair, {"t2": "8"})
    assert choice.choose(pair, {"t2": "8_e2"}).chosen["t2"] is pair[2]
    assert choice.choose(pair, {"t2": "3"}).chosen["t2"] is pair[0]
