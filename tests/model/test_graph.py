"""The graph of `segment` against the Predictor, voxel by voxel."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from own_tasks import FIVE

from ray_brats import labels
from ray_brats.cases import phantom, volume
from ray_brats.model.predict import Predictor
from ray_brats.recipes import named
from ray_brats.recipes.config import Recipe

pytest.importorskip("tensorflow")
import tensorflow as tf

from ray_brats.labels import Task
from ray_brats.model import graph
from ray_brats.recipes.tasks import TASKS

pytestmark = pytest.mark.tf
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
WINDOW = (32, 32, 16)


def recipe_with(name: str = "smoke", preprocess: Any = None, **inference: Any) -> Recipe:
    recipe = named.get(name)  # type: ignore[arg-type]
    divisor = recipe.network.divisor_vox
    window = {"window_vox": tuple(max(side, divisor) for side in WINDOW), "overlap": 0.5}
    return dataclasses.replace(
        recipe,
        preprocess=dataclasses.replace(recipe.preprocess, **(preprocess or {})),
        inference=dataclasses.replace(recipe.inference, **(window | inference)),
    )


def network(recipe: Recipe) -> Any:
    """Sees its neighbours, its borders and the left from the right."""
    channels = len(recipe.outputs)
    kernel = np.random.default_rng(5).normal(size=(3, 3, 3, 3, channels)).astype(np.float32)

    def forward(batch: Any) -> Any:
        logits = tf.nn.conv3d(batch, kernel, [1] * 5, "SAME")
        if recipe.network.output == "regions":
            return tf.sigmoid(logits)
        return tf.nn.softmax(logits)

    return forward


def phantom_case(shape_vox: tuple[int, int, int]) -> np.ndarray:
    made = phantom.make_phantom(3, shape_vox=shape_vox)
    return np.stack([made.images[name] for name in ("t1ce", "t2", "flair")], axis=-1)


def both(recipe: Recipe, image: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The graph's labels and the Predictor's, in the task's integers."""
    forward = network(recipe)
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)
    segment = tf.function(graph.segmenter(forward, recipe, task), input_signature=[spec])
    given = segment(tf.constant(image, tf.float32))["labels"].numpy()
    predictor = Predictor([lambda batch: forward(batch).numpy()], recipe)
    sources = {
        name: volume.from_array(image[..., k], LPS)
        for k, name in enumerate(recipe.preprocess.modalities)
    }
    return given, labels.from_class_index(predictor.segment(sources).mask_native, task)


@pytest.mark.parametrize("name", ["smoke", "baseline"])
@pytest.mark.parametrize(
    "change",
    [
        lambda image: image + 40,
        lambda image: np.where(image == 0, -1024, image),
        lambda image: (image - 300) / 77,
        lambda image: np.where(image == 0, np.nan, image),
    ],
    ids=["offset", "air", "z-scores", "NaN"],
)
def test_the_graph_finds_the_background_as_the_predictor_does(name: str, change: Any) -> None:
    crop = {"crop_size_vox": (48, 48, 32)} if name == "baseline" else {}
    image = phantom_case((50, 52, 47)).astype(np.float32)
    given, expected = both(recipe_with(name, crop), change(image), TASKS["gli-2020"])
    assert (given == expected).mean() > 0.9999
    plain, _ = both(recipe_with(name, crop), image, TASKS["gli-2020"])
    assert (given == plain).mean() > 0.999


def test_the_graph_refuses_a_skull_unless_it_is_allowed() -> None:
    image = phantom_case((50, 52, 47))
    noise = np.random.default_rng(0).integers(1, 60, image.shape)
    with_skull = np.where(image == 0, noise, image).astype(np.float32)
    for allow, recipe in (
        (allow, recipe_with(preprocess={"allow_skull": allow})) for allow in (False, True)
    ):
        spec = tf.TensorSpec((None, None, None, 3), tf.float32)
        segment = tf.function(
            graph.segmenter(network(recipe), recipe, TASKS["gli-2020"]), input_signature=[spec]
        )
        if allow:
            assert segment(tf.constant(with_skull))["labels"].shape == image.shape[:3]
            continue
        with pytest.raises(tf.errors.InvalidArgumentError, match="not skull-stripped"):
            segment(tf.constant(with_skull))


@pytest.mark.parametrize(
    ("recipe", "shape_vox"),
    [
        (recipe_with(), (64, 60, 47)),
        (recipe_with(overlap=0.3, threshold=0.7), (64, 60, 47)),
        (recipe_with(window_vox=(80, 32, 64)), (50, 52, 47)),
        (recipe_with(tta="flips"), (50, 52, 47)),
        (recipe_with(whole_limit_vox=10**9), (50, 52, 47)),
        (recipe_with(whole_limit_vox=10), (50, 52, 47)),
        (recipe_with(min_enhancing_vox=10**6), (50, 52, 47)),
        (recipe_with(preprocess={"dtype": "float32"}), (50, 52, 47)),
        (recipe_with("baseline", {"crop_size_vox": (48, 48, 32)}), (61, 60, 47)),
        (recipe_with("baseline", {"crop_size_vox": (48, 64, 64)}), (61, 60, 47)),
    ],
)
def test_the_graph_gives_the_predictors_mask(
    recipe: Recipe, shape_vox: tuple[int, int, int]
) -> None:
    given, expected = both(recipe, phantom_case(shape_vox), TASKS["gli-2020"])
    assert given.dtype == np.uint8
    assert given.shape == shape_vox
    if not recipe.inference.min_enhancing_vox:
        assert set(np.unique(expected)) == {0, 1, 2, 4}
    else:
        assert set(np.unique(expected)) == {0, 1, 2}
    assert np.mean(given == expected) >= 0.9999


def test_the_labels_are_the_tasks() -> None:
    image = phantom_case((40, 40, 40))
    assert set(np.unique(both(recipe_with(), image, TASKS["gli-2023"])[0])) == {0, 1, 2, 3}


@pytest.mark.parametrize("task", ["gli-post", "ped", "met", "men-rt", "msd-task01", "five"])
@pytest.mark.parametrize("name", ["smoke", "baseline"])
def test_the_graph_gives_the_predictors_mask_of_every_task(task: str, name: str) -> None:
    crop = {"crop_size_vox": (48, 48, 32)} if name == "baseline" else {}
    meant = FIVE if task == "five" else TASKS[task]
    recipe = recipe_with(name, crop, min_enhancing_vox=2 if name == "smoke" else 0)
    recipe = dataclasses.replace(recipe, targets=meant.targets)
    given, expected = both(recipe, phantom_case((50, 52, 47)), meant)
    assert set(np.unique(expected)) == {0, *meant.integers}
    assert np.mean(given == expected) >= 0.9999


def test_an_empty_image_is_background() -> None:
    recipe = recipe_with()
    segment = graph.segmenter(network(recipe), recipe, TASKS["gli-2023"])
    assert not tf.function(segment)(tf.zeros((20, 21, 22, 3)))["labels"].numpy().any()


def test_what_a_graph_cannot_do_is_named() -> None:
    assert graph.obstacle(recipe_with()) == ""
    assert "min_component_vox" in graph.obstacle(recipe_with(min_component_vox=50))
