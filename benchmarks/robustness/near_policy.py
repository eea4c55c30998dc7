"""How near are clones to a policy of the data, and what do they return?

python -m benchmarks.robustness.near_policy hopper-noisy --data=FILE.hdf5 --morel=RUN --mopp=RUN

For runs that kept their clones. Distances are root mean squares per action on the data's rows in which
the set's first policy acted without noise; returns are of the bench's episodes. Of MOReL's run it tells
what its planned policies had returned on the way, too. Writes results/tables/near_policy.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import sys
from collections.abc import Callable

import h5py
import numpy as np
import tensorflow as tf

from benchmarks.robustness import behaviour, data_sets, simulate
from offline_tf import tasks
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.types import Array

_RECORD = pathlib.Path("results", "tables", "near_policy.json")
_EPISODES, _ROWS = 20, 1000
_NOISES = (0.0, 0.05, 0.1, 0.3)


def _policy(export: pathlib.Path) -> Callable[[Array], Array]:
    """The mean action of MOReL's export."""
    call = tf.saved_model.load(str(export)).signatures["serving_default"]
    return lambda observations: call(observation=tf.constant(observations))["action"].numpy()


def _planner(export: pathlib.Path) -> Callable[[Array], Array]:
    """The action of MOPP's export; a clone needs no plan of the step before."""
    signatures = tf.saved_model.load(str(export)).signatures

    def act(observations: Array) -> Array:
        given = tf.constant(observations)
        plan = signatures["initial_plan"](observation=given)["plan"]
        seed = tf.constant([0, 1])
        return signatures["plan"](observation=given, plan=plan, seed=seed)["action"].numpy()

    return act


def main() -> int:
    """Prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set")
    for name in ("data", "morel", "mopp"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    (chosen,) = (each for each in data_sets.SETS if each.name == arguments.set)
    task = tasks.get(chosen.env)
    of_data = behaviour.of_part(chosen.parts[0], task)
    generator = np.random.default_rng(0)
    with h5py.File(arguments.data) as file:
        observations = np.asarray(file["observations"], np.float32)
        actions = task.clip_actions(np.asarray(file["actions"], np.float32))
    told = task.clip_actions(of_data.act(observations, generator, False))
    quiet = np.flatnonzero(np.abs(actions - told).max(axis=1) < 1e-4)
    rows = quiet[:: max(len(quiet) // _ROWS, 1)]

    def returned(act: Callable[[Array], Array], noise: float = 0.0) -> list[float]:
        def noisy(seen: Array, draws: np.random.Generator) -> Array:
            chosen_actions = act(seen)
            return chosen_actions + noise * draws.standard_normal(chosen_actions.shape)

        found = simulate.returns(noisy, task=task, physics=chosen.physics, episodes=_EPISODES)
        return [round(float(found.mean()), 1), round(float(found.std(ddof=1)), 1)]

    clones = {
        "morel": _policy(arguments.morel / "export"),
        "mopp": _planner(arguments.mopp / "export"),
    }
    with (arguments.morel / "metrics" / "planning.evaluation.csv").open() as table:
        planned = {row["step"]: float(row["true_return_mean"]) for row in csv.DictReader(table)}
    distances = {name: task.clip_actions(act(observations[rows])) for name, act in clones.items()}
    record = {
        "set": chosen.name,
        "quiet_share": round(len(quiet) / len(actions), 3),
        "distance_per_action": {
            name: [round(float(x), 4) for x in np.sqrt(np.square(a - told[rows]).mean(axis=0))]
            for name, a in distances.items()
        },
        "return_mean_and_std": {name: returned(act) for name, act in clones.items()},
        "of_the_policy_with_noise": {
            str(noise): returned(lambda seen: of_data.act(seen, generator, False), noise)
            for noise in _NOISES
        },
        "planned_by_morel": {step: round(value, 1) for step, value in planned.items()},
        "episodes": _EPISODES,
        "runs_of": {
            name: json.loads((run / "manifest.json").read_text())["commit"]
            for name, run in (("morel", arguments.morel), ("mopp", arguments.mopp))
        },
        "commit": provenance.commit(),
    }
    write_json(_RECORD, record)
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
