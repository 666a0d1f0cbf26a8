"""`ray-brats COMMAND …`: arguments in, tables or JSON out, an exit status at the end.

Exit status: 0 all done; 1 some cases failed or were rejected, or a stage stopped before its
end; 2 the call itself is wrong.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import ray_brats
from ray_brats.errors import RayBratsError, StageFailed, UsageError
from ray_brats.progress import interruptible, say


@dataclass(frozen=True, kw_only=True)
class Output:
    """How results are told; options of every command."""

    json: bool = False
    """Print the summary as one JSON object on standard output, and nothing else there."""
    max_rejected: str | None = None
    """Up to so many failed or rejected cases (N or P%) are a warning, and the exit status 0."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ray-brats` and of the jobs; ends the process with the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:
        # `>&-`: nobody asks for the results, the work is done all the same.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does: a character that the terminal lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    if given == ["--version"]:
        sys.stdout.write(f"ray-brats {ray_brats.__version__}\n")
        raise SystemExit(0)
    # Before anything imports TensorFlow; Ray Train does so in this process too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Before anything imports Ray: what its daemons send to drivers, whatever the log level, is
    # left to their logs. What a death means for the stage our own lines say.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    raise SystemExit(guarded(lambda: _call(given)))


def _call(given: Sequence[str]) -> int:
    from ray_brats.commands import datasets, masks, models, pipeline, reports, services
    from ray_brats.commands import output as tables
    from ray_brats.commands.preflight import doctor, plan

    offered = (
        datasets.check,
        datasets.preprocess,
        models.train,
        models.export,
        masks.score,
        reports.evaluate,
        services.serve,
        services.key,
        masks.submit,
        reports.show,
        pipeline.run,
        pipeline.demo,
        doctor.doctor,
        plan.plan,
    )
    summary, output = tyro.extras.subcommand_cli_from_dict(
        {command.__name__: _with_output(command) for command in offered},
        prog="ray-brats",
        description="Brain tumour segmentation on BraTS-style MRI, as a distributed job on Ray. "
        "For research, not for diagnosis.",
        args=list(given),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    failures = summary["failures"]
    allowed = _allowed(output.max_rejected, sum(summary.get("counts", {}).values()))
    if summary.get("all_or_nothing"):
        allowed = 0
    try:
        if output.json:
            sys.stdout.write(json.dumps(summary, allow_nan=False) + "\n")
        else:
            tables.print_summary(summary)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has gone (`| head`); the work is done, and Python flushes once more.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if len(failures) > allowed:
        return 1
    if failures:
        say(f"warning: {len(failures)} case(s) failed or were rejected; --max-rejected allows it")
    return 0


def _with_output(command: Callable[..., Any]) -> Callable[..., tuple[dict[str, Any], Output]]:
    """The command with the options of `Output` added to its own."""
    hints = typing.get_type_hints(command, include_extras=True)
    hints.pop("return")
    added = inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default=Output())
    own = list(inspect.signature(command).parameters.values())

    @functools.wraps(command)
    def call(*args: Any, output: Output, **options: Any) -> tuple[dict[str, Any], Output]:
        _allowed(output.max_rejected, 0)
        # Ray tells of dead workers on standard output, which is for results alone.
        with contextlib.redirect_stdout(sys.stderr):
            return command(*args, **options), output

    del call.__wrapped__
    call.__annotations__ = {**hints, "output": Annotated[Output, tyro.conf.arg(name="")]}
    parameters = [
        item.replace(annotation=call.__annotations__[item.name]) for item in [*own, added]
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


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
        return 1 if isinstance(error, StageFailed) else 2
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        say(f"ray-brats: {error.strerror or error}{where}")
        return 2
    except KeyboardInterrupt:
        say("ray-brats: stopped; the same command goes on where this one ended")
        return 130


if __name__ == "__main__":
    main()
