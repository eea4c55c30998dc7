"""Ensemble training: member-samples per second, as ratios in one run.

python -m benchmarks.training    (about two minutes; run it on an idle machine)

Compared: Keras `fit`, one member at a time; this project's graph loop with the fused Adam in float32
and bfloat16; each with the machine's threads given to single products ("intra") or to the members side
by side ("inter"). Beside them the share of this machine's matrix-product peak at the same precision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import peak

ROWS, STATE, ACTION, HIDDEN, MEMBERS, BATCH = 100_000, 17, 6, 512, 4, 256
# Forward, and the gradients of weights and inputs; nobody needs the first layer's inputs'.
FLOPS_PER_SAMPLE = 4 * (STATE + ACTION) * HIDDEN + 6 * (HIDDEN * HIDDEN + HIDDEN * STATE)


def use_threads(threads: str) -> None:
    """Gives the machine's threads to single products ("intra") or to members side by side ("inter")."""
    import tensorflow as tf

    cores = os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(cores if threads == "intra" else 1)
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == "intra" else cores)


def make(kind: str) -> tuple[Callable[[int], Any], int]:
    """Returns an epoch, the first of which compiles, and the member-samples in it."""
    import tensorflow as tf

    from offline_tf.models import fitting, minibatches, networks

    dtype = tf.bfloat16 if kind == "bfloat16" else tf.float32
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, STATE + ACTION)).astype(np.float32)
    y = generator.normal(size=(ROWS, STATE)).astype(np.float32)
    nets = [
        networks.mlp(
            STATE + ACTION,
            hidden=(HIDDEN, HIDDEN),
            output_dim=STATE,
            activation="relu",
            generator=generator,
        )
        for _ in range(MEMBERS)
    ]
    if kind == "keras_fit":
        import keras

        nets[0].compile(keras.optimizers.Adam(1e-3), "mse")
        return lambda _: nets[0].fit(x, y, batch_size=BATCH, verbose=0), ROWS

    def loss(batches: list) -> list:
        return [
            tf.reduce_mean(tf.square(networks.bind(net, dtype)(a) - b))
            for net, (a, b) in zip(nets, batches, strict=True)
        ]

    loop = fitting.Fit(networks.variables(*nets), loss=loss)
    rows = minibatches.shuffled_batches(
        [np.random.default_rng(i) for i in range(MEMBERS)], ROWS, BATCH
    )
    data, rates = (tf.constant(x), tf.constant(y)), tf.fill([len(rows)], 1e-3)
    order = tf.constant(rows)
    return lambda _: loop.run(data, order, rates).numpy(), MEMBERS * len(rows) * BATCH


def measure(kinds: Sequence[str], rounds: int = 3) -> dict[str, dict[str, float]]:
    """For each kind samples per second, and the share of the first one's products' peak."""
    results = {}
    variants = [make(kind) for kind in kinds]
    precision = "bfloat16" if kinds[0] == "bfloat16" else "float32"
    calls = [call for call, _ in variants]
    probes = [peak.probe(precision), peak.numpy_probe()]
    spent, (peaks, numpys) = peak.in_turn(calls, rounds, probes, warm_up=1)
    for kind, (_, samples), seconds in zip(kinds, variants, spent, strict=True):
        results[kind] = {
            "rate": samples / float(np.median(seconds)),
            "share": float(np.median(samples * FLOPS_PER_SAMPLE / seconds / peaks)),
            "numpy": float(np.median(numpys)),
        }
    return results


def main() -> None:
    """Prints one line per variant."""
    if len(sys.argv) > 1:
        use_threads(sys.argv[1])
        print(json.dumps(measure(["keras_fit", "float32"]) | measure(["bfloat16"])))
        return
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    results = {}
    for threads in ("intra", "inter"):
        command = [sys.executable, "-m", "benchmarks.training", threads]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        results[threads] = json.loads(run.stdout.strip().splitlines()[-1])
    base = max(kinds["keras_fit"]["rate"] for kinds in results.values())
    for threads, kinds in results.items():
        for kind, numbers in kinds.items():
            print(
                f"{kind:10s} {threads}: {numbers['rate'] / base:5.2f} x Keras fit at its best, "
                f"{100 * numbers['share']:3.0f} % of the peak of its precision's products"
            )


if __name__ == "__main__":
    main()
