"""/v1/jobs: a job outlives its server, tells why it failed, and can be cancelled."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_doubles import BUNDLES, Double, expected, hasten, limited, parts, state_of, zipped

from ray_brats.files import storage
from ray_brats.serve.http import access
from ray_brats.serve.jobs import queue
from ray_brats.serve.jobs.quota import Quota
from ray_brats.serve.jobs.records import Change, JobRequest
from ray_brats.serve.limits import Refusal

pytestmark = pytest.mark.anyio
URL = "/v1/jobs"


async def submitted(client: httpx.AsyncClient, files: dict[str, bytes]) -> str:
    """The id of a job that was accepted."""
    answer = await client.post(URL, files=parts(files))
    assert answer.status_code == 202
    job = str(answer.json()["id"])
    assert answer.headers["location"] == f"/v1/jobs/{job}"
    return job


def test_a_job_outlives_its_server(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)

    async def first() -> str:
        double = Double(tmp_path)
        double.hold.clear()
        async with double.client() as client:
            job = await submitted(client, files)
            await state_of(client, job, "running")
            assert (await client.get(f"/v1/jobs/{job}/mask")).status_code == 404
            return job

    async def second(job: str) -> tuple[Any, Any]:
        double = Double(tmp_path)
        await double.jobs.start()
        async with double.client() as client:
            end = await state_of(client, job, "done", "failed")
            return end, await client.get(f"/v1/jobs/{job}/mask")

    # Each server dies with its event loop.
    job = asyncio.run(first())
    end, mask = asyncio.run(second(job))
    assert end["state"] == "done"
    assert end["progress"] == 1
    assert mask.content == expected(files)
    assert mask.headers["X-Ray-Brats-Bundle"] == BUNDLES[0]
    assert float(mask.headers["X-Ray-Brats-WT-ML"]) == end["volumes_ml"]["WT"] > 0
    assert not list((tmp_path / "jobs" / job).glob("*.bin"))


@limited(keep_days=1e-6)
async def test_a_starting_server_forgets_jobs_that_ended_long_ago(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    old = double.store.add(JobRequest(model="default", task="gli-2020"), {}).id
    double.store.update(old, Change(state="cancelled"))
    await asyncio.sleep(0.2)  # Two of its "days".
    await state_of(client, await submitted(client, files), "done")
    assert (await client.get(f"/v1/jobs/{old}")).status_code == 404


async def test_a_job_fails_with_a_reason(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    cut = {**files, "t2": files["t2"][:-300]}
    end = await state_of(client, await submitted(client, cut), "failed", "done")
    assert end["state"] == "failed"
    assert "t2" in end["error"]
    double.broken = True
    end = await state_of(client, await submitted(client, files), "failed", "done")
    assert end["error"] == "the job cannot be done: MemoryError"


async def test_a_cancelled_job_stays_so_and_the_next_one_is_done(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    double.hold.clear()
    job = await submitted(client, files)
    await state_of(client, job, "running")
    assert (await client.delete(f"/v1/jobs/{job}")).json()["state"] == "cancelled"
    double.hold.set()
    next_job = await submitted(client, files)
    assert (await state_of(client, next_job, "done", "failed"))["state"] == "done"
    assert (await client.get(f"/v1/jobs/{job}")).json()["state"] == "cancelled"


@limited(uri_prefixes=("s3://in",), output_prefixes=("s3://out",))
async def test_a_case_does_not_wait_for_a_cohort(
    double: Double,
    client: httpx.AsyncClient,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()

    async def endless(*_: object) -> Change:
        begun.set()
        await asyncio.sleep(3600)
        return Change()

    monkeypatch.setattr(queue.cohort, "run", endless)
    cohort = (await client.post(URL, json={"cohort": "s3://in/a", "output": "s3://out/a"})).json()
    await asyncio.wait_for(begun.wait(), 30)
    await state_of(client, await submitted(client, files), "done")
    assert (await client.get(f"{URL}/{cohort['id']}")).json()["state"] == "running"


async def test_a_job_that_finds_no_room_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "write_json", full)
    answer = await client.post(URL, files=parts(files))
    assert (answer.status_code, answer.json()["file"]) == (507, "")
    assert not [path for path in (tmp_path / "jobs").rglob("*") if path.is_file()]


@limited(state_bytes=1 << 20)
async def test_a_state_that_is_full_refuses_jobs_before_their_body_and_says_what_helps(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes], tmp_path: Path
) -> None:
    """A first job fits, a second does not; with the first deleted it does."""
    size = sum(map(len, files.values()))
    filler = tmp_path / "jobs" / ("f" * 32) / "t2.bin"
    filler.parent.mkdir(parents=True)
    filler.write_bytes(bytes((1 << 20) - 3 * size // 2))
    double.hold.clear()
    first = await submitted(client, files)

    async def short() -> AsyncIterator[bytes]:
        yield bytes(100)

    before = sorted(tmp_path.rglob("*.bin"))
    promised = {"content-type": "application/zip", "content-length": str(size)}
    refused = await client.post(URL, content=short(), headers=promised)
    assert (refused.status_code, refused.json()["file"]) == (507, "")
    assert "DELETE /v1/jobs/ID" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) > 0
    # Who does not say how long the body is, is judged by what has come.
    content = zipped(files)

    async def silent() -> AsyncIterator[bytes]:
        yield content

    refused = await client.post(URL, content=silent(), headers={"content-type": "application/zip"})
    assert refused.status_code == 507
    assert sorted(tmp_path.rglob("*.bin")) == before
    await client.delete(f"{URL}/{first}")
    await double.jobs._look()
    await submitted(client, files)


def test_what_a_count_may_have_missed_is_not_given_away_twice() -> None:
    quota = Quota(10)
    with pytest.raises(Refusal), quota.taken(11):
        pass
    with quota.taken(4), quota.counting() as sizes:
        sizes.append(0)
        quota.check(6)
        with pytest.raises(Refusal):
            quota.check(7)
    with pytest.raises(Refusal):
        quota.check(7)
    with quota.counting() as sizes:
        quota.add(1)
        sizes.append(4)
    quota.check(5)
    with pytest.raises(Refusal):
        quota.check(6)
    with pytest.raises(OSError, match="full"), quota.taken(5):
        raise OSError("full")
    quota.check(5)


async def test_a_job_that_has_ended_is_deleted_with_its_mask(
    double: Double, client: httpx.AsyncClient, files: dict[str, bytes], tmp_path: Path
) -> None:
    job = await submitted(client, files)
    await state_of(client, job, "done")
    assert (await client.delete(f"/v1/jobs/{job}")).json()["state"] == "done"
    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/mask"):
        assert (await client.get(path)).status_code == 404
    assert not [path for path in tmp_path.rglob("*") if job in str(path)]


async def test_a_job_is_its_senders_alone(tmp_path: Path, files: dict[str, bytes]) -> None:
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{access.line_of(name, name)}\n" for name in ("ward", "lab")))
    ward, lab = ({"x-api-key": name} for name in ("ward", "lab"))
    async with Double(tmp_path / "state", keys=keys).client() as client:
        client.headers = httpx.Headers(ward)
        job = await submitted(client, files)
        await state_of(client, job, "done")
        client.headers = httpx.Headers(lab)
        for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/mask"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, "no such job")
        assert (await client.delete(f"/v1/jobs/{job}")).status_code == 404
        client.headers = httpx.Headers(ward)
        assert (await client.get(f"/v1/jobs/{job}/mask")).content == expected(files)
        assert "owner" not in (await client.get(f"/v1/jobs/{job}")).json()


@pytest.mark.parametrize("job", ["0" * 32, "..%2F..", "x"])
async def test_a_job_that_there_is_not_is_not_found(client: httpx.AsyncClient, job: str) -> None:
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 404
