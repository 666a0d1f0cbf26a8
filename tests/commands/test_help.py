"""What people see before a command runs: help, completion, suggestions; and how soon."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.test_cli import called, ray_brats
from ray_brats import cli
from ray_brats.commands import parser, registry
from ray_brats.commands.arguments import JsonOutput, Output, RecipeChoice
from ray_brats.commands.registry import COMMANDS, Command
from ray_brats.errors import UsageError

HEAVY = {
    *("ray", "tensorflow", "keras", "pandas", "pyarrow", "scipy", "sklearn"),
    *("nibabel", "matplotlib", "PIL", "s3fs", "boto3", "botocore", "fastapi", "httpx"),
}
NAMES = sorted(COMMANDS)


def imported_by(code: str) -> set[str]:
    """The heavy libraries that a fresh process has imported after a piece of code."""
    end = "\nimport json, sys\nsys.__stderr__.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + end], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stderr)} & HEAVY


def test_no_heavy_library_is_imported_for_help_and_completion() -> None:
    code = """
import contextlib
from ray_brats import cli
from ray_brats.commands import registry
cli.overview(80)
for name in registry.COMMANDS:
    with contextlib.suppress(SystemExit):
        cli.parse([name, "--help"])
with contextlib.suppress(SystemExit):
    cli.main(["--completion", "bash"])
"""
    assert imported_by(code) == set()


def test_the_count_of_heavy_libraries_can_fail() -> None:
    assert imported_by("import matplotlib") >= {"matplotlib"}


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_every_help_is_free_of_noise_and_ends_with_its_examples(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        cli.parse([name, "--help"])
    assert not ended.value.code
    text = capsys.readouterr().out
    assert not re.search(r"\{None|None\}|\bSTR\b|\bINT\b|\bFLOAT\b|default: (None|False|\))", text)
    # The usage line is left to the terminal to wrap.
    assert max(map(len, text.splitlines()[1:])) <= columns
    examples = [f"  ray-brats {call}" for call in COMMANDS[name].examples]
    assert text.splitlines()[-3:] == ["examples:", *examples]


def calls() -> Iterator[object]:
    """Every example of every command."""
    for command in {id(item): item for item in COMMANDS.values()}.values():
        for call in command.examples:
            yield pytest.param(command, call, id=call)


@pytest.mark.parametrize(("command", "call"), list(calls()))
def test_every_example_is_a_right_call_of_its_command(command: Command, call: str) -> None:
    parsed = cli.parse(shlex.split(call))
    assert parsed.command is command
    assert isinstance(parsed.options, command.options)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained_and_spelled_once(name: str) -> None:
    command = COMMANDS[name]
    assert command.title
    assert len(command.title) <= 80
    seen = [*fields_of(command.options), *fields_of(command.output)]
    assert len(seen) == len({field for _, field in seen})
    assert not [
        f"{kind.__name__}.{field}" for kind, field in seen if not parser.helps_of(kind).get(field)
    ]


def fields_of(kind: type) -> list[tuple[type, str]]:
    """Class and name of every option, those of groups among them."""
    hints = parser.hints_of(kind)
    found = []
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        found += fields_of(inner) if dataclasses.is_dataclass(inner) else [(kind, field.name)]
    return found


def test_the_overview_names_every_command_and_how_to_complete_them() -> None:
    done = called("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", done.stdout)
    assert "--completion" in done.stdout
    assert cli.overview(80) != cli.overview(120)
    assert max(map(len, cli.overview(80).splitlines())) <= 80


def test_names_and_defaults_are_kept_and_groups_are_filled() -> None:
    call = cli.parse(["train", "a", "b", "--set", "x.y=1", "x.z=2", "--steps", "3", "--fold", "1"])
    options = call.options
    assert (options.dataset, options.run, options.fold, options.seed) == ("a", "b", 1, 0)
    assert options.recipe == RecipeChoice(settings=("x.y=1", "x.z=2"))
    assert (options.length.steps, options.length.minutes) == (3, None)
    assert call.output == JsonOutput()
    assert cli.parse(["score", "a", "b"]).output == Output()
    assert cli.parse(["demo"]).options.recipe == RecipeChoice(recipe="smoke")
    assert cli.parse(["show", "a", "b.png", "--slice", "4"]).options.slice_index == 4


def test_predict_is_score() -> None:
    assert cli.parse(["predict", "a", "b"]).command is cli.parse(["score", "a", "b"]).command


@pytest.mark.parametrize("name", ["check", "preprocess", "plan", "train", "run", "demo"])
def test_recipe_and_set_are_offered_alike(name: str) -> None:
    assert parser.hints_of(COMMANDS[name].options)["recipe"] is RecipeChoice


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (["scor", "a", "b"], "did you mean `ray-brats score`?"),
        (["evalute"], "did you mean `ray-brats evaluate`?"),
        (["zzz"], "expected one of "),
        ([], "expected a command"),
    ],
)
def test_a_mistyped_command_suggests_the_nearest(given: list[str], advice: str) -> None:
    with pytest.raises(UsageError, match=re.escape(advice)):
        cli.parse(given)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (["score", "a", "b", "--bundel", "c"], "--bundle"),
        (["train", "a", "b", "--recepi", "standard"], "--recipe"),
        (["check", "a", "--jsn"], "--json"),
    ],
)
def test_a_mistyped_option_suggests_the_nearest(given: list[str], option: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean {option}\?"):
        cli.parse(given)


def test_values_may_look_like_anything_but_an_option() -> None:
    call = cli.parse(["train", "a", "b", "--set=x.y=-1", "--hang_seconds", "-3"])
    assert call.options.recipe.settings == ("x.y=-1",)
    assert call.options.hang_seconds == -3


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(ray_brats("--completion", "bash").stdout)
    test = f"""
source {script}
function=$(complete -p ray-brats | sed 's/.*-F \\([^ ]*\\).*/\\1/')
for line in 'ray-brats sc' 'ray-brats score --bundle-' 'ray-brats train --recipe sta'; do
    COMP_WORDS=($line) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE=$line COMP_POINT=${{#line}}
    COMPREPLY=(); $function; echo "${{COMPREPLY[@]}}"
done
"""
    done = subprocess.run(["bash", "-c", test], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["score", "--bundle-sha256", "standard"]


def test_a_shell_without_completion_is_told() -> None:
    done = called("--completion", "cmd")
    assert (done.returncode, "bash, zsh, fish" in done.stderr) == (2, True)


def test_the_table_has_each_command_once() -> None:
    names = [command.name for section in registry.SECTIONS.values() for command in section]
    assert len(names) == len(set(names))
