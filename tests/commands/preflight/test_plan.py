"""Arithmetic that one can check on paper, and a table that the user can edit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from commands.test_cli import called
from ray_brats.cases import phantom
from ray_brats.commands.arguments import Length
from ray_brats.commands.preflight import plan, rates
from ray_brats.errors import UsageError

TABLE = """
[[rate]]
stage = "preprocess"
recipe = "any"
on = "cpu"
seconds = 36
hardware = "a machine"
date = "2026-01-01"

[[rate]]
stage = "train"
recipe = "standard"
on = "cpu"
seconds = 9
hardware = "a machine"
date = "2026-01-01"

[[rate]]
stage = "score"
recipe = "standard"
on = "cpu"
seconds = 72
hardware = "a machine"
date = "2026-01-01"

[storage_mb]
raw = 10
dataset = 20
predictions = 1
run = 500
hardware = "a machine"
date = "2026-01-01"
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "rates.toml").write_text(TABLE)
    return str(tmp_path / "rates.toml")


def test_ten_cores_are_counted_as_on_paper(table: str) -> None:
    made = plan.plan(
        plan.PlanOptions(
            cases=1000, nodes=("5x(2cpu,16GiB)@0.5",), length=Length(steps=4000), rates=table
        )
    )
    # 1,000 × 36 ÷ 10; 4,000 × 9 ÷ 2 cores of a node (two workers, two of five nodes' cores);
    # 1,000 × 72 ÷ 10.
    hours = {stage: item["hours"] for stage, item in made.facts["stages"].items()}
    assert hours == {"preprocess": 1.0, "train": 5.0, "score": 2.0}
    assert made.facts["hours"] == 8.0
    assert made.facts["cost"] == 8.0 * 5 * 0.5
    assert made.facts["storage_gb"] == pytest.approx(10 + 20 + 0.5 + 1)
    assert "1,000 cases × 36 core-s ÷ 10 tasks at a time = 1.00 h" in made.lines[0]
    assert "a machine, 2026-01-01" in made.lines[0]


def test_workers_get_what_fits_on_unequal_nodes(table: str) -> None:
    made = plan.plan(
        plan.PlanOptions(
            cases=10,
            nodes=("1x(16cpu,32GiB)", "1x(2cpu,8GiB)"),
            length=Length(steps=4000),
            rates=table,
        )
    )
    # Two workers of 8 on the larger node; 9 each, half of all, would fit nowhere.
    assert "÷ 8 core(s) of a worker" in "".join(made.lines)


def test_more_memory_than_a_node_has_is_said(table: str) -> None:
    made = plan.plan(plan.PlanOptions(cases=10, nodes=("2x(2cpu,0.5GiB)",), rates=table))
    assert "more than a node has (0.5 GiB)" in "".join(made.lines)


def test_memory_bounds_the_tasks(table: str) -> None:
    made = plan.plan(plan.PlanOptions(cases=1000, nodes=("1x(64cpu,8GiB)",), rates=table))
    assert "÷ 8 tasks at a time" in made.lines[0]


def test_what_is_not_measured_is_not_guessed() -> None:
    made = plan.plan(plan.PlanOptions(cases=10, nodes=("4x(8cpu,1gpu,32GiB)@1",)))
    assert made.facts["stages"]["preprocess"]["hours"] > 0
    assert (
        made.facts["stages"]["train"]["hours"] is made.facts["hours"] is made.facts["cost"] is None
    )
    assert "not measured" in "\n".join(made.lines)


def test_without_a_price_there_is_no_cost(table: str) -> None:
    made = plan.plan(
        plan.PlanOptions(cases=10, nodes=("1x(2cpu,16GiB)@1", "1x(2cpu,16GiB)"), rates=table)
    )
    assert made.facts["cost"] is None
    assert "@PRICE" in made.lines[-2]


def test_every_shipped_rate_says_where_it_comes_from() -> None:
    shipped = rates.read(None)
    assert {rate.stage for rate in shipped.rates} == set(rates.STAGES)
    for rate in shipped.rates:
        assert (rate.seconds is None) == (rate.date == rate.hardware == "not measured")


@pytest.mark.parametrize(
    "text",
    ["4x8cpu", "x(8cpu,1GiB)", "4x(8cpu)", "0x(8cpu,1GiB)", "4x(0cpu,1GiB)", "1x(1cpu,1cpu,1GiB)",
     "9" * 400 + "x(8cpu,1GiB)", "1x(8cpu," + "9" * 400 + "GiB)", "1x(8cpu,1GiB)@" + "9" * 400,
     "1x(1.5cpu,1GiB)", "1x(1cpu,0.5gpu,1GiB)", "1x(1cpu,1GiB)@", "1x(1cpu,1TB)", ""],
)  # fmt: skip
def test_nodes_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="8cpu,1gpu,32GiB"):
        plan.parse_nodes(text)


def test_nodes_are_read() -> None:
    group = plan.parse_nodes("2 x (8 CPU, 1 gpu, 0.5 GiB) @ 1.25")
    assert (group.count, group.cpus, group.gpus, group.price) == (2, 8, 1, 1.25)
    assert group.memory_bytes == 1 << 29


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"\xff\xfe", "not a text"),
        (b"a = 1", "not a table"),
        (b"][", "not a table"),
        (TABLE.replace("36", "-1").encode(), "not a table"),
        (TABLE.replace("36", "1e308").encode(), "expected 0 to 1,000,000,000"),
        (TABLE.replace("raw = 10", "raw = -600").encode(), "raw = -600"),
        (TABLE.replace("raw = 10", "raw = nan").encode(), "raw = nan"),
        (TABLE.replace("seconds = 9", "secs = 9").encode(), "unknown: secs"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "t.toml").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        rates.read(str(tmp_path / "t.toml"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cases": 0},
        {"cases": 3, "workers": 9},
        {"cases": 10**400},
        {"cases": 3, "length": Length(steps=10**400)},
        {"cases": 3, "length": Length(steps=3, minutes=3)},
    ],
)
def test_wrong_calls_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan.plan(plan.PlanOptions(nodes=("1x(2cpu,16GiB)",), **options))


def test_a_training_by_the_clock_takes_its_minutes() -> None:
    options = plan.PlanOptions(cases=3, nodes=("1x(2cpu,16GiB)",), length=Length(minutes=90))
    made = plan.plan(options)
    assert made.facts["stages"]["train"]["hours"] == 1.5
    (line,) = [line for line in made.lines if line.startswith("train: 90 minutes")]
    assert "None" not in line
    assert any("preprocess: 3 cases" in line and " s (" in line for line in made.lines)


def test_cases_that_the_recipe_cannot_use_are_not_counted(
    tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (case_id,) = phantom.write_cohort(tmp_path / "cohort", cases=1, shape_vox=(32, 32, 32))
    lonely = tmp_path / "cohort" / "BraTS20_Training_900"
    lonely.mkdir()
    content = (tmp_path / "cohort" / case_id / f"{case_id}_flair.nii.gz").read_bytes()
    (lonely / "BraTS20_Training_900_flair.nii.gz").write_bytes(content)
    made = plan.plan(
        plan.PlanOptions(cohort=str(tmp_path / "cohort"), nodes=("1x(2cpu,16GiB)",), rates=table)
    )
    assert made.facts["planned_cases"] == 1
    assert "1 case(s) are not usable" in capsys.readouterr().err


def test_a_cohort_of_mixed_names_is_counted_where_the_release_is_told(
    tmp_path: Path, table: str
) -> None:
    (tmp_path / "c.csv").write_text(
        "case_id,t1ce,t2,flair\nBraTS20_Training_001,a,b,c\nBraTS-GLI-00001-000,a,b,c\n"
    )
    asked = plan.PlanOptions(cohort=str(tmp_path / "c.csv"), nodes=("1x(2cpu,16GiB)",), rates=table)
    with pytest.raises(UsageError, match="--task"):
        plan.plan(asked)
    made = plan.plan(dataclasses.replace(asked, task="gli-2023"))
    assert made.facts["planned_cases"] == 2


def test_the_command_counts_a_cohort(cohort_folder: Path) -> None:
    done = called("plan", cohort_folder, "--nodes", "1x(2cpu,16GiB)@2")
    assert done.returncode == 0, done.stderr
    assert "preprocess: 5 cases ×" in done.stdout
    assert "cost: " in done.stdout
