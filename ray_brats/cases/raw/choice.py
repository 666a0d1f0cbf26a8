"""Which series of a study is taken for each modality, by an order that is stated here.

`ORDER` has it: the first criterion that tells two candidates apart decides, and is said. Where none
does, nothing is guessed: the case is rejected with the candidates, and `--series` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_brats.cases.naming import MODALITIES
from ray_brats.cases.raw import kinds
from ray_brats.cases.raw.kinds import Kind
from ray_brats.cases.raw.series import THREE_D, Series, stem_of
from ray_brats.errors import CaseRejected

_HINT = "name the right one for this case in the CSV of --series"
_ASKED = "asked for by --series"
_NONE = ("none", "-")
"""What is asked for where a modality is to be left out."""
_LEFT_OUT = "left out because it was asked for"
_SHOWN = 12
"""Series that an error lists."""
_WHOLE_HEAD_MM = 130.0
"""Coverage beyond which more of it shows no more of the brain."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A series that may be taken for a modality."""

    series: Series
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One step of the order: the candidate with the smaller value comes first."""

    better: str
    """What the one that comes first is, for people."""
    value: Callable[[Candidate], Any]


def _is_named(candidate: Candidate) -> bool:
    """Whether a T1 with contrast agent is one by its name.

    Some scanners write the agent into every header of an examination.
    """
    return candidate.kind.modality != "t1ce" or kinds.is_named_enhanced(candidate.series)


def _is_late(candidate: Candidate) -> bool:
    """Whether a T2 or FLAIR was taken after contrast agent, which changes a FLAIR."""
    return candidate.kind.modality in ("t2", "flair") and kinds.is_enhanced(candidate.series)


ORDER: Sequence[Criterion] = (
    Criterion(better="sure by its name", value=lambda one: not one.kind.sure),
    Criterion(better="enhanced by its name", value=lambda one: not _is_named(one)),
    Criterion(better="without missing slices", value=lambda one: one.series.missing_slices > 0),
    Criterion(better="an original image", value=lambda one: kinds.is_made(one.series)),
    Criterion(better="taken before contrast agent", value=_is_late),
    Criterion(better="axial or 3-D", value=lambda one: one.series.plane not in ("axial", THREE_D)),
    Criterion(better="of thinner slices", value=lambda one: round(one.series.slice_mm)),
    Criterion(better="of more of the head", value=lambda one: -_coverage(one.series)),
    Criterion(better="finer in its planes", value=lambda one: _rounded(min(one.series.spacing_mm))),
    Criterion(
        better="the earlier T1, since a later one may be enhanced unnamed",
        value=lambda one: (one.series.number or 0) * (one.kind.modality == "t1"),
    ),
    Criterion(
        better="the later series, since it seems to be a repeat",
        value=lambda one: -(one.series.number or 0) * (one.kind.modality != "t1"),
    ),
)
"""What is best comes first."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is taken of a study, and why."""

    chosen: Mapping[str, Series]
    """Modality to its series, in the order of `naming.MODALITIES`."""
    reasons: Mapping[str, str]
    """Modality to why it was taken, and before which others."""
    ignored: Sequence[tuple[Series, str]]
    """Every other series, and why it was not taken."""
    unsure: frozenset[str] = frozenset()
    """Modalities whose series somebody should look at."""
    left_out: frozenset[str] = frozenset()
    """Modalities that somebody does not want."""


def choose(series: Sequence[Series], asked: Mapping[str, str] | None = None) -> Choice:
    """The series of each modality that a study has.

    Args:
        series: all of the study.
        asked: modality to the name, number or file name of a series that somebody wants for it,
            whatever it seems to be; or to `none` or `-`, where it is to be left out.

    Raises:
        CaseRejected: several that nothing tells apart, none at all, or what is asked for is not
            there once.
    """
    left_out = frozenset(name for name, text in (asked or {}).items() if is_none(text))
    wanted = {
        modality: _asked(series, modality, text)
        for modality, text in (asked or {}).items()
        if modality not in left_out
    }
    taken = {id(one) for one in wanted.values()}
    if len(taken) < len(wanted):
        raise CaseRejected(f"one series is asked for as two of {', '.join(wanted)}: {_HINT}")
    left = [
        Candidate(series=one, kind=kinds.kind_of(one)) for one in series if id(one) not in taken
    ]
    ranked = {name: _ranked(left, name) for name in MODALITIES}
    decided = {*wanted, *left_out}
    best = {name: found[0] for name, found in ranked.items() if found and name not in decided}
    chosen = {**wanted, **{name: one.series for name, one in best.items()}}
    reasons = dict.fromkeys(wanted, _ASKED)
    is_alone = "t1ce" not in chosen and not ranked["t1ce"]
    reasons |= {name: _reason(ranked[name], is_alone=is_alone) for name in best}
    ignored = [
        (one.series, _why_not(one, best, left_out)) for one in left if one not in best.values()
    ]
    if not chosen:
        raise CaseRejected(_nothing(ignored))
    return Choice(
        chosen={name: chosen[name] for name in MODALITIES if name in chosen},
        reasons=reasons,
        ignored=ignored,
        unsure=frozenset(name for name, one in best.items() if not one.kind.sure),
        left_out=left_out,
    )


def is_none(text: str) -> bool:
    """Whether what is asked for a modality means that it is to be left out."""
    return text.strip().casefold() in _NONE


def _asked(series: Sequence[Series], modality: str, text: str) -> Series:
    """The one series that somebody means."""
    if modality not in MODALITIES:
        raise CaseRejected(f"modality {modality!r}: expected one of {', '.join(MODALITIES)}")
    text = text.strip()
    ways: Sequence[Callable[[Series], bool]] = (
        lambda one: text in (one.path.name, stem_of(one.path), str(one.path)),
        lambda one: one.name.casefold() == text.casefold(),
        lambda one: text == str(one.number),
    )
    found = next((hits for way in ways if (hits := [one for one in series if way(one)])), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise CaseRejected(
            f"{modality}: {len(found)} series are called {text!r}: expected one of "
            f"{_listed(found)}; their numbers or file names tell them apart"
        )
    raise CaseRejected(f"{modality}: no series is called {text!r}: the study has {_listed(series)}")


def _rank(candidate: Candidate) -> tuple[Any, ...]:
    return tuple(criterion.value(candidate) for criterion in ORDER)


def _ranked(candidates: Sequence[Candidate], modality: str) -> list[Candidate]:
    """Those of a modality, the best first; of files of the same bytes the best alone."""
    ranked = sorted((one for one in candidates if one.kind.modality == modality), key=_rank)
    contents = [one.series.content for one in ranked]
    return [
        one
        for number, one in enumerate(ranked)
        if not contents[number] or contents[number] not in contents[:number]
    ]


def _reason(ranked: Sequence[Candidate], *, is_alone: bool) -> str:
    """Why the first is taken; `CaseRejected` where another is as good.

    `is_alone`: nothing was found that is taken with contrast agent.
    """
    best, *others = ranked
    modality = best.kind.modality
    equal = [one.series for one in ranked if _rank(one) == _rank(best)]
    if len(equal) > 1:
        raise CaseRejected(f"{modality}: nothing tells {_listed(equal)} apart: {_HINT}")
    if not others:
        return best.kind.reason
    why = f"{best.kind.reason}; {_decisive(best, others[0])}, before {others[0].series.label}"
    if modality == "t1" and is_alone:
        why += "; one of them may have been taken with contrast agent, which no name says"
    return why


def _decisive(best: Candidate, other: Candidate) -> str:
    """What the first criterion says that tells two candidates apart."""
    return next(item.better for item in ORDER if item.value(best) != item.value(other))


def _why_not(candidate: Candidate, best: Mapping[str, Candidate], left_out: Collection[str]) -> str:
    modality = candidate.kind.modality
    if modality is None:
        return candidate.kind.reason
    if modality in left_out:
        return f"{modality}: {_LEFT_OUT}"
    if modality not in best:
        return f"{modality} too, and another was asked for"
    better = best[modality]
    if candidate.series.content and candidate.series.content == better.series.content:
        return f"the same as {better.series.name}"
    return f"{modality} too, and {better.series.label} is {_decisive(better, candidate)}"


def _coverage(series: Series) -> float:
    """The least extent, rounded, up to that of a whole head."""
    return round(min(_WHOLE_HEAD_MM, *series.coverage_mm), -1)


def _rounded(mm: float) -> float:
    return round(mm, 1)


def _listed(series: Sequence[Series]) -> str:
    more = f" and {len(series) - _SHOWN} more" if len(series) > _SHOWN else ""
    return ", ".join(one.label for one in series[:_SHOWN]) + more


def _nothing(ignored: Sequence[tuple[Series, str]]) -> str:
    """What is there, where nothing of it is one of the four."""
    if not ignored:
        return "the study has no image: expected series of T1, T1 with contrast agent, T2 or FLAIR"
    lines = "; ".join(f"{one.label}: {why}" for one, why in ignored[:_SHOWN])
    more = f"; and {len(ignored) - _SHOWN} more" if len(ignored) > _SHOWN else ""
    return f"no series is T1, T1 with contrast agent, T2 or FLAIR ({lines}{more}): {_HINT}"
