"""Storage: nothing half-written, etags that follow content."""

from __future__ import annotations

from pathlib import Path

import pytest
import s3fs

from ray_brats.errors import ArtefactError
from ray_brats.files import ledger, storage
from ray_brats.files.ledger import CaseRow, Work


def test_a_failed_write_leaves_the_old_file_and_no_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    storage.write_bytes(str(target), b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_etag_changes_with_the_content(tmp_path: Path) -> None:
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"one")
    (before,) = storage.list_files(str(tmp_path))
    storage.write_bytes(uri, b"two!")
    (after,) = storage.list_files(str(tmp_path))
    assert before.etag != after.etag
    assert (after.uri, after.size_bytes) == (uri, 4)


def test_what_a_protocol_says_names_the_place() -> None:
    with pytest.raises(PermissionError) as caught, storage._as_os_error("s3://closed/a"):
        raise PermissionError("Access Denied")
    assert caught.value.filename == "s3://closed/a"
    with (
        pytest.raises(OSError, match=r"ValueError: odd: .s3://closed/a"),
        storage._as_os_error("s3://closed/a"),
    ):
        raise ValueError("odd")


def test_nan_never_reaches_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(str(tmp_path / "a.json"), {"dice": float("nan")})


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"a\.json"):
        storage.read_json(str(tmp_path / "a.json"))


def test_listing_of_nothing_is_empty(tmp_path: Path) -> None:
    assert storage.list_files(str(tmp_path / "absent")) == []


def work(folder: Path, key: str = "k") -> Work:
    return Work(case_id="a", sidecar_uri=f"{folder}/a.json", key=key, payload={})


def output(folder: Path) -> ledger.Output:
    return ledger.Output(uri=str(folder), description="score.json")


def left(item: Work, folder: Path) -> list[str]:
    return [todo.case_id for todo in ledger.split_finished([item], output(folder))[1]]


def test_finished_work_is_skipped_only_with_equal_key_and_all_files(tmp_path: Path) -> None:
    row = CaseRow(case_id="a")
    (tmp_path / "a.bin").write_bytes(b"x")
    ledger.finish(work(tmp_path), row, ["a.bin"])
    assert ledger.split_finished([work(tmp_path)], output(tmp_path)) == ([row], [])
    changed = work(tmp_path, "other")
    assert left(changed, tmp_path) == ["a"]
    (tmp_path / "a.bin").write_bytes(b"")
    assert left(work(tmp_path), tmp_path) == ["a"], "cut short by a loss of power"
    (tmp_path / "a.bin").unlink()
    assert left(work(tmp_path), tmp_path) == ["a"]


def test_errors_are_tried_again_and_rejections_are_not(tmp_path: Path) -> None:
    for status, again in (("error", 1), ("rejected", 0), ("filtered", 0)):
        ledger.finish(work(tmp_path), CaseRow(case_id="a", status=status), [])
        assert len(left(work(tmp_path), tmp_path)) == again


def test_a_link_to_a_file_is_listed_as_that_file_and_a_broken_one_is_not(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.nii.gz"
    target.write_bytes(b"12345")
    folder = tmp_path / "cohort"
    folder.mkdir()
    (folder / "a.nii.gz").symlink_to(target)
    (folder / "b.nii.gz").symlink_to(tmp_path / "nowhere")
    (found,) = storage.list_files(str(folder))
    (itself,) = storage.list_files(str(target))
    assert found.uri == str(folder / "a.nii.gz")
    assert (found.size_bytes, found.etag) == (5, itself.etag)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError("Access Denied."), PermissionError),
        (FileNotFoundError("nothing"), FileNotFoundError),
        (OSError("odd words"), OSError),
        (RuntimeError("a library's own"), OSError),
    ],
)
def test_what_a_library_says_is_told_with_the_name_of_the_file(
    error: Exception, kind: type[OSError]
) -> None:
    with pytest.raises(kind) as told, storage._as_os_error("s3://bucket/key"):
        raise error
    assert "None" not in str(told.value)
    assert str(error).rstrip(".") in str(told.value)
    assert told.value.filename == "s3://bucket/key"


def test_an_access_point_is_asked_as_one_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def answers(_: object, method: str, **given: object) -> dict[str, object]:
        asked.append({"method": method, **given})
        return {"Contents": [{"Key": "data/a", "Size": 3, "ETag": '"e"'}]}

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", answers)
    point = "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mine"
    (file,) = storage.list_files(f"{point}/data")
    assert (file.uri, file.size_bytes, file.etag) == (f"{point}/data/a", 3, "e")
    assert asked[0]["Bucket"] == point.removeprefix("s3://")
    assert asked[0]["Prefix"] == "data/"
