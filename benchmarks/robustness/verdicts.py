"""What would today's verdict say of the runs in the record?

python -m benchmarks.robustness.verdicts --folder=DATA [--neorl2=FOLDER] [--seeds=1,2]

A record has each ground's number as the run's own commit took it. The judge's numbers are read back
from these with the data's mean and best tenth, and go through `verdict.of_judgement` again. Other
grounds stay as they are. Writes results/tables/verdicts.json; no run is changed.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import robustness
from benchmarks.robustness import __main__ as bench
from benchmarks.robustness import making, promises, records, table
from benchmarks.robustness.data_sets import SETS, SPLITS, DataSet
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.judging import good_episodes, verdict
from offline_tf.judging.verdict import DataReturns, Ground
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.types import UserError

_RECORD = pathlib.Path("results", "tables", "verdicts.json")
_SAME = 0.01  # of a unit: a ground that is of the promise


class Again(NamedTuple):
    """A run and both verdicts.

    Attributes:
      split, name: of the run.
      promise, true: lower bound and mean return.
      kind: see `promises`.
      recorded, today: levels.
      grounds: today's that are not green, with their numbers.
    """

    split: str
    name: str
    promise: float
    true: float
    kind: str
    recorded: str
    today: str
    grounds: dict[str, float]


def of_run(run: Mapping[str, Any], data: DataReturns) -> list[Ground]:
    """Today's grounds of a recorded run.

    Args:
      run: with its promise and verdict.
      data: what the episodes of its set earned.
    """
    stored = run["verdict"]["grounds"]
    values = {name: ground["value"] for name, ground in stored.items()}
    expected = run.get("expected_return", run.get("promise_expected"))
    judged = {
        "promise": run["promise"],
        "expected": expected,
        "models_apart": values["models_apart"] * max(abs(expected), data.spread),
        "halted_share": values["halted_share"],
    }
    if "limits_broken" in values:
        judged["limits_broken"] = values["limits_broken"]
    found = verdict.of_judgement(
        judged, data, values.get("model_error", 0.0), {}, _clone(run, data)
    )
    names = {ground.name for ground in found}
    kept = [
        Ground(name, ground["value"], ground["level"], ground.get("words", ""))
        for name, ground in stored.items()
        if name not in names
    ]
    return [*found, *kept]


def _clone(run: Mapping[str, Any], data: DataReturns) -> float | None:
    """What a kept clone is worth; None of planning. In oldest records it was held to its promise."""
    if run.get("kept_iteration") != 0 and run.get("chosen") != "clone":
        return None
    return data.mean - run["verdict"]["grounds"]["below_data"]["value"] * data.spread


def again(
    sets: Sequence[DataSet], folder: pathlib.Path, neorl2: str, results: pathlib.Path
) -> list[Again]:
    """All runs with a promise on the sets' data of today; sets that cannot be made are told."""
    found = []
    for data_set in sets:
        row, every = table.runs_of(data_set, results)
        runs = [run for run in every if "promise" in run]
        if row is None or not runs:
            continue
        try:
            task = tasks.get(data_set.env)
            path = making.load_or_make(data_set, folder, neorl2)
        except UserError as error:
            print(f"left out: {error}", flush=True)
            continue
        data, _ = sources.load(str(path), task)
        earned = DataReturns.of(good_episodes.known_returns(data, task.max_episode_steps))
        for run in runs:
            true = records.as_promised(run)
            now = verdict.of(of_run(run, earned))
            found.append(
                Again(
                    split=data_set.split,
                    name=f"{data_set.name}, {table.column_of(run)}, seed {run['seed']}",
                    promise=run["promise"],
                    true=true,
                    kind=promises.kind_of(run["promise"], true, row.acted),
                    recorded=run["verdict"]["level"],
                    today=now.level,
                    grounds={g.name: g.value for g in now.grounds if g.level != verdict.GREEN},
                )
            )
    return found


def told(runs: Sequence[Again]) -> str:
    """A table, and by half how many good and bad runs are green."""
    lines = ["| run | promise | true | is | recorded | today | grounds |", "|---" * 7 + "|"]
    for run in runs:
        grounds = ", ".join(f"{name} {value:.2f}" for name, value in run.grounds.items())
        kind = run.kind or "between"
        lines.append(
            f"| {run.name} | {run.promise:.0f} | {run.true:.0f} | {kind} | {run.recorded} | "
            f"{run.today} | {grounds} |"
        )
    lines.append("")
    for split in SPLITS:
        for kind in ("good", "bad"):
            those = [run for run in runs if (run.split, run.kind) == (split, kind)]
            recorded, today = (
                sum(getattr(run, which) == verdict.GREEN for run in those)
                for which in ("recorded", "today")
            )
            lines.append(
                f"- {split}, {kind}: {recorded} of {len(those)} green as recorded, {today} today"
            )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Prints and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness.verdicts",
        description=(__doc__ or "").splitlines()[0],
        epilog=robustness.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--split", choices=("", *SPLITS), default="", help="empty: both")
    parser.add_argument("--seeds", default="", help="of the learners; empty: all")
    bench.add_folders(parser)
    parser.add_argument("--output", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args(words)
    sets = [each for each in SETS if arguments.split in ("", each.split)]
    runs = again(sets, arguments.folder, arguments.neorl2, arguments.results)
    seeds = [f"seed {seed}" for seed in arguments.seeds.split(",") if seed]
    runs = [run for run in runs if not seeds or run.name.rsplit(", ", 1)[1] in seeds]
    print(told(runs))
    write_json(
        arguments.output,
        {"commit": provenance.commit(), "runs": [run._asdict() for run in runs]},
    )
    return 0


if __name__ == "__main__":
    bench.exit_with(main)
