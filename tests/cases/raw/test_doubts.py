"""What is told of a case before somebody trusts it; motions and values in `test_preparation`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ray_brats.arrays import ellipsoid
from ray_brats.cases.raw import choice, doubts, elements

from .test_choice import STUDY, series

PLAIN = choice.choose(STUDY[:-1])
"""A study without T1CE."""
CUT = ("5 AX T1 +C", "truncated: the gzip stream breaks off")


@pytest.mark.parametrize(
    ("ignored", "told"),
    [
        ([CUT], [f"t1ce: {CUT[0]} looks like it and was ignored: {CUT[1]}"]),
        ([CUT, CUT], [f"t1ce: {CUT[0]} looks like it and was ignored: {CUT[1]} (and 1 more)"]),
        ([("t1ce", "one; two")], ["t1ce: t1ce looks like it and was ignored: one"]),
        ([("t1ce.txt", elements.NOT_DICOM)], []),
        ([("t1ce_mask", "no scan"), ("T1 +C MPR", "a reformat"), ("Ax DWI", "diffusion")], []),
        ([("t2_b", "truncated")], []),
    ],
)
def test_what_looks_like_a_modality_that_is_missing_is_told(
    ignored: Sequence[tuple[str, str]], told: Sequence[str]
) -> None:
    assert doubts.of_missing(PLAIN, ignored) == told


def test_a_modality_that_is_there_or_was_left_out_is_not_missed() -> None:
    assert doubts.of_missing(choice.choose(STUDY), [CUT]) == []
    assert doubts.of_missing(choice.choose(STUDY, {"t1ce": "none"}), [CUT]) == []


def test_what_models_will_refuse_a_case_for_is_told() -> None:
    (text,) = doubts.of_absent(PLAIN)
    assert text == "no t1ce: models that take it, as the starter does, refuse the case"
    assert doubts.of_absent(choice.choose(STUDY)) == []
    assert doubts.of_absent(choice.choose(STUDY, {"t1ce": "none"})) == []


def test_series_that_are_not_sure_are_told() -> None:
    unsure = series("Ax FLAIR", 1, te_ms=12, tr_ms=600, warnings=("odd",))
    first, second = doubts.of_choice(choice.choose([unsure]))
    assert first.startswith("flair is Ax FLAIR by its name says 'flair', but TE 12")
    assert second == "flair: odd"


def test_a_brain_alone_is_told_before_it_is_stripped_again() -> None:
    brain = np.pad(ellipsoid((28, 40, 24)), 6)
    noise = np.random.default_rng(0).integers(1, 900, brain.shape)
    (text,) = doubts.of_stripped("t1ce", brain * noise)
    assert text.startswith("t1ce has no skull already: if the cohort is one of stripped")
    assert doubts.of_stripped("t1ce", noise) == []
    assert doubts.of_stripped("t1ce", brain.astype(np.uint8)) == []
