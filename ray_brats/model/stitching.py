"""A network over a whole image on a device: windows are cut there, weighed and added up there.

What `windows.sliding_window` does with NumPy beside a network on CPUs. A GPU would wait for that,
and for its probabilities to cross: here the image goes there once, and the mean comes back once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from ray_brats import arrays
from ray_brats.arrays import Array, Mask, PatchLocation
from ray_brats.model.windows import LEAST_WEIGHT, Probabilities, gaussian_weights
from ray_brats.recipes.config import InferenceConfig

FIRST_BATCH: Final = 32
"""Windows that are tried at once; halved as long as the device has no memory for so many."""


class Stitcher:
    """One network on one device.

    Args:
        network: a batch of patches `(N, H, W, D, C)` to probabilities `(N, H, W, D, K)`, both
            tensors of float32.
        device: its name, as TensorFlow calls it.
    """

    def __init__(self, network: Callable[[Any], Any], device: str) -> None:
        self._network, self._device, self._batch = network, device, FIRST_BATCH

    def __call__(
        self, image: Array, inference: InferenceConfig, brain: Mask | None = None
    ) -> Probabilities:
        """As `windows.sliding_window`.

        Args:
            image: `(H, W, D, C)` float32.
            inference: size and overlap of the windows.
            brain: `(H, W, D)`; windows without any such voxel are skipped.

        Raises:
            tf.errors.ResourceExhaustedError: the device has no memory for a single window.
        """
        across = arrays.sliding_windows(image.shape[:3], inference.window_vox, inference.overlap)
        if brain is not None:
            across = [location for location in across if location.holds(brain)] or across[:1]
        while True:
            try:
                return self._stitched(image, inference, across)
            except tf.errors.ResourceExhaustedError:
                if self._batch == 1:
                    raise
                self._batch //= 2

    def _stitched(
        self, image: Array, inference: InferenceConfig, across: Sequence[PatchLocation]
    ) -> Probabilities:
        window, shape = inference.window_vox, image.shape[:3]
        # An image that is smaller than a window lies in its middle.
        before = [max(0, -min(one.start_vox[axis] for one in across)) for axis in range(3)]
        padding = [
            (first, max(0, size - side - first))
            for first, size, side in zip(before, window, shape, strict=True)
        ]
        starts = np.array([one.start_vox for one in across], np.int32) + np.array(before, np.int32)
        with tf.device(self._device):
            whole = tf.pad(tf.constant(image), [*padding, (0, 0)])
            weights = tf.constant(gaussian_weights(window)[..., None])
            total: Any = None
            for first in range(0, len(starts), self._batch):
                chosen = starts[first : first + self._batch]
                patches = [tf.slice(whole, [*start, 0], [*window, -1]) for start in chosen]
                outputs = self._network(tf.stack(patches))
                if total is None:
                    padded = whole.shape[:3]
                    total = tf.Variable(tf.zeros([*padded, outputs.shape[-1] + 1]))
                weighed = tf.concat([outputs, tf.ones_like(outputs[..., :1])], -1) * weights
                for (i, j, k), more in zip(chosen, tf.unstack(weighed), strict=True):
                    box = total[i : i + window[0], j : j + window[1], k : k + window[2]]
                    box.assign(tf.convert_to_tensor(box) + more)
            inside = tf.slice(total, [*before, 0], [*shape, -1])
            mean = inside[..., :-1] / tf.maximum(inside[..., -1:], LEAST_WEIGHT)
        return np.asarray(mean.numpy(), np.float32)
