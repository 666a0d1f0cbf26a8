"""Windows that are stitched on a device give what NumPy gives beside a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ray_brats import arrays
from ray_brats.model import windows
from ray_brats.model.predict import Predictor
from ray_brats.recipes import named
from ray_brats.recipes.config import InferenceConfig

pytestmark = pytest.mark.tf


def network(batch: Any) -> Any:
    """Not the same everywhere in its window, as real ones are not."""
    import tensorflow as tf

    ramp = tf.reshape(tf.linspace(0.5, 1.5, batch.shape[1]), [1, -1, 1, 1, 1])
    return tf.sigmoid(tf.cast(ramp, tf.float32) * batch[..., :2])


@pytest.mark.parametrize("shape", [(40, 37, 33), (10, 40, 12), (16, 16, 16)])
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_mean_is_that_of_numpy(shape: tuple[int, int, int], batch: int) -> None:
    import tensorflow as tf

    from ray_brats.model.stitching import Stitcher

    inference = InferenceConfig(window_vox=(16, 16, 16), overlap=0.5)
    image = np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)
    image[~arrays.ellipsoid(shape)] = 0
    brain = windows.occupied(image)
    expected = windows.sliding_window(
        lambda patches: network(tf.constant(patches)).numpy(), image, inference, brain=brain
    )
    stitcher = Stitcher(network, "CPU:0")
    stitcher._batch = batch
    found = stitcher(image, inference, brain)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_device_without_memory_for_so_many_windows_gets_fewer_at_once() -> None:
    import tensorflow as tf

    from ray_brats.model.stitching import Stitcher

    asked: list[int] = []

    def small(batch: Any) -> Any:
        asked.append(batch.shape[0])
        if batch.shape[0] > most:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return network(batch)

    inference = InferenceConfig(window_vox=(8, 8, 8), overlap=0.5)
    image = np.ones((24, 24, 24, 2), np.float32)
    most = 5
    stitcher = Stitcher(small, "CPU:0")
    stitcher(image, inference)
    assert asked[:4] == [32, 16, 8, 4]
    asked.clear()
    stitcher(image, inference)
    assert set(asked) <= {4, 1, 2, 3}
    most = 0
    with pytest.raises(tf.errors.ResourceExhaustedError):
        stitcher(image, inference)


def test_a_predictor_leaves_the_windows_to_a_network_that_can_stitch() -> None:
    import tensorflow as tf

    from ray_brats.model.stitching import Stitcher

    def three(batch: Any) -> Any:
        return tf.sigmoid(batch[..., :3])

    def forward(batch: np.ndarray) -> np.ndarray:
        return np.asarray(three(tf.constant(batch)).numpy())

    def on_device(batch: np.ndarray) -> np.ndarray:
        raise AssertionError("windows are the device's")

    on_device.__dict__[windows.STITCHED] = Stitcher(three, "CPU:0")
    recipe = named.get("smoke", settings=["inference.tta=flips"])
    shape = (70, 66, 40)
    image = np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float16)
    image[~arrays.ellipsoid(shape)] = 0
    expected, found = (
        Predictor([one], recipe).probabilities(image) for one in (forward, on_device)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
