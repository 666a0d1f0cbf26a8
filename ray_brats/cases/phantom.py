"""Synthetic BraTS-like cases: a demo and tests without patient data.

The field of view is 240 × 240 × 155 mm at every shape: a small phantom is the same head on a
coarser grid. Smooth random fields shape it: sulci are zero sets of one, vessels of two.

No intensity threshold finds the tumour, by design: as much tissue again is as bright on FLAIR
(periventricular rims, patches in white matter and cortex, all plain on T2), fluid is as bright
on T2 (and dark on FLAIR), vessels enhance on T1CE, and each modality has its own bias field.
The modalities together and their surroundings tell all of them apart.

Arrays are (H, W, D), oriented LPS. A *share* is the part of a voxel that a tissue fills; `_mm`
names the depth of a voxel below a border, negative outside.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip

from ray_brats.arrays import Array, Floats, Mask, Shape
from ray_brats.cases import phantom_tumours
from ray_brats.cases.naming import SEGMENTATION
from ray_brats.cases.phantom_brain import Canvas, Shares, anatomy_of
from ray_brats.cases.phantom_tumours import CAVITY, CYST, RIM
from ray_brats.errors import UsageError
from ray_brats.files.local import renamed_into_place
from ray_brats.labels import LabelMap, Task, from_class_index
from ray_brats.recipes import tasks

Image = npt.NDArray[np.int16]

MODALITIES: Final = ("t1ce", "t2", "flair")
FULL_SHAPE_VOX: Final[Shape] = (240, 240, 155)
ARCHIVE_SHAPE_VOX: Final[Shape] = (160, 160, 104)
MIN_SIDE_VOX: Final = 24
DEFAULT_TASK: Final = tasks.TASKS["gli-2020"]
_CASE_IDS: Final[Mapping[str, str]] = {
    "gli-2020": "BraTS20_Training_{:03d}",
    "gli-2021": "BraTS2021_{:05d}",
    "gli-2023": "BraTS-GLI-{:05d}-000",
    "gli-post": "BraTS-GLI-{:05d}-100",
    "ssa": "BraTS-SSA-{:05d}-000",
    "goat": "BraTS-GoAT-{:05d}",
    "men-pre": "BraTS-MEN-{:05d}-000",
    "met": "BraTS-MET-{:05d}-000",
    "ped": "BraTS-PED-{:05d}-000",
}
"""Tasks that phantoms may be of, and how their cases are called."""
_SPELLINGS: Final[Mapping[str, str]] = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
"""How modalities are called from 2023 on."""

_MAX_INTENSITY: Final = (200.0, 20_000.0)
_NOISE_SD: Final = 0.035  # where white matter on T1CE is 1
_BIAS_SD: Final[Mapping[str, float]] = {"t1": 0.10, "t1ce": 0.10, "t2": 0.13, "flair": 0.20}
# Mean intensity of each tissue; "bright": on FLAIR, yet no tumour.
_ABNORMAL: Final = ("bright", "edema", "enhancing", "necrotic")
_TISSUES: Final = ("white", "grey", "fluid", "vessel", *_ABNORMAL)
_CONTRAST: Final[Mapping[str, tuple[float, ...]]] = {
    "t1": (1.00, 0.75, 0.30, 0.60, 0.90, 0.72, 0.75, 0.50),
    "t1ce": (1.00, 0.80, 0.32, 2.10, 0.92, 0.75, 1.90, 0.48),
    "t2": (0.55, 0.78, 1.70, 0.35, 0.68, 1.25, 1.10, 1.50),
    "flair": (0.66, 0.82, 0.22, 0.40, 1.50, 1.40, 1.15, 0.85),
}


_CYST: Final[Mapping[str, float]] = {"t1": 0.42, "t1ce": 0.44, "t2": 1.60, "flair": 1.00}
"""Of its fluid, which on FLAIR is brighter than that of ventricles."""


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One synthetic case; arrays are (H, W, D)."""

    case_id: str
    images: dict[str, Image]  # by canonical modality; 0 outside the brain, above 0 inside
    label: LabelMap  # class indices of the task
    task: Task
    affine: Floats  # (4, 4), voxel index to scanner mm; LPS, 1 mm spacing


def _render(canvas: Canvas, modality: str, brain: Mask, shares: Shares) -> Image:
    """One modality: contrast × texture × bias + noise, at the case's own scale."""
    rng = canvas.rng(modality)
    signal = np.zeros(brain.shape, np.float32)
    for tissue, mean in zip(_TISSUES, _CONTRAST[modality], strict=True):
        signal += shares[tissue] * (mean * rng.uniform(0.94, 1.06))
    if CYST in shares:
        cyst = canvas.rng(f"{modality}-cyst").uniform(0.94, 1.06)
        signal += shares[CYST] * (_CYST[modality] * cyst)
    uneven = 0.03 + 0.07 * sum(shares[tissue] for tissue in _ABNORMAL)
    bias = _BIAS_SD[modality] * canvas.field(f"{modality}-bias", 75)
    signal *= np.exp(bias + uneven * canvas.field(f"{modality}-texture", 7))
    signal += _NOISE_SD * rng.standard_normal(brain.shape, np.float32)
    scale = float(np.exp(rng.uniform(*np.log(_MAX_INTENSITY)))) / float(signal[brain].max())
    image = np.where(brain, np.clip(np.rint(signal * scale), 1, None), 0).astype(np.int16)
    return np.pad(image, canvas.margins_vox)


def make_phantom(
    index: int,
    *,
    shape_vox: Shape = FULL_SHAPE_VOX,
    seed: int = 0,
    modalities: Sequence[str] = MODALITIES,
    task: Task = DEFAULT_TASK,
) -> Phantom:
    """Draw case `index` of a cohort; equal arguments give equal voxels.

    Every sixth case resembles a low-grade glioma: little enhancing tumour, or no necrotic
    core. `shape_vox` is (H, W, D); the head fills all alike. `modalities` are some of t1, t1ce,
    t2, flair; the choice changes none of them. `task` decides what has grown. Anything else
    raises `UsageError`.
    """
    if unknown := [name for name in modalities if name not in _CONTRAST]:
        raise UsageError(f"modality {unknown[0]!r}: expected some of {', '.join(_CONTRAST)}")
    if len(shape_vox) != 3 or min(shape_vox) < MIN_SIDE_VOX or min(index, seed) < 0:
        wanted = f"three sides of at least {MIN_SIDE_VOX}, the others not negative"
        raise UsageError(f"{shape_vox=}, {index=}, {seed=}: expected {wanted}")
    canvas = Canvas(shape_vox, (seed, index))
    anatomy = anatomy_of(canvas)
    growth = phantom_tumours.growth_of(canvas, anatomy, index, task.targets)
    bright = phantom_tumours.bright_share(canvas, anatomy, growth, task.targets)
    shares = {**growth.shares, "bright": bright}
    left = np.clip(1 - sum(shares.values()), 0, 1)
    shares |= {tissue: share * left for tissue, share in anatomy.shares.items()}
    if CAVITY in shares:
        shares["fluid"] = shares["fluid"] + shares.pop(CAVITY)
        shares["bright"] = shares["bright"] + shares.pop(RIM)
    images = {name: _render(canvas, name, anatomy.brain, shares) for name in modalities}
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = shape_vox[1] - 1
    label = np.pad(growth.label, canvas.margins_vox)
    return Phantom(
        case_id=_case_id(task, index), images=images, label=label, task=task, affine=affine
    )


def _case_id(task: Task, index: int) -> str:
    check_task(task)
    return _CASE_IDS[task.name].format(index)


def check_task(task: Task) -> None:
    """`UsageError` for a task of which no phantoms can be drawn."""
    if task.name not in _CASE_IDS:
        raise UsageError(
            f"there are no phantoms of {task.name}: expected one of {', '.join(_CASE_IDS)}"
        )


def write_cohort(
    folder: Path,
    *,
    cases: int = 12,
    shape_vox: Shape = FULL_SHAPE_VOX,
    seed: int = 0,
    modalities: Sequence[str] = MODALITIES,
    task: Task = DEFAULT_TASK,
) -> list[str]:
    """Write phantoms 1 to `cases` as the task's challenge lays out its cases; return their ids.

    `<folder>/<case_id>/<case_id>_{<modality>,seg}.nii.gz`: int16 images, uint8 masks with the
    task's labels, the same bytes each time. A case whose files all exist is left as it is.

    Raises:
        UsageError: files of a case exist that are not the phantom's.
    """
    case_ids = [_case_id(task, index) for index in range(1, cases + 1)]
    for index, case_id in enumerate(case_ids, start=1):
        kinds = (*modalities, SEGMENTATION)
        paths = {kind: folder / case_id / _file_name(case_id, kind) for kind in kinds}
        if all(path.exists() for path in paths.values()):
            continue
        phantom = make_phantom(
            index, shape_vox=shape_vox, seed=seed, modalities=modalities, task=task
        )
        volumes: dict[str, Array] = dict(phantom.images)
        volumes[SEGMENTATION] = from_class_index(phantom.label, task)
        for kind, voxels in volumes.items():
            _put(paths[kind], _nifti_bytes(voxels, phantom.affine))
    return case_ids


def _put(path: Path, content: bytes) -> None:
    if not path.exists():
        with renamed_into_place(path) as temporary:
            temporary.write_bytes(content)
    elif path.read_bytes() != content:
        raise UsageError(
            f"{path} is there already and is not that of this phantom: pass another folder, or "
            "the numbers that it was made with"
        )


@functools.cache
def phantom_archive() -> bytes:
    """The images of one phantom as a zip, the same bytes each time; made at the first call."""
    phantom = make_phantom(1, shape_vox=ARCHIVE_SHAPE_VOX)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for modality, image in phantom.images.items():
            # An entry by name alone has a fixed time.
            entry = zipfile.ZipInfo(_file_name(phantom.case_id, modality))
            archive.writestr(entry, _nifti_bytes(image, phantom.affine))
    return buffer.getvalue()


def _file_name(case_id: str, kind: str) -> str:
    if case_id.startswith("BraTS-"):
        return f"{case_id}-{_SPELLINGS.get(kind, kind)}.nii.gz"
    return f"{case_id}_{kind}.nii.gz"


def _nifti_bytes(voxels: Array, affine: Floats) -> bytes:
    """The content of a `.nii.gz` without a time or a name in its header."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return bytes(igzip.compress(image.to_bytes(), 1, mtime=0))
