"""What a MOPP run hands over: the whole planner as one SavedModel."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf.mbop import MbopPlanner
from mopp_tf.planner import Planner
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
}


class Exported(tf.Module):
    """The signatures `plan`, `plan_one` and `initial_plan` over one planner.

    The models' weights are constants of the graphs.
    """

    def __init__(self, planner: Planner | MbopPlanner) -> None:
        """Holds the planner; see `signatures`."""
        super().__init__()
        self.planner = planner

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

        return {
            "plan": tf.function(self.plan).get_concrete_function(*given(None)),
            "plan_one": tf.function(self.plan).get_concrete_function(*given(1)),
            "initial_plan": tf.function(self.initial_plan).get_concrete_function(given(None)[0]),
        }


def export_and_verify(
    planner: Planner | MbopPlanner, folder: pathlib.Path, observations: Array
) -> float:
    """Writes the SavedModel, loads it in a fresh process and compares with the live planner.

    Args:
      planner: what to export.
      folder: of the SavedModel.
      observations: [B, S], samples to compare on.

    Returns:
      The largest absolute difference of actions and plans.

    Raises:
      RuntimeError: the export differs from the live planner by more than 1e-5.
    """
    exported = Exported(planner)
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
    return export.verify(made, folder, given, TOLERANCE, ("action", "plan"))
