"""Splits: which cases train, validate and test."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from ray_brats.cases import manifest, naming
from ray_brats.cases.case import Case, Cohort
from ray_brats.errors import UsageError
from ray_brats.files.packed import Packed


def read(uri: str, known: Collection[str] = ()) -> dict[str, str]:
    """Case to `train`, `val` or `test` from a CSV with `case_id` and `split`.

    Args:
        uri: the CSV.
        known: ids of cases, which it may also call by their original names.

    Raises:
        UsageError: no such CSV, another subset, or one case in two subsets.
    """
    rows = manifest.read(uri, required=("case_id", "split"))
    manifest.check_splits(uri, {row["split"] for row in rows})
    given: dict[str, str] = {}
    for row in rows:
        case_id, split = naming.find_id(row["case_id"], known) or row["case_id"], row["split"]
        if given.setdefault(case_id, split) != split:
            raise UsageError(f"{uri}: {case_id} stands in {given[case_id]} and in {split}")
    return given


def assign(cases: Sequence[Case], given: Mapping[str, str] | None, seed: int) -> Sequence[Case]:
    """Every case with its split: the given one, the cohort's own, or a seeded fifth as `val`.

    With a given split, cases it does not name are left without one: neither trained on nor
    validated. The seeded fifth never divides a patient; see `divided` for the others.
    """
    if given is not None:
        return Packed(dataclasses.replace(case, split=given.get(case.case_id)) for case in cases)
    if any(case.split for case in cases):
        return cases
    return Packed(
        dataclasses.replace(case, split=split)
        for case, split in zip(cases, _seeded_fifth(cases, seed), strict=True)
    )


def unknown(cohort: Cohort, given: Mapping[str, str]) -> list[str]:
    """Cases that a split names and the cohort does not hold, neither usable nor rejected."""
    return sorted(set(given) - cohort.case_ids())


def divided(cases: Iterable[Case]) -> list[str]:
    """Patients whose scans a split puts into more than one subset."""
    subsets: dict[str, set[str]] = {}
    for case in cases:
        if case.split:
            subsets.setdefault(case.patient_id, set()).add(case.split)
    return sorted(patient for patient, names in subsets.items() if len(names) > 1)


def _seeded_fifth(cases: Sequence[Case], seed: int) -> list[str]:
    patients = sorted({case.patient_id for case in cases}, key=lambda name: _rank(seed, name))
    held_out = set(patients[: max(1, round(len(patients) / 5))]) if len(patients) > 1 else set()
    return ["val" if case.patient_id in held_out else "train" for case in cases]


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def select(cohort: Cohort, given: Mapping[str, str] | None, subset: str | None) -> Cohort:
    """The cohort with only the cases of one subset of a split.

    Raises:
        UsageError: a subset without a split, or one that no case belongs to.
    """
    if subset is None:
        return cohort
    splits = given or {
        **{case.case_id: case.split for case in cohort.cases if case.split},
        **{row.case_id: row.facts["split"] for row in cohort.rejected if row.get("split")},
    }
    if not splits:
        raise UsageError(
            f"--subset {subset} needs --split CSV, or a cohort CSV with a split column"
        )
    cases = Packed(case for case in cohort.cases if splits.get(case.case_id) == subset)
    rejected = tuple(row for row in cohort.rejected if splits.get(row.case_id) == subset)
    if not cases and not rejected:
        raise UsageError(f"no case of {cohort.uri} belongs to the subset {subset!r} of the split")
    return dataclasses.replace(cohort, cases=cases, rejected=rejected)
