"""Memory and files of processes that run for hours: collection, training, planning, serving in turn.

python -m benchmarks.soak --minutes=60 --export=RUN

Each phase is one process that has work without end; it is stopped with SIGTERM. Its memory (its own,
without mapped files) in the last tenth of the phase is compared with that of the tenth that ends a
quarter in. Phases that are in the record are done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import attacks, memory
from benchmarks.server_process import Server
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json

_RECORD = pathlib.Path("results", "tables", "soak.json")
_SECONDS = 5.0  # between looks
_BOUND = 1.05
_STOPPED = 128 + signal.SIGTERM  # the status of a run that saved and stopped
_ENDLESS = str(10**7)
_DATA = ["--env=hopper", "--data_steps=100000", "--threads=1", "--judge_members=0"]
TRAININGS = {
    "collection": [
        "morel_tf.train_behavior",
        "--env=hopper",
        f"--num_steps={10**9}",
        "--threads=1",
    ],
    "training": ["mopp_tf.train", *_DATA, f"--dynamics_steps={_ENDLESS}", f"--patience={_ENDLESS}"],
    "planning": ["morel_tf.train", *_DATA, "--dynamics_steps=2000", f"--iterations={_ENDLESS}"],
}
PHASES = (*TRAININGS, "serving")


class Look(NamedTuple):
    """What was seen at one moment.

    Attributes:
      minute: since the phase began.
      megabytes: that the process holds.
      files: bytes of each file in its folder.
    """

    minute: float
    megabytes: float
    files: dict[str, int]


def look(began: float, pid: int, folder: pathlib.Path) -> Look:
    """Looks at a process and its folder now."""
    files = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # was replaced meanwhile
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.stat().st_size
    held = memory.resident(pid)["RssAnon"] / 1e3
    return Look((time.monotonic() - began) / 60, held, files)


def watch(
    pid: int, folder: pathlib.Path, minutes: float, process: subprocess.Popen[bytes] | None
) -> list[Look]:
    """Looks at a process until the time is over.

    Raises:
      RuntimeError: it ends before.
    """
    began = time.monotonic()
    looks: list[Look] = []
    while time.monotonic() - began < 60 * minutes:
        time.sleep(_SECONDS)
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the process ended with {process.returncode}, see {folder}.log")
        looks.append(look(began, pid, folder))
    return looks


def summarize(looks: list[Look]) -> dict[str, Any]:
    """Memory early and late, and what grew on the disk.

    Args:
      looks: of one phase, in order.
    """
    minutes = looks[-1].minute

    def held(first: float, last: float) -> float:
        return float(np.median([x.megabytes for x in looks if first <= x.minute / minutes <= last]))

    quarter = next(x for x in looks if x.minute >= minutes / 4)
    hours = (minutes - quarter.minute) / 60
    grew = {
        name: round((size - quarter.files.get(name, 0)) / hours / 1e6, 3)
        for name, size in looks[-1].files.items()
        if name in quarter.files and size > quarter.files[name]
    }
    early, late = held(0.15, 0.25), held(0.9, 1.0)
    return {
        "minutes": round(minutes, 1),
        "megabytes_early": round(early, 1),
        "megabytes_late": round(late, 1),
        "grew": round(late / early, 4),
        "files_early": len(quarter.files),
        "files_late": len(looks[-1].files),
        "growing_mb_per_hour": dict(sorted(grew.items(), key=lambda item: -item[1])[:5]),
        "megabytes_by_tenth": [round(held(n / 10, (n + 1) / 10), 1) for n in range(10)],
    }


@contextlib.contextmanager
def asked(server: Server) -> Iterator[list[tuple[int, float]]]:
    """A client that asks a server for actions within."""
    answers: list[tuple[int, float]] = []
    over = threading.Event()
    client = threading.Thread(target=attacks.honest, args=(server, over, answers))
    client.start()
    try:
        yield answers
    finally:
        over.set()
        client.join()


def serve(export: str, minutes: float, folder: pathlib.Path) -> dict[str, Any]:
    """The phase of the server."""
    with contextlib.closing(Server(export, 8598)) as server, asked(server) as answers:
        looks = watch(server.pid, folder, minutes, None)
    good = sum(status == 200 for status, _ in answers)
    return summarize(looks) | {"requests": len(answers), "answers": good}


def train(name: str, minutes: float, folder: pathlib.Path) -> dict[str, Any]:
    """A phase that trains.

    Raises:
      RuntimeError: it ends before the time, or SIGTERM does not end it in order.
    """
    module, *flags = TRAININGS[name]
    command = [sys.executable, "-m", module, *flags, f"--workdir={folder}"]
    if module != "morel_tf.train_behavior":
        command.append(f"--data_dir={folder.parent / 'data'}")
    with (
        folder.with_name(f"{name}.log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            looks = watch(process.pid, folder, minutes, process)
        finally:
            process.terminate()
    if process.returncode != _STOPPED:
        raise RuntimeError(f"{name}: SIGTERM ended with {process.returncode}")
    rows = {p.stem: len(p.read_text().splitlines()) - 1 for p in (folder / "metrics").glob("*.csv")}
    return summarize(looks) | {"rows_of_metrics": rows}


def main() -> int:
    """Runs the phases that are not recorded; returns how many grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of a phase")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--export", default="", help="run folder or export that is served")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs", "soak"))
    parser.add_argument("--record", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text()) if arguments.record.exists() else []
    for name in arguments.phases.split(","):
        if any(phase["phase"] == name for phase in record):
            continue
        folder = (arguments.folder / name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if name == "serving":
            found = serve(arguments.export, arguments.minutes, folder)
        else:
            found = train(name, arguments.minutes, folder)
        record.append({"phase": name, **found, "commit": provenance.commit()})
        write_json(arguments.record, record)
        print(name, found, flush=True)
    return sum(phase["grew"] > _BOUND for phase in record)


if __name__ == "__main__":
    sys.exit(main())
