"""Keras networks, and a way to run them inside one graph at a chosen precision."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from offline_tf.models import compilation
from offline_tf.types import Tensor

_LARGEST = 1e15  # what a few layers keep within float32
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": tf.nn.relu,
    "silu": tf.nn.silu,
    "tanh": tf.math.tanh,
}


@keras.saving.register_keras_serializable(package="offline_tf")
class UniformFanIn(keras.initializers.Initializer):
    """U(+-scale / sqrt(fan_in)) for kernels and biases: what the authors' PyTorch code starts from.

    Keras' defaults (Glorot kernels, zero biases) differ.
    """

    def __init__(self, fan_in: int, scale: float = 1.0, seed: int = 0) -> None:
        """Args: the layer's input width; a factor on the bound; the random seed."""
        self.fan_in = fan_in
        self.scale = scale
        self.seed = seed

    def __call__(self, shape: Sequence[int], dtype: str | None = None, **kwargs: object) -> Tensor:
        """Draws the initial value."""
        bound = self.scale / np.sqrt(self.fan_in)
        draws = np.random.default_rng(self.seed).uniform(-bound, bound, size=tuple(shape))
        return tf.constant(draws, dtype or "float32")

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        return {"fan_in": self.fan_in, "scale": self.scale, "seed": self.seed}


def mlp(
    input_dim: int,
    *,
    hidden: Sequence[int],
    output_dim: int,
    activation: str,
    generator: np.random.Generator,
    output_scale: float = 1.0,
    initializer: str = "fan_in",
    name: str = "mlp",
) -> keras.Sequential:
    """Builds a fully connected Keras network with a linear output layer.

    Args:
      input_dim: width of the input.
      hidden: widths of the hidden layers.
      output_dim: width of the output.
      activation: "relu", "silu" or "tanh".
      generator: draws the initial weights.
      output_scale: factor on the output layer's initial weights ("fan_in" only).
      initializer: "fan_in" (`UniformFanIn`, PyTorch's) or "glorot" (Keras' own, zero biases).
      name: of the Keras model.

    Returns:
      The built model, [B, input_dim] -> [B, output_dim].
    """
    layers: list[keras.Layer] = [keras.Input((input_dim,))]
    widths = [input_dim, *hidden]
    for index, (fan_in, units) in enumerate(zip(widths, [*hidden, output_dim], strict=True)):
        last = index == len(hidden)
        scale = output_scale if last else 1.0
        kernel_seed, bias_seed = (int(x) for x in generator.integers(2**31, size=2))
        kernel: keras.Initializer = UniformFanIn(fan_in, scale, kernel_seed)
        bias: keras.Initializer = UniformFanIn(fan_in, scale, bias_seed)
        if initializer == "glorot":
            kernel = keras.initializers.GlorotUniform(seed=kernel_seed)
            bias = keras.initializers.Zeros()
        layers.append(
            keras.layers.Dense(
                units,
                activation=None if last else activation,
                kernel_initializer=kernel,
                bias_initializer=bias,
            )
        )
    return keras.Sequential(layers, name=name)


def variables(*models: keras.Model) -> list[tf.Variable]:
    """Returns the trainable tf.Variables of Keras models, in their order."""
    return [weight.value for model in models for weight in model.trainable_variables]


def dense_weights(model: keras.Sequential) -> list[tuple[Tensor, Tensor]]:
    """Returns (kernel, bias) of each Dense layer."""
    return [(layer.kernel.value, layer.bias.value) for layer in model.layers]


class Layer(NamedTuple):
    """A Dense layer's weights, [in, out] and [out], and the name of its activation."""

    kernel: Tensor
    bias: Tensor
    activation: str


def read(
    model: keras.Sequential, dtype: tf.DType = tf.float32, constant: bool = False
) -> list[Layer]:
    """Reads (and casts) a network's weights.

    Args:
      model: made by `mlp`.
      dtype: tf.float32 or tf.bfloat16.
      constant: whether a graph that is being traced holds the present values as constants, which
        makes it faster, and deaf to later changes of the weights.
    """
    if constant and not tf.executing_eagerly():
        with tf.init_scope():
            values = [[weight.numpy() for weight in pair] for pair in dense_weights(model)]
        pairs = [[tf.constant(w.astype(dtype.as_numpy_dtype)) for w in pair] for pair in values]
    else:
        # A cast to the same type would return the variable itself, unread.
        pairs = [[tf.cast(tf.identity(w), dtype) for w in pair] for pair in dense_weights(model)]
    return [
        Layer(kernel, bias, layer.activation.__name__)
        for (kernel, bias), layer in zip(pairs, model.layers, strict=True)
    ]


def choose(models: Sequence[Sequence[Layer]], index: Tensor) -> list[Layer]:
    """Returns the layers of models[index]; `index` is a tensor, the models' shapes are equal."""
    return [
        Layer(
            tf.gather(tf.stack([layer.kernel for layer in layers]), index),
            tf.gather(tf.stack([layer.bias for layer in layers]), index),
            layers[0].activation,
        )
        for layers in zip(*models, strict=True)
    ]


def of_members(outputs: Tensor, member: Tensor) -> Tensor:
    """[M, K, ...] outputs and [K] integers -> [K, ...]: each row from its own member.

    Not a gather with batch_dims, which would need the outputs transposed.
    """
    rows = tf.range(tf.shape(outputs)[1], dtype=member.dtype)
    return tf.gather_nd(outputs, tf.stack([member, rows], axis=1))


def nan_unless_bounded(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Outputs [.., B, out], NaN for rows whose inputs [B, in] are no numbers below 1e15.

    In a graph on a CPU, oneDNN's fused product and ReLU turn NaN into 0: the networks would answer
    what is no number, or overflows on the way, with numbers.
    """
    bounded = tf.reduce_all(tf.abs(inputs) < _LARGEST, axis=-1, keepdims=True)
    return tf.where(bounded, outputs, float("nan"))


def forward(layers: Sequence[Layer]) -> Callable[[Tensor], Tensor]:
    """Returns [B, in] -> [B, out]; products in the weights' type, the output in float32."""

    def run(inputs: Tensor) -> Tensor:
        hidden = tf.cast(inputs, layers[0].kernel.dtype)
        for kernel, bias, activation in layers:
            hidden = tf.nn.bias_add(tf.matmul(hidden, kernel), bias)
            if activation != "linear":
                hidden = _ACTIVATIONS[activation](hidden)
        return tf.cast(hidden, tf.float32)

    return run


def bind(
    model: keras.Sequential, dtype: tf.DType = tf.float32, constant: bool = False
) -> Callable[[Tensor], Tensor]:
    """Returns the network's forward function with its weights read once; see `read`, `forward`.

    Inside a tf.while_loop this keeps the casts out of the loop.
    """
    return forward(read(model, dtype, constant))


def product_dtype(precision: str) -> tf.DType:
    """Resolves "float32", "bfloat16" or "auto".

    auto: bfloat16 where TensorFlow's own kernels compute on a CPU that multiplies it natively;
    float32 with XLA, which has no such kernels on CPUs, and on GPUs nobody here tried it.
    """
    if precision == "auto":
        if compilation.compiler() == "xla":
            return tf.float32
        flags = pathlib.Path("/proc/cpuinfo")
        text = flags.read_text() if flags.exists() else ""
        native = "avx512_bf16" in text or "amx_bf16" in text
        return tf.bfloat16 if native else tf.float32
    return {"float32": tf.float32, "bfloat16": tf.bfloat16}[precision]
