"""What no call of ours wrote, no call of ours replaces; what a call reads, it does not write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ray_brats.errors import UsageError
from ray_brats.files import ledger, ownership, retry, storage
from ray_brats.files.ledger import CaseRow, Work


@pytest.fixture(params=["here", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "here" else request.getfixturevalue("bucket")


def work(root: str, *names: str, key: str = "1") -> list[Work]:
    return [
        Work(
            case_id=name,
            sidecar_uri=f"{root}/out/{name}.json",
            key=key,
            payload={},
            outputs=[f"{name}.nii.gz"],
        )
        for name in names
    ]


def output(root: str, *inputs: str) -> ledger.Output:
    return ledger.Output(
        uri=f"{root}/out", description="score.json", tables=["scores.parquet"], inputs=inputs
    )


def do(item: Work) -> CaseRow:
    """A case, as a worker gets it and does it."""

    def task(item: Work) -> tuple[CaseRow, list[str]]:
        storage.write_bytes(f"{item.folder}/{item.case_id}.nii.gz", item.key.encode())
        return CaseRow(case_id=item.case_id), [f"{item.case_id}.nii.gz"]

    return retry.complete(Work.from_row(item.as_row()), task)


def conclude(root: str) -> None:
    storage.write_bytes(f"{root}/out/scores.parquet", b"table")
    storage.write_json(f"{root}/out/score.json", {"versions": {}})
    ownership.end(f"{root}/out")


def files(root: str) -> dict[str, bytes]:
    return {file.uri: storage.read_bytes(file.uri) for file in storage.list_files(root)}


@pytest.mark.parametrize("name", ["a.nii.gz", "a.json", "scores.parquet", "score.json"])
@pytest.mark.parametrize("content", [b"theirs", b"{}", b'{"key": 1}'])
def test_a_file_of_somebody_else_is_named_and_left(root: str, name: str, content: bytes) -> None:
    storage.write_bytes(f"{root}/out/{name}", content)
    before = files(root)
    with pytest.raises(UsageError, match=f"holds {name}.*pass another folder"):
        ledger.split_finished(work(root, "a", "b"), output(root))
    assert files(root) == before


def test_what_was_written_before_is_replaced_when_its_inputs_change(root: str) -> None:
    _, todo = ledger.split_finished(work(root, "a", "b"), output(root))
    assert len(todo) == 2
    for item in todo:
        do(item)
    conclude(root)
    assert f"{root}/out/{ownership.BEGUN}" not in files(root)
    before = files(root)
    rows, todo = ledger.split_finished(work(root, "a", "b"), output(root))
    assert (len(rows), todo, files(root)) == (2, [], before)
    _, todo = ledger.split_finished(work(root, "a", "b", key="2"), output(root))
    assert len(todo) == 2
    for item in todo:
        do(item)
    conclude(root)
    assert storage.read_bytes(f"{root}/out/a.nii.gz") == b"2"


@pytest.mark.parametrize("written", [[], ["a.nii.gz"], ["a.nii.gz", "scores.parquet"]])
def test_what_a_killed_call_left_is_known_for_ours(root: str, written: list[str]) -> None:
    ledger.split_finished(work(root, "a", "b"), output(root))
    for name in written:
        storage.write_bytes(f"{root}/out/{name}", b"half")
    # Its successor has other cases, and is killed as well.
    ledger.split_finished(work(root, "b", "c"), output(root))
    _, todo = ledger.split_finished(work(root, "a", "b", key="2"), output(root))
    assert [item.case_id for item in todo] == ["a", "b"]
    for item in todo:
        do(item)
    conclude(root)
    assert storage.read_bytes(f"{root}/out/a.nii.gz") == b"2"
    storage.write_bytes(f"{root}/out/c.nii.gz", b"theirs")
    with pytest.raises(UsageError, match=r"c\.nii\.gz"):
        ledger.split_finished(work(root, "c"), output(root))


def test_a_case_that_fails_half_way_leaves_nothing_that_nobody_vouches_for(root: str) -> None:
    _, (item,) = ledger.split_finished(work(root, "a"), output(root))

    def fails(item: Work) -> tuple[CaseRow, list[str]]:
        storage.write_bytes(f"{item.folder}/a.nii.gz", b"half")
        raise ValueError("no")

    assert retry.complete(Work.from_row(item.as_row()), fails).status == "error"
    conclude(root)
    assert f"{root}/out/a.nii.gz" not in files(root)
    assert len(ledger.split_finished(work(root, "a"), output(root))[1]) == 1


def test_a_file_put_beside_a_rejected_case_is_not_ours(root: str) -> None:
    _, (item,) = ledger.split_finished(work(root, "a"), output(root))
    retry.give_up(item, CaseRow(case_id="a", status="rejected", reason="x"))
    conclude(root)
    storage.write_bytes(f"{root}/out/a.nii.gz", b"theirs")
    with pytest.raises(UsageError, match=r"a\.nii\.gz"):
        ledger.split_finished(work(root, "a", key="2"), output(root))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.json", "scores.parquet"])
def test_an_input_is_never_an_output(root: str, name: str) -> None:
    _, todo = ledger.split_finished(work(root, "a"), output(root))
    do(todo[0])
    conclude(root)
    before = files(root)
    with pytest.raises(UsageError, match=f"{name} would be replaced, and this call reads it"):
        ledger.split_finished(work(root, "a", key="2"), output(root, f"{root}/out/{name}"))
    assert files(root) == before


@pytest.mark.parametrize("kind", ["symlink", "hard link", "detour"])
def test_an_input_by_another_name_is_never_an_output(tmp_path: Path, kind: str) -> None:
    root = str(tmp_path)
    _, todo = ledger.split_finished(work(root, "a"), output(root))
    do(todo[0])
    conclude(root)
    mask, other = tmp_path / "out" / "a.nii.gz", tmp_path / "other.nii.gz"
    if kind == "symlink":
        other.symlink_to(mask)
    elif kind == "hard link":
        os.link(mask, other)
    else:
        other = tmp_path / "out" / ".." / "out" / "a.nii.gz"
    with pytest.raises(UsageError, match="this call reads it"):
        ledger.split_finished(work(root, "a", key="2"), output(root, str(other)))


def with_more(root: str) -> str:
    """A finished case that left a file besides, which the next call would not write."""
    _, (item,) = ledger.split_finished(work(root, "a"), output(root))
    do(item)
    more = f"{root}/out/a_native.nii.gz"
    storage.write_bytes(more, b"more")
    ledger.finish(item, CaseRow(case_id="a"), ["a.nii.gz", "a_native.nii.gz"])
    conclude(root)
    return more


def test_what_an_earlier_call_left_besides_goes_with_it(root: str) -> None:
    more = with_more(root)
    _, (item,) = ledger.split_finished(work(root, "a", key="2"), output(root))
    do(item)
    assert not storage.exists(more)


def test_what_an_earlier_call_left_besides_stays_where_this_one_reads_it(root: str) -> None:
    more = with_more(root)
    before = files(root)
    with pytest.raises(UsageError, match="this call reads it"):
        ledger.split_finished(work(root, "a", key="2"), output(root, more))
    assert files(root) == before


def test_many_names_are_told_by_their_number(tmp_path: Path) -> None:
    names = [f"case{number}" for number in range(9)]
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / "out" / f"{name}.nii.gz").touch()
    with pytest.raises(UsageError, match=r"case0\.nii\.gz, .* and 6 more"):
        ledger.split_finished(work(str(tmp_path), *names), output(str(tmp_path)))


def test_a_single_file_replaces_none(root: str) -> None:
    theirs, new = f"{root}/theirs.nii.gz", f"{root}/new.nii.gz"
    storage.write_bytes(theirs, b"theirs")
    ownership.check_files({"--out": new}, [theirs])
    with pytest.raises(UsageError, match=r"--out .*theirs.nii.gz: there is such a file already"):
        ownership.check_files({"--out": theirs}, [])
    ownership.check_files({"--out": theirs}, [], overwrite=True)
    with pytest.raises(UsageError, match=r"this call reads that file"):
        ownership.check_files({"--out": theirs}, [theirs], overwrite=True)
    with pytest.raises(UsageError, match=r"--show .*another option names that file too"):
        ownership.check_files({"--out": new, "--show": new}, [])


def test_a_single_file_is_no_other_name_of_an_input(tmp_path: Path) -> None:
    scan, alias, linked = (str(tmp_path / name) for name in ("scan", "alias", "linked"))
    Path(scan).write_bytes(b"scan")
    Path(alias).symlink_to(scan)
    os.link(scan, linked)
    for name in (alias, linked):
        with pytest.raises(UsageError, match="this call reads that file"):
            ownership.check_files({"--out": name}, [scan], overwrite=True)
    with pytest.raises(UsageError, match="that is a folder"):
        ownership.check_files({"--out": str(tmp_path)}, [scan], overwrite=True)


def test_a_file_in_the_place_of_a_folder_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"text")
    for uri in (f"{tmp_path}/out", f"{tmp_path}/out/below/it"):
        with pytest.raises(UsageError, match=r"out is a file: expected a folder"):
            ledger.split_finished([], ledger.Output(uri=uri, description="score.json"))


def test_a_file_of_which_a_channel_is_read_is_read(root: str) -> None:
    uri = f"{root}/scans.nii.gz"
    storage.write_bytes(uri, b"scans")
    with pytest.raises(UsageError, match="this call reads that file"):
        ownership.check_files({"--out": uri}, [f"{uri}#3"], overwrite=True)
    with pytest.raises(UsageError, match="this call reads it"):
        ownership.begin(root, ["scans.nii.gz"], there=[uri], vouched=[uri], inputs=[f"{uri}#0"])
    assert storage.read_bytes(uri) == b"scans"


def test_a_file_in_place_of_a_folder_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="file is a file; expected a folder there"):
        ownership.check_files({"-o": str(tmp_path / "file" / "deep" / "mask.nii.gz")}, ())
    ownership.check_files({"-o": str(tmp_path / "new" / "deep" / "mask.nii.gz")}, ())
    for name in ("file", "file/out"):
        with pytest.raises(UsageError, match="file is a file; expected a folder there"):
            ownership.output_folder(str(tmp_path / name))
    assert ownership.output_folder(str(tmp_path / "new/out")) == str(tmp_path / "new/out")
