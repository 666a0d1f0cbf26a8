"""Bundles: three formats, and a card that is checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_brats import labels
from ray_brats.cases import cohort, phantom, volume
from ray_brats.cases.geometry import with_crop
from ray_brats.errors import ArtefactError
from ray_brats.model import card as modelcard
from ray_brats.recipes import named, tasks
from ray_brats.recipes.config import Recipe

pytest.importorskip("tensorflow")
import tensorflow as tf

from ray_brats.model import bundle, unet
from ray_brats.model.predict import Predictor
from ray_brats.recipes.tasks import TASKS
from ray_brats.training import export

pytestmark = pytest.mark.tf
SMOKE = named.get("smoke")
RECIPE = dataclasses.replace(
    SMOKE,
    network=dataclasses.replace(SMOKE.network, widths=(4, 8, 8)),
    inference=dataclasses.replace(SMOKE.inference, window_vox=(32, 32, 32)),
)
PLAIN_TENSORFLOW = """
import os, sys
sys.path[:] = [p for p in sys.path if not os.path.isdir(os.path.join(p, "ray_brats"))]
sys.modules["ray_brats"] = sys.modules["ray"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
serve, segment = model.signatures["serve"], model.signatures["segment"]
(probabilities,) = serve(image=tf.zeros((2, 16, 32, 48, 3))).values()
assert probabilities.shape == (2, 16, 32, 48, 3)
(labels,) = segment(image=tf.constant(np.load(sys.argv[2]))).values()
np.save(sys.argv[3], labels.numpy())
"""


def make_model(recipe: Recipe = RECIPE) -> Any:
    """A network that was never trained, and is sure of itself all the same."""
    model = unet.for_inference(unet.build(recipe.network, 3, len(recipe.outputs), seed=0))
    for weight in model.weights:
        if weight.name == "kernel" and weight.shape[-1] == 3:
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    export.write(make_model(), RECIPE, str(folder), facts={"release": "brats2020"})
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A copy to be tampered with."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def change_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((folder / "bundle.json").read_text())
    change(card)
    (folder / "bundle.json").write_text(json.dumps(card))


def test_a_bundle_holds_every_format_and_explains_itself(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {"saved_model", "model.keras", "model.h5", "bundle.json"}
    card = json.loads((written / "bundle.json").read_text())
    assert card["modalities"] == ["t1ce", "t2", "flair"]
    assert "research" in card["intended_use"]


def test_the_saved_model_holds_every_weight_once(written: Path) -> None:
    variables = written / "saved_model" / "variables"
    stored = tf.train.load_checkpoint(str(variables / "variables"))
    # What is no weight is a scalar: the graph of objects, a counter.
    shapes = [shape for shape in stored.get_variable_to_shape_map().values() if shape]
    card = json.loads((written / "bundle.json").read_text())
    assert sum(math.prod(shape) for shape in shapes) == card["parameters"]


def test_a_slim_bundle_is_the_saved_model_alone_and_may_be_the_starter(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.write(make_model(), RECIPE, str(tmp_path), facts={}, slim=True)
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", "bundle.json"}
    monkeypatch.setattr(modelcard, "_STARTER_FOLDER", tmp_path)
    sample = np.random.default_rng(0).normal(size=(1, 32, 32, 32, 3)).astype(np.float32)
    slim, whole = bundle.load("starter"), bundle.load(str(written))
    np.testing.assert_allclose(slim.forward(sample), whole.forward(sample), atol=1e-5)


def test_the_starter_that_is_shipped_segments() -> None:
    if not (modelcard._STARTER_FOLDER / modelcard.CARD).is_file():
        pytest.skip("this checkout has no starter model")
    starter = bundle.load("starter")
    head = np.zeros((64, 64, 64, 3), np.float32)
    head[8:56, 8:56, 8:56] = np.random.default_rng(0).normal(size=(48, 48, 48, 3))
    classes = Predictor([starter.forward], starter.recipe).class_index(head)
    assert classes.shape == (64, 64, 64)
    assert not classes[0].any(), "no tumour where there is no brain"


def test_a_card_has_the_dice_of_each_case_but_no_name() -> None:
    by_case = {
        f"patient-{number}": {"WT": 0.8 + number / 100, "TC": 0.7, "ET": 0.5} for number in range(4)
    }
    facts = {"dice": {"WT": 0.815, "TC": 0.7, "ET": 0.5}, "mean_dice": 0.67, "loss": 0.1}
    measured = export._measured({**facts, "dice_by_case": by_case})
    assert "patient" not in json.dumps(measured)
    assert measured["dice_of_cases"] == list(by_case.values())
    low, high = measured["dice_ci95"]["WT"]
    assert 0.8 <= low < 0.815 < high <= 0.83
    assert measured["dice_ci95"]["TC"] == [0.7, 0.7]
    assert "loss" not in measured
    assert export._measured(facts) == {"dice": facts["dice"], "mean_dice": 0.67}


def test_a_loaded_bundle_gives_the_models_output(written: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 16, 24, 32, 3)).astype(np.float32)
    model = make_model()
    np.testing.assert_allclose(
        bundle.load(str(written)).forward(image), np.asarray(model(image)), atol=1e-5
    )


def raw_case(shape_vox: tuple[int, int, int]) -> np.ndarray:
    images = phantom.make_phantom(1, shape_vox=shape_vox).images
    return np.stack([images[name] for name in RECIPE.preprocess.modalities], axis=-1)


def in_plain_tensorflow(bundle_folder: Path, image: np.ndarray, folder: Path) -> np.ndarray:
    """Labels of a case, by the SavedModel, where neither ray_brats nor Ray can be imported."""
    np.save(folder / "image.npy", image.astype(np.float32))
    files = [bundle_folder / "saved_model", folder / "image.npy", folder / "labels.npy"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_TENSORFLOW, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return np.asarray(np.load(folder / "labels.npy"))


def test_plain_tensorflow_segments_a_raw_case_as_the_predictor_does(
    written: Path, tmp_path: Path
) -> None:
    image = raw_case((70, 64, 50))
    given = in_plain_tensorflow(written, image, tmp_path)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    case = {
        name: volume.from_array(image[..., k], lps)
        for k, name in enumerate(RECIPE.preprocess.modalities)
    }
    mask = bundle.load_predictor((str(written),)).segment(case).mask_native
    expected = labels.from_class_index(mask, TASKS["gli-2020"])
    assert set(np.unique(expected)) == {0, 1, 2, 4}
    assert np.mean(given == expected) >= 0.9999


def test_the_card_says_what_the_signatures_take_and_give(written: Path) -> None:
    card, _ = modelcard.read(str(written))
    assert set(tf.saved_model.load(str(written / "saved_model")).signatures) >= set(
        card["signatures"]
    )
    segment = card["signatures"]["segment"]
    assert segment["labels"] == {
        "0": "background",
        "1": "necrotic core",
        "2": "edema",
        "4": "enhancing tumour",
    }
    assert "t1ce, t2, flair" in segment["input"]
    assert "WT, TC, ET" in card["signatures"]["serve"]["output"]
    assert card["limits"]


def test_a_recipe_with_a_spacing_of_its_own_is_exported(tmp_path: Path) -> None:
    preprocess = dataclasses.replace(RECIPE.preprocess, spacing_mm=(2.0, 2.0, 3.0))
    recipe = dataclasses.replace(RECIPE, preprocess=preprocess)
    card = export.write(make_model(), recipe, str(tmp_path / "bundle"), facts={})
    assert "2.0×2.0×3.0 mm" in card["signatures"]["segment"]["input"]


def test_a_rule_that_no_graph_can_follow_leaves_segment_out_and_says_so(tmp_path: Path) -> None:
    inference = dataclasses.replace(RECIPE.inference, min_component_vox=50)
    recipe = dataclasses.replace(RECIPE, inference=inference)
    card = export.write(make_model(), recipe, str(tmp_path / "bundle"), facts={})
    assert card["signatures"]["segment"] is None
    assert "min_component_vox" in card["signatures"]["why_no_segment"]
    loaded = tf.saved_model.load(str(tmp_path / "bundle" / "saved_model"))
    assert "segment" not in loaded.signatures


@pytest.mark.parametrize("victim", ["model.h5", "saved_model/saved_model.pb"])
def test_a_changed_or_missing_file_is_refused(copy: Path, victim: str) -> None:
    (copy / victim).write_bytes(b"other")
    with pytest.raises(ArtefactError, match=victim):
        bundle.load(str(copy))
    (copy / victim).unlink()
    with pytest.raises(ArtefactError, match=victim):
        bundle.load(str(copy))


@pytest.mark.parametrize("added", ["saved_model/assets/more.txt", "saved_model/bundle.json"])
def test_an_added_file_is_refused(copy: Path, added: str) -> None:
    (copy / added).write_text("{}")
    with pytest.raises(ArtefactError, match=added):
        bundle.load(str(copy))


def test_a_folder_without_a_readable_card_is_no_bundle(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no bundle"):
        bundle.load(str(tmp_path / "nowhere"))
    for content in (b"[]", b"{", b"\xff", b"{}"):
        (copy / "bundle.json").write_bytes(content)
        with pytest.raises(ArtefactError, match="no model card"):
            bundle.load(str(copy))
    (copy / "bundle.json").write_text('{"format_version": 1}')
    with pytest.raises(ArtefactError, match="format 1"):
        bundle.load(str(copy))


def test_a_pinned_bundle_is_loaded_and_any_other_refused(written: Path, copy: Path) -> None:
    content = (written / "bundle.json").read_bytes()
    pin = hashlib.sha256(content).hexdigest()
    assert bundle.load(str(written), pinned=pin.upper()).sha256 == pin
    change_card(copy, lambda card: card.update(intended_use="anything"))
    assert bundle.load(str(copy)).sha256 != pin
    with pytest.raises(ArtefactError, match="not the bundle that was asked for"):
        bundle.load(str(copy), pinned=pin)
    with pytest.raises(ArtefactError, match="not the bundle that was asked for"):
        bundle.load_predictor((str(written), str(copy)), (pin, pin))


def test_another_architecture_is_refused(copy: Path) -> None:
    change_card(copy, lambda card: card["recipe"]["network"].update(widths=[4, 8, 16]))
    with pytest.raises(ArtefactError, match="parameters"):
        bundle.load(str(copy))


def test_a_bundle_of_a_newer_tensorflow_is_refused(copy: Path) -> None:
    change_card(copy, lambda card: card["versions"].update(tensorflow="99.1.0-rc1"))
    with pytest.raises(ArtefactError, match=r"TensorFlow 99\.1"):
        bundle.load(str(copy))


def test_bundles_of_another_preprocessing_are_not_averaged(written: Path, copy: Path) -> None:
    def other(card: dict[str, Any]) -> None:
        card["recipe"]["preprocess"]["modalities"] = ["t1", "t2", "flair"]

    change_card(copy, other)
    with pytest.raises(ArtefactError, match="averaged"):
        bundle.load_predictor((str(written), str(copy)))


def test_an_ensemble_of_one_bundle_twice_is_that_bundle(written: Path) -> None:
    image = np.random.default_rng(0).normal(size=(40, 40, 40, 3)).astype(np.float32)
    one = bundle.load_predictor((str(written),)).probabilities(image)
    two = bundle.load_predictor((str(written), str(written))).probabilities(image)
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.slow
def test_segment_gives_the_predictors_masks_of_real_cases(tmp_path: Path) -> None:
    """With RAY_BRATS_REAL_DATA a BraTS folder, and perhaps RAY_BRATS_BUNDLE a trained bundle."""
    if "RAY_BRATS_REAL_DATA" not in os.environ:
        pytest.skip("set RAY_BRATS_REAL_DATA to a folder of BraTS cases")
    folder = Path(os.environ.get("RAY_BRATS_BUNDLE", tmp_path / "bundle"))
    if not folder.exists():
        recipe = named.get("standard")
        export.write(make_model(recipe), recipe, str(folder), facts={"release": "brats2018"})
    card, _ = modelcard.read(str(folder))
    predictor = bundle.load_predictor((str(folder),))
    found, checked = cohort.find(os.environ["RAY_BRATS_REAL_DATA"]), 0
    for case in found.cases[:: max(1, len(found.cases) // 6)]:
        volumes = [volume.read(case.images[name]) for name in card["modalities"]]
        image = np.stack([item.voxels_HWD for item in volumes], axis=-1)
        given = in_plain_tensorflow(folder, image, tmp_path)
        prediction = predictor.segment(case)
        mask = volume.from_array(given, np.diag([-1.0, -1.0, 1.0, 1.0])).voxels_HWD
        native = prediction.geometry
        whole = with_crop(native, (0, 0, 0), native.canonical_shape)
        task = tasks.told_by(card) or tasks.DEFAULT
        expected = labels.from_class_index(prediction.mask_native, task)
        share = np.mean(whole.to_native(mask) == expected)
        assert share >= 0.9999, f"{case.case_id}: {share:.6%} of {expected.size} voxels agree"
        checked += 1
    assert checked >= 6
