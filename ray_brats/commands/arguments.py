"""What commands are given: kinds of arguments, the options that several share, and their cases.

An option is a field of a frozen dataclass: its name and default are the command line's, the
docstring under it is its help. Nothing here or at the top of a command's module imports Ray,
TensorFlow or another library that takes long, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import splits
from ray_brats.cases.case import Case, Cohort
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.labels import Task
from ray_brats.progress import say
from ray_brats.recipes import named
from ray_brats.recipes.config import PreprocessConfig, Recipe
from ray_brats.recipes.named import RecipeName

if TYPE_CHECKING:
    from ray_brats.engine.capacity import Workers
    from ray_brats.model.card import Chosen

CohortArgument = Annotated[str, Positional, arg(metavar="COHORT")]
DatasetArgument = Annotated[str, Positional, arg(metavar="DATASET")]
RunArgument = Annotated[str, Positional, arg(metavar="RUN")]
BundleArgument = Annotated[str, Positional, arg(metavar="BUNDLE")]
PredictionsArgument = Annotated[str, Positional, arg(metavar="PREDICTIONS")]
ReportArgument = Annotated[str, Positional, arg(metavar="REPORT")]
CsvOption = Annotated[str | None, arg(metavar="CSV")]
FileOption = Annotated[str | None, arg(metavar="FILE")]
TaskOption = Annotated[str | None, arg(metavar="TASK", aliases=("--release",))]
WorkersOption = Annotated[str | None, arg(metavar="N|MIN-MAX")]
CountOption = Annotated[int | None, arg(metavar="N")]
SetOption = Annotated[tuple[str, ...], arg(name="set", metavar="PART.FIELD=VALUE …")]
Rules = Literal["legacy", "lesionwise", "both", "2023", "2026"]
Tta = Literal["none", "flips"]


@dataclass(frozen=True, kw_only=True)
class JsonOutput:
    """How results are told; an option of every command."""

    json: bool = False
    """Print the summary as one JSON object on standard output, and nothing else there."""


@dataclass(frozen=True, kw_only=True)
class Output(JsonOutput):
    """How the results of commands over many cases are told and judged."""

    max_rejected: Annotated[str | None, arg(metavar="N|P%")] = None
    """Up to so many failed or rejected cases (N or P%) are a warning, and the exit status 0."""
    anonymous: bool = False
    """Read s3:// without credentials, as public buckets are read (also AWS_ANONYMOUS=1)."""


@dataclass(frozen=True, kw_only=True)
class RecipeChoice:
    """Which recipe, and what of it is another."""

    recipe: RecipeName = "standard"
    """Preprocessing, network, loss and schedule."""
    settings: SetOption = ()
    """Fields of the recipe, as train.clip_norm=12 preprocess.modalities=t1ce,flair."""

    def read(self, *, seed: int = 0, length: Length | None = None) -> Recipe:
        """The recipe, with a seed and a length of training."""
        of = length or Length()
        return named.get(
            self.recipe,
            minutes=of.minutes,
            steps=of.steps,
            patches=of.patches,
            seed=seed,
            settings=self.settings,
        )


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a training goes; by default as the recipe says."""

    minutes: Annotated[float | None, arg(metavar="N")] = None
    """Length of training by the clock, validation included."""
    steps: CountOption = None
    """Length of training in optimizer steps."""
    patches: CountOption = None
    """Length of training in patches, of all workers: with more of them it ends sooner."""


def workers_of(text: str | None) -> Workers | None:
    """What `--workers` says: a number, or the least and the most.

    Raises:
        UsageError: it says neither.
    """
    if text is None:
        return None
    from ray_brats.engine.capacity import Workers

    least, dash, most = text.partition("-")
    if not least.isdecimal() or not (most if dash else least).isdecimal():
        raise UsageError(f"--workers {text}: expected a number, or two as 2-8")
    return Workers(least=int(least), most=int(most or least))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which cases of a cohort, and what their labels mean."""

    split: CsvOption = None
    """CSV with case_id and split."""
    subset: Annotated[str | None, arg(metavar="NAME")] = None
    """Only the cases of this subset of the split."""
    task: TaskOption = None
    """What the labels of masks mean, where file names do not tell: gli-2021, gli-post, ped … (see
    `ray-brats info`), or a .toml or .json file that says it."""

    def meant(self) -> Task | None:
        """The task; raises as `cohort.task_of`."""
        return cohorts.task_of(self.task)


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How a network is asked; by default as its bundle says."""

    tta: Tta | None = None
    """Average over mirrored inputs; by default as the bundle says."""
    overlap: Annotated[float | None, arg(metavar="SHARE")] = None
    """Segment by sliding windows that overlap by this share (0-1)."""
    allow_skull: bool = False
    """Take also scans that look as if they were not skull-stripped; models made of stripped ones
    take skin for tumour."""


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Which bundles segment, and how they are asked."""

    bundle: Annotated[tuple[str, ...], arg(metavar="BUNDLE …")] = ()
    """One or several bundles; the probabilities of several are averaged; by default the starter
    model, where the installation has one. A SavedModel can read and write files, so name only
    bundles you trust."""
    bundle_sha256: Annotated[tuple[str, ...], arg(metavar="SHA256 …")] = ()
    """What the bundle.json of each bundle must hash to: any other bundle is refused."""
    inference: Inference = field(default_factory=Inference)

    def choose(self) -> Chosen:
        """The bundles by their cards; raises as `card.choose`."""
        from ray_brats.model import card

        uris = [card.uri_of(uri) for uri in self.bundle or (card.STARTER,)]
        asked = card.Asked(**dataclasses.asdict(self.inference))
        return card.choose(uris, self.bundle_sha256, asked)


def found(uri: str, task: Task | None) -> Cohort:
    """A cohort, for a command that does not list what is passed over, but says that it is."""
    cohort = cohorts.find(uri, task=task)
    if count := len(cohort.passed_over):
        say(
            f"{count} image file(s) below {cohort.uri} are passed over: `ray-brats check` lists "
            "them"
        )
    return cohort


def check_inputs(cohort: Cohort, config: PreprocessConfig) -> None:
    """Say what its scans need of a recipe; raises `UsageError` as `cohort.check_inputs`."""
    for line in cohorts.check_inputs(cohort, config):
        say(f"warning: {line}")


def with_splits(cohort: Cohort, split: str | None, seed: int) -> Cohort:
    """The cohort with a split for every case: the CSV's, its own, or a seeded fifth as val."""
    given = _read_split(split, cohort)
    cases = splits.assign(cohort.cases, given, seed)
    divided = splits.divided(cases)
    if divided:
        say(
            f"warning: the split divides {len(divided)} patient(s), {divided[0]} among them, whose "
            "other scans the network will know: its scores will be too good"
        )
    return dataclasses.replace(cohort, cases=cases)


def selected(uri: str, selection: Selection) -> Cohort:
    """A cohort, or a subset of it."""
    cohort = found(uri, selection.meant())
    for note in cohort.notes:
        say(note)
    if selection.split and selection.subset is None:
        say("warning: --split without --subset chooses nothing: all cases are taken")
    return splits.select(cohort, _read_split(selection.split, cohort), selection.subset)


def one_case(folder: str, task: Task | None, told: Callable[[str], None] = say) -> Case:
    """The case of a folder that holds one; raises `UsageError` for any other number.

    Args:
        folder: where it is.
        task: whose labels its mask carries, where names do not tell.
        told: gets the notes on how its files were read.
    """
    if not storage.list_files(storage.absolute(folder)):
        raise UsageError(
            f"{folder}: no such folder, or nothing in it; expected the folder of one case"
        )
    cohort = found(folder, task)
    for note in cohort.notes:
        told(note)
    if len(cohort.rejected) == 1 and not cohort.cases:
        (row,) = cohort.rejected
        raise UsageError(f"{row.case_id}: {row.reason}")
    if len(cohort.cases) != 1:
        raise UsageError(
            f"{folder} holds {len(cohort.cases)} usable cases: expected the folder of one case"
        )
    return cohort.cases[0]


def _read_split(split: str | None, cohort: Cohort) -> dict[str, str] | None:
    if split is None:
        return None
    given = splits.read(storage.absolute(split), cohort.case_ids())
    absent: Sequence[str] = splits.unknown(cohort, given)
    if given and len(absent) == len(given):
        raise UsageError(
            f"{split} names no case of {cohort.uri}, but {absent[0]} and such: expected the split "
            "of this cohort, with case_id as `ray-brats check` prints it"
        )
    if absent:
        say(
            f"warning: {split} names {len(absent)} case(s) that {cohort.uri} does not hold, "
            f"{absent[0]} among them"
        )
    return given
