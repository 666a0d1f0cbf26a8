"""The tutorial, as a reader types it: its commands run in order and print what it says.

Compared is the shape of a line: numbers stand for numbers. A line `…` stands for any lines;
lines of progress may be more or fewer than the page shows.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ray_brats.serve.settings import free_port

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "ray_brats" / "docs" / "tutorial.md").read_text()
HOME = "/home/you/first-hour"
PORT = "8000"
PROGRESS = re.compile(r"\w+: 0/0 \w+, 0 ")
MOST_SECONDS = 900


@dataclass
class Step:
    """A command and what it prints; one that runs until Ctrl-C also has what it prints then."""

    command: str
    lines: list[str] = field(default_factory=list)
    last_lines: list[str] | None = None


def steps(text: str) -> list[Step | None]:
    """The commands of all console blocks in order; None where Ctrl-C is pressed."""
    found: list[Step | None] = []
    lines: list[str] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
                lines = found[-1].lines
            elif line == "^C":
                running = next(s for s in reversed(found) if s and " serve " in s.command)
                running.last_lines = lines = []
                found.append(None)
            else:
                lines.append(line)
    return found


def shape(line: str) -> str:
    """A line with 0 for every number and what is none, and one space for many."""
    line = re.sub(r"\b[0-9a-f]{64}\b", "0", re.sub(r"─+", "─", line))
    line = re.sub(r"(?<!\w)\d[\d.,]*\d|(?<!\w)\d|(?<=\s)–(?=\s|$)|(?<=\d)–(?=\d)", "0", line)
    return " ".join(line.split())


def shapes(lines: Sequence[str]) -> list[str]:
    return [told for line in lines if (told := shape(line))]


def check(said: Sequence[str], told: Sequence[str], command: str) -> None:
    """What the command said has the shape of what the page tells."""
    actual, expected = shapes(said), shapes(told)
    whole = f"{command}\nsaid:\n" + "\n".join(said)
    place, anything = 0, False
    for line in expected:
        if line == "…":
            anything = True
            continue
        if PROGRESS.match(line):
            assert line in actual, f"no such progress: {line}\n{whole}"
            continue
        while place < len(actual) and actual[place] != line:
            passed = anything or PROGRESS.match(actual[place])
            assert passed, f"told:\n{line}\nbut it is:\n{actual[place]}\n{whole}"
            place += 1
        assert place < len(actual), f"no line of the shape\n{line}\n{whole}"
        place, anything = place + 1, False
    rest = [line for line in actual[place:] if not PROGRESS.match(line)]
    assert anything or not rest, f"not told: {rest}\n{whole}"


@pytest.fixture
def environment() -> dict[str, str]:
    """That of a reader: the program on the path, a terminal of a hundred columns."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    packages = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": packages, "COLUMNS": "100"}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.timeout(3000)
def test_every_command_prints_what_the_page_says(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    folder, port = tmp_path / "first-hour", str(free_port("127.0.0.1", 0))
    folder.mkdir()
    server: subprocess.Popen[str] | None = None
    served: Step | None = None
    log = tmp_path / "serve.log"

    def said(text: str) -> list[str]:
        return text.replace(str(folder), HOME).replace(port, PORT).splitlines()

    try:
        for step in steps(PAGE):
            if step is None:
                assert server is not None
                assert served is not None
                server.send_signal(signal.SIGINT)
                server.wait(MOST_SECONDS)
                told = [*served.lines, *(served.last_lines or ())]
                check(said(log.read_text()), told, served.command)
                continue
            command = step.command.replace(PORT, port)
            if step.last_lines is not None:
                served = step
                with log.open("w") as stream:
                    server = subprocess.Popen(
                        ["bash", "-c", f"exec {command}"],
                        cwd=folder,
                        env=environment,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        text=True,
                    )
                await_lines(server, log, step.lines)
                continue
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=MOST_SECONDS,
            )
            check(said(done.stdout), step.lines, step.command)
            assert done.returncode == 0, f"{step.command}:\n{done.stdout}"
    finally:
        if server is not None and server.poll() is None:
            server.terminate()
            server.wait(MOST_SECONDS)
    assert (folder / "case.png").is_file()


def await_lines(server: subprocess.Popen[str], log: Path, lines: Sequence[str]) -> None:
    """Wait until a running command has said the last of its lines."""
    last = shapes(lines)[-1]
    for _ in range(MOST_SECONDS):
        if last in shapes(log.read_text().splitlines()):
            return
        assert server.poll() is None, log.read_text()
        time.sleep(1)
    raise AssertionError(log.read_text())


def test_the_tutorial_is_a_whole_way() -> None:
    commands = [
        step.command.split()[1] for step in steps(PAGE) if step and "ray-brats " in step.command
    ]
    way = (
        "check",
        "preprocess",
        "train",
        "score",
        "segment",
        "show",
        "evaluate",
        "run",
        "serve",
        "plan",
    )
    assert [name for name, _ in itertools.groupby(commands)] == [*way]


def test_lines_are_compared_by_shape() -> None:
    check(["a: 3 of 4.5 GiB", "score: 1/2 cases, 0.3 cases/s"], ["a: 17 of 0.1 GiB"], "")
    check(["one", "two", "three"], ["one", "…", "three"], "")
    check(["0.1 – 0.2", " WT  –  "], ["0.3 – 0.4", "WT 0.5"], "")
    for said, told in ((["one"], ["two"]), (["one", "two"], ["one"]), (["one"], ["one", "two"])):
        with pytest.raises(AssertionError):
            check(said, told, "")
