"""`ray-brats COMMAND …`: arguments in, tables or JSON out, an exit status at the end.

Exit status: 0 all done; 1 some cases failed or were rejected, or a stage stopped before its
end; 2 the call itself is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import rich.box
import rich.console
import rich.table
import tyro
from tyro.conf import Positional

import ray_brats
from ray_brats.errors import RayBratsError, StageFailed, UsageError
from ray_brats.progress import say

RecipeName = Literal["baseline", "standard", "smoke"]
Release = Literal["brats2018", "brats2019", "brats2020", "brats2021", "brats2023", "brats2024"]
Rules = Literal["legacy", "lesionwise", "both"]
COMMAND_NAMES = ("check", "preprocess", "train", "export", "score", "evaluate", "show", "run", "demo")


@dataclass(frozen=True, kw_only=True)
class Output:
    """How results are told."""

    json: bool = False
    """Print the summary as one JSON object on standard output, and nothing else there."""
    max_rejected: str | None = None
    """Up to so many failed or rejected cases (N or P%) are a warning, and the exit status 0."""


OutputArgument = Annotated[Output, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Result:
    """What a command hands back to `main`."""

    summary: Mapping[str, Any]
    output: Output
    total: int | None = None


def check(
    cohort: Positional[str],
    /,
    recipe: RecipeName = "standard",
    release: Release | None = None,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Find and read the cases of a cohort without writing anything.

    Args:
        cohort: Folder, s3:// prefix, or CSV with case_id and one URI column per modality.
        recipe: Whose modalities and rules are asked for.
        release: What the labels mean, where file names do not tell.
    """
    from ray_brats import commands

    summary = commands.check(cohort, recipe=recipe, release=release, threads=os.cpu_count() or 2)
    return Result(summary, output, len(summary["cases"]))


def preprocess(
    cohort: Positional[str],
    dataset: Positional[str],
    /,
    recipe: RecipeName = "standard",
    split: str | None = None,
    release: Release | None = None,
    keep_filtered: bool = False,
    seed: int = 0,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Prepare a cohort for training: crop, normalise, write arrays; one Ray Data task a case.

    Args:
        cohort: Folder, s3:// prefix or CSV.
        dataset: Where the prepared arrays go; finished cases there are not done again.
        recipe: Whose preprocessing is applied.
        split: CSV with case_id and split (train, val, test); else a seeded fifth is val.
        release: What the labels mean, where file names do not tell.
        keep_filtered: Keep cases that the recipe's own rule would leave out.
        seed: Decides which fifth of the patients is val.
    """
    from ray_brats import commands

    summary = commands.preprocess(
        cohort,
        dataset,
        recipe=recipe,
        split=split,
        release=release,
        keep_filtered=keep_filtered,
        seed=seed,
    )
    return Result(summary, output, sum(summary["counts"].values()))


def train(
    dataset: Positional[str],
    run: Positional[str],
    /,
    recipe: RecipeName = "standard",
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    fold: int | None = None,
    resume: bool = False,
    seed: int = 0,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Train a network, data-parallel, and export the best checkpoint as RUN/bundle.

    Args:
        dataset: What preprocess wrote, by the same recipe.
        run: Where the run goes.
        recipe: Network, loss and schedule.
        workers: Training processes; by default one a GPU, else two where two cores are free.
        minutes: Length by the clock, validation included.
        steps: Length in optimizer steps.
        fold: Validate with this fold of five (0-4) instead of the dataset's split.
        resume: Go on with a run that exists; start it where there is none.
        seed: Of the initial weights and of everything drawn.
    """
    from ray_brats import commands

    summary = commands.train(
        dataset,
        run,
        recipe=recipe,
        workers=workers,
        minutes=minutes,
        steps=steps,
        fold=fold,
        resume=resume,
        seed=seed,
    )
    return Result(summary, output)


def export(
    run: Positional[str],
    bundle: Positional[str],
    /,
    checkpoint: str | None = None,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Export a checkpoint of a run as a bundle: SavedModel, .keras, .h5 and model card.

    Args:
        run: What train wrote.
        bundle: Where the bundle goes.
        checkpoint: Name below RUN/checkpoints; by default the best by validation.
    """
    from ray_brats import commands

    return Result(commands.export(run, bundle, checkpoint=checkpoint), output)


def score(
    cohort: Positional[str],
    predictions: Positional[str],
    /,
    bundle: tuple[str, ...] = (),
    split: str | None = None,
    subset: str | None = None,
    release: Release | None = None,
    tta: Literal["none", "flips"] | None = None,
    overlap: float | None = None,
    workers: int | None = None,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Segment a whole cohort: one mask a case, in its own grid, and a ledger.

    Args:
        cohort: Folder, s3:// prefix or CSV.
        predictions: Where <case_id>.nii.gz and scores.parquet go.
        bundle: One or several bundles; the probabilities of several are averaged. A SavedModel
            can read and write files: name only bundles you trust.
        split: CSV with case_id and split.
        subset: Only the cases of this subset of the split.
        release: Whose labels the masks carry, where file names do not tell.
        tta: Average over mirrored inputs; by default as the bundle says.
        overlap: Segment by sliding windows that overlap by this share (0-1).
        workers: Processes that keep the model loaded; by default one a GPU, else one for two cores.
    """
    from ray_brats import commands

    summary = commands.score(
        cohort,
        predictions,
        bundle=bundle,
        split=split,
        subset=subset,
        release=release,
        tta=tta,
        overlap=overlap,
        workers=workers,
    )
    return Result(summary, output, sum(summary["counts"].values()))


def evaluate(
    predictions: Positional[str],
    cohort: Positional[str],
    report: Positional[str],
    /,
    split: str | None = None,
    subset: str | None = None,
    release: Release | None = None,
    rules: Rules = "both",
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Compare masks with the cohort's segmentations: tables, summary and report.html.

    Args:
        predictions: Holds <case_id>.nii.gz.
        cohort: Folder, s3:// prefix or CSV with segmentations.
        report: Where the report goes.
        split: CSV with case_id and split.
        subset: Only the cases of this subset of the split.
        release: Whose labels the masks carry, where file names do not tell.
        rules: Whole-mask scores, lesion-wise scores (BraTS 2023), or both.
    """
    from ray_brats import commands

    summary = commands.evaluate(
        predictions, cohort, report, split=split, subset=subset, release=release, rules=rules
    )
    return Result(summary, output, sum(summary["counts"].values()))


def show(
    case: Positional[str],
    picture: Positional[str],
    /,
    slice: int | None = None,  # noqa: A002 - the option's name
    prediction: str | None = None,
    release: Release | None = None,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Draw a case: its modalities and the mask in colour, one picture.

    Args:
        case: Folder of one case.
        picture: Where the picture goes; .png, .pdf or .svg.
        slice: Axial slice; by default the one with most tumour.
        prediction: A mask to draw beside the case's own.
        release: What the labels mean, where file names do not tell.
    """
    from ray_brats import commands

    summary = commands.show(
        case, picture, slice_index=slice, prediction=prediction, release=release
    )
    return Result(summary, output)


def run(
    cohort: Positional[str],
    out: Positional[str],
    /,
    recipe: RecipeName = "standard",
    split: str | None = None,
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    release: Release | None = None,
    keep_filtered: bool = False,
    rules: Rules = "both",
    seed: int = 0,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """All stages in order: preprocess, train, export, score and evaluate. Resumable.

    Args:
        cohort: Folder, s3:// prefix or CSV with segmentations.
        out: Gets dataset/, run/, predictions/ and report/.
        recipe: Preprocessing, network, loss and schedule.
        split: CSV with case_id and split (train, val, test); else a seeded fifth is val.
        workers: Training processes; by default one a GPU, else two where two cores are free.
        minutes: Length of training by the clock.
        steps: Length of training in optimizer steps.
        release: What the labels mean, where file names do not tell.
        keep_filtered: Keep cases that the recipe's own rule would leave out.
        rules: Whole-mask scores, lesion-wise scores (BraTS 2023), or both.
        seed: Of the split, the initial weights and everything drawn.
    """
    from ray_brats import commands

    summary = commands.run(
        cohort,
        out,
        recipe=recipe,
        split=split,
        workers=workers,
        minutes=minutes,
        steps=steps,
        release=release,
        keep_filtered=keep_filtered,
        rules=rules,
        seed=seed,
    )
    return Result(summary, output, sum(summary["preprocess"]["counts"].values()))


def demo(
    out: str = "ray-brats-demo",
    cases: int = 12,
    shape: tuple[int, int, int] = (240, 240, 155),
    recipe: RecipeName = "smoke",
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    output: OutputArgument = Output(),  # noqa: B008 - frozen
) -> Result:
    """Run every stage on a phantom cohort that is made on the spot: needs no data.

    Args:
        out: Gets cohort/, dataset/, run/, predictions/, report/ and picture.png.
        cases: How many phantoms.
        shape: Voxels of a phantom.
        recipe: Preprocessing, network, loss and schedule.
        workers: Training processes; by default one a GPU, else two where two cores are free.
        minutes: Length of training by the clock.
        steps: Length of training in optimizer steps.
        seed: Of the phantoms, the split, the initial weights and everything drawn.
    """
    from ray_brats import commands

    summary = commands.demo(
        out,
        cases=cases,
        shape=shape,
        recipe=recipe,
        workers=workers,
        minutes=minutes,
        steps=steps,
        seed=seed,
    )
    return Result(summary, output, cases)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ray-brats`; ends the process with the exit status."""
    # TensorFlow speaks on import; Ray Train imports it in the driver too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        sys.stdout.write(f"ray-brats {ray_brats.__version__}\n")
        raise SystemExit(0)
    commands: dict[str, Callable[..., Any]] = {name: globals()[name] for name in COMMAND_NAMES}
    raise SystemExit(_guarded(lambda: _call(commands, given)))


def _call(commands: dict[str, Callable[..., Any]], given: Sequence[str]) -> int:
    result: Result = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="ray-brats",
        description="Brain tumour segmentation on BraTS-style MRI, on Ray. For research, not for "
        "diagnosis.",
        args=list(given),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    failures = result.summary["failures"]
    allowed = _allowed(result.output.max_rejected, result.total or len(failures))
    if result.output.json:
        sys.stdout.write(json.dumps(result.summary, allow_nan=False) + "\n")
    else:
        _print_summary(result.summary)
    if len(failures) > allowed:
        return 1
    if failures:
        say(f"warning: {len(failures)} case(s) failed or were rejected, --max-rejected allows it")
    return 0


def _allowed(option: str | None, total: int) -> int:
    if option is None:
        return 0
    number = option.removesuffix("%")
    if not number.isdecimal():
        raise UsageError(f"--max-rejected {option}: expected a number of cases, or a share as 5%")
    return int(total * int(number) / 100) if option.endswith("%") else int(number)


def _guarded(call: Callable[[], int]) -> int:
    """Run a command; what a user can cause becomes a sentence and an exit status."""
    try:
        return call()
    except RayBratsError as error:
        # An error from a Ray task carries the one that caused it, without the engine's traceback.
        cause = getattr(error, "cause", error)
        say(f"ray-brats: {cause}")
        return 1 if isinstance(error, StageFailed) else 2
    except OSError as error:
        say(f"ray-brats: {error.strerror or error}: {error.filename or ''}".rstrip(": "))
        return 2
    except KeyboardInterrupt:
        say("ray-brats: stopped; the same command goes on where this one ended")
        return 130


# --- tables ----------------------------------------------------------------------------


def _print_summary(summary: Mapping[str, Any]) -> None:
    console = rich.console.Console()
    if "cases" in summary and isinstance(summary["cases"], list):
        console.print(_case_table(summary["cases"]))
    elif summary["failures"]:
        console.print(_case_table(summary["failures"]))
    if summary.get("counts"):
        counted = ", ".join(f"{count} {status}" for status, count in summary["counts"].items())
        console.print(f"cases: {counted}")
    if summary.get("summary"):
        console.print(_score_table(summary["summary"]))
        console.print(_original_table(summary))
    for name in ("dataset", "run", "bundle", "predictions", "report", "picture"):
        if isinstance(summary.get(name), str):
            console.print(f"{name}: {summary[name]}", soft_wrap=True)


def _table(title: str, columns: Sequence[str]) -> rich.table.Table:
    table = rich.table.Table(title=title, box=rich.box.SIMPLE, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _case_table(rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    table = _table("", ("case", "status", "file", "reason"))
    for row in rows:
        file = str(row.get("file") or "").rsplit("/", 1)[-1]
        table.add_row(row["case_id"], row["status"], file, row.get("reason") or "")
    return table


def _score_table(summary: Mapping[str, Any]) -> rich.table.Table:
    table = _table(
        f"{summary['cases']} cases: mean (median) [95 % interval of the mean]",
        ("region", "Dice", "HD95 mm", "lesion-wise Dice", "lesion-wise HD95 mm"),
    )
    for region, scores in summary["regions"].items():
        names = ("dice", "hd95_mm", "lesionwise_dice", "lesionwise_hd95_mm")
        table.add_row(region, *(_spread(scores[name]) for name in names))
    return table


def _spread(values: Mapping[str, Any]) -> str:
    if values["mean"] is None:
        return "–"
    low, high = values["ci95"]
    return f"{values['mean']:.3f} ({values['median']:.3f}) [{low:.3f}, {high:.3f}]"


ORIGINAL_TITLES = {
    "accuracy": "accuracy: share of voxels whose class is right",
    "iou_score": "IoU score: mean over the four classes at threshold 0.5",
    "mean_iou": "mean IoU: Keras MeanIoU over the four classes, on the argmax",
    "dice_loss": "Dice loss: 1 - mean Dice of the four classes",
    "dice_loss_weighted": "Dice loss as published: 1 - mean(0.25 x Dice)",
}


def _original_table(summary: Mapping[str, Any]) -> rich.table.Table:
    table = _table("the original project's figures", ("figure", "hard masks, native grid"))
    soft = summary.get("original_soft_on_crops")
    if soft:
        table.add_column("probabilities, crops")
    for name, title in ORIGINAL_TITLES.items():
        value = summary["summary"]["original"][name]
        cells = ["–" if value is None else f"{value:.4f}"]
        table.add_row(title, *cells, *([f"{soft[name]:.4f}"] if soft else []))
    return table


if __name__ == "__main__":
    main()
