"""The peer of the quality benchmark: MONAI's DynUNet, trained and applied as its users would.

nnU-Net's plain network (widths 16 to 256, 3³ kernels, instance norm), 96³ patches of which half
are centred on tumour, Dice + binary cross-entropy on the regions, flips and intensity changes,
AdamW with cosine decay, sliding windows with Gaussian weights. It reads the same prepared
cases and draws its patches from the same stream as ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ray_brats import labels
from ray_brats.labels import LabelMap
from ray_brats.progress import Progress
from ray_brats.recipes.config import TrainConfig
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training.batches import BatchStream
from ray_brats.training.data import PreparedCase

WIDTHS = (16, 32, 64, 128, 256)
PATCH_VOX = (96, 96, 96)
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
WARMUP_STEPS = 20
JITTER = 0.1
"""Deviation of the random scale and shift of each channel, as in ours."""
OVERLAP = 0.5


def trained_masks(
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    *,
    minutes: float,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Train for so long, then segment the validation cases.

    The clock runs from the first step on; neither imports nor validation are counted, which is
    in the peer's favour.

    Returns:
        `steps`, `seconds_a_case` and `masks`, class indices `(H, W, D)` by case.
    """
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    network = _network()
    steps = _train(network, training, minutes * 60.0, seed)
    began = time.perf_counter()
    masks = {case.case_id: _segment(network, case) for case in validation}
    seconds = (time.perf_counter() - began) / max(len(masks), 1)
    return {"steps": steps, "seconds_a_case": seconds, "masks": masks}


def _network() -> Any:
    from monai.networks.nets import DynUNet

    levels = len(WIDTHS)
    return DynUNet(
        spatial_dims=3,
        in_channels=3,
        out_channels=len(GLIOMA.regions),
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(WIDTHS),
        norm_name=("INSTANCE", {"affine": True}),
    )


def _train(network: Any, training: Sequence[PreparedCase], seconds: float, seed: int) -> int:
    """Steps made until the time was up; the learning rate is a cosine of the time that passed."""
    import torch

    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    draws = TrainConfig(patch_vox=PATCH_VOX, seed=seed)
    stream = BatchStream(training, draws, GLIOMA, rank=0, ranks=1)
    batches = stream.from_step(0, placed=lambda batch: batch)
    rng = np.random.default_rng((seed, 2))
    network.train()
    began = time.monotonic()
    steps = 0
    with Progress("DynUNet", math.ceil(seconds), unit="seconds") as progress:
        while (passed := time.monotonic() - began) < seconds:
            batch = next(batches)
            image = batch.image[0].astype(np.float32)
            image, target = augmented(image, batch.label[0], rng)
            share = 0.5 * (1.0 + math.cos(math.pi * passed / seconds))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * share * min(1.0, (steps + 1) / WARMUP_STEPS)
            optimizer.zero_grad(set_to_none=True)
            _loss(network(torch.from_numpy(image)[None]), torch.from_numpy(target)[None]).backward()
            optimizer.step()
            steps += 1
            progress.update(math.floor(passed))
        progress.update(math.ceil(seconds))
    batches.close()
    return steps


def augmented(
    image: np.ndarray[Any, Any], label: LabelMap, rng: np.random.Generator
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random flips, and a random scale and shift of each channel inside the brain.

    Args:
        image: `(H, W, D, C)` float32.
        label: `(H, W, D)` class indices.
        rng: draws everything.

    Returns:
        Image `(C, H, W, D)` and the regions' masks `(3, H, W, D)`, both float32.
    """
    axes = tuple(axis for axis in range(3) if rng.random() < 0.5)
    image, label = np.flip(image, axes), np.flip(label, axes)
    scale, shift = rng.normal(0.0, JITTER, (2, image.shape[-1])).astype(np.float32)
    image = (image * (1.0 + scale) + shift) * (image != 0)
    masks = np.stack([labels.mask_of(label, region.classes) for region in GLIOMA.regions])
    moved = np.ascontiguousarray(np.moveaxis(image, -1, 0), np.float32)
    return moved, np.ascontiguousarray(masks, np.float32)


def _loss(logits: Any, target: Any) -> Any:
    """Dice over the batch plus binary cross-entropy, as nnU-Net does for regions."""
    import torch
    from monai.losses import DiceLoss

    dice = DiceLoss(sigmoid=True, batch=True)(logits, target)
    return dice + torch.nn.functional.binary_cross_entropy_with_logits(logits, target)


def _segment(network: Any, case: PreparedCase) -> LabelMap:
    import torch
    from monai.inferers import sliding_window_inference

    network.eval()
    image = np.moveaxis(np.asarray(case.image(), np.float32), -1, 0)[None]
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(np.ascontiguousarray(image)),
            PATCH_VOX,
            sw_batch_size=1,
            predictor=network,
            overlap=OVERLAP,
            mode="gaussian",
        )
    return labels.from_regions(np.moveaxis(logits[0].numpy() >= 0, 0, -1), GLIOMA)
