"""The folder of a training run: what it says, and the claim through which alone it is written.

run/run.json         the whole configuration, written first; `finished` at the end
run/metrics.jsonl    one object a step, and one an event; see `log`
run/tensorboard/     the same as scalars, and a picture of each validation
run/checkpoints/     the newest and the best; see `checkpoint`
run/attempts/        who may write; see `claims`
run/bundle/          the exported model, when done
run/.ray-train/      Ray Train's own notes, as long as it works

Whoever reads needs no claim. Whoever writes has a `ClaimedRun`, or its `attempt`, and no other
way: an attempt that was taken over can write nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ray_brats
from ray_brats.cases import naming
from ray_brats.errors import UsageError
from ray_brats.files import claims, ledger, storage
from ray_brats.files.claims import Attempt
from ray_brats.labels import Task
from ray_brats.model.card import CARD
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import Recipe
from ray_brats.training import checkpoint, log
from ray_brats.training.checkpoint import Checkpoint
from ray_brats.training.data import Dataset, DatasetCase

PARTS = ("run.json", log.FILE, log.PARTS, "tensorboard", "checkpoints", "bundle", ".ray-train")
"""What a run's folder gets after its claim."""
KEPT_CHECKPOINTS = 3
"""So many of the newest stay, and the best."""
Existing = Literal["refuse", "resume", "extend"]
"""What to do where the run is there: refuse, go on with it, or also make it longer."""


@dataclass(frozen=True, kw_only=True)
class TrainSummary(ledger.Summary):
    """What training left."""

    run: str = field(metadata=ledger.PLACE)
    bundle: str = field(metadata=ledger.PLACE)
    step: int
    """The step of the checkpoint that was exported."""
    validation: Mapping[str, Any]
    """Its scores; see `export`."""
    skipped: bool
    """Whether the run was finished before."""
    parameters: int | None = field(default=None, metadata=ledger.OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as its folder was when it was read."""

    uri: str
    description: Mapping[str, Any] | None
    """What `run.json` holds; None where there is no run."""

    @property
    def description_uri(self) -> str:
        """Where `run.json` is."""
        return storage.join(self.uri, "run.json")

    @property
    def checkpoints_uri(self) -> str:
        """The prefix of all checkpoints."""
        return storage.join(self.uri, "checkpoints")

    @property
    def bundle_uri(self) -> str:
        """Where the exported model goes."""
        return storage.join(self.uri, "bundle")

    @property
    def notes_uri(self) -> str:
        """Where Ray Train keeps notes of its own."""
        return storage.join(self.uri, ".ray-train")

    def has_bundle(self) -> bool:
        """Whether the bundle is there, which comes last."""
        return storage.exists(storage.join(self.bundle_uri, CARD))

    def summary(self, *, skipped: bool, parameters: int | None = None) -> TrainSummary:
        """What a finished run gave, by the card of its bundle."""
        card = storage.read_json(storage.join(self.bundle_uri, CARD))
        return TrainSummary(
            run=self.uri,
            bundle=self.bundle_uri,
            step=card["measured"]["step"],
            validation=card["measured"]["validation"],
            skipped=skipped,
            parameters=parameters,
        )


def read(run_uri: str) -> Run:
    """The run in a folder, which may hold none yet."""
    empty = Run(uri=run_uri, description=None)
    return Run(uri=run_uri, description=storage.read_json_or_none(empty.description_uri))


def with_kept_length(recipe: Recipe, run_uri: str) -> Recipe:
    """The recipe with the length that a run was told last; as it is where there is no run."""
    kept = ((read(run_uri).description or {}).get("recipe") or {}).get("train")
    if kept is None:
        return recipe
    lengths = {name: kept.get(name) for name in ("minutes", "steps", "patches")}
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **lengths))


# --- what a run is ---------------------------------------------------------------------


def describe(data: Dataset, recipe: Recipe, workers: int) -> dict[str, Any]:
    """`run.json`. `identity` is that of the whole run, `lengthless` of all but its length."""
    settings = jsonform.as_json(recipe)
    parts = (data.fingerprint, {"fold": data.fold})
    learnt = {**settings, **_named_targets(settings)}
    train = {name: value for name, value in settings["train"].items() if name != "patches"}
    timeless = {**learnt, "train": {**train, "steps": None, "minutes": None}}
    tumours = (naming.tumour_of(case.case_id) for case in data.training)
    return {
        "identity": jsonform.fingerprint(learnt, *parts),
        "lengthless": jsonform.fingerprint(timeless, *parts),
        "recipe": settings,
        "dataset_fingerprint": data.fingerprint,
        "fold": data.fold,
        "seed": recipe.train.seed,
        "workers": workers,
        "cases": {"training": len(data.training), "validation": len(data.validation)},
        **tasks.described(data.task),
        "spacing_mm": data.spacing_mm and list(data.spacing_mm),
        "tumours": sorted({name for name in tumours if name}) or None,
        "training_cases_sha256": _digest(data.training),
        "validation_cases_sha256": _digest(data.validation),
        "versions": {
            "ray_brats": ray_brats.__version__,
            **{name: importlib.metadata.version(name) for name in ("ray", "tensorflow", "keras")},
        },
        "finished": False,
    }


MOST_NAMED = 1000
"""Cases that a card names one by one."""


def _digest(cases: Sequence[DatasetCase]) -> list[str] | dict[str, Any]:
    """The hash of every image, sorted; of very many how many there are, and the hash of these."""
    hashes = sorted(case.image_sha256 for case in cases)
    if len(hashes) <= MOST_NAMED:
        return hashes
    whole = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    return {"count": len(hashes), "sha256": whole}


def _named_targets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The targets of a recipe's JSON, where it has any, without what only people look at."""
    if "targets" not in settings:
        return {}
    looks = ("colour", "title")
    return {
        "targets": {
            part: [{name: row[name] for name in row if name not in looks} for row in rows]
            for part, rows in settings["targets"].items()
        }
    }


def check_task(run_uri: str, task: Task | None) -> None:
    """`UsageError` where a run has learnt another task than a cohort is of now.

    Before the cohort is prepared anew, which takes its place.
    """
    told = tasks.told_by(read(run_uri).description or {})
    if told is None or task is None or told.means_as(task):
        return
    if told.targets != task.targets or told.name == task.name:
        raise UsageError(
            f"{run_uri} holds a run of the task {told.name}, whose classes, regions or labels are "
            f"not those of {task.name} now: pass another folder, or the task as it was then"
        )


def is_finished(run_uri: str, description: Mapping[str, Any], *, existing: Existing) -> bool:
    """Whether this very run is done; it may be started or resumed where it is not.

    Args:
        run_uri: where the run is or will be.
        description: what `describe` says of it, of whatever number of workers.
        existing: what to do where there is a run.

    Raises:
        UsageError: there is a run, and it is another one or is not to be gone on with.
    """
    earlier = read(run_uri)
    before = earlier.description
    if before is None:
        _check_free(earlier)
        return False
    if existing == "refuse":
        raise UsageError(
            f"{earlier.uri} holds a run already: pass --resume to go on with it, or another folder"
        )
    if before.get("identity") == description["identity"]:
        return bool(before.get("finished")) and earlier.has_bundle()
    if before.get("lengthless") != description["lengthless"]:
        what = "configuration (recipe or options differ)"
        if before.get("dataset_fingerprint") != description["dataset_fingerprint"]:
            what = (
                "dataset (labelled cases to train on or to validate with came, went or were "
                "mended since, or are prepared in another way)"
            )
        then, now = (_named_targets(item.get("recipe") or {}) for item in (before, description))
        if then != now:
            what = "task (its classes, or the regions that are learnt or scored, are others)"
        raise UsageError(
            f"{earlier.uri} holds a run of another {what}: pass another folder, or the same as then"
        )
    if existing != "extend":
        raise UsageError(
            f"{earlier.uri} holds a run of another length: pass the same length, another folder, "
            "or extend it with `ray-brats train DATASET RUN --resume`"
        )
    _check_extension(earlier, description["recipe"]["train"])
    return False


def _check_free(run: Run) -> None:
    """Refuse a folder whose files, which are of no run, would be replaced."""
    prefix = run.uri.rstrip("/") + "/"
    there = {file.uri.removeprefix(prefix).split("/")[0] for file in storage.list_files(run.uri)}
    # A command that dies right after its claim leaves that alone.
    if taken := sorted(there & set(PARTS)):
        raise UsageError(
            f"{run.uri} holds {', '.join(taken)} but no run, and they would be replaced: pass "
            "another folder"
        )


def _check_extension(earlier: Run, train: Mapping[str, Any]) -> None:
    newest = checkpoint.newest(earlier.checkpoints_uri)
    if newest is None:
        return
    facts, steps, patches = newest.facts, train["steps"], train.get("patches")
    total = facts["plan"]["total_steps"]
    if steps is not None and steps < total:
        raise UsageError(
            f"--steps {steps}: {earlier.uri} goes to step {total}; a run can be extended, not "
            "shortened"
        )
    if patches is None:
        return
    batch = facts.get("batch") or facts["samples"] / newest.step
    planned = round(facts["samples"] + (total - newest.step) * batch)
    if patches + batch <= planned:
        raise UsageError(
            f"--patches {patches}: {earlier.uri} goes to {planned} patches; a run can be extended, "
            "not shortened"
        )


# --- writing ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ClaimedRun:
    """A run, and an attempt at it, through which everything is written.

    Raises (from every method, and then nothing is written):
        Superseded: another command has taken over.
        Replaced: a newer group of the same command has.
    """

    run: Run
    attempt: Attempt

    def keep(self, folder: Path, step: int) -> None:
        """Move a local folder to the checkpoints, as that of a step; older ones go."""
        target = storage.join(self.run.checkpoints_uri, checkpoint.folder_name(step))
        self.attempt.put(folder, target, last=checkpoint.CARD)
        shutil.rmtree(folder)
        checkpoint.prune(
            self.run.checkpoints_uri, keep=KEPT_CHECKPOINTS, delete=self.attempt.delete
        )

    def delete_notes(self) -> None:
        """Delete the notes of Ray Train, which has ended."""
        self.attempt.delete(self.run.notes_uri)

    def finish(self) -> None:
        """Say that the run is done; its bundle is there."""
        description = {**(self.run.description or {}), "finished": True}
        self.attempt.write_json(self.run.description_uri, description)


def begin(run_uri: str, description: Mapping[str, Any], *, existing: Existing) -> ClaimedRun | None:
    """Claim a run for the command that starts it or goes on with it; None where it is finished.

    Args:
        run_uri: where the run is or will be.
        description: what `describe` says of it.
        existing: what to do where there is a run.

    Raises:
        UsageError: there is a run, and it is another one or is not to be gone on with.
    """
    if is_finished(run_uri, description, existing=existing):
        return None
    run = Run(uri=run_uri, description=description)
    attempt = claims.claim_driver(run_uri)
    attempt.write_json(run.description_uri, description)
    return ClaimedRun(run=run, attempt=attempt)


def join(run_uri: str, driver: int) -> tuple[ClaimedRun, Checkpoint | None]:
    """Claim a run for a group of workers; also the checkpoint from which they go on.

    Raises:
        Superseded: another command has taken over.
        StageFailed: the last attempts all began from this checkpoint and died.
    """
    run = read(run_uri)
    newest = checkpoint.newest(run.checkpoints_uri)
    attempt = claims.claim_group(run_uri, driver, step=newest.step if newest else 0)
    return ClaimedRun(run=run, attempt=attempt), newest


# --- reading what was trained ----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One checkpoint of a run, with what `run.json` says of the run."""

    run_uri: str
    recipe: Recipe
    cases: Mapping[str, int]
    """How many, for `training` and `validation`."""
    facts: Mapping[str, Any]
    """What the model card says of the data: `task`, and the sha256 of each case's image;
    later also the size of voxels and which tumours."""
    checkpoint: Checkpoint


def choose(run_uri: str, name: str | None = None) -> Trained:
    """The best checkpoint of a run by validation, or the one of that name.

    Raises:
        UsageError: no run, or no checkpoint of that name.
    """
    run = read(run_uri)
    description = run.description
    if description is None or not {"recipe", "cases"} <= set(description):
        raise UsageError(f"{run_uri} is no run: expected what `ray-brats train` writes")
    checkpoints = checkpoint.list_checkpoints(run.checkpoints_uri)
    named = [item for item in checkpoints if name in (None, storage.name_of(item.uri))]
    if not named:
        wanted = f"checkpoint {name}" if name else "complete checkpoint"
        names = ", ".join(storage.name_of(item.uri) for item in checkpoints)
        raise UsageError(f"{run_uri} has no {wanted}; it has {names or 'none'}")
    return Trained(
        run_uri=run_uri,
        recipe=jsonform.from_json(Recipe, description["recipe"]),
        cases=description["cases"],
        facts=_facts(run, description),
        checkpoint=checkpoint.best(named),
    )


def _facts(run: Run, description: Mapping[str, Any]) -> dict[str, Any]:
    if not _tells_task(description):
        # Runs of before that was written down, of which exporting again mends an old bundle.
        description = storage.read_json_or_none(storage.join(run.bundle_uri, CARD)) or {}
    if not _tells_task(description):
        raise UsageError(
            f"{run.uri} does not say whose labels it was trained on, and has no bundle that does: "
            "go on with it by `ray-brats train DATASET RUN --resume`, which writes both"
        )
    names = ("training_cases_sha256", "validation_cases_sha256")
    # Runs of before do not tell the size of their voxels, nor do all names tell a tumour.
    later = [name for name in ("spacing_mm", "tumours") if description.get(name) is not None]
    facts = {name: description.get(name) for name in (*names, *later)}
    return tasks.described(tasks.told_by(description)) | facts


def _tells_task(description: Mapping[str, Any]) -> bool:
    return "task" in description or "release" in description
