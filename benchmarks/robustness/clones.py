"""What do clones return, fitted in other ways?

python -m benchmarks.robustness.clones rounds --sets=halfcheetah-two,walker2d-noisy --folder=DATA
python -m benchmarks.robustness.clones policies --folder=DATA
python -m benchmarks.robustness.clones held_out --folder=DATA
python -m benchmarks.robustness.clones mopp --folder=DATA

Of all episodes and of the best tenth. "rounds": MOReL's without restarts and with as many as
--bc_restarts has. "policies": MOReL's 64 and 256 wide, by --bc_loss. "held_out": by --bc_held_out.
"mopp": MOPP's, fitted for longer.

Development sets only. Writes results/tables/clones.json or clones_NAME.json: held-out error or negative
log-likelihood, true mean return of 20 episodes and its standard error, seconds of the fit.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.robustness import __main__ as bench
from benchmarks.robustness import mopp_clones
from benchmarks.robustness.data_sets import BY_NAME, DEVELOPMENT
from benchmarks.robustness.mopp_clones import EPISODES, SHARES
from morel_tf.config import CloningConfig, PlannerConfig
from morel_tf.planning import npg_planner
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.evaluation import policy_episodes
from offline_tf.judging import clones
from offline_tf.models import compilation
from offline_tf.numerics import holdout, large_columns, standardize
from offline_tf.policies import cloning
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord

RECORD = pathlib.Path("results", "tables", "clones.json")


class Kind(NamedTuple):
    """What a clone is fitted to, and how.

    Attributes:
      share: of the episodes.
      restarts: see --bc_restarts.
      hidden: of the policy.
      loss: see --bc_loss.
      held_out: see --bc_held_out.
    """

    share: float
    restarts: int
    hidden: tuple[int, ...] = (64, 64)
    loss: str = "squared"
    held_out: str = "split"


_RESTARTS = CloningConfig().bc_restarts
_ROUNDS = [Kind(share, restarts) for share in SHARES for restarts in (0, _RESTARTS)]
_POLICIES = [
    Kind(share, _RESTARTS, (width, width), loss)
    for share in SHARES
    for width in (64, 256)
    for loss in ("squared", "censored")
]
_HELD_OUT = [
    Kind(0.1, _RESTARTS, (256, 256), "censored", held_out) for held_out in ("split", "always")
]


def cloned(name: str, file: pathlib.Path, seed: int, kinds: Sequence[Kind]) -> list[dict[str, Any]]:
    """Fits and measures the clones of a set, one of each kind."""
    data_set, config = BY_NAME[name], CloningConfig()
    task = tasks.get(data_set.env)
    data, _ = sources.load(str(file), task)
    actions = large_columns.derive(task.clip_actions, data.actions)
    share = holdout.share_of(None, len(data))
    split = holdout.split_episodes(data.episode_bounds(), share, seed)
    inputs = standardize.statistics(np.concatenate([data.observations, actions], axis=1))
    units = npg_planner.units_of(task, PlannerConfig(), inputs)
    bounds = cloning.Bounds(task.action_low, task.action_high)
    found = []
    for kind in kinds:
        policy = npg_planner.new_policy(units, PlannerConfig(policy_hidden=kind.hidden), seed)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "run")
            record = RunRecord.create_or_continue(path, "clone", {"seed": seed})
            stage, began = record.stage("clone"), time.monotonic()
            fitted = cloning.fit_or_load(
                policy,
                observations=data.observations,
                actions=actions,
                rows=clones.rows_of(data, kind.share, split, kind.held_out),
                epochs=0,
                steps=config.bc_steps,
                restarts=kind.restarts,
                batch_size=config.bc_batch_size,
                learning_rate=config.bc_learning_rate,
                seed=seed,
                stage=stage,
                censored=bounds if kind.loss == "censored" else None,
            )
            seconds = time.monotonic() - began
            residual = np.mean(stage.result["residual"] / units.output_scale)
        episodes = policy_episodes.evaluate(
            fitted,
            task=task,
            physics=data_set.physics,
            episodes=EPISODES,
            stochastic=False,
            seed=seed,
            name="clones",
            threads=1,
        )
        found.append(
            kind._asdict()
            | {
                "residual": float(residual),
                "true_return_mean": episodes.mean,
                "standard_error": episodes.std / np.sqrt(EPISODES),
                "seconds": round(seconds, 1),
            }
        )
    return found


class Compared(NamedTuple):
    """A table of the page.

    Attributes:
      headings: of its columns.
      fit: (name of a set, its file, seed) -> the clones, those of a share beside each other in the
        columns' order.
    """

    headings: tuple[str, ...]
    fit: Callable[[str, pathlib.Path, int], list[dict[str, Any]]]


COMPARED = {
    "rounds": Compared(
        ("fitted once", "fitted on in rounds"), functools.partial(cloned, kinds=_ROUNDS)
    ),
    "policies": Compared(
        ("64 wide", "64 wide, censored", "256 wide", "256 wide, censored"),
        functools.partial(cloned, kinds=_POLICIES),
    ),
    "held_out": Compared(
        ("held-out episodes", "or every tenth"), functools.partial(cloned, kinds=_HELD_OUT)
    ),
    "mopp": Compared(mopp_clones.HEADINGS, mopp_clones.cloned),
}


def record_of(compared: str) -> pathlib.Path:
    """Where the record of a table lies."""
    return RECORD if compared == "rounds" else RECORD.with_stem(f"clones_{compared}")


def table(record: dict[str, Any], compared: str = "rounds") -> list[str]:
    """A row per set and share: returns of what is compared."""
    headings = COMPARED[compared].headings
    lines = [f"| set, seed | share | {' | '.join(headings)} |", "|---" * (2 + len(headings)) + "|"]
    for name, run in record.items():
        for share in SHARES:
            row = [each for each in run["clones"] if each["share"] == share]
            cells = [
                f"{each['true_return_mean']:.0f} +- {each['standard_error']:.0f}" for each in row
            ]
            if row:
                lines.append(f"| {name} | {share:g} | {' | '.join(cells)} |")
    return lines


def widths(record: dict[str, Any]) -> list[str]:
    """A row per set of the record of "policies": how wide policies are, and why."""
    lines = ["| set, seed | 64 wide | 256 wide | policies |", "|---" * 4 + "|"]
    for name, run in record.items():
        narrow, wide = (
            next(
                each["residual"]
                for each in run["clones"]
                if (each["share"], each["loss"], each["hidden"][0]) == (1.0, "censored", width)
            )
            for width in (64, 256)
        )
        taken = 256 if wide < clones.NARROWER_MISS * narrow else 64
        lines.append(f"| {name} | {narrow:.4f} | {wide:.4f} ({wide / narrow - 1:+.1%}) | {taken} |")
    return lines


def main(words: list[str] | None = None) -> int:
    """Measures the sets that are not in the record yet, and prints all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("compared", choices=tuple(COMPARED))
    parser.add_argument("--sets", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--output", type=pathlib.Path, help="another record")
    bench.add_folders(parser)
    arguments = parser.parse_args(words)
    compilation.use_threads(1)
    compared = arguments.compared
    at = arguments.output or record_of(compared)
    record: dict[str, Any] = json.loads(at.read_text()) if at.exists() else {}
    chosen = bench.chosen(DEVELOPMENT, arguments.sets)
    for name, file in bench.make_data(chosen, arguments.folder, arguments.neorl2).items():
        for seed in (int(word) for word in arguments.seeds.split(",")):
            if (key := f"{name}, {seed}") not in record:
                found = COMPARED[compared].fit(name, file, seed)
                record[key] = {"clones": found, "commit": provenance.commit()}
                write_json(at, record)
    print("\n".join(table(record, compared)))
    return 0


if __name__ == "__main__":
    bench.exit_with(main)
