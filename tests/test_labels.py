"""Labels: releases, regions, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats import labels, tasks
from ray_brats.errors import UsageError


@pytest.mark.parametrize("release", tasks.TASKS)
def test_class_indices_survive_a_round_trip_through_every_release(release: str) -> None:
    index = np.arange(labels.CLASS_COUNT, dtype=np.uint8)
    raw = labels.from_class_index(index, release)
    assert labels.to_class_index(raw, release).tolist() == index.tolist()


def test_enhancing_is_4_until_2021_and_3_from_2023() -> None:
    enhancing = np.array([labels.ENHANCING])
    assert labels.from_class_index(enhancing, "brats2021").tolist() == [4]
    assert labels.from_class_index(enhancing, "brats2023").tolist() == [3]


def test_resection_cavity_of_2024_is_background() -> None:
    assert labels.to_class_index(np.array([4]), "brats2024").tolist() == [labels.BACKGROUND]


def test_a_4_in_2023_is_refused_with_the_advice_to_name_2024() -> None:
    with pytest.raises(labels.UnknownLabelsError, match="--release brats2024"):
        labels.to_class_index(np.array([0, 4]), "brats2023")


def test_raw_3_is_enhancing_only_by_the_original_projects_rule() -> None:
    raw = np.array([3])
    assert labels.to_class_index(raw, "brats2020", raw_3_is_enhancing=True)[0] == labels.ENHANCING
    with pytest.raises(labels.UnknownLabelsError, match="label 3"):
        labels.to_class_index(raw, "brats2020")


def test_whole_numbers_that_scaling_left_a_little_off_are_labels() -> None:
    """As nibabel reads back a float array that it scaled to fit a header's int16."""
    raw = np.array([0, 1.0000076, 1.9999543, 4.0])
    assert labels.to_class_index(raw, "brats2021").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [0.5, 1.02, float("nan"), -1.0, 300.0, 7.0])
def test_values_no_release_defines_are_refused(value: float) -> None:
    with pytest.raises(labels.UnknownLabelsError):
        labels.to_class_index(np.array([0.0, value]), "brats2021")


def test_unknown_release_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="brats2018"):
        labels.check_release("brats1999")


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_decoded_regions_are_nested(masks: list[tuple[bool, bool, bool]]) -> None:
    index = labels.from_regions(np.array(masks))
    whole, core, enhancing = (labels.region_mask(index, name) for name in labels.REGIONS)
    assert not (enhancing & ~core).any()
    assert not (core & ~whole).any()
    assert (whole == np.array(masks)[:, 0]).all()
