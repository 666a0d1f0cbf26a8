"""The commands `train` and `export`: from a dataset to a bundle."""

from __future__ import annotations

from ray_brats.commands.arguments import (
    BundleArgument,
    DatasetArgument,
    RunArgument,
    SetOption,
    Summary,
)
from ray_brats.engine import cluster
from ray_brats.files import folders, storage
from ray_brats.model import card as modelcard
from ray_brats.recipes import named
from ray_brats.recipes.named import RecipeName
from ray_brats.training import run as runs
from ray_brats.training.data import read_dataset


def train(
    dataset: DatasetArgument,
    run: RunArgument,
    /,
    *,
    recipe: RecipeName = "standard",
    workers: int | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    fold: int | None = None,
    resume: bool = False,
    seed: int = 0,
    settings: SetOption = (),
    hang_seconds: float = 600.0,
) -> Summary:
    """Train a network, data-parallel, and export the best checkpoint as RUN/bundle.

    Args:
        dataset: What preprocess wrote, by the same recipe.
        run: Where the run goes.
        recipe: Network, loss and schedule.
        workers: Training processes; by default one a GPU, else two where two cores are free.
        minutes: Length by the clock, validation included.
        steps: Length in optimizer steps.
        fold: Validate with this fold of five (0-4) instead of the dataset's split.
        resume: Go on with a run that exists, also to a greater length; start it where none is.
        seed: Of the initial weights and of everything drawn.
        settings: Fields of the recipe, as train.clip_norm=12 network.widths=16,32,64,128.
        hang_seconds: A worker that makes no step for so long is ended and started again.
    """
    from ray_brats.stages import train as stage

    chosen = named.get(recipe, minutes=minutes, steps=steps, seed=seed, settings=settings)
    data = read_dataset(storage.absolute(dataset), chosen, fold=fold)
    with cluster.running() as there:
        return stage.train(
            data,
            storage.absolute(run),
            chosen,
            cluster=there,
            workers=workers,
            existing="extend" if resume else "refuse",
            hang_seconds=hang_seconds,
        )


def export(
    run: RunArgument,
    bundle: BundleArgument,
    /,
    *,
    checkpoint: str | None = None,
    slim: bool = False,
) -> Summary:
    """Export a checkpoint of a run as a bundle: SavedModel, .keras, .h5 and model card.

    Args:
        run: What train wrote.
        bundle: Where the bundle goes.
        checkpoint: Name below RUN/checkpoints; by default the best by validation.
        slim: Without .keras and .h5: score and serve need the SavedModel alone.
    """
    source, target = runs.choose(storage.absolute(run), checkpoint), storage.absolute(bundle)
    modelcard.check_target(target)
    # After the arguments are judged: TensorFlow takes seconds to load.
    with cluster.silenced():
        from ray_brats.training import export as stage

    card = stage.export_run(source, target, put=folders.put, slim=slim)
    return {"bundle": target, "measured": card["measured"], "failures": []}
