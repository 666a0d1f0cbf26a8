"""What grows in the brain of a phantom: the tumours of each task.

A glioma is edema around a core with an enhancing rim. After treatment a cavity with the contrast
of fluid lies beside it, in children a cyst in its core; metastases are many and small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ray_brats import labels
from ray_brats.arrays import Mask
from ray_brats.cases.phantom_brain import Anatomy, Canvas, Field, lowest, soft
from ray_brats.errors import UsageError
from ray_brats.labels import BACKGROUND, LabelMap, Targets
from ray_brats.recipes import tasks

CYST: Final = "cyst"
CAVITY: Final = "cavity"
RIM: Final = "rim"
"""Tissues besides those of gliomas; the cavity looks like fluid, its rim is bright on FLAIR."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The tumour of a case."""

    label: LabelMap
    """Class indices of the targets, (H, W, D)."""
    shares: Mapping[str, Field]
    """Of its tissues."""
    depth_mm: Field
    """Below its border."""


@dataclass(frozen=True, kw_only=True)
class _Tissues:
    """Class indices of what is drawn."""

    edema: int
    enhancing: int
    necrotic: int
    """Or what else does not enhance."""


def growth_of(canvas: Canvas, anatomy: Anatomy, index: int, targets: Targets) -> Growth:
    """Draw the tumour of case `index`.

    Raises:
        UsageError: there are no phantoms with these targets.
    """
    draw = _DRAWN.get(targets)
    if draw is None or targets.edema is None or targets.enhancing is None:
        drawn = [task.name for task in tasks.TASKS.values() if task.targets in _DRAWN]
        raise UsageError(f"there are no phantoms of this task: expected one of {', '.join(drawn)}")
    enhancing, necrotic = targets.enhancing
    return draw(
        canvas,
        anatomy,
        index,
        _Tissues(edema=targets.edema, enhancing=enhancing, necrotic=necrotic),
    )


def _glioma(canvas: Canvas, anatomy: Anatomy, index: int, tissues: _Tissues) -> Growth:
    """Edema around a core, whose rim enhances; every sixth resembles one of low grade."""
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
    whole_mm = lowest(whole_mm, tissue, whole_share) - whole_mm
    whole = tissue & (whole_mm > 0)
    core_mm = lowest(core_mm, whole, core_share) - core_mm
    core = whole & (core_mm > 0)
    inner_mm = lowest(inner_mm, core, necrotic_share) - inner_mm
    label = np.where(whole, np.uint8(tissues.edema), np.uint8(BACKGROUND))
    label[core] = tissues.enhancing
    label[core & (inner_mm > 0)] = tissues.necrotic

    in_whole = soft(whole_mm, width_mm + 1) * soft(-anatomy.ventricle_mm, width_mm)
    in_core = soft(core_mm, width_mm) * in_whole
    necrotic = soft(inner_mm, width_mm) * in_core if necrotic_share else 0 * in_core
    edema, enhancing = in_whole - in_core, in_core - necrotic
    shares = {"edema": edema, "enhancing": enhancing, "necrotic": necrotic}
    return Growth(label=label, shares=shares, depth_mm=whole_mm)


def _blob(
    canvas: Canvas, purpose: str, centre_mm: Field, radius_mm: float, rough: float = 0.12
) -> Field:
    """Depth in mm below the border of a ball with an uneven border."""
    axes = zip(canvas.axes_mm, centre_mm.tolist(), strict=True)
    x2, y2, z2 = ((mm - origin) ** 2 for mm, origin in axes)
    wobble = canvas.field(f"{purpose}-border", max(6.0, radius_mm))
    return np.asarray(radius_mm * (1 - rough * wobble) - np.sqrt(x2 + y2 + z2), np.float32)


def _middle_mm(canvas: Canvas, mask: Mask) -> Field:
    """The centre of mass of a mask, in mm from the centre of the head."""
    whole = max(1, int(np.count_nonzero(mask)))
    return np.array([float((mm * mask).sum()) / whole for mm in canvas.axes_mm])


def _with_cavity(
    canvas: Canvas, anatomy: Anatomy, growth: Growth, cavity: int, radius_mm: tuple[float, float]
) -> Growth:
    """A tumour with a cavity where a part of it was resected; the cavity is no tumour."""
    rng, width_mm = canvas.rng("cavity"), max(1.0, canvas.voxel_mm)
    radius = max(float(rng.uniform(*radius_mm)), 2.5 * canvas.voxel_mm)
    centre = _middle_mm(canvas, growth.label != BACKGROUND)
    aside = rng.standard_normal(3)
    centre = centre * 0.85 + aside / np.linalg.norm(aside) * radius * rng.uniform(0.6, 1.0)
    depth_mm = _blob(canvas, "cavity", centre, radius)
    inside = anatomy.brain & (anatomy.ventricle_mm < 0) & (depth_mm > 0)
    label = np.where(inside, np.uint8(cavity), growth.label)
    within = soft(depth_mm, width_mm) * soft(-anatomy.ventricle_mm, width_mm) * anatomy.brain
    shares = {tissue: share * (1 - within) for tissue, share in growth.shares.items()}
    tumour = sum(shares.values())
    shell = soft(depth_mm + 3 * width_mm, width_mm) * (1 - within) * anatomy.brain
    shares[RIM] = 0.5 * shell * np.clip(1 - tumour - within, 0, 1)
    shares[CAVITY] = within
    return Growth(
        label=label, shares=shares, depth_mm=np.maximum(growth.depth_mm, depth_mm + 3 * width_mm)
    )


def _treated(canvas: Canvas, anatomy: Anatomy, index: int, tissues: _Tissues) -> Growth:
    growth = _glioma(canvas, anatomy, index, tissues)
    cavity = tasks.TREATED_GLIOMA.region(tasks.RESECTION_CAVITY).classes[0]
    return _with_cavity(canvas, anatomy, growth, cavity, (12.0, 20.0))


def _childs(canvas: Canvas, anatomy: Anatomy, index: int, tissues: _Tissues) -> Growth:
    """A glioma with a cyst in its core."""
    growth = _glioma(canvas, anatomy, index, tissues)
    rng, width_mm = canvas.rng("cyst"), max(1.0, canvas.voxel_mm)
    core = labels.mask_of(growth.label, (tissues.enhancing, tissues.necrotic))
    if not core.any():
        return growth
    centre = _middle_mm(canvas, core) + rng.uniform(-4, 4, 3)
    score = -_blob(canvas, "cyst", centre, 20.0, rough=0.2)
    depth_mm = lowest(score, core, float(rng.uniform(0.25, 0.45))) - score
    cyst = tasks.CHILDREN.region(tasks.CYSTIC_COMPONENT).classes[0]
    label = np.where(core & (depth_mm > 0), np.uint8(cyst), growth.label)
    in_core = growth.shares["enhancing"] + growth.shares["necrotic"]
    within = soft(depth_mm, width_mm)
    shares = {
        tissue: share * (1 - within) if tissue != "edema" else share
        for tissue, share in growth.shares.items()
    }
    return Growth(label=label, shares=shares | {CYST: in_core * within}, depth_mm=growth.depth_mm)


def _metastases(canvas: Canvas, anatomy: Anatomy, index: int, tissues: _Tissues) -> Growth:
    """Many small lesions that enhance, the larger ones hollow and with edema."""
    rng, width_mm = canvas.rng("metastases"), max(1.0, canvas.voxel_mm)
    shape = anatomy.brain.shape
    label, depth_mm = np.zeros(shape, np.uint8), np.full(shape, -99.0, np.float32)
    shares = {name: np.zeros(shape, np.float32) for name in ("edema", "enhancing", "necrotic")}
    tissue = anatomy.brain & (anatomy.ventricle_mm < 0)
    inner = np.flatnonzero(tissue & (anatomy.pial_mm > 3))
    for number in range(int(rng.integers(5, 13))):
        radius = max(float(rng.uniform(3.0, 9.0)), 1.6 * canvas.voxel_mm)
        place = np.unravel_index(inner[rng.integers(inner.size)], shape)
        axes = zip(canvas.axes_mm, place, strict=True)
        centre = np.array([float(mm.ravel()[at]) for mm, at in axes])
        lesion_mm = _blob(canvas, f"metastasis-{number}", centre, radius)
        hollow_mm = lesion_mm - radius * 0.5 if radius > 5 else lesion_mm - 99
        around_mm = lesion_mm + (radius * rng.uniform(0.4, 1.0) if radius > 4 else 0)
        free = tissue & (label == BACKGROUND)
        label[free & (around_mm > 0)] = tissues.edema
        label[tissue & (lesion_mm > 0)] = tissues.enhancing
        label[tissue & (hollow_mm > 0)] = tissues.necrotic
        within = soft(around_mm, width_mm) * anatomy.brain
        solid, hollow = soft(lesion_mm, width_mm), soft(hollow_mm, width_mm)
        for name, part in (
            ("edema", within * (1 - solid)),
            ("enhancing", within * solid * (1 - hollow)),
            ("necrotic", within * hollow),
        ):
            shares[name] = np.where(around_mm > -width_mm, part, shares[name])
        depth_mm = np.maximum(depth_mm, around_mm)
    growth = Growth(label=label, shares=shares, depth_mm=depth_mm)
    if index % 3:
        return growth
    cavity = tasks.METASTASES.region(tasks.RESECTION_CAVITY).classes[0]
    return _with_cavity(canvas, anatomy, growth, cavity, (8.0, 14.0))


Draw = Callable[[Canvas, Anatomy, int, _Tissues], Growth]
_DRAWN: Final[Mapping[Targets, Draw]] = {
    tasks.GLIOMA: _glioma,
    tasks.TREATED_GLIOMA: _treated,
    tasks.CHILDREN: _childs,
    tasks.METASTASES: _metastases,
}


def bright_share(canvas: Canvas, anatomy: Anatomy, growth: Growth, targets: Targets) -> Field:
    """Share of what is as bright on FLAIR as the tumour is outside its necrotic core."""
    assert targets.edema is not None
    assert targets.enhancing is not None
    bright = (targets.edema, targets.enhancing[0])
    rng, tumour_mm = canvas.rng("bright"), growth.depth_mm
    rim = np.clip(1 + anatomy.ventricle_mm / rng.uniform(5, 9), 0, 1)
    cortex = canvas.field("cortex", 35) * soft(5 - anatomy.pial_mm, 4)
    patches = canvas.field("patches", 13) * (1 - 0.6 * anatomy.shares["grey"])
    score = -(1.6 * rim + 0.7 * cortex + patches)
    free = anatomy.brain & (anatomy.shares["fluid"] < 0.3) & (tumour_mm < -3)
    tumour_share = np.count_nonzero(labels.mask_of(growth.label, bright)) / np.count_nonzero(free)
    inside_mm = 8 * (lowest(score, free, tumour_share * rng.uniform(1.2, 1.6)) - score)
    apart = np.clip(-tumour_mm / 3 - 0.5, 0, 1)
    return soft(inside_mm, canvas.voxel_mm + 2) * apart * (1 - anatomy.shares["fluid"])
