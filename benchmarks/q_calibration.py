"""Fitted Q beside the returns that followed, in held-out episodes that end in a fall.

Where a run held nothing out, in those that it was fitted on.

python -m benchmarks.q_calibration --numbers results/tables/q-calibration.json one-step=RUN ten-step=RUN

The runs are MOPP's; their data are read, or made, as they were for training. Values are discounted, in
the models' reward units.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np
import tensorflow as tf

from mopp_tf import algorithm
from mopp_tf.experiment.configs import from_manifest
from mopp_tf.experiment.data import load_data
from offline_tf import tasks
from offline_tf.models import compilation, learned_task
from offline_tf.run_folder.record import RunRecord

_STEPS_TO_FALL = (0, 3, 10, 20, 40, 80, 160, 10_000)


def calibration(folder: pathlib.Path) -> dict[str, object]:
    """Correlation and means by the number of steps to the fall."""
    record = RunRecord.open_existing(folder)
    configs = from_manifest(record.manifest)
    task = learned_task.of_run(tasks.get(configs.run.env), configs.run.seed, record)
    data, _ = load_data(configs, task, 2)
    prepared = algorithm.prepare(
        task, data=data, knobs=configs.knobs, seed=configs.run.seed, record=record
    )
    learned = algorithm.load(task, configs.knobs, record)
    table, split = prepared.table, prepared.split
    assert table is not None and split is not None
    value = learned.models.q.bind()
    judged = np.isin(np.arange(len(data)), split.judged(len(data)))
    fitted, following, left = [], [], []
    for first, end in data.episode_bounds():
        if not (judged[first] and data.terminals[end - 1]):
            continue
        rows = slice(first, end)
        states, actions = tf.constant(table.states[rows]), tf.constant(table.actions[rows])
        fitted.append(value(states, actions).numpy().mean(axis=0))
        total, returns = 0.0, []
        for reward in table.rewards[rows][::-1]:
            total = float(reward) + configs.q.discount * total
            returns.append(total)
        following.append(np.array(returns[::-1]))
        left.append(np.arange(end - first)[::-1])
    q, g, steps = (np.concatenate(parts) for parts in (fitted, following, left))
    bins = {}
    for low, high in zip(_STEPS_TO_FALL, _STEPS_TO_FALL[1:], strict=False):
        at = (steps >= low) & (steps < high)
        if at.any():
            error = float(np.sqrt(np.square(q[at] - g[at]).mean()))
            bins[f"{low}-{high}"] = {
                "q": float(q[at].mean()),
                "return": float(g[at].mean()),
                "rmse": error,
            }
    return {
        "commit": record.manifest["commit"],
        "dataset": configs.run.dataset,
        "seed": configs.run.seed,
        "q_return_steps": configs.q.q_return_steps,
        "rows": split.judged_kind,
        "episodes": len(fitted),
        "correlation": float(np.corrcoef(q, g)[0, 1]),
        "steps_to_fall": bins,
    }


def main() -> None:
    """Prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=pathlib.Path, required=True)
    parser.add_argument("runs", nargs="+", help="NAME=RUN")
    arguments = parser.parse_args()
    compilation.use_threads(2)
    calibrations = {}
    for named_run in arguments.runs:
        name, path = named_run.split("=", 1)
        calibrations[name] = calibration(pathlib.Path(path))
        print(name, json.dumps(calibrations[name]), flush=True)
    arguments.numbers.parent.mkdir(parents=True, exist_ok=True)
    arguments.numbers.write_text(json.dumps(calibrations, indent=1) + "\n")


if __name__ == "__main__":
    main()
