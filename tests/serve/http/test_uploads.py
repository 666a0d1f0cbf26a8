"""What comes in as the files of a case: hostile bodies are refused with a sentence, and cheaply."""

from __future__ import annotations

import gzip
import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_doubles import MODALITIES, limited, parts, zipped

from ray_brats.benchmarks.measure import max_rss_mib, rss_mib
from ray_brats.cases import naming
from ray_brats.serve.http import uploads
from ray_brats.serve.limits import Limits, Refusal

pytestmark = pytest.mark.anyio
URL = "/v1/segmentations"
BOUNDARY = "multipart/form-data; boundary=x"


async def test_what_a_body_cannot_choose_is_refused_and_not_passed_over(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    answers = [
        await client.post(URL, files=parts(files), data={"model": "other"}),
        await client.post(URL, files=parts(files), data={"release": "brats1999"}),
        await client.post(URL, json={"model": "other", "images": {}}),
        await client.post(URL, json={"release": 7, "images": {}}),
    ]
    assert [answer.status_code for answer in answers] == [400, 422, 422, 422]
    assert [answer.json()["file"] for answer in answers] == ["model", "task"] * 2


async def test_an_archive_of_countless_entries_is_refused_before_they_are_listed(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped({f"folder{number}/": b"" for number in range(300)})
    monkeypatch.setattr(uploads.zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
    headers = {"content-type": "application/zip"}
    answer = await client.post(URL, content=content, headers=headers)
    assert (answer.status_code, "too many entries" in answer.text) == (400, True)


async def test_an_archive_that_tells_no_modality_is_refused_with_what_would(
    client: httpx.AsyncClient,
) -> None:
    nameless = zipped({"a": b"x"}).replace(b"a", b"\x00")
    for content in (nameless, zipped({}), zipped({"IM0001.dcm": b"x"})):
        answers = [
            await client.post(URL, content=content, headers={"content-type": "application/zip"}),
            await client.post(URL, files={"case": ("case.zip", content)}),
        ]
        assert [answer.status_code for answer in answers] == [422, 422]
        for answer in answers:
            assert "comes as a zip with raw=true" in answer.text


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


@limited(uri_prefixes=("s3://ours",), inflated_bytes=512 << 20)
async def test_hostile_uploads_are_refused_with_a_sentence(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    answers = {name: await client.post(URL, **how) for name, how in hostile(files)}
    assert len(answers) >= 60
    for name, answer in answers.items():
        assert answer.status_code in (400, 413, 415, 422), (name, answer.status_code)
        assert len(answer.json()["error"]) > 10, name
        assert "Traceback" not in answer.text
    assert answers["text"].json()["file"] == "t2"
    assert "grid" in answers["moved"].json()["error"]
    assert answers["too many bytes"].status_code in (413, 422)


@limited(uri_prefixes=("s3://ours",))
async def test_a_hundred_hostile_uploads_leave_memory_flat(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    bodies = [body for _, body in hostile(files)]
    huge = gzip.compress(header(dim=[3, 480, 480, 480, 1, 1, 1, 1]) + bytes(1 << 12))
    bodies.append({"files": parts(dict.fromkeys(files, huge))})

    async def statuses() -> list[int]:
        return [(await client.post(URL, **body)).status_code for body in bodies]

    await statuses()  # fills caches
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before_mib = rss_mib()
    seen = [*(await statuses()), *(await statuses())]
    assert len(seen) >= 100
    assert set(seen) <= {400, 413, 415, 422}
    assert rss_mib() < before_mib + 16
    # The largest of them promise 0.6 GiB.
    assert max_rss_mib() < before_mib + 64


async def test_a_body_of_nothing_but_starts_of_boundaries_is_soon_refused(
    client: httpx.AsyncClient,
) -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="seg"\r\n\r\n'
    content = start + b"\r\n--x?" * (4 << 20)
    began = time.process_time()
    answer = await client.post(URL, content=content, headers={"content-type": BOUNDARY})
    assert (answer.status_code, "starts of boundaries" in answer.text) == (400, True)
    assert time.process_time() - began < 1


@limited(voxels=64 * 64 * 48)
async def test_a_file_of_too_many_voxels_is_refused_by_its_header(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    larger = gzip.compress(header(dim=[3, 128, 64, 48, 1, 1, 1, 1]) + bytes(1 << 20))
    answer = await client.post(URL, files=parts({**files, "t2": larger}))
    assert (answer.status_code, answer.json()["file"]) == (413, "t2")
    assert "393216 voxels: at most 196608" in answer.json()["error"]


async def test_an_entry_that_inflates_too_far_is_refused_before_it_does(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    content = zipped({f"{name}.nii": header() + bytes(1 << 25) for name in files})
    answer = await client.post(URL, content=content, headers={"content-type": "application/zip"})
    assert (answer.status_code, "inflates to" in answer.json()["error"]) == (413, True)


async def test_what_no_model_looks_at_is_not_inflated(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    content = zipped({**{f"{n}.nii.gz": files[n] for n in files}, "seg.nii": bytes(1 << 25)})
    answer = await client.post(URL, content=content, headers={"content-type": "application/zip"})
    assert answer.status_code == 200


NAMED = "Müller 1"
ID = naming.id_of_name(NAMED)


def named_parts(files: dict[str, bytes]) -> dict[str, tuple[str, bytes]]:
    return {name: (f"{NAMED}_{name}.nii.gz", content) for name, content in files.items()}


async def test_a_name_beyond_ascii_is_a_case_and_the_answer_says_its_id(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    archive = zipped(dict(named_parts(files).values()))
    zip_headers = {"content-type": "application/zip"}
    requests: list[dict[str, Any]] = [
        {"files": named_parts(files)},
        {"content": archive, "headers": zip_headers},
        {"files": parts(files), "data": {"case_id": NAMED}},
        # What an answer said is taken back as it is.
        {"files": named_parts(files), "data": {"case_id": ID}},
    ]
    for request in requests:
        headers = {"accept": "application/json", **request.pop("headers", {})}
        answer = await client.post(URL, **request, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["case_id"] == ID


def test_the_names_of_uris_and_of_a_body_are_read_alike() -> None:
    limits = Limits(uri_prefixes=("s3://ours/",))
    # A blank is refused in a URI.
    uris = {name: f"s3://ours/Müller1_{name}.nii.gz" for name in MODALITIES}
    others = {name: f"s3://ours/{name}.nii.gz" for name in MODALITIES}
    found = uploads.from_json({"images": uris}, MODALITIES, limits)
    assert found.case_id == naming.id_of_name("Müller1")
    body = {"images": others, "case_id": NAMED}
    assert uploads.from_json(body, MODALITIES, limits).case_id == ID
    assert uploads.from_json({"images": others}, MODALITIES, limits).case_id is None


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\nb", "ä" * 19, "x" * 129, 7, None, []])
def test_what_can_name_no_case_is_refused_with_why(name: object) -> None:
    with pytest.raises(Refusal, match="case_id: ") as refused:
        uploads.checked_id(name)
    assert refused.value.status == 422
    if isinstance(name, str):
        assert uploads.case_of(f"{name}_t2.nii.gz") in (None, "b")


@given(st.text() | st.sampled_from([NAMED, "x_u00e9_y", "a b", "患者 001"]))
def test_an_id_is_safe_and_stands_for_itself(name: str) -> None:
    case = uploads.case_of(f"{name}_t2.nii.gz")
    if case is not None:
        assert naming.problem_of_id(case) is None
    if not naming.problem_of_name(name):
        case_id = uploads.checked_id(name)
        assert naming.problem_of_id(case_id) is None
        assert uploads.checked_id(case_id) == case_id


async def test_hidden_files_of_an_archive_are_not_those_of_a_case(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    """macOS adds a `._name` beside each, there or in `__MACOSX`; both orders come in archives."""
    good = {f"./case/a_{name}.nii.gz": content for name, content in files.items()}
    junk = {
        f"{folder}/{mark}a_{name}.nii.gz": b"\0\5\x16\7 of a Mac"
        for name in files
        for folder, mark in (("__MACOSX/case", "._"), ("case", "._"), ("case/.cache", ""))
    }
    others = {"case/a_segm.nii.gz": b"", "case/a_GlistrBoost.nii.gz": b"", "case/a_seg.nii": b""}
    headers = {"content-type": "application/zip"}
    for content in ({**junk, **good, **others}, {**others, **good, **junk}):
        answer = await client.post(URL, content=zipped(content), headers=headers)
        assert answer.status_code == 200, answer.text
