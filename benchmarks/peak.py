"""This machine's matrix products, measured in turn with the work that is compared with them.

A machine that others share is faster in one second than in the next. So a share of the peak is taken
call by call, against products measured just before and just after. `numpy_probe` is for comparing
processes of different libraries; it needs numpy alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np

_M, _K, _PRODUCTS, _TRIES = 1000, 500, 10, 3
_PAUSE = 0.2  # seconds; threads of products may wait for more work in a busy loop before they sleep


def _measure(run: Callable[[], Any], products: int) -> float:
    """FLOP/s of the best of some calls."""
    spent = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        run()
        spent.append(time.perf_counter() - began)
    return products * 2.0 * _M * _K * _K / min(spent)


def numpy_probe() -> Callable[[], float]:
    """Returns a function: FLOP/s of numpy's float32 [1000, 500] x [500, 500] now, some on each core.

    numpy's own threads are one (offline_tf/__init__.py), so each core has a thread of Python's.
    """
    draws = np.random.default_rng(0)
    left, right = (draws.normal(size=[m, _K]).astype(np.float32) for m in (_M, _K))
    cores = os.cpu_count() or 1
    outs = [np.empty_like(left) for _ in range(cores)]
    pool = futures.ThreadPoolExecutor(cores)

    def multiply(out: np.ndarray) -> None:
        for _ in range(_PRODUCTS):
            np.matmul(left, right, out=out)

    def run() -> None:
        list(pool.map(multiply, outs))

    run()
    return lambda: _measure(run, cores * _PRODUCTS)


def probe(precision: str = "float32") -> Callable[[], float]:
    """Returns a function: FLOP/s of [1000, 500] x [500, 500] now, a chain on each inter-op thread."""
    import tensorflow as tf

    dtype = getattr(tf, precision)
    threads = tf.config.threading.get_inter_op_parallelism_threads() or os.cpu_count() or 1
    draws = np.random.default_rng(0)
    pairs = [
        (
            tf.cast(tf.constant(draws.normal(size=[_M, _K]), tf.float32), dtype),
            tf.cast(tf.constant(draws.normal(size=[_K, _K]) / _K**0.5, tf.float32), dtype),
        )
        for _ in range(threads)
    ]

    @tf.function
    def run(pairs: Any) -> Any:
        ends = []
        for left, right in pairs:
            for _ in range(_PRODUCTS):
                left = tf.matmul(left, right)
            ends.append(tf.cast(left[0, 0], tf.float32))
        return tf.add_n(ends)

    run(pairs)

    return lambda: _measure(lambda: run(pairs).numpy(), threads * _PRODUCTS)


def in_turn(
    calls: Sequence[Callable[[int], Any]],
    rounds: int,
    probes: Sequence[Callable[[], float]],
    repeats: int = 1,
    warm_up: int = 3,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Times several calls in turn, the machine's products between the rounds.

    Args:
      calls: each gets the number of the repetition.
      rounds: how often each has its turn.
      probes: what `probe` and `numpy_probe` return.
      repeats: repetitions in one turn; before several of them one that does not count, as the pause
        for the products leaves threads asleep.
      warm_up: repetitions of each before the first that counts.

    Returns:
      For each call [rounds * repeats] seconds; and for each probe as many FLOP/s, the mean of the
      products before and after the round.
    """
    for call in calls:
        for number in range(warm_up):
            call(number)
    spent: list[list[float]] = [[] for _ in calls]
    rates: list[list[float]] = [[] for _ in probes]

    def measured() -> list[float]:
        speeds = [probe() for probe in probes]
        time.sleep(_PAUSE)
        return speeds

    before = measured()
    for turn in range(rounds):
        for call, seconds in zip(calls, spent, strict=True):
            if repeats > 1:
                call(0)
            for number in range(repeats):
                began = time.perf_counter()
                call(warm_up + turn * repeats + number)
                seconds.append(time.perf_counter() - began)
        after = measured()
        for rate, first, last in zip(rates, before, after, strict=True):
            rate += [(first + last) / 2] * repeats
        before = after
    return [np.array(seconds) for seconds in spent], [np.array(rate) for rate in rates]
