"""What is each rule worth? Runs on the bench's sets with one rule off, beside those with all of them.

python -m benchmarks.robustness.rules --seeds=0 --folder=DATA                 all, development half
python -m benchmarks.robustness.rules --rules="whose reward" --sets=dmsd-own  one rule, one set
python -m benchmarks.robustness.rules table                                   what the records say

A rule is off where a flag puts a constant in its place. What is recorded is
not run again, as in `benchmarks.robustness`. Differences are scores (see `table`), with the rule less
without it, on the same set and seed.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import campaign, robustness
from benchmarks.robustness import __main__ as bench
from benchmarks.robustness import records, table
from benchmarks.robustness.data_sets import BY_NAME, DEVELOPMENT, SPLITS, DataSet
from offline_tf.types import UserError


class Rule(NamedTuple):
    """A rule and how it is left out.

    Attributes:
      name: in a few words.
      algorithm: "morel" or "mopp".
      flags: that put a constant in its place.
    """

    name: str
    algorithm: str
    flags: str

    @property
    def variant(self) -> str:
        """What runs without it are called in the record."""
        return f"without {self.name}"


RULES = (
    Rule("length of the fit", "morel", "--dynamics_epochs=12"),
    Rule("width of the models", "morel", "--dynamics_hidden=512,512"),
    Rule("threshold", "morel", "--threshold_rule=beta --beta=10"),
    Rule("share to clone", "morel", "--bc_share=1"),
    Rule("length of the clones' fits", "morel", "--bc_restarts=0"),
    Rule("held-out rows of the clones", "morel", "--bc_held_out=split"),
    Rule("actions at their bounds", "morel", "--bc_loss=squared"),
    Rule("width of the policy", "morel", "--policy_hidden=64,64"),
    Rule("first noise", "morel", "--init_log_std=-1"),
    Rule("judge", "morel", "--judge_members=0 --iterations=250"),
    Rule("gain", "morel", "--judge_keeps=promise"),
    Rule("length of the fits", "mopp", "--patience=0"),
    Rule("share to clone", "mopp", "--behavior_share=1"),
    Rule("whose reward", "mopp", "--planner_reward=models"),
    Rule("width of proposals", "mopp", "--sigma_max=0.25"),
    Rule("choice", "mopp", "--plan=always"),
)


class Worth(NamedTuple):
    """A rule on one set and seed: scores with it and without."""

    rule: Rule
    name: str
    seed: int
    with_rule: float
    without: float


def found_in(
    rules: Sequence[Rule], sets: Sequence[DataSet], folder: pathlib.Path = records.FOLDER
) -> list[Worth]:
    """All pairs in the records."""
    found = []
    for data_set in sets:
        row, runs = table.runs_of(data_set, folder)
        by_key = {(run["algorithm"], run["variant"], run["seed"]): run for run in runs}
        for rule in rules:
            for (algorithm, variant, seed), run in by_key.items():
                usual = by_key.get((algorithm, "", seed))
                if (algorithm, variant) != (rule.algorithm, rule.variant) or usual is None:
                    continue
                assert row is not None
                scores = (row.score(each["true_return_mean"]) for each in (usual, run))
                found.append(Worth(rule, data_set.name, seed, *scores))
    return found


def report(pairs: Sequence[Worth]) -> str:
    """A table of rules: on how many sets each helps, and by how much."""
    lines = ["| rule | algorithm | pairs | helps in | mean | from | to |", "|---" * 7 + "|"]
    for rule in RULES:
        own = [pair.with_rule - pair.without for pair in pairs if pair.rule == rule]
        if own:
            lines.append(
                f"| {rule.name} | {rule.algorithm} | {len(own)} | {sum(gain > 0 for gain in own)} | "
                f"{np.mean(own):+.1f} | {min(own):+.1f} | {max(own):+.1f} |"
            )
    lines += ["", "| rule | set, seed | with | without |", "|---" * 4 + "|"]
    lines += [
        f"| {pair.rule.name}, {pair.rule.algorithm} | {pair.name}, {pair.seed} | "
        f"{pair.with_rule:.1f} | {pair.without:.1f} |"
        for pair in pairs
    ]
    return "\n".join(lines)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
      UserError: there is no such rule.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness.rules",
        description=__doc__,
        epilog=(robustness.__doc__ or "").splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--split", choices=("", *SPLITS), default=DEVELOPMENT, help="empty: both")
    parser.add_argument("--sets", default="", help="names with commas between them; empty: all")
    parser.add_argument("--rules", default="", help="names with commas between them; empty: all")
    bench.add_running(parser)
    bench.add_folders(parser)
    arguments = parser.parse_args(words)
    wanted, names = [n for n in arguments.rules.split(",") if n], {rule.name for rule in RULES}
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(f"--rules: expected some of {', '.join(sorted(names))}, got {unknown[0]!r}")
    arguments.rules = [rule for rule in RULES if not wanted or rule.name in wanted]
    return arguments


def main(words: list[str] | None = None) -> int:
    """Returns the number of runs that failed."""
    arguments = parse(words)
    sets = bench.chosen(arguments.split, arguments.sets)
    if arguments.command == "table":
        print(report(found_in(arguments.rules, sets, arguments.results)))
        return 0
    files = bench.make_data(sets, arguments.folder, arguments.neorl2)
    jobs = []
    for rule in arguments.rules:
        off = {"what": rule.algorithm, "variant": rule.variant, "flags": rule.flags}
        of_rule = argparse.Namespace(**vars(arguments) | off)
        for seed in (int(word) for word in arguments.seeds.split(",")):
            for name, file in files.items():
                data_set = BY_NAME[name]
                for run in bench.planned(data_set, file, seed, of_rule):
                    job = bench.job_of(run, data_set, file, seed, of_rule)
                    jobs += [] if job is None else [job]
    print(f"{len(jobs)} runs to do", flush=True)
    return campaign.work_through(jobs, workers=arguments.workers, hours=arguments.hours)


if __name__ == "__main__":
    bench.exit_with(main)
