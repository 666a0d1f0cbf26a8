"""The networks: the original project's U-Net, and the standard one.

Both are fully convolutional: input `(N, H, W, D, C)` with any sides that are multiples of
`NetworkConfig.divisor_vox`, output `(N, H, W, D, K)` probabilities in float32.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from ray_brats.config import NetworkConfig
from ray_brats.labels import CLASS_COUNT, REGIONS

NEGATIVE_SLOPE = 0.01


def build(config: NetworkConfig, channels: int, *, seed: int) -> Any:
    """A `keras.Model`, initialised from `seed` alone: the same on every rank."""
    keras.utils.set_random_seed(seed)
    if config.kind == "baseline":
        return _baseline(config, channels)
    return _standard(config, channels)


def _head(features: Any, config: NetworkConfig) -> Any:
    if config.output == "classes":
        return layers.Conv3D(CLASS_COUNT, 1, activation="softmax", dtype="float32")(features)
    return layers.Conv3D(len(REGIONS), 1, activation="sigmoid", dtype="float32")(features)


def _baseline(config: NetworkConfig, channels: int) -> Any:
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
    return keras.Model(inputs, _head(x, config), name="baseline_unet")


def _standard(config: NetworkConfig, channels: int) -> Any:
    """Instance norm, leaky ReLU, strided convolutions down, transposed ones up."""

    def unit(x: Any, width: int, stride: int = 1) -> Any:
        x = layers.Conv3D(
            width, 3, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(x)
        x = InstanceNorm()(x)
        return layers.LeakyReLU(negative_slope=NEGATIVE_SLOPE)(x)

    inputs = keras.Input((None, None, None, channels), name="image")
    x, skips = inputs, []
    for level, width in enumerate(config.widths):
        x = unit(x, width, stride=2 if level else config.stem_stride)
        x = unit(x, width)
        skips.append(x)
    skips.pop()
    for width, skip in zip(config.widths[-2::-1], reversed(skips), strict=True):
        x = layers.Conv3DTranspose(width, 2, strides=2, padding="same", use_bias=False)(x)
        x = layers.Concatenate()([x, skip])
        x = unit(unit(x, width), width)
    if config.stem_stride == 2:
        x = layers.Conv3DTranspose(
            config.widths[0], 2, strides=2, padding="same", activation="leaky_relu"
        )(x)
    return keras.Model(inputs, _head(x, config), name="standard_unet")


@keras.saving.register_keras_serializable(package="ray_brats")
class InstanceNorm(layers.Layer):  # type: ignore[misc]
    """Instance normalisation (Ulyanov et al. 2016) with a learnt scale and shift.

    Two moments and one fused multiply-add: about half the cost of Keras's
    GroupNormalization on the CPU. It keeps no moving statistics, so ranks need not share any.
    """

    epsilon = 1e-5

    def build(self, input_shape: Any) -> None:
        """Make the scale and shift, one per channel."""
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Normalise each channel of each sample over its voxels; moments in float32."""
        ops = keras.ops
        mean, variance = ops.moments(ops.cast(inputs, "float32"), axes=(1, 2, 3), keepdims=True)
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        shift = self.beta - mean * scale
        return inputs * ops.cast(scale, inputs.dtype) + ops.cast(shift, inputs.dtype)
