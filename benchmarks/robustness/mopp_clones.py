"""What do MOPP's clones return, fitted for longer?

python -m benchmarks.robustness.mopp_clones --sets=walker2d-three,hopper-two --folder=DATA

Of all episodes and of the best tenth, on the bench's development sets. Writes
results/tables/mopp_clones.json: steps of the fit, held-out negative log-likelihood, true mean return of
20 episodes and its standard error, seconds of the fit.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.robustness import __main__ as bench
from benchmarks.robustness.data_sets import BY_NAME, DEVELOPMENT
from mopp_tf.config import BehaviorConfig, ModelConfig
from mopp_tf.experiment import evaluation
from mopp_tf.models import behavior, rows, share
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.evaluation import planner_episodes
from offline_tf.models import compilation
from offline_tf.numerics import holdout
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord

RECORD = pathlib.Path("results/tables/mopp_clones.json")
_SHARES = (1.0, 0.1)
_EPISODES = 20


class Kind(NamedTuple):
    """How a clone is fitted.

    Attributes:
      steps: see --behavior_steps.
      patience: see --patience.
    """

    steps: int
    patience: int | None


KINDS = (Kind(10_000, None), Kind(40_000, None), Kind(40_000, 0))


def cloned(name: str, file: pathlib.Path, seed: int, kinds: Sequence[Kind]) -> list[dict[str, Any]]:
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
    for each in _SHARES:
        for kind in kinds:
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
                    split=share.rows_of(data, each, split),
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
                episodes=_EPISODES,
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
                    "standard_error": float(returns.std(ddof=1) / np.sqrt(_EPISODES)),
                    "seconds": round(seconds, 1),
                }
            )
            print(f"{name}: {found[-1]}", flush=True)
    return found


def main(words: list[str] | None = None) -> int:
    """Measures the sets that are not in the record yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--output", type=pathlib.Path, default=RECORD)
    bench.add_folders(parser)
    arguments = parser.parse_args(words)
    compilation.use_threads(1)
    at = arguments.output
    record: dict[str, Any] = json.loads(at.read_text()) if at.exists() else {}
    chosen = [each for each in bench.chosen(DEVELOPMENT, arguments.sets) if each.kind != "plant"]
    for name, file in bench.make_data(chosen, arguments.folder, arguments.neorl2).items():
        for seed in (int(word) for word in arguments.seeds.split(",")):
            if (key := f"{name}, {seed}") not in record:
                found = cloned(name, file, seed, KINDS)
                record[key] = {"clones": found, "commit": provenance.commit()}
                write_json(at, record)
    return 0


if __name__ == "__main__":
    bench.exit_with(main)
