"""python -m benchmarks.robustness; see the package."""

from __future__ import annotations

import argparse
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from benchmarks import campaign, robustness
from benchmarks.robustness import making, peers, promises, records, table
from benchmarks.robustness.data_sets import BY_NAME, SETS, SPLITS, DataSet
from offline_tf.studies.running import Job
from offline_tf.types import UserError

WHAT = ("data", "baselines", "morel", "mopp", "peers")
_TRAINING = {"morel": "morel_tf.train", "mopp": "mopp_tf.train"}
# A decision of MOPP for many episodes at once takes long, and nobody looks at the pictures.
_SHORTER = {
    "morel": ["--final_episodes=50", "--noinspection"],
    "mopp": ["--eval_episodes=10", "--noinspection"],
}


def chosen(split: str, names: str) -> list[DataSet]:
    """The sets that --split and --sets name.

    Raises:
      UserError: there is no such set.
    """
    wanted = [name for name in names.split(",") if name]
    if unknown := [name for name in wanted if name not in BY_NAME]:
        raise UserError(f"--sets: expected some of {', '.join(BY_NAME)}, got {unknown[0]}")
    every = [BY_NAME[name] for name in wanted] or list(SETS)
    return [data_set for data_set in every if split in ("", data_set.split)]


def make_data(sets: list[DataSet], folder: pathlib.Path, neorl2: str) -> dict[str, pathlib.Path]:
    """Returns name -> file; a set that cannot be made here is told and left out."""
    made = {}
    for data_set in sets:
        try:
            made[data_set.name] = making.load_or_make(data_set, folder, neorl2)
        except UserError as error:
            print(f"left out: {error}", flush=True)
    return made


class Planned(NamedTuple):
    """A run that a set should have.

    Attributes:
      what: one of WHAT.
      algorithm, variant: what it is called in the record.
      words: what follows "python -m".
      shown: flags of this bench that led to it.
      unshown: flags of the run that depend on the machine.
    """

    what: str
    algorithm: str
    variant: str
    words: list[str]
    shown: list[str]
    unshown: list[str]


def planned(
    data_set: DataSet, file: pathlib.Path, seed: int, arguments: argparse.Namespace
) -> list[Planned]:
    """The runs of a set and a seed that --what names."""
    wanted, found = arguments.what.split(","), []
    flags, variant = arguments.flags, arguments.variant
    here = [data_set.name, str(file), f"--seed={seed}"]
    if "baselines" in wanted:
        words = ["benchmarks.robustness.baselines", *here]
        found.append(Planned("baselines", "data", "", words, [], []))
    for what in _TRAINING:
        if what in wanted:
            physics = [] if data_set.kind == "plant" else [f"--physics={data_set.physics}"]
            words = [_TRAINING[what], f"--env={data_set.env}", *physics, f"--dataset={file}"]
            words += [f"--seed={seed}", *_SHORTER[what], *shlex.split(flags)]
            shown = [f"--variant={shlex.quote(variant)}"] if variant else []
            shown += [f"--flags={shlex.quote(flags)}"] if flags else []
            found.append(Planned(what, what, variant, words, shown, []))
    for algorithm in arguments.peers.split(",") if "peers" in wanted else ():
        minutes, python = f"--minutes={arguments.minutes:g}", arguments.peers_python
        words = ["benchmarks.robustness.peers", *here, f"--algorithm={algorithm}", minutes]
        shown, unshown = [f"--peers={algorithm}", minutes], [f"--peers_python={python}"]
        budget = f"{arguments.minutes:g} min"
        found.append(Planned("peers", algorithm, budget, words, shown, unshown))
    return found


def job_of(
    run: Planned, data_set: DataSet, file: pathlib.Path, seed: int, arguments: argparse.Namespace
) -> campaign.Recorded | None:
    """The run as a job; None where the record has it.

    Raises:
      UserError: another command's run stands there under its name.
    """
    start = f"python -m benchmarks.robustness --sets={data_set.name} --what={run.what}"
    command = " ".join([start, f"--seeds={seed}", *run.shown])
    recorded = records.read(data_set, arguments.results)
    if records.is_done(command, file.stem, recorded):
        return None
    records.check_free(command, (run.algorithm, run.variant, file.stem, seed), recorded)
    words = [run.algorithm, run.variant.replace(" ", ""), f"seed{seed}"]
    name = "-".join(word for word in words if word)
    root = arguments.folder.parent / "runs" / file.stem
    common = {
        "dataset": file.stem,
        "seed": seed,
        "variant": run.variant,
        "command": command,
        "run": shlex.join(["python", "-m", *run.words]).replace(str(file), file.name),
    }
    here = [*run.words, *run.unshown, "--threads=1"]
    return campaign.Recorded(
        Job(f"{data_set.name} {name}", here, root / name),
        functools.partial(
            records.keep, data_set, root / name / "summary.json", common, arguments.results
        ),
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of which runs are worked, and how many at a time."""
    parser.add_argument("--seeds", default="0", help="of the learners")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no run after this")


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of where data and records lie."""
    parser.add_argument("--folder", type=pathlib.Path, default=making.FOLDER, help="of the data")
    parser.add_argument("--results", type=pathlib.Path, default=records.FOLDER)
    parser.add_argument("--neorl2", default="", help=f"folder of NeoRL-2's data; ${making.NEORL2}")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
      UserError: what it asks for is not there.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness",
        description=robustness.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--split", choices=("", *SPLITS), default="", help="empty: both")
    parser.add_argument("--sets", default="", help="names with commas between them; empty: all")
    parser.add_argument("--what", default="data,baselines,morel,mopp", help=", ".join(WHAT))
    parser.add_argument("--flags", default="", help="for MOReL's and MOPP's training")
    parser.add_argument("--variant", default="", help="what runs with --flags are called")
    parser.add_argument("--peers", default=",".join(peers.ALGORITHMS))
    parser.add_argument("--peers_python", default="", help="with requirements-benchmarks.txt")
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU time of a peer")
    add_running(parser)
    add_folders(parser)
    arguments = parser.parse_args(words)
    for flag, given, known in (
        ("what", arguments.what, WHAT),
        ("peers", arguments.peers, peers.ALGORITHMS),
    ):
        if unknown := [word for word in given.split(",") if word not in known]:
            raise UserError(f"--{flag}: expected some of {', '.join(known)}, got {unknown[0]!r}")
    if "peers" in arguments.what.split(",") and not arguments.peers_python:
        raise UserError("--peers_python: expected the interpreter of an environment with d3rlpy")
    if arguments.flags and not arguments.variant:
        raise UserError("--variant: runs with --flags need a name in the record")
    return arguments


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Ends the process as the command says; bad input ends it in one line and status 2."""
    try:
        sys.exit(command())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> int:
    """Returns the number of runs that failed."""
    arguments = parse()
    sets = chosen(arguments.split, arguments.sets)
    if arguments.command == "table":
        print(table.report(sets, arguments.results))
        print(promises.report(sets, arguments.results))
        return 0
    files = make_data(sets, arguments.folder, arguments.neorl2)
    if "data" in arguments.what.split(","):
        for path in files.values():
            print(making.told(path), flush=True)
    seeds = [int(word) for word in arguments.seeds.split(",")]
    every = [
        job_of(run, BY_NAME[name], file, seed, arguments)
        for seed in seeds
        for name, file in files.items()
        for run in planned(BY_NAME[name], file, seed, arguments)
    ]
    jobs = [job for job in every if job is not None]
    print(f"{len(jobs)} of {len(every)} runs to do", flush=True)
    return campaign.work_through(jobs, workers=arguments.workers, hours=arguments.hours)


if __name__ == "__main__":
    exit_with(main)
