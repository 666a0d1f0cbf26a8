"""`export`: a model, or a run's checkpoint, to a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import ray_brats
from ray_brats import arrays, labels
from ray_brats.cases import volume
from ray_brats.errors import ArtefactError
from ray_brats.files import folders, storage
from ray_brats.labels import Task
from ray_brats.metrics import summary
from ray_brats.model import bundle, graph, unet
from ray_brats.model import card as modelcard
from ray_brats.model.predict import Predictor
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import Recipe
from ray_brats.training import checkpoint
from ray_brats.training.run import Trained

INTENDED_USE = (
    "Research on glioma segmentation in skull-stripped, co-registered MRI. "
    "For research, not for diagnosis: not a medical device."
)
LIMITS = (
    "adult glioma; other tumours, children and scans after surgery were not in the training cases",
    "skull-stripped, co-registered modalities on one grid",
)
BRATS_CITATIONS = (
    "Menze et al. 2015, IEEE Transactions on Medical Imaging 34(10)",
    "Bakas et al. 2017, Scientific Data 4, 170117",
    "Bakas et al. 2018, arXiv 1811.02629",
    "Baid et al. 2021, arXiv 2107.02314",
)
"""What the BraTS challenge asks to be cited where its cases were used."""
SEGMENT_AGREES = 0.9999
"""Share of voxels in which `segment` must give the Predictor's mask."""


def export_run(
    source: Trained, bundle_uri: str, *, put: Callable[..., None], slim: bool = False
) -> dict[str, Any]:
    """Write a checkpoint of a run as a bundle; returns its card.

    Args:
        source: what `run.choose` found.
        bundle_uri: where the bundle goes.
        put: `folders.put`, or that of an attempt at the run where the bundle goes into it.
        slim: the SavedModel alone.

    Raises:
        ArtefactError: the checkpoint is damaged, or a reloaded model differs.
    """
    recipe, chosen = source.recipe, source.checkpoint
    model = unet.build(
        recipe.network, len(recipe.preprocess.modalities), len(recipe.outputs), seed=0
    )
    checkpoint.restore({"averaged": [weight.value for weight in model.weights]}, chosen.uri)
    measured = {"step": chosen.step, "validation": _measured(chosen.facts), "cases": source.cases}
    seen = {name: chosen.facts[name] for name in ("samples", "batch") if name in chosen.facts}
    measured["patches"] = {"seen": seen.get("samples"), "a_step": seen.get("batch")}
    card = {**source.facts, "measured": measured}
    return write(unet.for_inference(model), recipe, bundle_uri, facts=card, put=put, slim=slim)


def _measured(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's validation gave: means, intervals, and each case without its name."""
    names = ("dice", "mean_dice", "original_soft_on_crops")
    measured = {name: facts[name] for name in names if name in facts}
    by_case = list(facts.get("dice_by_case", {}).values())
    if by_case:
        measured["dice_ci95"] = {
            region: summary.interval([case[region] for case in by_case]) for region in by_case[0]
        }
        measured["dice_of_cases"] = by_case
    return measured


def versions() -> dict[str, str]:
    """What the weights were made with."""
    return {
        "ray_brats": ray_brats.__version__,
        "tensorflow": str(tf.__version__),
        "keras": str(keras.__version__),
    }


def write(
    model: Any,
    recipe: Recipe,
    uri: str,
    *,
    facts: Mapping[str, Any],
    put: Callable[..., None] = folders.put,
    slim: bool = False,
) -> dict[str, Any]:
    """Write, reload and compare all three formats, then the card; returns the card.

    Args:
        model: a `keras.Model`.
        recipe: goes into the card whole.
        uri: where the bundle goes; a bundle already there is replaced.
        facts: more of the card: label task, training cases by hash, measured scores.
        put: what carries the bundle there, as `folders.put` does.
        slim: the SavedModel alone, two fifths of the bytes.

    Raises:
        ArtefactError: a reloaded model does not give the outputs of the one in memory.
    """
    task = tasks.told_by(facts) or tasks.DEFAULT
    with tempfile.TemporaryDirectory(prefix="ray-brats-bundle-") as name:
        folder = Path(name) / "bundle"
        folder.mkdir()
        _save_model(model, recipe, task, folder / "saved_model")
        if not slim:
            model.save(folder / "model.keras")
            model.save(folder / "model.h5", include_optimizer=False)
        _compare(model, folder, recipe)
        _compare_segment(folder, recipe, task)
        card: dict[str, Any] = {
            "format_version": modelcard.FORMAT_VERSION,
            "architecture": jsonform.as_json(recipe.network),
            "recipe": jsonform.as_json(recipe),
            "modalities": list(recipe.preprocess.modalities),
            "patch_vox": list(recipe.train.patch_vox),
            "parameters": int(model.count_params()),
            "signatures": _describe_signatures(recipe, task, facts.get("spacing_mm")),
            "versions": versions(),
            **_use_of(task),
            "cite_for_brats_cases": list(BRATS_CITATIONS),
            **facts,
            "sha256": modelcard.hashes(folder),
        }
        storage.write_json(str(folder / modelcard.CARD), card)
        put(folder, uri, last=modelcard.CARD)
    return card


def _use_of(task: Task) -> dict[str, Any]:
    """What a model is for, and for what it is not."""
    if task.cases == tasks.DEFAULT.cases:
        return {"intended_use": INTENDED_USE, "limits": list(LIMITS)}
    cases = task.cases or f"cases of {task.name}"
    first = f"{cases}; other tumours and patients were not in the training cases"
    use = INTENDED_USE.replace("glioma segmentation", f"segmentation of {cases}")
    return {"intended_use": use, "limits": [first, *LIMITS[1:]]}


def _save_model(model: Any, recipe: Recipe, task: Task, folder: Path) -> None:
    channels = len(recipe.preprocess.modalities)

    def network(batch: Any) -> Any:
        return model(batch, training=False)

    # Not keras.export.ExportArchive, which writes every weight twice.
    module = tf.train.Checkpoint(variables=[weight.value for weight in model.weights])
    batch = tf.TensorSpec((None, None, None, None, channels), tf.float32, name="image")
    module.serve = tf.function(network, input_signature=[batch], autograph=False)
    signatures = {"serve": module.serve, "serving_default": module.serve}
    if not graph.obstacle(recipe):
        case = tf.TensorSpec((None, None, None, channels), tf.float32, name="image")
        whole = graph.segmenter(network, recipe, task)
        module.segment = tf.function(whole, input_signature=[case], autograph=False)
        signatures["segment"] = module.segment
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _describe_signatures(
    recipe: Recipe, task: Task, learnt_mm: Sequence[float] | None
) -> dict[str, Any]:
    """What goes into and comes out of the SavedModel, for those who load it without ray_brats."""
    names = ", ".join(recipe.preprocess.modalities)
    serve = {
        "input": f"image: float32 (N, H, W, D, C), preprocessed {names}; sides that are multiples "
        f"of {recipe.network.divisor_vox}",
        "output": f"float32 (N, H, W, D, {len(recipe.outputs)}): probabilities of "
        f"{', '.join(recipe.outputs)}",
    }
    obstacle = graph.obstacle(recipe)
    if obstacle:
        return {"serve": serve, "segment": None, "why_no_segment": obstacle}
    spacing_mm = recipe.preprocess.spacing_mm or learnt_mm
    spacing = f", voxels of {'×'.join(map(str, spacing_mm))} mm" if spacing_mm else ""
    segment = {
        "input": f"image: float32 (H, W, D, C), raw intensities of {names} of one case in "
        "canonical orientation (LPS: indices grow to the left, to posterior, to superior)"
        f"{spacing}",
        "output": "labels: uint8 (H, W, D) on the same grid, the integers of "
        + tasks.name_before(task.name),
        "labels": task.legend,
    }
    return {"serve": serve, "segment": segment}


def _compare(model: Any, folder: Path, recipe: Recipe) -> None:
    """Every format, reloaded, must give what the model in memory gives."""
    side = max(recipe.network.divisor_vox, 16)
    shape = (1, side, side, side, len(recipe.preprocess.modalities))
    sample = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.asarray(model(sample, training=False))
    outputs = {
        "saved_model": bundle.forward_of(tf.saved_model.load(str(folder / "saved_model")))(sample)
    }
    for path in folder.glob("model.*"):
        loaded = keras.saving.load_model(path, compile=False)
        outputs[path.name] = np.asarray(loaded(sample))
    for name, output in outputs.items():
        difference = float(np.abs(output - expected).max())
        if not difference < 1e-4:
            raise ArtefactError(
                f"{name}, reloaded, differs from the model in memory by {difference:.3g} in "
                "probability: the bundle was not written; check that versions agree"
            )


def _compare_segment(folder: Path, recipe: Recipe, task: Task) -> None:
    """The reloaded `segment` must give the Predictor's mask of a made-up head."""
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    if "segment" not in loaded.signatures:
        return
    rng = np.random.default_rng(0)
    brain = np.pad(arrays.ellipsoid((33, 30, 25)), ((6, 9), (5, 5), (4, 3)))[..., None]
    voxels = rng.integers(1, 999, (*brain.shape[:3], len(recipe.preprocess.modalities)))
    # Its background is to be found, too.
    head = np.where(brain, voxels, 0).astype(np.float32) + 7
    # The signature takes a case that has the recipe's spacing already.
    x_mm, y_mm, z_mm = recipe.preprocess.spacing_mm or (1.0, 1.0, 1.0)
    lps = np.diag([-x_mm, -y_mm, z_mm, 1.0])
    names = recipe.preprocess.modalities
    case = {name: volume.from_array(head[..., k], lps) for k, name in enumerate(names)}
    mask = Predictor([bundle.forward_of(loaded)], recipe).segment(case).mask_native
    given = loaded.signatures["segment"](image=tf.constant(head))["labels"].numpy()
    agreeing = float(np.mean(given == labels.from_class_index(mask, task)))
    if agreeing < SEGMENT_AGREES:
        raise ArtefactError(
            f"the SavedModel's `segment` gives the Predictor's mask in {agreeing:.4%} of the "
            f"voxels, expected {SEGMENT_AGREES:.2%}: the bundle was not written"
        )
