"""Who acts in the data: shipped policies of Stable-Baselines3, and controllers written by hand."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable

import numpy as np

from benchmarks.robustness.data_sets import DataSet, Part
from offline_tf.policies import foreign
from offline_tf.types import Array, TaskSpec, UserError

FOLDER = pathlib.Path(__file__).parent / "policies"
CONTROLLERS = {  # name -> module and function, [B, S] -> [B, A]
    "dmsd-pd": ("dmsd", "pd"),
    "cstr-p": ("process", "cool"),
    "tanks-p": ("process", "pump"),
}


def policy_file(part: Part) -> pathlib.Path | None:
    """The shipped policy of a part; None for a controller.

    Raises:
      UserError: there is none.
    """
    if part.policy in CONTROLLERS:
        return None
    path = FOLDER / f"{part.policy}.npz"
    if not path.exists():
        raise UserError(
            f"{part.policy}: expected a policy in {path.name}; train_policy and ship_policy make one"
        )
    return path


def of_part(part: Part, task: TaskSpec) -> Acting:
    """Returns who acts in a part of a data set.

    Raises:
      UserError: its policy is not there, or does not fit.
    """
    path = policy_file(part)
    if path is not None:
        policy, _ = foreign.load(path, task)
        assert isinstance(policy, foreign.MlpPolicy)
        if part.draws and not policy.has_noise:
            raise UserError(f"{part.name}: {path.name} is deterministic; give the part noise")
        return Acting(part, task, policy.act)
    module, name = CONTROLLERS[part.policy]
    control = getattr(importlib.import_module(f"benchmarks.robustness.{module}"), name)
    return Acting(part, task, lambda observations, *_: control(observations))


class Acting:
    """A policy with the gain and the noise of its part; a `foreign.ForeignPolicy`."""

    def __init__(
        self,
        part: Part,
        task: TaskSpec,
        act: Callable[[Array, np.random.Generator, bool], Array],
    ) -> None:
        """Holds them."""
        self.part = part
        self._act = act
        self._middle = 0.5 * (task.action_high + task.action_low)
        self._half = 0.5 * (task.action_high - task.action_low)

    def act(self, observations: Array, generator: np.random.Generator, stochastic: bool) -> Array:
        """[B, S] -> [B, A], unclipped; `stochastic`: as in the data, else by the scaled mean."""
        draws = stochastic and self.part.draws
        in_units = (self._act(observations, generator, draws) - self._middle) / self._half
        in_units = self.part.gain * in_units
        if stochastic and self.part.noise:
            noise = generator.standard_normal(in_units.shape, dtype=np.float32)
            in_units = in_units + self.part.noise * noise
        return (self._middle + self._half * in_units).astype(np.float32)


def random_actions(task: TaskSpec) -> Callable[[Array, np.random.Generator], Array]:
    """Uniform actions within the bounds."""

    def act(observations: Array, generator: np.random.Generator) -> Array:
        size = len(observations), task.action_dim
        return generator.uniform(task.action_low, task.action_high, size).astype(np.float32)

    return act


def files_of(data_set: DataSet) -> list[pathlib.Path]:
    """The shipped policies that a set is made with."""
    return [path for part in data_set.parts if (path := policy_file(part)) is not None]
