from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.planning.value_baseline import ValueBaseline
from offline_tf.models import compilation, fitting, networks
from offline_tf.run_folder import provenance


@pytest.fixture
def compiler():
    yield compilation.use_compiler
    compilation.use_compiler("graph")


def fitted():
    """Weights and losses after some steps of a small ensemble."""
    draws = np.random.default_rng(0)
    nets = [
        networks.mlp(3, hidden=(16,), output_dim=2, activation="relu", generator=draws)
        for _ in range(2)
    ]

    def loss(batches):
        pairs = zip(nets, batches, strict=True)
        return [tf.reduce_mean(tf.square(networks.bind(net)(x) - y)) for net, (x, y) in pairs]

    loop = fitting.Fit(networks.variables(*nets), loss=loss, weight_decay=1e-3)
    data = [tf.constant(draws.normal(size=(50, n)), tf.float32) for n in (3, 2)]
    rows = tf.constant(draws.integers(50, size=(40, 2, 8)), tf.int32)
    means = loop.run(tuple(data), rows, tf.fill([40], 1e-2)).numpy()
    return means, [w.numpy() for w in networks.variables(*nets)], loop


def is_by_xla(fit):
    (graph,) = fit._graph._graphs.values()
    return bool(graph._jit_compile)


def test_xla_fits_the_same_weights(compiler):
    means, weights, plain = fitted()
    assert compiler("xla") == "xla"
    other_means, other_weights, loop = fitted()
    assert is_by_xla(loop) and not is_by_xla(plain)
    np.testing.assert_allclose(other_means, means, rtol=1e-4)
    for found, expected in zip(other_weights, weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_xla_is_left_alone_where_every_call_has_another_shape(compiler):
    compiler("xla")
    units = toys.plain_units(2, 1)
    baseline = ValueBaseline(
        units,
        hidden=(4,),
        learning_rate=1e-3,
        weight_decay=0.0,
        epochs=1,
        batch_size=8,
        generator=np.random.default_rng(0),
    )
    samples = np.zeros((9, 2), np.float32), np.arange(9.0, dtype=np.float32), np.arange(9.0)
    baseline.fit(*samples, np.random.default_rng(0))
    assert not is_by_xla(baseline._fit)


def test_auto_takes_xla_where_there_is_a_gpu(compiler, monkeypatch):
    assert compiler("auto") == "graph"  # tests run without one
    assert compilation.in_words(2, "float32").startswith("2 threads, TensorFlow's own kernels")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert compiler("auto") == "xla"
    assert compilation.in_words(2, "float32") == "2 threads, XLA, products in float32 while fitting"


def test_float32_is_not_shortened_on_gpus(monkeypatch):
    for name in ("inter", "intra"):  # those can be set once
        setter = f"set_{name}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, setter, lambda _: None)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    assert compilation.use_threads(3) == 3
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.parametrize(
    "given, kept",
    [
        ("--env=hopper --seed=3", "--env=hopper --seed=3"),
        ("--workdir=a --env=hopper", "--env=hopper"),
        ("--workdir a --env hopper", "--env hopper"),
        ("--quiet --env=hopper --max_hours=2 --verbose", "--env=hopper"),
        ("--max_hours 2 --env=hopper", "--env=hopper"),
        ("--noinspection --env=hopper", "--env=hopper"),
        ("--inspection --noprune --env=hopper", "--noprune --env=hopper"),
    ],
)
def test_a_command_names_what_decides_the_result_and_nothing_else(monkeypatch, given, kept):
    monkeypatch.setattr(sys, "argv", ["binary", *given.split()])
    assert provenance.command(("workdir", "threads", "inspection")).endswith(kept)
    assert provenance.command(("workdir", "threads", "inspection")).split()[0] == "python"
    assert len(provenance.command(("workdir", "inspection")).split()) <= 3 + len(kept.split())
