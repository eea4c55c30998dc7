"""What bfloat16 changes: held-out error, threshold, the pairs that the detector rejects, returns.

python -m benchmarks.precision --numbers results/tables/precision.json RUN [RUN ...]

Finished runs of MOReL on one data set; each is compared with the first. The pairs are the data's own,
and the data's states with uniform actions. For each run the detector computes in float32, and in
bfloat16 with the same weights and threshold.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from morel_tf.experiment import restore
from morel_tf.experiment.configs import from_manifest
from morel_tf.experiment.data import load_data
from morel_tf.models import usad
from offline_tf.models import compilation
from offline_tf.numerics import seeds
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Array

_PAIRS = 50_000


def disagreement(controller: Any, weights: Array, s: Array, a: Array, dtype: tf.DType) -> Array:
    """[N] of pairs, products in dtype."""
    ensemble = controller.ensemble

    @tf.function
    def call(s: Any, a: Any) -> Any:
        return usad.disagreement_of(ensemble, ensemble.bind(dtype)(s, a), weights)

    return call(tf.constant(s), tf.constant(a)).numpy()


def overlap(first: Array, second: Array) -> float:
    """Jaccard's index of two sets, as masks; 1 where both are empty."""
    either = int((first | second).sum())
    return float((first & second).sum() / either) if either else 1.0


def main() -> None:
    """Compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--numbers", type=pathlib.Path)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    threads = compilation.use_threads(0)
    report: list[dict[str, Any]] = []
    reference: dict[str, Array] = {}
    for folder in arguments.runs:
        record = RunRecord.open_existing(folder)
        configs = from_manifest(record.manifest)
        controller = restore.load_controller(record)
        task = controller.task
        data, _ = load_data(configs, task, threads)
        draws = seeds.generator(0, "benchmark/precision")
        rows = np.sort(draws.choice(len(data), _PAIRS, replace=False))
        states = np.asarray(data.observations[rows], np.float32)
        low, high = task.action_low, task.action_high
        pairs = {
            "data": task.clip_actions(np.asarray(data.actions[rows], np.float32)),
            "random": draws.uniform(low, high, (_PAIRS, task.action_dim)).astype(np.float32),
        }
        weights = usad.space_weights(task, controller.ensemble, configs.usad.disagreement_space)
        threshold = usad.load(record)["planning"].threshold
        summary = json.loads((folder / "summary.json").read_text())
        results = record.results()["dynamics"]["result"]
        row: dict[str, Any] = {
            "run": folder.name,
            "precision": configs.dynamics.precision,
            "rollout_precision": configs.pmdp.rollout_precision,
            "seed": configs.run.seed,
            "held_out_mse": results["held_out"]["mse"],
            "threshold": threshold,
            "pmdp_return": summary["pmdp_return"],
            "true_return_mean": summary["true_return_mean"],
            "planning_s": summary["stages"]["planning"],
        }
        for name, actions in pairs.items():
            full, short = (
                disagreement(controller, weights, states, actions, dtype) > threshold
                for dtype in (tf.float32, tf.bfloat16)
            )
            row[f"rejected_{name}"] = float(full.mean())
            row[f"overlap_with_bfloat16_{name}"] = overlap(full, short)
            reference.setdefault(name, full)
            row[f"overlap_with_first_{name}"] = overlap(reference[name], full)
        report.append(row)
        print(json.dumps(row), flush=True)
    if arguments.numbers:
        arguments.numbers.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
