"""The commands `train` and `export`: from a dataset to a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ray_brats.commands.arguments import (
    BundleArgument,
    DatasetArgument,
    Length,
    RecipeChoice,
    RunArgument,
    WorkersOption,
    workers_of,
)
from ray_brats.engine.devices import Device
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import Summary
from ray_brats.progress import silenced

if TYPE_CHECKING:
    from ray_brats.training.run import TrainSummary


@dataclass(frozen=True, kw_only=True)
class ExportSummary(Summary):
    """What exporting left."""

    bundle: str = field(metadata=ledger.PLACE)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a network, data-parallel, and export the best checkpoint as RUN/bundle."""

    dataset: DatasetArgument
    """What preprocess wrote, by the same recipe."""
    run: RunArgument
    """Where the run goes."""
    recipe: RecipeChoice = field(default_factory=RecipeChoice)
    workers: WorkersOption = None
    """Training processes; by default one a GPU, else two where two cores are free. Of MIN-MAX as
    many work as there is room for, others join later, and each step is that of MAX."""
    device: Device = "auto"
    """GPUs where the cluster has any now, or as asked for: a cluster that grows gets them."""
    length: Length = field(default_factory=Length)
    fold: Annotated[int | None, arg(metavar="0-4")] = None
    """Validate with this fold of five (0-4) instead of the dataset's split."""
    resume: bool = False
    """Go on with a run that exists, to the length it was told, or to a greater one that is asked
    for; start it where none is."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Decides the initial weights and everything drawn."""
    hang_seconds: Annotated[float, arg(metavar="SECONDS")] = 600.0
    """A worker that makes no step for so long is ended and started again."""
    cache_gib: Annotated[float | None, arg(metavar="GIB")] = None
    """What the cases of a dataset in a bucket may take on each node's disk, below TMPDIR; by
    default what that has."""

    def asks_for_length(self) -> bool:
        """Whether the call says how long the training goes."""
        fields = tuple(f"train.{name}=" for name in ("minutes", "steps", "patches"))
        return self.length != Length() or any(
            setting.startswith(fields) for setting in self.recipe.settings
        )


def train(options: TrainOptions) -> TrainSummary:
    """Train a network, data-parallel, and export the best checkpoint as RUN/bundle."""
    from ray_brats.training import run
    from ray_brats.training.data import read_dataset

    recipe = options.recipe.read(seed=options.seed, length=options.length)
    workers = workers_of(options.workers)
    run_uri = ownership.output_folder(options.run)
    if options.resume and not options.asks_for_length():
        recipe = run.with_kept_length(recipe, run_uri)
    data = read_dataset(storage.absolute(options.dataset), recipe, fold=options.fold)
    existing: run.Existing = "extend" if options.resume else "refuse"
    # What is wrong is told before Ray starts, which takes seconds.
    run.is_finished(run_uri, run.describe(data, recipe, 0), existing=existing)
    from ray_brats.engine import cluster
    from ray_brats.stages import train as stage

    with cluster.running() as resources:
        return stage.train(
            data,
            run_uri,
            recipe,
            cluster=resources.asked_for(options.device),
            workers=workers,
            existing=existing,
            bounds=stage.Bounds(
                hang_seconds=options.hang_seconds,
                cache_bytes=None if options.cache_gib is None else int(options.cache_gib * 2**30),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a checkpoint as a bundle: SavedModel, .keras, .h5 and model card."""

    run: RunArgument
    """What train wrote."""
    bundle: BundleArgument
    """Where the bundle goes."""
    checkpoint: Annotated[str | None, arg(metavar="NAME")] = None
    """Name below RUN/checkpoints; by default the best by validation."""
    slim: bool = False
    """Without .keras and .h5: score and serve need the SavedModel alone."""


def export(options: ExportOptions) -> Summary:
    """Export a checkpoint of a run as a bundle: SavedModel, .keras, .h5 and model card."""
    from ray_brats.files import folders, ownership
    from ray_brats.model import card as modelcard
    from ray_brats.training import run as runs

    source = runs.choose(storage.absolute(options.run), options.checkpoint)
    target = storage.absolute(options.bundle)
    modelcard.check_target(target)
    # After the arguments are judged: TensorFlow takes seconds to load.
    with silenced():
        from ray_brats.training import export as stage

    if storage.is_remote(target):
        # A folder of this machine is put into place as a whole.
        ownership.note(target, modelcard.PARTS)
    card = stage.export_run(source, target, put=folders.put, slim=options.slim)
    ownership.end(target)
    return ExportSummary(bundle=target, facts={"measured": card["measured"]})
