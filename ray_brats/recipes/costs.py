"""What a recipe costs: memory of a training worker, windows of a case that pass at once.

Memory is estimated from the sizes of what a step keeps for its gradients, checked against the
resident memory of real workers (`tests/recipes/test_costs.py`); good to about a third.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray_brats import arrays
from ray_brats.recipes.config import Recipe

PROCESS_BYTES = 900 << 20
"""A worker with Ray and TensorFlow loaded, before its first step."""
KEPT_PER_UNIT = {"standard": 3.0, "baseline": 1.5}
"""Tensors of a level's size that a convolution and what follows it keep: its output, that of the
norm, that of the activation; the baseline has no norm, and every second unit a dropout."""
FULL_RESOLUTION_CHANNELS = 24
"""Image, labels, probabilities and the terms of the loss."""
WORKING_SHARE = 2.0
"""Gradients and the convolutions' own buffers, as a multiple of what is kept."""


def training_bytes(recipe: Recipe) -> int:
    """Peak resident memory of one training worker on a CPU."""
    network, train = recipe.network, recipe.train
    patch_vox = math.prod(train.patch_vox) * train.batch_per_worker
    kept = 0.0
    for level, width in enumerate(network.widths):
        vox = patch_vox / (network.stem_stride * 2**level) ** 3
        deepest = level == len(network.widths) - 1
        # Two units down and, but for the deepest level, two up behind an upsampling (one
        # tensor) and a concatenation (two).
        tensors = KEPT_PER_UNIT[network.kind] * (2 if deepest else 4) + (0 if deepest else 3)
        kept += vox * width * tensors * 4
    kept += patch_vox * FULL_RESOLUTION_CHANNELS * 4
    return int(PROCESS_BYTES + WORKING_SHARE * kept)


def sentence(recipe: Recipe, workers: int, nodes: int, node_bytes: int) -> str:
    """Memory needed against memory there, for the plan."""
    here = -(-workers // max(nodes, 1))
    each = training_bytes(recipe)
    text = (
        f"train: each worker needs about {_gib(each)} of memory, {here} on a node "
        f"{_gib(each * here)}; a node has {_gib(node_bytes)}"
    )
    if each * here > node_bytes:
        text += f": that may not be enough.{hint(recipe, workers)}"
    return text


def hint(recipe: Recipe, workers: int) -> str:
    """What to lower when memory runs out."""
    train = recipe.train
    patch = "×".join(str(side) for side in train.patch_vox)
    return (
        f" A step needs about {_gib(training_bytes(recipe))} on each of {workers} worker(s): lower "
        f"train.batch_per_worker (now {train.batch_per_worker}), train.patch_vox (now {patch}), "
        f"network.widths or --workers."
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


BATCH_BYTES = 512 << 20
"""What the activations of windows may take; one window is always allowed."""
MAX_BATCH = 8
_LIVE_TENSORS = 6
_THIN_CHANNELS = 8


def network_vox(shape_vox: Sequence[int], recipe: Recipe) -> int:
    """Voxels that pass through one network for a prepared case of this shape."""
    inference, whole = recipe.inference, math.prod(shape_vox)
    if whole <= inference.whole_limit_vox:
        return whole
    across = arrays.sliding_windows(shape_vox, inference.window_vox, inference.overlap)
    return len(across) * math.prod(inference.window_vox)


def lanes_for(recipe: Recipe, threads: int) -> int:
    """How many windows of a case should pass side by side where there are so many threads."""
    return 1 if recipe.inference.whole_limit_vox else min(threads, windows_at_once(recipe))


def windows_at_once(recipe: Recipe) -> int:
    """How many windows are on their way at once, so that their activations fit in `BATCH_BYTES`.

    About six tensors of the finest level are alive at a time, and with a strided stem as many
    thin ones at full resolution.
    """
    network = recipe.network
    channels = _LIVE_TENSORS * network.widths[0] / network.stem_stride**3
    if network.stem_stride > 1:
        channels += _LIVE_TENSORS * _THIN_CHANNELS
    window_bytes = 4 * channels * math.prod(recipe.inference.window_vox)
    return min(MAX_BATCH, max(1, int(BATCH_BYTES // window_bytes)))
