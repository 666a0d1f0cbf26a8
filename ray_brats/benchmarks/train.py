"""A training step against its peers and its floor, side by side in one run.

Every peer takes the same step: forward, Dice + BCE on sigmoid regions, backward, AdamW, on the
same patch, batch and cores. Ours also augments, averages weights and reads its numbers back,
as in a real run. Repeats alternate; medians are told.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ray_brats.benchmarks import ranks, torch_peers
from ray_brats.benchmarks.measure import SetOption
from ray_brats.progress import say
from ray_brats.recipes import jsonform, named
from ray_brats.recipes.config import AUGMENTATIONS, NetworkConfig, Recipe

FULL_RESOLUTION = ("network.widths=16,32,64,128,256", "network.stem_stride=1")
"""The network of nnU-Net's first levels: what DynUNet and SegResNet can be built as, too."""
PLAIN = (
    "network.deep_supervision=0",
    "network.local_contrast_vox=null",
    "train.carve_probability=0",
    *(f"train.{kind}_probability=0" for kind in AUGMENTATIONS),
)
"""What the peers do not have is left out of ours."""
MATRIX_SIDE = 4096
Step = Callable[[], None]


def measure(
    dataset: str | None = None,
    /,
    *,
    repeats: int = 7,
    patch: int = 96,
    threads: int | None = None,
    settings: SetOption = (),
) -> dict[str, Any]:
    """Seconds a step, and the ratios.

    Args:
        dataset: what `preprocess` wrote, to feed the training processes from; by default noise of
            a brain's size.
        repeats: of each peer, alternating.
        patch: side of the cubic patch in voxels, one patch a batch.
        threads: cores that each peer may use; by default all.
        settings: of the recipe `standard`, for another network than the full-resolution one.

    Raises:
        UsageError: the peers are not installed, or no dataset of the recipe `standard`.
    """
    threads = threads or os.cpu_count() or 1
    sides = f"{patch},{patch},{patch}"
    recipe = named.get(
        "standard",
        settings=[
            *PLAIN,
            *(settings or FULL_RESOLUTION),
            f"train.patch_vox={sides}",
            f"inference.window_vox={sides}",
        ],
    )
    medians = _median_seconds(recipe, threads, repeats)
    shared = ranks.two_against_one(recipe, threads, steps=max(6, repeats), dataset=dataset)
    ours = medians["ray-brats"]
    flops = step_flops(recipe)
    product = 2.0 * MATRIX_SIDE**3 / medians["matrix product"]
    return {
        "network": jsonform.as_json(recipe.network),
        "patch_vox": [patch] * 3,
        "threads": threads,
        "step_seconds": {name: value for name, value in medians.items() if "matrix" not in name},
        "step_flops": flops,
        "flops_per_second": {"ray-brats": flops / ours, "matrix product": product},
        "patches_per_second": shared["patches_per_second"],
        "input_wait_share": shared["input_wait_share"],
        "ratios": {
            "train_vs_torch": medians["PyTorch, identical network"] / ours,
            "train_vs_monai": medians["MONAI DynUNet"] / ours,
            "train_vs_segresnet": medians["MONAI SegResNet"] / ours,
            "train_vs_matmul": flops / ours / product,
            "two_workers_vs_one": shared["ratio"],
        },
    }


def _median_seconds(recipe: Recipe, threads: int, repeats: int) -> dict[str, float]:
    """Median seconds of one step of each peer, of ours, and of a matrix product, alternating."""
    torch_peers.load()
    peers: dict[str, Callable[[], Step]] = {
        "matrix product": lambda: _matmul(threads),
        "ray-brats": lambda: _ours(recipe, threads),
        **{
            name: functools.partial(_peer, make, recipe, threads)
            for name, make in torch_peers.NETWORKS.items()
        },
    }
    ready: dict[str, Step] = {}
    for name, make in peers.items():
        say(f"benchmark train: {name}")
        ready[name] = make()
        ready[name]()
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(repeats):
        for name, step in ready.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def step_flops(recipe: Recipe) -> float:
    """Multiplications and additions of the convolutions of one step, batch of one.

    Forward, gradient by the weights, gradient by the input: three times as many as forward,
    but for the layers that read the image, which needs no gradient.
    """
    import keras

    from ray_brats.model import unet

    model = unet.build(
        recipe.network, len(recipe.preprocess.modalities), len(recipe.outputs), seed=0
    )
    shapes = _layer_shapes(model, recipe.train.patch_vox)
    total = 0.0
    for layer, inputs, outputs in shapes:
        if not isinstance(layer, keras.layers.Conv3D | keras.layers.Conv3DTranspose):
            continue
        taps = math.prod(layer.kernel_size) * inputs[-1] * outputs[-1]
        transposed = isinstance(layer, keras.layers.Conv3DTranspose)
        sites = math.prod((inputs if transposed else outputs)[1:4])
        passes = 2 if inputs[-1] == model.inputs[0].shape[-1] else 3
        total += 2.0 * taps * sites * passes
    return total


def _layer_shapes(model: Any, patch_vox: Sequence[int]) -> list[tuple[Any, Any, Any]]:
    """Each layer with the shapes of its input and output for one patch."""
    import keras

    fixed = keras.models.clone_model(
        model, input_tensors=keras.Input((*patch_vox, model.inputs[0].shape[-1]), batch_size=1)
    )
    return [
        (layer, layer.input.shape, layer.output.shape)
        for layer in fixed.layers
        if not isinstance(layer.input, list)
    ]


def _peer(make: Callable[[NetworkConfig], Any], recipe: Recipe, threads: int) -> Step:
    return torch_peers.step(make(recipe.network), recipe, threads)


def _matmul(threads: int) -> Step:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    a = tf.random.normal((MATRIX_SIDE, MATRIX_SIDE))

    def step() -> None:
        tf.linalg.matmul(a, a).numpy()

    return step


def _ours(recipe: Recipe, threads: int) -> Step:
    import tensorflow as tf

    from ray_brats.training.batches import Batch
    from ray_brats.training.step import Trainee

    del threads  # set with the matrix product, before TensorFlow's first operation
    image, label = torch_peers.patch(recipe)
    batch = Batch(
        image=image[None], label=label[None], keys=np.zeros((1, 2), np.int32), case_ids=("x",)
    )
    trainee = Trainee(tf.distribute.get_strategy(), recipe)
    parts = trainee.placed(batch)

    def step() -> None:
        trainee.step(parts, learning_rate=1e-3, averaging_decay=0.9)

    return step
