"""Lines of the parts of a text: tables, keys and rows of lists."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.recipes import lines

TOML = """\
# a comment = 1
name = "a"
"quoted" = 2

[[classes]]
name = "x"

[[ 'classes' ]]
  name = "y"
  integer = 3
[regions]
name = [
  "b",
]
"""


def test_keys_of_toml_belong_to_the_table_above_them() -> None:
    assert lines.of_toml(TOML) == {
        ("name",): 2,
        ("quoted",): 3,
        ("classes",): 5,
        ("classes", 1): 5,
        ("classes", 1, "name"): 6,
        ("classes", 2): 8,
        ("classes", 2, "name"): 9,
        ("classes", 2, "integer"): 10,
        ("regions",): 11,
        ("regions", "name"): 12,
    }


def test_the_innermost_part_that_is_there_tells_the_line() -> None:
    found = lines.of_toml(TOML)
    assert lines.at(found, ("classes", 2, "integer")) == "line 10: "
    assert lines.at(found, ("classes", 2, "colour")) == "line 8: "
    assert lines.at(found, ("classes", 9, "colour")) == "line 5: "
    assert lines.at(found, ("absent",)) == ""


NAMES = st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


def places(value: object, place: lines.Place = ()) -> list[lines.Place]:
    """Every part of a value, in the order in which JSON writes them."""
    found = [place]
    if isinstance(value, dict):
        for name, item in value.items():
            found += places(item, (*place, name))
    elif isinstance(value, list):
        for number, item in enumerate(value, start=1):
            found += places(item, (*place, number))
    return found


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_part_of_a_json_text_is_found_on_its_line(value: dict[str, object]) -> None:
    text = json.dumps(value, indent=1)
    found = lines.of_json(text)
    assert list(found) == places(value)
    assert list(found.values()) == sorted(found.values())
    for place, number in found.items():
        if place and isinstance(place[-1], str):
            assert json.dumps(place[-1]) in text.split("\n")[number - 1]


@pytest.mark.parametrize("text", ["", "{", "]]]", '"', "{{{,:}", "[[,],", '{"a": [1, {"b": '])
def test_what_is_no_json_does_no_harm(text: str) -> None:
    lines.of_json(text)
