"""Kills runs at random moments of every stage and asks whether they end with the same bits.

python -m benchmarks.kills --kills=50

Each case is made once without a break. Then it is begun anew in another folder, killed (SIGKILL) at
moments drawn at random, some in every stage, started again after each, and at its end compared with
the unbroken run: weights, metrics, results, exports and pictures to the bit. A stage that had a
checkpoint when it was killed must go on from it. Cases that are in the record are done. The runs are
small; networks and minibatches have the sizes that users have.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from offline_tf.run_folder import comparison, provenance
from offline_tf.run_folder.files import write_json

_RECORD = pathlib.Path("results", "tables", "kills.json")
_DATASET = "hopper-medium-v2"
_ROWS = 20_000
_BYTES_PER_SECOND = 300_000  # of the download, so that it can be killed
_START_UP = 3.0  # seconds from a process's start to its first data, at least
_WORKS = re.compile(rb"transitions, \d+ episodes|training: ")  # what a run prints once it works
_LONG = 20.0  # a stage gets one more kill for so many seconds
_SMALL_MODELS = ["--judge_steps=2000", "--data_steps=20000"]
_PLANNERS = ["--dynamics_steps=2000", "--behavior_steps=2000", "--q_steps=2000"]
_PLANNERS += ["--judge_plan_starts=2", "--judge_plan_steps=20", "--judge_promise_starts=2"]
CASES = {
    # With the rules, on data that are downloaded.
    "morel": [
        "morel_tf.train",
        *_SMALL_MODELS,
        f"--dataset={_DATASET}",
        "--dynamics_steps=3000",
        "--bc_steps=2000",
        "--iterations=12",
        "--judge_every=4",
        "--judge_starts=4",
        "--eval_every=6",
        "--eval_episodes=2",
        "--final_episodes=4",
    ],
    # With the constants, on data that are collected.
    "morel-tuned": [
        "morel_tf.train",
        "--data_steps=20000",
        "--dynamics_epochs=4",
        "--iterations=12",
        "--eval_every=6",
        "--eval_episodes=2",
        "--final_episodes=4",
    ],
    "mopp": [
        "mopp_tf.train",
        *_SMALL_MODELS,
        *_PLANNERS,
        f"--dataset={_DATASET}",
        "--eval_episodes=1",
    ],
    "mbop": [
        "mopp_tf.train",
        "--algorithm=mbop",
        *_SMALL_MODELS,
        *_PLANNERS,
        f"--dataset={_DATASET}",
        "--eval_episodes=1",
    ],
    "behavior": ["morel_tf.train_behavior", "--num_steps=400000", "--save_transitions={}/all.hdf5"],
}


class Kill(NamedTuple):
    """A moment.

    Attributes:
      stage: in which the process is killed.
      delay: seconds after the stage began, or after the process had its data if that is later.
    """

    stage: str
    delay: float


class Case:
    """One kind of run, unbroken and broken.

    Attributes:
      name: one of CASES.
      folder: of all that the case leaves.
      seconds: that the last run took to its end.
    """

    def __init__(self, name: str, folder: pathlib.Path, seed: int, mirror: str) -> None:
        """Makes the folder.

        Args:
          name: one of CASES.
          folder: of all that the case leaves.
          seed: of the run.
          mirror: URL that data are downloaded from.
        """
        self.name, self.folder, self.seconds = name, folder, 60.0
        self._seed, self._mirror = seed, mirror
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, run: str) -> subprocess.Popen[bytes]:
        """Starts, or continues, the run in a folder of the case."""
        place = self.folder / run
        module, *flags = [
            word.replace("{}", str(self.folder / f"{run}-data")) for word in CASES[self.name]
        ]
        command = [
            sys.executable,
            "-m",
            module,
            "--env=hopper",
            "--threads=1",
            f"--seed={self._seed}",
        ]
        command += [*flags, f"--workdir={place}"]
        if module != "morel_tf.train_behavior":
            command.append(f"--data_dir={self.folder / f'{run}-data'}")
        environment = os.environ | {
            "D4RL_DATASET_DIR": str(self.folder / f"{run}-data"),
            "OFFLINE_TF_MIRRORS": self._mirror,
            "CUDA_VISIBLE_DEVICES": "",
        }
        (self.folder / f"{run}-data").mkdir(exist_ok=True)
        with self.log(run).open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def log(self, run: str) -> pathlib.Path:
        """What the run's processes print."""
        return self.folder / f"{run}.log"

    def finish(self, run: str) -> None:
        """Lets the run end.

        Raises:
          RuntimeError: it fails.
        """
        began = time.monotonic()
        if self.start(run).wait():
            raise RuntimeError(f"{self.name}: the run failed, see {self.log(run)}")
        self.seconds = time.monotonic() - began

    def stages(self, run: str) -> dict[str, float]:
        """Seconds of each stage of a finished run, in their order."""
        place = self.folder / run
        files = [_stage(place, name) for name in comparison.parts_of(place)]
        stages = {f.stem: json.loads(f.read_text())["seconds"] for f in files if f.exists()}
        return stages or {"training": self.seconds}

    def kill(self, run: str, kill: Kill, before: str | None) -> dict[str, object] | None:
        """Starts the run and kills it.

        Args:
          run: folder of the case.
          kill: when.
          before: the stage before, whose end is the beginning.

        Returns:
          What was seen: how far the log was, which stages had checkpoints; None if the run ended first.
        """
        log, place = self.log(run), self.folder / run
        printed = log.stat().st_size if log.exists() else 0
        process, began = self.start(run), time.monotonic()

        def wait(until: Callable[[], bool]) -> None:
            while process.poll() is None and not until():
                time.sleep(0.005)

        if kill.stage == "data":
            wait(lambda: time.monotonic() > began + _START_UP)
        else:
            wait(lambda: _WORKS.search(log.read_bytes()[printed:]) is not None)
        if before:
            wait(_stage(place, before).exists)
        until = time.monotonic() + kill.delay
        wait(lambda: time.monotonic() > until)
        if process.poll() is not None:
            return None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return {
            "stage": kill.stage,
            "after_s": round(time.monotonic() - began, 1),
            "log_bytes": log.stat().st_size,
            "with_checkpoints": [
                path.parent.name
                for path in (place / "checkpoints").glob("*/checkpoint")
                if not _stage(place, path.parent.name.removesuffix("_fit")).exists()
            ],
        }


def _stage(place: pathlib.Path, name: str) -> pathlib.Path:
    return place / "stages" / f"{name}.json"


def draw(stages: dict[str, float], count: int, generator: np.random.Generator) -> list[Kill]:
    """Moments in the order of the stages: one in each, more in long ones.

    Args:
      stages: name -> seconds.
      count: at most so many.
      generator: draws them.
    """
    names = [name for name, seconds in stages.items() for _ in range(1 + int(seconds / _LONG))]
    while len(names) > count:
        names.pop(int(generator.integers(len(names))))
    share = {name: stages[name] / names.count(name) for name in names}
    return [Kill(name, float(generator.random() * share[name])) for name in names]


def begins_again(log: str, kills: list[dict[str, object]]) -> list[str]:
    """Stages that had a checkpoint when they were killed, and did not go on from one."""
    found = []
    for seen in kills:
        text = log.encode()[int(str(seen["log_bytes"])) :].decode()
        for name in list(seen["with_checkpoints"]):  # type: ignore[call-overload]
            if not re.search(rf"^{re.escape(str(name))}: going on from step", text, re.M):
                found.append(f"{name} after {seen['after_s']} s")
    return found


def run_case(case: Case, count: int, generator: np.random.Generator) -> dict[str, object]:
    """Makes both runs and compares.

    Args:
      case: the case.
      count: of kills, at most.
      generator: draws them.
    """
    if not (case.folder / "whole" / "summary.json").exists():
        case.finish("whole")
    stages = case.stages("whole")
    names = list(stages)
    kills: list[dict[str, object]] = []
    for kill in draw(stages, count, generator):
        place = names.index(kill.stage)
        seen = case.kill("broken", kill, names[place - 1] if place else None)
        if seen:
            kills.append(seen)
    case.finish("broken")
    whole, broken = case.folder / "whole", case.folder / "broken"
    return {
        "case": case.name,
        "kills": [{k: v for k, v in seen.items() if k != "log_bytes"} for seen in kills],
        "differences": [list(d) for d in comparison.differences(whole, broken)],
        "began_again": begins_again(case.log("broken").read_text(), kills),
        "partial_files": [str(path.relative_to(broken)) for path in broken.rglob("*.partial")],
    }


class _Slowly(http.server.SimpleHTTPRequestHandler):
    """Serves files, from the byte that is asked for, a little at a time."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Answers with the rest of the file."""
        content = pathlib.Path(self.translate_path(self.path)).read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        step = _BYTES_PER_SECOND // 10
        with contextlib.suppress(OSError):  # the reader was killed
            for start in range(first, len(content), step):
                self.wfile.write(content[start : start + step])
                time.sleep(0.1)


@contextlib.contextmanager
def mirror(folder: pathlib.Path) -> Iterator[str]:
    """Serves a folder on the loopback address within; gives its URL."""
    handler = functools.partial(_Slowly, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def make_download(folder: pathlib.Path) -> None:
    """Puts a small file of D4RL's layout where D4RL's name looks for it."""
    path = folder / "gym_mujoco_v2" / "hopper_medium-v2.hdf5"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["-m", "offline_tf.collect", "--env=hopper", f"--num_steps={_ROWS}"]
        subprocess.run([sys.executable, *command, f"--output={path}"], check=True)


def main() -> int:
    """Runs the cases that are not recorded; returns how many kills did not end well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="in all, at most")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=3, help="of the runs and of the moments")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs", "kills"))
    parser.add_argument("--record", type=pathlib.Path, default=_RECORD)
    arguments = parser.parse_args()
    make_download(arguments.folder / "server")
    names = arguments.cases.split(",")
    record = json.loads(arguments.record.read_text()) if arguments.record.exists() else []
    with mirror(arguments.folder / "server") as url:
        for number, name in enumerate(names):
            if any(run["case"] == name and run["seed"] == arguments.seed for run in record):
                continue
            case = Case(
                name,
                (arguments.folder / f"{name}-seed{arguments.seed}").absolute(),
                arguments.seed,
                url,
            )
            generator = np.random.default_rng([arguments.seed, number])
            count = arguments.kills // len(names) + (number < arguments.kills % len(names))
            found = run_case(case, count, generator)
            found |= {"seed": arguments.seed, "commit": provenance.commit()}
            record.append(found)
            write_json(arguments.record, record)
            bad = found["differences"] or found["began_again"] or found["partial_files"]
            print(f"{name}: {len(found['kills'])} kills, {bad or 'equal to the bit'}", flush=True)  # type: ignore[arg-type]
    return sum(
        bool(run["differences"] or run["began_again"] or run["partial_files"]) for run in record
    )


if __name__ == "__main__":
    sys.exit(main())
