"""What a MOReL run hands over: policy, detector and one model step as one SavedModel."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from morel_tf.experiment import casadi_model
from morel_tf.models import usad
from morel_tf.planning import pessimistic_mdp
from morel_tf.planning.pessimistic_mdp import PessimisticMdp
from offline_tf.export import saved_model
from offline_tf.models import compilation
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.policies.gaussian import GaussianPolicy, NumpyPolicy
from offline_tf.tasks import closed_form
from offline_tf.types import Array, TaskSpec, Tensor, UserError

TOLERANCE = 1e-6
LITE_TOLERANCE = 1e-4
# Name of a file -> signature.
ONNX_FILES = {"policy": "serving_default", "detector": "is_known", "model": "forecast"}
_WORDS = """Policy, detector and models learned by MOReL; standardisation and clipping are inside.
manifest.json says from which data and with which flags. policy.tflite and detector.tflite, where they
are, are `serving_default` and `is_known` for LiteRT, each as its file's only signature.

```python
import tensorflow as tf

controller = tf.saved_model.load("HERE")
found = controller.signatures["act_guarded"](observation=observations)
found["action"], found["known"], found["fallback_used"]
```"""
_SAYS = {
    "serving_default": "the policy's mean action, within the bounds",
    "sample": "a draw from the policy, within the bounds; the same seed draws the same",
    "is_known": "whether the data support this action here: disagreement at most the threshold",
    "is_known_history": "the same, with clipped velocities restored from the previous observation",
    "act_guarded": "the policy's action where it is known, else the fallback's",
    "step": "one step of the pessimistic MDP by the model of `member`: state, reward (HALT's where "
    "unknown, unless --halt=truncate), whether the path is over",
    "forecast": "the next step by each model, [M, B, ..], and whether they know the pair, [B]",
}


class Controller(tf.Module):
    """Policy, detector and models, with clipping and standardisation inside.

    Attributes:
      task: what is controlled.
      ensemble: the models.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        policy: GaussianPolicy,
        ensemble: GaussianEnsemble,
        weights: Array,
        calibrations: dict[str, usad.Calibration],
        fallback: Callable[[Tensor], Tensor] | None = None,
        pmdp: PessimisticMdp | None = None,
        restored: bool = True,
    ) -> None:
        """Holds the trained parts; see `signatures`.

        Args:
          task: dimensions, bounds, clipped velocities.
          policy: the planned policy.
          ensemble, weights, calibrations: the detector.
          fallback: observation [B, S] -> action [B, A] where the policy's is unknown; see
            `fallback_of`. None: no guarded control.
          pmdp: what the policy was planned in; None: no model step.
          restored: whether the models know true velocities where observations clip them.
        """
        super().__init__()
        self.task = task
        self._policy = policy
        self.ensemble = ensemble
        self._weights = weights
        self._thresholds = {name: c.threshold for name, c in calibrations.items()}
        self._fallback = fallback
        self._pmdp = pmdp
        self._restored = restored
        # Keras models hide their variables from tf.Module; name them so that they are saved.
        self.variables_to_save = [*policy.weights, *ensemble.weights]

    def act(self, observation: Tensor) -> dict[str, Tensor]:
        """[B, S] -> {"action": [B, A]}, the mean action within the bounds."""
        return {"action": self._bounded(observation, self._policy.mean(observation))}

    def sample(self, observation: Tensor, seed: Tensor) -> dict[str, Tensor]:
        """[B, S], [2] int32 -> {"action": [B, A]}, a draw from the policy within the bounds."""
        mean = self._policy.mean(observation)
        noise = tf.random.stateless_normal(tf.shape(mean), seed)
        drawn = mean + tf.exp(self._policy.log_std) * noise
        return {"action": self._bounded(observation, drawn)}

    def _bounded(self, observation: Tensor, action: Tensor) -> Tensor:
        return closed_form.executable(self.task, observation, action)

    def _judge(self, states: Tensor, action: Tensor, detector: str) -> dict[str, Tensor]:
        outputs = self.ensemble.bind()(states, action)
        values = usad.disagreement_of(self.ensemble, outputs, self._weights)
        return {"known": values <= self._thresholds[detector], "disagreement": values}

    def is_known(self, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
        """[B, S], [B, A] -> {"known": [B] bool, "disagreement": [B]}."""
        return self._judge(observation, action, "observation")

    def act_guarded(self, observation: Tensor) -> dict[str, Tensor]:
        """[B, S] -> the policy's action where the detector knows it, else the fallback's.

        Returns:
          "action" [B, A]; "known" [B] bool, of the policy's action; "fallback_used" [B] bool;
          "disagreement" [B], about the policy's action.
        """
        assert self._fallback is not None
        action = self.act(observation)["action"]
        verdict = self.is_known(observation, action)
        known = verdict["known"]  # never where the disagreement is no number
        safe = self._bounded(observation, self._fallback(observation))
        return {
            "action": tf.where(known[:, None], action, safe),
            "known": known,
            # Not ~known, which a graph may make to a comparison that is False of NaN.
            "fallback_used": tf.where(known, False, True),
            "disagreement": verdict["disagreement"],
        }

    def step(self, state: Tensor, action: Tensor, member: Tensor) -> dict[str, Tensor]:
        """One step of the pessimistic MDP; see `pessimistic_mdp.step`.

        Args:
          state: [B, S], with true velocities.
          action: [B, A]; clipped here, for the models only where they saw none beyond the bounds in
            planning (model_actions="clipped").
          member: [B] int32, whose model.
        """
        assert self._pmdp is not None
        bounded = self._bounded(state, action)
        halted = tf.zeros_like(member, tf.bool)
        clipped = self._pmdp.config.model_actions == "clipped"
        seen = action if self.task.action_change is None else bounded
        outputs = self.ensemble.bind(bounded=clipped)(state, seen)
        transition = pessimistic_mdp.step(
            self._pmdp,
            outputs=outputs,
            member=member,
            states=state,
            actions=bounded,
            halted=halted,
            noise=None,
        )
        return {
            "next_state": transition.next_states,
            "reward": transition.rewards,
            "terminated": transition.halted,
            "known": ~transition.unknown,
            "disagreement": transition.disagreement,
        }

    def forecast(self, state: Tensor, action: Tensor) -> dict[str, Tensor]:
        """The next step by each model, without HALT.

        Args:
          state: [B, S].
          action: [B, A]; brought within bounds and rates here.

        Returns:
          "next_state" [M, B, S]; "reward", "terminated" [M, B]; "known", "disagreement" [B].
        """
        assert self._pmdp is not None
        task, ensemble = self.task, self.ensemble
        bounded = self._bounded(state, action)
        outputs = ensemble.bind()(state, bounded)  # [M, B, width]
        every = ensemble.next_states(state, ensemble.means(outputs))  # [M, B, S]
        every = closed_form.with_the_past(task, state, bounded, every)
        assert task.reward is not None and task.termination is not None, "see learned_task"
        pay = compilation.of_task(task.reward)
        ends = compilation.of_task(task.termination)
        each = tf.unstack(every)
        values = usad.disagreement_of(ensemble, outputs, self._weights)  # [B]
        return {
            "next_state": every,
            "reward": tf.stack([pay(state, bounded, x, self._pmdp.physics) for x in each]),
            "terminated": tf.stack([ends(x) for x in each]),
            "known": values <= self._pmdp.threshold,
            "disagreement": values,
        }

    def write_casadi(self, folder: pathlib.Path, states: Array, actions: Array) -> float:
        """Writes the models for CasADi; returns the largest difference, see `casadi_model.write`."""
        assert self._pmdp is not None
        made = casadi_model.function(
            self.task, self.ensemble, self._weights, float(self._pmdp.threshold)
        )
        actions = self._bounded(tf.constant(states), tf.constant(actions)).numpy()
        live = self.forecast(tf.constant(states), tf.constant(actions))
        expected = {name: value.numpy() for name, value in live.items()}
        return casadi_model.write(folder, made, expected, states, actions)

    def is_known_history(
        self, previous_observation: Tensor, observation: Tensor, action: Tensor
    ) -> dict[str, Tensor]:
        """Like is_known, with clipped velocities restored from the previous observation [B, S]."""
        restored = finite_difference(self.task, previous_observation, observation)
        return self._judge(restored, action, "history")

    def signatures(self) -> dict[str, Any]:
        """Returns signature name -> concrete function, polymorphic in B."""
        states = tf.TensorSpec([None, self.task.state_dim], tf.float32, "observation")
        actions = tf.TensorSpec([None, self.task.action_dim], tf.float32, "action")
        previous = tf.TensorSpec([None, self.task.state_dim], tf.float32, "previous_observation")
        seed = tf.TensorSpec([2], tf.int32, "seed")
        functions = {
            "serving_default": compilation.function(self.act).get_concrete_function(states),
            "sample": compilation.function(self.sample).get_concrete_function(states, seed),
            "is_known": compilation.function(self.is_known).get_concrete_function(states, actions),
        }
        if self.task.velocity_limit is not None and self._restored:
            functions["is_known_history"] = compilation.function(
                self.is_known_history
            ).get_concrete_function(previous, states, actions)
        if self._fallback is not None:
            functions["act_guarded"] = compilation.function(self.act_guarded).get_concrete_function(
                states
            )
        if self._pmdp is not None:
            state = tf.TensorSpec([None, self.task.state_dim], tf.float32, "state")
            functions["step"] = compilation.function(self.step).get_concrete_function(
                state, actions, tf.TensorSpec([None], tf.int32, "member")
            )
            functions["forecast"] = compilation.function(self.forecast).get_concrete_function(
                state, actions
            )
        return functions


def finite_difference(task: TaskSpec, previous: Tensor, observation: Tensor) -> Tensor:
    """TensorFlow twin of offline_tf.datasets.velocities.finite_difference; [B, S] -> [B, S]."""
    columns = tf.unstack(observation, axis=-1)
    limit = task.velocity_limit
    for velocity, position in task.finite_difference if limit is not None else ():
        observed = observation[:, velocity]
        slope = (observation[:, position] - previous[:, position]) / task.dt
        is_clipped = (tf.abs(observed) >= limit) & (slope * tf.sign(observed) > limit)
        columns[velocity] = tf.where(is_clipped, slope, observed)
    return tf.stack(columns, axis=-1)


def fallback_of(task: TaskSpec, name: str, cloned: NumpyPolicy) -> Callable[[Tensor], Tensor]:
    """The fallback that --fallback names.

    Args:
      task: dimensions and bounds.
      name: "cloning", or the numbers of a constant action, separated by commas.
      cloned: the behaviour-cloned policy; acts by its mean.

    Raises:
      UserError: neither, or not within the bounds.
    """
    if name == "cloning":
        layers = [(tf.constant(kernel), tf.constant(bias)) for kernel, bias in cloned.layers]
        units = cloned.units

        def imitate(observation: Tensor) -> Tensor:
            hidden = (observation - units.input_shift) * units.input_scale
            for kernel, bias in layers[:-1]:
                hidden = tf.tanh(hidden @ kernel + bias)
            return units.output_shift + units.output_scale * (
                hidden @ layers[-1][0] + layers[-1][1]
            )

        return imitate
    try:
        constant = np.array([float(word) for word in name.split(",")], np.float32)
    except ValueError:
        constant = np.empty(0, np.float32)
    fits = constant.shape == (task.action_dim,)
    if not fits or not ((task.action_low <= constant) & (constant <= task.action_high)).all():
        raise UserError(
            f"--fallback: expected cloning, or {task.action_dim} numbers within the bounds "
            f"({', '.join(task.action_names)}), got {name!r}"
        )
    return lambda observation: tf.zeros_like(observation[:, :1]) + constant


def export_and_verify(
    controller: Controller,
    folder: pathlib.Path,
    observations: Array,
    actions: Array,
    lite: bool = False,
) -> float:
    """Writes the SavedModel, loads it in a fresh process and compares the outputs.

    Args:
      controller: what to export.
      folder: of the SavedModel.
      observations, actions: [B, S], [B, A], samples to compare on.
      lite: whether to write and compare policy.tflite and detector.tflite too.

    Returns:
      The largest difference of actions, and of the rest relative to its size.

    Raises:
      RuntimeError: the export differs from the live model by more than 1e-6 (LiteRT: 1e-4).
    """
    signatures = controller.signatures()
    count = len(observations)
    samples = {
        "observation": observations,
        "state": observations,
        "action": actions,
        "previous_observation": np.roll(observations, 1, axis=0),
        "seed": np.array([1, 2], np.int32),
        "member": (np.arange(count) % controller.ensemble.size).astype(np.int32),
    }
    inputs = {
        name: {spec.name: samples[spec.name] for spec in function.structured_input_signature[0]}
        for name, function in signatures.items()
    }
    readme = saved_model.readme("Controller", _WORDS, controller.task, signatures, _SAYS)
    saved_model.save(controller, folder, signatures, controller.task, readme)
    worst = saved_model.verify(signatures, folder, inputs, TOLERANCE)
    if lite:
        for name, signature in (("policy", "serving_default"), ("detector", "is_known")):
            path = folder / f"{name}.tflite"
            saved_model.save_lite(controller, path, signatures[signature])
            saved_model.verify(signatures, path, {signature: inputs[signature]}, LITE_TOLERANCE)
    return worst
