"""Peak memory of short trainings, by rows of data and by the size of columns that stay in memory.

python -m benchmarks.memory --source FILE.hdf5 --numbers results/tables/memory.json

SOURCE, a file with D4RL's keys, is repeated until it has so many rows. Resident memory is that of the
process alone ("anonymous") and with the pages of mapped files, which the system takes back when it
needs them. Trainings are whole runs, export included, with few steps: memory does not grow with them.
--workers=2 fits with two workers on this machine; the larger of their peaks counts.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

from benchmarks.two_workers import clusters

_TRAININGS = {
    "morel": "morel_tf.train --preset=quick --dynamics_epochs=1 --dynamics_batch_size=2048 "
    "--bc_epochs=1 --bc_batch_size=2048 --iterations=2 "
    "--final_episodes=2 --eval_every=1000",
    "mopp": "mopp_tf.train --dynamics_steps=300 --behavior_steps=300 --q_steps=300 "
    "--eval_episodes=1",
}


def repeat(source: pathlib.Path, rows: int, path: pathlib.Path) -> int:
    """Writes `rows` rows of the source, again and again; returns their bytes."""
    size = 0
    with h5py.File(source) as source_file, h5py.File(path, "w") as file:
        names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
        for name in names:
            values = source_file[name][()]
            column = file.create_dataset(name, (rows, *values.shape[1:]), values.dtype)
            for start in range(0, rows, len(values)):
                column[start : start + len(values)] = values[: rows - start]
            size += column.nbytes
        ends = np.arange(len(source_file["rewards"]), rows + 1, len(source_file["rewards"])) - 1
        file["timeouts"][ends] = ~file["terminals"][ends]
    return size


def resident(pid: int) -> dict[str, int]:
    """Kilobytes that a process holds now: its own (RssAnon), and with pages of mapped files (VmRSS)."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {name: int(size) for name, size in re.findall(r"(RssAnon|VmRSS):\s+(\d+) kB", status)}


def peak(command: list[str], environments: list[dict[str, str]]) -> dict[str, float]:
    """Runs a command in one or several processes; returns peak resident GiB of one, and seconds.

    Args:
      command: of each process.
      environments: of the processes, what is not this one's.
    """
    began = time.monotonic()
    highest = {"RssAnon": 0, "VmRSS": 0}
    processes = [subprocess.Popen(command, env=os.environ | own) for own in environments]
    while any(process.poll() is None for process in processes):
        for process in processes:
            if process.poll() is None:
                for name, kilobytes in resident(process.pid).items():
                    highest[name] = max(highest[name], kilobytes)
        time.sleep(0.05)
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(command)} failed")
    return {
        "anonymous_gib": round(highest["RssAnon"] / 2**20, 2),
        "resident_gib": round(highest["VmRSS"] / 2**20, 2),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--env", default="hopper")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--column_mb", nargs="+", default=["", "32"], help="'': the default")
    parser.add_argument("--algorithms", nargs="+", default=list(_TRAININGS), choices=_TRAININGS)
    parser.add_argument("--flags", default="", help="more, for all trainings")
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2))
    parser.add_argument("--numbers", type=pathlib.Path)
    arguments = parser.parse_args()
    report = []
    with tempfile.TemporaryDirectory(dir=arguments.source.parent) as scratch:
        for rows in arguments.rows:
            data = pathlib.Path(scratch, f"{rows}.hdf5")
            size = repeat(arguments.source, rows, data)
            for column_mb in arguments.column_mb:
                environment = {"OFFLINE_TF_COLUMN_MB": column_mb, "OFFLINE_TF_SCRATCH": scratch}
                for algorithm in arguments.algorithms:
                    training = _TRAININGS[algorithm]
                    folder = pathlib.Path(scratch, f"{algorithm}-{rows}-{column_mb}")
                    command = [sys.executable, "-m", *training.split(), f"--env={arguments.env}"]
                    command += [
                        f"--dataset={data}",
                        f"--workdir={folder}",
                        *arguments.flags.split(),
                    ]
                    environments = [environment]
                    if arguments.workers > 1:
                        command.append("--devices=all")
                        environments = [environment | {"TF_CONFIG": own} for own in clusters()]
                    row = {"algorithm": algorithm, "rows": rows, "column_mb": column_mb or None}
                    row |= {"workers": arguments.workers, "data_gib": round(size / 2**30, 2)}
                    row |= peak(command, environments)
                    report.append(row)
                    print(json.dumps(row), flush=True)
            data.unlink()
    if arguments.numbers:
        arguments.numbers.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
