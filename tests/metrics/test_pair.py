"""Regions and labels share the work of comparing two label maps, and no number changes by it."""

from __future__ import annotations

import classes
import numpy as np
from classes import CLASS_COUNT, REGIONS
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ray_brats.metrics import distances, pair, scores

from .masks import ANISOTROPIC_MM, CUBE, QUICK, SPACINGS, UNIT_MM, as_label_map, score

BESIDE = (
    np.array([[[0, 1], [1, 0], [0, 0], [0, 1], [0, 0]]], np.uint8),
    np.array([[[1, 1], [1, 1], [1, 1], [0, 1], [2, 1]]], np.uint8),
)
"""TC alone is so dense that nobody transforms it; beside WT it uses WT's transform."""


@QUICK
@given(
    st.tuples(*[st.integers(1, 6)] * 3).flatmap(
        lambda shape: st.tuples(
            *[hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASS_COUNT - 1))] * 2
        )
    ),
    st.sets(st.integers(1, CLASS_COUNT - 1)),
    SPACINGS,
)
@example(BESIDE, set(), ANISOTROPIC_MM)
def test_what_regions_and_labels_share_changes_no_number(maps, gone, spacing_mm):
    """Each mask alone, as enhancing tumour, scores as it does beside the others."""
    reference, prediction = maps[0], np.where(np.isin(maps[1], list(gone)), 0, maps[1])
    prediction = prediction.astype(np.uint8)
    regions, labels = scores.all_metrics(reference, prediction, spacing_mm)
    wanted = [*REGIONS.values(), *((index,) for index in classes.LABEL_NAMES)]
    for row, members in zip([*regions, *labels], wanted, strict=True):
        masks = [np.isin(part, list(members)) for part in (reference, prediction)]
        alone = score(*masks, spacing_mm)
        names = scores.SCORE_COLUMNS
        if "label" in row:
            names = tuple(name for name in names if name not in scores.LESIONWISE_COLUMNS)
        assert [row[name] for name in names] == [alone[name] for name in names]


def test_a_prediction_of_one_class_is_measured_once(monkeypatch):
    measured = []
    between = distances.SurfaceDistances.between
    monkeypatch.setattr(
        pair.SurfaceDistances, "between", lambda *pair: measured.append(pair) or between(*pair)
    )
    scores.all_metrics(as_label_map(CUBE), as_label_map(np.roll(CUBE, 1, 0)), UNIT_MM)
    assert len(measured) == 1, "three regions and a label are one pair of masks"
