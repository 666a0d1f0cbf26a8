"""POST /v1/segmentations: the mask of a case, however its files come."""

from __future__ import annotations

import gzip
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from serve_doubles import Double, expected, parts, state_of, zipped

pytestmark = pytest.mark.anyio
URL = "/v1/segmentations"


async def test_the_mask_is_the_predictors_to_the_byte(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    aliased = {"t1c": files["t1ce"], "T2W": files["t2"], "t2f": files["flair"]}
    plain = {**files, "t2": gzip.decompress(files["t2"])}
    named = {f"case/BraTS20_Training_001_{name}.nii.gz": files[name] for name in files}
    bodies: list[dict[str, Any]] = [
        {"files": parts(files)},
        {"files": parts(aliased)},
        {"files": parts(plain)},
        {"files": {"file": ("case.zip", zipped(named))}},
        {"content": zipped(named), "headers": {"content-type": "application/zip"}},
    ]
    for body in bodies:
        answer = await client.post(URL, **body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/gzip"
        assert answer.content == expected(files)
        assert float(answer.headers["X-Ray-Brats-WT-ML"]) > 0


async def test_json_tells_the_volumes_and_what_made_them(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    answer = await client.post(URL, files=parts(files), headers={"accept": "application/json"})
    told = answer.json()
    names = {"model", "bundles", "task", "release", "volumes_ml", "case_id", "remarks"}
    assert (set(told), told["remarks"]) == (names, [])
    mask = await client.post(URL, files=parts(files))
    assert answer.json()["bundles"] == mask.headers["X-Ray-Brats-Bundle"].split(",")
    for region, ml in answer.json()["volumes_ml"].items():
        assert mask.headers[f"X-Ray-Brats-{region}-ML"] == f"{ml:.6f}"


async def test_what_was_not_as_usual_is_told(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(files["t2"]))
    other = nib.Nifti1Image(np.asarray(image.dataobj) + 40, image.affine).to_bytes()
    body = {"files": parts({**files, "t2": other})}
    mask = await client.post(URL, **body)
    assert mask.headers["X-Ray-Brats-Remarks"] == "t2: its background is 40, and is taken for 0"
    told = await client.post(URL, **body, headers={"accept": "application/json"})
    assert told.json()["remarks"] == ["t2: its background is 40, and is taken for 0"]
    assert "X-Ray-Brats-Remarks" not in (await client.post(URL, files=parts(files))).headers
    job = (await client.post("/v1/jobs", **body)).json()["id"]
    assert (await state_of(client, job, "done"))["remarks"] == told.json()["remarks"]


async def test_a_skull_is_refused_with_its_modality(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(files["flair"]))
    voxels = np.asarray(image.dataobj)
    air = np.random.default_rng(0).integers(1, 60, voxels.shape)
    head = nib.Nifti1Image(np.where(voxels, voxels, air).astype(np.int16), image.affine)
    answer = await client.post(URL, files=parts({**files, "flair": head.to_bytes()}))
    assert (answer.status_code, answer.json()["file"]) == (422, "flair")
    assert "not skull-stripped" in answer.json()["error"]


@pytest.mark.parametrize(
    ("how", "task", "release"),
    [
        ("names", "gli-2023", "brats2023"),
        ("form", "gli-2021", "brats2021"),
        ("old form", "gli-2021", "brats2021"),
        ("query", "ssa", "ssa"),
        ("old query", "gli-2023", "brats2023"),
        ("neither", "gli-2020", "brats2020"),
    ],
)
async def test_a_mask_tells_whose_labels_it_carries(
    client: httpx.AsyncClient, files: dict[str, bytes], how: str, task: str, release: str
) -> None:
    stem = "BraTS-GLI-00001-000" if how == "names" else "scan"
    body: dict[str, Any] = {
        "files": {name: (f"{stem}-{name}.nii.gz", content) for name, content in files.items()}
    }
    said = f"release={release}" if "old" in how else f"task={task}"
    if "form" in how:
        body["data"] = dict([said.split("=")])
    query = f"?{said}" if "query" in how else ""
    job = (await client.post(f"/v1/jobs{query}", **body)).json()["id"]
    await state_of(client, job, "done")
    answers = [
        await client.post(f"{URL}{query}", **body),
        await client.get(f"/v1/jobs/{job}/mask"),
    ]
    for answer in answers:
        assert answer.headers["X-Ray-Brats-Release"] == release
        assert answer.headers["X-Ray-Brats-Task"] == task
        assert answer.headers["X-Ray-Brats-Model"] == "default"
        assert answer.content == expected(files, task)


REFUSED = "segments WT, TC, ET as in gli-2020, and has not learnt ped"


@pytest.mark.parametrize("where", [URL, "/v1/jobs"])
@pytest.mark.parametrize("how", ["names", "zip", "form", "query"])
async def test_a_case_of_another_task_is_refused_before_the_model_is_asked(
    client: httpx.AsyncClient, double: Double, files: dict[str, bytes], where: str, how: str
) -> None:
    stem = "BraTS-PED-00001-000" if how in ("names", "zip") else "scan"
    named = {f"{stem}-{name}.nii.gz": content for name, content in files.items()}
    if how == "zip":
        kind = {"content-type": "application/zip"}
        answer = await client.post(where, content=zipped(named), headers=kind)
    else:
        data = {"task": "ped"} if how == "form" else {}
        sent = dict(zip(files, named.items(), strict=True))
        query = "?task=ped" if how == "query" else ""
        answer = await client.post(f"{where}{query}", files=sent, data=data)
    assert (answer.status_code, answer.json()["file"]) == (422, "task")
    assert REFUSED in answer.json()["error"]
    assert double.asked == []
    assert double.store.look().free == frozenset()
