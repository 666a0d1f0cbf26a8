"""Recipes: named, whole, measured. A recipe is a function that returns one configuration.

What was tried on the way, and what it gave, is in `docs/recipes.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from ray_brats.errors import UsageError
from ray_brats.recipes.config import (
    InferenceConfig,
    NetworkConfig,
    PreprocessConfig,
    Recipe,
    TrainConfig,
)
from ray_brats.recipes.jsonform import with_settings

RecipeName = Literal["baseline", "standard", "large", "smoke"]


def baseline() -> Recipe:
    """The original project to the letter: the notebook that ray-brats grew out of.

    T1CE, T2, FLAIR; scikit-learn's MinMaxScaler on each volume reshaped to `(-1, D)`; the
    centre 128³ (`[56:184, 56:184, 13:141]` of 240×240×155); cases with more than 1 % of the
    crop labelled; batches of one; Conv3D U-Net, ReLU, he_uniform, softmax over four classes;
    Dice loss + categorical focal loss; Adam at 1e-4.

    Published on BraTS 2020: accuracy 98.50 %, IoU 0.6946, Dice loss 0.8059, mean IoU 0.5183.
    """
    crop = (128, 128, 128)
    return Recipe(
        name="baseline",
        preprocess=PreprocessConfig(
            crop="centre",
            crop_size_vox=crop,
            normalise="minmax_slices",
            dtype="float32",
            min_labelled_share=0.01,
            raw_3_is_enhancing=True,
        ),
        network=NetworkConfig(kind="baseline", widths=(16, 32, 64, 128, 256), output="classes"),
        train=TrainConfig(
            patch_vox=crop,
            foreground_share=0.0,
            flip=False,
            intensity_jitter=0.0,
            loss="dice_focal",
            learning_rate=1e-4,
            schedule="constant",
            warmup_steps=0,
            steps=34_400,
        ),
        inference=InferenceConfig(window_vox=crop),
    )


def standard() -> Recipe:
    """What ray-brats recommends: brain crop, z-scores, region outputs, sliding windows.

    The finest level works at half of the resolution, which lets two CPU cores see more than twice
    as many patches in the same minutes; two thin convolutions over its upsampled logits and the
    image bring the outlines back to 1 mm. Windows, not one pass over the whole brain: instance
    norm sees other statistics there (the same weights: whole tumour 0.82 with windows, 0.72
    without).

    Patches are drawn by region, so that small cores are seen as often as large edemas, and changed
    more than flipped: half get another case's tumour, half have their tumour's contrast changed.
    So small a cohort does not show what tumours can be, and these find what its networks miss
    (+0.064 mean Dice on cases unlike them, nothing lost on like ones); that each modality is also
    seen relative to its surroundings keeps false ones away.

    Measured on six cases of BraTS 2018 that it had not learnt from, after 26 others, on two cores:
    mean Dice 0.769 after 20 minutes (WT 0.872, TC 0.781, ET 0.653; two seeds), 0.795 after 60
    (0.889, 0.811, 0.686), 0.805 when those are extended to 120 (0.894, 0.826, 0.695), 0.809 after
    180 (0.895, 0.829, 0.703).
    """
    return Recipe(
        name="standard",
        preprocess=PreprocessConfig(),
        network=NetworkConfig(
            widths=(24, 48, 96, 192),
            stem_stride=2,
            local_contrast_vox=28,
            deep_supervision=2,
        ),
        train=TrainConfig(
            foreground="region",
            intensity_jitter=0.2,
            carve_probability=0.5,
            tumour_probability=0.5,
            zoom_probability=0.2,
            noise_probability=0.1,
            blur_probability=0.1,
            gamma_probability=0.2,
            ema_decay=0.98,
            weight_decay=1e-4,
            steps=None,
            patches=8000,
        ),
        inference=InferenceConfig(),
    )


def large() -> Recipe:
    """`standard`, sized for GPUs: 128³ patches, two a GPU, a wide U-Net at full resolution.

    Not yet measured, on any GPU: neither its scores nor its hours nor its memory. Meant for a
    whole challenge's cases in five folds (`train --recipe large --fold 0` … `4`), whose bundles
    `score --bundle` averages.
    """
    patch = (128, 128, 128)
    return Recipe(
        name="large",
        preprocess=PreprocessConfig(),
        network=NetworkConfig(
            widths=(32, 64, 128, 256, 320),
            local_contrast_vox=28,
            deep_supervision=3,
            precision="mixed_bfloat16",
        ),
        train=dataclasses.replace(
            standard().train,
            patch_vox=patch,
            batch_per_worker=2,
            clip_norm=12.0,
            ema_decay=0.999,
            reference_batch=16,
            patches=480_000,
            validations=10,
            xla=True,
        ),
        inference=InferenceConfig(window_vox=patch),
    )


def smoke() -> Recipe:
    """Some minutes on two CPU cores, for tests and the demo: a small network at half resolution."""
    patch = (64, 64, 64)
    return Recipe(
        name="smoke",
        preprocess=PreprocessConfig(),
        network=NetworkConfig(widths=(12, 24, 48, 96), stem_stride=2),
        train=TrainConfig(
            patch_vox=patch,
            learning_rate=2e-3,
            ema_decay=0.9,
            steps=250,
            validations=1,
        ),
        inference=InferenceConfig(window_vox=patch, overlap=0.25),
    )


RECIPES: dict[RecipeName, Callable[[], Recipe]] = {
    "baseline": baseline,
    "standard": standard,
    "large": large,
    "smoke": smoke,
}


def get(
    name: RecipeName,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    patches: int | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
) -> Recipe:
    """The recipe of that name, with another length of training or other fields where given.

    Args:
        name: of the recipe.
        minutes: length by the clock.
        steps: length in optimizer steps.
        patches: length in patches, of all workers.
        seed: of everything drawn.
        settings: `PART.FIELD=VALUE`, as `jsonform.with_settings` reads them.

    Raises:
        UsageError: no such recipe, both lengths at once, or a setting that cannot be.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    train = dataclasses.replace(recipe.train, seed=seed)
    if minutes is not None or steps is not None or patches is not None:
        train = dataclasses.replace(train, minutes=minutes, steps=steps, patches=patches)
    return with_settings(dataclasses.replace(recipe, train=train), settings)
