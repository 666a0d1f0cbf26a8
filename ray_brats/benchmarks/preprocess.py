"""`benchmark preprocess`: files to network input on one core, against MONAI and a floor."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip

from ray_brats.benchmarks import measure
from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Case
from ray_brats.cases.preprocess import preprocess_case
from ray_brats.commands.arguments import CohortArgument
from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.progress import say
from ray_brats.recipes import named
from ray_brats.recipes.config import PreprocessConfig

Contender = Callable[[Case], Any]


def preprocess(cohort: CohortArgument, /, *, cases: int = 6, repeats: int = 3) -> dict[str, Any]:
    """Median CPU seconds a case on one core: ray-brats, MONAI's transforms, and bare inflating.

    Each reads the same three modalities of a case; ray-brats and MONAI orient them (as they
    lie), crop to the brain and z-score its voxels; the floors only inflate and parse.

    Args:
        cohort: Folder of cases on this machine.
        cases: How many of them.
        repeats: Of all, in turn.
    """
    config = named.get("standard").preprocess
    cases_found = [
        case for case in cohorts.find(cohort).cases if set(config.modalities) <= {*case.images}
    ]
    if not cases_found or storage.is_remote(cases_found[0].images[config.modalities[0]]):
        raise UsageError(f"{cohort}: no case with {', '.join(config.modalities)} on this machine")
    chosen = cases_found[:: max(1, len(cases_found) // cases)][:cases]
    contenders = {
        "ray-brats": lambda case: preprocess_case(case, config, with_mask=False),
        "gzip inflate and parse": lambda case: _inflate(case, config, gzip.decompress),
        "isal inflate and parse": lambda case: _inflate(case, config, igzip.decompress),
        **_monai(config),
    }
    with measure.one_core():
        seconds = measure.alternating(contenders, chosen, repeats)
    peak, before = measure.peak_mib(_with_mask, chosen[0], config)
    ours, floor = seconds["ray-brats"], seconds["gzip inflate and parse"]
    fastest = seconds["isal inflate and parse"]
    return {
        "unit": "CPU seconds a case, one core",
        "measured": {name: round(value, 4) for name, value in seconds.items()},
        "ratios": {
            "preprocess_vs_monai": measure.ratio(seconds.get("MONAI"), ours),
            "preprocess_vs_floor": measure.ratio(ours, floor),
            "preprocess_vs_isal": measure.ratio(ours, fastest),
        },
        "cases": len(chosen),
        "repeats": repeats,
        "peak_mib": round(peak),
        "peak_mib_before_the_case": round(before),
    }


def _with_mask(case: Case, config: PreprocessConfig) -> None:
    preprocess_case(case, config)


def _inflate(case: Case, config: PreprocessConfig, inflate: Callable[[bytes], bytes]) -> None:
    for name in config.modalities:
        content = Path(case.images[name]).read_bytes()
        plain = inflate(content) if content[:2] == b"\x1f\x8b" else content
        np.asarray(nib.Nifti1Image.from_bytes(plain).dataobj)


def _monai(config: PreprocessConfig) -> dict[str, Contender]:
    """MONAI's transforms as a contender; nothing where it is not installed."""
    try:
        import torch
        from monai import transforms
    except ImportError:
        say('MONAI is not installed (pip install "ray-brats[bench]"): its ratio is null')
        return {}
    torch.set_num_threads(1)
    keys = list(config.modalities)
    chain = transforms.Compose(
        [
            transforms.LoadImaged(keys, image_only=True),
            transforms.EnsureChannelFirstd(keys),
            transforms.ConcatItemsd(keys, name="image"),
            transforms.DeleteItemsd(keys),
            transforms.CropForegroundd(["image"], source_key="image", allow_smaller=True),
            transforms.NormalizeIntensityd(["image"], nonzero=True, channel_wise=True),
        ]
    )
    return {"MONAI": lambda case: chain({name: case.images[name] for name in keys})}
