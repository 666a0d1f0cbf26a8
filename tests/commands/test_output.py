"""What summaries look like to people."""

from __future__ import annotations

import pytest

from ray_brats.commands.output import print_summary
from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.metrics.summary import summarise


def test_scores_of_no_case_are_no_table_of_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    row = CaseRow(case_id="a", status="rejected", reason="no reference")
    nothing = Summary(summary=summarise([], []), failures=[row], counts={"rejected": 1}, facts={})
    print_summary(nothing)
    told = capsys.readouterr().out
    assert "no reference" in told
    assert "cases: 1 rejected" in told
    assert "–" not in told
