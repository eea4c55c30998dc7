"""MOPP's clones, fitted for longer; see `clones`."""

from __future__ import annotations

import pathlib
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks.robustness.data_sets import BY_NAME
from mopp_tf.config import BehaviorConfig, ModelConfig
from mopp_tf.experiment import evaluation
from mopp_tf.models import behavior, rows
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.evaluation import planner_episodes
from offline_tf.judging import good_episodes
from offline_tf.numerics import holdout
from offline_tf.run_folder.record import RunRecord

SHARES = (1.0, 0.1)  # of the episodes
EPISODES = 20


class Kind(NamedTuple):
    """How a clone is fitted.

    Attributes:
      steps: see --behavior_steps.
      patience: see --patience.
    """

    steps: int
    patience: int | None


HEADINGS = ("10,000 steps", "40,000 steps", "40,000 steps, to the end")
_KINDS = (Kind(10_000, None), Kind(40_000, None), Kind(40_000, 0))


def cloned(name: str, file: pathlib.Path, seed: int) -> list[dict[str, Any]]:
    """Fits and measures the clones of a set, one of each share and kind."""
    data_set = BY_NAME[name]
    task = tasks.get(data_set.env)
    data, _ = sources.load(str(file), task)
    table = rows.prepare(task, data, rows.reward_scale(data.rewards, "range"))
    normalizer = rows.fit_normalizer(table, "delta", True)
    split = holdout.split_episodes(
        data.episode_bounds(), holdout.share_of(None, len(data)), seed, by_time=False
    )
    found = []
    for each in SHARES:
        for kind in _KINDS:
            knobs, config = (
                ModelConfig(patience=kind.patience),
                BehaviorConfig(behavior_steps=kind.steps),
            )
            model = behavior.BehaviorModel(task, knobs, config, normalizer, seed)
            with tempfile.TemporaryDirectory() as folder:
                record = RunRecord.create_or_continue(
                    pathlib.Path(folder, "run"), "clone", {"seed": seed}
                )
                began = time.monotonic()
                fitted = behavior.fit(
                    model,
                    rows=table,
                    split=good_episodes.best_with_held_out(data, each, split),
                    names=task.action_names,
                    knobs=knobs,
                    config=config,
                    seed=seed,
                    stage=record.stage("behavior"),
                )
                seconds = time.monotonic() - began
            returns = planner_episodes.run(
                task,
                physics=data_set.physics,
                episodes=EPISODES,
                start=lambda _: None,
                decide=evaluation.clone_decider(task, model),
                seed=seed,
                name="cloning",
                threads=1,
            ).returns
            found.append(
                kind._asdict()
                | {
                    "share": each,
                    "nll": fitted["nll"],
                    "true_return_mean": float(returns.mean()),
                    "standard_error": float(returns.std(ddof=1) / np.sqrt(EPISODES)),
                    "seconds": round(seconds, 1),
                }
            )
    return found
