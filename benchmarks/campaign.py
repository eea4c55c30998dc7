"""Runs lists of trainings, some at a time, and puts each finished one into its list's record.

python -m benchmarks.campaign mopp-default --workers 2

A list is a file, or its name in benchmarks/campaigns; papers stands for all papers-*.txt there. A line
of it is what follows "python -m". Lines whose command stands in results/LIST.json are
done; the others go on where they stopped. Each run has one thread, so times say nothing. Ctrl-C
stops; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from offline_tf.reports import campaign_record
from offline_tf.run_folder import stopping
from offline_tf.studies import conduct, pools
from offline_tf.studies.running import End, Job
from offline_tf.types import UserError

_LISTS = pathlib.Path(__file__).parent / "campaigns"


class Recorded(NamedTuple):
    """One run of a list.

    Attributes:
      job: the run.
      keep: puts what it left into a record; may raise.
    """

    job: Job
    keep: Callable[[], None]


class _InTime(conduct.Listed):
    """Jobs of which none is begun after its time."""

    def __init__(self, jobs: list[Job], on_end: Callable[[Job, End], None], seconds: float) -> None:
        super().__init__(jobs, on_end)
        self._deadline = time.monotonic() + seconds

    def next(self) -> Job | None:
        return super().next() if time.monotonic() < self._deadline else None


def work_through(runs: Sequence[Recorded], *, workers: int, hours: float = float("inf")) -> int:
    """Runs jobs, some at a time; after Ctrl-C those that run stop at their next checkpoints.

    Args:
      runs: in the order in which they start.
      workers: how many run at a time.
      hours: after which none is started.

    Returns:
      How many failed or were not recorded; 130 after Ctrl-C.
    """
    keep = {run.job.folder: run.keep for run in runs}
    failed = []

    def on_end(job: Job, end: End) -> None:
        why = f", see {job.log}" if end.status else ""
        print(f"{time.strftime('%H:%M:%S')} {job.name}: exit {end.status}{why}", flush=True)
        if end.status:
            failed.append(job.name)
            return
        try:
            keep[job.folder]()
        except Exception as error:  # the others are to be done all the same
            print(f"{job.name}: not recorded: {error!r}", flush=True)
            failed.append(job.name)

    source = _InTime([run.job for run in runs], on_end, 3600.0 * hours)
    try:
        with stopping.allowed():
            conduct.conduct(source, pools.LocalPool(workers))
    except stopping.Stopped as stopped:
        return stopped.status
    return len(failed)


def lists_of(name: str) -> list[pathlib.Path]:
    """The files that a name stands for.

    Raises:
      UserError: there is none.
    """
    if pathlib.Path(name).is_file():
        return [pathlib.Path(name)]
    found = [*_LISTS.glob(f"{name}.txt")] or sorted(_LISTS.glob(f"{name}-*.txt"))
    if not found:
        known = ", ".join(sorted(path.stem for path in _LISTS.glob("*.txt")))
        raise UserError(f"expected the file of a list, or one of {known}, got {name}")
    return found


def runs_of(path: pathlib.Path, record: pathlib.Path, folder: pathlib.Path) -> list[Recorded]:
    """What is left of a list.

    Args:
      path: of the list.
      record: of its summaries.
      folder: the run folders go to FOLDER/LIST/.
    """
    written = json.loads(record.read_text()) if record.exists() else []
    done = {run.get("command") for run in written}
    lines = [line.strip() for line in path.read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]

    def run(line: str) -> Recorded:
        name = re.sub(r"[^\w.=-]+", "_", line.replace("--", ""))
        place = folder / path.stem / name

        def keep() -> None:
            summary = json.loads((place / "summary.json").read_text())
            campaign_record.add(record, [summary | {"command": f"python -m {line}"}], "")

        return Recorded(Job(line, [*line.split(), "--threads=1"], place), keep)

    left = [run(line) for line in lines if f"python -m {line}" not in done]
    print(f"{path.stem}: {len(left)} of {len(lines)} runs to do", flush=True)
    return left


def main() -> int:
    """Works through the lists; returns the number of runs that failed, or 2 for an unknown list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", help="a file, or a name in benchmarks/campaigns")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs", "campaigns"))
    parser.add_argument("--record", type=pathlib.Path, help="default: results/LIST.json")
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no run after this")
    arguments = parser.parse_args()
    try:
        lists = lists_of(arguments.list)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = [
        run
        for path in lists
        for run in runs_of(
            path,
            arguments.record or pathlib.Path("results", f"{path.stem}.json"),
            arguments.folder,
        )
    ]
    return work_through(runs, workers=arguments.workers, hours=arguments.hours)


if __name__ == "__main__":
    sys.exit(main())
