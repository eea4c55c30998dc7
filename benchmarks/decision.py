"""python -m benchmarks.decision: time of one MOPP decision, as ratios in one run.

Random weights, of the authors' sizes or of the default's; one environment. Beside it: the same
arithmetic call by call (eager), and this machine's matrix-product peak.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from benchmarks import peak
from flags import schema
from mopp_tf import algorithm
from mopp_tf.config import BehaviorConfig, DynamicsConfig, ModelConfig, PlannerConfig, QConfig
from mopp_tf.experiment import export_planner
from mopp_tf.models import rows
from mopp_tf.objectives import Objective
from mopp_tf.planning import rollout
from mopp_tf.planning.planner import Planner
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.export import saved_model
from offline_tf.models import compilation
from offline_tf.numerics import standardize
from offline_tf.pipeline import dry_run
from offline_tf.run_folder.files import write_json

USAGE = """
usage: python -m benchmarks.decision [--env=walker2d] [--sizes=default] [--horizon=4] [--numbers=FILE]

Times one decision of MOPP's planner in the exported graph, in float32.
"""


# Stated here, as defaults change and targets are of these.
AUTHORS = ModelConfig(encoder_hidden=(500,), latent_dim=0, head_hidden=(200, 100))
_SIZES = {"authors": (AUTHORS, QConfig(q_hidden=(500, 500))), "default": (ModelConfig(), QConfig())}


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Benchmark."""

    env: str = knob("walker2d", "Task.")
    sizes: str = knob("authors", "Sizes of the networks.", choices=tuple(_SIZES))
    population: int = knob(100, "Candidates N.", low=1)
    horizon: int = knob(4, "Steps H.", low=1)
    members: int = knob(3, "Dynamics members K and behaviour members K'.", low=1)
    q_proposals: int = knob(10, "Proposals K_Q.", low=1)
    q_of_proposals: str = knob("first", "Twins used by max-Q.", choices=("first", "min", "mean"))
    calls: int = knob(100, "Calls that are timed.", low=1)
    threads: int = shared_knobs.threads_knob()
    numbers: str = knob("", "JSON file for the numbers.")

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


def median_ms(call: Callable[[int], Any], calls: int) -> float:
    """Median wall-clock time of call(number) in ms, after two calls to warm up."""
    spent = []
    for number in range(calls + 2):
        began = time.perf_counter()
        call(number)
        spent.append(1e3 * (time.perf_counter() - began))
    return float(np.median(spent[2:]))


def work_gflop(config: BenchmarkConfig, state_dim: int, action_dim: int) -> float:
    """Arithmetic of one decision (two operations per multiply-add), without elementwise work."""
    s, a, n, h = state_dim, action_dim, config.population, config.horizon
    model, q_config = _SIZES[config.sizes]

    def density(inputs: int, outputs: int, latent: int) -> int:
        latent = model.latent_dim or latent
        heads = (dry_run.weights(latent + i, *model.head_hidden, 2) for i in range(outputs))
        return dry_run.weights(inputs, *model.encoder_hidden, latent) + sum(heads)

    dynamics, behavior = density(s + a, s + 1, s), density(s, a, 2 * a)
    q = dry_run.weights(s + a, *q_config.q_hidden, 1)
    twins = 1 if config.q_of_proposals == "first" else 2
    rolled = h * n * (behavior + config.members * dynamics + twins * config.q_proposals * q)
    return 2e-9 * (rolled + n * behavior + 2 * n * config.q_proposals * q)


def make_planner(
    config: BenchmarkConfig, dtype: tf.DType = tf.float32
) -> tuple[Planner, rows.RewardScale]:
    """A planner over random networks, and the scale of its rewards."""
    task = tasks.get(config.env)

    def plain(width: int) -> standardize.Statistics:
        return standardize.Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))

    units = rows.Normalizer(
        plain(task.state_dim), plain(task.action_dim), plain(task.state_dim + 1)
    )
    planning = PlannerConfig(
        population=config.population,
        horizon=config.horizon,
        sigma_max=0.25,
        q_proposals=config.q_proposals,
        q_of_proposals=config.q_of_proposals,
    )
    model, q_config = _SIZES[config.sizes]
    knobs = algorithm.Knobs(
        model,
        DynamicsConfig(dynamics_members=config.members),
        BehaviorConfig(behavior_members=config.members),
        q_config,
        planning,
    )
    prepared = algorithm.Prepared(
        rows.RewardScale(0.0, 1.0), units, np.ones(task.state_dim + 1, np.float32)
    )
    models: rollout.Models = algorithm.build(task, knobs, prepared)
    draws = np.random.default_rng(0)
    for part in (models.behavior, models.dynamics, models.q):
        for weight in part.weights:
            if weight.shape.rank == 1:  # zeros, as drawn, would be left out of the graph
                weight.assign(draws.normal(scale=0.1, size=weight.shape))
    return Planner(
        task,
        models=models,
        knobs=planning,
        limit=1e9,
        objective=Objective(prepared.scale),
        dtype=dtype,
    ), prepared.scale


def main(config: BenchmarkConfig) -> None:
    """Measures and prints."""
    compilation.use_threads(config.threads)
    planner, scale = make_planner(config)
    task = planner.task
    observation = tf.random.stateless_normal([1, task.state_dim], [0, 0])
    start = planner.initial_plan(observation)

    def seed(number: int) -> tf.Tensor:
        return tf.constant([0, number], tf.int32)

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "export"
        exported = export_planner.Exported(planner, scale)
        saved_model.save(exported, path, exported.signatures(), task, "")
        signatures = tf.saved_model.load(str(path)).signatures

        def exported_ms(name: str) -> float:
            call = signatures[name]
            return median_ms(
                lambda i: call(observation=observation, plan=start, seed=seed(i))["action"].numpy(),
                config.calls,
            )

        graph, polymorphic = exported_ms("plan_one"), exported_ms("plan")
    eager = median_ms(
        lambda i: planner.decide(observation, start, seed(i)).action.numpy(),
        max(3, config.calls // 20),
    )
    peak_gflops = peak.probe()() / 1e9
    work = work_gflop(config, task.state_dim, task.action_dim)
    numbers = {
        "plan_one_ms": graph,
        "plan_over_plan_one": polymorphic / graph,
        "eager_over_plan_one": eager / graph,
        "gflop": work,
        "gflops": 1e3 * work / graph,
        "share_of_peak": 1e3 * work / graph / peak_gflops,
        "peak_gflops": peak_gflops,
    }
    logging.info("%s", ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()))
    if config.numbers:
        write_json(pathlib.Path(config.numbers), dataclasses.asdict(config) | numbers)


if __name__ == "__main__":
    schema.run(main, configs=[BenchmarkConfig], usage=USAGE)
