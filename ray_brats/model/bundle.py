"""Bundles: a trained network as a folder that explains and verifies itself.

A SavedModel can read and write files when it runs: load only bundles you trust, and pin one by
the sha256 of its card. `card` says what is in a bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ray_brats.errors import ArtefactError
from ray_brats.model import card as modelcard
from ray_brats.model import unet
from ray_brats.model.card import Asked
from ray_brats.model.predict import Predictor
from ray_brats.model.stitching import Stitcher
from ray_brats.model.windows import STITCHED, Forward, Probabilities
from ray_brats.recipes import jsonform
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.costs import lanes_for


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that matches its card, ready to segment."""

    forward: Forward
    recipe: Recipe
    card: Mapping[str, Any]
    sha256: str
    """Hash of the card, which holds the hashes of all other files."""


def forward_of(loaded: Any) -> Forward:
    """The network of a loaded SavedModel, for a Predictor."""
    serve = loaded.signatures["serve"]

    def forward(batch: np.ndarray[Any, np.dtype[np.float32]]) -> Probabilities:
        (output,) = serve(image=tf.constant(batch)).values()
        return np.asarray(output.numpy(), np.float32)

    forward.__dict__["keeps_alive"] = loaded
    if gpus := tf.config.list_logical_devices("GPU"):

        def network(batch: Any) -> Any:
            (output,) = serve(image=batch).values()
            return output

        forward.__dict__[STITCHED] = Stitcher(network, gpus[0].name)
    return forward


def load(uri: str, *, pinned: str | None = None) -> Bundle:
    """Verify a bundle against its card, then load its SavedModel and nothing else.

    Args:
        uri: the bundle.
        pinned: the sha256 that its card must have.

    Raises:
        ArtefactError: no bundle, another one than the pinned, a file that is missing or changed,
            made by a newer TensorFlow, or weights that are not the architecture's.
    """
    card, sha256 = modelcard.read(uri, pinned=pinned)
    recipe = jsonform.from_json(Recipe, card["recipe"])
    _check_versions(card, uri)
    with modelcard.fetched(card, uri) as folder:
        loaded = tf.saved_model.load(str(folder / "saved_model"))
    _check_architecture(card, recipe, loaded, uri)
    return Bundle(forward=forward_of(loaded), recipe=recipe, card=card, sha256=sha256)


def _check_versions(card: Mapping[str, Any], uri: str) -> None:
    """TensorFlow reads what older versions wrote, and promises nothing for newer ones."""
    version, installed = str(card["versions"]["tensorflow"]), str(tf.__version__)
    if _release_number(version) > _release_number(installed):
        raise ArtefactError(
            f"{uri} was made with TensorFlow {version}, installed is {installed}: install "
            f"ray-brats {card['versions']['ray_brats']} or newer, or export the bundle again here"
        )


def _release_number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _check_architecture(card: Mapping[str, Any], recipe: Recipe, loaded: Any, uri: str) -> None:
    built = unet.for_inference(
        unet.build(recipe.network, len(recipe.preprocess.modalities), len(recipe.outputs), seed=0)
    ).count_params()
    # Dropout's random state is stored too, as integers.
    weights = [variable for variable in loaded.variables if variable.dtype.is_floating]
    stored = sum(math.prod(weight.shape) for weight in weights)
    if not built == card["parameters"] == stored:
        raise ArtefactError(
            f"{uri}: the card's architecture has {built} parameters, the card says "
            f"{card['parameters']} and the SavedModel holds {stored}: the bundle was changed or "
            "made by another version"
        )


def load_predictor(
    uris: tuple[str, ...],
    pinned: tuple[str, ...] = (),
    *,
    asked: Asked = modelcard.AS_THEY_SAY,
    threads: int | None = None,
) -> Predictor:
    """A Predictor over one or several bundles of the same preprocessing, averaged.

    Args:
        uris: the bundles.
        pinned: for each the sha256 that its card must have.
        asked: in place of what the first one says.
        threads: of this process, which has not used TensorFlow yet; by default as TensorFlow
            wants it, one window after the other.

    Raises:
        UsageError, ArtefactError: as `card.choose` and `load`.
    """
    chosen = modelcard.choose(uris, pinned, asked)
    lanes = 1
    if threads is not None:
        lanes = lanes_for(chosen.recipe, threads)
        tf.config.threading.set_intra_op_parallelism_threads(math.ceil(threads / lanes))
        tf.config.threading.set_inter_op_parallelism_threads(lanes)
    pairs = zip(chosen.uris, chosen.sha256, strict=True)
    forwards = [load(uri, pinned=sha256).forward for uri, sha256 in pairs]
    return Predictor(forwards, chosen.recipe, lanes=lanes, task=chosen.task)
