"""The tables of docs/results/robustness.md, from the records.

python -m benchmarks.robustness.page [docs/results/robustness.md]     prints them, or writes them there

Parts, each between its two markers: the sets of either split, with every seed; what each algorithm's
scores come to; which policy MOReL keeps, what its clones return, and the verdicts, of the tables in
results/tables that `looks`, `clones` and `verdicts` of this package write; whose reward MOPP is paid;
what its planner adds to its clone.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import pages
from benchmarks.robustness import __main__ as bench
from benchmarks.robustness import clones, looks, promises, records, table
from benchmarks.robustness.data_sets import SETS, SPLITS, DataSet
from benchmarks.robustness.table import Row
from offline_tf.config.judge_config import JudgeConfig
from offline_tf.judging import verdict
from offline_tf.run_folder import files

VERDICTS = pathlib.Path("results", "tables", "verdicts.json")
# MOReL's runs by other rules: with --judge_keeps=promise --bc_restarts=0; and with the gain, but with
# --policy_hidden=64,64 --fisher_share=0.25 --bc_loss=squared --bc_held_out=split.
_FIRST, _SQUARED = "without gain and restarts", "by squared error"
_SHOWN = {
    ("bc", ""): "BC",
    ("bc-best-tenth", ""): "BC of best tenth",
    ("morel", _SQUARED): f"MOReL {_SQUARED}",
    ("morel", ""): "MOReL",
    ("mopp", ""): "MOPP",
}
_SCORED = _SHOWN | {("morel", _FIRST): f"MOReL {_FIRST}"}
_COUNTED = (f"MOReL, {_SQUARED}", "MOReL", "MOPP")  # columns, see `table.column_of`
_PEERS = ("iql", "td3bc", "cql")
_LEVEL = 99.0  # a score from which on an algorithm is not below the best policy
_KINDS = {
    "dmsd-neorl2": "a plant, NeoRL-2's own data",
    "dmsd-own": "a plant",
    "tanks": "a plant",
    "cstr": "a reactor",
}


class Of(NamedTuple):
    """A set: its row, and its runs by algorithm and variant, seeds in order."""

    data_set: DataSet
    row: Row
    runs: dict[tuple[str, str], list[records.Run]]

    def returns(self, algorithm: str, variant: str = "") -> list[float]:
        """True mean returns, one per seed."""
        return [run["true_return_mean"] for run in self.runs.get((algorithm, variant), [])]

    def score(self, algorithm: str, variant: str = "") -> float | None:
        """Of the mean over seeds; None without a run, or where no policy is better than chance."""
        found = self.returns(algorithm, variant)
        if not found or self.row.best <= self.row.random:
            return None
        return self.row.score(float(np.mean(found)))


def sets_of(split: str, folder: pathlib.Path = records.FOLDER) -> list[Of]:
    """The split's sets with baselines."""
    found = []
    for data_set in SETS:
        row, runs = table.runs_of(data_set, folder)
        if data_set.split == split and row is not None:
            by_kind: dict[tuple[str, str], list[records.Run]] = {}
            for run in sorted(runs, key=lambda run: run["seed"]):
                by_kind.setdefault((run["algorithm"], run["variant"]), []).append(run)
            found.append(Of(data_set, row, by_kind))
    return found


def in_words(data_set: DataSet) -> str:
    """What a set differs in, such as "two policies; noise 0.3 in half of 100,000 rows"."""
    parts = data_set.parts
    count = {1: "one policy", 2: "two policies", 3: "three policies"}
    words = [_KINDS.get(data_set.name) or count[len({part.policy for part in parts})]]
    if any(part.draws for part in parts):
        words.append("which draw")
    if any(part.gain != 1.0 for part in parts):
        words.append("means tripled")
    shares: dict[float, float] = {}
    for part in parts:
        shares[part.noise] = shares.get(part.noise, 0.0) + part.share
    shares.pop(0.0, None)
    for noise in sorted(shares, reverse=True):
        where = f" in {100 * shares[noise]:.0f} %" if shares[noise] < 1.0 else ""
        words.append(f"noise {noise:g}{where}")
    words.append(f"{data_set.rows:,} rows")
    if data_set.cut:
        words.append(f"cut at {data_set.cut}")
    return ", ".join(words)


def _cells(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def returns(sets: Sequence[Of]) -> list[str]:
    """A row per set: who made the data, how they acted, and every seed's return."""
    peers = [name for name in _PEERS if any(key[0] == name for of in sets for key in of.runs)]
    heads = ["set", "policies", "as they acted", *_SHOWN.values()]
    heads += [table.column_of({"algorithm": name}) for name in peers]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for of in sets:
        cells = [f"{of.data_set.name}: {in_words(of.data_set)}"]
        cells += [_cells(sorted({round(p) for p in of.row.policies})) or "not shipped"]
        cells += [f"{of.row.acted:.0f}", *(_cells(of.returns(*kind)) for kind in _SHOWN)]
        for name in peers:
            variants = sorted(variant for algorithm, variant in of.runs if algorithm == name)
            told = (f"{_cells(of.returns(name, variant))} ({variant})" for variant in variants)
            cells.append("; ".join(told))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def scores(sets: Sequence[Of]) -> list[str]:
    """What each algorithm's scores come to, and where it is below the best policy of the data."""
    lines = [
        "| | sets, runs | interquartile mean of scores | at or above the best policy | below it |"
    ]
    lines.append("|---" * 5 + "|")
    acted = {
        of.data_set.name: of.row.score(of.row.acted) for of in sets if of.row.best > of.row.random
    }
    lines.append(_scored("who made the data", acted, ""))
    for kind, head in _SCORED.items():
        found = {of.data_set.name: of.score(*kind) for of in sets}
        known = {key: value for key, value in found.items() if value is not None}
        runs = sum(len(of.returns(*kind)) for of in sets if of.data_set.name in known)
        if known:
            lines.append(_scored(head, known, f", {runs}"))
    return lines


def _scored(head: str, by_set: dict[str, float], runs: str) -> str:
    values = np.array(list(by_set.values()))
    low, high = table.interval(values)
    below = sorted((value, name) for name, value in by_set.items() if value < _LEVEL)
    told = ", ".join(f"{name} {value:.0f}" for value, name in below)
    middle = f"{table.interquartile_mean(values):.0f} ({low:.0f} to {high:.0f})"
    above = f"{len(values) - len(below)} of {len(values)}"
    return f"| {head} | {len(values)}{runs} | {middle} | {above} | {told} |"


def kept(record: pathlib.Path) -> list[str]:
    """What each way of keeping a policy would have kept, of `looks`; judges of the usual size."""
    heads = ["set, seed", "clone", "the best of all looks", *looks.WAYS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, run in json.loads(record.read_text()).items():
        seen = looks.looked(run, JudgeConfig().judge_members)
        at = [keep(seen) for keep in looks.WAYS.values()]
        values = [0, int(np.argmax(seen.true)), *at]
        told = [f"{seen.true[one]:.0f} ({seen.steps[one]})" for one in values]
        lines.append(f"| {name} | {' | '.join(told)} |")
    return lines


def promised(splits: Sequence[str], folder: pathlib.Path = records.FOLDER) -> list[str]:
    """How many promises lie at or below the truth, by split and algorithm."""
    lines = ["| runs | promises at or below the truth | those above it |", "|---" * 3 + "|"]
    for split in splits:
        sets = [data_set for data_set in SETS if data_set.split == split]
        every = promises.found_in(sets, folder)
        for column in _COUNTED:
            runs = [run for run in every if _column(run.name) == column]
            above = [run for run in runs if run.promise > run.true]
            told = "; ".join(f"{run.name}: {run.promise:.0f}, true {run.true:.0f}" for run in above)
            kept = f"{len(runs) - len(above)} of {len(runs)}"
            if runs:
                lines.append(f"| {split}, {column} | {kept} | {told} |")
    return lines


def whose_reward(sets: Sequence[Of]) -> list[str]:
    """MOPP paid by its models and by the rule, on sets that have both."""
    heads = ["set, seed", "reward missed by the models; by the task's"]
    heads += ["MOPP paid by the models", "MOPP", "promised"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for of in sets:
        without = {run["seed"]: run for run in of.runs.get(("mopp", "without whose reward"), [])}
        for run in of.runs.get(("mopp", ""), []):
            if run["seed"] in without:
                missed = [run[f"reward_missed_by_{which}"] for which in ("models", "task")]
                cells = [f"{of.data_set.name}, {run['seed']}"]
                cells += ["; ".join(f"{100.0 * share:.2g} %" for share in missed)]
                cells += _cells([without[run["seed"]]["true_return_mean"]]).split(", ")
                cells += [f"{run['true_return_mean']:.0f}", f"{run['promise']:.0f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def beside_clone(sets: Sequence[Of]) -> list[str]:
    """Every run of MOPP that plans beside its own clone; how often the difference is sure."""
    heads = ["set, seed", "its clone", "MOPP", "difference, +- twice its standard error"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    above = below = planned = 0
    runs = [(of.data_set.name, run) for of in sets for run in of.runs.get(("mopp", ""), [])]
    for name, run in runs:
        if run["chosen"] == "clone":
            continue
        clone, ours = run["bc_return"], run["true_return_mean"]
        spreads = run["bc_return_std"], run["true_return_std"]  # of as many episodes each
        error = 2.0 * float(np.hypot(*spreads)) / run["episodes"] ** 0.5
        planned, above = planned + 1, above + (ours - clone > error)
        below += clone - ours > error
        lines.append(
            f"| {name}, {run['seed']} | {clone:.0f} | {ours:.0f} | {ours - clone:+.0f} +- {error:.0f} |"
        )
    told = f"all that plan, {planned} of {len(runs)} runs"
    return [*lines, f"| {told} | | | surely above in {above}, surely below in {below} |"]


def verdicts(runs: Sequence[dict[str, Any]], split: str) -> list[str]:
    """The runs of a split with their promises and today's verdicts."""
    lines = ["| run | promise | true | is | verdict | grounds |", "|---" * 6 + "|"]
    for run in runs:
        if run["split"] != split or _column(run["name"]) not in _COUNTED:
            continue
        grounds = ", ".join(f"{name} {value:.2f}" for name, value in run["grounds"].items())
        cells = [
            run["name"],
            f"{run['promise']:.0f}",
            f"{run['true']:.0f}",
            run["kind"] or "between",
        ]
        lines.append(f"| {' | '.join([*cells, run['today'], grounds])} |")
    return lines


def green(runs: Sequence[dict[str, Any]]) -> list[str]:
    """How many good and bad runs are green, by split and algorithm."""
    lines = ["| runs | good ones that are green | bad ones that are green |", "|---" * 3 + "|"]
    for split in SPLITS:
        for column in _COUNTED:
            every = [run for run in runs if _is_of(run, split, column)]
            by_kind = {
                kind: [run["today"] == verdict.GREEN for run in every if run["kind"] == kind]
                for kind in ("good", "bad")
            }
            if every:
                counts = [f"{sum(those)} of {len(those)}" for those in by_kind.values()]
                lines.append(f"| {split}, {column} | {' | '.join(counts)} |")
    return lines


def _column(name: str) -> str:
    """Of a run "SET, COLUMN, seed N"."""
    return name.partition(", ")[2].rpartition(", ")[0]


def _is_of(run: dict[str, Any], split: str, column: str) -> bool:
    return run["split"] == split and _column(run["name"]) == column


def parts(folder: pathlib.Path, tables: pathlib.Path) -> dict[str, list[str]]:
    """Name -> lines of every part.

    Args:
      folder: of the bench's records.
      tables: folder of the others.
    """
    by_split = {split: sets_of(split, folder) for split in SPLITS}
    development, reporting = SPLITS
    found = {split: returns(sets) for split, sets in by_split.items()}
    found |= {f"{split} scores": scores(sets) for split, sets in by_split.items()}
    found["promises"] = promised(SPLITS, folder)
    found["whose reward"] = whose_reward([*by_split[development], *by_split[reporting]])
    found["beside its clone"] = beside_clone([*by_split[development], *by_split[reporting]])
    found["kept"] = kept(tables / looks.RECORD.name)
    for compared in clones.COMPARED:
        record = tables / clones.record_of(compared).name
        if record.exists():
            fitted = files.read_json(record, "tables")
            found[f"clones {compared}"] = clones.table(fitted, compared)
            if compared == "policies":
                found["clones widths"] = clones.widths(fitted)
    runs = files.read_json(tables / VERDICTS.name, "tables")["runs"]
    found |= {f"{split} verdicts": verdicts(runs, split) for split in SPLITS}
    found["green"] = green(runs)
    return found


def main(words: list[str] | None = None) -> int:
    """Prints or writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=pathlib.Path, nargs="?")
    parser.add_argument("--results", type=pathlib.Path, default=records.FOLDER)
    parser.add_argument("--tables", type=pathlib.Path, default=VERDICTS.parent)
    arguments = parser.parse_args(words)
    found = parts(arguments.results, arguments.tables)
    for name, lines in found.items():
        if arguments.page is None:
            print("\n".join([f"{name}:", "", *lines, ""]))
        else:
            pages.put(arguments.page, name, lines)
    return 0


if __name__ == "__main__":
    bench.exit_with(main)
