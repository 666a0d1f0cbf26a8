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
from typing import Any, Final

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip

from ray_brats.arrays import Array, Floats, Mask, Shape
from ray_brats.cases.naming import SEGMENTATION
from ray_brats.errors import UsageError
from ray_brats.files.local import renamed_into_place
from ray_brats.labels import BACKGROUND, EDEMA, ENHANCING, NECROTIC, LabelMap, from_class_index

Field = npt.NDArray[np.floating[Any]]
Image = npt.NDArray[np.int16]
Shares = dict[str, Field]

MODALITIES: Final = ("t1ce", "t2", "flair")
FULL_SHAPE_VOX: Final[Shape] = (240, 240, 155)
ARCHIVE_SHAPE_VOX: Final[Shape] = (160, 160, 104)
MIN_SIDE_VOX: Final = 24
_CASE_ID: Final = "BraTS20_Training_{:03d}"

_HEAD_MM: Final = (240.0, 240.0, 155.0)
_BRAIN_BOX_MM: Final = (144.0, 178.0, 144.0)
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


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One synthetic case; arrays are (H, W, D)."""

    case_id: str
    images: dict[str, Image]  # by canonical modality; 0 outside the brain, above 0 inside
    label: LabelMap  # class indices
    affine: Floats  # (4, 4), voxel index to scanner mm; LPS, 1 mm spacing


class _Canvas:
    """The box of voxels around the brain, and the random numbers of one case on it."""

    def __init__(self, shape_vox: Shape, key: tuple[int, int]) -> None:
        self.key = key
        self.voxel_mm = sum(_HEAD_MM) / sum(shape_vox)
        self.margins_vox: list[tuple[int, int]] = []
        axes_mm: list[Field] = []
        for side, head, brain in zip(shape_vox, _HEAD_MM, _BRAIN_BOX_MM, strict=True):
            margin = round(side * (1 - brain / head) / 2)
            self.margins_vox.append((margin, margin))
            centres_vox = np.arange(margin + 0.5, side - margin, dtype=np.float32)
            axes_mm.append((centres_vox / side - 0.5) * head)
        self.axes_mm = np.meshgrid(*axes_mm, indexing="ij", sparse=True)

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers of one purpose, independent of what else was drawn."""
        return np.random.default_rng([*self.key, *purpose.encode()])

    def field(self, purpose: str, cell_mm: float) -> Field:
        """Smooth random field of about unit variance; knots `cell_mm` or two voxels apart."""
        cells = [round(side / max(cell_mm, 2 * self.voxel_mm)) for side in _BRAIN_BOX_MM]
        field: Field = 3 * self.rng(purpose).standard_normal([n + 3 for n in cells], np.float32)
        for count, mm in zip(reversed(cells), reversed(self.axes_mm), strict=True):
            field = _spline(np.ascontiguousarray(np.moveaxis(field, -1, 0)), count, mm.size)
        return field


def _spline(knots: Field, cells: int, side_vox: int) -> Field:
    """Cubic B-spline along the first axis, (cells + 3, …) knots to (side_vox, …) voxels.

    Plain sums, for the rounding of a matrix product depends on the number of threads.
    """
    values = np.empty((side_vox, *knots.shape[1:]), np.float32)
    for voxel in range(side_vox):
        cell, t = divmod((voxel + 0.5) * cells / side_vox, 1)
        sixths = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
        values[voxel] = sum(w / 6 * knots[int(cell) + n] for n, w in enumerate(sixths))
    return values


def _soft(inside_mm: Field, width_mm: float) -> Field:
    """Share of a voxel that lies inside, from its centre's distance to the border."""
    return (inside_mm / width_mm + 0.5).clip(0, 1)


def _lowest(score: Field, where: Mask, share: float) -> float:
    """The value below which `share` of the voxels of `where` have their score."""
    values = score[where]
    rank = min(int(values.size * share), values.size - 1)
    return float(np.partition(values, rank)[rank])


@dataclass(frozen=True)
class _Anatomy:
    """A healthy brain: its mask, the shares of its tissues (their sum is 1), and depths."""

    brain: Mask
    shares: Shares
    ventricle_mm: Field
    pial_mm: Field  # below the nearest sulcus or surface


def _anatomy(canvas: _Canvas) -> _Anatomy:
    x, y, z = canvas.axes_mm
    rng, field, width_mm = canvas.rng("anatomy"), canvas.field, max(1.0, canvas.voxel_mm)
    a, b, c = (box / 2 * rng.uniform(0.93, 0.99) for box in _BRAIN_BOX_MM)
    taper = 1 + 0.22 * np.clip(-z / c, 0, 1)
    u, v, w = x / a * taper * (1 - 0.10 * y / b), y / b * taper, z / c
    depth_mm = 72 * (1 - np.sqrt(u * u + v * v + w * w) - 0.025 * field("outline", 30))

    fold_mm = 4.5 * np.abs(field("folds", 6)) + 0.8 * np.clip(depth_mm - 18, 0, None)
    callosum_mm = np.clip(-6 - z, 0, None) + np.clip(25 - np.hypot(y, z), 0, None)
    fissure_mm = 1.1 * (np.abs(x + 1.5 * field("fissure", 40)) + callosum_mm)
    pial_mm = np.minimum(np.minimum(fold_mm, depth_mm), fissure_mm)

    size = rng.uniform(0.9, 1.5)
    apart_mm = np.abs(x) - (9 + 0.06 * np.clip(y + 25, 0, None))
    along = ((y - 4) / 38) ** 2 + ((z - 10 + 0.004 * (y - 4) ** 2) / (11 * size)) ** 2
    horns = np.sqrt((apart_mm / (6 * size)) ** 2 + along) + 0.10 * field("horns", 18)
    ventricle_mm = 7 * size * (1 - horns)
    nuclei = np.sqrt(((np.abs(x) - 24) / 10) ** 2 + ((y - 2) / 24) ** 2 + ((z + 4) / 15) ** 2)
    nuclei_mm = 10 * (1 - nuclei - 0.15 * field("nuclei", 14))

    thread_mm = 6 * (0.16 - np.hypot(field("vessel-a", 9), field("vessel-b", 9)))
    vessel = _soft(thread_mm, width_mm) * (pial_mm < 6)
    sulci = _soft(0.8 + 0.4 * field("sulci", 25) - pial_mm, width_mm)
    fluid = np.maximum(sulci, _soft(ventricle_mm, width_mm)) * (1 - vessel)
    grey = np.maximum(_soft(3.4 - pial_mm, width_mm), _soft(nuclei_mm, 2 * width_mm))
    grey = grey * (1 - fluid - vessel)
    shares = {"grey": grey, "fluid": fluid, "vessel": vessel, "white": 1 - grey - fluid - vessel}
    return _Anatomy(depth_mm > 0, shares, ventricle_mm, pial_mm)


def _tumour(canvas: _Canvas, anatomy: _Anatomy, index: int) -> tuple[LabelMap, Shares, Field]:
    """Class indices, the shares of the tumour's tissues, and the depth below its border."""
    rng, width_mm = canvas.rng("tumour"), max(1.0, canvas.voxel_mm)
    whole_share, core_share = rng.uniform(0.035, 0.105), rng.uniform(0.35, 0.60)
    necrotic_share = rng.uniform(0.40, 0.65)
    if index % 6 == 5:
        necrotic_share = 0.0 if index % 12 == 11 else rng.uniform(0.93, 0.97)
    centre_mm = rng.uniform((26, -42, -12), (40, 45, 34)) * (rng.choice((-1, 1)), 1, 1)
    stretch = rng.uniform(0.8, 1.25, 3)
    reach_mm = 67 * float(whole_share) ** (1 / 3)

    def distance_mm(purpose: str, shift_mm: float, rough: float) -> Field:
        centre = (centre_mm + rng.uniform(-shift_mm, shift_mm, 3)).tolist()
        axes = zip(canvas.axes_mm, centre, stretch.tolist(), strict=True)
        x2, y2, z2 = (((mm - origin) * scale) ** 2 for mm, origin, scale in axes)
        wobble = canvas.field(f"{purpose}-coarse", 22) + 0.5 * canvas.field(f"{purpose}-fine", 9)
        return np.asarray(np.sqrt(x2 + y2 + z2) + rough * reach_mm * wobble, np.float32)

    # Edema keeps to white matter; inside the tumour sulci are effaced, ventricles are not.
    grey, fluid = anatomy.shares["grey"], anatomy.shares["fluid"]
    tissue = anatomy.brain & (anatomy.ventricle_mm < 0)
    whole_mm = distance_mm("edema", 0, 0.22) + 4 * grey + 6 * fluid
    core_mm = distance_mm("core", 5, 0.18)
    inner_mm = core_mm + 0.10 * reach_mm * canvas.field("necrosis", 10)
    whole_mm = _lowest(whole_mm, tissue, whole_share) - whole_mm
    whole = tissue & (whole_mm > 0)
    core_mm = _lowest(core_mm, whole, core_share) - core_mm
    core = whole & (core_mm > 0)
    inner_mm = _lowest(inner_mm, core, necrotic_share) - inner_mm
    label = np.where(whole, np.uint8(EDEMA), np.uint8(BACKGROUND))
    label[core] = ENHANCING
    label[core & (inner_mm > 0)] = NECROTIC

    in_whole = _soft(whole_mm, width_mm + 1) * _soft(-anatomy.ventricle_mm, width_mm)
    in_core = _soft(core_mm, width_mm) * in_whole
    necrotic = _soft(inner_mm, width_mm) * in_core if necrotic_share else 0 * in_core
    edema, enhancing = in_whole - in_core, in_core - necrotic
    return label, {"edema": edema, "enhancing": enhancing, "necrotic": necrotic}, whole_mm


def _bright(canvas: _Canvas, anatomy: _Anatomy, label: LabelMap, tumour_mm: Field) -> Field:
    """Share of what is as bright on FLAIR as the tumour is outside its necrotic core."""
    rng = canvas.rng("bright")
    rim = np.clip(1 + anatomy.ventricle_mm / rng.uniform(5, 9), 0, 1)
    cortex = canvas.field("cortex", 35) * _soft(5 - anatomy.pial_mm, 4)
    patches = canvas.field("patches", 13) * (1 - 0.6 * anatomy.shares["grey"])
    score = -(1.6 * rim + 0.7 * cortex + patches)
    free = anatomy.brain & (anatomy.shares["fluid"] < 0.3) & (tumour_mm < -3)
    tumour_share = np.count_nonzero(np.isin(label, (EDEMA, ENHANCING))) / np.count_nonzero(free)
    inside_mm = 8 * (_lowest(score, free, tumour_share * rng.uniform(1.2, 1.6)) - score)
    apart = np.clip(-tumour_mm / 3 - 0.5, 0, 1)
    return _soft(inside_mm, canvas.voxel_mm + 2) * apart * (1 - anatomy.shares["fluid"])


def _render(canvas: _Canvas, modality: str, brain: Mask, shares: Shares) -> Image:
    """One modality: contrast × texture × bias + noise, at the case's own scale."""
    rng = canvas.rng(modality)
    signal = np.zeros(brain.shape, np.float32)
    for tissue, mean in zip(_TISSUES, _CONTRAST[modality], strict=True):
        signal += shares[tissue] * (mean * rng.uniform(0.94, 1.06))
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
) -> Phantom:
    """Draw case `index` of a cohort; equal arguments give equal voxels.

    Every sixth case resembles a low-grade glioma: little enhancing tumour, or no necrotic
    core. `shape_vox` is (H, W, D); the head fills all alike. `modalities` are some of t1, t1ce,
    t2, flair; the choice changes none of them. Anything else raises `UsageError`.
    """
    if unknown := [name for name in modalities if name not in _CONTRAST]:
        raise UsageError(f"modality {unknown[0]!r}: expected some of {', '.join(_CONTRAST)}")
    if len(shape_vox) != 3 or min(shape_vox) < MIN_SIDE_VOX or min(index, seed) < 0:
        wanted = f"three sides of at least {MIN_SIDE_VOX}, the others not negative"
        raise UsageError(f"{shape_vox=}, {index=}, {seed=}: expected {wanted}")
    canvas = _Canvas(shape_vox, (seed, index))
    anatomy = _anatomy(canvas)
    label, shares, tumour_mm = _tumour(canvas, anatomy, index)
    shares["bright"] = _bright(canvas, anatomy, label, tumour_mm)
    left = np.clip(1 - sum(shares.values()), 0, 1)
    shares |= {tissue: share * left for tissue, share in anatomy.shares.items()}
    images = {name: _render(canvas, name, anatomy.brain, shares) for name in modalities}
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = shape_vox[1] - 1
    label = np.pad(label, canvas.margins_vox)
    return Phantom(case_id=_CASE_ID.format(index), images=images, label=label, affine=affine)


def write_cohort(
    folder: Path,
    *,
    cases: int = 12,
    shape_vox: Shape = FULL_SHAPE_VOX,
    seed: int = 0,
    modalities: Sequence[str] = MODALITIES,
) -> list[str]:
    """Write phantoms 1 to `cases` as the 2020 release lays out its cases; return their ids.

    `<folder>/<case_id>/<case_id>_{<modality>,seg}.nii.gz`: int16 images, uint8 masks with that
    release's labels, the same bytes each time. A case whose files all exist is left as it is.

    Raises:
        UsageError: files of a case exist that are not the phantom's.
    """
    case_ids = [_CASE_ID.format(index) for index in range(1, cases + 1)]
    for index, case_id in enumerate(case_ids, start=1):
        kinds = (*modalities, SEGMENTATION)
        paths = {kind: folder / case_id / _file_name(case_id, kind) for kind in kinds}
        if all(path.exists() for path in paths.values()):
            continue
        phantom = make_phantom(index, shape_vox=shape_vox, seed=seed, modalities=modalities)
        volumes: dict[str, Array] = dict(phantom.images)
        volumes[SEGMENTATION] = from_class_index(phantom.label, "brats2020")
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
    return f"{case_id}_{kind}.nii.gz"


def _nifti_bytes(voxels: Array, affine: Floats) -> bytes:
    """The content of a `.nii.gz` without a time or a name in its header."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return bytes(igzip.compress(image.to_bytes(), 1, mtime=0))
