"""Bundles: a trained network as a folder that explains and verifies itself.

    bundle/saved_model/   the network for `score` and `serve`: plain TensorFlow loads it
    bundle/model.keras    the same for Keras
    bundle/model.h5       the same in the original project's format
    bundle/bundle.json    the model card, written last: sha256 of every other file

A SavedModel can read and write files: load only bundles you trust.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import ray_brats
from ray_brats import config, storage, unet
from ray_brats.config import Recipe
from ray_brats.errors import ArtefactError
from ray_brats.predict import Forward, Predictor, Probabilities

CARD = "bundle.json"
FORMAT_VERSION = 1
INTENDED_USE = (
    "Research on glioma segmentation in skull-stripped, co-registered MRI. "
    "For research, not for diagnosis: not a medical device."
)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that matches its card, ready to segment."""

    forward: Forward
    recipe: Recipe
    card: Mapping[str, Any]
    sha256: str
    """Of the card, which holds the hashes of all other files."""


def versions() -> dict[str, str]:
    """What the weights were made with."""
    return {
        "ray_brats": ray_brats.__version__,
        "tensorflow": str(tf.__version__),
        "keras": str(keras.__version__),
    }


def write(model: Any, recipe: Recipe, uri: str, *, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write, reload and compare all three formats, then the card; returns the card.

    Args:
        model: a `keras.Model`.
        recipe: goes into the card whole.
        uri: where the bundle goes; a bundle already there is replaced.
        facts: more of the card: label release, training cases by hash, measured scores.

    Raises:
        ArtefactError: a reloaded model does not give the outputs of the one in memory.
    """
    with tempfile.TemporaryDirectory(prefix="ray-brats-bundle-") as name:
        folder = Path(name) / "bundle"
        folder.mkdir()
        channels = len(recipe.preprocess.modalities)
        signature = [keras.InputSpec(shape=(None, None, None, None, channels), dtype="float32")]
        model.export(str(folder / "saved_model"), input_signature=signature, verbose=False)
        model.save(folder / "model.keras")
        model.save(folder / "model.h5", include_optimizer=False)
        _compare(model, folder, recipe)
        card = {
            "format_version": FORMAT_VERSION,
            "architecture": config.as_json(recipe.network),
            "recipe": config.as_json(recipe),
            "modalities": list(recipe.preprocess.modalities),
            "patch_vox": list(recipe.train.patch_vox),
            "parameters": int(model.count_params()),
            "versions": versions(),
            "intended_use": INTENDED_USE,
            **facts,
            "sha256": _hashes(folder),
        }
        storage.write_json(str(folder / CARD), card)
        storage.put_folder(folder, uri, last=CARD)
    return card


def _compare(model: Any, folder: Path, recipe: Recipe) -> None:
    """Every format, reloaded, must give what the model in memory gives."""
    side = max(recipe.network.divisor_vox, 16)
    shape = (1, side, side, side, len(recipe.preprocess.modalities))
    sample = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.asarray(model(sample, training=False))
    outputs = {
        "saved_model": _saved_model_forward(folder / "saved_model")(sample),
        "model.keras": np.asarray(keras.saving.load_model(folder / "model.keras")(sample)),
        "model.h5": np.asarray(keras.saving.load_model(folder / "model.h5", compile=False)(sample)),
    }
    for name, output in outputs.items():
        difference = float(np.abs(output - expected).max())
        if not difference < 1e-4:
            raise ArtefactError(
                f"{name}, reloaded, differs from the model in memory by {difference:.3g} in "
                "probability: the bundle was not written; check that versions agree"
            )


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CARD
    }


def _saved_model_forward(folder: Path) -> Forward:
    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    (input_name,) = serve.structured_input_signature[1]

    def forward(batch: np.ndarray[Any, np.dtype[np.float32]]) -> Probabilities:
        (output,) = serve(**{input_name: tf.constant(batch)}).values()
        return np.asarray(output.numpy(), np.float32)

    forward.__dict__["keeps_alive"] = loaded
    return forward


def read_card(uri: str) -> dict[str, Any]:
    """The model card; `ArtefactError` where the folder is no bundle of this version."""
    try:
        card = storage.read_json(storage.join(uri, CARD))
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{uri} is no bundle: it has no {CARD}. Expected what `ray-brats train` or "
            "`ray-brats export` writes"
        ) from error
    if card.get("format_version") != FORMAT_VERSION:
        raise ArtefactError(
            f"{uri} has bundle format {card.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}: export it again with the installed ray-brats"
        )
    return card


def card_sha256(card: Mapping[str, Any]) -> str:
    """Identity of a bundle: the hash of its card."""
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()


def load(uri: str) -> Bundle:
    """Verify a bundle against its card, then load its SavedModel and nothing else.

    Raises:
        ArtefactError: no bundle, a file that is missing or changed, or another architecture.
    """
    card = read_card(uri)
    recipe = config.from_json(Recipe, card["recipe"])
    with storage.local_folder(uri) as folder:
        _verify(card, folder, uri)
        forward = _saved_model_forward(folder / "saved_model")
    channels = len(recipe.preprocess.modalities)
    built = unet.build(recipe.network, channels, seed=0).count_params()
    if built != card["parameters"]:
        raise ArtefactError(
            f"{uri}: the card's architecture has {built} parameters, its weights "
            f"{card['parameters']}: the bundle was changed or made by another version"
        )
    return Bundle(forward=forward, recipe=recipe, card=card, sha256=card_sha256(card))


def _verify(card: Mapping[str, Any], folder: Path, uri: str) -> None:
    expected, there = card["sha256"], _hashes(folder)
    if expected == there:
        return
    names = sorted(name for name in {*expected, *there} if expected.get(name) != there.get(name))
    raise ArtefactError(
        f"{uri} does not match its card ({CARD}): {', '.join(names[:3])} was changed, added or "
        "is missing. Do not load it; copy the bundle again or export it anew"
    )


def load_predictor(
    uris: tuple[str, ...], *, tta: str | None = None, overlap: float | None = None
) -> Predictor:
    """A Predictor over one or several bundles of the same recipe, averaged."""
    bundles = [load(uri) for uri in uris]
    first = bundles[0].recipe
    for uri, other in zip(uris, bundles, strict=True):
        if (other.recipe.preprocess, other.recipe.network.output) != (
            first.preprocess,
            first.network.output,
        ):
            raise ArtefactError(
                f"{uri} was trained on other inputs or outputs than {uris[0]}: only bundles of "
                "one preprocessing can be averaged"
            )
    return Predictor([item.forward for item in bundles], with_options(first, tta, overlap))


def with_options(recipe: Recipe, tta: str | None, overlap: float | None) -> Recipe:
    """The recipe with other inference options where they are given."""
    values = config.as_json(recipe)
    if tta is not None:
        values["inference"]["tta"] = tta
    if overlap is not None:
        values["inference"]["overlap"] = overlap
        # An overlap only has a meaning for windows.
        values["inference"]["whole_limit_vox"] = 0
    return config.from_json(Recipe, values)
