"""The table of commands: what each takes, what it does, and two examples of it.

It stands on modules that import nothing heavy, so that help, completion and wrong calls take no
longer than the table does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray_brats.commands import (
    case,
    datasets,
    guide,
    masks,
    models,
    pipeline,
    raw,
    reports,
    services,
)
from ray_brats.commands import info as installation
from ray_brats.commands.arguments import JsonOutput, Output
from ray_brats.commands.output import print_summary
from ray_brats.commands.preflight import doctor, plan
from ray_brats.files.ledger import Summary


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `ray-brats`."""

    options: type
    """A dataclass; its docstring is what the overview says."""
    call: Callable[[Any], Summary]
    """Takes an instance of `options`."""
    examples: tuple[str, str]
    """Calls as a user types them, without `ray-brats`."""
    output: type[JsonOutput] = Output
    tell: Callable[[Summary], None] = print_summary
    """Prints for people; `--json` prints the summary itself."""
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The word on the command line."""
        return self.call.__name__

    @property
    def title(self) -> str:
        """What the command does, in a line."""
        return str(self.options.__doc__).strip()


def info(options: installation.InfoOptions) -> Summary:
    """What is installed, with the commands of this table."""
    titles = {name: command.title for name, command in COMMANDS.items()}
    return installation.info(options, titles)


SECTIONS: dict[str, tuple[Command, ...]] = {
    "masks": (
        Command(
            options=case.SegmentOptions,
            call=case.segment,
            output=JsonOutput,
            tell=case.tell,
            examples=(
                "segment cases/BraTS20_001 -o mask.nii.gz --show mask.png",
                "segment --t1ce a.nii.gz --t2 b.nii.gz --flair c.nii.gz -o m.nii.gz",
            ),
        ),
        Command(
            options=masks.ScoreOptions,
            call=masks.score,
            aliases=("predict",),
            examples=(
                "score cases masks",
                "score s3://b/cohort s3://b/masks --bundle OUT/run/bundle --tta flips",
            ),
        ),
        Command(
            options=reports.EvaluateOptions,
            call=reports.evaluate,
            examples=(
                "evaluate masks cases report",
                "evaluate masks cases report --split split.csv --subset val",
            ),
        ),
        Command(
            options=masks.SubmitOptions,
            call=masks.submit,
            examples=(
                "submit masks cases challenge.zip",
                "submit masks cases challenge.zip --task gli-2023",
            ),
        ),
        Command(
            options=reports.ShowOptions,
            call=reports.show,
            output=JsonOutput,
            examples=(
                "show cases/BraTS20_001 case.png --plane sagittal",
                "show cases/BraTS20_001 case.gif --prediction masks/001.nii.gz",
            ),
        ),
    ),
    "training": (
        Command(
            options=raw.PrepareOptions,
            call=raw.prepare,
            examples=(
                "prepare export cohort",
                "prepare export cohort --space patient --names folder",
            ),
        ),
        Command(
            options=datasets.CheckOptions,
            call=datasets.check,
            examples=(
                "check cases",
                "check s3://b/cohort --deep --set preprocess.modalities=t1ce,flair",
            ),
        ),
        Command(
            options=datasets.PreprocessOptions,
            call=datasets.preprocess,
            examples=(
                "preprocess cases OUT/dataset",
                "preprocess cases.csv OUT/dataset --split split.csv --recipe baseline",
            ),
        ),
        Command(
            options=models.TrainOptions,
            call=models.train,
            output=JsonOutput,
            examples=(
                "train OUT/dataset OUT/run --minutes 60",
                "train OUT/dataset OUT/run --minutes 120 --resume",
            ),
        ),
        Command(
            options=models.ExportOptions,
            call=models.export,
            output=JsonOutput,
            examples=(
                "export OUT/run bundle",
                "export OUT/run bundle --slim --checkpoint step-004000",
            ),
        ),
        Command(
            options=pipeline.RunOptions,
            call=pipeline.run,
            examples=(
                "run cases OUT --minutes 60",
                "run cases OUT --split split.csv --set train.clip_norm=12",
            ),
        ),
        Command(
            options=pipeline.DemoOptions,
            call=pipeline.demo,
            examples=("demo", "demo --cases 4 --shape 64 64 48 --steps 20 --out small-demo"),
        ),
    ),
    "service": (
        Command(
            options=services.ServeOptions,
            call=services.serve,
            output=JsonOutput,
            examples=(
                "serve",
                "serve --host 0.0.0.0 --api-keys keys.txt --bundle fast=OUT/bundle",
            ),
        ),
        Command(
            options=services.KeyOptions,
            call=services.key,
            output=JsonOutput,
            examples=("key keys.txt clinic", "key keys.txt ward-7 --json"),
        ),
    ),
    "help": (
        Command(
            options=installation.InfoOptions,
            call=info,
            output=JsonOutput,
            tell=installation.tell,
            examples=("info", "info --json"),
        ),
        Command(
            options=guide.GuideOptions,
            call=guide.guide,
            output=JsonOutput,
            tell=guide.tell,
            examples=("guide", "guide training"),
        ),
        Command(
            options=doctor.DoctorOptions,
            call=doctor.doctor,
            output=JsonOutput,
            examples=("doctor", "doctor s3://bucket/results --working-dir ."),
        ),
        Command(
            options=plan.PlanOptions,
            call=plan.plan,
            output=JsonOutput,
            examples=(
                'plan cases --nodes "1x(2cpu,16GiB)"',
                'plan --cases 1000 --nodes "4x(16cpu,64GiB)@1.2" --steps 4000',
            ),
        ),
    ),
}
COMMANDS: dict[str, Command] = {
    name: command
    for section in SECTIONS.values()
    for command in section
    for name in (command.name, *command.aliases)
}
"""Every command under its name and under each alias."""
