"""The Gaussian policy pi(a|s) = N(mu(s), diag(exp(log_std))^2), its numpy twin and its file."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from offline_tf import networks
from offline_tf.types import Array, TaskSpec, Tensor, UserError

tfd = tfp.distributions
# AttributeError: Python 3.10 where a bare array stands in the file.
_DAMAGES = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
_LOG_2PI = float(np.log(2.0 * np.pi))


@dataclasses.dataclass(frozen=True)
class NumpyPolicy:
    """A policy for stepping simulators: TensorFlow's cost per call would rule there.

    Attributes:
      input_scale: [S] factor on the observation.
      layers: (kernel, bias) per layer, tanh between them.
      log_std: [A].
    """

    input_scale: Array
    layers: tuple[tuple[Array, Array], ...]
    log_std: Array

    def mean(self, observations: Array) -> Array:
        """[B, S] -> [B, A] mean actions, unclipped."""
        hidden = observations * self.input_scale
        for kernel, bias in self.layers[:-1]:
            hidden = np.tanh(hidden @ kernel + bias)
        kernel, bias = self.layers[-1]
        return hidden @ kernel + bias

    def sample(self, observations: Array, generator: np.random.Generator) -> Array:
        """[B, S] -> [B, A] stochastic actions, unclipped."""
        mean = self.mean(observations)
        noise = generator.standard_normal(mean.shape, dtype=np.float32)
        return mean + np.exp(self.log_std) * noise

    def log_prob(self, observations: Array, actions: Array) -> Array:
        """[B, S], [B, A] unclipped -> [B] log density."""
        z = (actions - self.mean(observations)) * np.exp(-self.log_std)
        return -0.5 * np.sum(z * z + _LOG_2PI, axis=1) - self.log_std.sum()


class GaussianPolicy(tf.Module):
    """Gaussian MLP policy with a state-independent, bounded log standard deviation.

    Source: MOReL authors' gaussian_mlp.py (tanh network, output layer scaled by 1e-2).

    Attributes:
      network: the Keras network, scaled observation [B, S] -> mean action [B, A].
      log_std: [A] variable.
      input_scale: [S] constant factor on observations.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        init_log_std: float,
        input_scale: Array | None = None,
        generator: np.random.Generator | None = None,
    ) -> None:
        """Builds the policy with random weights drawn from `generator`."""
        super().__init__()
        generator = generator or np.random.default_rng(0)
        self.network = networks.mlp(
            state_dim, hidden, action_dim, "tanh", generator, output_scale=1e-2, name="policy"
        )
        self.log_std = tf.Variable(tf.fill([action_dim], float(init_log_std)), name="log_std")
        scale = np.ones(state_dim) if input_scale is None else input_scale
        self.input_scale = np.asarray(scale, np.float32)

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables: those of the network, then log_std."""
        return [*networks.variables(self.network), self.log_std]

    def bind(self) -> Callable[[Tensor], Tensor]:
        """Returns the mean function [B, S] -> [B, A] with the weights read once."""
        forward = networks.bind(self.network)
        return lambda observations: forward(observations * self.input_scale)

    def mean(self, observations: Tensor) -> Tensor:
        """[B, S] -> [B, A] mean action, unclipped."""
        return self.bind()(observations)

    def distribution(self, observations: Tensor) -> tfp.distributions.Distribution:
        """[B, S] -> distribution over unclipped actions with batch shape [B], event shape [A]."""
        return tfd.MultivariateNormalDiag(self.mean(observations), tf.exp(self.log_std))

    def numpy(self) -> NumpyPolicy:
        """Returns a copy of the present policy in numpy."""
        layers = tuple(
            (kernel.numpy(), bias.numpy()) for kernel, bias in networks.dense_weights(self.network)
        )
        return NumpyPolicy(self.input_scale, layers, self.log_std.numpy())

    def assign(self, other: NumpyPolicy) -> None:
        """Takes over the weights of a policy of the same shape."""
        flat = [array for layer in other.layers for array in layer]
        for variable, value in zip(self.weights, [*flat, other.log_std], strict=True):
            variable.assign(value)


def velocity_scale(task: TaskSpec, factor: float) -> Array:
    """[S] input scale of a policy: `factor` for velocities, 1 for the rest.

    Source: the authors' observation mask for Hopper (0.02 on velocities).
    """
    scale = np.ones(task.state_dim, np.float32)
    scale[list(task.velocity_indices)] = factor
    return scale


def save(path: pathlib.Path, policy: NumpyPolicy, about: dict[str, Any]) -> None:
    """Writes a policy as a small npz; `about` says where it comes from (JSON types only)."""
    arrays = {"input_scale": policy.input_scale, "log_std": policy.log_std}
    for index, (kernel, bias) in enumerate(policy.layers):
        arrays |= {f"kernel_{index}": kernel, f"bias_{index}": bias}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial.npz")
    np.savez_compressed(partial, about=json.dumps(about), **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def load(path: pathlib.Path) -> tuple[NumpyPolicy, dict[str, Any]]:
    """Reads what `save` wrote.

    Raises:
      UserError: no such file, or not a policy file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            count = sum(name.startswith("kernel_") for name in file.files)
            layers = tuple((file[f"kernel_{i}"], file[f"bias_{i}"]) for i in range(count))
            return (
                NumpyPolicy(file["input_scale"], layers, file["log_std"]),
                json.loads(str(file["about"])),
            )
    except FileNotFoundError:
        raise UserError(f"policy: expected a weight file at {path}, found none") from None
    except _DAMAGES as error:
        raise UserError(f"policy: {path} is no policy weight file ({error})") from None


def shipped(task_name: str) -> pathlib.Path:
    """Where the behaviour policy that comes with the package lies."""
    return pathlib.Path(__file__).parent / "policies" / f"{task_name}.npz"
