"""What do MOReL's clones return, fitted once and fitted on in rounds?

python -m benchmarks.robustness.clones --sets=halfcheetah-two,walker2d-noisy --folder=DATA

Of all episodes and of the best tenth, without restarts and with as many as --bc_restarts has.
Development sets only. Writes results/tables/clones.json: held-out error per action, true mean return of
20 episodes and its standard error, seconds of the fit.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.robustness import __main__ as bench
from benchmarks.robustness.data_sets import BY_NAME, DEVELOPMENT
from morel_tf.config import CloningConfig, PlannerConfig
from morel_tf.planning import npg_planner
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.evaluation import policy_episodes
from offline_tf.judging import good_episodes
from offline_tf.models import compilation
from offline_tf.numerics import holdout, large_columns
from offline_tf.numerics.standardize import Statistics
from offline_tf.policies import cloning
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord

RECORD = pathlib.Path("results", "tables", "clones.json")
_SHARES = (1.0, 0.1)
_EPISODES = 20


def cloned(name: str, file: pathlib.Path, seed: int) -> list[dict[str, Any]]:
    """Fits and measures the clones of a set."""
    data_set, config = BY_NAME[name], CloningConfig()
    task = tasks.get(data_set.env)
    data, _ = sources.load(str(file), task)
    actions = large_columns.derive(task.clip_actions, data.actions)
    share = holdout.share_of(None, len(data))
    split = holdout.split_episodes(data.episode_bounds(), share, seed)
    width = task.state_dim + task.action_dim
    units = npg_planner.units_of(
        task, PlannerConfig(), Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))
    )
    found = []
    for share in _SHARES:
        for restarts in (0, config.bc_restarts):
            policy = npg_planner.new_policy(units, PlannerConfig(), seed)
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "run")
                record = RunRecord.create_or_continue(path, "clone", {"seed": seed})
                stage, began = record.stage("clone"), time.monotonic()
                fitted = cloning.fit_or_load(
                    policy,
                    observations=data.observations,
                    actions=actions,
                    rows=good_episodes.best(data, share, split),
                    epochs=0,
                    steps=config.bc_steps,
                    restarts=restarts,
                    batch_size=config.bc_batch_size,
                    learning_rate=config.bc_learning_rate,
                    seed=seed,
                    stage=stage,
                )
                seconds, residual = time.monotonic() - began, np.mean(stage.result["residual"])
            episodes = policy_episodes.evaluate(
                fitted,
                task=task,
                physics=data_set.physics,
                episodes=_EPISODES,
                stochastic=False,
                seed=seed,
                name="clones",
                threads=1,
            )
            found.append(
                {
                    "share": share,
                    "restarts": restarts,
                    "residual": float(residual),
                    "true_return_mean": episodes.mean,
                    "standard_error": episodes.std / np.sqrt(_EPISODES),
                    "seconds": round(seconds, 1),
                }
            )
    return found


def table(record: dict[str, Any]) -> list[str]:
    """A row per set and share: returns without and with restarts."""
    lines = ["| set, seed | share | fitted once | fitted on in rounds |", "|---" * 4 + "|"]
    for name, run in record.items():
        for share in _SHARES:
            pair = [each for each in run["clones"] if each["share"] == share]
            cells = [
                f"{each['true_return_mean']:.0f} +- {each['standard_error']:.0f}" for each in pair
            ]
            lines.append(f"| {name} | {share:g} | {' | '.join(cells)} |")
    return lines


def main(words: list[str] | None = None) -> int:
    """Prints and writes."""
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
                found = cloned(name, file, seed)
                record[key] = {"clones": found, "commit": provenance.commit()}
                write_json(at, record)
    print("\n".join(table(record)))
    return 0


if __name__ == "__main__":
    bench.exit_with(main)
