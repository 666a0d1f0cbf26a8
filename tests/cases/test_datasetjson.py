"""`dataset.json` of other people: what it says, and whatever else it may hold."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases import datasetjson
from ray_brats.cases.datasetjson import DatasetJson
from ray_brats.errors import UsageError

CHANNELS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def read(folder: Path, content: object) -> DatasetJson:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "dataset.json").write_text(text)
    return datasetjson.read(str(folder / "dataset.json"))


def test_the_decathlons_own_words_are_understood(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    told = read(tmp_path, {"name": "BRATS", "modality": CHANNELS, "labels": labels})
    assert told == DatasetJson(
        uri=str(tmp_path / "dataset.json"),
        kind="decathlon",
        name="BRATS",
        channel_names=("FLAIR", "T1w", "t1gd", "T2w"),
        modalities=("flair", "t1", "t1ce", "t2"),
        labels={
            "background": (0,),
            "edema": (1,),
            "non-enhancing tumor": (2,),
            "enhancing tumour": (3,),
        },
    )
    assert not told.has_regions


def test_nnunets_labels_are_integers_or_regions(tmp_path: Path) -> None:
    classes = read(tmp_path, {"channel_names": CHANNELS, "labels": {"background": 0, "tumor": 1}})
    assert (classes.kind, classes.labels, classes.has_regions) == (
        "nnunet",
        {"background": (0,), "tumor": (1,)},
        False,
    )
    regions = read(
        tmp_path,
        {
            "channel_names": CHANNELS,
            "labels": {**REGIONS, "ignore": 4},
            "regions_class_order": [1, 2, 3],
            "file_ending": ".nii",
        },
    )
    assert regions.labels["whole"] == (1, 2, 3)
    assert (regions.regions_class_order, regions.has_regions) == ((1, 2, 3), True)


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (("T1", "T1w", "T1n", "t1_native"), "t1"),
        (("T1c", "T1ce", "T1gd", "T1-Gd", "T1 post", "T1w_post", "T1CE", "ceT1"), "t1ce"),
        (("T2", "T2w", "t2-weighted"), "t2"),
        (("FLAIR", "T2f", "T2-FLAIR", "T2_FLAIR", "t2flair"), "flair"),
        (("ADC", "CT", "T2star", "T1map", "noNorm", "", "T12", "T1 T2"), None),
    ],
)
def test_channels_are_known_by_common_spellings(
    tmp_path: Path, names: tuple[str, ...], modality: str | None
) -> None:
    for name in filter(None, names):
        other = "T2" if modality == "t1" else "T1"
        told = read(tmp_path, {"channel_names": {"0": name, "1": other}})
        assert told.modalities[0] == modality, name


HOSTILE: list[tuple[Any, str]] = [
    ("", "not JSON"),
    ("[1, 2]", "holds no JSON object"),
    ("[" * 100_000, "not JSON"),
    ('{"modality": ' + '{"0":' * 900 + "1" + "}" * 901, r"modality 0 is an object of 1"),
    ('{"modality": {"0": ' + "9" * 5000 + "}}", "not JSON"),
    ({}, "has neither channel_names"),
    ({"modality": None}, "modality is None: expected"),
    ({"modality": {}}, "modality is an object of 0"),
    ({"modality": ["FLAIR"]}, "modality is FLAIR: expected"),
    ({"modality": {str(n): "T1" for n in range(1000)}}, "an object of 1000"),
    ({"modality": {"1": "T1", "2": "T2"}}, "has the keys 1, 2: expected 0, 1"),
    ({"modality": {"0": "T1", "00": "T2"}}, "has the keys 0, 00"),
    ({"modality": {"0": 1}}, "modality 0 is 1: expected a name"),
    ({"modality": {"0": "x" * 129}}, "expected a name of 1–128 letters"),
    ({"channel_names": {"0": "CT"}, "modality": CHANNELS}, "it has CT, expected some of t1"),
    ({"modality": {"0": "T1", "1": "T1w"}}, "T1, T1w: 2 channels that all mean t1"),
    ({"modality": CHANNELS, "file_ending": ".png"}, "file_ending is .png: only NIfTI"),
    ({"modality": CHANNELS, "file_ending": ["x"]}, "only NIfTI"),
    ({"modality": CHANNELS, "labels": [0, 1]}, "labels is 0, 1: expected"),
    ({"modality": CHANNELS, "labels": {"a": "edema"}}, "label edema is a: expected an integer"),
    ({"modality": CHANNELS, "labels": {"-1": "edema"}}, "label edema is -1"),
    ({"modality": CHANNELS, "labels": {"\u0661": "edema"}}, "expected an integer"),
    ({"modality": CHANNELS, "labels": {"1": "a", "2": "a"}}, "two labels are called a"),
    ({"modality": CHANNELS, "labels": {"01": "a", "1": "b"}}, "labels a, b are all 1"),
    ({"channel_names": CHANNELS, "labels": {"a": 1.5}}, "label a is 1.5"),
    ({"channel_names": CHANNELS, "labels": {"a": True}}, "label a is True"),
    ({"channel_names": CHANNELS, "labels": {"a": 256}}, "of 0 to 255"),
    ({"channel_names": CHANNELS, "labels": {"a": None}}, "label a is None"),
    ({"channel_names": CHANNELS, "labels": {"a": []}}, "expected integers, each once"),
    ({"channel_names": CHANNELS, "labels": {"a": [1, 1]}}, "expected integers, each once"),
    (
        {"channel_names": CHANNELS, "labels": {"a": [0, 1]}, "regions_class_order": [1]},
        "label a is 0, 1: 0 is the background, and no part of a region",
    ),
    ({"channel_names": CHANNELS, "labels": {"a": [1, [2]]}}, "label a is 1, a list of 1"),
    ({"channel_names": CHANNELS, "labels": {"a": {"b": 1}}}, "label a is an object of 1"),
    ({"channel_names": CHANNELS, "labels": {"a": 1, "b": 1}}, "labels a, b are all 1"),
    ({"channel_names": CHANNELS, "labels": {"": 1}}, "expected a name"),
    ({"channel_names": CHANNELS, "labels": REGIONS}, "regions_class_order is absent"),
    (
        {"channel_names": CHANNELS, "labels": REGIONS, "regions_class_order": [1, 2]},
        "expected 3 integers, one for each of whole, core, enhancing",
    ),
    (
        {"channel_names": CHANNELS, "labels": REGIONS, "regions_class_order": "123"},
        "regions_class_order is 123",
    ),
    (
        {"channel_names": CHANNELS, "labels": REGIONS, "regions_class_order": [1, None, 3]},
        "regions_class_order is 1, None, 3",
    ),
]


@pytest.mark.parametrize(("content", "reason"), HOSTILE, ids=[reason for _, reason in HOSTILE])
def test_what_cannot_be_meant_is_refused_in_a_sentence(
    tmp_path: Path, content: object, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        read(tmp_path, content)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "dataset.json"))
    assert len(text) < 600


def test_a_description_of_any_length_is_not_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    with pytest.raises(UsageError, match="more than 4194304 bytes"):
        datasetjson.read(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(b'{"modality": {"0": "T1\xff"}}')
    with pytest.raises(UsageError, match="not JSON"):
        datasetjson.read(str(path))
    path.write_bytes(b'\xef\xbb\xbf{"modality": {"0": "T1"}}')
    assert datasetjson.read(str(path)).modalities == ("t1",)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["modality", "channel_names", "labels", "regions_class_order", "file_ending", "name"]
)
NUMBERED = st.lists(st.sampled_from(["T1", "T1ce", "T2", "FLAIR", "ADC"]), max_size=4).map(
    lambda names: {str(number): name for number, name in enumerate(names)}
)


@given(st.dictionaries(KEYS, VALUES | NUMBERED))
def test_any_object_is_understood_or_refused(content: dict[str, Any]) -> None:
    began = time.process_time()
    refused, told = "", None
    try:
        told = datasetjson._parsed(content, "x")
    except UsageError as error:
        refused = str(error)
    assert time.process_time() - began < 1
    if told is None:
        assert refused.startswith("x: ")
        return
    assert len(told.channel_names) == len(told.modalities)
    assert any(told.modalities)
    assert all(isinstance(n, int) for numbers in told.labels.values() for n in numbers)
