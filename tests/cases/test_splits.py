"""Splits: patients are never divided."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_brats.cases import case, cohort, splits
from ray_brats.errors import UsageError


def cases(count: int, scans: int = 2) -> list[case.Case]:
    return [
        case.Case(case_id=f"p{n}_{scan}", patient_id=f"p{n}", images={})
        for n in range(count)
        for scan in range(scans)
    ]


def test_a_seeded_fifth_of_the_patients_is_held_out_whole() -> None:
    given = splits.assign(cases(10), None, seed=1)
    by_patient = {
        case.patient_id: {c.split for c in given if c.patient_id == case.patient_id}
        for case in given
    }
    assert all(len(held) == 1 for held in by_patient.values())
    assert sum(held == {"val"} for held in by_patient.values()) == 2
    assert given == splits.assign(cases(10), None, seed=1)
    assert given != splits.assign(cases(10), None, seed=2)


def test_a_given_split_leaves_unnamed_cases_out() -> None:
    first, second = splits.assign(cases(1), {"p0_0": "train"}, seed=0)
    assert (first.split, second.split) == ("train", None)


def test_a_given_split_that_divides_a_patient_is_noticed() -> None:
    given = {"p0_0": "train", "p0_1": "val", "p1_0": "val", "p1_1": "val", "p2_0": "test"}
    assert splits.divided(splits.assign(cases(3), given, seed=0)) == ["p0"]
    assert splits.divided(splits.assign(cases(9), None, seed=0)) == []


def test_a_case_in_two_subsets_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("case_id,split\na,train\nb,val\na,val\n")
    with pytest.raises(UsageError, match="a stands in train and in val"):
        splits.read(str(path))
    path.write_text("case_id,split\na,train\na,train\n")
    assert splits.read(str(path)) == {"a": "train"}


def test_selecting_nothing_is_a_usage_error() -> None:
    found = case.Cohort(uri="x", cases=tuple(cases(2)))
    with pytest.raises(UsageError, match="no case"):
        splits.select(found, {"p0_0": "train"}, "val")
    with pytest.raises(UsageError, match="--split"):
        splits.select(found, None, "val")


def test_a_rejected_case_of_a_cohort_csv_stays_in_its_subset(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    rows = ["a,a.nii,train", "b,b.nii,test", "c,c.nii,test", "c,d.nii,test"]
    path.write_text("\n".join(["case_id,t2,split", *rows]) + "\n")
    found = splits.select(cohort.find(str(path)), None, "test")
    assert [case.case_id for case in found.cases] == ["b"]
    assert [(row.case_id, row.facts) for row in found.rejected] == [("c", {"split": "test"})]
    assert splits.select(cohort.find(str(path)), None, "train").rejected == ()


def test_a_split_names_cases_by_their_ids_or_by_their_own_names(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    known = {"M_u00fc_ller_u0020_1", "b"}
    path.write_text("case_id,split\nMüller 1,train\nb,val\nc,test\n")
    given = splits.read(str(path), known)
    assert given == {"M_u00fc_ller_u0020_1": "train", "b": "val", "c": "test"}
    path.write_text("case_id,split\nMüller 1,train\nM_u00fc_ller_u0020_1,val\n")
    with pytest.raises(UsageError, match="stands in train and in val"):
        splits.read(str(path), known)
