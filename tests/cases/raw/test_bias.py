"""The bias field of a coil goes, and the image stays."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("SimpleITK")

from ray_brats.arrays import ellipsoid
from ray_brats.cases.raw import bias
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.errors import CaseRejected

SHAPE = (64, 64, 12)
HEAD = ellipsoid(SHAPE)


def uneven() -> Placed:
    """A ball of one tissue in noise, twice as bright on one side as on the other."""
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    field = np.exp(np.linspace(-0.35, 0.35, SHAPE[0]))[:, None, None]
    voxels = np.abs(np.where(HEAD, 800, 0) * field + noise).astype(np.int16)
    return Placed(voxels=voxels, grid=Grid(shape_vox=SHAPE, affine=np.diag([3.0, 3.0, 5.0, 1.0])))


def spread(voxels: np.ndarray) -> float:
    return float(voxels[HEAD].std() / voxels[HEAD].mean())


def test_a_field_is_divided_out_in_the_same_way_each_time() -> None:
    image = uneven()
    corrected = bias.corrected(image)
    assert spread(image.voxels) > 0.15
    assert spread(corrected.voxels) < 0.5 * spread(image.voxels)
    assert corrected.voxels.dtype == np.float32
    assert corrected.voxels.shape == SHAPE
    assert corrected.grid is image.grid
    assert (bias.corrected(image).voxels == corrected.voxels).all()


def test_one_slice_has_no_field() -> None:
    flat = Placed(
        voxels=uneven().voxels[..., :1],
        grid=Grid(shape_vox=(*SHAPE[:2], 1), affine=np.eye(4)),
    )
    with pytest.raises(CaseRejected, match="bias field of 64×64×1 voxels cannot be estimated"):
        bias.corrected(flat)
