"""What every algorithm should beat: the data, who made them, and behaviour cloning.

python -m benchmarks.robustness.baselines SET FILE --seed=0 --workdir=FOLDER writes FOLDER/summary.json,
a list of three: "data" with the policies' true returns, "bc" of all rows, "bc-best-tenth" of the tenth
of the episodes with the highest returns. Simulated returns are of the same 100 episodes each.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.robustness import behaviour, making, simulate
from benchmarks.robustness.data_sets import BY_NAME, DataSet
from offline_tf import tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.models import compilation, fitting, minibatches, networks, training_loop
from offline_tf.models.early_stopping import EarlyStopping
from offline_tf.numerics import holdout, seeds, standardize
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor, Transitions

HIDDEN, BATCH, LEARNING_RATE = (256, 256), 256, 1e-3
STEPS, STEPS_PER_LOOK, PATIENCE = 50_000, 1000, 10
HELD_OUT = 0.1
_STEPS_PER_CALL = 200


def of_data(data_set: DataSet, data: Transitions, task: TaskSpec, seed: int) -> dict[str, Any]:
    """What is in the data, and what those who acted in them are worth in whole episodes.

    A policy's "mean" is without the part's noise, "as_acted" with it.
    """
    run = functools.partial(simulate.returns, task=task, physics=data_set.physics, seed=seed)
    policies, acted, shares = {}, [], []
    for part in data_set.parts:
        acting = behaviour.of_part(part, task)
        found = {
            name: float(run(functools.partial(acting.act, stochastic=stochastic)).mean())
            for name, stochastic in (("mean", False), ("as_acted", True))
        }
        policies[part.name] = found
        acted.append(found["as_acted"])
        shares.append(part.share)
    in_data = data.episode_returns()
    return {
        "algorithm": "data",
        "behavior_return": float(in_data.mean()),
        "best_tenth_return": float(in_data[making.best_tenth(data)].mean()),
        "rows": len(data),
        "data_episodes": len(in_data),
        "policies": policies,
        "acted_return": float(np.average(acted, weights=shares)) if acted else None,
        "random_return": float(run(behaviour.random_actions(task)).mean()),
    }


def clone(
    data: Transitions, task: TaskSpec, stage: Stage, seed: int
) -> tuple[networks.keras.Model, standardize.Statistics]:
    """Fits actions by squared error; keeps the weights with the lowest held-out error.

    Args:
      data: to learn from.
      task: for the bounds, which the network's unit comes from.
      stage: where checkpoints and metrics go.
      seed: of weights, minibatches and the held-out episodes.

    Returns:
      The network, [B, S] standardised -> [B, A] in halves of the bounds' range, and the statistics of
      the observations.
    """
    split = holdout.split_episodes(data.episode_bounds(), HELD_OUT, seed)
    found = standardize.with_flat_as_it_is(standardize.statistics(data.observations[split.train]))
    inputs, actions = found.normalize(data.observations), task.to_unit(data.actions)
    network = networks.mlp(
        task.state_dim,
        hidden=HIDDEN,
        output_dim=task.action_dim,
        activation="relu",
        generator=seeds.generator(seed, f"{stage.name}/weights"),
    )

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        ((states, logged),) = batches
        return [tf.reduce_mean(tf.square(networks.bind(network)(states) - logged))]

    weights = networks.variables(network)
    optimiser = fitting.Fit(weights, loss=loss)
    stopping = EarlyStopping(weights, PATIENCE * STEPS_PER_LOOK)
    stage.track([*weights, *optimiser.adam.moments, *stopping.variables])

    def rows(done: int, count: int) -> Array:
        stream = seeds.generator(seed, f"{stage.name}/rows", done)
        return minibatches.drawn_batches([stream], len(split.train), count, BATCH)

    def report(done: int, losses: list[Array]) -> dict[str, float]:
        predicted = network(inputs[split.held_out]).numpy()
        held_out = float(np.mean(np.square(predicted - actions[split.held_out])))
        stopping.note(done, held_out)
        return {"loss": training_loop.mean_loss(losses), "held_out": held_out}

    feed = minibatches.Feed(lambda chosen: (inputs[chosen], actions[chosen]), split.train)
    done = training_loop.fit(
        optimiser,
        feed=lambda done: feed,
        schedule=training_loop.by_steps(
            STEPS,
            STEPS_PER_LOOK,
            rows,
            lambda step, total: np.full(len(step), LEARNING_RATE, np.float32),
        ),
        report=report,
        stage=stage,
        steps_per_call=_STEPS_PER_CALL,
        is_over=stopping.is_over,
    )
    stopping.take_best(done, stage.name)
    return network, found


def of_clone(
    data: Transitions, data_set: DataSet, task: TaskSpec, stage: Stage, seed: int
) -> dict[str, Any]:
    """Fits and measures behaviour cloning."""
    if stage.complete:
        return stage.result
    network, found = clone(data, task, stage, seed)
    forward = tf.function(networks.bind(network))
    middle = 0.5 * (task.action_high + task.action_low)
    half = 0.5 * (task.action_high - task.action_low)

    def act(observations: Array, generator: np.random.Generator) -> Array:
        del generator
        return middle + half * forward(tf.constant(found.normalize(observations))).numpy()

    measured = simulate.returns(act, task=task, physics=data_set.physics, seed=seed)
    return stage.finish({"algorithm": stage.name.replace("_", "-")} | simulate.summary(measured))


def main() -> None:
    """Writes summary.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=sorted(BY_NAME))
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    compilation.use_threads(arguments.threads)
    began, seed = time.monotonic(), arguments.seed
    data_set = BY_NAME[arguments.set]
    task = tasks.get(data_set.env)
    data = d4rl.read(arguments.file, task.state_dim)
    flags = {"dataset": arguments.file.stem, "seed": seed}
    record = RunRecord.create_or_continue(arguments.workdir, "baselines", flags)
    best = making.episodes(data, making.best_tenth(data))
    told = record.stage("data")
    summaries = [
        told.result if told.complete else told.finish(of_data(data_set, data, task, seed)),
        of_clone(data, data_set, task, record.stage("bc"), seed),
        of_clone(best, data_set, task, record.stage("bc_best_tenth"), seed),
    ]
    common = {
        "env": task.name,
        "dataset": arguments.file.stem,
        "seed": seed,
        "commit": provenance.commit(),
        "behavior_return": float(data.episode_returns().mean()),
        "wall_seconds": time.monotonic() - began,
    }
    write_json(arguments.workdir / "summary.json", [summary | common for summary in summaries])
    print(json.dumps(summaries))


if __name__ == "__main__":
    main()
