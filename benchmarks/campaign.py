"""Runs a list of trainings, some at a time, and puts each finished one into its record.

python -m benchmarks.campaign benchmarks/campaigns/mopp-default.txt --workers 2

A line of the list is what follows "python -m". Lines whose command stands in results/LIST.json are
done; the others go on where they stopped. Each run has one thread, so times say nothing. Ctrl-C
stops; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from offline_tf.reports import campaign_record


class Job(NamedTuple):
    """One run of a list.

    Attributes:
      line: what is printed of it.
      command: to run.
      log: file that its output is added to.
      record: keeps what it left; may raise.
    """

    line: str
    command: list[str]
    log: pathlib.Path
    record: Callable[[], None]


def work_through(jobs: Sequence[Job], *, workers: int, hours: float = float("inf")) -> int:
    """Runs jobs, some at a time; Ctrl-C lets those that run stop by themselves and starts no other.

    Args:
      jobs: in the order in which they start.
      workers: how many run at a time.
      hours: after which none is started.

    Returns:
      How many failed or were not recorded; 130 after Ctrl-C.
    """
    waiting: queue.Queue[Job] = queue.Queue()
    for job in jobs:
        waiting.put(job)
    began, lock, stop, failed = time.monotonic(), threading.Lock(), threading.Event(), []

    def work() -> None:
        while time.monotonic() - began < 3600 * hours and not stop.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("a") as log:
                code = subprocess.run(job.command, stdout=log, stderr=log).returncode
            with lock:
                why = f", see {job.log}" if code else ""
                print(f"{time.strftime('%H:%M:%S')} {job.line}: exit {code}{why}", flush=True)
                if code in (130, -signal.SIGINT):
                    stop.set()
                if code:
                    failed.append(job.line)
                    continue
                try:
                    job.record()
                except Exception as error:  # a worker that dies would leave jobs undone
                    print(f"{job.line}: not recorded: {error!r}", flush=True)
                    failed.append(job.line)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    # The runs get Ctrl-C too, and stop at their next checkpoints; a thread waits for each.
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 130 if stop.is_set() else len(failed)


def main() -> int:
    """Works through the list; returns the number of runs that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=pathlib.Path)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs", "campaigns"))
    parser.add_argument("--record", type=pathlib.Path, help="default: results/LIST.json")
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no run after this")
    arguments = parser.parse_args()
    record = arguments.record or pathlib.Path("results", f"{arguments.list.stem}.json")
    written = json.loads(record.read_text()) if record.exists() else []
    done = {run.get("command") for run in written}
    lines = [line.strip() for line in arguments.list.read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]

    def job(line: str) -> Job:
        name = re.sub(r"[^\w.=-]+", "_", line.replace("--", ""))
        folder = arguments.folder / arguments.list.stem / name

        def keep() -> None:
            summary = json.loads((folder / "summary.json").read_text())
            campaign_record.add(record, [summary | {"command": f"python -m {line}"}], "")

        command = [sys.executable, "-m", *line.split(), "--threads=1", f"--workdir={folder}"]
        return Job(line, command, folder.with_name(f"{name}.log"), keep)

    jobs = [job(line) for line in lines if f"python -m {line}" not in done]
    print(f"{len(jobs)} of {len(lines)} runs to do", flush=True)
    return work_through(jobs, workers=arguments.workers, hours=arguments.hours)


if __name__ == "__main__":
    sys.exit(main())
