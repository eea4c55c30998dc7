"""What a MOPP run would do and take, for --dry_run; nothing is written."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from mopp_tf.experiment import recipe
from mopp_tf.mbop import learning
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.names import KINDS
from offline_tf.models import compilation, networks
from offline_tf.pipeline import dry_run
from offline_tf.pipeline.dry_run import Part
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import TaskSpec

# Rough shares of the machine's products that the stages reach. Estimated and measured minutes, two
# cores with other work beside: MOReL 24.9 and 20.9 (Hopper), 22.0 and 27.6 (Walker2d); MOPP 10.1, 10.6.
_TRAINING, _PLANNING = 0.3, 0.45
_STEPS_PER_SECOND = 15_000.0  # of the simulator with a policy, files written


class _Work(NamedTuple):
    """Weights that a row passes through: in a step of each fit, and in a decision."""

    dynamics: float
    behavior: float
    q: float
    decision: float


def _of_mopp(task: TaskSpec, configs: recipe.Configs) -> _Work:
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
    return _Work(
        dynamics,
        configs.behavior.behavior_members * behavior,
        1.5 * q + behavior,
        planner.population * (planner.horizon * (dynamics + behavior + choosing) + valuing),
    )


def _of_mbop(task: TaskSpec, configs: recipe.Configs) -> _Work:
    """All members see every row of a decision."""
    s, a = task.state_dim, task.action_dim
    planner, members = configs.knobs.planner, configs.dynamics.dynamics_members
    dynamics, behavior, value = (
        count * dry_run.weights(s + a, *learning.HIDDEN, width)
        for count, width in ((members, s + 1), (configs.behavior.behavior_members, a), (members, 1))
    )
    decision = planner.population * (planner.horizon * (dynamics + behavior) + value)
    return _Work(dynamics, behavior, value, decision)


def plan(*stages: object) -> list[str]:
    """The lines of --dry_run.

    Args:
      stages: the configurations, as for `experiment.Configs`.

    Raises:
      UserError: the run could not begin, as far as that shows without reading the data.
    """
    configs = recipe.Configs(*stages)  # type: ignore[arg-type]
    recipe.check(configs)
    run, model, planner = configs.run, configs.model, configs.knobs.planner
    threads = compilation.use_threads(run.threads)  # first: a user's task file may make tensors
    task = tasks.get(run.env, run.simulator)
    folder = recipe.folder_of(run)
    if run.dataset:
        sources.check(run.dataset, KINDS)
    old = RunRecord.check_folder(folder, run.algorithm, configs.flat(), recipe.FREE_FLAGS)
    rows = dry_run.rows_of(task, run.dataset, run.data_steps)
    done = set(RunRecord.open_existing(folder).results()) if old else set()
    if run.models_from:
        other = RunRecord.open_existing(pathlib.Path(run.models_from), "models_from")
        done |= {"dynamics", "behavior"}
        if not recipe.fits_q_again(configs, recipe.from_manifest(other.manifest)):
            done.add("q")
    dtype = networks.product_dtype(model.precision)
    training = dry_run.operations_per_second(dtype, threads)
    acting = networks.product_dtype(planner.planner_precision)
    speed = training if acting == dtype else dry_run.operations_per_second(acting, threads)
    work = _of_mbop(task, configs) if run.algorithm == "mbop" else _of_mopp(task, configs)
    step = 6.0 * model.batch_size / (_TRAINING * training)
    episodes = run.eval_episodes * task.max_episode_steps if task.simulation else 0
    parts = [
        Part("data", (rows / _STEPS_PER_SECOND if run.dataset in KINDS else 0.0) + 3),
        Part("dynamics", step * work.dynamics * configs.dynamics.dynamics_steps),
        Part("behavior", step * work.behavior * configs.behavior.behavior_steps),
        Part("q", step * work.q * configs.q.q_steps),
        Part("evaluation", 2.0 * work.decision * episodes / (_PLANNING * speed)),
        Part("inspection", 10.0 if run.inspection else 0.0),
        Part("export", 50.0),
    ]
    doing = f"go on with the run in {folder}" if old else f"make a new run in {folder}"
    return [
        f"{doing}: {run.algorithm} on {task.name}, {run.dataset} ({rows:,} rows), {dtype.name}, "
        f"{threads} threads",
        *dry_run.in_words(
            [part for part in parts if part.name not in done], dry_run.memory(task, rows)
        ),
    ]
