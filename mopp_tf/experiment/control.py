"""A finished run's planner with a reward or constraint written in Python; nothing is retrained."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import tensorflow as tf

from mopp_tf import control_config, objectives
from mopp_tf.experiment import export_planner, restore
from mopp_tf.experiment.configs import from_manifest
from offline_tf import tasks
from offline_tf.export import loaded
from offline_tf.models import compilation, learned_task
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array, UserError


class ControlledPlanner(loaded.PlanningLoop):
    """Acts step by step, as `mopp_tf.load` does, with another objective.

    Attributes:
      planner: decides for many environments at once; see `mopp_tf.planning.planner`.
      decision: everything that the last decision gave.
    """

    def __init__(
        self,
        run: str | pathlib.Path,
        *,
        reward: objectives.UserFunction | None = None,
        replace: bool = False,
        constraint: objectives.UserFunction | None = None,
        price: float | None = None,
        seed: int = 0,
        **knobs: Any,
    ) -> None:
        """Reads the models; see `mopp_tf.with_objective`."""
        record = RunRecord.open_existing(pathlib.Path(run))
        configs = from_manifest(record.manifest)
        task = tasks.get(configs.run.env, configs.run.simulator)
        task = learned_task.of_run(task, configs.run.seed, record)
        if price is not None and constraint is None:
            raise UserError("price: expected a constraint with it, got none")
        control = control_config.ControlConfig(
            reward_mode="replace" if replace else "add",
            planner=tuple(f"{name}={value}" for name, value in knobs.items()),
        )
        if price is not None:
            control = dataclasses.replace(control, constraint_mode="soft", constraint_weight=price)
        learned = restore.load(configs, task, record)
        self.planner = restore.make_planner(
            task,
            configs=configs,
            learned=learned,
            control=control,
            reward=reward,
            constraint=constraint,
        )
        graph = compilation.compiled(self.planner.decide)

        def begin(rows: Array) -> Array:
            return self.planner.initial_plan(tf.constant(rows)).numpy()

        def decide(rows: Array, plan: Array, key: Array) -> dict[str, Array]:
            outputs = export_planner.outputs(
                graph(tf.constant(rows), tf.constant(plan), tf.constant(key))
            )
            return {name: value.numpy() for name, value in outputs.items()}

        super().__init__(task.state_dim, begin, decide, seed)
