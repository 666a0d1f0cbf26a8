"""Summaries for people: the scores that the rules have, and which rules they are."""

from __future__ import annotations

from typing import Any

import pytest

from ray_brats.commands import output
from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.metrics import scores, summary
from ray_brats.metrics.original import ORIGINAL_FIGURES


def printed(rules: str, capsys: pytest.CaptureFixture[str]) -> str:
    columns = scores.score_columns(rules)
    rows: list[dict[str, Any]] = [
        {"case_id": "a", "region": region, **dict.fromkeys(columns, 0.25)}
        for region in ("WT", "TC", "ET")
    ]
    originals = [dict.fromkeys(ORIGINAL_FIGURES, 0.5)]
    output.print_summary(Summary(summary=summary.summarise(rows, originals, columns)))
    return capsys.readouterr().out


def test_the_table_has_the_scores_of_its_rules(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("2026", capsys)
    assert "2026" in text
    assert "NSD" in text
    assert "lesion-wise" not in text
    text = printed("both", capsys)
    assert "2026" not in text
    assert "lesion-wise" in text
    assert "NSD" not in text


def test_scores_of_no_case_are_no_table_of_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    row = CaseRow(case_id="a", status="rejected", reason="no reference")
    nothing = Summary(
        summary=summary.summarise([], [], scores.score_columns("both")),
        failures=[row],
        counts={"rejected": 1},
        facts={},
    )
    output.print_summary(nothing)
    told = capsys.readouterr().out
    assert "no reference" in told
    assert "cases: 1 rejected" in told
    assert "–" not in told
