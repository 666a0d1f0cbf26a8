"""Networks and bundles: any size, three formats, and a card that is checked."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ray_brats import recipes
from ray_brats.errors import ArtefactError

pytest.importorskip("tensorflow")
from ray_brats import bundle, unet

pytestmark = pytest.mark.tf
RECIPE = dataclasses.replace(
    recipes.get("smoke"),
    network=dataclasses.replace(recipes.get("smoke").network, widths=(4, 8, 8)),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    model = unet.build(RECIPE.network, 3, seed=0)
    bundle.write(model, RECIPE, str(folder), facts={"release": "brats2020"})
    return folder


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_networks_take_any_sides_that_the_levels_divide(name: recipes.RecipeName) -> None:
    config = recipes.get(name).network
    config = dataclasses.replace(config, widths=tuple(4 for _ in config.widths))
    model = unet.build(config, 3, seed=0)
    sides = (config.divisor_vox, 2 * config.divisor_vox, 3 * config.divisor_vox)
    output = np.asarray(model(np.zeros((1, *sides, 3), np.float32)))
    assert output.shape == (1, *sides, 4 if config.output == "classes" else 3)
    assert ((output >= 0) & (output <= 1)).all()


def test_the_baseline_has_the_originals_layers_and_parameters() -> None:
    model = unet.build(recipes.get("baseline").network, 3, seed=0)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert (kinds.count("Conv3D"), kinds.count("MaxPooling3D")) == (19, 4)
    assert kinds.count("Conv3DTranspose") == kinds.count("Concatenate") == 4
    # The count that the original project's summary prints.
    assert model.count_params() == 5_645_828


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two = (unet.build(RECIPE.network, 3, seed=1).get_weights() for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_instance_norm_gives_each_channel_mean_0_and_deviation_1() -> None:
    x = np.random.default_rng(0).normal(3, 5, (2, 4, 5, 6, 3)).astype(np.float32)
    y = np.asarray(unet.InstanceNorm()(x))
    np.testing.assert_allclose(y.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(1, 2, 3)), 1, atol=1e-3)


def test_a_bundle_holds_every_format_and_explains_itself(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {"saved_model", "model.keras", "model.h5", "bundle.json"}
    card = json.loads((written / "bundle.json").read_text())
    assert card["modalities"] == ["t1ce", "t2", "flair"]
    assert "research" in card["intended_use"]


def test_a_loaded_bundle_gives_the_models_output(written: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 16, 24, 32, 3)).astype(np.float32)
    model = unet.build(RECIPE.network, 3, seed=0)
    np.testing.assert_allclose(
        bundle.load(str(written)).forward(image), np.asarray(model(image)), atol=1e-5
    )


def test_the_saved_model_loads_in_plain_tensorflow(written: Path) -> None:
    script = (
        "import sys, tensorflow as tf; m = tf.saved_model.load(sys.argv[1]);"
        "f = m.signatures['serving_default']; (n,) = f.structured_input_signature[1];"
        "print([*f(**{n: tf.zeros((2, 8, 16, 24, 3))}).values()][0].shape);"
        "assert not any(k.startswith('ray') for k in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(written / "saved_model")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "(2, 8, 16, 24, 3)" in done.stdout, done.stderr


def test_a_changed_file_is_refused(written: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    (copy / "model.h5").write_bytes(b"other")
    with pytest.raises(ArtefactError, match=r"model\.h5"):
        bundle.load(str(copy))
    (copy / "model.h5").unlink()
    with pytest.raises(ArtefactError, match=r"model\.h5"):
        bundle.load(str(copy))
    with pytest.raises(ArtefactError, match="no bundle"):
        bundle.load(str(tmp_path))


def test_another_architecture_is_refused(written: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    card = json.loads((copy / "bundle.json").read_text())
    card["recipe"]["network"]["widths"] = [4, 8, 16]
    (copy / "bundle.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="parameters"):
        bundle.load(str(copy))
