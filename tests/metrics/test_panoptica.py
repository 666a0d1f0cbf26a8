"""The rules of 2026 against `panoptica`, which the challenge's evaluator calls.

It pins other versions than ours, so it runs in an environment of its own:

    python -m venv ENV && ENV/bin/pip install panoptica==2.1.7
    RAY_BRATS_PANOPTICA=ENV/bin/python pytest -m slow -s tests/metrics/test_panoptica.py
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from ray_brats import arrays
from ray_brats.cases import cohort, volume
from ray_brats.labels import LabelMap

from .masks import UNIT_MM, perturbed, score

REGIONS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "gli-post": {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,)},
    "ped": {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NET": (2,), "CC": (3,), "ED": (4,)},
    "met": {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "RC": (4,)},
}
"""The regions of the challenge's tasks with four labels."""
UNIONS = {
    "+".join(map(str, labels)): labels
    for labels in sorted({labels for regions in REGIONS.values() for labels in regions.values()})
}
"""Every union of labels among them, once."""
LABELS = 5
SMALL_MM3 = 20.0
CLOSE = 1e-6
OFF_UNIT_MM = ((0.5, 0.5, 1.0), (0.7, 1.1, 2.3), (0.9375, 0.9375, 1.2), (2.0, 1.0, 1.0))


@dataclass(frozen=True)
class Pair:
    """Two label maps of one grid."""

    reference: LabelMap
    prediction: LabelMap
    spacing_mm: tuple[float, float, float]


def panoptica(pairs: Sequence[Pair], folder: Path) -> list[dict[str, dict[str, Any]]]:
    """What it says of each pair: a name of `UNIONS` to its numbers."""
    python = os.environ.get("RAY_BRATS_PANOPTICA")
    if not python:
        pytest.skip("RAY_BRATS_PANOPTICA names a Python that has panoptica 2.1.7")
    arrays: dict[str, Any] = {"regions": json.dumps(UNIONS)}
    for number, pair in enumerate(pairs):
        arrays[f"reference_{number}"], arrays[f"prediction_{number}"] = (
            pair.reference,
            pair.prediction,
        )
        arrays[f"spacing_{number}"] = np.array(pair.spacing_mm)
    np.savez_compressed(folder / "pairs.npz", **arrays)
    peer = Path(__file__).with_name("panoptica_peer.py")
    command = [python, str(peer), str(folder / "pairs.npz"), str(folder / "answers.json")]
    # Its own packages, not those that ours are found by.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, env=environment)
    answers: list[dict[str, dict[str, Any]]] = json.loads((folder / "answers.json").read_text())
    return answers


def expected(theirs: Mapping[str, Any], spacing_mm: Sequence[float]) -> dict[str, Any]:
    """Their numbers by our names; without an overlap they are those of the whole mask."""
    unit = tuple(spacing_mm) == UNIT_MM
    nsd = {
        name: theirs.get(name, theirs["global_bin_nsd"])
        for name in ("nsd_05mm", "nsd_1mm", "nsd_2mm", "nsd_voxel")
    }
    wanted = {
        "dice": theirs["global_bin_dsc"],
        **nsd,
        "hd95_pooled_mm": theirs.get("hd95_mm"),
        "instance_dice": theirs["sq_dsc"],
        "instance_nsd_voxel": theirs["sq_nsd"],
        "instance_hd95_pooled_mm": theirs["sq_hd95"],
        **{name: theirs[name] for name in ("tp", "fp", "fn")},
        "detection_f1": theirs["rq"],
        "detection_precision": theirs["prec"],
        "detection_recall": theirs["rec"],
    }
    if unit:
        # Of whole masks it measures in voxels, and half a voxel is its tolerance there.
        assert wanted["nsd_05mm"] == theirs["global_bin_nsd"]
        assert wanted["hd95_pooled_mm"] == theirs["global_bin_hd95"]
        wanted["instance_nsd_1mm"] = theirs["sq_nsd"]
    return wanted


def expected_of_metastases(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The challenge's rule for metastases, from their instances of the reference."""
    large = [item for item in theirs["instances"] if item["volume"] >= SMALL_MM3]
    small = [item for item in theirs["instances"] if item["volume"] < SMALL_MM3]
    matched = [item for item in large if item["is_matched"]]
    fp = int(theirs["fp"])
    lost = len(large) - len(matched) + fp
    means: dict[str, float | None] = dict.fromkeys(("sq_dsc", "sq_nsd", "sq_hd95"))
    if large:
        means = {
            name: float(np.mean([item[name] for item in matched] + [worst] * lost))
            for name, worst in (("sq_dsc", 0.0), ("sq_nsd", 0.0), ("sq_hd95", 373.0))
        }
    found = sum(bool(item["is_matched"]) and item["sq_dsc"] >= 0.1 for item in small)
    return {
        "instance_dice": means["sq_dsc"],
        "instance_nsd_voxel": means["sq_nsd"],
        "instance_hd95_pooled_mm": means["sq_hd95"],
        "small_tp": found if small else None,
        "small_fn": len(small) - found if small else None,
        "small_f1": 2 * found / (found + len(small) + fp) if small else None,
    }


def compared(pairs: Sequence[Pair], folder: Path) -> dict[str, float]:
    """The largest difference of each number; fails where one exists for one of the two alone."""
    largest: dict[str, float] = {}
    for number, (pair, answer) in enumerate(zip(pairs, panoptica(pairs, folder), strict=True)):
        for name, labels in UNIONS.items():
            masks = [np.isin(part, labels) for part in (pair.reference, pair.prediction)]
            plain = score(*masks, pair.spacing_mm, rules="2026")
            apart = score(*masks, pair.spacing_mm, rules="2026", small_mm3=SMALL_MM3)
            wanted = expected(answer[name], pair.spacing_mm)
            of_metastases = expected_of_metastases(answer[name])
            for ours, theirs in ((plain, wanted), (apart, of_metastases)):
                for column, value in theirs.items():
                    where = f"pair {number}, labels {name}, {column}: {ours[column]} and {value}"
                    assert (ours[column] is None) == (value is None), where
                    if value is not None:
                        difference = abs(ours[column] - value)
                        assert difference <= CLOSE, where
                        largest[column] = max(largest.get(column, 0.0), difference)
    return largest


def random_pairs(count: int) -> Iterator[Pair]:
    """Smooth, noisy and speckled maps, with classes left out of one side or both."""
    for seed in range(count):
        random = np.random.default_rng(seed)
        shape = tuple(random.integers((6, 5, 4), (26, 22, 18)).tolist())
        smoothness = random.choice([0.0, 0.6, 1.2, 2.0])
        fields = random.normal(size=(3, LABELS, *shape))
        fields = ndimage.gaussian_filter(fields, (0, 0, *[smoothness] * 3))
        fields /= fields.std()
        fields[:, 0] += random.uniform(0.0, 3.0)  # how much of it is background
        likeness = random.uniform(0.2, 1.5)
        own, other = (
            (fields[0] + likeness * fields[side]).argmax(axis=0).astype(np.uint8) for side in (1, 2)
        )
        for part in (own, other):
            gone = random.random(LABELS) < 0.1
            part[gone[part]] = 0
        spacing_mm = OFF_UNIT_MM[seed % 20 // 5] if seed % 5 == 4 else UNIT_MM
        yield Pair(own, other, spacing_mm)


def real_pairs(folder: Path, count: int) -> Iterator[Pair]:
    """Expert masks with a cavity amid the tissue of label 2, and such masks bent; cut to both."""
    found = [
        case
        for name in ("brats2018/HGG", "brats2021")
        for case in cohort.find(str(folder / name)).cases
        if case.segmentation
    ]
    for seed, case in enumerate(found[:count]):
        reference = volume.read_mask(str(case.segmentation), case.task)
        middle = np.argwhere(reference == 2).mean(axis=0).reshape(3, 1, 1, 1)
        away = ((np.indices(reference.shape) - middle) ** 2).sum(axis=0)
        reference[(away < 64) & (reference > 0)] = 4
        prediction = perturbed(reference, seed)
        # All else is background, which takes panoptica minutes.
        reach = arrays.grown(arrays.bounding_box(reference | prediction), (1, 1, 1))
        box = arrays.clipped(reach, reference.shape)
        size = volume.read_header(str(case.segmentation)).geometry.spacing_mm
        yield Pair(reference[box], prediction[box], size)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_number_of_2026_is_that_of_panoptica_on_random_pairs(tmp_path: Path) -> None:
    largest = compared(list(random_pairs(500)), tmp_path)
    print({name: f"{value:.1e}" for name, value in largest.items()})  # noqa: T201
    assert max(largest.values()) <= CLOSE


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_number_of_2026_is_that_of_panoptica_on_real_pairs(
    real_data: Path, tmp_path: Path
) -> None:
    pairs = list(real_pairs(real_data, 10))
    assert len(pairs) == 10
    largest = compared(pairs, tmp_path)
    print({name: f"{value:.1e}" for name, value in largest.items()})  # noqa: T201
    assert max(largest.values()) <= CLOSE
