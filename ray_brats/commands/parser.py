"""The command line of a dataclass of options: what tyro is told, and the instance it gives.

Fields that are dataclasses themselves (groups of options that commands share) are laid flat, so
that an option is spelled alike wherever it is offered.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import itertools
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import tyro

from ray_brats.errors import UsageError

CONFIG = (tyro.conf.FlagCreatePairsOff,)


def parse(
    kinds: Sequence[type], arguments: Sequence[str], *, prog: str, description: str
) -> tuple[Any, ...]:
    """An instance of each class of options, all offered side by side.

    Raises:
        UsageError: a wrong call.
        SystemExit: `--help`.
    """
    call = callable_of(kinds)
    _check_names(arguments, option_names(call), prog)
    _check_values(arguments, call)
    wrong = io.StringIO()
    try:
        with contextlib.redirect_stderr(wrong):
            instances: tuple[Any, ...] = tyro.cli(
                call, args=list(arguments), prog=prog, description=description, config=CONFIG
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        raise UsageError(f"{_sentence(wrong.getvalue())}; `{prog} --help` tells more") from None
    return instances


def _sentence(box: str) -> str:
    """What tyro's box about a wrong call says: its lines up to the first rule, in one.

    What is missing is told by its name alone, which stands four blanks in; its help, further in,
    is for `--help`.
    """
    inner = (line.strip("│")[1:] for line in box.splitlines() if line.startswith("│"))
    lines = [line.rstrip() for line in itertools.takewhile(lambda line: "──" not in line, inner)]
    names = [line.strip().split(", ")[0] for line in lines[1:] if re.match(r" {4}\S", line)]
    first = lines[0].rstrip(":") if lines else ""
    if first.startswith("Missing from") and names:
        return f"expected {' and '.join(names)} too"
    if first.startswith("Unrecognized options"):
        return f"unexpected: {' '.join(' '.join(lines).split()[2:])}"
    told = " ".join(" ".join(lines or [box]).split()).rstrip(".")
    valueless = re.match(r"Missing value for argument '(.+?)'", told)
    return f"{valueless[1]}: expected a value after it" if valueless else told


def completion(
    commands: Mapping[str, tuple[Sequence[type], str]], *, prog: str, shell: str
) -> None:
    """Print a script for the shell that completes commands and their options, and exit.

    Args:
        commands: name to classes of options and a title.
        prog: what the user types.
        shell: bash, zsh, fish or tcsh.
    """
    calls = {}
    for name, (kinds, title) in commands.items():
        calls[name] = callable_of(kinds)
        calls[name].__doc__ = title
    tyro.extras.subcommand_cli_from_dict(
        calls, prog=prog, args=["--tyro-write-completion", shell, "-"], config=CONFIG
    )


def callable_of(kinds: Sequence[type]) -> Callable[..., tuple[Any, ...]]:
    """A function with one parameter an option, that makes an instance of each class."""
    parameters = [item for kind in kinds for item in _parameters(kind, dataclasses.MISSING)]

    def build(**values: Any) -> tuple[Any, ...]:
        return tuple(_instance(kind, values) for kind in kinds)

    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    build.__annotations__ = {item.name: item.annotation for item in parameters}
    return build


def option_names(call: Callable[..., Any]) -> list[str]:
    """`--name` of every option, and the short names."""
    return ["--help", "-h", *_kinds(call)]


def _kinds(call: Callable[..., Any]) -> dict[str, Any]:
    """Name of every option, long and short, to the type of its value."""
    kinds: dict[str, Any] = {}
    for parameter in inspect.signature(call).parameters.values():
        plain, *extras = typing.get_args(parameter.annotation)
        if tyro.conf.Positional in extras:
            continue
        configs = [item for item in extras if hasattr(item, "aliases")]
        name = next((item.name for item in configs if item.name), parameter.name)
        aliases = (alias for item in configs for alias in item.aliases or ())
        kinds |= dict.fromkeys([f"--{name.replace('_', '-')}", *aliases], plain)
    return kinds


def _check_values(arguments: Sequence[str], call: Callable[..., Any]) -> None:
    """`UsageError` for a value that is none of the names of its option, or no number."""
    kinds = _kinds(call)
    for number, argument in enumerate(arguments, 1):
        option, equals, value = argument.partition("=")
        name = option.replace("_", "-")
        if not name.startswith("-") or name not in kinds:
            continue
        value = value if equals else next(iter(arguments[number:]), "")
        if typing.get_origin(kinds[name]) is tuple and not equals:
            _check_several(name, arguments[number:], typing.get_args(kinds[name]))
        if choices := _choices(kinds[name]):
            known = choices.split("|")
            if value not in known:
                nearest = difflib.get_close_matches(value, known, 1)
                advice = f"; did you mean {nearest[0]}?" if nearest else ""
                raise UsageError(f"{name} {value}: expected one of {', '.join(known)}{advice}")
        for kind, words in _NUMBERS.items():
            if kinds[name] in (kind, kind | None) and not _is_made(kind, value):
                raise UsageError(f"{' '.join((name, value)).rstrip()}: expected {words}")


def _check_several(name: str, after: Sequence[str], kinds: Sequence[Any]) -> None:
    """`UsageError` where an option that takes so many values has fewer, or others."""
    if Ellipsis in kinds:
        if not after or re.match("--|-[a-z]", after[0], re.IGNORECASE):
            raise UsageError(f"{name}: expected a value after it")
        return
    made = [_is_made(kind, value) for kind, value in zip(kinds, after, strict=False)]
    if len(made) < len(kinds) or not all(made):
        given = " ".join((name, *after[: len(kinds)]))
        words = _NUMBERS[kinds[0]].removeprefix("a ")
        raise UsageError(f"{given}: expected {len(kinds)} {words}s")


_NUMBERS: Mapping[type[int] | type[float], str] = {int: "a whole number", float: "a number"}


def _is_made(kind: type[int] | type[float], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _check_names(arguments: Sequence[str], names: Sequence[str], prog: str) -> None:
    for argument in arguments:
        name = argument.split("=", 1)[0].replace("_", "-")
        if not re.match("--|-[a-z]", name, re.IGNORECASE) or name in names:
            continue
        nearest = difflib.get_close_matches(name, names, 1)
        advice = f"did you mean {nearest[0]}? " if nearest else ""
        raise UsageError(f"unknown option {name}: {advice}`{prog} --help` lists all")


def _parameters(options: type, default: Any) -> Iterator[inspect.Parameter]:
    """Parameters of all options, those of groups among them."""
    hints = hints_of(options)
    helps = helps_of(options)
    for field in dataclasses.fields(options):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if default is not dataclasses.MISSING:
            value = getattr(default, field.name)
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _parameters(typing.cast(type, kind), value)
            continue
        config = tyro.conf.arg(help=helps[field.name], help_behavior_hint=_hint(value))
        plain, *extras = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind,)
        metavar = [tyro.conf.arg(metavar=name)] if (name := _choices(plain)) else []
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[(plain, *metavar, *extras, config)],
            default=inspect.Parameter.empty if value is dataclasses.MISSING else value,
        )


def hints_of(options: type) -> dict[str, Any]:
    """Type of each field, with what it is told to tyro."""
    return typing.get_type_hints(options, include_extras=True)


def _hint(default: Any) -> str | None:
    """What follows the help: nothing where the default is to leave the option out."""
    if default is None or default is False or default == ():
        return ""
    return None


def _choices(plain: Any) -> str:
    """`a|b` for a choice of names, be it optional."""
    members = [item for item in typing.get_args(plain) if item is not type(None)]
    if typing.get_origin(plain) is typing.Literal:
        return "|".join(members)
    if len(members) == 1 and typing.get_origin(members[0]) is typing.Literal:
        return "|".join(typing.get_args(members[0]))
    return ""


def _instance(options: type, values: Mapping[str, Any]) -> Any:
    hints = hints_of(options)
    return options(
        **{
            field.name: _instance(hints[field.name], values)
            if dataclasses.is_dataclass(hints[field.name])
            else values[field.name]
            for field in dataclasses.fields(options)
        }
    )


def helps_of(options: type) -> dict[str, str]:
    """The docstring under each field, also under those of the bases."""
    helps: dict[str, str] = {}
    for base in reversed(options.__mro__):
        helps |= _helps_of_module(base.__module__).get(base.__qualname__, {})
    return helps


@functools.cache
def _helps_of_module(name: str) -> Mapping[str, Mapping[str, str]]:
    """Class of a module to its fields, and those to the docstring under them, in one line."""
    if name == "builtins":
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {
        node.name: {
            first.target.id: " ".join(second.value.value.split())
            for first, second in itertools.pairwise(node.body)
            if isinstance(first, ast.AnnAssign)
            and isinstance(first.target, ast.Name)
            and isinstance(second, ast.Expr)
            and isinstance(second.value, ast.Constant)
            and isinstance(second.value.value, str)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
