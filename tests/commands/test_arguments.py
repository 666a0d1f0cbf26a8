"""What commands say of the cohort that they are given, beside what they do with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import touch

from ray_brats.cases.case import Cohort
from ray_brats.commands import arguments, datasets
from ray_brats.commands.arguments import Selection
from ray_brats.commands.preflight import plan
from ray_brats.errors import UsageError

NAMES = [f"Müller 1_{kind}.nii.gz" for kind in ("t1ce", "t2", "flair")]
OTHERS = ["a_t2.hdr", "a_t2.img", "a_adc.nii.gz"]
FINDING: dict[str, Callable[[str], Any]] = {
    "found": lambda uri: arguments.found(uri, None),
    "selected": lambda uri: arguments.selected(uri, Selection()),
    "one case": lambda uri: arguments.one_case(uri, None),
    "plan": lambda uri: plan.plan(plan.PlanOptions(cohort=uri, nodes=("1x(8cpu,32GiB)",))),
}


@pytest.mark.parametrize("how", FINDING)
def test_every_command_says_in_a_line_that_images_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    folder = touch(tmp_path, *NAMES, *OTHERS)
    FINDING[how](str(folder))
    told = capsys.readouterr().err
    line = f"3 image file(s) below {folder} are passed over: `ray-brats check` lists them\n"
    assert told.count(line) == 1
    assert ("case_id has escapes" in told) == (how in ("selected", "one case"))


def test_nothing_is_said_where_nothing_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments.found(str(touch(tmp_path, "a_t2.nii", "a_seg.nii", "notes.txt")), None)
    assert capsys.readouterr().err == ""


def test_check_lists_them_by_reason_and_so_does_its_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = touch(tmp_path, *NAMES, *OTHERS, *(f"{number}.dcm" for number in range(5)))
    summary = datasets.check(datasets.CheckOptions(cohort=str(folder)))
    told = capsys.readouterr().err
    assert "check: 2 image file(s) passed over (a_t2.hdr, a_t2.img): a header" in told
    assert "check: 5 image file(s) passed over (0.dcm, 1.dcm, 2.dcm …): not a NIfTI" in told
    assert "check: 1 image file(s) passed over (a_adc.nii.gz): the name ends in no" in told
    groups = {group["count"]: group["files"] for group in summary.as_json()["passed_over"]}
    assert groups == {2: OTHERS[:2], 5: ["0.dcm", "1.dcm", "2.dcm"], 1: OTHERS[2:]}


def test_a_split_may_name_cases_by_their_own_names(tmp_path: Path) -> None:
    folder = touch(tmp_path / "c", *NAMES)
    (tmp_path / "split.csv").write_text("case_id,split\nMüller 1,val\n")
    found: Cohort = arguments.with_splits(
        arguments.found(str(folder), None), str(tmp_path / "split.csv"), seed=0
    )
    assert [(case.case_id, case.split) for case in found.cases] == [("M_u00fc_ller_u0020_1", "val")]


def test_a_split_of_another_cohort_is_none(tmp_path: Path) -> None:
    cohort = arguments.found(str(touch(tmp_path / "c", *NAMES)), None)
    (tmp_path / "split.csv").write_text("case_id,split\nb,val\nc,train\n")
    with pytest.raises(UsageError, match=r"names no case of .*, but b and such"):
        arguments.with_splits(cohort, str(tmp_path / "split.csv"), seed=0)


def test_an_absent_case_is_asked_for_as_a_case(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder, .*; expected the folder of one case$"):
        arguments.one_case(str(tmp_path / "absent"), None)
