"""Forty steps of small fits on one and several parts of the CPU; prints losses and weights as JSON."""

import json
import sys

import numpy as np
import tensorflow as tf
import toys

from morel_tf.config import DynamicsConfig
from offline_tf.models import (
    compilation,
    critics,
    devices,
    fitting,
    gaussian_ensemble,
    networks,
)
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import UserError

_COUNT, _STEPS = 500, 40


def _statistics(width):
    return Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))


def dynamics(draw):
    """A fit of two members, its columns, how many members draw rows, its weights."""
    config = DynamicsConfig(ensemble_size=2, dynamics_hidden=(16, 16), precision="float32")
    ensemble = gaussian_ensemble.GaussianEnsemble(
        toys.cart(), config, _statistics(3), _statistics(2), 0
    )
    weights = networks.variables(*ensemble.members)
    loss = gaussian_ensemble._likelihood_loss(ensemble, "float32")
    return fitting.Fit(weights, loss=loss), (draw(3), draw(2)), 2, weights


def q(draw):
    """The same of twin Q, whose targets move before each step."""
    twins = critics.QFunction(_statistics(2), 1, (16, 16), 0)

    def loss(batches):
        return [tf.reduce_sum(critics.errors(twins, critics.Batch(*batches[0]), tf.float32)[0])]

    columns = (draw(2), draw(1), draw(1)[:, 0], draw(2))
    columns += (tf.zeros(_COUNT), tf.fill([_COUNT], 0.9), draw(1))
    fit = fitting.Fit(
        twins.weights,
        loss=loss,
        weight_decay=1e-3,
        before_step=lambda: twins.move_targets(0.05),
    )
    return fit, columns, 1, [*twins.weights, *twins.target_weights]


def run(kind, count, compiler, rows):
    """Losses of two calls, and what they leave."""
    assert devices.use_devices(str(count)) == count
    compilation.use_compiler(compiler)
    rng = np.random.default_rng(0)
    fit, columns, members, weights = kind(
        lambda width: tf.constant(rng.normal(size=(_COUNT, width)).astype(np.float32))
    )
    batches = rng.integers(_COUNT, size=(_STEPS, members, rows)).astype(np.int32)
    rates = np.linspace(1e-2, 1e-3, _STEPS).astype(np.float32)
    losses = [
        fit.run(columns, tf.constant(batches[part]), tf.constant(rates[part])).numpy().tolist()
        for part in (slice(0, 25), slice(25, None))
    ]
    copies = [[copy.numpy() for copy in getattr(weight, "values", [weight])] for weight in weights]
    return {
        "losses": losses,
        "steps": int(fit.adam.steps.numpy()),
        "weights": [weight.numpy().ravel().tolist() for weight in weights],
        "apart": float(max(np.ptp(each, axis=0).max() for each in copies)),
    }


def main():
    """Prints one line."""
    count, compiler, rows = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    devices.use_devices(str(count))  # TensorFlow splits the CPU once
    found = {}
    for kind in (dynamics, q):
        for number in (1, count):
            found[f"{kind.__name__} {number}"] = run(kind, number, compiler, rows)
    try:
        devices.own_rows(np.zeros((1, 1, count - 1), np.int32))
    except UserError as error:
        found["error"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
