"""`ray-brats COMMAND …`: arguments in, tables or JSON out, an exit status at the end.

Exit status: 0 all done; 1 some cases failed or were rejected, or a stage stopped before its
end; 2 the call itself is wrong.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray_brats
from ray_brats.commands import parser, registry
from ray_brats.commands.arguments import JsonOutput, Output
from ray_brats.commands.registry import Command
from ray_brats.errors import RayBratsError, StageFailed, UsageError
from ray_brats.files import access
from ray_brats.files.ledger import Summary
from ray_brats.progress import interruptible, say

PROG = "ray-brats"
SHELLS = ("bash", "zsh", "fish")
COMPLETION = "--completion"
ABOUT = (
    "Brain tumour segmentation on BraTS-style MRI, as a distributed job on Ray. For research, "
    "not for diagnosis."
)
OPTIONS = (
    (f"{PROG} COMMAND --help", "what a command takes, and two examples"),
    (f"{PROG} --version", "the version"),
    (f"{PROG} {COMPLETION} SHELL", "a script with which Tab completes commands and options"),
)
WRONG = 2
"""The exit status of a call that stays wrong however often it is tried."""
COMPLETES = f"""
For bash, in ~/.bashrc (zsh and fish read such a script from a folder):
  eval "$({PROG} {COMPLETION} bash)"
"""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A command line that is right, not yet obeyed."""

    command: Command
    options: Any
    """An instance of the command's own class of options."""
    output: JsonOutput

    def __call__(self) -> Summary:
        """Do it; a wrong `--max-rejected` is told before the hours it may take."""
        if isinstance(self.output, Output):
            _allowed(self.output.max_rejected, 0)
            if self.output.anonymous:
                access.anonymous()
        # Ray tells of dead workers on standard output, which is for results alone.
        with contextlib.redirect_stdout(sys.stderr):
            return self.command.call(self.options)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ray-brats` and of the jobs; ends the process with the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:
        # `>&-`: nobody asks for the results, the work is done all the same.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does: a character that the terminal lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Before anything imports TensorFlow; Ray Train does so in this process too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Before anything imports Ray: what its daemons send to drivers, whatever the log level, is
    # left to their logs. What a death means for the stage our own lines say.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    status = guarded(lambda: _obey(given))
    if status == WRONG:
        from ray_brats.engine import jobs

        jobs.stop_wrong()
    raise SystemExit(status)


def _obey(given: Sequence[str]) -> int:
    try:
        try:
            call = _asked(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the help has gone (`| head`).
        _into_nothing()
        return 0
    return _tell(call, call()) if call else 0


def _asked(given: Sequence[str]) -> Call | None:
    """The call of a command, or None where the question is answered already."""
    if list(given) == ["--version"]:
        sys.stdout.write(f"{PROG} {ray_brats.__version__}\n")
        return None
    if given and given[0] in ("-h", "--help"):
        sys.stdout.write(overview(shutil.get_terminal_size().columns))
        return None
    if given and given[0] == COMPLETION:
        _complete(given[1:])
    return parse(given)


def parse(given: Sequence[str]) -> Call:
    """What a command line asks for.

    Raises:
        UsageError: no such command, or a wrong call of it.
        SystemExit: `--help`.
    """
    if not given:
        raise UsageError(f"expected a command, as `{PROG} demo`; `{PROG} --help` lists them")
    name, *arguments = given
    command = registry.COMMANDS.get(name)
    if command is None:
        raise UsageError(_unknown(name))
    try:
        options, output = parser.parse(
            (command.options, command.output),
            arguments,
            prog=f"{PROG} {name}",
            description=command.title,
        )
    except SystemExit:
        sys.stdout.write(_examples(command))
        raise
    return Call(command=command, options=options, output=output)


def _unknown(name: str) -> str:
    """The sentence about a command that there is not."""
    options = ("--help", "--version", COMPLETION)
    nearest = difflib.get_close_matches(name, (*registry.COMMANDS, *options), 1)
    known = ", ".join(registry.COMMANDS)
    advice = f"did you mean `{PROG} {nearest[0]}`?" if nearest else f"expected one of {known}"
    return f"unknown {'option' if name.startswith('-') else 'command'} {name!r}: {advice}"


def overview(columns: int) -> str:
    """The help of `ray-brats` itself: all commands, a line each."""
    lines = [f"usage: {PROG} COMMAND …", "", *textwrap.wrap(ABOUT, columns)]
    width = max(len(name) for name in registry.COMMANDS) + 4
    for title, commands in registry.SECTIONS.items():
        lines += ["", f"{title}:"]
        for command in commands:
            also = f" (also: {', '.join(command.aliases)})" if command.aliases else ""
            lines += _hanging(command.name, command.title + also, width, columns)
    lines += ["", "and:"]
    width = max(len(option) for option, _ in OPTIONS) + 4
    for option, text in OPTIONS:
        lines += _hanging(option, text, width, columns)
    return "\n".join(lines) + "\n" + COMPLETES


def _hanging(term: str, text: str, width: int, columns: int) -> list[str]:
    """A term and its text in two columns."""
    first = f"  {term}".ljust(width)
    return textwrap.wrap(text, columns, initial_indent=first, subsequent_indent=" " * width)


def _examples(command: Command) -> str:
    """What follows a command's help."""
    return "".join(["\nexamples:\n", *(f"  {PROG} {call}\n" for call in command.examples)])


def _complete(given: Sequence[str]) -> None:
    """Print a completion script and exit."""
    if len(given) != 1 or given[0] not in SHELLS:
        shells = ", ".join(SHELLS)
        raise UsageError(f"{' '.join([COMPLETION, *given])}: expected one of {shells}")
    commands = {
        name: ((command.options, command.output), command.title)
        for name, command in registry.COMMANDS.items()
    }
    parser.completion(commands, prog=PROG, shell=given[0])


def _tell(call: Call, summary: Summary) -> int:
    """Print what a command did; the exit status."""
    failures = summary.failures
    limit = call.output.max_rejected if isinstance(call.output, Output) else None
    allowed = _allowed(limit, sum((summary.counts or {}).values()))
    if summary.all_or_nothing:
        allowed = 0
    try:
        if call.output.json:
            sys.stdout.write(json.dumps(summary.as_json(), allow_nan=False) + "\n")
        else:
            call.command.tell(summary)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has gone; the work is done.
        _into_nothing()
    if len(failures) > allowed:
        return 1
    if failures:
        say(f"warning: {len(failures)} case(s) failed or were rejected; --max-rejected allows it")
    return 0


def _into_nothing() -> None:
    """Standard output from here on is for nobody; Python flushes it once more."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _allowed(option: str | None, total: int) -> int:
    """How many cases may fail, from `N` or `P%` of a total."""
    if option is None:
        return 0
    number = option.removesuffix("%")
    if not number.isdecimal():
        raise UsageError(f"--max-rejected {option}: expected a number of cases, or a share as 5%")
    return total * int(number) // 100 if option.endswith("%") else int(number)


def guarded(call: Callable[[], int]) -> int:
    """Run a command; what a user can cause becomes a sentence and an exit status."""
    try:
        with interruptible():
            return call()
    except RayBratsError as error:
        # An error from a Ray task carries the one that caused it, without the engine's traceback.
        say(f"ray-brats: {getattr(error, 'cause', error)}")
        return 1 if isinstance(error, StageFailed) else WRONG
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"ray-brats: {where}{error.strerror or error}")
        return WRONG
    except Exception as error:  # noqa: BLE001 - it ends in a sentence, whatever it is
        return _unforeseen(error)
    except KeyboardInterrupt:
        say("ray-brats: stopped; the same command goes on where this one ended")
        return 130


def _unforeseen(error: Exception) -> int:
    """Tell what no part of this expected; the exit status."""
    lines = str(error).strip().splitlines() or [""]
    if type(error).__module__.partition(".")[0] == "ray":
        say(
            f"ray-brats: Ray gave up ({type(error).__name__}: {lines[-1]}): see `ray status`, or "
            "on one machine whether its memory or disk is full; the same command goes on where "
            "this one ended"
        )
        return 1
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)
    say(
        f"ray-brats: {type(error).__name__}: {lines[-1]}. That is a fault of ray-brats: report it "
        "with the lines above, and what `ray-brats info` prints; the same command goes on where "
        "this one ended"
    )
    return 1


if __name__ == "__main__":
    main()
