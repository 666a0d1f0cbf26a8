"""Images for SimpleITK, whose world runs to the left and back: NIfTI's runs right and front."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ray_brats.arrays import Array, Floats, Mask
from ray_brats.cases.raw.extra import imported
from ray_brats.cases.raw.placed import Grid, Placed

_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def simpleitk() -> Any:
    """The module; raises as `imported`."""
    return imported("SimpleITK")


def on_one_thread() -> None:
    """Sums in another order give other ends: a case must not depend on what runs beside it."""
    simpleitk().ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def image_of(image: Placed) -> Any:
    """The same image for SimpleITK, in float32."""
    return _placed(image.voxels.astype(np.float32), image.grid)


def mask_of(mask: Mask, grid: Grid) -> Any:
    """A mask for SimpleITK."""
    return _placed(mask.astype(np.uint8), grid)


def _placed(voxels: Array, grid: Grid) -> Any:
    lps = _LPS @ grid.affine
    spacing = np.array(grid.spacing_mm)
    itk = simpleitk().GetImageFromArray(np.ascontiguousarray(voxels.T))
    itk.SetSpacing([float(side) for side in spacing])
    itk.SetOrigin([float(mm) for mm in lps[:3, 3]])
    itk.SetDirection([float(x) for x in (lps[:3, :3] / spacing).ravel()])
    return itk


def array_of(itk: Any) -> Array:
    """The voxels of SimpleITK's image in the axes that `image_of` took."""
    return np.asarray(simpleitk().GetArrayFromImage(itk).T)


def point_of(point_mm: Floats) -> list[float]:
    """A point or a shift in SimpleITK's world."""
    return [float(mm) for mm in _LPS[:3, :3] @ point_mm]


def motion_of(transform: Any) -> Floats:
    """A transform with centre, matrix and translation as a map of NIfTI's world, 4 × 4."""
    centre, matrix = np.array(transform.GetCenter()), np.array(transform.GetMatrix()).reshape(3, 3)
    motion = np.eye(4)
    motion[:3, :3] = matrix
    motion[:3, 3] = np.array(transform.GetTranslation()) + centre - matrix @ centre
    return np.asarray(_LPS @ motion @ _LPS)
