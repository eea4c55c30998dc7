"""Two workers on this machine: is a run by both that of one device, and does it go on after a kill?

python -m benchmarks.two_workers --dataset=FILE.hdf5 --folder=FOLDER

MOReL's dynamics by one device, by one process with two and with three devices, and by two workers that
meet over loopback. How far held-out errors are apart is told for every epoch: sums of parts round
otherwise, and a fit makes more of that with every step. Three devices beside two show how much rounding
alone does.

Then again by two workers, one of which is killed (SIGKILL) once a checkpoint stands. The other must end
with a clear line; both, started again, with what they would have had. Each of the two is killed once.
Writes results/tables/two_workers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from offline_tf.run_folder import comparison, provenance
from offline_tf.run_folder.files import write_json

_RECORD = pathlib.Path("results", "tables", "two_workers.json")
_TABLE = pathlib.Path("metrics", "dynamics_fit.csv")
_CHECKPOINTS = pathlib.Path("checkpoints", "dynamics_fit")
_BOUND = 1e-4  # share of the held-out error
_FLAGS = (
    "--dynamics_epochs=50",
    "--iterations=4",
    "--judge_members=0",
    "--final_episodes=3",
    "--eval_every=100",
    "--threads=1",
    "--noinspection",
)


def clusters() -> list[str]:
    """TF_CONFIG of two workers on this machine, on ports that nobody listens to."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]


class Runs:
    """Starts runs of one data set, each with a log beside its folder."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Takes --env, --physics, --dataset and --folder."""
        self.folder = arguments.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-m", "morel_tf.train", *_FLAGS]
        self._command += [f"--env={arguments.env}", f"--physics={arguments.physics}"]
        self._command += [f"--dataset={arguments.dataset.resolve()}"]

    def start(
        self, name: str, devices: str, log: str, cluster: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts one process.

        Args:
          name: of the run's folder.
          devices: the flag.
          log: name of the file.
          cluster: TF_CONFIG.
        """
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        environment |= {"TF_CONFIG": cluster} if cluster else {}
        words = [*self._command, f"--devices={devices}", f"--workdir={self.folder / name}"]
        with (self.folder / f"{log}.log").open("w") as file:
            return subprocess.Popen(
                words, stdout=file, stderr=file, env=environment, start_new_session=True
            )

    def workers(self, name: str, log: str) -> list[subprocess.Popen[bytes]]:
        """Starts two workers of one run."""
        return [
            self.start(name, "all", f"{log}-worker{index}", cluster)
            for index, cluster in enumerate(clusters())
        ]

    def curve(self, name: str) -> list[float]:
        """Held-out errors of the dynamics' fit."""
        table = np.genfromtxt(self.folder / name / _TABLE, delimiter=",", names=True)
        return [float(x) for x in np.atleast_1d(table["held_out_mse"])]

    def last_line(self, log: str) -> str:
        """What a process said at last."""
        return (self.folder / f"{log}.log").read_text().strip().splitlines()[-1]


def ended(processes: list[subprocess.Popen[bytes]]) -> None:
    """Waits; leaves the program where one failed."""
    for process in processes:
        if process.wait():
            sys.exit(f"{process.args!r} ended with {process.returncode}")


def killed(runs: Runs, victim: int) -> dict[str, object]:
    """Kills one of two workers after the first checkpoint, starts both again; what came of it."""
    name = f"killed{victim}"
    processes = runs.workers(name, name)
    while not list((runs.folder / name / _CHECKPOINTS).glob("*.index")):
        time.sleep(0.2)
        if any(process.poll() is not None for process in processes):
            sys.exit(f"{name}: a worker ended before it was killed")
    os.killpg(processes[victim].pid, signal.SIGKILL)
    began = time.monotonic()
    status = processes[1 - victim].wait()
    seconds = time.monotonic() - began
    said = runs.last_line(f"{name}-worker{1 - victim}")
    ended(runs.workers(name, f"{name}-again"))
    again = (runs.folder / f"{name}-again-worker0.log").read_text()
    return {
        "the_other_ended_with": status,
        "after_seconds": round(seconds, 1),
        "it_said": said,
        "went_on": "dynamics_fit: going on from step" in again,
        "different": [
            f"{each.stage}: {each.what}"
            for each in comparison.differences(runs.folder / name, runs.folder / "workers")
        ],
    }


def main() -> int:
    """Returns 0 where all epochs are within the bound and killed runs end like others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--env", default="hopper")
    parser.add_argument("--physics", default="v2")
    runs = Runs(parser.parse_args())
    seconds = {}
    for name, devices in (("one", "1"), ("two", "2"), ("three", "3")):
        began = time.monotonic()
        ended([runs.start(name, devices, name)])
        seconds[name] = round(time.monotonic() - began, 1)
    began = time.monotonic()
    ended(runs.workers("workers", "workers"))
    seconds["workers"] = round(time.monotonic() - began, 1)
    curves = {name: runs.curve(name) for name in ("one", "two", "three", "workers")}
    pairs = (("workers", "two"), ("workers", "one"), ("three", "two"))
    apart = {f"{a} from {b}": np.abs(np.divide(curves[a], curves[b]) - 1.0) for a, b in pairs}
    record = {
        "held_out_mse": curves,
        "share_apart": {name: [float(f"{x:.2g}") for x in each] for name, each in apart.items()},
        "bound": _BOUND,
        "epochs_within_the_bound": {
            name: int(np.argmax(each > _BOUND)) if (each > _BOUND).any() else len(each)
            for name, each in apart.items()
        },
        "seconds": seconds,
        "chief_killed": killed(runs, 0),
        "worker_killed": killed(runs, 1),
        "commit": provenance.commit(),
    }
    write_json(_RECORD, record)
    print(json.dumps(record, indent=2))
    kills = [record["chief_killed"], record["worker_killed"]]
    sound = all(
        kill["the_other_ended_with"] == 2 and kill["went_on"] and not kill["different"]  # type: ignore[index]
        for kill in kills
    )
    return int(apart["workers from one"].max() > _BOUND or not sound)


if __name__ == "__main__":
    sys.exit(main())
