"""Which of the four modalities a series is, or why it is none: by its name, then by its times.

The order: what a name, an image type or a grid rules out; what the name says; what echo, repetition
and inversion time say where it does not. Where name and times contradict each other the name
counts, and the answer is not sure. Times are in ms, as of adults at 1.5 and 3 T.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ray_brats.cases import bids, naming, spelling
from ray_brats.cases.raw import words
from ray_brats.cases.raw.series import Series, stem_of

LEAST_SLICES = 8
LEAST_COVERAGE_MM = 80.0
"""Along every axis: a slab through a part of the head shows no whole brain."""
LONG_TE_MS = 60.0
"""Echo time from which on a series is T2-weighted, where it has two."""
_ENDLESS = (0.0, float("inf"))
_TITLES = {"t1": "T1", "t1ce": "T1 with contrast agent", "t2": "T2", "flair": "FLAIR"}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a series is."""

    modality: str | None
    """None of what is none of the four."""
    reason: str
    """Why, in a few words that quote the series."""
    sure: bool = True
    """Whether its name says it, and nothing speaks against that."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """A row of the table of times: ranges of ms, each from the first to below the second."""

    te: tuple[float, float] = _ENDLESS
    tr: tuple[float, float] = _ENDLESS
    ti: tuple[float, float] | None = _ENDLESS
    """None: none is said."""
    sequence: str = ""
    """A word that the sequence has, as `GR`."""
    means: str
    """A weight, or a title of what is none."""
    allows: Sequence[str] = ()
    """Weights that they do not contradict either."""

    def fit(self, series: Series) -> bool:
        """Whether a series has such times."""
        parts = re.split(r"[^A-Z0-9]+", series.sequence.upper())
        if self.sequence and self.sequence not in parts:
            return False
        if (self.ti is None) is not (series.ti_ms is None) and self.ti != _ENDLESS:
            return False
        pairs = ((self.te, series.te_ms), (self.tr, series.tr_ms), (self.ti, series.ti_ms))
        return all(_is_within(bounds, ms) for bounds, ms in pairs)


TIMES = (
    Times(sequence="EP", means="an echo-planar image"),
    Times(sequence="GR", te=(12, 80), tr=(0, 3000), means="a T2* image"),
    Times(sequence="GR", te=(0, 12), ti=(300, 1400), means="t1"),
    Times(sequence="GR", te=(0, 12), tr=(0, 60), means="t1"),
    Times(te=(0, 35), ti=(400, 1400), means="t1"),
    Times(te=(0, 35), tr=(1, 1000), means="t1"),
    Times(te=(0, 120), ti=(80, 300), means="a STIR"),
    Times(te=(LONG_TE_MS, 1000), tr=(3000, 20_000), ti=(1500, 3500), means="flair"),
    Times(te=(LONG_TE_MS, 1000), tr=(1800, 20_000), ti=None, means="t2", allows=("flair",)),
    Times(te=(LONG_TE_MS, 1000), tr=(1800, 20_000), ti=(0, 80), means="t2"),
    Times(te=(0, 50), tr=(1800, 20_000), ti=None, means="proton density"),
)
"""The first row that fits counts."""


def kind_of(series: Series) -> Kind:
    """Which modality a series is, or why it is none."""
    said = words.spaced(_text(series))
    against = next(_against(series, said), None)
    if against is not None:
        return Kind(modality=None, reason=against)
    by_times = next((row for row in TIMES if row.fit(series)), None)
    named = words.weights_in(said)
    if len(named) > 1:
        both = " and ".join(repr(word) for word in named.values())
        return Kind(modality=None, reason=f"its name says {both}: one of them was expected")
    if named:
        ((weight, word),) = named.items()
        return _named(series, weight, word, by_times)
    return _timed(series, by_times)


def ruled_out(name: str, image_type: Sequence[str]) -> str | None:
    """Why a series is none of the four by its name or its image type alone, or None."""
    if (of_name := words.first(words.NOTHING, words.spaced(name))) is not None:
        return f"{of_name[0]}: its name says {of_name[1]!r}"
    of_type = words.first(words.TYPES, words.spaced(" ".join(image_type[2:])))
    return None if of_type is None else f"{of_type[0]}: its image type says {of_type[1]!r}"


def modality_in(name: str) -> str | None:
    """The modality that a name says, whatever its image may be; None where it says none of them."""
    said = words.spaced(name)
    named = words.weights_in(said)
    if len(named) != 1 or words.mask_word(name) or ruled_out(said, ()) is not None:
        return None
    ((weight, _),) = named.items()
    if weight == "t1":
        return "t1ce" if _contrast(said, None)[0] else "t1"
    is_second = words.found(words.SECOND_ECHO, said)
    of_protons = words.found(words.PROTON_DENSITY, said) and not is_second
    return None if of_protons or words.found(words.GRADIENT_ECHO, said) else weight


def is_made(series: Series) -> bool:
    """Whether a program made it of another series, by its image type or its name."""
    is_derived = bool(series.image_type) and series.image_type[0] == "DERIVED"
    return is_derived or bool(words.found(words.MADE, words.spaced(series.name)))


def is_enhanced(series: Series) -> bool:
    """Whether contrast agent had been given, by its name or its header."""
    return _contrast_of(series)[0]


def is_named_enhanced(series: Series) -> bool:
    """Whether its own name says that contrast agent had been given."""
    said = words.spaced(_text(series))
    return is_enhanced(series) and bool(words.found(words.CONTRAST, said))


def _text(series: Series) -> str:
    """What says best what a series is.

    A file that somebody called after a modality is that, whatever its sidecar still holds.
    """
    if not series.description:
        return series.protocol or series.name
    file_name, stem = series.path.name, stem_of(series.path)
    is_told = naming.meaning_of(file_name) or bids.meaning_of(file_name)
    return stem if is_told or spelling.modality_of(stem) else series.description


def _against(series: Series, said: str) -> Iterator[str]:
    """Why a series is none of the four, each reason there is."""
    if not series.description and (word := words.mask_word(series.name)):
        yield f"no scan: its name says {word!r}"
    if (reason := ruled_out(said, series.image_type)) is not None:
        yield reason
    if "t1" not in words.weights_in(said):
        if echo := words.found(words.GRADIENT_ECHO, said):
            yield f"a T2* image: its name says {echo!r} and no T1"
        is_second = (series.te_ms or 0) >= LONG_TE_MS or words.found(words.SECOND_ECHO, said)
        if words.found(words.PROTON_DENSITY, said) and not is_second:
            yield "proton density: its name says so, and no echo time says T2"
    yield from _against_grid(series)


def _against_grid(series: Series) -> Iterator[str]:
    if series.volumes > 1:
        yield f"{series.volumes} images behind one another: expected one"
    if series.slices < LEAST_SLICES:
        yield f"{series.slices} slice(s): expected {LEAST_SLICES} or more of a whole head"
    shortest = min(series.coverage_mm)
    if shortest < LEAST_COVERAGE_MM:
        yield f"shows {shortest:.0f} mm along one axis: expected {LEAST_COVERAGE_MM:.0f} or more"


def _named(series: Series, weight: str, word: str, by_times: Times | None) -> Kind:
    """The kind of a series whose name says what it is."""
    reasons, sure = [f"its name says {word!r}"], True
    if by_times is not None and weight not in (by_times.means, *by_times.allows):
        means = _TITLES.get(by_times.means, by_times.means)
        reasons.append(f"but {_times_of(series)} say {means}")
        sure = False
    if weight != "t1":
        return Kind(modality=weight, reason=", ".join(reasons), sure=sure)
    is_enhanced, why, is_plain = _contrast_of(series)
    modality = "t1ce" if is_enhanced else "t1"
    return Kind(modality=modality, reason=", ".join([*reasons, why]), sure=sure and is_plain)


def _timed(series: Series, by_times: Times | None) -> Kind:
    """The kind of a series whose name says nothing."""
    if by_times is None:
        return Kind(modality=None, reason="neither its name nor its times say what it is")
    means = by_times.means
    if means not in _TITLES:
        return Kind(modality=None, reason=f"{means}, by {_times_of(series)}")
    if by_times.allows:
        others = " or ".join(_TITLES[name] for name in (means, *by_times.allows))
        return Kind(modality=None, reason=f"{others}: {_times_of(series)} do not tell which")
    why = [f"by {_times_of(series)}"]
    if means == "t1":
        is_enhanced, of_contrast, _ = _contrast_of(series)
        means = "t1ce" if is_enhanced else "t1"
        why.append(of_contrast)
    return Kind(modality=means, reason=", ".join(why), sure=False)


def _contrast_of(series: Series) -> tuple[bool, str, bool]:
    return _contrast(words.spaced(_text(series)), series.contrast)


def _contrast(said: str, told: bool | None) -> tuple[bool, str, bool]:
    """Whether contrast agent had been given, why, and whether nothing contradicts that.

    Args:
        said: a name with its words apart.
        told: whether the header names an agent; None where it says nothing.
    """
    without, given = words.found(words.NO_CONTRAST, said), words.found(words.CONTRAST, said)
    if words.found(words.BOTH, said):
        without = given = ""
    if without:
        is_plain = told is not True
        doubt = "" if is_plain else ", but its header names a contrast agent"
        return False, f"{without!r}{doubt}", is_plain
    if given:
        is_plain = told is not False
        doubt = "" if is_plain else ", but its header denies a contrast agent"
        return True, f"{given!r}{doubt}", is_plain
    if told:
        return True, "its header names a contrast agent", True
    return False, "no contrast agent is named", True


def _times_of(series: Series) -> str:
    """The times that are said."""
    pairs = (("TE", series.te_ms), ("TR", series.tr_ms), ("TI", series.ti_ms))
    told = ", ".join(f"{name} {ms:.4g}" for name, ms in pairs if ms is not None)
    sequence = f"its sequence {series.sequence}" if series.sequence else ""
    return " and ".join(filter(None, [told and f"{told} ms", sequence]))


def _is_within(bounds: tuple[float, float] | None, ms: float | None) -> bool:
    """Whether a time lies between bounds; one that is not said lies between none but all."""
    if bounds is None or bounds == _ENDLESS:
        return True
    return ms is not None and bounds[0] <= ms < bounds[1]
