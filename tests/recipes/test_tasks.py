"""Tasks by name, as JSON and as files of somebody's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_brats.errors import UsageError
from ray_brats.recipes import tasks

STROKE = """\
name = "stroke"
modalities = ["flair", "t1"]

[[classes]]
name = "core"
integer = 7

[[classes]]
name = "penumbra"
integer = 3
colour = "#123456"

[[regions]]
name = "ALL"
title = "all of it"
classes = ["core", "penumbra"]

[[regions]]
name = "CORE"
classes = ["core"]
"""


def test_old_names_are_names_still() -> None:
    assert tasks.named("brats2020") == tasks.TASKS["gli-2020"]
    assert tasks.named("brats2024") == tasks.TASKS["gli-post"]
    assert [tasks.old_name(name) for name in ("gli-2018", "gli-2023", "ped")] == [
        "brats2018",
        "brats2023",
        "ped",
    ]


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no task 'brats1999': expected one of gli-2018.*toml"):
        tasks.named("brats1999")


def test_what_was_written_before_tells_a_release() -> None:
    assert tasks.told_by({"release": "brats2021"}) == tasks.TASKS["gli-2021"]
    assert tasks.told_by({"task": "ped", "release": "brats2021"}) == tasks.TASKS["ped"]
    assert tasks.told_by({"task": None}) is None
    # Its cavity was background then, and its networks have three regions.
    assert tasks.told_by({"release": "brats2024"}) == tasks.TASKS["gli-2023"]


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_of_the_field_is_its_name(name: str) -> None:
    assert tasks.as_json(tasks.TASKS[name]) == name
    assert tasks.from_json(name) == tasks.TASKS[name]


def test_a_task_of_somebodys_own_is_read_and_written_whole() -> None:
    task = tasks.parse(STROKE, "stroke.toml")
    assert task.integers == (7, 3)
    assert task.legend == {"0": "background", "7": "core", "3": "penumbra"}
    assert [(r.name, r.title, r.classes) for r in task.targets.regions] == [
        ("ALL", "all of it", (1, 2)),
        ("CORE", "CORE", (1,)),
    ]
    assert task.targets.painting == ((2, 0), (1, 2))
    assert task.targets.classes[1].colour == "#123456"
    text = json.dumps(tasks.as_json(task))
    assert tasks.from_json(json.loads(text)) == task
    assert tasks.parse(text, "stroke.json") == task


def test_scans_with_their_skull_on_are_part_of_a_task_of_somebodys_own() -> None:
    task = tasks.parse(f"has_skull = true\n{STROKE}", "stroke.toml")
    assert task.has_skull
    assert tasks.from_json(tasks.as_json(task)) == task
    value = tasks.as_json(task)
    assert isinstance(value, dict)
    assert tasks.from_json(value).has_skull
    with pytest.raises(UsageError, match="line 1: 1: expected true or false"):
        tasks.parse(f"has_skull = 1\n{STROKE}", "stroke.toml")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("integer = 3", "integer = 7", "line 10: .*integer 7 stands for two classes"),
        ('classes = ["core"]', "classes = []", "region CORE joins no class"),
        (
            'classes = ["core"]',
            'classes = ["crust"]',
            r"line 20: region CORE: 'crust' is no class of this task",
        ),
        ("integer = 3", "integer = 3\nintensity = 4", "line 11: classes 2 has no 'intensity'"),
        ("integer = 3", 'integer = "3"', "penumbra: integer '3': expected a whole number"),
        ('name = "stroke"\n', "", "the task lacks 'name'"),
        ('name = "stroke"', 'name = "ped"', "line 1: 'ped': expected a name of its own"),
        ('["flair", "t1"]', '["flair", "pd"]', "line 2: .*expected a list of"),
        ("#123456", "blue", "colour 'blue': expected #RRGGBB"),
        ("[[regions]]", "[[region]]", "line 13: the task has no 'region'"),
        ("integer = 7", "integer = ", "stroke.toml is no TOML: .*line 6"),
        ('"penumbra"\ninteger', '"core"\ninteger', "'core' is there twice"),
        ('"penumbra"\ninteger', '"core"\ninteger', "line 9: .*'core' is there twice"),
        ('"penumbra"\ninteger', '"Core"\ninteger', "line 9: .*'Core' is there twice"),
        ('"penumbra"\ninteger', '"background"\ninteger', "line 9: .*'background' is there"),
        ('"penumbra"\ninteger', '""\ninteger', "line 9: .*'': expected 1 to 80 printable"),
        ('"penumbra"\ninteger', "4\ninteger", "line 9: name 4: expected text"),
        ('name = "CORE"', 'name = "All"', "line 19: regions: 'All' is there twice"),
        ('name = "CORE"', 'name = "a core"', "line 19: region 'a core': expected a name of"),
        ('classes = ["core"]', "", "line 18: regions 2 lacks 'classes'"),
        ('classes = ["core"]', "classes = []", "line 20: region CORE joins no class"),
        ('classes = ["core"]', 'classes = ["core", "core"]', "line 20: .* names a class twice"),
        ('classes = ["core"]', 'classes = "core"', "line 20: .*expected a list of names"),
        ('classes = ["core"]', 'classes = ["core", "penumbra"]', "line 20: .*neither within ALL"),
        ("integer = 3\n", "", "line 8: classes 2 lacks 'integer'"),
        ("integer = 3", "integer = 256", "line 10: .*integer 256: expected 1 to 255"),
        ("integer = 3", "integer = -1", "line 10: .*integer -1: expected 1 to 255"),
        ("integer = 3", "integer = 0", "line 10: .*integer 0: expected 1 to 255"),
        ("integer = 3", "integer = true", "line 10: penumbra: integer true: expected a whole"),
        ("integer = 3", "integer = nan", "line 10: penumbra: integer nan: expected a whole"),
        ("integer = 3", "integer = 3.0", "line 10: penumbra: integer 3.0: expected a whole"),
        ("#123456", "blue", "line 11: penumbra: colour 'blue': expected #RRGGBB"),
        ('"#123456"', "12", "line 11: penumbra: colour 12: expected text"),
        ('"all of it"', "3", "line 15: ALL: title 3: expected text"),
        ('"all of it"', '""', "line 15: .*expected 1 to 80 printable"),
        ("title", "titel", "line 15: regions 1 has no 'titel'"),
        ('title = "all of it"', "learnt = 0", "line 15: ALL: learnt 0: expected true or false"),
        ('["flair", "t1"]', '["t1", "t1"]', "line 2: .*each once at most"),
        ("modalities", "small_lesion_mm3 = nan\nmodalities", "line 2: .*nan: expected a volume"),
        ("modalities", f"small_lesion_mm3 = 1{'0' * 400}\nmodalities", "line 2: .*a volume in mm³"),
        ('name = "core"', 'name = "core', r"is no TOML: .*line 5"),
        ("[[regions]]", "[[regions]", r"is no TOML: .*line 13"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(old: str, new: str, sentence: str) -> None:
    assert old in STROKE
    with pytest.raises(UsageError, match=sentence) as caught:
        tasks.parse(STROKE.replace(old, new), "stroke.toml")
    assert str(caught.value).startswith("stroke.toml")


def test_lines_are_those_of_json_too() -> None:
    text = json.dumps(tasks.as_json(tasks.parse(STROKE, "stroke.toml")), indent=1)
    assert tasks.parse(text, "stroke.json").name == "stroke"
    for old, new, word in (
        ('"integer": 3', '"integer": 7', '"integer": 7'),
        ('"#123456"', '"blue"', '"blue"'),
        ('"title": "CORE"', '"titel": "CORE"', '"titel"'),
    ):
        wrong = text.replace(old, new)
        line = 1 + wrong[: wrong.rindex(word)].count("\n")
        with pytest.raises(UsageError, match=f"^stroke.json: line {line}: "):
            tasks.parse(wrong, "stroke.json")
    with pytest.raises(UsageError, match="'name' is there twice"):
        tasks.parse('{"name": "a", "name": "b"}', "own.json")


@pytest.mark.parametrize("text", ["[]", "3", '"ped"', "null", "[" * 100_000, "{}", '{"name": 3}'])
def test_json_that_is_no_task_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^own\.json"):
        tasks.parse(text, "own.json")


def test_the_tasks_that_define_some_integers_are_named() -> None:
    assert "gli-2020" in tasks.that_define([0, 4])
    assert tasks.that_define([4], tasks.GLIOMA) == ["gli-2018", "gli-2019", "gli-2020", "gli-2021"]
    assert tasks.that_define([9]) == []


def test_colours_of_a_task_differ() -> None:
    for task in tasks.TASKS.values():
        colours = [item.colour for item in task.targets.classes]
        assert len(set(colours)) == len(colours), task.name


def test_the_manual_has_every_task_with_its_labels_and_regions() -> None:
    page = (Path(tasks.__file__).parents[1] / "docs" / "tasks.md").read_text()
    table = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    seen: dict[str, tuple[str, str]] = {}
    for names, _, own_labels, own_regions in table:
        labels, regions = own_labels.replace("*", ""), own_regions
        if own_labels.startswith("as `"):
            labels, _ = seen[own_labels.removeprefix("as ").strip("`")]
        if own_regions.startswith("as `"):
            _, regions = seen[own_regions.removeprefix("as ").strip("`")]
        seen |= {name.strip("` "): (labels, regions) for name in names.split(",")}
    assert list(seen) == list(tasks.TASKS)
    for name, (labels, regions) in seen.items():
        task = tasks.TASKS[name]
        written = {label.split(" ", 1)[0]: label.split(" ", 1)[1] for label in labels.split(", ")}
        called = {number: text for number, text in task.legend.items() if number != "0"}
        assert written == called, name
        parts = [part.split(" ", 1)[0] for part in regions.replace(",", ";").split("; ")]
        assert [part for part in parts if part.isupper()] == list(task.targets.region_names), name
