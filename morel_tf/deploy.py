"""What a MOReL run hands over: policy and detector as one SavedModel."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from morel_tf import usad
from morel_tf.dynamics import DynamicsEnsemble
from offline_tf import export
from offline_tf.policy import GaussianPolicy
from offline_tf.types import Array, TaskSpec, Tensor

TOLERANCE = 1e-6


class Controller(tf.Module):
    """The policy's mean action and the detector, with clipping and standardisation inside."""

    def __init__(
        self,
        task: TaskSpec,
        policy: GaussianPolicy,
        ensemble: DynamicsEnsemble,
        weights: Array,
        calibrations: dict[str, usad.Calibration],
    ) -> None:
        """Holds the trained parts; see `signatures`."""
        super().__init__()
        self._task = task
        self._policy = policy
        self._ensemble = ensemble
        self._weights = weights
        self._thresholds = {name: c.threshold for name, c in calibrations.items()}
        # Keras models hide their variables from tf.Module; name them so that they are saved.
        self.variables_to_save = [*policy.weights, *ensemble.weights]

    def act(self, observation: Tensor) -> dict[str, Tensor]:
        """[B, S] -> {"action": [B, A]}, the mean action within the bounds."""
        action = self._policy.mean(observation)
        return {"action": tf.clip_by_value(action, self._task.action_low, self._task.action_high)}

    def _judge(self, states: Tensor, action: Tensor, detector: str) -> dict[str, Tensor]:
        outputs = self._ensemble.bind()(states, action)
        values = usad.disagreement_of(self._ensemble, outputs, self._weights)
        return {"known": values <= self._thresholds[detector], "disagreement": values}

    def is_known(self, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
        """[B, S], [B, A] -> {"known": [B] bool, "disagreement": [B]}."""
        return self._judge(observation, action, "observation")

    def is_known_history(
        self, previous_observation: Tensor, observation: Tensor, action: Tensor
    ) -> dict[str, Tensor]:
        """Like is_known, with clipped velocities restored from the previous observation [B, S]."""
        restored = finite_difference(self._task, previous_observation, observation)
        return self._judge(restored, action, "history")

    def signatures(self) -> dict[str, Any]:
        """Returns signature name -> concrete function, polymorphic in B."""
        states = tf.TensorSpec([None, self._task.state_dim], tf.float32, "observation")
        actions = tf.TensorSpec([None, self._task.action_dim], tf.float32, "action")
        previous = tf.TensorSpec([None, self._task.state_dim], tf.float32, "previous_observation")
        made = {
            "serving_default": tf.function(self.act).get_concrete_function(states),
            "is_known": tf.function(self.is_known).get_concrete_function(states, actions),
        }
        if self._task.velocity_limit is not None:
            made["is_known_history"] = tf.function(self.is_known_history).get_concrete_function(
                previous, states, actions
            )
        return made


def finite_difference(task: TaskSpec, previous: Tensor, observation: Tensor) -> Tensor:
    """TensorFlow twin of offline_tf.datasets.velocities.finite_difference; [B, S] -> [B, S]."""
    columns = tf.unstack(observation, axis=-1)
    limit = task.velocity_limit
    for velocity, position in task.finite_difference if limit is not None else ():
        observed = observation[:, velocity]
        slope = (observation[:, position] - previous[:, position]) / task.dt
        beyond = (tf.abs(observed) >= limit) & (slope * tf.sign(observed) > limit)
        columns[velocity] = tf.where(beyond, slope, observed)
    return tf.stack(columns, axis=-1)


def export_and_verify(
    controller: Controller, folder: pathlib.Path, observations: Array, actions: Array
) -> float:
    """Writes the SavedModel, loads it in a fresh process and compares the outputs.

    Args:
      controller: what to export.
      folder: of the SavedModel.
      observations, actions: [B, S], [B, A], samples to compare on.

    Returns:
      The largest absolute difference of actions, and of disagreements relative to their size.

    Raises:
      RuntimeError: the export differs from the live model by more than 1e-6.
    """
    made = controller.signatures()
    export.save(controller, folder, made)
    given = {
        "serving_default": {"observation": observations},
        "is_known": {"observation": observations, "action": actions},
        "is_known_history": {
            "previous_observation": observations[:-1],
            "observation": observations[1:],
            "action": actions[1:],
        },
    }
    worst = 0.0
    for name, function in made.items():
        inputs = given[name]
        live = function(**{k: tf.constant(v) for k, v in inputs.items()})
        fresh = export.run_in_fresh_process(folder, name, inputs)
        for key, value in live.items():
            if key == "known":
                continue  # follows from the disagreement, compared below
            expected = value.numpy()
            scale = 1.0 if key == "action" else max(float(np.abs(expected).max()), 1.0)
            worst = float(np.maximum(worst, np.abs(fresh[key] - expected).max() / scale))
    if not worst <= TOLERANCE:
        raise RuntimeError(
            f"export to {folder}: outputs in a fresh process differ by {worst:.2g}, "
            f"expected at most {TOLERANCE:g}"
        )
    return worst
