"""What a process knows of those that died of the same cases before it; no Ray is needed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ray_brats.engine import blocks, mapping
from ray_brats.engine.blocks import Block, Frame
from ray_brats.files import ledger
from ray_brats.files.ledger import CaseRow, Work


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[bytes, bytes]:
    """The key-value store of a cluster, and a folder for the alarms."""
    kept: dict[bytes, bytes] = {}
    monkeypatch.setattr(blocks.internal_kv, "_internal_kv_get", kept.get)
    monkeypatch.setattr(
        blocks.internal_kv,
        "_internal_kv_put",
        lambda key, value, overwrite: kept.update({key: value}),
    )
    (tmp_path / "alarms").mkdir()
    monkeypatch.setattr(blocks.local, "private_folder", lambda: tmp_path / "alarms")
    return kept


FRAME = Frame(limit_seconds=60, timed=True, max_deaths=2, session="s")


class Died(BaseException):
    """The end of a process."""


def dies(number: int, block: Block, earlier: int = 0) -> None:
    with pytest.raises(Died), block.under_way(number, earlier):
        raise Died


def test_a_first_process_finds_nothing() -> None:
    block = Block(FRAME, "a")
    assert not block.is_past(0)
    assert not block.died_at(0)
    assert block.tries == 0


def test_a_successor_knows_which_case_its_predecessor_died_of() -> None:
    dies(2, Block(FRAME, "a"))
    block = Block(FRAME, "a")
    assert [block.is_past(number) for number in range(4)] == [True, True, False, False]
    assert [block.died_at(number) for number in range(4)] == [False, False, True, False]
    dies(2, block, block.tries)
    assert Block(FRAME, "a").tries == 2
    assert not Block(FRAME, "b").died_at(0), "another block"
    other = Frame(limit_seconds=60)
    assert not Block(other, "a").died_at(2), "another stage"


def test_after_its_end_a_block_has_no_case_to_blame() -> None:
    block = Block(FRAME, "a")
    with block.under_way(0, 0):
        pass
    block.end(1)
    again = Block(FRAME, "a")
    assert again.is_past(0)
    assert not again.died_at(0)
    assert again.tries == 1, "what is done once more has been begun before"


def test_a_case_is_given_up_by_its_deaths_or_by_the_clock(tmp_path: Path) -> None:
    block = Block(FRAME, "a")
    assert block.verdict(1) == ""
    assert "died 2 times: out of memory, or a crash in native code" in block.verdict(2)
    (tmp_path / "alarms" / f"{FRAME.prefix}a").write_text("Timeout (0:01:00)!")
    assert Block(FRAME, "a").verdict(1) == "took longer than 60 s and was stopped"


def cases(folder: Path, *names: str) -> list[Work]:
    return [
        Work(case_id=name, sidecar_uri=f"{folder}/{name}.json", key="k", payload={})
        for name in names
    ]


def test_a_block_goes_on_at_the_case_that_died(tmp_path: Path) -> None:
    begun: list[str] = []
    batch = mapping._table(cases(tmp_path, "a", "poison", "b"))

    def task(item: Work) -> tuple[CaseRow, list[str]]:
        begun.append(item.case_id)
        if item.case_id == "poison":
            raise Died
        return CaseRow(case_id=item.case_id), []

    for _ in range(FRAME.max_deaths):
        with pytest.raises(Died):
            blocks.run(batch, FRAME, task, ())
    told = blocks.run(batch, FRAME, task, ())["row"]
    rows = [CaseRow.from_json(json.loads(row)) for row in told]
    assert [row.status for row in rows] == ["ok", "error", "ok"]
    assert "died 2 times" in rows[1].reason
    assert [row.attempts for row in rows] == [1, 2, 1]
    assert begun == ["a", "poison", "poison", "b"]
    assert [ledger.finished_row(item) for item in cases(tmp_path, "a", "poison", "b")] == rows
    assert blocks.run(batch, FRAME, task, ())["row"] == told
    assert not list((tmp_path / "alarms").iterdir())


def test_what_a_dead_process_left_half_written_goes_and_that_of_others_stays(
    tmp_path: Path,
) -> None:
    (item,) = cases(tmp_path, "a")
    item = dataclasses.replace(item, outputs=("a[1].nii.gz",))
    remains = [".a[1].nii.gz.0123abcd.tmp", ".a.json.0123abcd.tmp"]
    others = [".b.nii.gz.0123abcd.tmp", ".a[1].nii.gz.mine", "a[1].nii.gz.0123abcd.tmp"]
    batch = mapping._table([item])

    def task(item: Work) -> tuple[CaseRow, list[str]]:
        if not (tmp_path / others[0]).exists():
            for name in (*remains, *others):
                (tmp_path / name).touch()
            raise Died
        return CaseRow(case_id=item.case_id), []

    with pytest.raises(Died):
        blocks.run(batch, FRAME, task, ())
    assert {path.name for path in tmp_path.iterdir()} >= {*remains, *others}
    blocks.run(batch, FRAME, task, ())
    assert {path.name for path in tmp_path.iterdir()} == {*others, "a.json", "alarms"}
