"""Networks: any size, the original's layers, layers that do what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from ray_brats.model import unet
from ray_brats.recipes import named

pytestmark = pytest.mark.tf


@pytest.mark.parametrize("name", named.RECIPES)
def test_networks_take_any_sides_that_the_levels_divide(name: named.RecipeName) -> None:
    config = named.get(name).network
    config = dataclasses.replace(config, widths=tuple(4 for _ in config.widths))
    outputs = 4 if config.output == "classes" else 3
    model = unet.for_inference(unet.build(config, 3, outputs, seed=0))
    sides = (config.divisor_vox, 2 * config.divisor_vox, 3 * config.divisor_vox)
    output = np.asarray(model(np.zeros((1, *sides, 3), np.float32)))
    assert output.shape == (1, *sides, outputs)
    assert ((output >= 0) & (output <= 1)).all()


def test_the_baseline_has_the_originals_layers_and_parameters() -> None:
    model = unet.build(named.get("baseline").network, 3, 4, seed=0)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert (kinds.count("Conv3D"), kinds.count("MaxPooling3D")) == (19, 4)
    assert kinds.count("Conv3DTranspose") == kinds.count("Concatenate") == 4
    # The count that the original project's summary prints.
    assert model.count_params() == 5_645_828


def test_the_same_seed_gives_the_same_weights() -> None:
    config = dataclasses.replace(named.get("smoke").network, widths=(4, 8))
    one, two = (unet.build(config, 3, 3, seed=1).get_weights() for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_instance_norm_is_the_formula_for_any_batch_and_its_gradient() -> None:
    x = tf.constant(np.random.default_rng(0).normal(3, 5, (2, 4, 5, 6, 3)).astype(np.float32))
    layer = unet.InstanceNorm()
    layer.build(x.shape)
    layer.gamma.assign([1.0, 2.0, 3.0])
    layer.beta.assign([0.0, -1.0, 1.0])
    towards = tf.constant(np.random.default_rng(1).normal(size=x.shape).astype(np.float32))

    def formula(x: object) -> object:
        mean, variance = tf.nn.moments(x, (1, 2, 3), keepdims=True)
        scaled = (x - mean) * tf.math.rsqrt(variance + layer.epsilon)
        return scaled * layer.gamma.value + layer.beta.value

    def taken(norm: object) -> list[np.ndarray]:
        variables = [x, layer.gamma.value, layer.beta.value]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x)  # type: ignore[operator]
        return [y.numpy(), *(g.numpy() for g in tape.gradient(y, variables, towards))]

    for found, expected in zip(taken(layer), taken(formula), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-4)
    # The batch may also be unknown when the graph is made.
    spec = tf.TensorSpec((None, None, None, None, 3), tf.float32)
    traced = tf.function(layer, input_signature=[spec])
    np.testing.assert_allclose(traced(x), layer(x), atol=1e-5)


def test_a_graph_for_any_batch_has_no_loop_and_no_operation_that_converters_lack() -> None:
    model = unet.build(named.get("standard").network, 3, 3, seed=0)
    spec = tf.TensorSpec((None, 32, 32, 32, 3), tf.float32)
    made = tf.function(model, input_signature=[spec]).get_concrete_function().graph.as_graph_def()
    inside = (node for one in made.library.function for node in one.node_def)
    kinds = {node.op for node in [*made.node, *inside]}
    assert "FusedBatchNormV3" in kinds
    assert not {kind for kind in kinds if "While" in kind or "MatrixDiag" in kind}


def test_upsampling_keeps_a_ramp_a_ramp() -> None:
    sides = (5, 6, 4)
    x = np.stack(np.meshgrid(*(np.arange(n) for n in sides), indexing="ij"), -1)[None]
    y = np.asarray(unet.Upsample()(x.astype(np.float32)))
    assert y.shape == (1, 10, 12, 8, 3)
    for axis, side in enumerate(sides):
        # Centres of the half voxels, in units of the old ones; the outermost repeat the edge.
        line = np.clip((np.arange(2 * side) + 0.5) / 2 - 0.5, 0, side - 1)
        shape = [1] * 3
        shape[axis] = 2 * side
        expected = np.broadcast_to(line.reshape(shape), y.shape[1:4])
        np.testing.assert_allclose(y[0, ..., axis], expected, atol=1e-6)


def test_two_doublings_are_one_after_the_other() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    once = unet.Upsample()
    np.testing.assert_allclose(unet.upsampled(x, doublings=2), once(once(x)), atol=1e-6)


def test_local_contrast_is_blind_to_scale_and_shift_and_mirrors() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 24, 32, 28, 2)).astype(np.float32)
    x[:, :6] = 0
    layer = unet.LocalContrast(12)
    layer.floor = 0.0
    found = np.asarray(layer(x))
    assert (found[x == 0] == 0).all()
    assert found.shape == x.shape
    # Surroundings of noise: as far from their mean as the noise itself.
    assert abs(found[:, 12:].mean()) < 0.1
    assert found[:, 12:].std() == pytest.approx(1, abs=0.1)
    moved = np.where(x != 0, 3 * x + 5, 0).astype(np.float32)
    np.testing.assert_allclose(layer(moved), found, atol=2e-2)
    for axis in (1, 2, 3):
        mirrored = np.flip(np.asarray(layer(np.flip(x, axis).copy())), axis)
        np.testing.assert_allclose(mirrored, found, atol=1e-4)


def test_a_network_with_local_contrast_is_the_same_after_a_file(tmp_path: Path) -> None:
    config = dataclasses.replace(
        named.get("standard").network, widths=(4, 8), deep_supervision=0, local_contrast_vox=20
    )
    model = unet.build(config, 3, 3, seed=0)
    x = np.random.default_rng(0).normal(size=(1, 16, 16, 16, 3)).astype(np.float32)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        again = keras.saving.load_model(tmp_path / name, compile=False)
        np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(model(x)))


def test_supervised_levels_are_outputs_that_inference_leaves_out() -> None:
    config = dataclasses.replace(
        named.get("standard").network, widths=(4, 8, 8), deep_supervision=2
    )
    model = unet.build(config, 3, 3, seed=0)
    image = np.zeros((1, 16, 16, 16, 3), np.float32)
    assert [tuple(one.shape[1:4]) for one in model(image)] == [(16,) * 3, (4,) * 3, (2,) * 3]
    network = unet.for_inference(model)
    np.testing.assert_array_equal(np.asarray(network(image)), np.asarray(model(image)[0]))


def test_half_precision_keeps_weights_and_probabilities_in_float32() -> None:
    config = dataclasses.replace(
        named.get("standard").network, widths=(4, 8, 8), precision="mixed_bfloat16"
    )
    model = unet.for_inference(unet.build(config, 3, 3, seed=0))
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model(np.zeros((1, 8, 8, 8, 3), np.float32)).dtype == "float32"
    assert {layer.compute_dtype for layer in model.layers} >= {"bfloat16", "float32"}
    # The next network is not affected.
    assert unet.build(named.get("smoke").network, 3, 3, seed=0).layers[1].compute_dtype == "float32"


@pytest.mark.parametrize("layer", [unet.Upsample, unet.LocalContrast, unet.InstanceNorm])
def test_keras_files_know_layers_by_names_that_do_not_move_with_their_module(layer: type) -> None:
    name = f"ray_brats>{layer.__name__}"
    assert keras.saving.get_registered_name(layer) == name
    assert keras.saving.get_registered_object(name) is layer
