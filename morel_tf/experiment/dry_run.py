"""What a MOReL run would do and take, for --dry_run; nothing is written."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np
import tensorflow as tf

from morel_tf.config import CloningConfig
from morel_tf.experiment import selection
from morel_tf.experiment.configs import Configs, check, folder_of
from morel_tf.models import usad
from morel_tf.planning import npg_planner, pessimistic_mdp, policy_update, start
from offline_tf import tasks
from offline_tf.config import knobs
from offline_tf.datasets import sources
from offline_tf.datasets.simulated import generated
from offline_tf.judging import good_episodes, judge
from offline_tf.judging.model_simulator import Models, ModelSimulator
from offline_tf.models import compilation, devices, fitting, gaussian_ensemble, networks
from offline_tf.pipeline import dry_run, timing
from offline_tf.pipeline.dry_run import Part
from offline_tf.pipeline.run import FREE_FLAGS
from offline_tf.policies.cloning import Rounds
from offline_tf.policies.gaussian import GaussianPolicy
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec, Tensor

# Measured, what no small try shows: tracing, checkpoints, reading, pictures.
_FIXED = {"data": 5.0, "dynamics": 4.0, "usad": 3.0, "behavior_cloning": 2.0, "planning": 6.0}
_SHARE_OF_PATHS = 0.75  # steps that paths make before they end
_TRIED_STEPS = 50  # of roll-outs
_TRIED_PATHS = 200  # steps of the paths of an update


def seconds(task: TaskSpec, configs: Configs, rows: int, threads: int) -> dict[str, float]:
    """What each stage takes on this machine, but for what makes data.

    Pieces of the stages are tried with the run's own shapes and multiplied by their numbers.

    Args:
      task: the robot or plant.
      configs: the run's.
      rows: N, of the data.
      threads: of the simulators.
    """
    run, planner = configs.run, configs.planner
    endless = timing.endless(task)
    simulated = timing.simulator_step(task, run.physics, threads) * task.max_episode_steps
    ensemble = _untrained(endless, configs, rows)
    fits = _adam_steps(
        rows,
        configs.dynamics.dynamics_epochs,
        configs.dynamics.dynamics_batch_size,
        gaussian_ensemble.steps_of(configs.dynamics, rows),
    )
    units = npg_planner.units_of(task, planner, ensemble.inputs)
    # The data say how wide policies are; the widest takes longest.
    *narrower, policy = start.first_policies(units, configs.cloning, planner, 0)
    cloning = configs.cloning
    rounds = Rounds(cloning.bc_steps, cloning.bc_restarts)
    clones = _adam_steps(rows, cloning.bc_epochs, cloning.bc_batch_size, rounds.total)
    judged = configs.judge.judge_members > 0
    shares = len(good_episodes.SHARES) if judged and cloning.bc_share is None else 1
    # Ten evaluations more, for the last tenth has five times as many.
    looks = 1.4 * planner.iterations / run.eval_every * 2 * run.eval_episodes
    by_stage = {
        "data": rows * 5e-6,
        "dynamics": fits * _dynamics_step(ensemble, configs.dynamics),
        "usad": rows * _pair(ensemble),
        **(_judging(endless, configs) if judged else {}),
        "behavior_cloning": clones
        * sum(_cloning_step(each, cloning) for each in [*narrower, *[policy] * shares]),
        "planning": planner.iterations * _iteration(endless, ensemble, policy, configs)
        + looks * simulated,
        "evaluation": 4 * run.final_episodes * simulated + 1.0,
        "inspection": 8.0 if run.inspection else 0.0,
        "export": 10.0,
    }
    return {name: spent + _FIXED.get(name, 0.0) for name, spent in by_stage.items()}


def _adam_steps(rows: int, epochs: int, batch_size: int, steps: int) -> float:
    """Of a fit: `epochs` passes over the rows, or without them `steps`."""
    return rows * epochs / batch_size if epochs else float(steps)


def _judging(task: TaskSpec, configs: Configs) -> dict[str, float]:
    """Of the judge: its fit, and the policies that it judges."""
    config, planner = configs.judge, configs.planner
    width = task.state_dim + task.action_dim
    settings = judge.settings_of(config)
    models = Models(
        task,
        configs.run.physics,
        gaussian_ensemble.GaussianEnsemble(
            task, settings, timing.plain(width), timing.plain(task.state_dim, 1e-4), 0
        ),
        np.ones(task.state_dim, np.float32),
        np.inf,
        0.0,
    )
    made = ModelSimulator(models, np.zeros((config.judge_starts, task.state_dim), np.float32))
    actions = np.zeros((made.count, task.action_dim), np.float32)
    made.step(actions)
    step = timing.least(lambda: made.step(actions))
    looks = planner.iterations / planner.judge_every + len(good_episodes.SHARES)
    return {
        "judge_models": config.judge_steps * _dynamics_step(models.ensemble, settings),
        "judge": looks * step * task.max_episode_steps,
    }


def _untrained(task: TaskSpec, configs: Configs, rows: int) -> gaussian_ensemble.GaussianEnsemble:
    """Models whose states hardly move."""
    width = task.state_dim + task.action_dim
    inputs, deltas = timing.plain(width), timing.plain(task.state_dim, 1e-4)
    hidden = gaussian_ensemble.hidden_of(configs.dynamics.dynamics_hidden, rows)
    return gaussian_ensemble.GaussianEnsemble(
        task, configs.dynamics, inputs, deltas, 0, hidden=hidden
    )


def _dynamics_step(
    ensemble: gaussian_ensemble.GaussianEnsemble, config: gaussian_ensemble.Settings
) -> float:
    """Of all members together."""
    dtype = networks.product_dtype(config.precision)

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [
            -tf.reduce_mean(ensemble.distribution(networks.bind(member, dtype)(x)).log_prob(y))
            for member, (x, y) in zip(ensemble.members, batches, strict=True)
        ]

    loop = fitting.Fit(networks.variables(*ensemble.members), loss=loss)
    size = config.dynamics_batch_size
    columns = (
        timing.normal(size, len(ensemble.inputs.shift)),
        timing.normal(size, ensemble.state_dim),
    )
    return timing.adam_step(loop, columns, ensemble.size, size)


def _pair(ensemble: gaussian_ensemble.GaussianEnsemble) -> float:
    """Of the disagreement about one pair."""
    size, s = 8192, ensemble.state_dim
    states, actions = timing.normal(size, s), timing.normal(size, len(ensemble.inputs.shift) - s)

    @compilation.function
    def disagreement(x: Tensor, a: Tensor) -> Tensor:
        return usad.disagreement_of(ensemble, ensemble.bind()(x, a), np.ones(s, np.float32))

    pair = tf.constant(states), tf.constant(actions)
    return timing.least(lambda: disagreement(*pair).numpy()) / size


def _cloning_step(policy: GaussianPolicy, config: CloningConfig) -> float:
    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        ((x, y),) = batches
        return [tf.reduce_mean(tf.square(policy.mean(x) - y))]

    loop = fitting.Fit(networks.variables(policy.network), loss=loss)
    shapes = policy.network.input_shape, policy.network.output_shape
    columns = [timing.normal(config.bc_batch_size, shape[-1]) for shape in shapes]
    return timing.adam_step(loop, columns, 1, config.bc_batch_size)


def _iteration(
    task: TaskSpec,
    ensemble: gaussian_ensemble.GaussianEnsemble,
    policy: GaussianPolicy,
    configs: Configs,
) -> float:
    """Of planning: the paths and the update."""
    horizon = min(configs.pmdp.horizon, task.max_episode_steps)
    count = ensemble.size * configs.pmdp.paths_per_member
    tried = min(horizon, _TRIED_STEPS)
    pmdp = pessimistic_mdp.make(
        task,
        physics=configs.run.physics,
        ensemble=ensemble,
        weights=np.ones(task.state_dim, np.float32),
        threshold=np.inf,
        least_reward=0.0,
        mean_reward=0.0,
        config=dataclasses.replace(configs.pmdp, horizon=tried),
    )
    members = tf.constant(np.arange(count, dtype=np.int32) % ensemble.size)
    starts = tf.zeros([count, task.state_dim])

    @functools.partial(compilation.compiled, in_parts=True)
    def roll_out(seed: Tensor) -> pessimistic_mdp.RollOut:
        groups = 2 if count % 2 == 0 else 1
        return pessimistic_mdp.roll_out_in_groups(
            pmdp, policy=policy, starts=starts, member=members, seed=seed, groups=groups
        )

    rolled = timing.least(lambda: roll_out(tf.constant([0, 0])).rewards.numpy()) / tried
    planner = configs.planner
    natural_gradient = npg_planner.new_natural_gradient(policy, planner)
    baseline = npg_planner.new_baseline(
        npg_planner.units_of(task, planner, ensemble.inputs), planner, 0
    )
    length = min(horizon, _TRIED_PATHS)
    paths = _paths(task, length, count)

    def update() -> None:
        policy_update.update(
            paths,
            natural_gradient=natural_gradient,
            baseline=baseline,
            discount=planner.discount,
            gae_lambda=planner.gae_lambda,
            kl_per_update=planner.kl_per_update,
            generator=np.random.default_rng(0),
        )

    return horizon * (rolled + _SHARE_OF_PATHS * timing.least(update) / length)


def _paths(task: TaskSpec, length: int, count: int) -> policy_update.Paths:
    """Whole paths of noise."""
    states, actions = (
        timing.normal(length, count, width) for width in (task.state_dim, task.action_dim)
    )
    last = np.zeros((length, count), bool)
    last[-1] = True
    times = np.repeat(np.arange(length, dtype=np.float32)[:, None], count, axis=1)
    return policy_update.Paths(
        observations=states,
        actions=actions,
        rewards=states[..., 0].copy(),
        next_observations=states,
        times=times,
        terminated=np.zeros_like(last),
        ended=last,
        valid=np.ones_like(last),
    )


def plan(*stages: object) -> list[str]:
    """The lines of --dry_run.

    Args:
      stages: the configurations, as for `configs.Configs`.

    Raises:
      UserError: the run could not begin, as far as that shows without reading the data.
    """
    configs = Configs(*stages)  # type: ignore[arg-type]
    check(configs)
    run = configs.run
    threads = compilation.use_threads(run.threads)  # first: a user's task file may make tensors
    shared = devices.use_devices_here(run.devices)
    task = tasks.get(run.env, run.simulator)
    folder = folder_of(configs)
    if run.dataset:
        sources.check_named(run.dataset, task=task, physics=run.physics, data_dir=run.data_dir)
    else:
        generated.check(task, exploration=run.exploration)
    selects = run.select == "offline"
    if selects:
        begun = selection.check(configs)
    else:
        defaults = knobs.of_older_runs(configs)
        old = RunRecord.check_folder(folder, "morel", configs.flat(), FREE_FLAGS, defaults)
        begun = folder if old else None
    data_rows = dry_run.rows_of(task, run.dataset, run.data_steps, run.data_dir)
    rows = data_rows.number
    done = set(RunRecord.open_existing(begun).results()) if begun else set()
    if run.dynamics_from:
        RunRecord.open_existing(pathlib.Path(run.dynamics_from), "dynamics_from")
        done |= {"dynamics"}
    dtype = networks.product_dtype(configs.dynamics.precision)
    compilation.use_compiler(run.compile)
    spent = seconds(task, configs, rows, threads)
    if dry_run.is_made(run.dataset):
        spent["data"] += rows * timing.simulator_step(task, run.physics, threads)
    parts = [Part(name, value) for name, value in spent.items()]
    intent = f"go on with the run in {folder}" if begun else f"make a new run in {folder}"
    data = run.dataset or f"{run.exploration} data, made here"
    return [
        f"{intent}: MOReL on {task.name}, {data} ({data_rows}), {dtype.name}, {threads} threads"
        f"{shared and f', {shared}'}",
        *dry_run.in_words(
            [part for part in parts if part.name not in done], dry_run.memory(task, rows)
        ),
        *([dry_run.more_settings(run.select_minutes)] if selects else []),
    ]
