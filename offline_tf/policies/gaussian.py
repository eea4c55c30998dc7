"""The Gaussian policy pi(a|s) = N(mu(s), diag(exp(log_std))^2), its numpy twin and its file."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from offline_tf.models import networks
from offline_tf.numerics import standardize
from offline_tf.numerics.size_limits import check_size
from offline_tf.numerics.standardize import Statistics
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec, Tensor, UserError

tfd = tfp.distributions
# AttributeError: Python 3.10 where a bare array stands in the file.
_LOG_2PI = float(np.log(2.0 * np.pi))


class Units(NamedTuple):
    """What a policy's network works in; a user's own units may be far from 1.

    Attributes:
      input_shift, input_scale: [S]; the network sees (observation - shift) * scale.
      output_shift, output_scale: [A]; the mean action is shift + scale * the network's output.
    """

    input_shift: Array
    input_scale: Array
    output_shift: Array
    output_scale: Array


def raw_units(task: TaskSpec, velocity_scale: float = 1.0) -> Units:
    """The task's own units, with a factor on the velocities.

    Source: the authors' observation mask for Hopper (0.02 on velocities).
    """
    scale = np.ones(task.state_dim, np.float32)
    scale[list(task.velocity_indices)] = velocity_scale
    zero, one = np.zeros(task.action_dim, np.float32), np.ones(task.action_dim, np.float32)
    return Units(np.zeros_like(scale), scale, zero, one)


def data_units(task: TaskSpec, observed: Statistics) -> Units:
    """Observations standardised, actions in halves of their range.

    Args:
      task: for the bounds; an action without a range, or without bounds, stays in its own unit.
      observed: shift and scale of the observations, [S]; a column that never changes is not seen.
    """
    half = 0.5 * (task.action_high - task.action_low)
    ranged = np.isfinite(half) & (half > 0.0)
    zero = np.clip(np.zeros_like(half), task.action_low, task.action_high)
    with np.errstate(invalid="ignore"):  # of two infinite bounds
        middle = np.where(ranged, 0.5 * (task.action_high + task.action_low), zero)
    varies = observed.scale > standardize.EPSILON
    scale = np.where(varies, 1.0 / np.where(varies, observed.scale, 1.0), 0.0)
    return Units(
        observed.shift,
        scale.astype(np.float32),
        middle.astype(np.float32),
        np.where(ranged, half, 1.0).astype(np.float32),
    )


@dataclasses.dataclass(frozen=True)
class NumpyPolicy:
    """A policy for stepping simulators: TensorFlow's cost per call would rule there.

    Attributes:
      units: of the network's inputs and outputs.
      layers: (kernel, bias) per layer, tanh between them.
      log_std: [A], of the action in the task's units.
    """

    units: Units
    layers: tuple[tuple[Array, Array], ...]
    log_std: Array

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(len(bias) for _, bias in self.layers[:-1])

    def mean(self, observations: Array) -> Array:
        """[B, S] -> [B, A] mean actions, unclipped."""
        units = self.units
        hidden = (observations - units.input_shift) * units.input_scale
        for kernel, bias in self.layers[:-1]:
            hidden = np.tanh(hidden @ kernel + bias)
        kernel, bias = self.layers[-1]
        return units.output_shift + units.output_scale * (hidden @ kernel + bias)

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
      network: the Keras network, [B, S] -> [B, A], both in its units.
      log_std: [A] variable, of the action in the task's units.
      units: of the network's inputs and outputs.
    """

    def __init__(
        self,
        units: Units,
        hidden: Sequence[int],
        init_log_std: float,
        generator: np.random.Generator | None = None,
    ) -> None:
        """Builds the policy with random weights.

        Args:
          units: of inputs [S] and outputs [A].
          hidden: widths of the hidden layers.
          init_log_std: in the network's units.
          generator: draws the weights.
        """
        super().__init__()
        state_dim, action_dim = len(units.input_scale), len(units.output_scale)
        generator = generator or np.random.default_rng(0)
        self.network = networks.mlp(
            state_dim,
            hidden=hidden,
            output_dim=action_dim,
            activation="tanh",
            generator=generator,
            output_scale=1e-2,
            name="policy",
        )
        self.units = Units(*(np.asarray(part, np.float32) for part in units))
        log_std = np.float32(init_log_std) + np.log(self.units.output_scale)
        self.log_std = tf.Variable(log_std, name="log_std")

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(int(bias.shape[0]) for _, bias in networks.dense_weights(self.network)[:-1])

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables: those of the network, then log_std."""
        return [*networks.variables(self.network), self.log_std]

    def bind(self) -> Callable[[Tensor], Tensor]:
        """Returns the mean function [B, S] -> [B, A] with the weights read once."""
        forward, units = networks.bind(self.network), self.units

        is_shifted = units.input_shift.any() or units.output_shift.any()
        if not is_shifted and (units.output_scale == 1.0).all():
            # Raw: fewer operations in a roll-out.
            return lambda observations: forward(observations * units.input_scale)

        def mean(observations: Tensor) -> Tensor:
            inputs = (observations - units.input_shift) * units.input_scale
            return units.output_shift + units.output_scale * forward(inputs)

        return mean

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
        return NumpyPolicy(self.units, layers, self.log_std.numpy())

    def assign(self, other: NumpyPolicy) -> None:
        """Takes over the weights of a policy of the same shape."""
        flat = [array for layer in other.layers for array in layer]
        for variable, value in zip(self.weights, [*flat, other.log_std], strict=True):
            variable.assign(value)


def save(path: pathlib.Path, policy: NumpyPolicy, about: dict[str, Any]) -> None:
    """Writes a policy as a small npz; `about` says where it comes from (JSON types only)."""
    arrays = {**policy.units._asdict(), "log_std": policy.log_std}
    for index, (kernel, bias) in enumerate(policy.layers):
        arrays |= {f"kernel_{index}": kernel, f"bias_{index}": bias}
    with files.whole(path, ".partial.npz") as partial:
        np.savez_compressed(partial, about=json.dumps(about), **arrays)  # type: ignore[arg-type]


def load(path: pathlib.Path) -> tuple[NumpyPolicy, dict[str, Any]]:
    """Reads what `save` wrote.

    Raises:
      UserError: no such file, or not a policy file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(sum(item.file_size for item in archive.infolist()), str(path), "policy")
        with np.load(path, allow_pickle=False) as file:
            count = sum(name.startswith("kernel_") for name in file.files)
            layers = tuple((file[f"kernel_{i}"], file[f"bias_{i}"]) for i in range(count))
            states, actions = np.zeros_like(file["input_scale"]), np.zeros_like(file["log_std"])
            # Older files had raw units.
            raw_defaults = Units(states, states, actions, actions + 1)
            units = {name: file[name] for name in Units._fields if name in file.files}
            return (
                NumpyPolicy(raw_defaults._replace(**units), layers, file["log_std"]),
                json.loads(str(file["about"])),
            )
    except FileNotFoundError:
        raise UserError(f"policy: expected a weight file at {path}, found none") from None
    except UserError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"policy: {path} is no policy weight file ({reason})") from None


def shipped(task_name: str) -> pathlib.Path:
    """Where the behaviour policy that comes with the package lies."""
    return pathlib.Path(__file__).parent / f"{task_name}.npz"
