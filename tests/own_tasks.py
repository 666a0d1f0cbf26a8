"""A task of somebody's own: five classes, regions beside and within each other, odd integers."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import phantom
from ray_brats.cases.case import Case, Cohort
from ray_brats.recipes import tasks
from ray_brats.recipes.tasks import TASKS

TEXT = """\
name = "five"
modalities = ["t1ce", "t2", "flair"]
small_lesion_mm3 = 12.5

[[classes]]
name = "necrosis"
integer = 10

[[classes]]
name = "swelling"
integer = 3
colour = "#123456"

[[classes]]
name = "rim"
integer = 255

[[classes]]
name = "cavity"
integer = 4

[[classes]]
name = "blood"
integer = 7

[[regions]]
name = "LES"
title = "whole lesion"
classes = ["necrosis", "swelling", "rim"]

[[regions]]
name = "SOLID"
classes = ["necrosis", "rim"]

[[regions]]
name = "RIM"
classes = ["rim"]

[[regions]]
name = "CAV"
classes = ["cavity"]

[[regions]]
name = "BLOOD"
classes = ["blood"]

[[regions]]
name = "FLUID"
title = "all fluid"
classes = ["cavity", "swelling"]
learnt = false
"""
FIVE = tasks.parse(TEXT, "five.toml")
"""Of its regions FLUID lies across others: it is scored alone."""
SHAPE_VOX = (40, 40, 32)


def cohort_of_five(folder: Path, cases: int = 3) -> Path:
    """Phantoms of treated gliomas with this task's integers, blood in a corner of the cavity."""
    phantom.write_cohort(folder, cases=cases, shape_vox=SHAPE_VOX, task=TASKS["gli-post"])
    for number, old in enumerate(sorted(folder.iterdir())):
        name = f"p{number}"
        (folder / name).mkdir()
        for file in old.iterdir():
            kind = file.name.rsplit("-", 1)[1]
            file.rename(folder / name / f"{name}_{kind}")
        old.rmdir()
        mask = folder / name / f"{name}_seg.nii.gz"
        image = nib.load(mask)
        index = np.ascontiguousarray(image.dataobj, np.uint8)
        cavity = np.flatnonzero(index == 4)
        index.reshape(-1)[cavity[: len(cavity) // 3]] = 5
        raw = np.array([0, *FIVE.integers], np.uint8)[index]
        nib.save(nib.Nifti1Image(raw, image.affine), mask)
    return folder


def found(folder: Path) -> Cohort:
    """The cohort, read as of this task."""
    return cohorts.find(str(folder), task=FIVE)


def through_arrow(case: Case) -> Case:
    """What a worker gets of a case, beside one of another task."""
    other = Case(case_id="o", patient_id="o", images={"t1": "u"}, task=TASKS["ped"])
    bare = Case(case_id="n", patient_id="n", images={"flair": "u"})
    table = pa.Table.from_pylist([item.as_row() for item in (other, case, bare)])
    first, second, third = map(Case.from_row, table.to_pylist())
    assert (first, third) == (other, bare)
    return second
