"""The README and the manual say what is: links, commands, options, code, names of things."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from test_rooms import ROOMS

import ray_brats
from ray_brats import cli
from ray_brats.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "ray_brats" / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.glob("*.md"))
PAPERS = [README, *PAGES]
ALL_PAPERS = [
    *PAPERS,
    *sorted((ROOT / ".github").rglob("*.md")),
    DOCS.parent / "starter/LICENSE.md",
]
MOST_BYTES = 8192
MOST_PICTURE_BYTES = 200 << 10
FOREIGN = {"--submission-id", "--build-arg", "--disable_tta"}
"""Options of other programs."""
OWN_OPTIONS = {"--help", "--version", "--completion"}
"""Options of the program itself, which are no command's."""
PLACEHOLDERS = {"M": "3", "S": "3", "F": "0.5", "K": "1", "N": "2"}
"""What stands in for a number in the papers."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands() -> set[str]:
    """The commands that there are."""
    from ray_brats.commands import registry

    return set(registry.COMMANDS)


def parses(*arguments: str) -> str:
    """What is wrong with a call of `ray-brats`, or nothing."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            cli.parse(arguments)
        except UsageError as error:
            return str(error)
        except SystemExit as end:
            return stream.getvalue() if end.code else ""
    return ""


@functools.cache
def options_of(command: str) -> frozenset[str]:
    """The options that the help of a command tells."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), pytest.raises(SystemExit):
        cli.parse([command, "--help"])
    return frozenset(re.findall(r"--[a-z][a-z0-9-]*", stream.getvalue()))


def code_of(text: str) -> Iterator[str]:
    """Lines of code: of indented and fenced blocks, and between backticks in the text."""
    plain = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()
        else:
            plain.append(line)
    yield from re.findall(r"`([^`\n]+)`", "\n".join(plain))


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of every `ray-brats …`, also where Ray runs it as a job."""
    for code in code_of(text):
        typed = re.sub(r"\s+#\s.*|; .*", "", code).removeprefix("$ ").removesuffix(" &")
        job = re.search(r"python jobs/(\w+)\.py (.*)", typed)
        if job and job[1] != "benchmark":
            typed = f"ray-brats {'run' if job[1] == 'pipeline' else job[1]} {job[2]}"
        match = re.search(r"(?:^|&& |/| -- )ray-brats (.+)", typed)
        if match and not re.search(r"…|\[|\bCOMMAND\b|\|", match[1]):
            yield [PLACEHOLDERS.get(word, word) for word in shlex.split(match[1])]


CALLS = sorted(
    {
        (name_of(path), *arguments)
        for path in ALL_PAPERS
        for arguments in command_lines(path.read_text())
    }
)


def test_the_papers_hold_many_commands() -> None:
    assert len(CALLS) > 40
    assert {call[1] for call in CALLS} >= {"check", "run", "score", "serve", "plan", "show"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(call)[:80])
def test_every_command_parses(call: tuple[str, ...]) -> None:
    page, command, *arguments = call
    # A command that is only named has no arguments.
    known = OWN_OPTIONS | commands()
    only = not arguments or command in OWN_OPTIONS
    problem = command not in known if only else parses(command, *arguments)
    assert not problem, f"{page}: {problem}"


def test_the_parser_refuses_what_is_not_there() -> None:
    assert not parses("check", "COHORT")
    for call in (("check", "COHORT", "--depe"), ("check",), ("chekc", "COHORT")):
        assert parses(*call)


def test_options_named_alone_exist() -> None:
    known = OWN_OPTIONS.union(*map(options_of, commands()))
    assert {"--json", "--resume", "--max-body-mib"} <= known
    for path in PAPERS:
        for code in code_of(path.read_text()):
            named = re.match(r"--[a-z][\w-]*", code)
            if named and named[0] not in FOREIGN:
                assert named[0] in known, f"{name_of(path)}: {named[0]}"


@pytest.mark.parametrize("path", ALL_PAPERS, ids=name_of)
def test_relative_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    for link in links:
        if not link.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / link.split("#")[0]).exists(), f"{name_of(path)}: {link}"


@pytest.mark.parametrize("path", ALL_PAPERS, ids=name_of)
def test_files_they_name_exist(path: Path) -> None:
    folders = r"jobs|tests|ray_brats|cluster|\.ci|\.github"
    for named in re.findall(rf"(?<![\w./])(?:{folders})/[\w./-]*\w", path.read_text()):
        if "NAME" not in named:
            assert (ROOT / named).exists(), f"{name_of(path)}: {named}"


@pytest.mark.parametrize("path", ALL_PAPERS, ids=name_of)
def test_tests_they_name_exist(path: Path) -> None:
    for code in code_of(path.read_text()):
        match = re.search(r"(tests/[\w/]+\.py) -k (?:\"([^\"]+)\"|(\w+))", code)
        if match:
            names = re.findall(r"def (test_\w+)", (ROOT / match[1]).read_text())
            for word in (match[2] or match[3]).split(" or "):
                assert any(word in name for name in names), f"{name_of(path)}: {code}"


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or something in one."""
    parts = dotted.split(".")
    place = ROOT.joinpath(*parts)
    if place.is_dir() or place.with_suffix(".py").is_file():
        return True
    parent = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
    return parent.is_file() and re.search(rf"\b{parts[-1]}\b", parent.read_text()) is not None


@pytest.mark.parametrize("path", ALL_PAPERS, ids=name_of)
def test_modules_they_name_exist(path: Path) -> None:
    text = path.read_text()
    if path.stem == "changes":
        # What stands on the left of its table is there no more.
        text = re.sub(r"^\| `ray_brats\.[^|]*\|", "|", text, flags=re.MULTILINE)
    for dotted in re.findall(r"(?<![\w/.])ray_brats(?:\.[a-z_]+)+", text):
        assert exists(dotted), f"{name_of(path)}: {dotted}"


def test_the_table_of_what_has_moved_is_right() -> None:
    rows = re.findall(
        r"^\| (`ray_brats\.[^|]*)\| ([^|]*)\|", (DOCS / "changes.md").read_text(), re.M
    )
    assert len(rows) > 40
    for before, now in rows:
        names = re.findall(r"`([\w.]+)`", before)
        if "the same names" in now:
            (room,) = re.findall(r"`([\w.]+)`", now)
            for name in names:
                assert exists(f"{room}.{name.rsplit('.', 1)[-1]}"), f"{name} in {room}"


@pytest.mark.parametrize("path", ALL_PAPERS, ids=name_of)
def test_python_in_them_compiles(path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S):
        compile(block, str(path), "exec")


def test_the_readme_fits_on_a_page_and_lists_all_others() -> None:
    text = README.read_text()
    assert len(text.encode()) <= MOST_BYTES
    listed = re.findall(r"^\| \[(\w+)\]\(ray_brats/docs/(\w+)\.md\) \|", text, re.M)
    assert [name for name, _ in listed] == [file for _, file in listed]
    assert sorted(file for _, file in listed) == [path.stem for path in PAGES]


def test_the_readme_begins_with_two_lines_to_run() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert all(len(block.splitlines()) == 1 for block in blocks)
    assert "ray-brats demo" in blocks[0]
    assert "pytest" in blocks[1]
    # .ci/run puts another place in for it.
    assert all(block.count(".venv") == len(re.findall(r"\.venv\b", block)) for block in blocks)


def test_the_guide_lists_every_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["guide"])
    assert {path.stem for path in PAGES} <= set(re.findall(r"\w+", capsys.readouterr().out))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_has_one_title_and_tables_that_hold(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, re.M)) == 1
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [re.sub(r"`[^`]*`|\\\|", "", row).count("|") for row in table.splitlines()]
        assert len(set(rows)) == 1, f"{name_of(path)}: {table[:200]}"


def test_the_rooms_of_the_manual_are_those_of_the_house() -> None:
    text = (DOCS / "inside.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \| [^|]* \| ([^|]*) \| [^|]* \|$", text, re.M)
    told = {room: set(re.findall(r"`([\w/]+)`", doors)) for room, doors in rows}
    assert list(told) == list(ROOMS), "from the ground up"
    for name, room in ROOMS.items():
        doors = " ".join(f"`{door}`" for door in room.doors.split())
        assert told[name] == set(room.doors.split()), f"{name}: inside.md should have {doors}"


def test_pictures_are_small_and_all_shown() -> None:
    pictures = sorted((DOCS / "pictures").iterdir())
    assert sum(path.stat().st_size for path in pictures) <= MOST_PICTURE_BYTES
    text = "".join(path.read_text() for path in PAPERS)
    assert all(f"pictures/{path.name})" in text for path in pictures)


def test_the_workflow_runs_what_is_there_and_forms_can_be_read() -> None:
    forms = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/*/*.yml")}
    assert set(forms) == {"ci", "bug", "wish", "config"}
    steps = [step for job in forms["ci"]["jobs"].values() for step in job["steps"]]
    run = [step["run"] for step in steps if step.get("run", "").startswith(".ci/")]
    assert run == [".ci/check", ".ci/run"]
    assert all(os.access(ROOT / script, os.X_OK) for script in run)
    for name in ("bug", "wish"):
        assert all(part["attributes"] for part in forms[name]["body"])


def test_right_below_the_package_lies_no_more_than_a_screen() -> None:
    entries = {path.name for path in Path(ray_brats.__file__).parent.iterdir()}
    assert len(entries - {"__init__.py", "__pycache__"}) <= 22
