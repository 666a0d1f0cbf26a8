"""The figures that the original project reports, as its Keras metrics define them.

accuracy               Keras `accuracy` on one-hot classes: share of voxels with the right class
iou_score              segmentation_models_3D `IOUScore(threshold=0.5)`, mean of the four classes
mean_iou               Keras `MeanIoU(num_classes=4)` on the argmax: classes present in either map
dice_loss              segmentation_models_3D `DiceLoss`: 1 - mean Dice
dice_loss_weighted     the same with class weights of 0.25 that it multiplies in *before* its
                       mean over the four classes: 1 - 0.25 × mean Dice, never below 0.75

Background is a class like any other, as it was there; these are no tumour scores.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ray_brats.arrays import Array, Floats
from ray_brats.labels import LabelMap
from ray_brats.recipes.tasks import GLIOMA

ORIGINAL_FIGURES: Final = (
    "accuracy",
    "iou_score",
    "mean_iou",
    "dice_loss",
    "dice_loss_weighted",
)
ORIGINAL_TITLES: Final = {
    "accuracy": ("Accuracy", "share of voxels whose class is right, background included"),
    "iou_score": ("IoU score", "soft Jaccard index, mean of four classes, at threshold 0.5"),
    "mean_iou": ("Mean IoU", "Keras MeanIoU of the argmax over the four classes"),
    "dice_loss_weighted": ("Dice loss, weighted", "1 − 0.25 × mean Dice, as that project had it"),
    "dice_loss": ("Dice loss, plain", "1 − mean Dice of the four classes"),
}
"""Name and definition of each figure for people, in the order in which they are shown."""
SMOOTH: Final = 1e-5
"""Added to numerators and denominators, in the losses too."""
CLASS_WEIGHT: Final = 0.25
"""The original project weights each of its four classes so, then averages; in its loss too."""
THRESHOLD: Final = 0.5


def original_figures(
    reference: LabelMap, prediction: LabelMap, class_count: int = GLIOMA.class_count
) -> dict[str, float]:
    """The original project's figures from hard masks.

    Args:
        reference: class indices of any shape.
        prediction: class indices of the same shape.
        class_count: how many there are, with the background.

    Returns:
        `ORIGINAL_FIGURES` to their values.

    Raises:
        ValueError: the shapes differ, nothing is in them, or a value is no class index.
    """
    confusion = _confusion(reference, prediction, class_count)
    hits, predicted = confusion.diagonal(), confusion.sum(axis=0)
    return _figures(confusion, hits, predicted, hits, predicted)


def original_figures_soft(
    reference_one_hot_or_index: Array,
    probabilities: Array,
    class_count: int = GLIOMA.class_count,
) -> dict[str, float]:
    """The original project's figures from class probabilities.

    Accuracy and mean IoU look at the argmax, the IoU score at probabilities above 0.5, the
    Dice losses at the probabilities themselves. A leading batch axis is summed over.

    Args:
        reference_one_hot_or_index: one-hot classes `(…, K)`, or class indices `(…)`.
        probabilities: `(…, K)`, the classes on the last axis.
        class_count: K.

    Returns:
        `ORIGINAL_FIGURES` to their values.

    Raises:
        ValueError: the shapes do not fit, nothing is in them, or a value is no class index.
    """
    if probabilities.ndim == 0 or probabilities.shape[-1] != class_count:
        raise ValueError(f"expected (…, {class_count}) probabilities, not {probabilities.shape}")
    index = reference_one_hot_or_index
    if index.shape == probabilities.shape:
        index = index.argmax(axis=-1)
    confusion = _confusion(index, probabilities.argmax(axis=-1), class_count)
    columns = [(index == c, probabilities[..., c]) for c in range(class_count)]
    sure = [(mask, values > THRESHOLD) for mask, values in columns]
    return _figures(
        confusion,
        np.array([np.count_nonzero(mask & hit) for mask, hit in sure], np.float64),
        np.array([np.count_nonzero(hit) for _, hit in sure], np.float64),
        np.array([values[mask].sum(dtype=np.float64) for mask, values in columns]),
        np.array([values.sum(dtype=np.float64) for _, values in columns]),
    )


def _confusion(reference: Array, prediction: Array, class_count: int) -> Floats:
    """Voxels of each reference class (row) with each predicted class (column)."""
    if reference.shape != prediction.shape or not reference.size:
        raise ValueError(
            f"the reference has shape {reference.shape}, the prediction {prediction.shape}: "
            "expected the same, and not empty"
        )
    for part in (reference, prediction):
        if not 0 <= part.min() <= part.max() < class_count:
            raise ValueError(f"expected class indices from 0 to {class_count - 1}, found others")
    pairs = reference.astype(np.uint16) * np.uint16(class_count) + prediction.astype(np.uint16)
    counts = np.bincount(pairs.ravel(order="K"), minlength=class_count**2)
    return counts.reshape(class_count, class_count).astype(np.float64)


def _figures(
    confusion: Floats,
    sure_hits: Floats,
    sure_predicted: Floats,
    soft_hits: Floats,
    soft_predicted: Floats,
) -> dict[str, float]:
    """Figures from sums per class: hard, above the threshold (`sure`) and of probabilities."""
    hits, actual = confusion.diagonal(), confusion.sum(axis=1)
    iou = (sure_hits + SMOOTH) / (actual + sure_predicted - sure_hits + SMOOTH)
    union = actual + confusion.sum(axis=0) - hits
    present = union > 0
    # actual + predicted = 2 true positives + false negatives + false positives
    dice = (2 * soft_hits + SMOOTH) / (actual + soft_predicted + SMOOTH)
    values = (
        hits.sum() / confusion.sum(),
        iou.mean(),
        (hits[present] / union[present]).mean(),
        1 - dice.mean(),
        1 - (CLASS_WEIGHT * dice).mean(),
    )
    return dict(zip(ORIGINAL_FIGURES, map(float, values), strict=True))
