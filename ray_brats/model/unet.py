"""The networks: the original project's U-Net, and the standard one.

Both are fully convolutional: input `(N, H, W, D, C)` with any sides that are multiples of
`NetworkConfig.divisor_vox`, output `(N, H, W, D, K)` probabilities in float32.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from ray_brats.recipes.config import NetworkConfig

NEGATIVE_SLOPE = 0.01
REFINING_CHANNELS = 8
"""A multiple of eight: what oneDNN's kernels work in."""


def build(config: NetworkConfig, channels: int, outputs: int, *, seed: int) -> Any:
    """A `keras.Model`, initialised from `seed` alone: the same on every rank.

    Its input has so many channels, a modality each, and its output one for each of
    `Recipe.outputs`.

    With deep supervision its output is a list, finest first; `for_inference` gives the
    network that has the first alone.
    """
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        make = _baseline if config.kind == "baseline" else _standard
        return make(config, channels, outputs)
    finally:
        keras.config.set_dtype_policy(before)


def for_inference(model: Any) -> Any:
    """The network without the outputs that only help it learn."""
    return model if len(model.outputs) == 1 else keras.Model(model.inputs[0], model.outputs[0])


def _logits(features: Any, outputs: int) -> Any:
    return layers.Conv3D(outputs, 1, dtype="float32")(features)


def _probabilities(logits: Any, config: NetworkConfig) -> Any:
    activation = "softmax" if config.output == "classes" else "sigmoid"
    return layers.Activation(activation, dtype="float32")(logits)


def _baseline(config: NetworkConfig, channels: int, outputs: int) -> Any:
    """The original's blocks: conv, dropout, conv; max-pooling down, transposed conv up."""

    def block(x: Any, width: int, dropout: float) -> Any:
        kwargs = {"activation": "relu", "kernel_initializer": "he_uniform", "padding": "same"}
        x = layers.Conv3D(width, 3, **kwargs)(x)
        x = layers.Dropout(dropout)(x)
        return layers.Conv3D(width, 3, **kwargs)(x)

    dropouts = [min(0.1 * (1 + level // 2), 0.3) for level in range(len(config.widths))]
    inputs = keras.Input((None, None, None, channels), name="image")
    x, skips = inputs, []
    for width, dropout in zip(config.widths[:-1], dropouts[:-1], strict=True):
        x = block(x, width, dropout)
        skips.append(x)
        x = layers.MaxPooling3D(2)(x)
    x = block(x, config.widths[-1], dropouts[-1])
    for width, dropout, skip in zip(
        config.widths[-2::-1], dropouts[-2::-1], reversed(skips), strict=True
    ):
        x = layers.Conv3DTranspose(width, 2, strides=2, padding="same")(x)
        x = block(layers.Concatenate()([x, skip]), width, dropout)
    probabilities = _probabilities(_logits(x, outputs), config)
    return keras.Model(inputs, probabilities, name="baseline_unet")


def _standard(config: NetworkConfig, channels: int, outputs: int) -> Any:
    """Instance norm, leaky ReLU, strided convolutions down, transposed ones up."""

    def unit(x: Any, width: int, stride: int = 1) -> Any:
        x = layers.Conv3D(
            width, 3, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(x)
        x = InstanceNorm()(x)
        return layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE)(x)

    inputs = keras.Input((None, None, None, channels), name="image")
    seen, skips = inputs, []
    if config.local_contrast_vox:
        local = LocalContrast(config.local_contrast_vox, dtype="float32")(inputs)
        seen = layers.Concatenate()([inputs, local])
    x = seen
    for level, width in enumerate(config.widths):
        x = unit(x, width, stride=2 if level else config.stem_stride)
        x = unit(x, width)
        skips.append(x)
    skips.pop()
    coarse: list[Any] = []
    for level in reversed(range(len(skips))):
        if level < config.deep_supervision:
            coarse.insert(0, x)
        width = config.widths[level]
        x = layers.Conv3DTranspose(width, 2, strides=2, padding="same", use_bias=False)(x)
        x = layers.Concatenate()([x, skips[level]])
        x = unit(unit(x, width), width)
    logits = _logits(x, outputs)
    if config.stem_stride == 2:
        logits = _refine(Upsample()(logits), seen)
    levels = [logits, *(_logits(features, outputs) for features in coarse)]
    levels = [_probabilities(level, config) for level in levels]
    return keras.Model(
        inputs, levels if config.deep_supervision else levels[0], name="standard_unet"
    )


def _refine(logits: Any, image: Any) -> Any:
    """Correct upsampled logits by what the image shows at full resolution.

    Two thin convolutions: a fifth of a step, where a full-resolution level would triple it. The
    second starts at zero, so training starts from the smooth logits.
    """
    x = layers.Concatenate()([logits, image])
    x = layers.Conv3D(REFINING_CHANNELS, 3, padding="same", kernel_initializer="he_normal")(x)
    x = layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE)(x)
    correction = layers.Conv3D(
        logits.shape[-1], 3, padding="same", kernel_initializer="zeros", dtype="float32"
    )(x)
    return layers.Add(dtype="float32")([logits, correction])


@keras.saving.register_keras_serializable(package="ray_brats")
class Upsample(layers.Layer):  # type: ignore[misc]
    """Twice the resolution on each axis: `upsampled`, once."""

    def call(self, inputs: Any) -> Any:
        """`(N, H, W, D, C)` to `(N, 2H, 2W, 2D, C)`."""
        return upsampled(inputs, doublings=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Twice the three sides, where they are known."""
        count, *sides, channels = input_shape
        return (count, *(side and 2 * side for side in sides), channels)


def upsampled(image: Any, *, doublings: int) -> Any:
    """A multiple of the resolution on each axis by trilinear interpolation of voxel centres.

    A new centre lies a quarter of an old voxel from its nearest old centre: weights 3/4 and 1/4,
    edges repeated. A transposed convolution that is learnt instead leaves neighbours that never
    see each other, a checkerboard in the masks. A matrix product an axis is what a core does
    fastest: less than half of the time of the same as a transposed convolution.

    Args:
        image: `(N, H, W, D, C)`.
        doublings: how often the resolution is doubled.

    Returns:
        `(N, mH, mW, mD, C)` with `m = 2 ** doublings`.
    """
    times, channels = 2**doublings, image.shape[-1]
    count, height, width, depth = tf.unstack(tf.shape(image)[:4])
    by_depth, by_width, by_height = (
        tf.cast(_doubling_matrix(side, doublings), image.dtype) for side in (depth, width, height)
    )
    # The axis with the shortest rows while there are fewest of them: short rows are slow.
    x = tf.matmul(by_depth, tf.reshape(image, [count * height * width, depth, channels]))
    x = tf.matmul(by_width, tf.reshape(x, [count * height, width, times * depth * channels]))
    rows = times * times * width * depth * channels
    x = tf.matmul(by_height, tf.reshape(x, [count, height, rows]))
    return tf.reshape(x, [count, times * height, times * width, times * depth, channels])


def _doubling_matrix(side: Any, doublings: int) -> Any:
    """What interpolates along an axis of `side` voxels, `(2 ** doublings * side, side)`."""
    # Not tf.eye, whose operation converters of graphs lack.
    places = tf.range(side)
    matrix = tf.cast(tf.equal(places[:, None], places[None, :]), tf.float32)
    for _ in range(doublings):
        wide = tf.concat([matrix[:1], matrix, matrix[-1:]], 0)
        before, here, after = wide[:-2], wide[1:-1], wide[2:]
        pairs = [0.25 * before + 0.75 * here, 0.75 * here + 0.25 * after]
        matrix = tf.reshape(tf.stack(pairs, 1), [-1, side])
    return matrix


@keras.saving.register_keras_serializable(package="ray_brats")
class LocalContrast(layers.Layer):  # type: ignore[misc]
    """How far each voxel is from the mean of its surroundings, in their standard deviations.

    What enhances little is told by its surroundings alone, and scanners differ in contrast.
    Moments are taken over non-zero voxels with weights that fall linearly along each axis, at a
    quarter of the resolution.

    Args:
        reach_vox: distance at which the weights are zero; an odd multiple of 4, so that an
            average has a voxel in its middle and mirrored inputs give mirrored outputs.
        options: of every Keras layer.
    """

    floor = 0.2
    """Added to the deviation, in units of the input: flat surroundings stay flat."""

    def __init__(self, reach_vox: int, **options: Any) -> None:
        super().__init__(**options)
        self.reach_vox = reach_vox

    def call(self, inputs: Any) -> Any:
        """`(N, H, W, D, C)` to the same shape; sides are multiples of 4, zeros stay zero."""
        brain = tf.cast(tf.not_equal(inputs, 0.0), inputs.dtype)
        # Joined after the first average: full resolution is what costs.
        moments = (inputs, tf.square(inputs), brain)
        sums = tf.concat([tf.nn.avg_pool3d(moment, 4, 4, "VALID") for moment in moments], -1)
        for _ in range(2):
            sums = tf.nn.avg_pool3d(sums, self.reach_vox // 4, 1, "SAME")
        total, squares, count = tf.split(sums, 3, -1)
        count = tf.maximum(count, 1e-3)
        mean = total / count
        deviation = tf.sqrt(tf.nn.relu(squares / count - tf.square(mean)))
        mean, deviation = (upsampled(coarse, doublings=2) for coarse in (mean, deviation))
        return (inputs - mean) / (deviation + self.floor) * brain

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What makes the same layer again."""
        return {**super().get_config(), "reach_vox": self.reach_vox}


@keras.saving.register_keras_serializable(package="ray_brats")
class InstanceNorm(layers.Layer):  # type: ignore[misc]
    """Instance normalisation (Ulyanov et al. 2016) with a learnt scale and shift.

    Batch normalisation in training mode over one sample is the same thing, and a fused kernel
    with a fused gradient: on a CPU a quarter of the time of moments and a multiply-add. It keeps
    no moving statistics, so ranks need not share any.
    """

    epsilon = 1e-5

    def build(self, input_shape: Any) -> None:
        """Make the scale and shift, one per channel."""
        options = {"shape": (input_shape[-1],), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = self.add_weight(name="beta", initializer="zeros", **options)

    def call(self, inputs: Any) -> Any:
        """Normalise each channel of each sample over its voxels; moments in float32.

        The channels of several samples are for the kernel the channels of one; of one sample that
        moves nothing.
        """
        count = inputs.shape[0] or tf.shape(inputs)[0]
        shape, channels = tf.shape(inputs), inputs.shape[-1]
        # The kernel knows two axes of space.
        rows = shape[1] * shape[2]
        plane = tf.reshape(inputs, (count, rows, shape[3], channels))
        beside = tf.reshape(tf.transpose(plane, (1, 2, 0, 3)), (1, rows, shape[3], -1))
        nothing = tf.zeros((0,), tf.float32)
        result = tf.raw_ops.FusedBatchNormV3(
            x=beside,
            scale=tf.tile(self.gamma, [count]),
            offset=tf.tile(self.beta, [count]),
            mean=nothing,
            variance=nothing,
            epsilon=self.epsilon,
            is_training=True,
        )
        apart = tf.reshape(result.y, (rows, shape[3], count, channels))
        return tf.ensure_shape(tf.reshape(tf.transpose(apart, (2, 0, 1, 3)), shape), inputs.shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape
