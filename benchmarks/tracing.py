"""python -m benchmarks.tracing: what graphs without AutoGraph save, and that they compute the same.

A process each with and without, by turns: CPU seconds of the first call of MOPP's decision and of
fifty Adam steps of four dynamics networks, tracing and conversion included, imports not.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import pathlib
import statistics
import subprocess
import sys
import time

from offline_tf.run_folder.provenance import commit


def _one(autograph: bool) -> None:
    """Prints seconds, and what was computed."""
    import numpy as np
    import tensorflow as tf

    from offline_tf.models import compilation

    compilation.function = functools.partial(tf.function, autograph=autograph)

    from benchmarks import decision
    from offline_tf.models import compilation, fitting, networks

    compilation.use_threads(0)
    planner, _ = decision.make_planner(decision.BenchmarkConfig(env="hopper"))
    observation = tf.random.stateless_normal([1, planner.task.state_dim], [0, 0])
    plan = planner.initial_plan(observation)
    began = time.process_time()
    decided = compilation.function(planner.decide)(observation, plan, tf.constant([0, 1]))
    seconds = [time.process_time() - began]

    draws = np.random.default_rng(0)
    nets = [
        networks.mlp(14, hidden=(64, 64), output_dim=11, activation="relu", generator=draws)
        for _ in range(4)
    ]
    weights = networks.variables(*nets)

    def loss(batches: list[tuple[tf.Tensor, ...]]) -> list[tf.Tensor]:
        return [
            tf.reduce_mean(tf.square(networks.bind(net)(x) - y))
            for net, (x, y) in zip(nets, batches, strict=True)
        ]

    data = tuple(tf.constant(draws.normal(size=(999, n)), tf.float32) for n in (14, 11))
    rows = tf.constant(draws.integers(999, size=(50, 4, 32)), tf.int32)
    began = time.process_time()
    fitting.Fit(weights, loss=loss).run(data, rows, tf.fill([50], 1e-3))
    seconds.append(time.process_time() - began)

    results = [*(x.numpy() for x in tf.nest.flatten(decided)), *(w.numpy() for w in weights)]
    bits = hashlib.sha256(b"".join(x.tobytes() for x in results)).hexdigest()
    print(json.dumps({"decision_s": seconds[0], "fit_s": seconds[1], "bits": bits}))


def main() -> None:
    """Prints a table; writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--one", choices=("with", "without"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _one(arguments.one == "with")
        return
    results: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for _ in range(arguments.rounds):
        for kind, rows in results.items():
            command = [sys.executable, "-m", "benchmarks.tracing", f"--one={kind}"]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(ran.stdout.splitlines()[-1]))
    same = len({row["bits"] for rows in results.values() for row in rows}) == 1
    report: dict[str, object] = {"commit": commit(), "rounds": arguments.rounds, "same_bits": same}
    for name in ("decision_s", "fit_s"):
        for kind, rows in results.items():
            report[f"{name}_{kind}_autograph"] = statistics.median(row[name] for row in rows)
    print(json.dumps(report, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
