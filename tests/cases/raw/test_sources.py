"""Where raw studies are: what is brought from where, once, and what is not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from ray_brats.cases.raw import sources, studies
from ray_brats.errors import UsageError
from ray_brats.files import local, storage

FILES = {"P1/t1.nii": b"one", "P1/t1ce.nii": b"two", "P2/b/flair.nii": b"three"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "raw"


def contents(root: Path | None) -> dict[str, bytes]:
    assert root is not None
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def times(root: Path | None) -> list[int]:
    assert root is not None
    return [path.stat().st_mtime_ns for path in sorted(root.rglob("*")) if path.is_file()]


def zipped(folder: Path, name: str = "Study.zip") -> Path:
    made = shutil.make_archive(str(folder.parent / "made"), "zip", folder)
    return Path(made).rename(folder.parent / name)


def put(bucket: str, folder: Path, prefix: str = "raw") -> str:
    for name, content in contents(folder).items():
        storage.write_bytes(f"{bucket}/{prefix}/{name}", content)
    storage.write_bytes(f"{bucket}/{prefix}/.hidden/x.nii", b"x")
    return f"{bucket}/{prefix}"


def test_a_folder_is_itself(folder: Path) -> None:
    source = sources.opened(str(folder))
    assert (source.root, source.copy) == (folder, None)
    source.forget()
    assert contents(folder) == FILES


@pytest.mark.parametrize("name", ["Study.zip", "STUDY.ZIP"])
def test_a_zip_is_unpacked_below_scratch_and_goes(folder: Path, tmp_path: Path, name: str) -> None:
    archive, scratch = zipped(folder, name), tmp_path / "scratch"
    source = sources.opened(str(archive), str(scratch))
    assert source.root is not None
    assert source.root.name.lower() == "study"
    assert contents(source.root) == FILES
    before = times(source.root)
    assert [path.stat().st_mode & 0o777 for path in scratch.iterdir()] == [0o700]
    source.forget()
    assert list(scratch.iterdir()) == []
    assert archive.exists()
    assert times(sources.opened(str(archive), str(scratch)).root) == before


def test_without_scratch_it_is_this_users_own_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "private_folder", lambda: tmp_path / "own")
    source = sources.opened(str(zipped(folder)))
    assert source.copy is not None
    assert source.copy.parent == tmp_path / "own"


def test_a_prefix_is_copied_and_what_is_there_is_not_fetched_again(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, scratch = put(bucket, folder), str(tmp_path / "scratch")
    source = sources.opened(uri, scratch)
    assert source.root is not None
    assert source.root.name == "raw"
    assert contents(source.root) == FILES
    before, read = times(source.root), storage.read_bytes
    fetched: list[str] = []

    def noted(uri: str) -> bytes:
        fetched.append(uri)
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", noted)
    assert sources.opened(uri, scratch) == source
    assert fetched == []
    # As after a call that was killed while it copied.
    assert source.copy is not None
    (source.copy / "whole").unlink()
    (source.root / "P1/t1.nii").unlink()
    sources.opened(uri, scratch)
    assert fetched == [f"{uri}/P1/t1.nii"]
    assert times(source.root) == before
    storage.write_bytes(f"{uri}/P1/t1.nii", b"changed")
    other = sources.opened(uri, scratch)
    assert other.root != source.root
    assert times(other.root) != before


def test_calls_with_other_outputs_do_not_take_each_others_copy(
    folder: Path, tmp_path: Path
) -> None:
    archive, scratch = str(zipped(folder)), str(tmp_path / "scratch")
    one, other = (sources.opened(archive, scratch, output=name) for name in ("a", "b"))
    one.forget()
    assert contents(other.root) == FILES


def test_a_zip_in_a_bucket_is_unpacked(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = f"{bucket}/exports/study.zip"
    storage.write_bytes(uri, zipped(folder).read_bytes())
    source = sources.opened(uri, str(tmp_path / "scratch"))
    assert contents(source.root) == FILES
    assert source.copy is not None
    assert {path.name for path in source.copy.iterdir()} == {"study", "whole"}


def refused(raw: str, sentence: str, scratch: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        sources.opened(raw, str(scratch))


def test_what_is_not_there_or_has_no_room_is_a_sentence(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    refused(f"{bucket}/nothing", "nothing is there", scratch)
    refused(str(tmp_path / "nothing.zip"), "nothing is there", scratch)
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    refused(str(tmp_path / "broken.zip"), "broken.zip: the archive is damaged", scratch)
    uri = put(bucket, folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1))  # type: ignore[attr-defined]
    refused(uri, "pass --scratch with a folder of a larger disk", scratch)


# --- tables ----------------------------------------------------------------------------------


def table(folder: Path, *lines: str) -> str:
    path = folder.parent / "studies.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def names(source: sources.Source) -> list[tuple[str, Sequence[str]]]:
    return [(row.case_id, sorted(row.asked)) for row in source.rows]


def test_a_table_names_studies_or_series(folder: Path) -> None:
    rows = ("case_id,t1,t1ce", "A,raw/P1/t1.nii,raw/P1/t1ce.nii", f"B,,{folder}/P1/t1ce.nii")
    source = sources.opened(table(folder, *rows))
    assert names(source) == [("A", ["t1", "t1ce"]), ("B", ["t1ce"])]
    assert source.studies() == [row.study for row in source.rows]
    source = sources.opened(table(folder, "study;case_id", "raw/P1;A"))
    assert source.studies()[0].nifti == studies.find(folder / "P1")[0].nifti


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["case_id"], "expected rows below the columns case_id and study"),
        (["case_id,t1,adc", "A,x,y"], "expected rows below"),
        (["case_id,study,t1", "A,x,y"], "expected rows below"),
        (["t1", "x"], "no column case_id"),
        (["case_id,t1", "A,raw/nothing.nii"], "row 1: t1: .*nothing.nii is not there"),
        (["case_id,t1", "A,"], "row 1: no place"),
        (["case_id,t1", "A,raw/P1/t1.nii", "A,raw/P1/t1.nii"], "row 1: case_id: A stands 2 times"),
        (["case_id,t1", "a/b,raw/P1/t1.nii"], "row 1: case_id"),
        (["case_id,study", "A,raw"], "row 1: .* holds 2 studies: expected one"),
        (["case_id,t1", "A,raw/P1"], "row 1: t1: .* holds 0 series of DICOM"),
        (["case_id,t1,t2", "A,raw/P1/t1.nii,raw/P1/t1.nii"], "row 1: one series"),
    ],
)
def test_a_wrong_table_is_a_sentence(folder: Path, lines: list[str], sentence: str) -> None:
    refused(table(folder, *lines), sentence, folder)
