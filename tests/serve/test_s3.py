"""Images and cohorts by `s3://` URI, against a real HTTP endpoint: masks, sidecars, ledger."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
import shapes
from serve_doubles import (
    MODALITIES,
    SERVED,
    SMOKE,
    Double,
    expected,
    files_of,
    limited,
    listening,
    state_of,
)

from ray_brats.cases import cohort as cohorts
from ray_brats.cases import volume
from ray_brats.files import ledger, ownership, storage
from ray_brats.files.ledger import Work
from ray_brats.model.predictions import Predictions
from ray_brats.recipes.tasks import TASKS
from ray_brats.serve.limits import Limits
from ray_brats.stages import remote

CASES = [f"BraTS20_Training_00{n}" for n in (1, 2, 3)]


@pytest.fixture
def phantoms(bucket: str, cohort_folder: Path) -> str:
    """Three phantoms in a bucket."""
    for case in CASES:
        for file in (cohort_folder / case).glob("*.nii.gz"):
            storage.write_bytes(f"{bucket}/in/{case}/{file.name}", file.read_bytes())
    return f"{bucket}/in"


@pytest.fixture
def limits(bucket: str) -> Limits:
    return Limits(uri_prefixes=(f"{bucket}/in",), output_prefixes=(f"{bucket}/out",))


def uris(phantoms: str, case: str = CASES[0]) -> dict[str, str]:
    return {kind: f"{phantoms}/{case}/{case}_{kind}.nii.gz" for kind in MODALITIES}


async def ended(client: httpx.AsyncClient, body: dict[str, Any], query: str = "") -> dict[str, Any]:
    """The job of a body, once it has ended."""
    accepted = await client.post(f"/v1/jobs{query}", json=body)
    assert accepted.status_code == 202, accepted.text
    return await state_of(client, accepted.json()["id"], "done", "failed", "cancelled")


def work_of(phantoms: str, output: str, task: str = "gli-2020") -> list[Work]:
    """What direct scoring would do."""
    found = cohorts.find(phantoms)
    identity, prepare = SERVED.card["identity"], SMOKE.preprocess
    target = Predictions(uri=output, identity=identity, preprocessing=prepare, task=TASKS[task])
    return [target.work_of(case) for case in found.cases]


@pytest.mark.anyio
async def test_images_by_uri_give_the_predictors_mask(
    phantoms: str, bucket: str, limits: Limits, cohort_folder: Path
) -> None:
    absent = {**uris(phantoms), "t2": f"{phantoms}/nothing_t2.nii.gz"}
    # Jobs are kept in the bucket too.
    async with Double(f"{bucket}/state", limits=limits).client() as client:
        body = {"images": uris(phantoms), "case_id": CASES[0]}
        answer = await client.post("/v1/segmentations", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.content == expected(files_of(cohort_folder / CASES[0]))
        refused = await client.post("/v1/segmentations", json={"images": absent})
        assert (refused.status_code, refused.json()["file"]) == (422, "t2")
        assert "s3://" not in refused.json()["error"]
        assert (await ended(client, {"images": uris(phantoms)}))["state"] == "done"


def channels_in(bucket: str, cohort_folder: Path, folder: Path) -> dict[str, str]:
    """The scans of the first phantom as channels of one file in the bucket."""
    (case,) = cohorts.find(str(cohort_folder / CASES[0])).cases
    voxels, like = shapes.stacked(case, shapes.DECATHLON)
    shapes.save(folder / "scans.nii.gz", voxels, like)
    place = f"{bucket}/in/scans.nii.gz"
    storage.write_bytes(place, (folder / "scans.nii.gz").read_bytes())
    names = [name for name in shapes.DECATHLON if name in case.images]
    return {name: f"{place}#{number}" for number, name in enumerate(names)}


@pytest.mark.anyio
async def test_images_may_be_channels_of_one_file(
    bucket: str, cohort_folder: Path, tmp_path: Path
) -> None:
    images = channels_in(bucket, cohort_folder, tmp_path)
    whole = volume.read_header(images["t2"]).promised_bytes
    # The file is inflated once, and counts once.
    limits = Limits(uri_prefixes=(f"{bucket}/in",), inflated_bytes=whole)
    alone = {**images, "t2": f"{bucket}/in/scans.nii.gz"}
    async with Double(f"{bucket}/state", limits=limits).client() as client:
        answer = await client.post("/v1/segmentations", json={"images": images})
        assert answer.status_code == 200, answer.text
        raw = volume.parse(answer.content, "mask").voxels_HWD
        mask = volume.parse(expected(files_of(cohort_folder / CASES[0])), "mask").voxels_HWD
        assert (raw == mask).all()
        assert (await ended(client, {"images": images}))["state"] == "done"
        for wrong, why in [
            ({**images, "t2": f"{images['t2'][:-1]}9"}, "no channel 9: the file holds 3"),
            (alone, "of a 4-D file one channel is read"),
            ({**images, "t2": f"{bucket}/else/scans.nii.gz#0"}, "outside the prefixes"),
            ({**images, "t2": f"{bucket}/in/scans.nii.gz#a"}, "not a plain s3://bucket/key"),
            ({**images, "t2": f"{bucket}/in/scans.nii.gz#0#1"}, "not a plain s3://bucket/key"),
        ]:
            refused = await client.post("/v1/segmentations", json={"images": wrong})
            assert (refused.status_code, refused.json()["file"]) == (422, "t2"), wrong
            assert why in refused.json()["error"]


@pytest.mark.anyio
async def test_a_csv_of_channels_is_a_job(
    client: httpx.AsyncClient, bucket: str, cohort_folder: Path, tmp_path: Path
) -> None:
    images = channels_in(bucket, cohort_folder, tmp_path)
    lines = [["case_id", *images], [CASES[0], *images.values()]]
    text = "\n".join(",".join(line) for line in lines)
    storage.write_bytes(f"{bucket}/in/cohort.csv", text.encode())
    body = {"cohort": f"{bucket}/in/cohort.csv", "output": f"{bucket}/out"}
    assert (await ended(client, body))["state"] == "done"
    made = storage.read_bytes(f"{bucket}/out/{CASES[0]}.nii.gz")
    mask = volume.parse(expected(files_of(cohort_folder / CASES[0])), "mask").voxels_HWD
    assert (volume.parse(made, "mask").voxels_HWD == mask).all()


@limited(uri_prefixes=("s3://cohorts",), inflated_bytes=1 << 20)
@pytest.mark.anyio
async def test_large_images_by_uri_are_refused_by_their_headers(
    client: httpx.AsyncClient, phantoms: str
) -> None:
    answer = await client.post("/v1/segmentations", json={"images": uris(phantoms)})
    assert answer.status_code == 413
    assert str(1 << 20) in answer.json()["error"]


@pytest.mark.anyio
async def test_a_cohort_job_leaves_what_direct_scoring_leaves(
    double: Double, client: httpx.AsyncClient, phantoms: str, bucket: str, cohort_folder: Path
) -> None:
    out = f"{bucket}/out"

    async def asked(query: str = "") -> list[dict[str, Any]]:
        """The cases that the model is asked for by a job over the cohort."""
        double.asked.clear()
        end = await ended(client, {"cohort": phantoms, "output": out}, query)
        assert end["state"] == "done"
        return list(double.asked)

    assert len(await asked()) == 3
    finished, todo = ledger.split_finished(
        work_of(phantoms, out), ledger.Output(uri=out, description="score.json")
    )
    assert (len(finished), todo) == (3, [])
    for row in ledger.read_table(f"{out}/scores.parquet"):
        assert (row["status"], row["attempts"]) == ("ok", 1)
        assert row["wt_ml"] > 0
        mask = storage.read_bytes(f"{out}/{row['case_id']}.nii.gz")
        assert mask == expected(files_of(cohort_folder / row["case_id"]))
    assert storage.read_json(f"{out}/score.json")["identity"] == SERVED.card["identity"]
    assert await asked() == [], "finished work is never redone"

    # Another scan under the old name: its mask is made anew, and the others stay.
    other = (cohort_folder / "BraTS20_Training_004").glob("*.nii.gz")
    for file in other:
        kind = file.name.rsplit("_", 1)[1]
        storage.write_bytes(f"{phantoms}/{CASES[1]}/{CASES[1]}_{kind}", file.read_bytes())
    assert [images["t2"] for images in await asked()] == [uris(phantoms, CASES[1])["t2"]]
    mask = storage.read_bytes(f"{out}/{CASES[1]}.nii.gz")
    assert mask == expected(files_of(cohort_folder / "BraTS20_Training_004"))

    # Other labels: every mask is made anew.
    assert len(await asked("?release=brats2023")) == 3
    assert (
        ledger.split_finished(
            work_of(phantoms, out, "gli-2023"), ledger.Output(uri=out, description="score.json")
        )[1]
        == []
    )


def test_score_through_the_endpoint_goes_from_bucket_to_bucket(
    double: Double, phantoms: str, bucket: str
) -> None:
    out = f"{bucket}/out"
    with listening(double.app) as url:
        found = cohorts.find(phantoms)
        summary = remote.score_through(remote.connect(url), found, out)
        assert (summary.counts, summary.processed) == ({"ok": 3}, 3)
        # A job of the same service goes on where the client ended: nothing is left to do.
        double.asked.clear()
        body = {"cohort": phantoms, "output": out}
        with httpx.Client(base_url=url, timeout=60) as client:
            where = client.post("/v1/jobs", json=body).headers["location"]
            while (told := client.get(where).json())["state"] in ("queued", "running"):
                time.sleep(0.05)
    assert told["state"] == "done"
    assert double.asked == []


@pytest.mark.anyio
async def test_a_bad_case_of_a_cohort_is_a_row(
    client: httpx.AsyncClient, phantoms: str, bucket: str
) -> None:
    out, bad = f"{bucket}/out", uris(phantoms, CASES[2])["flair"]
    storage.write_bytes(bad, storage.read_bytes(bad)[:-300])
    storage.delete(uris(phantoms, CASES[1])["t2"])
    end = await ended(client, {"cohort": phantoms, "output": out})
    assert (end["state"], end["error"]) == ("failed", "2 of 3 cases failed: see scores.parquet")
    rows = {row["case_id"]: row for row in ledger.read_table(f"{out}/scores.parquet")}
    assert [rows[case]["status"] for case in CASES] == ["ok", "rejected", "rejected"]
    assert rows[CASES[2]]["file"] == bad
    assert "t2 is missing" in rows[CASES[1]]["reason"]


@pytest.mark.anyio
async def test_a_described_cohort_is_scored_by_channels_that_are_no_guess(
    client: httpx.AsyncClient, bucket: str, cohort_folder: Path, tmp_path: Path
) -> None:
    shapes.decathlon(cohorts.find(str(cohort_folder / CASES[0])).cases[0], tmp_path)
    image = nib.load(tmp_path / f"imagesTr/{CASES[0]}.nii.gz")
    voxels = np.asarray(image.dataobj)[..., [0, 0, 1, 2]]
    shapes.save(tmp_path / "imagesTs/other.nii.gz", voxels, image)
    for file in sorted(path for path in tmp_path.rglob("*.*") if path.is_file()):
        name = file.relative_to(tmp_path).as_posix()
        storage.write_bytes(f"{bucket}/in/{name}", file.read_bytes())
    end = await ended(client, {"cohort": f"{bucket}/in", "output": f"{bucket}/out"})
    assert end["error"] == "1 of 2 cases failed: see scores.parquet"
    good, bad = ledger.read_table(f"{bucket}/out/scores.parquet")
    assert (good["status"], bad["status"]) == ("ok", "rejected")
    # It has a channel of each number that is asked for.
    assert "holds 4 scan(s), and dataset.json names 3" in bad["reason"]
    raw = storage.read_bytes(f"{bucket}/out/{CASES[0]}.nii.gz")
    assert volume.parse(raw, "mask").voxels_HWD.shape == image.shape[:3]


@pytest.mark.anyio
async def test_cases_of_another_task_are_refused_before_the_model_is_asked(
    double: Double, client: httpx.AsyncClient, phantoms: str, bucket: str
) -> None:
    names = uris(phantoms)
    for case in ("BraTS-PED-00001-000", "BraTS-PED-00002-000"):
        for kind, uri in names.items():
            storage.write_bytes(f"{bucket}/in/ped/{case}-{kind}.nii.gz", storage.read_bytes(uri))
    children = {kind: f"{bucket}/in/ped/BraTS-PED-00001-000-{kind}.nii.gz" for kind in names}
    for body in ({"images": children}, {"images": names, "case_id": "BraTS-PED-00001-000"}):
        for route in ("/v1/segmentations", "/v1/jobs"):
            refused = await client.post(route, json=body)
            assert (refused.status_code, refused.json()["file"]) == (422, "task")
            assert "has not learnt ped" in refused.json()["error"]
    out = f"{bucket}/out"
    end = await ended(client, {"cohort": f"{bucket}/in/ped", "output": out})
    assert end["state"] == "failed"
    assert "expected a bundle that was trained on cases of ped" in end["error"]
    asked = {"cohort": phantoms, "output": out, "task": "ped"}
    refused = await client.post("/v1/jobs", json=asked)
    assert (refused.status_code, refused.json()["file"]) == (422, "task")
    assert (double.asked, storage.list_files(out)) == ([], [])


@pytest.mark.anyio
async def test_a_csv_cannot_name_what_a_client_may_not(
    client: httpx.AsyncClient,
    phantoms: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []
    list_files = storage.list_files

    def watched(uri: str, **how: Any) -> Any:
        looked.append(uri)
        return list_files(uri, **how)

    monkeypatch.setattr(storage, "list_files", watched)
    places = ["/etc/passwd", "http://127.0.0.1:1/x", f"{bucket}/other/t2.nii.gz", "../../x"]
    good = ",".join([CASES[0], *uris(phantoms).values()])
    lines = [f"case{n},{place},{place},{place}" for n, place in enumerate(places)]
    text = "\n".join([f"case_id,{','.join(MODALITIES)}", good, *lines])
    storage.write_bytes(f"{phantoms}/cohort.csv", text.encode())
    body = {"cohort": f"{phantoms}/cohort.csv", "output": f"{bucket}/out"}
    assert "4 of 5" in (await ended(client, body))["error"]
    rows = ledger.read_table(f"{bucket}/out/scores.parquet")
    assert [row["status"] for row in rows] == ["ok", *["rejected"] * 4]
    allowed = (f"{bucket}/in", f"{bucket}/out", str(tmp_path))
    assert looked
    assert [uri for uri in looked if not uri.startswith(allowed)] == []


@pytest.mark.anyio
async def test_a_cancelled_cohort_leaves_no_failed_sidecar(
    double: Double, client: httpx.AsyncClient, phantoms: str, bucket: str
) -> None:
    double.hold.clear()
    body = {"cohort": phantoms, "output": f"{bucket}/out"}
    where = (await client.post("/v1/jobs", json=body)).headers["location"]
    while not double.waiting:
        await asyncio.sleep(0.02)
    assert (await client.delete(where)).json()["state"] == "cancelled"
    await asyncio.sleep(0.3)
    left = [file.uri for file in storage.list_files(f"{bucket}/out")]
    assert left == [f"{bucket}/out/{ownership.BEGUN}"]


@pytest.mark.anyio
async def test_an_unknown_cohort_fails_with_the_reason(
    client: httpx.AsyncClient, bucket: str
) -> None:
    end = await ended(client, {"cohort": f"{bucket}/in/no", "output": f"{bucket}/out"})
    assert end["state"] == "failed"
    assert "no such folder" in json.dumps(end)
