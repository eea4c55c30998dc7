"""The configuration of a MOPP or MBOP run: from flags, from a run folder; what has to go together."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, NamedTuple

from mopp_tf import algorithm, config, planner_config
from offline_tf import tasks
from offline_tf.config.knobs import rebuild
from offline_tf.types import UserError


class Configs(NamedTuple):
    """The dataclasses of config.STAGES, in their order."""

    run: config.RunConfig
    model: config.ModelConfig
    dynamics: config.DynamicsConfig
    judge: config.JudgeConfig
    behavior: config.BehaviorConfig
    q: config.QConfig
    planner: config.PlannerConfig
    choice: config.ChoiceConfig
    mbop: config.MbopConfig

    @property
    def knobs(self) -> algorithm.Knobs:
        """Those of learning, and of the algorithm's planner."""
        planner, judge = self.planner, self.judge
        if self.run.algorithm == "mbop":
            planner, judge = planner_config.for_mbop(planner, self.mbop), algorithm.NO_JUDGE
        return algorithm.Knobs(
            self.model, self.dynamics, self.behavior, self.q, planner, judge, self.choice
        )

    def flat(self) -> dict[str, Any]:
        """All flags by name."""
        return {k: v for part in self for k, v in dataclasses.asdict(part).items()}


def from_manifest(manifest: dict[str, Any]) -> Configs:
    """Rebuilds the configuration of a run from its folder; one older than the judge has none."""
    flags = {"judge_members": 0} | manifest["flags"]
    return Configs(*(rebuild(cls, flags) for cls in config.STAGES))


def default_workdir(configs: Configs) -> pathlib.Path:
    """Where a run goes without --workdir."""
    run = configs.run
    data = pathlib.Path(run.dataset).stem.replace(":", "-")
    env = tasks.short_name(run.env)
    return pathlib.Path("runs") / f"{run.algorithm}-{env}-{data}-{run.preset}-seed{run.seed}"


def folder_of(configs: Configs) -> pathlib.Path:
    """The run's folder."""
    return pathlib.Path(configs.run.workdir) if configs.run.workdir else default_workdir(configs)


def fits_q_again(configs: Configs, other: Configs) -> bool:
    """Whether --models_from takes all but Q over: MOPP's Q has other knobs, and no other fit needs it.

    Args:
      configs: of this run.
      other: of the run that --models_from names.
    """
    return configs.run.algorithm == "mopp" and configs.q != other.q


def check(configs: Configs) -> None:
    """Checks, before anything is read, what flags have to do with each other.

    Raises:
      UserError: they do not go together.
    """
    count, orders = configs.dynamics.dynamics_members, configs.dynamics.dynamics_orders
    if configs.run.algorithm == "mopp" and count < 2 and configs.planner.prune:
        raise UserError(
            "--dynamics_members: expected 2 or more, as one model disagrees with nobody; or give "
            "--noprune"
        )
    if orders and len(orders) != count:
        raise UserError(
            f"--dynamics_orders: expected {count} numbers, as --dynamics_members says, got "
            f"{len(orders)}"
        )
    if configs.choice.select == "offline" and not configs.judge.judge_members:
        raise UserError("--select: expected a judge, got --judge_members=0; or give --select=none")
    _check_reward(configs)


def _check_reward(configs: Configs) -> None:
    """Whether there is a reward of the task where candidates are to be paid it."""
    if configs.planner.planner_reward != "task":
        return
    if configs.run.algorithm == "mbop":
        raise UserError(
            "--planner_reward: MBOP pays by its dynamics models; expected no such flag, got task"
        )
    task = tasks.get(configs.run.env, configs.run.simulator)
    learned = configs.judge.judge_members or task.termination is None
    if task.reward is None and not learned:
        raise UserError(
            f"--planner_reward: expected models, as {configs.run.env} declares no reward and without a "
            "judge none is learned apart, got task; or give --judge_members=3"
        )
