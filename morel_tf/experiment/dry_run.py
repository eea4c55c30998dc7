"""What a MOReL run would do and take, for --dry_run; nothing is written."""

from __future__ import annotations

import pathlib

from morel_tf.experiment import recipe
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.names import KINDS
from offline_tf.models import compilation, networks
from offline_tf.pipeline import dry_run
from offline_tf.pipeline.dry_run import Part
from offline_tf.run_folder.record import RunRecord

# Rough shares of the machine's products that the stages reach. Estimated and measured minutes, two
# cores with other work beside: MOReL 24.9 and 20.9 (Hopper), 22.0 and 27.6 (Walker2d); MOPP 10.1, 10.6.
_TRAINING, _ROLL_OUT, _UPDATE = 0.55, 0.55, 0.25
_STEPS_PER_SECOND = 20_000.0  # of the simulator with a policy
_SHARE_OF_PATHS = 0.75  # steps that paths make before they end


def plan(*stages: object) -> list[str]:
    """The lines of --dry_run.

    Args:
      stages: the configurations, as for `experiment.Configs`.

    Raises:
      UserError: the run could not begin, as far as that shows without reading the data.
    """
    configs = recipe.Configs(*stages)  # type: ignore[arg-type]
    recipe.check(configs)
    run = configs.run
    threads = compilation.use_threads(run.threads)  # first: a user's task file may make tensors
    task = tasks.get(run.env, run.simulator)
    folder = recipe.folder_of(configs)
    if run.dataset:
        sources.check(run.dataset, KINDS)
    old = RunRecord.check_folder(folder, "morel", configs.flat(), recipe.FREE_FLAGS)
    makes = not run.dataset or run.dataset in KINDS
    rows = dry_run.rows_of(task, run.dataset, run.data_steps)
    done = set(RunRecord.open_existing(folder).results()) if old else set()
    if run.dynamics_from:
        RunRecord.open_existing(pathlib.Path(run.dynamics_from), "dynamics_from")
        done |= {"dynamics"}
    dtype = networks.product_dtype(configs.dynamics.precision)
    training = dry_run.operations_per_second(dtype, threads)
    speed = (
        training
        if dtype.name == "float32"
        else dry_run.operations_per_second(networks.product_dtype("float32"), threads)
    )
    s, a = task.state_dim, task.action_dim
    members = configs.dynamics.ensemble_size
    model = members * dry_run.weights(s + a, *configs.dynamics.dynamics_hidden, s)
    policy = dry_run.weights(s, *configs.planner.policy_hidden, a)
    value = dry_run.weights(s + 4, *configs.planner.baseline_hidden, 1)
    steps = _SHARE_OF_PATHS * members * configs.pmdp.paths_per_member
    steps *= min(configs.pmdp.horizon, task.max_episode_steps)
    products = 2 * configs.planner.cg_iterations * configs.planner.fisher_share * 6 * policy
    update = products + 6 * policy + 6 * configs.planner.baseline_epochs * value
    evaluations = configs.planner.iterations / run.eval_every * 2 * run.eval_episodes
    simulated = task.max_episode_steps if task.simulation else 0
    parts = [
        Part("data", rows / _STEPS_PER_SECOND + 5 if makes else 0.0),
        Part(
            "dynamics",
            6.0 * model * rows * configs.dynamics.dynamics_epochs / (_TRAINING * training),
        ),
        Part("usad", 2.0 * model * rows / (_ROLL_OUT * speed) + 10),
        Part("behavior_cloning", 6.0 * policy * rows * configs.cloning.bc_epochs / (0.05 * speed)),
        Part(
            "planning",
            configs.planner.iterations
            * steps
            * (2 * (model + policy) / (_ROLL_OUT * speed) + update / (_UPDATE * speed))
            + evaluations * simulated / _STEPS_PER_SECOND,
        ),
        Part("evaluation", 4 * run.final_episodes * simulated / _STEPS_PER_SECOND),
        Part("inspection", 10.0 if run.inspection else 0.0),
        Part("export", 12.0),
    ]
    doing = f"go on with the run in {folder}" if old else f"make a new run in {folder}"
    data = run.dataset or f"{run.exploration} data, made here"
    return [
        f"{doing}: MOReL on {task.name}, {data} ({rows:,} rows), {dtype.name}, {threads} threads",
        *dry_run.in_words(
            [part for part in parts if part.name not in done], dry_run.memory(task, rows)
        ),
    ]
