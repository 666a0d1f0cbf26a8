"""The README and the manual say what is: links, commands, options, code, names of things."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import pkgutil
import re
import shlex
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_rooms import ROOMS

import ray_brats
from ray_brats import cli, commands

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
PLACEHOLDERS = {"M": "3", "S": "3", "F": "0.5", "K": "1", "N": "2"}
"""What stands in for a number in the papers."""
NOT_YET = {"segment", "info", "guide", "predict", "ray_brats.api", "ray_brats.model.predictions"}
"""Commands and modules that the papers may name before they are there."""


class Parsed(BaseException):
    """A command was called with arguments that its parser took."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules() -> Iterator[types.ModuleType]:
    """The modules of the commands."""
    for found in pkgutil.walk_packages(commands.__path__, f"{commands.__name__}."):
        if not found.ispkg:
            yield importlib.import_module(found.name)


def stand_in(command: Any) -> Any:
    """A function of the same signature that does nothing but say that it was reached."""

    @functools.wraps(command)
    def call(*_: Any, **__: Any) -> Any:
        raise Parsed

    return call


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real parser, before commands that do nothing."""
    for module in modules():
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__
            if own and name in offered():
                monkeypatch.setattr(module, name, stand_in(value))


def said(*arguments: str) -> tuple[int, str]:
    """Exit status and all that the program says; 0 where a command was reached."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            cli.main(arguments)
        except Parsed:
            return 0, stream.getvalue()
        except SystemExit as end:
            return int(end.code or 0), stream.getvalue()
    raise AssertionError("the program ends by itself")


@functools.cache
def offered() -> frozenset[str]:
    """Names of the commands, from the program's help."""
    _, text = said("--help")
    words = set(re.findall(r"^\W*([a-z]+)\b", text, re.M))
    return frozenset(word for word in words if help_of(word)[0] == 0)


@functools.cache
def help_of(command: str) -> tuple[int, str]:
    """Exit status and text of a command's help."""
    return said(command, "--help")


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
@pytest.mark.usefixtures("parser")
def test_every_command_parses(call: tuple[str, ...]) -> None:
    page, *arguments = call
    if arguments[0] in NOT_YET - offered():
        pytest.skip(f"{arguments[0]} is not yet there")
    # A command that is only named has no arguments.
    status, text = said(*arguments) if arguments[1:] else help_of(arguments[0])
    assert status == 0, f"{page}: {text}"


def test_the_parser_refuses_what_is_not_there(parser: None) -> None:
    assert said("check", "COHORT")[0] == 0
    assert said("check", "COHORT", "--depe")[0] == 2
    assert said("check")[0] == 2
    assert said("chekc", "COHORT")[0] == 2


def test_options_named_alone_exist() -> None:
    known = set()
    for command in offered():
        known |= set(re.findall(r"--[a-z][a-z0-9-]*", help_of(command)[1]))
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
        assert exists(dotted) or dotted in NOT_YET, f"{name_of(path)}: {dotted}"


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


def test_the_guide_lists_every_page() -> None:
    if "guide" not in offered():
        pytest.skip("guide is not yet there")
    status, text = said("guide")
    assert status == 0
    assert {path.stem for path in PAGES} <= set(re.findall(r"\w+", text))


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
    assert told == {name: set(room.doors.split()) for name, room in ROOMS.items()}
    assert list(told) == list(ROOMS), "from the ground up"


def test_pictures_are_small_and_all_shown() -> None:
    pictures = sorted((DOCS / "pictures").iterdir())
    assert sum(path.stat().st_size for path in pictures) <= MOST_PICTURE_BYTES
    text = "".join(path.read_text() for path in PAPERS)
    assert all(f"pictures/{path.name})" in text for path in pictures)


def test_right_below_the_package_lies_no_more_than_a_screen() -> None:
    entries = {path.name for path in Path(ray_brats.__file__).parent.iterdir()}
    assert len(entries - {"__init__.py", "__pycache__"}) <= 22
