"""The peers of the training benchmark: our network in PyTorch, and MONAI's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ray_brats import labels
from ray_brats.arrays import Shape
from ray_brats.errors import UsageError
from ray_brats.recipes.config import NetworkConfig, Recipe
from ray_brats.recipes.tasks import GLIOMA


def load() -> None:
    """Load PyTorch and MONAI.

    Raises:
        UsageError: they are not installed.
    """
    try:
        import monai.networks.nets
        import torch
    except ImportError as error:
        raise UsageError(
            f"the peers are not installed ({error}): pip install 'ray-brats[bench]'"
        ) from error
    del monai, torch


def patch(
    recipe: Recipe, shape_vox: Shape | None = None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A phantom-like patch, or volume: noise, and a ball of each class."""
    rng = np.random.default_rng(0)
    shape = shape_vox or recipe.train.patch_vox
    image = rng.normal(size=(*shape, len(recipe.preprocess.modalities))).astype(np.float32)
    grid = np.indices(shape) - np.array(shape).reshape(3, 1, 1, 1) / 2
    radius = np.sqrt((grid**2).sum(0))
    necrotic, edema, enhancing = GLIOMA.indices
    label = np.select(
        [radius < shape[0] / 8, radius < shape[0] / 6, radius < shape[0] / 4],
        [necrotic, enhancing, edema],
    )
    return image, label.astype(np.uint8)


def step(model: Any, recipe: Recipe, threads: int) -> Callable[[], None]:
    """A training step: Dice + BCE on sigmoid regions, AdamW."""
    import torch

    torch.set_num_threads(threads)
    image, label = patch(recipe)
    x = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
    masks = [labels.mask_of(label, region.classes) for region in GLIOMA.learnt]
    t = torch.from_numpy(np.stack(masks)[None])
    target = t.float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def one() -> None:
        optimizer.zero_grad(set_to_none=True)
        p = torch.sigmoid(model(x))
        axes = (0, 2, 3, 4)
        dice = (2 * (target * p).sum(axes) + 1e-5) / (target.sum(axes) + p.sum(axes) + 1e-5)
        loss = 1 - dice.mean() + torch.nn.functional.binary_cross_entropy(p, target)
        loss.backward()
        optimizer.step()
        loss.item()

    return one


def twin(network: NetworkConfig) -> Any:
    """`unet.build`'s standard network, layer by layer, in PyTorch."""
    import torch
    from torch import nn

    def unit(inputs: int, width: int, stride: int = 1) -> Any:
        return nn.Sequential(
            nn.Conv3d(inputs, width, 3, stride=stride, padding=1, bias=False),
            nn.InstanceNorm3d(width, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )

    class Twin(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            widths, channels = network.widths, 3
            self.down, self.up, self.join = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            for level, width in enumerate(widths):
                stride = 2 if level else network.stem_stride
                self.down.append(nn.Sequential(unit(channels, width, stride), unit(width, width)))
                channels = width
            for width in widths[-2::-1]:
                self.up.append(nn.ConvTranspose3d(channels, width, 2, stride=2, bias=False))
                self.join.append(nn.Sequential(unit(2 * width, width), unit(width, width)))
                channels = width
            self.head = nn.Conv3d(channels, 3, 1)
            if network.stem_stride == 2:
                self.refine = nn.Sequential(
                    nn.Conv3d(6, 8, 3, padding=1), nn.LeakyReLU(0.01), nn.Conv3d(8, 3, 3, padding=1)
                )

        def forward(self, image: Any) -> Any:
            x, skips = image, []
            for down in self.down:
                x = down(x)
                skips.append(x)
            skips.pop()
            for up, join in zip(self.up, self.join, strict=True):
                x = join(torch.cat([up(x), skips.pop()], 1))
            logits = self.head(x)
            if network.stem_stride == 1:
                return logits
            logits = nn.functional.interpolate(
                logits, scale_factor=2, mode="trilinear", align_corners=False
            )
            return logits + self.refine(torch.cat([logits, image], 1))

    return Twin()


def dynunet(network: NetworkConfig) -> Any:
    """nnU-Net's plain network, of the same widths."""
    from monai.networks.nets import DynUNet

    strides = [network.stem_stride, *([2] * (len(network.widths) - 1))]
    return DynUNet(
        spatial_dims=3,
        in_channels=3,
        out_channels=3,
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=list(network.widths),
        norm_name=("INSTANCE", {"affine": True}),
    )


def segresnet(network: NetworkConfig) -> Any:
    """MONAI's SegResNet with as many channels at its finest level."""
    from monai.networks.nets import SegResNet

    return SegResNet(spatial_dims=3, init_filters=network.widths[0], in_channels=3, out_channels=3)


NETWORKS: dict[str, Callable[[NetworkConfig], Any]] = {
    "PyTorch, identical network": twin,
    "MONAI DynUNet": dynunet,
    "MONAI SegResNet": segresnet,
}
