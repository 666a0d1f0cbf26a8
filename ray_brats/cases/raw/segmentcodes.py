"""What classes are called in the codes of DICOM; `segmentcodes.toml` is the table."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

Code = tuple[str, str, str]
"""Value, scheme and meaning."""

_TABLE: Final = "segmentcodes.toml"


def codes_of(class_name: str) -> tuple[Code, Code]:
    """Category and type of a class; of a class that is none of the field's, those of a lesion."""
    table = _table()
    row = table["classes"].get(class_name, table["other"])
    return _code(table["categories"][row["category"]]), _code(row["type"])


@functools.cache
def _table() -> Mapping[str, Any]:
    folder = resources.files("ray_brats.cases.raw")
    return tomllib.loads(folder.joinpath(_TABLE).read_text("utf-8"))


def _code(row: Sequence[str]) -> Code:
    value, scheme, meaning = row
    return value, scheme, meaning
