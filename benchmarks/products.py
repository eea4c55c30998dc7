"""How fast one thread multiplies matrices of the shapes that MOPP's and MOReL's networks have.

python -m benchmarks.products --numbers results/tables/products.json

GFLOP/s of TensorFlow's own kernels, float32 and bfloat16; eighteen products of a shape in one graph.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import numpy as np
import tensorflow as tf

from benchmarks.run import machine

# [m, k] x [k, n]: where it occurs.
SHAPES = {
    (512, 512, 512): "MOReL's dynamics",
    (512, 34, 200): "an ADM's head while fitting, first layer",
    (512, 200, 100): "second layer",
    (512, 100, 2): "last layer",
    (50, 200, 100): "a head in a decision, second layer",
    (500, 500, 500): "Q in a decision",
}
_PRODUCTS = 18


def rate(m: int, k: int, n: int, dtype: tf.DType) -> float:
    """GFLOP/s, median of nine."""
    pairs = [
        [
            tf.Variable(tf.cast(tf.random.stateless_normal(shape, [i, 0]), dtype))
            for shape in ((m, k), (k, n))
        ]
        for i in range(_PRODUCTS)
    ]

    @tf.function
    def run() -> tf.Tensor:
        return tf.add_n([tf.matmul(left, right)[0, 0] for left, right in pairs])

    spent = []
    for _ in range(11):
        began = time.perf_counter()
        run().numpy()
        spent.append(time.perf_counter() - began)
    return float(2e-9 * _PRODUCTS * m * k * n / np.median(spent[2:]))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--numbers", type=pathlib.Path)
    arguments = parser.parse_args()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    rows = [
        {"shape": shape, "where": where}
        | {dtype.name: rate(*shape, dtype) for dtype in (tf.float32, tf.bfloat16)}
        for shape, where in SHAPES.items()
    ]
    for row in rows:
        print(json.dumps(row), flush=True)
    if arguments.numbers:
        arguments.numbers.write_text(
            json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
