"""What a bundle tells of itself, and where the starter model is."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_brats.cases import naming
from ray_brats.errors import ArtefactError, UsageError
from ray_brats.files import ownership, storage
from ray_brats.model import card as modelcard
from ray_brats.model.card import Asked
from ray_brats.recipes import jsonform, named, tasks
from ray_brats.recipes.config import Recipe


def test_a_bundle_is_named_by_a_place_or_is_the_starter() -> None:
    assert modelcard.uri_of("starter") == "starter"
    assert modelcard.uri_of("./starter") == storage.absolute("starter")
    assert modelcard.uri_of("s3://bucket/bundle") == "s3://bucket/bundle"
    assert modelcard.place("s3://bucket/bundle") == "s3://bucket/bundle"


def test_the_starter_is_found_where_the_package_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(modelcard, "_STARTER_FOLDER", tmp_path)
    with pytest.raises(ArtefactError, match="no starter model: pass --bundle"):
        modelcard.read("starter")
    card = {"format_version": modelcard.FORMAT_VERSION}
    card |= {"recipe": {}, "sha256": {}, "versions": {}, "parameters": 1}
    (tmp_path / "bundle.json").write_text(json.dumps(card))
    found, sha256 = modelcard.read("starter")
    assert found == card
    assert modelcard.read("starter", pinned=sha256)[0] == card
    with pytest.raises(ArtefactError, match="not the bundle that was asked for"):
        modelcard.read("starter", pinned="0" * 64)


def test_the_starter_matches_its_card_with_its_licence_beside_it_and_nothing_else(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "starter"
    shutil.copytree(modelcard.place("starter"), folder)
    card, _ = modelcard.read("starter")
    assert (folder / "LICENSE.md").is_file()
    with modelcard.fetched(card, str(folder)) as copy:
        assert (copy / "saved_model").is_dir()
    (folder / "saved_model" / "LICENSE.md").write_text("")
    with (
        pytest.raises(ArtefactError, match=r"saved_model/LICENSE\.md was added"),
        modelcard.fetched(card, str(folder)),
    ):
        pass


def card_of(folder: Path, recipe: Recipe, **facts: object) -> str:
    """A bundle of which only the card is there."""
    folder.mkdir()
    card = {"format_version": modelcard.FORMAT_VERSION, "recipe": jsonform.as_json(recipe)}
    card |= {"sha256": {}, "versions": {}, "parameters": 1, **facts}
    (folder / modelcard.CARD).write_text(json.dumps(card))
    return str(folder)


def test_bundles_are_chosen_by_their_cards(tmp_path: Path) -> None:
    one = card_of(tmp_path / "one", named.smoke(), release="brats2023")
    other = card_of(tmp_path / "other", named.standard())
    chosen = modelcard.choose([one, other], asked=Asked(tta="flips", overlap=0.25))
    assert (chosen.uris, chosen.task) == ((one, other), tasks.TASKS["gli-2023"])
    assert chosen.recipe.name == "smoke"
    assert chosen.recipe.inference.tta == "flips"
    assert (chosen.recipe.inference.overlap, chosen.recipe.inference.whole_limit_vox) == (0.25, 0)
    assert chosen.identity == {
        "bundles": list(chosen.sha256),
        "options": {"tta": "flips", "overlap": 0.25},
    }
    assert modelcard.choose([one], chosen.sha256[:1]).recipe == at_spacing(1, 1, 1)


def at_spacing(*spacing_mm: float) -> Recipe:
    preprocess = dataclasses.replace(named.smoke().preprocess, spacing_mm=spacing_mm)
    return dataclasses.replace(named.smoke(), preprocess=preprocess)


def test_new_cases_come_at_the_voxel_size_that_a_bundle_learnt_from(tmp_path: Path) -> None:
    thick = card_of(tmp_path / "thick", named.smoke(), spacing_mm=[0.9, 0.9, 5])
    assert modelcard.choose([thick]).recipe == at_spacing(0.9, 0.9, 5)
    asked = card_of(tmp_path / "asked", at_spacing(2, 2, 2), spacing_mm=[1, 1, 1])
    assert modelcard.choose([asked]).recipe == at_spacing(2, 2, 2)


def test_what_cannot_segment_together_is_not_chosen(tmp_path: Path) -> None:
    one = card_of(tmp_path / "one", named.smoke())
    other = card_of(tmp_path / "other", named.baseline())
    with pytest.raises(ArtefactError, match=r"other was trained on other inputs .* averaged"):
        modelcard.choose([one, other])
    with pytest.raises(UsageError, match="--bundle-sha256 names 1 and --bundle 2: expected one"):
        modelcard.choose([one, one], ["0" * 64])
    with pytest.raises(ArtefactError, match="not the bundle that was asked for"):
        modelcard.choose([one], ["0" * 64])
    with pytest.raises(UsageError, match="--bundle-sha256 abc: expected 64 hexadecimal digits"):
        modelcard.choose([one], ["abc"])
    with pytest.raises(UsageError, match=r"overlap is 1.5: expected 0 ≤ overlap < 1"):
        modelcard.choose([one], asked=Asked(overlap=1.5))


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ({}, "was not measured"),
        (
            {"dice": {"ET": 0.7, "TC": 0.8, "WT": 0.876}},
            r"on 6 case\(s\) .* mean Dice WT 0.88, TC 0.80, ET 0.70$",
        ),
        (
            {
                "dice": {"WT": 0.876, "TC": 0.8, "ET": 0.7},
                "dice_ci95": {"WT": [0.84, 0.912], "TC": [0.7, 0.9], "ET": [0.0, 0.9]},
            },
            r"WT 0.88 \(0.84–0.91\), TC 0.80 \(0.70–0.90\), ET 0.70 \(0.00–0.90\) \(95 % interval",
        ),
    ],
)
def test_a_card_says_how_good_its_masks_were(validation: dict[str, object], told: str) -> None:
    card = {"measured": {"validation": validation, "cases": {"training": 26, "validation": 6}}}
    assert re.search(told, modelcard.quality(card))


def test_a_card_without_figures_promises_nothing() -> None:
    assert "was not measured" in modelcard.quality({})


MEASURED = {
    "validation": {"dice": {"WT": 0.89, "TC": 0.83, "ET": 0.7}},
    "cases": {"training": 26, "validation": 6},
}
NUMBERS = (
    "such masks were measured on 6 case(s) that the model had not learnt from: mean Dice "
    "WT 0.89, TC 0.83, ET 0.70"
)
ELSEWHERE = "; of scans of another origin than those nothing was measured"
GLIOMAS = ("Brats18_CBICA_AAB_1", "BraTS20_Training_001", "BraTS2021_00000", "BraTS-GLI-00001-000")


def told_of(
    case_ids: Sequence[str], remarked: Sequence[str] = (), *, bundles: int = 1, **facts: Any
) -> modelcard.Quality:
    """What a card with these facts says of the masks; `tta` and `overlap` are options."""
    names = ("tta", "overlap", "allow_skull")
    asked = Asked(**{name: facts.pop(name) for name in names if name in facts})
    card = {"measured": MEASURED, "release": "brats2018", **facts}
    chosen = modelcard.Chosen(
        uris=("x",) * bundles,
        cards=(card,) * bundles,
        sha256=("0",) * bundles,
        recipe=named.smoke(),
        asked=asked,
    )
    return modelcard.quality_of(chosen, case_ids, remarked)


def test_numbers_are_said_of_cases_such_as_those_that_were_measured() -> None:
    expected = modelcard.Quality(measured=MEASURED, sentence=NUMBERS)
    assert told_of(GLIOMAS) == expected
    for name in GLIOMAS:
        assert told_of([name]) == expected
    assert told_of(["BraTS-MEN-00001-000"], tumours=["MEN"], task="gli-2023") == expected


@pytest.mark.parametrize(
    "options", [{"bundles": 2}, {"tta": "flips"}, {"overlap": 0.25}, {"allow_skull": True}]
)
def test_nothing_is_said_of_what_several_bundles_or_other_options_made(
    options: dict[str, Any],
) -> None:
    assert told_of(GLIOMAS, **options) == modelcard.Quality()


@pytest.mark.parametrize("tumour", ["SSA", "MET", "MEN", "PED", "NEW"])
def test_no_number_is_said_of_another_tumour_or_population(tumour: str) -> None:
    name = f"BraTS-{tumour}-00001-000"
    told = told_of([name])
    assert (told.measured, told.sentence) == (None, None)
    meant = naming.TUMOURS.get(tumour, tumour)
    assert told.why_not == (
        f"how good these masks are was not measured: 1 of {meant}, which the model has not learnt "
        "from"
    )
    told = told_of([*GLIOMAS, name])
    assert told.measured == MEASURED
    assert told.sentence == (
        f"{NUMBERS}; this holds for 4 of the 5 case(s), of the other 1 nothing was measured: "
        f"1 of {meant}, which the model has not learnt from"
    )
    assert told_of(GLIOMAS, tumours=[tumour], task="gli-2023").sentence is None


def test_no_number_is_said_of_scans_that_were_not_as_usual() -> None:
    told = told_of(GLIOMAS, GLIOMAS[:3])
    assert told.sentence == (
        f"{NUMBERS}; this holds for 1 of the 4 case(s), of the other 3 nothing was measured: "
        "3 with scans that were not as usual"
    )
    none = told_of(GLIOMAS[:1], GLIOMAS)
    assert (none.measured, none.sentence) == (None, None)
    assert str(none.why_not).endswith("was not measured: 1 with scans that were not as usual")
    mixed = told_of([*GLIOMAS, "BraTS-MET-1-0"], [*GLIOMAS, "BraTS-MET-1-0"])
    assert "1 of brain metastases, which the model has not learnt from, 4 with" in str(
        mixed.why_not
    )


def test_where_names_tell_nothing_the_number_is_said_with_whom_it_is_of() -> None:
    expected = modelcard.Quality(measured=MEASURED, sentence=NUMBERS + ELSEWHERE)
    assert told_of(["Patient_001"]) == expected
    assert told_of([*GLIOMAS, "Patient_001"]) == expected
    assert told_of(GLIOMAS, task="gli-2023") == expected, "nor does the card tell"
    assert str(told_of(["a", "b"], ["a"]).sentence).endswith(f"not as usual{ELSEWHERE}")
    assert told_of(["BraTS-MET-1-0", "a"], ["a"]).measured is None


def test_a_card_without_figures_says_so_of_any_case() -> None:
    for case_ids in (GLIOMAS, ["BraTS-MET-1-0"]):
        told = told_of(case_ids, measured={"validation": {}})
        assert "not measured" in str(told.sentence or told.why_not)


def test_a_bundle_replaces_nothing_but_a_bundle(tmp_path: Path) -> None:
    modelcard.check_target(str(tmp_path / "new"))
    old = str(tmp_path / "old")
    names = ["saved_model/saved_model.pb", "model.h5"]
    for name in names:
        storage.write_bytes(f"{old}/{name}", b"x")
    with pytest.raises(UsageError, match=r"holds model.h5, saved_model/saved_model.pb, which belo"):
        modelcard.check_target(old)
    storage.write_json(f"{old}/bundle.json", {"sha256": dict.fromkeys(names, "0"), "recipe": {}})
    modelcard.check_target(old)
    storage.write_bytes(f"{old}/LICENSE.md", b"theirs")
    with pytest.raises(UsageError, match=r"holds LICENSE.md, which belongs to no bundle"):
        modelcard.check_target(old)
    storage.write_bytes(str(tmp_path / "run.json"), b"{}")
    with pytest.raises(UsageError, match=r"which belongs to no bundle"):
        modelcard.check_target(str(tmp_path))


def test_a_bundle_goes_on_where_an_export_was_killed(tmp_path: Path) -> None:
    target = str(tmp_path)
    ownership.note(target, modelcard.PARTS)
    storage.write_bytes(f"{target}/saved_model/saved_model.pb", b"x")
    modelcard.check_target(target)
    storage.write_bytes(f"{target}/notes.txt", b"theirs")
    with pytest.raises(UsageError, match=r"holds notes.txt, which"):
        modelcard.check_target(target)


def test_skulls_are_allowed_where_that_is_asked_for(tmp_path: Path) -> None:
    one = card_of(tmp_path / "one", named.smoke())
    chosen = modelcard.choose([one], asked=Asked(allow_skull=True))
    assert chosen.recipe.preprocess.allow_skull
    assert chosen.identity["options"] == {"tta": None, "overlap": None, "allow_skull": True}
    assert not modelcard.choose([one]).recipe.preprocess.allow_skull
    assert modelcard.choose([one]).identity["options"] == {"tta": None, "overlap": None}
