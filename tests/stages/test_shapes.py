"""The starter's masks of real cases are the same voxels, whatever shape their cohort has."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import shapes
from commands.test_cli import ray_brats

from ray_brats.cases import cohort as cohorts
from ray_brats.cases.case import Cohort

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.tf, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def unseen(real_data: Path) -> Cohort:
    """The cases that the starter has not learnt from."""
    with (real_data / "split.csv").open() as file:
        split = {row["case_id"]: row["split"] for row in csv.DictReader(file)}
    found = cohorts.find(str(real_data / "brats2018"))
    cases = tuple(case for case in found.cases if split[case.case_id] == "val")
    assert len(cases) == 6
    return dataclasses.replace(found, cases=cases, rejected=())


def masks_of(place: str, folder: Path, *arguments: object) -> Mapping[str, np.ndarray]:
    """Masks by what all shapes leave of a case's name: its letters and digits."""
    done = ray_brats("score", place, folder, *arguments)
    assert done.returncode == 0, done.stderr
    masks = {
        "".join(filter(str.isalnum, path.name.removesuffix(".nii.gz"))): np.asarray(
            nib.load(path).dataobj
        )
        for path in folder.glob("*.nii.gz")
    }
    assert len(masks) == 6
    return masks


@pytest.fixture(scope="module")
def expected(
    unseen: Cohort, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, np.ndarray]:
    """The masks of the cases as BraTS names them, with the integers of other sets."""
    split = ("--split", real_data / "split.csv", "--subset", "val", "--task", "gli-2023")
    return masks_of(str(real_data / "brats2018"), tmp_path_factory.mktemp("brats"), *split)


@pytest.mark.parametrize("shape", ["decathlon", "nnunet", "bids"])
def test_masks_are_the_same_voxels(
    unseen: Cohort, expected: Mapping[str, np.ndarray], shape: str, tmp_path: Path
) -> None:
    for case in unseen.cases:
        shapes.WRITERS[shape](case, tmp_path / "cohort")
    place = shapes.place(tmp_path / "cohort", shape)
    masks = masks_of(place, tmp_path / "masks", "--task", "gli-2023")
    for name, mask in expected.items():
        (other,) = (masks[key] for key in masks if name in key)
        np.testing.assert_array_equal(other, mask, err_msg=name)
