"""The codes of classes are those of the standard."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ray_brats.cases.raw import segmentcodes
from ray_brats.recipes.tasks import TASKS

CLASSES = {item.name for task in TASKS.values() for item in task.targets.classes}


def test_the_classes_of_the_field_have_codes_and_no_others() -> None:
    table = Path(segmentcodes.__file__).with_suffix(".toml").read_text("utf-8")
    assert set(tomllib.loads(table)["classes"]) == CLASSES


def test_a_class_of_somebodys_own_is_a_lesion() -> None:
    category, kind = segmentcodes.codes_of("ischaemic core")
    assert category[2] == "Morphologically Abnormal Structure"
    assert kind == ("52988006", "SCT", "Lesion")


@pytest.mark.parametrize("name", sorted([*CLASSES, "another"]))
def test_every_code_is_one_of_the_standard_with_its_meaning(name: str) -> None:
    pytest.importorskip("pydicom")
    from pydicom.sr._concepts_dict import concepts

    for value, scheme, meaning in segmentcodes.codes_of(name):
        entries = [entry[value] for entry in concepts[scheme].values() if value in entry]
        assert meaning in [entry[0] for entry in entries]


def test_what_gliomas_are_divided_in_is_of_the_list_for_that() -> None:
    """CID 7168: brain lesions with necrosis."""
    pytest.importorskip("pydicom")
    from pydicom.sr.codedict import codes

    concepts = codes.cid7168.concepts.values()
    listed = {(code.value, code.scheme_designator, code.meaning) for code in concepts}
    classes = TASKS["gli-2023"].targets.classes
    assert {segmentcodes.codes_of(item.name)[1] for item in classes} <= listed
