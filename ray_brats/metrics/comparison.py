"""Several sets of predictions for the same cases, compared: who is better, and how surely.

Differences are tested case by case with Wilcoxon's signed-rank test (Wilcoxon 1945), and the
p-values of one comparison corrected for their number after Holm (1979). The ranking is that of
the BraTS challenges (Bakas et al. 2018, arXiv 1811.02629): in every case, region and metric the
sets are ranked, ties share their mean rank, and the mean of all ranks is a set's score.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ray_brats.errors import UsageError
from ray_brats.metrics.challenge import counted
from ray_brats.metrics.scores import CHALLENGE, resolve

Row = Mapping[str, Any]
Table = Mapping[tuple[str, str], Row]

HIGHER_IS_BETTER: Final[Mapping[str, bool]] = {
    "dice": True,
    "hd95_mm": False,
    "lesionwise_dice": True,
    "lesionwise_hd95_mm": False,
}
"""The metrics compared; those that the rules left out are left out here too."""
CHALLENGE_HIGHER_IS_BETTER: Final[Mapping[str, bool]] = {"dice": True, "nsd_1mm": True}
CHALLENGE_TOLD: Final = ("hd95_pooled_mm",)
"""The same under the rules of 2026; and what is told beside them, but ranks nobody."""


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """What of the rows is compared."""

    ranked: Mapping[str, bool]
    """Metric to whether more of it is better."""
    told: Sequence[str] = ()
    """Metrics of which the means alone are given."""


def _compared(rules: str) -> _Compared:
    if resolve(rules) == CHALLENGE:
        return _Compared(ranked=CHALLENGE_HIGHER_IS_BETTER, told=CHALLENGE_TOLD)
    return _Compared(ranked=HIGHER_IS_BETTER)


def compare(sets: Mapping[str, Sequence[Row]], rules: str = "both") -> dict[str, Any]:
    """Rank sets of predictions and test the first against each of the others.

    Args:
        sets: name to rows of `metrics.case_metrics` with `case_id`; the first set is the one
            that the others are held against. Cases that a set lacks are left out of all.
        rules: those that the rows follow.

    Returns:
        `{"set": the first's name,
        "ranking": [{"name", "mean_rank", "mean": {region: {metric: value}}}, …],
        "tests": [{"against", "region", "metric", "cases", "median_difference", "p", "p_holm"},
        …]}`. The ranking is in order, the best first. A difference is the first set minus the
        other, `cases` counts those where both have a value. `p` is two-sided and None where no
        case differs. By the rules of 2026 Dice and NSD rank; the mean of HD95 is told, in which
        an infinite one counts as 373 mm.

    Raises:
        UsageError: fewer than two sets, or unknown rules.
    """
    if len(sets) < 2:
        raise UsageError("a comparison needs at least two sets of predictions")
    tables = {name: {(r["case_id"], r["region"]): r for r in rows} for name, rows in sets.items()}
    compared = _compared(rules)
    first, *others = tables
    common = set.intersection(*(set(table) for table in tables.values()))
    tables = {
        name: {key: row for key, row in table.items() if key in common}
        for name, table in tables.items()
    }
    return {
        "set": first,
        "ranking": _ranking(tables, compared),
        "tests": [
            test
            for name in others
            for test in _tests(tables[first], tables[name], name, compared.ranked)
        ],
    }


def short_names(uris: Sequence[str]) -> list[str]:
    """The shortest endings that tell URIs apart.

    Raises:
        UsageError: one of them stands twice.
    """
    parts = [[part for part in uri.split("/") if part] for uri in uris]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError("one folder of predictions is named twice: expected different ones")


def _values(table: Table, region: str, metric: str) -> npt.NDArray[np.float64]:
    """One value a case, in the order of the cases; NaN where there is none."""
    keys = sorted(key for key in table if key[1] == region)
    values = [counted(table[key], metric) for key in keys]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _regions(tables: Iterable[Table]) -> list[str]:
    """The regions that were scored, in their order."""
    return list(dict.fromkeys(region for table in tables for _, region in table))


def _ranking(tables: Mapping[str, Table], compared: _Compared) -> list[dict[str, Any]]:
    from scipy import stats  # a second that an evaluation without a comparison need not wait

    regions = _regions(tables.values())
    means: dict[str, dict[str, dict[str, float]]] = {
        name: {region: {} for region in regions} for name in tables
    }
    ranks = []
    for region in regions:
        for metric in (*compared.ranked, *compared.told):
            values = np.array([_values(table, region, metric) for table in tables.values()])
            complete = values[:, ~np.isnan(values).any(axis=0)]
            if not complete.size:
                continue
            if metric in compared.ranked:
                signed = -complete if compared.ranked[metric] else complete
                ranks.append(stats.rankdata(signed, axis=0))
            for name, row in zip(tables, complete, strict=True):
                means[name][region][metric] = float(row.mean())
    mean_ranks = np.concatenate(ranks, axis=1).mean(axis=1).tolist() if ranks else []
    scored = zip(tables, mean_ranks or [None] * len(tables), strict=True)
    rows = [{"name": name, "mean_rank": rank, "mean": means[name]} for name, rank in scored]
    return sorted(rows, key=lambda row: row["mean_rank"] or 0.0)


def _tests(first: Table, other: Table, name: str, metrics: Collection[str]) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = []
    for region in _regions([first]):
        for metric in metrics:
            differences = _values(first, region, metric) - _values(other, region, metric)
            differences = differences[~np.isnan(differences)]
            if differences.size:
                tests.append(
                    {
                        "against": name,
                        "region": region,
                        "metric": metric,
                        "cases": int(differences.size),
                        "median_difference": float(np.median(differences)),
                        "p": _wilcoxon(differences),
                    }
                )
    corrected = _holm([test["p"] for test in tests])
    return [{**test, "p_holm": p} for test, p in zip(tests, corrected, strict=True)]


def _wilcoxon(differences: npt.NDArray[np.float64]) -> float | None:
    """Two-sided p; cases that do not differ say nothing and are left out."""
    from scipy import stats

    telling = differences[differences != 0]
    return float(stats.wilcoxon(telling).pvalue) if telling.size else None


def _holm(values: Sequence[float | None]) -> list[float | None]:
    """Step-down corrected p-values; what is None is no test and does not count."""
    ranked = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    reached = 0.0
    for place, (value, index) in enumerate(ranked):
        reached = max(reached, min(1.0, (len(ranked) - place) * value))
        corrected[index] = reached
    return corrected
