"""`score`: what it says of its masks, without segmenting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_brats.cases.case import Case, Cohort
from ray_brats.cases.raw import record
from ray_brats.commands import masks
from ray_brats.files.ledger import CaseRow
from ray_brats.model import card
from ray_brats.model.predictions import ScoreSummary
from ray_brats.recipes import named
from ray_brats.stages import score as stage

MEASURED = {"validation": {"dice": {"WT": 0.9, "TC": 0.8, "ET": 0.7}}, "cases": {"validation": 6}}


def segmented(
    monkeypatch: pytest.MonkeyPatch,
    case_ids: list[str],
    *,
    tta: str | None = None,
    uri: str = "x",
    **facts: Any,
) -> ScoreSummary:
    """What `score` leaves where the stage gives a summary with these facts."""
    cases = tuple(Case(case_id=name, patient_id=name, images={}) for name in case_ids)
    summary = ScoreSummary(
        predictions="x", task="gli-2018", processed=len(cases), skipped=0, **facts
    )
    monkeypatch.setattr(stage, "score", lambda *_, **__: summary)
    chosen = card.Chosen(
        uris=("x",),
        cards=({"measured": MEASURED, "release": "brats2018", "intended_use": "Research."},),
        sha256=("0",),
        recipe=named.smoke(),
        asked=card.Asked(tta=tta),
    )
    resources: Any = None
    return masks.segment(Cohort(uri=uri, cases=cases), "x", chosen, resources, task=None)


def test_numbers_are_said_of_the_masks_they_hold_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["BraTS20_Training_001", "BraTS2021_00001"]
    assert segmented(monkeypatch, names).facts == {"measured": MEASURED}
    assert "mean Dice WT 0.90, TC 0.80, ET 0.70\n" in capsys.readouterr().err
    failed = CaseRow(case_id="BraTS-MET-00001-000", status="rejected")
    told = segmented(monkeypatch, [*names, failed.case_id], failures=[failed], remarked=names[:1])
    assert told.facts == {"measured": MEASURED}
    assert "ET 0.70; this holds for 1 of the 2 case(s)" in capsys.readouterr().err


def test_none_are_said_of_a_cohort_that_was_prepared_from_raw_studies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / record.COHORT_NAME).write_text("{}")
    told = segmented(monkeypatch, ["sub-1_ses-1"], uri=str(tmp_path))
    assert told.facts == {"measured": None}
    assert "how good these masks are was not measured" in capsys.readouterr().err


def test_none_are_said_where_they_hold_for_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segmented(monkeypatch, ["BraTS-MEN-00001-000"]).facts == {"measured": None}
    err = capsys.readouterr().err
    assert "score: how good these masks are was not measured: 1 of meningioma" in err
    assert "Dice" not in err
    assert segmented(monkeypatch, ["BraTS2021_00001"], tta="flips").facts == {"measured": None}
    err = capsys.readouterr().err
    assert "measured" not in err
    assert "score: Research." in err
