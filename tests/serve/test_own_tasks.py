"""A model of somebody's own task: what clients are told of it, and its integers in every mask."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from own_tasks import FIVE, TEXT, cohort_of_five, found
from serve_doubles import Double, listening, served_of, state_of

from ray_brats.errors import UsageError
from ray_brats.files import storage
from ray_brats.model import predictions
from ray_brats.recipes import tasks
from ray_brats.recipes.tasks import TASKS
from ray_brats.stages import remote

URL = "/v1/segmentations"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases; read only."""
    return cohort_of_five(tmp_path_factory.mktemp("five"), cases=2)


@pytest.fixture
def double(tmp_path: Path) -> Double:
    return Double(tmp_path / "state", served=served_of(FIVE))


@pytest.fixture
async def client(double: Double) -> AsyncIterator[httpx.AsyncClient]:
    async with double.client() as client:
        yield client


def files(folder: Path) -> dict[str, tuple[str, bytes]]:
    (case, *_) = found(folder).cases
    return {
        kind: (storage.name_of(uri), storage.read_bytes(uri)) for kind, uri in case.images.items()
    }


def integers(content: bytes) -> set[int]:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    return set(np.unique(np.asarray(image.dataobj)).tolist())


@pytest.mark.anyio
async def test_clients_are_told_it_whole(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/v1/models")).json()["models"]
    assert tasks.from_json(model["task_definition"]) == FIVE
    assert model["task"] == "five"
    assert model["integers"] == {"five": [10, 3, 255, 4, 7]}
    # What the page draws by.
    named = [(item["name"], item["colour"]) for item in model["targets"]["classes"]]
    assert named[1] == ("swelling", "#123456")
    regions = {row["name"]: row for row in model["targets"]["regions"]}
    assert list(regions) == list(FIVE.targets.region_names)
    assert regions["LES"]["title"] == "whole lesion"
    assert regions["FLUID"] == {
        "name": "FLUID",
        "title": "all fluid",
        "classes": ["swelling", "cavity"],
        "learnt": False,
    }


@pytest.mark.anyio
async def test_masks_of_requests_and_of_jobs_have_its_integers(
    client: httpx.AsyncClient, folder: Path
) -> None:
    answer = await client.post(URL, files=files(folder))
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Ray-Brats-Task"] == "five"
    # Nested thresholds: whatever is solid is no cavity, and what is beside all of it is swelling.
    assert integers(answer.content) == {0, 3, 10, 255}
    assert {float(answer.headers[f"X-Ray-Brats-{name}-ML"]) for name in ("CAV", "BLOOD")} == {0.0}
    assert float(answer.headers["X-Ray-Brats-FLUID-ML"]) > 0
    job = (await client.post("/v1/jobs?task=five", files=files(folder))).json()["id"]
    assert set((await state_of(client, job, "done"))["volumes_ml"]) == set(
        FIVE.targets.region_names
    )
    mask = await client.get(f"/v1/jobs/{job}/mask")
    assert mask.content == answer.content
    assert mask.headers["X-Ray-Brats-Task"] == "five"
    for other in ("gli-post", "six"):
        refused = await client.post(f"{URL}?task={other}", files=files(folder))
        assert (refused.status_code, refused.json()["file"]) == (422, "task")


def test_a_cohort_goes_through_the_service_and_says_so(
    double: Double, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with listening(double.app) as url:
        service = remote.connect(url)
        assert service.task == FIVE
        summary = remote.score_through(service, found(folder), str(out), task=FIVE)
        assert (summary.counts, summary.task) == ({"ok": 2}, "five")
        edited = tasks.parse(TEXT.replace("= 10", "= 11"), "five.toml")
        with pytest.raises(UsageError, match="does not know the task five with the labels 11"):
            remote.score_through(remote.connect(url), found(folder), str(out), task=edited)
    assert predictions.made_for(str(out)) == FIVE
    assert integers((out / "p0.nii.gz").read_bytes()) == {0, 3, 10, 255}


def test_tasks_of_the_field_with_its_classes_are_known_too() -> None:
    model = served_of(TASKS["gli-2020"])
    assert set(model.integers()) >= {"gli-2020", "gli-2023", "msd-task01", "ssa"}
