"""MOPP: model-based offline planning with trajectory pruning (Zhan et al. 2022, arXiv 2105.07351).

Start with planner.py, one decision on one page, and algorithm.py, what is fitted before.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import offline_tf  # noqa: F401 (before TensorFlow, see there)

if TYPE_CHECKING:
    from mopp_tf.experiment.control import ControlledPlanner
    from mopp_tf.objectives import UserFunction
    from offline_tf.export.loaded import Planner


def load(path: str | pathlib.Path, seed: int = 0) -> Planner:
    """Loads what a run hands over, to act with it.

    Args:
      path: of a run folder, or of an export.
      seed: of the proposals.

    Returns:
      An object with act(observation), reset() and decision; see `offline_tf.export.loaded.Planner`.

    Raises:
      UserError: there is no export of MOPP.
    """
    from offline_tf.export.loaded import Planner

    return Planner(path, seed)


def with_objective(
    run: str | pathlib.Path,
    *,
    reward: UserFunction | None = None,
    replace: bool = False,
    constraint: UserFunction | None = None,
    price: float | None = None,
    seed: int = 0,
    **knobs: Any,
) -> ControlledPlanner:
    """Plans with a finished run's models and another reward or a constraint; nothing is retrained.

    The functions are called inside a tf.function with states s [B, S], actions a [B, A] in the task's
    units and next states s' [B, S], all float32.

    Args:
      run: the run folder.
      reward: (s, a, s') -> [B] in the units of the data's rewards.
      replace: whether it takes the place of the planner's reward, else it is added.
      constraint: (s, a, s') -> [B], positive where broken, by how much.
      price: reward taken per unit of violation; None: candidates that break it are pruned.
      seed: of the proposals.
      **knobs: of the planner that differ from the run's, such as max_q=False (Q was fitted to the old
        reward); see `mopp_tf.config.PlannerConfig`.

    Returns:
      An object with act(observation), reset() and decision, like that of `load`.

    Raises:
      UserError: the run is not finished, a function fails, or a knob is unknown or out of bounds.
    """
    from mopp_tf.experiment.control import ControlledPlanner

    return ControlledPlanner(
        run, reward=reward, replace=replace, constraint=constraint, price=price, seed=seed, **knobs
    )
