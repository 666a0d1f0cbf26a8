"""Real scans moved by known motions: aligned again, segmented, and the mask brought home.

`pytest -m slow tests/model/test_homing.py`: four minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import REAL

from ray_brats.arrays import Floats, Mask
from ray_brats.cases import volume
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.phantom_head import grid_around, motion_about, scanned
from ray_brats.cases.raw import patient, placed, preparation
from ray_brats.cases.raw.placed import Placed
from ray_brats.cases.raw.preparation import PreparationOptions, Prepared
from ray_brats.cases.raw.record import Home
from ray_brats.model import bundle, card, predict
from ray_brats.model.predict import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.tf]
pytest.importorskip("SimpleITK")
pytest.importorskip("nilearn")

CASES = ("Brats18_CBICA_ALU_1", "Brats18_CBICA_AOP_1")
MOVES = {
    "t1ce": ((3, -2, 4), (3, 2, -4)),
    "t2": ((12, -9, 10), (15, -12, 8)),
    "flair": ((-12, 12, -12), (-15, 15, 15)),
}
"""Turns in degrees and shifts in mm of each series' own world."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A real case as three series on grids of their own."""

    geometry: Geometry
    """Of the case as it was published."""
    volumes: Mapping[str, volume.Volume]
    motions: Mapping[str, Floats]
    """From the world of each series to that of the case."""
    prepared: Prepared


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    chosen = card.choose([card.STARTER], (), card.Asked())
    return bundle.load_predictor(chosen.uris, chosen.sha256, asked=chosen.asked, threads=2)


def moved(case_id: str, slice_mm: float) -> Moved:
    folder = REAL / "brats2018/HGG" / case_id
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    volumes = {kind: volume.read(str(folder / f"{case_id}_{kind}.nii.gz")) for kind in MOVES}
    images = {kind: patient.placed_of(item) for kind, item in volumes.items()}
    head = images["t1ce"]
    points = placed.moved(head.grid.affine, np.argwhere(head.voxels > 0).astype(float))
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    in_plane_mm = 0.9 if slice_mm == 1 else 1.0
    grid = grid_around(middle, (220, 240, 200), (in_plane_mm, in_plane_mm, slice_mm))
    motions = {kind: motion_about(middle, *move) for kind, move in MOVES.items()}
    series = {
        kind: Placed(voxels=np.rint(scanned(image, grid, motions[kind])).clip(0), grid=grid)
        for kind, image in images.items()
    }
    brain = Placed(voxels=(head.voxels > 0).astype(np.float32), grid=head.grid)
    inside = placed.resampled(brain, grid, motions["t1ce"]) >= 0.5
    prepared = preparation.prepare(series, PreparationOptions(), Placed(voxels=inside, grid=grid))
    return Moved(
        geometry=volumes["t1ce"].geometry, volumes=volumes, motions=motions, prepared=prepared
    )


def dice(a: Mask, b: Mask) -> float:
    return 2 * float(np.count_nonzero(a & b)) / float(a.sum() + b.sum())


@pytest.mark.parametrize("case_id", CASES)
@pytest.mark.parametrize(
    ("slice_mm", "most_deg", "most_mm", "least_dice"),
    [(1.0, 1.0, 1.0, 0.95), (3.0, 1.0, 1.0, 0.90), (5.0, 2.0, 2.0, 0.88)],
)
def test_a_moved_case_is_aligned_and_its_mask_comes_home(
    predictor: Predictor,
    case_id: str,
    slice_mm: float,
    most_deg: float,
    most_mm: float,
    least_dice: float,
    record_property: Callable[[str, object], None],
) -> None:
    case = moved(case_id, slice_mm)
    found = case.prepared.alignment
    assert found.reference == "t1ce"
    middle = case.prepared.grid.centre_mm[None]
    for kind in ("t2", "flair"):
        true = np.linalg.inv(case.motions[kind]) @ case.motions["t1ce"]
        apart = placed.moved(found.motions[kind], middle) - placed.moved(true, middle)
        assert placed.rotation_deg(found.motions[kind] @ np.linalg.inv(true)) <= most_deg
        assert float(np.linalg.norm(apart)) <= most_mm
    images = case.prepared.images
    scans = {
        kind: volume.from_array(image.voxels, case.prepared.grid.affine)
        for kind, image in images.items()
    }
    ready = predict.read(scans, predictor.recipe.preprocess)
    # From the space to the series, and from there to the case as it was published.
    home = Home(geometry=case.geometry, motion=case.motions["t1ce"] @ images["t1ce"].motion)
    _, native = predictor.indices(ready.image_HWDC, ready.geometry, home)
    direct = predictor.segment(dict(case.volumes)).mask_native
    score = dice(native > 0, direct > 0)
    record_property("whole-tumour Dice", score)
    assert score >= least_dice
