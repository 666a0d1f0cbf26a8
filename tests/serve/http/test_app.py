"""The HTTP application, in this process: masks, refusals, places, keys and jobs."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from serve_doubles import BUNDLES, MODALITIES, Double, files_of, listening, predictor, zipped

from ray_brats import labels
from ray_brats.benchmarks.measure import max_rss_mib, rss_mib
from ray_brats.cases.volume import encode_mask
from ray_brats.serve.http import access, uploads
from ray_brats.serve.jobs.store import Change, JobRequest
from ray_brats.serve.limits import Limits
from ray_brats.serve.models import Answer

URL = "/v1/segmentations"
BOUNDARY = "multipart/form-data; boundary=x"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.fixture
def files(cohort_folder: Path) -> dict[str, bytes]:
    return files_of(cohort_folder / "BraTS20_Training_001")


def parts(files: dict[str, bytes]) -> dict[str, tuple[str, bytes]]:
    return {name: (f"{name}.nii.gz", content) for name, content in files.items()}


def expected(files: dict[str, bytes], release: str = "brats2020") -> bytes:
    found = predictor().segment(files)
    return encode_mask(labels.from_class_index(found.mask_native, release), found.geometry)


def test_the_mask_is_the_predictors_to_the_byte(files: dict[str, bytes], tmp_path: Path) -> None:
    aliased = {"t1c": files["t1ce"], "T2W": files["t2"], "t2f": files["flair"]}
    plain = {**files, "t2": gzip.decompress(files["t2"])}
    named = {f"case/BraTS20_Training_001_{name}.nii.gz": files[name] for name in files}

    async def ask() -> list[Any]:
        async with Double(tmp_path).client() as client:
            bodies: list[dict[str, Any]] = [
                {"files": parts(files)},
                {"files": parts(aliased)},
                {"files": parts(plain)},
                {"files": {"file": ("case.zip", zipped(named))}},
                {"content": zipped(named), "headers": {"content-type": "application/zip"}},
            ]
            return [await client.post(URL, **body) for body in bodies]

    for answer in run(ask()):
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/gzip"
        assert answer.content == expected(files)
        assert float(answer.headers["X-Ray-Brats-WT-ML"]) > 0


def test_json_and_another_release(files: dict[str, bytes], tmp_path: Path) -> None:
    async def ask() -> tuple[Any, Any]:
        async with Double(tmp_path).client() as client:
            told = await client.post(
                URL, files=parts(files), headers={"accept": "application/json"}
            )
            return told, await client.post(f"{URL}?release=brats2023", files=parts(files))

    told, other = run(ask())
    assert set(told.json()) == {"model", "bundles", "release", "volumes_ml", "case_id"}
    assert other.content == expected(files, "brats2023")


@pytest.mark.parametrize(
    ("how", "release"),
    [
        ("names", "brats2023"),
        ("form", "brats2021"),
        ("query", "brats2024"),
        ("neither", "brats2020"),
    ],
)
def test_a_mask_tells_whose_labels_it_carries(
    files: dict[str, bytes], tmp_path: Path, how: str, release: str
) -> None:
    stem = "BraTS-GLI-00001-000" if how == "names" else "scan"
    body: dict[str, Any] = {
        "files": {name: (f"{stem}-{name}.nii.gz", content) for name, content in files.items()}
    }
    if how == "form":
        body["data"] = {"release": release}
    query = f"?release={release}" if how == "query" else ""

    async def ask() -> list[Any]:
        async with Double(tmp_path).client() as client:
            job = (await client.post(f"/v1/jobs{query}", **body)).json()["id"]
            await wait_for(client, job, ("done",))
            answers = [await client.post(f"{URL}{query}", **body)]
            return [*answers, await client.get(f"/v1/jobs/{job}/mask")]

    for answer in run(ask()):
        assert answer.headers["X-Ray-Brats-Release"] == release
        assert answer.headers["X-Ray-Brats-Model"] == "default"
        assert answer.content == expected(files, release)


def test_what_a_body_cannot_choose_is_refused_and_not_passed_over(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    async def ask() -> list[Any]:
        async with Double(tmp_path).client() as client:
            return [
                await client.post(URL, files=parts(files), data={"model": "other"}),
                await client.post(URL, files=parts(files), data={"release": "brats1999"}),
                await client.post(URL, json={"model": "other", "images": {}}),
                await client.post(URL, json={"release": 7, "images": {}}),
            ]

    answers = run(ask())
    assert [answer.status_code for answer in answers] == [400, 422, 422, 422]
    assert [answer.json()["file"] for answer in answers] == ["model", "release"] * 2


def test_an_archive_of_countless_entries_is_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped({f"folder{number}/": b"" for number in range(300)})
    monkeypatch.setattr(uploads.zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))

    async def ask() -> Any:
        async with Double(tmp_path).client() as client:
            headers = {"content-type": "application/zip"}
            return await client.post(URL, content=content, headers=headers)

    answer = run(ask())
    assert (answer.status_code, "too many entries" in answer.text) == (400, True)


def test_a_service_that_ends_answers_what_it_accepted_and_takes_no_more(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    async def ask() -> None:
        double = Double(tmp_path)
        double.hold.clear()
        async with double.client() as client:
            accepted = [asyncio.create_task(client.post(URL, files=parts(files))) for _ in range(3)]
            while double.waiting < 3:
                await asyncio.sleep(0.01)
            assert double.service.end() == 3
            for path in (URL, "/v1/jobs"):
                refused = await client.post(path, files=parts(files))
                assert (refused.status_code, "ending" in refused.text) == (503, True)
                assert int(refused.headers["retry-after"]) > 0
            double.hold.set()
            assert {(await answer).content for answer in accepted} == {expected(files)}
            assert double.service.end() == 0

    run(ask())


def test_a_case_that_nobody_waits_for_any_more_gets_no_pass(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    async def ask() -> int:
        model = Double(tmp_path).model
        passes: list[int] = []
        made = model._predictor.segment_prepared
        model._predictor.segment_prepared = lambda one: passes.append(1) or made(one)  # type: ignore[method-assign]
        with model._one_pass:
            gone = [asyncio.create_task(model.segment(files, "brats2020")) for _ in range(3)]
            stays = asyncio.create_task(model.segment(files, "brats2020"))
            await asyncio.sleep(1)
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)
        assert isinstance(await stays, Answer)
        return len(passes)

    assert run(ask()) == 1


def header(**fields: Any) -> bytes:
    """A NIfTI-1 header of an image of 64³, with fields changed."""
    made = nib.Nifti1Header()
    made.set_data_shape((64, 64, 48))
    made.set_data_dtype(np.int16)
    made["magic"], made["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        made[name] = value
    return bytes(made.binaryblock) + bytes(4)


def moved(content: bytes) -> bytes:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    affine = image.affine.copy()
    affine[0, 3] += 5
    return bytes(nib.Nifti1Image(np.asarray(image.dataobj), affine).to_bytes())


def lying_zip(files: dict[str, bytes]) -> bytes:
    """Sizes in the archive's directory that are not those of its entries."""
    content = bytearray(zipped({f"{name}.nii.gz": files[name] for name in files}))
    at = content.find(b"PK\x01\x02")
    struct.pack_into("<II", content, at + 20, 4, 4)
    return bytes(content)


BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"hello, this is no scan " * 40,
    "one byte": lambda _: b"\x1f",
    "gzip of nothing": lambda _: gzip.compress(b""),
    "gzip of text": lambda _: gzip.compress(b"hello " * 200),
    "truncated gzip": lambda good: good[: len(good) // 2],
    "truncated header": lambda good: good[:100],
    "flipped": lambda good: good[:-200] + bytes(200),
    "bad magic": lambda _: header(magic=b"abc"),
    "huge": lambda _: header(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]),
    "too many bytes": lambda _: header(dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]),
    "negative": lambda _: header(dim=[3, -4, 64, 48, 1, 1, 1, 1]),
    "two axes": lambda _: header(dim=[2, 64, 64, 1, 1, 1, 1, 1]),
    "time series": lambda _: header(dim=[4, 64, 64, 48, 90, 1, 1, 1]),
    "complex": lambda _: header(datatype=32, bitpix=64),
    "colour": lambda _: header(datatype=128, bitpix=24),
    "no such type": lambda _: header(datatype=9999),
    "offset in header": lambda _: header(vox_offset=10),
    "offset far away": lambda _: header(vox_offset=1e9),
    "nothing but header": lambda _: header(),
    "no space": lambda _: header(pixdim=[0] * 8, srow_x=[0] * 4, sform_code=1),
    "bomb": lambda _: gzip.compress(
        header(dim=[3, 640, 640, 640, 1, 1, 1, 1]) + bytes(1 << 22), mtime=0
    ),
    "longer than promised": lambda _: gzip.compress(header() + bytes(1 << 28), 1, mtime=0),
    "shorter than promised": lambda _: gzip.compress(
        header(dim=[3, 480, 480, 480, 1, 1, 1, 1]) + bytes(1 << 12), mtime=0
    ),
    "moved": moved,
    "all zero": lambda _: gzip.compress(header() + bytes(64 * 64 * 48 * 2)),
    "png": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(500),
}


def hostile(files: dict[str, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and how the request is made."""
    for name, damage in BAD_FILES.items():
        yield name, {"files": parts({**files, "t2": damage(files["t2"])})}
    good = parts(files)
    for name in MODALITIES:
        yield f"without {name}", {"files": {k: v for k, v in good.items() if k != name}}
    yield "twice", {"files": [*good.items(), ("t1c", ("a.nii.gz", files["t1ce"]))]}
    yield "odd part", {"files": {**good, "x": ("x.bin", files["t2"])}}
    yield "many parts", {"files": [("t1", ("a", b"abcdef"))] * 40}
    yield "case_id", {"files": good, "data": {"case_id": "../../etc/passwd"}}
    yield "long field", {"files": good, "data": {"case_id": "a" * 5000}}

    def raw(kind: str, content: bytes, **more: str) -> dict[str, Any]:
        return {"content": content, "headers": {"content-type": kind, **more}}

    yield "no body", raw(BOUNDARY, b"")
    yield "no boundary", raw("multipart/form-data", b"--x\r\n")
    yield "no end", raw(BOUNDARY, b'--x\r\nContent-Disposition: form-data; name="t2"\r\n\r\nabcd')
    yield "garbage", raw(BOUNDARY, b"\x00\xff" * 100)
    yield "no type", {"content": b"abc"}
    yield "other type", raw("text/html", b"abc")
    yield "encoded", raw("application/json", b"abc", **{"content-encoding": "gzip"})
    yield "no length", raw("application/json", b"{}", **{"content-length": "x"})
    zips = {
        "zip of nothing": zipped({}),
        "no zip": b"PK\x03\x04 and then nothing",
        "slip": zipped({"../../t1ce.nii.gz": files["t1ce"]}),
        "absolute": zipped({"/etc/t1ce.nii.gz": files["t1ce"]}),
        "two cases": zipped({f"{n}/t2.nii.gz": files["t2"] for n in "ab"}),
        "many": zipped({f"{n}.txt": b"" for n in range(100)}),
        "lying": lying_zip(files),
        "cut": zipped({f"{name}.nii.gz": files[name] for name in files})[:-60],
        "zip bomb": zipped({f"{name}.nii": header() + bytes(1 << 25) for name in files}),
    }
    for name, content in zips.items():
        yield name, raw("application/zip", content)
    uris: list[Any] = [
        "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/", "s3://other/a.nii.gz",
        "s3://ours/../other/a.nii.gz", "s3://ours-too/a.nii.gz", 7, None, [], "s3://ours/a?b",
    ]  # fmt: skip
    for uri in uris:
        body = json.dumps({"images": dict.fromkeys(MODALITIES, uri)}).encode()
        yield f"uri {uri}", raw("application/json", body)
    for content in (
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"images": 3}',
        b'{"cohort": "/"}',
    ):
        yield f"json {content[:8]!r}", raw("application/json", content)


def test_hostile_uploads_are_refused_with_a_sentence(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    limits = Limits(uri_prefixes=("s3://ours",), inflated_bytes=512 << 20)

    async def ask() -> list[tuple[str, Any]]:
        async with Double(tmp_path, limits=limits).client() as client:
            return [(name, await client.post(URL, **how)) for name, how in hostile(files)]

    answers = run(ask())
    assert len(answers) >= 60
    for name, answer in answers:
        assert answer.status_code in (400, 413, 415, 422), (name, answer.status_code)
        assert len(answer.json()["error"]) > 10, name
        assert "Traceback" not in answer.text
    told = dict(answers)
    assert told["text"].json()["file"] == "t2"
    assert "grid" in told["moved"].json()["error"]
    assert told["too many bytes"].status_code in (413, 422)


def test_a_hundred_hostile_uploads_leave_memory_flat(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    limits = Limits(uri_prefixes=("s3://ours",))
    made = list(hostile(files))
    huge = gzip.compress(header(dim=[3, 480, 480, 480, 1, 1, 1, 1]) + bytes(1 << 12))
    made.append(("all shorter", {"files": parts(dict.fromkeys(files, huge))}))

    async def ask() -> tuple[list[int], list[float]]:
        async with Double(tmp_path, limits=limits).client() as client:

            async def statuses() -> list[int]:
                return [(await client.post(URL, **how)).status_code for _, how in made]

            await statuses()  # fills caches
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            before_mib = rss_mib()
            seen = [*(await statuses()), *(await statuses())]
            return seen, [before_mib, rss_mib(), max_rss_mib()]

    seen, (before_mib, after_mib, peak_mib) = run(ask())
    assert len(seen) >= 100
    assert set(seen) <= {400, 413, 415, 422}
    assert after_mib < before_mib + 16
    # The largest of them promise 0.6 GiB.
    assert peak_mib < before_mib + 64


def test_bodies_over_the_cap_are_refused_however_they_come(tmp_path: Path) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10_000):
            read += 1 << 16
            yield bytes(1 << 16)

    async def ask() -> tuple[Any, Any]:
        async with Double(tmp_path, limits=Limits(body_bytes=1 << 20)).client() as client:
            headers = {"content-type": "application/zip"}
            told = await client.post(URL, content=bytes(2 << 20), headers=headers)
            return told, await client.post(URL, content=endless(), headers=headers)

    assert [answer.status_code for answer in run(ask())] == [413, 413]
    assert read < 4 << 20


@pytest.mark.parametrize("key", [True, False])
def test_a_refused_body_is_taken_in_so_that_its_sender_reads_the_answer(
    tmp_path: Path, key: bool
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# none\n")
    limits = Limits(body_bytes=32 << 20)
    # Larger than what sockets buffer: a server that closes at once would reset the connection.
    content, headers = bytes(24 << 20), {"content-type": "text/plain", "connection": "close"}
    with listening(Double(tmp_path, limits=limits, keys=None if key else keys).app) as url:
        for path in (URL, "/nothing/here"):
            for _ in range(3):
                answer = httpx.post(url + path, content=content, headers=headers, timeout=30)
                assert answer.status_code == ((415 if path == URL else 404) if key else 401)
                assert answer.json()["error"]


def test_a_slow_upload_is_cut(tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"PK"
        await asyncio.sleep(60)

    async def ask() -> Any:
        async with Double(tmp_path, limits=Limits(idle_seconds=0.2)).client() as client:
            headers = {"content-type": "application/zip"}
            return await client.post(URL, content=slow(), headers=headers)

    assert run(ask()).status_code == 408


def test_a_full_service_says_so_before_it_reads(files: dict[str, bytes], tmp_path: Path) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        double = Double(tmp_path, limits=Limits(waiting=1))
        double.hold.clear()
        async with double.client() as client:
            accepted = [asyncio.create_task(client.post(URL, files=parts(files))) for _ in range(3)]
            await asyncio.sleep(0.5)
            sent = asyncio.Event()
            told: list[Any] = []

            async def receive() -> dict[str, Any]:
                await sent.wait()
                return {"type": "http.request", "body": bytes(9), "more_body": False}

            async def send(message: Any) -> None:
                told.append(message)
                if message["type"] == "http.response.body" and message["body"]:
                    assert not sent.is_set(), "the answer waited for the body"
                    sent.set()

            headers = [(b"content-type", b"application/zip"), (b"content-length", b"9")]
            scope = {"type": "http", "method": "POST", "path": URL, "query_string": b""}
            await asyncio.wait_for(double.app({**scope, "headers": headers}, receive, send), 10)
            assert told[-1] == {"type": "http.response.body", "body": b""}
            double.hold.set()
            return told[0], list(await asyncio.gather(*accepted))

    refused, accepted = run(ask())
    assert refused["status"] == 429
    assert int(dict(refused["headers"])[b"retry-after"]) >= 1
    assert [answer.status_code for answer in accepted] == [200, 200, 200]


def test_only_a_key_of_the_file_opens(tmp_path: Path) -> None:
    path, key, other = tmp_path / "keys", access.make_key(), access.make_key()
    path.write_text(access.line_of("clinic", key) + "\n")

    async def ask() -> list[int]:
        async with Double(tmp_path, keys=path).client() as client:

            async def status(url: str, **headers: str) -> int:
                return (await client.get(url, headers=headers)).status_code

            bearer = {"authorization": f"Bearer {key}"}
            found = [
                await status("/v1/models"),
                await status("/v1/models", authorization=f"Bearer {other}"),
                await status("/metrics"),
                await status("/healthz"),
                await status("/openapi.json"),
                await status("/v1/models", **bearer),
                await status("/v1/models", **{"x-api-key": key}),
            ]
            path.write_text(access.line_of("another", other) + "\n# rotated\n")
            found.append(await status("/v1/models", **bearer))
            path.unlink()
            return [*found, await status("/v1/models", authorization=f"Bearer {other}")]

    assert run(ask()) == [401, 401, 401, 200, 200, 200, 200, 401, 401]


def test_logs_name_no_case(
    files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask() -> Any:
        async with Double(tmp_path).client() as client:
            return await client.post(URL, files=parts(files), data={"case_id": "Jane-Doe"})

    assert run(ask()).status_code == 200
    logged = capsys.readouterr().err
    assert '"case"' in logged
    assert "Jane" not in logged


async def wait_for(client: Any, job: str, states: tuple[str, ...]) -> dict[str, Any]:
    for _ in range(600):
        told = (await client.get(f"/v1/jobs/{job}")).json()
        if told["state"] in states:
            return dict(told)
        await asyncio.sleep(0.05)
    raise AssertionError(f"the job did not end: {told}")


def test_a_job_outlives_its_server(files: dict[str, bytes], tmp_path: Path) -> None:
    async def first() -> str:
        double = Double(tmp_path)
        double.hold.clear()
        async with double.client() as client:
            answer = await client.post("/v1/jobs", files=parts(files))
            assert answer.status_code == 202
            job = str(answer.json()["id"])
            assert answer.headers["location"] == f"/v1/jobs/{job}"
            await wait_for(client, job, ("running",))
            assert (await client.get(f"/v1/jobs/{job}/mask")).status_code == 404
            return job

    async def second(job: str) -> tuple[Any, Any]:
        double = Double(tmp_path)
        await double.jobs.start()
        async with double.client() as client:
            told = await wait_for(client, job, ("done", "failed"))
            return told, await client.get(f"/v1/jobs/{job}/mask")

    job = run(first())
    told, mask = run(second(job))
    assert told["state"] == "done"
    assert told["progress"] == 1
    assert mask.content == expected(files)
    assert mask.headers["X-Ray-Brats-Bundle"] == BUNDLES[0]
    assert float(mask.headers["X-Ray-Brats-WT-ML"]) == told["volumes_ml"]["WT"] > 0
    assert not list((tmp_path / "jobs" / job).glob("*.bin"))


def test_a_starting_server_forgets_jobs_that_ended_long_ago(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    async def work() -> None:
        request = JobRequest(model="default", release="brats2020")
        old = Double(tmp_path).store.add(request, {}).id
        double = Double(tmp_path, limits=Limits(keep_days=1e-6))
        double.store.update(old, Change(state="cancelled"))
        await asyncio.sleep(0.2)  # Two of its "days".
        async with double.client() as client:
            answer = await client.post("/v1/jobs", files=parts(files))
            await wait_for(client, answer.json()["id"], ("done",))
            assert (await client.get(f"/v1/jobs/{old}")).status_code == 404

    run(work())


def test_metrics_count_cases_of_requests_and_of_jobs(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    async def ask() -> str:
        async with Double(tmp_path).client() as client:
            await client.post(URL, files=parts(files))
            await client.post(URL, files=parts({**files, "t2": b"no scan"}))
            for _ in range(2):
                job = (await client.post("/v1/jobs", files=parts(files))).json()["id"]
                await wait_for(client, job, ("done",))
            return str((await client.get("/metrics")).text)

    lines = run(ask()).splitlines()
    route = 'method="POST",route="/v1/segmentations"'
    assert f'ray_brats_requests_total{{{route},status="200"}} 1.0' in lines
    assert f'ray_brats_requests_total{{{route},status="422"}} 1.0' in lines
    assert 'ray_brats_cases_total{model="default"} 1.0' in lines
    assert 'ray_brats_jobs_cases_total{model="default"} 2.0' in lines
    assert 'ray_brats_pending{model="default"} 0.0' in lines
    assert "ray_brats_jobs_waiting 0.0" in lines
    assert 'ray_brats_seconds_count{stage="segment"} 1.0' in lines
    assert 'ray_brats_volume_ml_count{region="WT"} 1.0' in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_readiness_names_what_is_not_up(tmp_path: Path) -> None:
    double = Double(tmp_path)

    async def ask() -> Any:
        async with double.client() as client:
            return await client.get("/readyz")

    assert run(ask()).status_code == 200
    double.missing.append("model-default")
    told = run(ask())
    assert told.status_code == 503
    assert "model-default" in told.json()["error"]
    assert int(told.headers["retry-after"]) >= 1


def test_jobs_fail_with_a_reason_and_can_be_cancelled(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    async def ask() -> None:
        double = Double(tmp_path)
        async with double.client() as client:
            cut = {**files, "t2": files["t2"][:-300]}
            bad = (await client.post("/v1/jobs", files=parts(cut))).json()["id"]
            told = await wait_for(client, bad, ("failed", "done"))
            assert told["state"] == "failed"
            assert "t2" in told["error"]
            double.broken = True
            odd = (await client.post("/v1/jobs", files=parts(files))).json()["id"]
            told = await wait_for(client, odd, ("failed", "done"))
            assert told["error"] == "the job cannot be done: MemoryError"
            answer = await client.post(URL, files=parts(files))
            assert (answer.status_code, "nobody" in answer.text) == (500, False)
            double.broken = False
            double.hold.clear()
            job = (await client.post("/v1/jobs", files=parts(files))).json()["id"]
            await wait_for(client, job, ("running",))
            assert (await client.delete(f"/v1/jobs/{job}")).json()["state"] == "cancelled"
            double.hold.set()
            next_one = (await client.post("/v1/jobs", files=parts(files))).json()["id"]
            assert (await wait_for(client, next_one, ("done", "failed")))["state"] == "done"
            assert (await client.get(f"/v1/jobs/{job}")).json()["state"] == "cancelled"
            for unknown in ("0" * 32, "..%2F..", "x"):
                assert (await client.get(f"/v1/jobs/{unknown}")).status_code == 404

    run(ask())


def test_the_page_and_its_modules_come_with_the_service(tmp_path: Path) -> None:
    async def ask() -> list[Any]:
        async with Double(tmp_path).client() as client:
            return [await client.get(path) for path in ("/", "/page/main.js", "/page/nothing.js")]

    page, module, nothing = run(ask())
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert (module.status_code, "javascript" in module.headers["content-type"]) == (200, True)
    assert nothing.status_code == 404
