"""Progress: Ctrl-C is never lost, and a terminal obeys no name."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from ray_brats import cli, progress
from ray_brats.commands.output import print_summary
from ray_brats.errors import StageFailed, UsageError
from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.progress import Progress, interruptible


class Interrupted:
    """Its finaliser is where Ctrl-C is pressed."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_in_a_finaliser_is_not_printed_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)

    def work() -> None:
        with interruptible(), Progress("test", 3) as progress:
            thing = Interrupted()
            del thing
            progress.update(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not printed


def test_an_interrupt_that_something_swallowed_comes_back_at_the_next_case() -> None:
    reached: list[int] = []

    def work() -> None:
        with interruptible(), Progress("test", 3) as progress:
            progress.update(1)
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            reached.append(1)
            progress.update(2)
            reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [1]
    with interruptible(), Progress("test", 3) as progress:
        progress.update(1)


def test_what_was_done_before_tells_nothing_about_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", 1200, unit="steps") as shown:
        now[0] += 30
        shown.starts_at(1000)
        now[0] += 20
        shown.update(1010)
    assert "train: 1010/1200 steps, 0.50 steps/s, 380 s left" in capsys.readouterr().err


def test_the_first_unit_which_loads_and_compiles_promises_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", 101, unit="steps") as shown:
        now[0] += 50
        shown.update(1)
        assert capsys.readouterr().err == "train: 1/101 steps, 0.02 steps/s\n"
        now[0] += 20
        shown.update(41)
    assert "train: 41/101 steps, 2.00 steps/s, 30 s left" in capsys.readouterr().err


OBEYED = [chr(code) for code in (*range(32), *range(127, 160))] + list(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
NAME = "scan\x1b]0;owned\x07\r\x9b2J\u202egnp" + "".join(OBEYED) + "ä日"


def obeyed(text: str) -> set[str]:
    """What a terminal would act upon, apart from ends of lines that are ours."""
    return set(OBEYED) & set(text.replace("\n", ""))


def test_what_a_terminal_obeys_is_shown_and_the_rest_left() -> None:
    shown = progress.plain(NAME)
    assert obeyed(shown) == set()
    assert shown.startswith(r"scan\x1b]0;owned\x07\r\x9b2J\u202egnp")
    assert shown.endswith("ä日")
    assert progress.plain(shown) == shown
    assert progress.plain("a\nb") == r"a\nb"


def test_no_line_or_table_obeys_a_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "9000")
    row = CaseRow(case_id=NAME, status="error", file=f"s3://b/{NAME}", reason=f"{NAME} [bold]")
    check = {"status": "fail", "check": NAME, "found": NAME, "remedy": NAME}
    progress.say(NAME)
    progress.tell(NAME)
    for summary in (
        Summary(cases=[row], counts={NAME: 1}, facts={}),
        Summary(checks=[check], facts={}),
        Summary(lines=[NAME], failures=[row], facts={}),
    ):
        print_summary(summary)
    with Progress(NAME, 3) as shown:
        shown.update(1, note=NAME)
    out, err = capsys.readouterr()
    assert obeyed(out + err) == set()
    assert out.count(progress.plain(NAME)) >= 8
    assert err.count(progress.plain(NAME)) >= 2


def test_a_bar_on_a_terminal_obeys_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "9000")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress("\x1b]0;owned\x07 [red]a", 3) as shown:
        shown.update(1, note="\x1b]0;owned\x07 [red]b")
    told = screen.getvalue()
    assert "\x1b]0" not in told
    assert told.count(r"\x1b]0;owned\x07 [red]a") >= 1
    assert told.count(r"\x1b]0;owned\x07 [red]b") >= 1


@pytest.mark.parametrize(
    "error",
    [UsageError(NAME), StageFailed(NAME), OSError(2, "no", NAME), OSError(NAME), KeyError(NAME)],
    ids=lambda error: type(error).__name__,
)
def test_no_error_obeys_a_name(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    assert cli.guarded(fail) in (1, 2)
    told = capsys.readouterr().err
    assert "owned" in told
    assert obeyed(told) == set()


@pytest.mark.parametrize("arguments", [["check", "a", NAME], [NAME], ["check", f"--{NAME}"]])
def test_no_wrong_call_obeys_a_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(arguments)
    told = capsys.readouterr().err
    assert "owned" in told
    assert obeyed(told) == set()


def test_json_obeys_no_name() -> None:
    row = CaseRow(case_id=NAME, status="error", file=NAME, reason=NAME)
    summary = Summary(cases=[row], facts={"name": NAME})
    assert obeyed(json.dumps(summary.as_json(), allow_nan=False)) == set()


def test_whatever_is_written_for_people_goes_through_one_place() -> None:
    """A console or stream of somebody else's would obey names again."""
    package = Path(progress.__file__).parent
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    consoles = [name for name, path in files.items() if "console.Console(" in path.read_text()]
    # The manual's own pages, rendered.
    assert consoles == ["commands/guide.py"]
    errors = [name for name, path in files.items() if "stderr.write(" in path.read_text()]
    # Lines of JSON, and our own.
    assert sorted(errors) == ["progress.py", "serve/telemetry.py"]


def test_the_last_line_tells_the_rate_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("test", 2) as bar:
        now[0] = 9.99
        bar.update(1)
        now[0] = 10.0
        bar.update(2)
    assert capsys.readouterr().err.splitlines()[-1] == "test: 2/2 cases, 0.20 cases/s"


def test_the_last_unit_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("test", 2) as bar:
        for done in (1, 2):
            now[0] += 100
            bar.update(done)
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["test: 1/2 cases", "test: 2/2 cases"]
