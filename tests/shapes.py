"""The cases of a cohort in the other shapes of the field: Decathlon, nnU-Net raw, BIDS, folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ray_brats.cases.case import Case

DECATHLON = {"flair": "FLAIR", "t1": "T1w", "t1ce": "t1gd", "t2": "T2w"}
"""Modality to its name in the Decathlon's `dataset.json`, in that one's order."""
NNUNET = {"t1": "T1", "t1ce": "T1-Gd", "t2": "T2", "flair": "T2-FLAIR"}
BIDS = {"t1": "T1w", "t1ce": "ce-gadolinium_T1w", "t2": "acq-3D_T2w", "flair": "FLAIR"}
ANYWHERE = {
    "t1": "T1_brain",
    "t1ce": "T1_Gd_to_T1_brain",
    "t2": "T2_to_T1",
    "flair": "FLAIR_to_T1",
}
LABELS = {"background": 0, "necrotic core": 1, "edema": 2, "enhancing tumour": 3}


def write_json(folder: Path, **values: Any) -> None:
    """A `dataset.json` with these names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(values))


def save(path: Path, voxels: np.ndarray, like: Any) -> None:
    """Voxels on the grid of another image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, like.affine)
    image.set_qform(like.affine, int(like.header["qform_code"]))
    image.set_sform(like.affine, int(like.header["sform_code"]) or 1)
    nib.save(image, path)


def stacked(case: Case, names: Mapping[str, str]) -> tuple[np.ndarray, Any]:
    """The scans of a case along a fourth axis, in the order of the names, and the first of them."""
    images = [nib.load(case.images[name]) for name in names if name in case.images]
    return np.stack([np.asarray(image.dataobj) for image in images], axis=-1), images[0]


def save_mask(path: Path, case: Case) -> None:
    """The mask with the integers 1, 2 and 3, in which the fields' other sets are published."""
    image = nib.load(str(case.segmentation))
    raw = np.asarray(image.dataobj).astype(np.uint8)
    save(path, np.where(raw == 4, 3, raw).astype(np.uint8), image)


def decathlon(case: Case, folder: Path) -> None:
    """`imagesTr/CASE.nii.gz` with all scans, `labelsTr/CASE.nii.gz`, and macOS's own files."""
    voxels, like = stacked(case, DECATHLON)
    save(folder / f"imagesTr/{case.case_id}.nii.gz", voxels, like)
    (folder / f"imagesTr/._{case.case_id}.nii.gz").write_bytes(b"Mac OS X")
    save_mask(folder / f"labelsTr/{case.case_id}.nii.gz", case)
    names = [name for modality, name in DECATHLON.items() if modality in case.images]
    write_json(
        folder,
        name="BRATS",
        tensorImageSize="4D",
        modality={str(number): name for number, name in enumerate(names)},
        labels={str(number): name for name, number in LABELS.items()},
        numTraining=1,
        training=[{"image": "/etc/passwd", "label": "../../labelsTr/x.nii.gz"}],
        test=["./imagesTs/absent.nii.gz"],
    )


def nnunet(case: Case, folder: Path) -> None:
    """`imagesTr/CASE_0000.nii.gz` …, `labelsTr/CASE.nii.gz`."""
    names = [modality for modality in NNUNET if modality in case.images]
    for number, modality in enumerate(names):
        target = folder / f"imagesTr/{case.case_id}_{number:04d}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(case.images[modality], target)
    save_mask(folder / f"labelsTr/{case.case_id}.nii.gz", case)
    write_json(
        folder,
        channel_names={str(number): NNUNET[name] for number, name in enumerate(names)},
        labels=LABELS,
        numTraining=1,
        file_ending=".nii.gz",
    )


def bids(case: Case, folder: Path) -> None:
    """`sub-X/ses-1/anat/sub-X_ses-1_T1w.nii.gz` …, and a mask among derivatives."""
    subject = "sub-" + "".join(filter(str.isalnum, case.case_id))
    anat = folder / subject / "ses-1/anat"
    anat.mkdir(parents=True, exist_ok=True)
    for modality, uri in case.images.items():
        shutil.copy(uri, anat / f"{subject}_ses-1_{BIDS[modality]}.nii.gz")
    name = f"{subject}_ses-1_label-tumor_mask.nii.gz"
    save_mask(folder / "derivatives/manual" / subject / "ses-1/anat" / name, case)


def anywhere(case: Case, folder: Path) -> None:
    """A folder of the case, with the modality amid names, and `seg.nii.gz`."""
    place = folder / "files of P_1"
    place.mkdir(parents=True, exist_ok=True)
    for modality, uri in case.images.items():
        shutil.copy(uri, place / f"P_1_{ANYWHERE[modality]}.nii.gz")
    save_mask(place / "seg.nii.gz", case)


def csv_of_4d(case: Case, folder: Path) -> None:
    """A 4-D file of any name, and `cohort.csv` that names its channels."""
    voxels, like = stacked(case, DECATHLON)
    save(folder / "scans/a #1.nii.gz", voxels, like)
    save_mask(folder / "scans/a mask.nii.gz", case)
    names = [modality for modality in DECATHLON if modality in case.images]
    places = [f"scans/a #1.nii.gz#{number}" for number in range(len(names))]
    lines = (["case_id", *names, "seg"], [case.case_id, *places, "scans/a mask.nii.gz"])
    (folder / "cohort.csv").write_text("\n".join(",".join(line) for line in lines))


def radiotherapy(case: Case, folder: Path) -> Path:
    """`BraTS-MEN-RT-0001-1/…_t1c.nii.gz` and `…_gtv.nii.gz`, its one class; the case's folder."""
    name = "BraTS-MEN-RT-0001-1"
    (folder / name).mkdir(parents=True)
    shutil.copy(case.images["t1ce"], folder / name / f"{name}_t1c.nii.gz")
    mask = nib.load(str(case.segmentation))
    voxels = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
    save(folder / name / f"{name}_gtv.nii.gz", voxels, mask)
    return folder / name


Writer = Callable[[Case, Path], None]
WRITERS: Mapping[str, Writer] = {
    "decathlon": decathlon,
    "nnunet": nnunet,
    "bids": bids,
    "anywhere": anywhere,
    "csv": csv_of_4d,
}


def place(folder: Path | str, name: str) -> str:
    """What to pass as the cohort of a shape below a folder or prefix."""
    return f"{folder}/cohort.csv" if name == "csv" else str(folder)
