"""What do roll-outs save that leave out paths which are over?

python -m benchmarks.finished_paths

Rolls 80 paths out in a random model of Walker2d over 1000 steps, in turn with and without the paths
that are over; a share of them ends in each step. Writes results/tables/finished_paths.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

from morel_tf.config import DynamicsConfig, PmdpConfig
from morel_tf.planning import pessimistic_mdp
from offline_tf import tasks
from offline_tf.models import compilation
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.numerics.standardize import Statistics
from offline_tf.policies.gaussian import GaussianPolicy, Units
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.types import Array, Tensor

_RECORD = pathlib.Path("results", "tables", "finished_paths.json")
_MEMBERS, _PATHS, _STEPS = 4, 80, 1000


def _problem(hidden: int, ends_per_step: float) -> tuple[Any, GaussianPolicy]:
    """A P-MDP in which that share of the paths falls in each step, and a policy."""

    def falls(states: Tensor) -> Tensor:
        # The fourth decimal of a state is as good as a draw.
        return tf.math.floormod(1e4 * tf.abs(states[:, 3]), 1.0) < ends_per_step

    task = dataclasses.replace(tasks.get("walker2d"), termination=falls)
    states, actions = task.state_dim, task.action_dim

    def units(width: int, scale: float = 1.0) -> tuple[Array, Array]:
        return np.zeros(width, np.float32), np.full(width, scale, np.float32)

    ensemble = GaussianEnsemble(
        task,
        DynamicsConfig(ensemble_size=_MEMBERS, dynamics_hidden=(hidden,) * 2, precision="float32"),
        Statistics(*units(states + actions)),
        Statistics(*units(states, 1e-3)),
        seed=0,
    )
    pmdp = pessimistic_mdp.make(
        task,
        physics="v2",
        ensemble=ensemble,
        weights=np.ones(states, np.float32),
        threshold=1e9,
        least_reward=0.0,
        mean_reward=1.0,
        config=PmdpConfig(horizon=_STEPS),
    )
    return pmdp, GaussianPolicy(Units(*units(states), *units(actions)), (32, 32), -1.0)


def measured(hidden: int, ends_per_step: float, rounds: int) -> dict[str, float]:
    """Seconds of both ways, least of the rounds, and which share of the steps was alive."""
    pmdp, policy = _problem(hidden, ends_per_step)
    starts = np.random.default_rng(0).normal(size=(_PATHS, pmdp.task.state_dim))

    def of(whole: bool) -> Any:
        @compilation.function
        def roll_out(seed: Tensor) -> Tensor:
            return pessimistic_mdp.roll_out_in_groups(
                pmdp,
                policy=policy,
                starts=tf.constant(starts, tf.float32),
                member=tf.range(_PATHS) % _MEMBERS,
                seed=seed,
                whole=whole,
            ).valid

        return roll_out

    ways = {"with": of(True), "without": of(False)}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    alive = []
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            valid = way(tf.constant([number, 1])).numpy()
            spent[name].append(time.perf_counter() - began)
            alive.append(valid.sum() / (_PATHS * len(valid)))
    seconds = {name: min(times[1:]) for name, times in spent.items()}  # the first one traces
    return {
        "hidden": hidden,
        "alive": round(float(np.mean(alive)), 3),
        "seconds_with_finished_paths": round(seconds["with"], 3),
        "seconds_without": round(seconds["without"], 3),
        "times_as_fast": round(seconds["with"] / seconds["without"], 2),
    }


def main() -> int:
    """Prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    compilation.use_threads(2)
    rows = [
        measured(hidden, ends, rounds) for hidden in (256, 512) for ends in (0.0, 1 / 500, 1 / 200)
    ]
    for row in rows:
        print(row, flush=True)
    write_json(_RECORD, {"rows": rows, "commit": provenance.commit()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
