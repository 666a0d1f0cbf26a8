"""MONAI's way to score a case, which `benchmark.py score` measures beside ours."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ray_brats.cases.case import Case
from ray_brats.recipes.config import Recipe


class MonaiScorer:
    """MONAI's way: its transforms, its sliding window, a plain U-Net of the same size."""

    def __init__(self, recipe: Recipe, parameters: int) -> None:
        import monai.inferers
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        self._recipe = recipe
        inference = recipe.inference
        self._network, self.parameters = _dynunet(recipe, parameters)
        self._inferer = monai.inferers.SlidingWindowInferer(
            roi_size=inference.window_vox,
            sw_batch_size=1,
            overlap=inference.overlap,
            mode="gaussian",
        )

    def __call__(self, case: Case) -> float:
        """Seconds from the files of one case to its mask's file."""
        import nibabel as nib
        import torch
        from monai import transforms

        names = self._recipe.preprocess.modalities
        prepare = transforms.Compose(
            [
                transforms.LoadImaged(keys=names, ensure_channel_first=True),
                transforms.ConcatItemsd(keys=names, name="image"),
                transforms.CropForegroundd(keys="image", source_key="image"),
                transforms.NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True),
            ]
        )
        began = time.perf_counter()
        item = prepare({name: case.images[name] for name in names})
        with torch.inference_mode():
            probabilities = torch.sigmoid(self._inferer(item["image"][None], self._network))[0]
        start = item["foreground_start_coord"]
        over = (probabilities >= 0.5).numpy()
        mask = np.zeros(item[names[0]].shape[1:], np.uint8)
        inside = tuple(
            slice(int(first), int(first) + side)
            for first, side in zip(start, over.shape[1:], strict=True)
        )
        mask[inside] = over.sum(axis=0)
        with tempfile.TemporaryDirectory() as folder:
            affine = np.asarray(item[names[0]].meta["original_affine"])
            nib.save(nib.Nifti1Image(mask, affine), Path(folder) / "mask.nii.gz")
        return time.perf_counter() - began


def _dynunet(recipe: Recipe, parameters: int) -> tuple[Any, int]:
    """nnU-Net's plain network with as many levels, as wide as gives about as many parameters."""
    from monai.networks.nets import DynUNet

    levels = len(recipe.network.widths)
    best: tuple[int, Any] | None = None
    for width in range(8, 65, 4):
        network = DynUNet(
            spatial_dims=3,
            in_channels=len(recipe.preprocess.modalities),
            out_channels=3,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=[width * 2**level for level in range(levels)],
        ).eval()
        count = sum(weight.numel() for weight in network.parameters())
        if best is None or abs(count - parameters) < abs(best[0] - parameters):
            best = (count, network)
    assert best is not None
    return best[1], best[0]
