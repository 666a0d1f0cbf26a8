"""What commands are given: the kinds of their arguments, and the cases that those name."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import splits
from ray_brats.cases.case import Cohort
from ray_brats.files import storage
from ray_brats.progress import say

Summary = dict[str, Any]
CohortArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="COHORT")]
DatasetArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
RunArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
BundleArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
PredictionsArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PREDICTIONS")]
ReportArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPORT")]
OutArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
CaseArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
ArchiveArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.zip")]
PictureArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.png")]
SliceOption = Annotated[int | None, tyro.conf.arg(name="slice")]
SetOption = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="PART.FIELD=VALUE")]
Rules = Literal["legacy", "lesionwise", "both"]


def with_splits(found: Cohort, split: str | None, seed: int) -> Cohort:
    """The cohort with a split for every case: the CSV's, its own, or a seeded fifth as val."""
    given = _read_split(split, found)
    cases = splits.assign(found.cases, given, seed)
    divided = splits.divided(cases)
    if divided:
        say(
            f"warning: the split divides {len(divided)} patient(s), {divided[0]} among them, whose "
            "other scans the network will know: its scores will be too good"
        )
    return dataclasses.replace(found, cases=tuple(cases))


def selected(cohort: str, split: str | None, subset: str | None, release: str | None) -> Cohort:
    """A cohort, or a subset of it."""
    found = cohorts.find(cohort, release=release)
    if split and subset is None:
        say("warning: --split without --subset chooses nothing: all cases are taken")
    return splits.select(found, _read_split(split, found), subset)


def _read_split(split: str | None, found: Cohort) -> dict[str, str] | None:
    if split is None:
        return None
    given = splits.read(storage.absolute(split))
    absent = splits.unknown(found, given)
    if absent:
        say(
            f"warning: {split} names {len(absent)} case(s) that {found.uri} does not hold, "
            f"{absent[0]} among them"
        )
    return given
