"""Sets of predictions compared: ranks and tests that one can check on paper."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from classes import REGIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats.errors import UsageError
from ray_brats.metrics import comparison
from ray_brats.metrics.comparison import compare

FOUR_SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4)


def rows(dices: list[float | None], hd95s_mm: list[float | None]) -> list[dict[str, Any]]:
    """Cases that score the same in every region, and have no lesion-wise scores."""
    return [
        {
            "case_id": f"case-{index}",
            "region": region,
            "dice": dice,
            "hd95_mm": hd95_mm,
            "lesionwise_dice": None,
            "lesionwise_hd95_mm": None,
        }
        for index, (dice, hd95_mm) in enumerate(zip(dices, hd95s_mm, strict=True))
        for region in REGIONS
    ]


def test_ranks_on_paper() -> None:
    # Dice ranks 1, 1.5 against 2, 1.5; HD95 (the lower the better) 2, 1 against 1, 2.
    found = compare({"a": rows([0.9, 0.8], [5.0, 3.0]), "b": rows([0.7, 0.8], [4.0, 6.0])})
    assert [(row["name"], row["mean_rank"]) for row in found["ranking"]] == [
        ("a", (1 + 1.5 + 2 + 1) / 4),
        ("b", (2 + 1.5 + 1 + 2) / 4),
    ]
    assert found["ranking"][0]["mean"]["WT"] == {"dice": pytest.approx(0.85), "hd95_mm": 4.0}
    json.dumps(found, allow_nan=False)


def test_the_best_stands_first_whatever_the_order_given() -> None:
    good, bad = rows([0.9] * 3, [1.0] * 3), rows([0.1] * 3, [9.0] * 3)
    for sets in ({"good": good, "bad": bad}, {"bad": bad, "good": good}):
        assert [row["name"] for row in compare(sets)["ranking"]] == ["good", "bad"]


def test_wilcoxon_on_paper() -> None:
    # Six cases, all better: of 2 ** 6 assignments of signs two are as extreme.
    ours = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    theirs = [value - 0.01 * place for place, value in enumerate(ours, 1)]
    tests = compare({"a": rows(ours, [1.0] * 6), "b": rows(theirs, [1.0] * 6)})["tests"]
    assert [(test["region"], test["metric"]) for test in tests] == list(
        itertools.product(REGIONS, ("dice", "hd95_mm"))
    )
    dice, hd95 = tests[:2]
    assert dice["p"] == pytest.approx(2 / 64)
    assert dice["median_difference"] == pytest.approx(0.035)
    assert (dice["cases"], dice["against"]) == (6, "b")
    assert dice["p_holm"] == pytest.approx(3 * 2 / 64), "three tests have a p"
    assert (hd95["p"], hd95["p_holm"], hd95["median_difference"]) == (None, None, 0.0)


def test_cases_without_a_value_are_left_out() -> None:
    found = compare({"a": rows([0.9, None], [1.0, 2.0]), "b": rows([0.8, 0.1], [1.0, None])})
    assert [test["cases"] for test in found["tests"][:2]] == [1, 1]
    assert found["ranking"][0]["mean"]["ET"] == {"dice": 0.9, "hd95_mm": 1.0}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4),
        min_size=2,
        max_size=4,
    )
)
def test_mean_ranks_share_out_all_places(scores: list[list[float]]) -> None:
    sets = {
        str(i): rows(list(dices), [1 - dice for dice in dices]) for i, dices in enumerate(scores)
    }
    ranks = [row["mean_rank"] for row in compare(sets)["ranking"]]
    assert sum(ranks) == pytest.approx(len(sets) * (len(sets) + 1) / 2)
    assert ranks == sorted(ranks)


def test_holm_on_paper() -> None:
    # 3 × 0.01, 2 × 0.03, and 0.04 no less than what came before it.
    corrected = comparison._holm([0.01, 0.04, None, 0.03])
    assert corrected[2] is None
    assert [corrected[index] for index in (0, 3, 1)] == pytest.approx([0.03, 0.06, 0.06])


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match="two sets"):
        compare({"a": rows([0.5], [1.0])})


def test_only_cases_that_all_sets_have_are_compared() -> None:
    found = compare({"a": rows([0.5], [1.0]), "b": rows([0.4, 0.9], [2.0, 0.0])})
    assert {test["cases"] for test in found["tests"]} == {1}
    assert [row["name"] for row in found["ranking"]] == ["a", "b"]
    nothing = compare({"a": [], "b": rows([0.5], [1.0])})
    assert [row["mean_rank"] for row in nothing["ranking"]] == [None, None]
    assert nothing["tests"] == []


def test_sets_are_named_by_the_shortest_endings_that_differ() -> None:
    assert comparison.short_names(["/x/a/predictions"]) == ["predictions"]
    assert comparison.short_names(["/x/a/masks", "s3://b/other/"]) == ["masks", "other"]
    assert comparison.short_names(["/x/a/masks", "/y/b/masks"]) == ["a/masks", "b/masks"]
    with pytest.raises(UsageError, match="twice"):
        comparison.short_names(["/x/a", "/x/a"])


def challenge_rows(
    dices: list[float | None], nsds: list[float | None], hd95s_mm: list[float | None]
) -> list[dict[str, Any]]:
    """Rows by the rules of 2026, the same in every region."""
    names = ("dice", "nsd_1mm", "hd95_pooled_mm")
    return [
        {"case_id": f"case-{index}", "region": region, **dict(zip(names, values, strict=True))}
        for index, values in enumerate(zip(dices, nsds, hd95s_mm, strict=True))
        for region in REGIONS
    ]


def test_dice_and_nsd_rank_by_the_rules_of_2026_and_hd95_is_told() -> None:
    """The second has the better distances, and that helps it nothing."""
    sets = {
        "a": challenge_rows([0.9, 0.8], [0.7, 0.6], [9.0, None]),
        "b": challenge_rows([0.7, 0.8], [0.6, 0.5], [1.0, 2.0]),
    }
    found = compare(sets, "2026")
    assert [(row["name"], row["mean_rank"]) for row in found["ranking"]] == [
        ("a", (1 + 1.5 + 1 + 1) / 4),
        ("b", (2 + 1.5 + 2 + 2) / 4),
    ]
    assert found["ranking"][0]["mean"]["TC"] == {
        "dice": pytest.approx(0.85),
        "nsd_1mm": pytest.approx(0.65),
        "hd95_pooled_mm": (9 + 373) / 2,
    }
    assert {test["metric"] for test in found["tests"]} == {"dice", "nsd_1mm"}
    json.dumps(found, allow_nan=False)


def test_what_is_empty_in_both_for_one_set_is_left_out_for_all() -> None:
    sets = {
        "a": challenge_rows([None, 0.9], [None, 0.8], [None, 1.0]),
        "b": challenge_rows([0.0, 0.5], [0.0, 0.4], [None, 3.0]),
    }
    found = compare(sets, "2026")
    assert {test["cases"] for test in found["tests"]} == {1}
    assert found["ranking"][1]["mean"]["WT"] == {"dice": 0.5, "nsd_1mm": 0.4, "hd95_pooled_mm": 3.0}
    with pytest.raises(UsageError, match="unknown rules"):
        compare(sets, "2025")
