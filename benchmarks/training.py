"""Ensemble training: member-samples per second, as ratios in one run.

python benchmarks/training.py    (about two minutes; run it on an idle machine)

Compared: Keras `fit`, one member at a time; this project's graph loop with the fused Adam in float32
and bfloat16; each with the machine's threads given to single products ("intra") or to the members side
by side ("inter"). Beside them the share of this machine's matrix-product peak at the same precision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

ROWS, STATE, ACTION, HIDDEN, MEMBERS, BATCH = 100_000, 17, 6, 512, 4, 256
FLOPS_PER_SAMPLE = 6 * ((STATE + ACTION) * HIDDEN + HIDDEN * HIDDEN + HIDDEN * STATE)


def measure(kind: str, threads: str) -> dict[str, float]:
    """Runs in a process of its own, because threads are set once per process."""
    import keras
    import numpy as np
    import tensorflow as tf

    from offline_tf import fitting, networks

    cores = os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(cores if threads == "intra" else 1)
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == "intra" else cores)
    dtype = tf.bfloat16 if kind == "bfloat16" else tf.float32
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, STATE + ACTION)).astype(np.float32)
    y = generator.normal(size=(ROWS, STATE)).astype(np.float32)
    nets = [
        networks.mlp(STATE + ACTION, (HIDDEN, HIDDEN), STATE, "relu", generator)
        for _ in range(MEMBERS)
    ]
    if kind == "keras_fit":
        net = nets[0]
        net.compile(keras.optimizers.Adam(1e-3), "mse")
        net.fit(x[:5120], y[:5120], batch_size=BATCH, verbose=0)
        began = time.perf_counter()
        net.fit(x, y, batch_size=BATCH, verbose=0)
        rate = ROWS / (time.perf_counter() - began)
    else:

        def loss(batches: list) -> list:
            return [
                tf.reduce_mean(tf.square(networks.bind(net, dtype)(a) - b))
                for net, (a, b) in zip(nets, batches, strict=True)
            ]

        loop = fitting.Fit(networks.variables(*nets), loss)
        rows = fitting.shuffled_batches(
            [np.random.default_rng(i) for i in range(MEMBERS)], ROWS, BATCH
        )
        data, rates = (tf.constant(x), tf.constant(y)), np.full(len(rows), 1e-3, np.float32)
        loop.run(data, tf.constant(rows[:20]), tf.constant(rates[:20]))
        began = time.perf_counter()
        loop.run(data, tf.constant(rows), tf.constant(rates))
        rate = MEMBERS * rows.shape[0] * BATCH / (time.perf_counter() - began)
    products_at_once = 1 if threads == "intra" else cores
    return {"rate": rate, "peak": products_at_once * product_rate(tf, dtype)}


def product_rate(tf: object, dtype: object) -> float:
    """Floating-point operations per second of a chain of 512x512 products."""
    a = tf.cast(tf.random.normal([512, 512]), dtype)  # type: ignore[attr-defined]

    @tf.function  # type: ignore[attr-defined]
    def chain(x: object) -> object:
        for _ in tf.range(300):  # type: ignore[attr-defined]
            x = tf.matmul(x, a) * tf.cast(0.04, dtype)  # type: ignore[attr-defined]
        return x

    chain(a)
    began = time.perf_counter()
    chain(a)
    return 300 * 2 * 512**3 / (time.perf_counter() - began)


def main() -> None:
    """Prints one line per variant."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
        return
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": root}
    base = None
    for kind in ("keras_fit", "float32", "bfloat16"):
        for threads in ("intra", "inter"):
            command = [sys.executable, os.path.abspath(__file__), kind, threads]
            runs = [
                json.loads(
                    subprocess.run(command, env=env, capture_output=True, text=True, check=True)
                    .stdout.strip()
                    .splitlines()[-1]
                )
                for _ in range(3)
            ]
            found = sorted(runs, key=lambda run: run["rate"])[1]
            base = base or found["rate"]
            share = found["rate"] * FLOPS_PER_SAMPLE / found["peak"]
            print(
                f"{kind:10s} {threads}: {found['rate'] / base:5.2f} x Keras fit, "
                f"{100 * share:3.0f} % of the product peak"
            )


if __name__ == "__main__":
    main()
