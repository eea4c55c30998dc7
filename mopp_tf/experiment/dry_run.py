"""What a MOPP run would do and take, for --dry_run; nothing is written."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from mopp_tf import algorithm
from mopp_tf.experiment.configs import Configs, check, fits_q_again, folder_of, from_manifest
from mopp_tf.experiment.restore import make_planner
from mopp_tf.mbop import learning
from mopp_tf.models import rows as rows_
from mopp_tf.models import training
from offline_tf import tasks
from offline_tf.config import knobs
from offline_tf.datasets import sources
from offline_tf.models import compilation, critics, devices, fitting, networks
from offline_tf.pipeline import dry_run, timing
from offline_tf.pipeline.dry_run import Part
from offline_tf.pipeline.run import FREE_FLAGS
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, Tensor

# Measured, what no small try shows: tracing, checkpoints, reading, pictures.
_FIXED = {"data": 3.0, "dynamics": 8.0, "behavior": 5.0, "q": 5.0, "limit": 2.0, "evaluation": 8.0}
_FIXED |= {"judge_models": 5.0, "choice": 30.0, "promise": 10.0}


def seconds(task: TaskSpec, configs: Configs, threads: int) -> dict[str, float]:
    """What each stage takes on this machine, but for what makes data.

    Steps of the fits and a decision are tried with the run's own shapes.

    Args:
      task: the robot or plant.
      configs: the run's.
      threads: of the simulators.
    """
    run, model = configs.run, configs.model
    is_mbop = run.algorithm == "mbop"
    fits = _steps_of_mbop(task, configs) if is_mbop else _steps_of_mopp(task, configs)
    length = task.max_episode_steps
    acting = 0.0
    if task.simulation:
        simulated = timing.simulator_step(task, run.physics, threads)
        acting = length * (_decision(task, configs) + simulated * run.eval_episodes)
    judging = _judging(task, configs)
    export = 17.0 if is_mbop or model.network == "mlp" else 50.0
    by_stage = {
        "data": 0.0,
        "dynamics": fits[0] * configs.dynamics.dynamics_steps,
        "behavior": fits[1] * configs.behavior.behavior_steps,
        "q": fits[2] * configs.q.q_steps,
        "limit": 0.0,
        **judging,
        "evaluation": acting,
        "inspection": 6.0 if run.inspection else 0.0,
        "export": export,
    }
    if is_mbop:
        del by_stage["limit"]
    return {name: spent + _FIXED.get(name, 0.0) for name, spent in by_stage.items()}


def _prepared(task: TaskSpec) -> algorithm.Prepared:
    """The units of data that are as good as standardised."""
    s, a = task.state_dim, task.action_dim
    units = rows_.Normalizer(timing.plain(s), timing.plain(a), timing.plain(s + 1))
    return algorithm.Prepared(rows_.RewardScale(0.0, 1.0), units, np.ones(s + 1, np.float32))


def _steps_of_mopp(task: TaskSpec, configs: Configs) -> tuple[float, float, float]:
    """Seconds of an Adam step of dynamics, behaviour and Q.

    One member of an ensemble is tried: its heads share the threads already.
    """
    s, a, size = task.state_dim, task.action_dim, configs.model.batch_size
    dtype = networks.product_dtype(configs.model.precision)
    models = algorithm.build(task, configs.knobs, _prepared(task))

    def density(members: list[Any], inputs: int, outputs: int, squash: bool) -> float:
        tried = members if configs.model.network == "mlp" else members[:1]
        by_dimension = training.negative_log_likelihood(outputs, squash, configs.model.conditioning)

        def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
            return [
                tf.reduce_sum(by_dimension(member, x, y, dtype))
                for member, (x, y) in zip(tried, batches, strict=True)
            ]

        loop = fitting.Fit(
            networks.variables(*tried), loss=loss, weight_decay=configs.model.weight_decay
        )
        columns = timing.normal(size, inputs), np.tanh(timing.normal(size, outputs))
        step = timing.adam_step(loop, columns, len(tried), size)
        return step * len(members) / len(tried)

    def errors(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        (columns,) = batches
        return [tf.reduce_sum(critics.errors(models.q, critics.Batch(*columns), dtype)[0])]

    loop = fitting.Fit(
        models.q.weights,
        loss=errors,
        before_step=lambda: models.q.move_targets(configs.q.target_rate),
    )
    states, actions, rewards = (timing.normal(size, width) for width in (s, a, 3))
    batch = states, actions, rewards[:, 0], states, rewards[:, 1], rewards[:, 2], actions
    return (
        density(models.dynamics.members, s + a, s + 1, False),
        density(models.behavior.members, s, a, True),
        timing.adam_step(loop, batch, 1, size),
    )


def _steps_of_mbop(task: TaskSpec, configs: Configs) -> tuple[float, float, float]:
    """Seconds of an Adam step of dynamics, behaviour and value."""
    s, a, size = task.state_dim, task.action_dim, configs.model.batch_size
    dtype = networks.product_dtype(configs.model.precision)
    models = learning.build(task, configs.knobs, _prepared(task), 0)
    dynamics, behavior, value = (
        timing.regression_step(members, s + a, width, size, dtype)
        for members, width in (
            (models.dynamics.members, s + 1),
            (models.behavior, a),
            (models.value, 1),
        )
    )
    return dynamics, behavior, value


def _judging(task: TaskSpec, configs: Configs) -> dict[str, float]:
    """Seconds of the judge's fit, and of the candidates' roll-outs; empty without a judge."""
    config, plan = configs.knobs.judge, configs.planner.plan
    if not config.judge_members:
        return {}
    s, a, size = task.state_dim, task.action_dim, 256
    members = [
        networks.mlp(
            s + a,
            hidden=config.judge_hidden,
            output_dim=s,
            activation="relu",
            generator=np.random.default_rng(member),
        )
        for member in range(config.judge_members)
    ]
    step = timing.regression_step(members, s + a, s, size, tf.float32)
    planners = {"always": 1, "never": 0, "auto": 2 + configs.planner.max_q}[plan]
    steps = min(configs.choice.judge_plan_steps, task.max_episode_steps)
    rows = config.judge_members * configs.choice.judge_plan_starts
    of_episode = _decision(task, configs) / configs.run.eval_episodes if planners else 0.0
    to_the_end = config.judge_members * configs.choice.judge_promise_starts
    return {
        "judge_models": config.judge_steps * step,
        "choice": planners * steps * rows * of_episode,
        "promise": task.max_episode_steps * to_the_end * of_episode,
    }


def _decision(task: TaskSpec, configs: Configs) -> float:
    """Seconds of a decision of all episodes: one of a single step, times what more steps weigh."""
    one = configs._replace(
        planner=dataclasses.replace(configs.planner, horizon=1),
        mbop=dataclasses.replace(configs.mbop, mbop_horizon=1),
    )
    endless, prepared = timing.endless(task), _prepared(task)
    learned: Any
    if configs.run.algorithm == "mbop":
        models = learning.build(endless, one.knobs, prepared, 0)
        learned = learning.MbopLearned(models, prepared, 0.0, 1.0)
    else:
        planned = dataclasses.replace(
            one.planner, plan="always", sigma_max=0.25, planner_reward="models"
        )
        models_of_mopp = algorithm.build(endless, one.knobs, prepared)
        learned = algorithm.Learned(models_of_mopp, prepared.scale, 1e9, planned)
    planner = make_planner(endless, configs=one, learned=learned)
    decide = compilation.compiled(planner.decide, in_parts=True)
    states = tf.constant(timing.normal(configs.run.eval_episodes, task.state_dim))
    plan, seed = planner.initial_plan(states), tf.constant([0, 0], tf.int32)
    spent = timing.least(lambda: decide(states, plan, seed).action.numpy())
    return spent * decision_work(task, configs) / decision_work(task, one)


def decision_work(task: TaskSpec, configs: Configs) -> float:
    """Weights that a decision's rows pass through, of all candidates and steps."""
    work_of = _work_of_mbop if configs.run.algorithm == "mbop" else _work_of_mopp
    return work_of(task, configs)


def _work_of_mopp(task: TaskSpec, configs: Configs) -> float:
    s, a = task.state_dim, task.action_dim
    model, planner = configs.model, configs.planner

    def density(inputs: int, outputs: int, latent: int) -> int:
        if model.network == "mlp":
            return dry_run.weights(inputs, *model.mlp_hidden, 2 * outputs)
        latent = model.latent_dim or latent
        encoder = dry_run.weights(inputs, *model.encoder_hidden, latent)
        heads = sum(dry_run.weights(latent + i, *model.head_hidden, 2) for i in range(outputs))
        return encoder + heads

    dynamics = configs.dynamics.dynamics_members * density(s + a, s + 1, s)
    behavior = density(s, a, 2 * a)
    q = 2 * dry_run.weights(s + a, *configs.q.q_hidden, 1)
    choosing = planner.q_proposals * q if planner.max_q else 0
    valuing = planner.q_proposals * q if planner.terminal_value else 0
    return planner.population * (planner.horizon * (dynamics + behavior + choosing) + valuing)


def _work_of_mbop(task: TaskSpec, configs: Configs) -> float:
    """All members see every row of a decision."""
    s, a = task.state_dim, task.action_dim
    planner, members = configs.knobs.planner, configs.dynamics.dynamics_members
    dynamics, behavior, value = (
        count * dry_run.weights(s + a, *learning.HIDDEN, width)
        for count, width in ((members, s + 1), (configs.behavior.behavior_members, a), (members, 1))
    )
    return planner.population * (planner.horizon * (dynamics + behavior) + value)


def plan(*stages: object) -> list[str]:
    """The lines of --dry_run.

    Args:
      stages: the configurations, as for `configs.Configs`.

    Raises:
      UserError: the run could not begin, as far as that shows without reading the data.
    """
    configs = Configs(*stages)  # type: ignore[arg-type]
    check(configs)
    run, model, choice = configs.run, configs.model, configs.choice
    threads = compilation.use_threads(run.threads)  # first: a user's task file may make tensors
    shared = devices.use_devices_here(run.devices)
    task = tasks.get(run.env, run.simulator)
    folder = folder_of(configs)
    if run.dataset:
        sources.check_named(run.dataset, task=task, physics=run.physics, data_dir=run.data_dir)
    defaults = knobs.of_older_runs(configs)
    old = RunRecord.check_folder(folder, run.algorithm, configs.flat(), FREE_FLAGS, defaults)
    data_rows = dry_run.rows_of(task, run.dataset, run.data_steps, run.data_dir)
    rows = data_rows.number
    done = set(RunRecord.open_existing(folder).results()) if old else set()
    if run.models_from:
        other = RunRecord.open_existing(pathlib.Path(run.models_from), "models_from")
        done |= {"dynamics", "behavior"}
        if not fits_q_again(configs, from_manifest(other.manifest)):
            done.add("q")
    dtype = networks.product_dtype(model.precision)
    compilation.use_compiler(run.compile)
    spent = seconds(task, configs, threads)
    spent["data"] += rows * 2e-6
    if dry_run.is_made(run.dataset):
        spent["data"] += rows * timing.simulator_step(task, run.physics, threads)
    parts = [Part(name, value) for name, value in spent.items()]
    intent = f"go on with the run in {folder}" if old else f"make a new run in {folder}"
    return [
        f"{intent}: {run.algorithm} on {task.name}, {run.dataset} ({data_rows}), {dtype.name}, "
        f"{threads} threads{shared and f', {shared}'}",
        *dry_run.in_words(
            [part for part in parts if part.name not in done], dry_run.memory(task, rows)
        ),
        *([dry_run.more_settings(choice.select_minutes)] if choice.select == "offline" else []),
    ]
