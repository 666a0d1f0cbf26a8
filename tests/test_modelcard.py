"""What a bundle tells of itself, and where the starter model is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ray_brats import modelcard, storage
from ray_brats.errors import ArtefactError


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
