"""Where in a TOML or JSON text something stands, so that what is wrong is told with its line.

A *place* is the way to a value: `("classes", 2, "integer")` is the integer of the second class.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

Place = tuple[str | int, ...]

_HEADER = re.compile(r"\s*\[\[\s*[\"']?([\w-]+)[\"']?\s*\]\]")
_TABLE = re.compile(r"\s*\[\s*[\"']?([\w-]+)")
_KEY = re.compile(r"\s*[\"']?([\w-]+)[\"']?\s*=")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def of_toml(text: str) -> dict[Place, int]:
    """The line of each table `[[part]]` and of each key; of what stands within a line, that line's.

    Rows are counted from 1, as lines are.
    """
    lines: dict[Place, int] = {}
    rows: Counter[str] = Counter()
    place: Place = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            rows[header[1]] += 1
            place = (header[1], rows[header[1]])
            lines.setdefault((header[1],), number)
            lines[place] = number
        elif table := _TABLE.match(line):
            place = (table[1],)
            lines.setdefault(place, number)
        elif key := _KEY.match(line):
            lines.setdefault((*place, key[1]), number)
    return lines


def of_json(text: str) -> dict[Place, int]:
    """The line of each value of a JSON text; rows of lists are counted from 1."""
    lines: dict[Place, int] = {}
    # Of each table and list around the token: the key or number that is being read; None of a
    # table whose key comes next.
    around: list[str | int | None] = []
    number, seen = 1, 0
    for token in _TOKEN.finditer(text):
        number, seen = number + text.count("\n", seen, token.start()), token.start()
        word = token[0]
        if word in "}]":
            around = around[:-1]
        elif word == ",":
            if around:
                around[-1] = around[-1] + 1 if isinstance(around[-1], int) else None
        elif word != ":":
            if around and around[-1] is None:
                around[-1] = str(json.loads(word)) if word[0] == '"' else word
            lines.setdefault(tuple(item for item in around if item is not None), number)
            if word in "{[":
                around.append(1 if word == "[" else None)
    return lines


def at(lines: Mapping[Place, int], place: Place) -> str:
    """`line 7: ` of the innermost part of a place that is there; empty where none is."""
    for end in range(len(place), 0, -1):
        if place[:end] in lines:
            return f"line {lines[place[:end]]}: "
    return ""
