"""How time grows with the size of the work: rows, ensemble, horizon, population, environments.

python -m benchmarks.growth --numbers results/tables/growth.json --output docs/growth.png

Random networks and data of Hopper's sizes. Every point is a median; a panel's title holds the slope
between its two largest sizes, on logarithmic axes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import tensorflow as tf

from benchmarks import decision
from benchmarks.run import machine
from morel_tf import config
from morel_tf.models import usad
from offline_tf import tasks
from offline_tf.models import compilation, fitting, gaussian_ensemble, minibatches, networks
from offline_tf.numerics import standardize

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

_STATE, _ACTION, _WIDTH, _BATCH = 11, 3, 512, 256
_LEAST_S = 1.0


class Panel(NamedTuple):
    """A curve: what is measured over which sizes, call(size) -> seconds."""

    title: str
    axis: str
    sizes: tuple[int, ...]
    seconds: Callable[[int], float]


def _median(call: Callable[[], Any], least: int = 3) -> float:
    """Median seconds of a call after one to warm up, for a second and three calls or more."""
    call()
    spent: list[float] = []
    while len(spent) < least or (sum(spent) < _LEAST_S and len(spent) < 50):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return float(np.median(spent))


def preparing(rows: int) -> float:
    """Statistics of the columns and one epoch's order for four members."""
    draws = np.random.default_rng(0)
    states = draws.normal(size=(rows, _STATE)).astype(np.float32)

    def call() -> None:
        states.mean(axis=0, dtype=np.float64), states.std(axis=0, dtype=np.float64)
        orders = [np.random.default_rng(m) for m in range(4)]
        minibatches.shuffled_batches(orders, rows, _BATCH)

    return _median(call, 1)


def steps(rows: int, members: int = 4, count: int = 100) -> float:
    """100 Adam steps on minibatches drawn from so many rows."""
    draws = np.random.default_rng(0)
    inputs = tf.constant(draws.normal(size=(rows, _STATE + _ACTION)).astype(np.float32))
    targets = tf.constant(draws.normal(size=(rows, _STATE)).astype(np.float32))
    nets = [
        networks.mlp(
            _STATE + _ACTION,
            hidden=(_WIDTH, _WIDTH),
            output_dim=_STATE,
            activation="relu",
            generator=draws,
        )
        for _ in range(members)
    ]

    def loss(batches: list[Any]) -> list[Any]:
        pairs = zip(nets, batches, strict=True)
        return [tf.reduce_mean(tf.square(networks.bind(net)(x) - y)) for net, (x, y) in pairs]

    loop = fitting.Fit(networks.variables(*nets), loss=loss)
    chosen = tf.constant(draws.integers(rows, size=(count, members, _BATCH)), tf.int32)
    rates = tf.fill([count], 1e-4)
    return _median(lambda: loop.run((inputs, targets), chosen, rates).numpy())


def detector(rows: int) -> float:
    """The disagreement of so many pairs, as when the threshold is set."""
    task = tasks.get("hopper")

    def plain(width: int) -> standardize.Statistics:
        return standardize.Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))

    ensemble = gaussian_ensemble.GaussianEnsemble(
        task, config.DynamicsConfig(), plain(_STATE + _ACTION), plain(_STATE), 0
    )
    draws = np.random.default_rng(0)
    states = draws.normal(size=(rows, _STATE)).astype(np.float32)
    actions = draws.normal(size=(rows, _ACTION)).astype(np.float32)
    return _median(
        lambda: usad.batched(
            ensemble, weights=np.ones(_STATE, np.float32), states=states, actions=actions
        ),
        1,
    )


def plan(environments: int = 1, **sizes: Any) -> float:
    """One decision of MOPP for so many environments, authors' networks."""
    planner, _ = decision.make_planner(decision.BenchmarkConfig(env="hopper", **sizes))
    observation = tf.random.stateless_normal([environments, _STATE], [0, 0])
    start = planner.initial_plan(observation)
    graph = compilation.function(planner.decide)
    return _median(lambda: graph(observation, start, tf.constant([0, 1])).action.numpy(), 5)


PANELS = (
    Panel(
        "statistics and one epoch's order",
        "rows of data",
        (10_000, 100_000, 1_000_000, 10_000_000),
        preparing,
    ),
    Panel(
        "100 training steps, 4 models",
        "rows of data",
        (10_000, 100_000, 1_000_000, 10_000_000),
        steps,
    ),
    Panel("detector over all rows", "rows of data", (10_000, 100_000, 1_000_000), detector),
    Panel(
        "100 training steps", "ensemble size", (1, 2, 4, 8, 16), lambda size: steps(100_000, size)
    ),
    Panel(
        "MOPP decision", "dynamics and behaviour members", (1, 2, 3, 6), lambda n: plan(members=n)
    ),
    Panel("MOPP decision", "horizon", (1, 2, 4, 8, 16), lambda n: plan(horizon=n)),
    Panel("MOPP decision", "population", (12, 25, 50, 100, 200, 400), lambda n: plan(population=n)),
    Panel("MOPP decision, one call", "environments", (1, 2, 5, 10, 20, 40), plan),
)


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Of the last two points, on logarithmic axes."""
    return float(np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2]))


def draw(found: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Writes the figure."""
    figure, axes = plt.subplots(2, 4, figsize=(14, 6), layout="constrained")
    for axis, curve in zip(axes.flat, found, strict=True):
        axis.loglog(curve["sizes"], curve["seconds"], "o-", color="#1b6ca8")
        linear = curve["seconds"][-1] * np.array(curve["sizes"]) / curve["sizes"][-1]
        axis.loglog(curve["sizes"], linear, color="0.6", linewidth=1, linestyle="--")
        axis.set_title(f"{curve['title']}: slope {curve['slope']:.2f}", fontsize=10)
        axis.set_xlabel(curve["axis"])
        axis.set_ylabel("seconds")
        axis.set_xticks(curve["sizes"], [f"{size:,}" for size in curve["sizes"]], fontsize=8)
        axis.xaxis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures, writes and draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--numbers", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, help="PNG")
    parser.add_argument("--draw_only", action="store_true", help="from --numbers, nothing measured")
    parser.add_argument(
        "--only", default="", help="titles with these words; --numbers has the rest"
    )
    arguments = parser.parse_args()
    if not arguments.draw_only:
        compilation.use_threads(0)
        curves = []
        earlier = json.loads(arguments.numbers.read_text())["curves"] if arguments.only else []
        for number, panel in enumerate(PANELS):
            if arguments.only not in panel.title:
                curves.append(earlier[number])
                continue
            seconds = [panel.seconds(size) for size in panel.sizes]
            curve: dict[str, Any] = {"title": panel.title, "axis": panel.axis}
            curve |= {"sizes": list(panel.sizes), "seconds": seconds}
            curve["slope"] = slope(curve["sizes"], seconds)
            curves.append(curve)
            print(json.dumps(curve), flush=True)
        content = {"machine": machine(), "curves": curves}
        arguments.numbers.write_text(json.dumps(content, indent=1) + "\n")
    if arguments.output:
        draw(json.loads(arguments.numbers.read_text())["curves"], arguments.output)


if __name__ == "__main__":
    main()
