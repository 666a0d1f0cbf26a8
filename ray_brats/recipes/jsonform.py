"""Configurations as JSON, the form that crosses files and processes; `KEY=VALUE` changes to them.

`as_json` and `from_json` are inverse.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ray_brats.errors import UsageError
from ray_brats.recipes.config import require

T = TypeVar("T")


def as_json(config: Any) -> dict[str, Any]:
    """A plain dict that `json` writes and `from_json` reads back."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    _leave_out(config, values)
    return values


def _leave_out(config: Any, values: dict[str, Any]) -> None:
    """Take out the fields of later versions that are at their default."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.metadata.get("later") and value == item.default:
            del values[item.name]
        elif dataclasses.is_dataclass(value):
            _leave_out(value, values[item.name])


@functools.cache
def _hints(kind: type[object]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild a configuration dataclass from `as_json`'s dict.

    Raises:
        UsageError: a field that `kind` does not have, or lacks, or a value out of its range.
    """
    hints = _hints(kind)  # type: ignore[arg-type]  # types are hashable
    unknown = set(values) - set(hints)
    if unknown:
        raise UsageError(
            f"{kind.__name__} has no field {', '.join(sorted(unknown))}: "
            f"expected one of {', '.join(hints)}"
        )
    fields = {name: _rebuild(name, hints[name], value) for name, value in values.items()}
    try:
        return kind(**fields)
    except TypeError as error:
        raise UsageError(f"{kind.__name__}: {error}") from error


def _rebuild(name: str, hint: Any, value: Any) -> Any:
    """A JSON value as the type that a field declares."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return from_json(hint, value)
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        (hint,) = (kind for kind in arguments if kind is not types.NoneType)
        return _rebuild(name, hint, value)
    if origin is Literal:
        require(value in arguments, name, value, " or ".join(map(repr, arguments)))
        return value
    if origin is tuple:
        require(isinstance(value, list | tuple), name, value, "a list")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        require(len(kinds) == len(value), name, value, f"{len(kinds)} values")
        return tuple(_rebuild(name, kind, item) for kind, item in zip(kinds, value, strict=True))
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    fits = numeric if hint is float else type(value) is hint
    require(fits, name, value, f"a value of type {getattr(hint, '__name__', hint)}")
    return value


def with_settings(config: T, settings: Sequence[str]) -> T:
    """A configuration with some fields set by `PART.FIELD=VALUE`, as `train.clip_norm=12`.

    Values are JSON; what is no JSON is a list (`96,96,96` or `t1ce,flair`) or a word, and a word
    for a list is its only item (`preprocess.modalities=t1ce`).

    Raises:
        UsageError: not of that form, no such field, or a value out of its range.
    """
    if not settings:
        return config
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[call-overload]
    for setting in settings:
        path, equals, text = setting.partition("=")
        *parts, field = path.strip().split(".")
        place = values
        for part in parts:
            inner = place.get(part)
            if not isinstance(inner, dict):
                raise UsageError(f"--set {setting}: there is no {part!r}: see the recipe's parts")
            place = inner
        if not equals or not parts or field not in place:
            raise UsageError(f"--set {setting}: {_expected(path.strip(), parts, values, place)}")
        value = _parse(text.strip())
        before = place[field]
        of_words = isinstance(before, list) and any(isinstance(item, str) for item in before)
        place[field] = [value] if of_words and isinstance(value, str) else value
    try:
        return from_json(type(config), values)
    except UsageError as error:
        raise UsageError(f"--set {' '.join(settings)}: {error}") from error


def _expected(
    path: str, parts: Sequence[str], values: Mapping[str, Any], place: Mapping[str, Any]
) -> str:
    """What a setting may be: the fields that are nearest to what was meant, or all of the part."""
    form = "expected PART.FIELD=VALUE"
    fields = {
        name: f"{part}.{name}"
        for part, inner in values.items()
        if isinstance(inner, dict)
        for name in inner
    }
    asked = path.rpartition(".")[2]
    begun = [name for name in fields if asked and name.startswith(asked)]
    near = dict.fromkeys(begun + difflib.get_close_matches(asked, fields, 1))
    if path not in fields.values() and near:
        return f"{form}; did you mean {' or '.join(fields[name] for name in near)}?"
    known = ", ".join(".".join([*parts, name]) for name in place)
    return f"{form}, with one of the fields {known}"


def _parse(text: str) -> Any:
    for form in (text, f"[{text}]" if "," in text else text, text.lower()):
        try:
            return json.loads(form)
        except ValueError:
            continue
    if "," in text:
        return [part.strip() for part in text.split(",")]
    return None if text == "None" else text


def fingerprint(*parts: Any) -> str:
    """A hash over JSON values or configurations: equal content, equal string.

    An iterator counts as the list of what it gives, which is never in memory as a whole.
    """
    digest = hashlib.sha256()
    for text in _listed(map(_plain, parts)):
        digest.update(text.encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Written:
    """A part of many fingerprints, written once."""

    text: str

    @staticmethod
    def of(part: Any) -> Written:
        """What a fingerprint takes for the part itself."""
        return Written("".join(_pieces(_plain(part))))


def _plain(part: Any) -> Any:
    is_config = dataclasses.is_dataclass(part) and not isinstance(part, Written)
    return as_json(part) if is_config else part


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, Written):
        yield value.text
    elif isinstance(value, Iterator):
        yield from _listed(value)
    else:
        yield json.dumps(value, sort_keys=True, separators=(",", ":"))


def _listed(values: Iterator[Any]) -> Iterator[str]:
    """The text of a list, by pieces."""
    mark = "["
    for value in values:
        yield mark
        yield from _pieces(value)
        mark = ","
    yield "[]" if mark == "[" else "]"
