"""What a MOPP run hands over: the whole planner as one SavedModel."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf.mbop import MbopPlanner
from mopp_tf.planner import Planner
from mopp_tf.rows import RewardScale
from offline_tf import export
from offline_tf.types import Array, Tensor

TOLERANCE = 1e-5
_WORDS = """The whole planner of MOPP: models, Q function, pruning. An episode begins with the plan of
`initial_plan`; each decision takes the plan that the one before gave, and a seed of its own.
manifest.json says from which data and with which flags.

```python
import tensorflow as tf

planner = tf.saved_model.load("HERE")
plan = planner.signatures["initial_plan"](observation=observations)["plan"]
found = planner.signatures["plan"](observation=observations, plan=plan, seed=[0, step])
found["action"], found["plan"]
```"""
_SAYS = {
    "plan": "one decision for B environments",
    "plan_one": "the same for one environment, faster",
    "initial_plan": "the plan that an episode begins with",
    "is_known": "whether the models agree about an action in a state: disagreement below the limit",
    "step": "what the models predict: next observation, reward in the data's units, end",
}


class Exported(tf.Module):
    """The signatures `plan`, `plan_one`, `initial_plan`, and MOPP's `is_known` and `step`.

    The models' weights are constants of the graphs.
    """

    def __init__(self, planner: Planner | MbopPlanner, scale: RewardScale) -> None:
        """Holds the planner and the units of its rewards; see `signatures`."""
        super().__init__()
        self.planner = planner
        self._scale = scale

    def plan(self, observation: Tensor, plan: Tensor, seed: Tensor) -> dict[str, Tensor]:
        """One decision: what to do, and how much the data supports it."""
        found = self.planner.decide(observation, plan, seed)
        return {
            "action": found.action,
            "plan": found.plan,
            "kept_share": found.kept_share,
            "disagreement": found.disagreement,
            "expected_return": found.expected_return,
        }

    def initial_plan(self, observation: Tensor) -> dict[str, Tensor]:
        """The plan to hand to the first decision of an episode."""
        return {"plan": self.planner.initial_plan(observation)}

    def is_known(self, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
        """Whether the dynamics models agree about an action."""
        found = self.planner.step(observation, action)
        return {"known": found.known, "disagreement": found.disagreement}

    def step(self, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
        """One step of the learned model, mean over its members."""
        found = self.planner.step(observation, action)
        return {
            "next_observation": found.next_states,
            "reward": self._scale.shift + self._scale.scale * found.rewards,
            "terminated": found.terminated,
            "known": found.known,
            "disagreement": found.disagreement,
        }

    def signatures(self) -> dict[str, Any]:
        """Returns signature name -> concrete function.

        All take any number of environments B, but for plan_one: `plan` for exactly one. With its
        shapes known, the graph of one decision takes three quarters of the time
        (benchmarks/decision.py).
        """
        task, horizon = self.planner.task, self.planner.knobs.horizon

        def given(count: int | None) -> tuple[tf.TensorSpec, ...]:
            return (
                tf.TensorSpec([count, task.state_dim], tf.float32, "observation"),
                tf.TensorSpec([count, horizon, task.action_dim], tf.float32, "plan"),
                tf.TensorSpec([2], tf.int32, "seed"),
            )

        made = {
            "plan": tf.function(self.plan).get_concrete_function(*given(None)),
            "plan_one": tf.function(self.plan).get_concrete_function(*given(1)),
            "initial_plan": tf.function(self.initial_plan).get_concrete_function(given(None)[0]),
        }
        if isinstance(self.planner, Planner):
            action = tf.TensorSpec([None, task.action_dim], tf.float32, "action")
            for name in ("is_known", "step"):
                function = tf.function(getattr(self, name))
                made[name] = function.get_concrete_function(given(None)[0], action)
        return made


def export_and_verify(
    planner: Planner | MbopPlanner, scale: RewardScale, folder: pathlib.Path, observations: Array
) -> float:
    """Writes the SavedModel, loads it in a fresh process and compares with the live planner.

    Args:
      planner: what to export.
      scale: of the models' rewards.
      folder: of the SavedModel.
      observations: [B, S], samples to compare on.

    Returns:
      The largest absolute difference of actions, plans and predictions.

    Raises:
      RuntimeError: the export differs from the live planner by more than 1e-5.
    """
    exported = Exported(planner, scale)
    made = exported.signatures()
    words = export.readme("Planner", _WORDS, planner.task, made, _SAYS)
    export.save(exported, folder, made, planner.task, words)
    given: dict[str, dict[str, Array]] = {"initial_plan": {"observation": observations}}
    start = made["initial_plan"](observation=tf.constant(observations))["plan"].numpy()
    given["plan"] = {
        "observation": observations,
        "plan": start,
        "seed": np.array([1, 2], np.int32),
    }
    given["plan_one"] = given["plan"] | {"observation": observations[:1], "plan": start[:1]}
    compared = ["action", "plan", "disagreement"]
    if "step" in made:
        pairs = {"observation": observations, "action": start[:, 0]}
        given |= {"is_known": pairs, "step": pairs}
        compared += ["next_observation", "reward"]
    return export.verify(made, folder, given, TOLERANCE, tuple(compared))
