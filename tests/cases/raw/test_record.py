"""`prepare.json` there and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats.cases import geometry
from ray_brats.cases.phantom_head import motion_about
from ray_brats.cases.raw import record
from ray_brats.cases.raw.placed import Grid
from ray_brats.cases.raw.record import Record, SeriesRecord
from ray_brats.errors import ArtefactError

AFFINE = motion_about(np.zeros(3), (10, 5, -3), (-80, 100, 30)) @ np.diag([0.9, -0.9, 5.5, 1])
GEOMETRY = geometry.of_file((256, 240, 24), AFFINE, qform_code=1, sform_code=2)


def whole() -> Record:
    series = SeriesRecord(
        name="AX T1 +C",
        reason="its name says 'T1' and '+C'",
        geometry=GEOMETRY,
        motion=geometry.affine_of(motion_about(np.zeros(3), (0.1, 0.2, 0.3), (1, 2, 3))),
        similarity=0.4321,
        covered=0.98,
        scale=0.5,
        facts={"number": 6, "te_ms": 4.2, "contrast": True, "plane": "axial"},
    )
    return Record(
        case_id="case-1",
        space="mni152",
        grid=record.geometry_of(Grid(shape_vox=(240, 240, 155), affine=np.diag([-1.0, -1, 1, 1]))),
        reference="t1ce",
        series={
            "t1ce": series,
            "t2": SeriesRecord(
                name="t2", reason="", geometry=GEOMETRY, motion=geometry.affine_of(np.eye(4))
            ),
        },
        brain="deepbet",
        brain_ml=1432.5,
        options={"space": "mni152", "freedom": "rigid", "keep_skull": False, "n4": False},
        warnings=("t1ce lies 30° and 3 mm away from t2",),
        ignored=(("AX DWI", "diffusion"),),
        versions={"ray_brats": "1", "torch": "2"},
    )


def plain(told: Record) -> Any:
    return json.loads(json.dumps(told.as_json()))


def test_a_record_comes_back_from_json_as_it_was() -> None:
    assert record.from_json(plain(whole()), "prepare.json") == whole()


texts = st.text(max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
motions = st.tuples(*[st.tuples(numbers, numbers, numbers, numbers)] * 4)
series = st.builds(
    SeriesRecord,
    name=texts,
    reason=texts,
    geometry=st.just(GEOMETRY),
    motion=motions,
    similarity=st.none() | numbers,
    covered=numbers,
    scale=numbers,
    facts=st.dictionaries(texts, texts | numbers | st.booleans(), max_size=3),
)
records = st.builds(
    Record,
    case_id=texts,
    space=texts,
    grid=st.just(GEOMETRY),
    reference=st.just("t1"),
    series=st.fixed_dictionaries({"t1": series}, optional={"flair": series}),
    brain=texts,
    brain_ml=st.none() | numbers,
    options=st.dictionaries(texts, texts | st.booleans(), max_size=2),
    warnings=st.lists(texts, max_size=3).map(tuple),
    ignored=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    versions=st.dictionaries(texts, texts, max_size=2),
)


@settings(max_examples=40)
@given(records)
def test_so_does_any(told: Record) -> None:
    assert record.from_json(plain(told), "prepare.json") == told


def without(*keys: str) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        part = values
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
        return values

    return change


def test_a_record_of_before_that_says_no_options_is_read() -> None:
    told = record.from_json(without("options")(plain(whole())), "prepare.json")
    assert told == dataclasses.replace(whole(), options={})


def put(value: Any, *keys: str) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        part = values
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        return values

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(without(key) for key in plain(whole()) if key not in ("format", "options")),
        without("series", "t1ce", "motion"),
        without("series", "t1ce", "geometry", "axes"),
        put([], "series"),
        put(None, "series"),
        put("t1", "reference"),
        put(3, "warnings"),
        put([["one"]], "ignored"),
        put([[1, 0], [0, 1]], "series", "t1ce", "motion"),
        put([[float("nan")] * 4] * 4, "series", "t1ce", "motion"),
        put(["a"], "series", "t1ce"),
        put(1, "series", "t1ce", "unknown"),
        put(7, "grid"),
        put(7, "options"),
    ],
)
def test_a_damaged_record_is_a_sentence(change: Callable[[Any], Any]) -> None:
    with pytest.raises(ArtefactError, match=r"^prepare\.json is damaged .*prepare the case again"):
        record.from_json(change(plain(whole())), "prepare.json")


@pytest.mark.parametrize("values", [{}, [], None, "text", {"format": 2}, {"format": None}])
def test_another_format_is_a_sentence(values: Any) -> None:
    with pytest.raises(ArtefactError, match=r"prepare\.json has the format .* reads 1: prepare"):
        record.from_json(values, "prepare.json")


def test_a_grid_is_the_whole_file_in_canonical_axes() -> None:
    grid = record.grid_of(GEOMETRY)
    assert grid.shape_vox == GEOMETRY.canonical_shape
    assert record.grid_of(record.geometry_of(grid)).shape_vox == grid.shape_vox
    assert np.allclose(record.grid_of(record.geometry_of(grid)).affine, grid.affine)
