"""The two plants of examples/: exports beside the log's operators, a PI, cloning and IQL.

python -m benchmarks.plants reactor --seeds=0,1,2 --folder=FOLDER --peers_python=PYTHON

Writes the log to FOLDER, trains as docs/plants.md says, and judges everything in the simulator that
made the log, in the same 50 episodes. What is done is not done again. Needs requirements-plants.txt;
IQL needs an environment with requirements-benchmarks.txt. Writes results/plants/PLANT.json.

With --what=limited it trains on examples/PLANT-limits.toml too, and counts how often those limits are
broken by everything that is judged anew.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import pathlib
import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.robustness import baselines, peers
from examples import closed_loop
from offline_tf.datasets.formats import plant_logs
from offline_tf.models import networks
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks.plants import plant_file
from offline_tf.types import Array, TaskSpec, Transitions

ROOT = pathlib.Path(__file__).parent.parent
PLANTS, ALGORITHMS = ("reactor", "drive"), ("bc", "iql", "morel", "mopp")
TRAINING = {"morel": "morel_tf.train", "mopp": "mopp_tf.train"}
LIMITED = "limited"
IQL_MINUTES = 10.0


class Acting:
    """A policy without a memory as a controller of `closed_loop`."""

    def __init__(self, act: Callable[[Array], Array]) -> None:
        """act: [B, S] -> [B, A]."""
        self.act = act

    def reset(self) -> None:
        """Nothing to forget."""


def trained(algorithm: str, plant: str, log: pathlib.Path, seed: int) -> closed_loop.Controller:
    """Trains one of ours on examples/PLANT.toml by its command; loads the export."""
    folder = log.parent / f"{plant}-{algorithm}-seed{seed}"
    command = [sys.executable, "-m", TRAINING[algorithm], f"--env=examples/{plant}.toml"]
    command += [f"--dataset={log}", f"--seed={seed}", f"--workdir={folder}"]
    with folder.with_suffix(".log").open("a") as said:
        if subprocess.run(command, cwd=ROOT, stdout=said, stderr=said).returncode:
            sys.exit(f"{folder}.log says what went wrong")
    return closed_loop.load(folder)


def cloned(data: Transitions, task: TaskSpec, folder: pathlib.Path, seed: int) -> Acting:
    """Behaviour cloning of all rows, as in benchmarks.robustness."""
    record = RunRecord.create_or_continue(folder, "baselines", {"seed": seed})
    network, statistics = baselines.clone(data, task, record.stage("bc"), seed)
    forward = tf.function(networks.bind(network))
    middle = 0.5 * (task.action_high + task.action_low)
    half = 0.5 * (task.action_high - task.action_low)

    def act(observations: Array) -> Array:
        return middle + half * forward(tf.constant(statistics.normalize(observations))).numpy()

    return Acting(act)


def iql(data: Transitions, task: TaskSpec, folder: pathlib.Path, seed: int, python: str) -> Acting:
    """d3rlpy's IQL on the same rows, for ten minutes of one core."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "policy.npz").exists():
        peers.write_rows(folder / "rows.npz", data, task)
        script = ROOT / "benchmarks" / "robustness" / "peer_training.py"
        words = [f"--minutes={IQL_MINUTES}", f"--seed={seed}"]
        subprocess.run([python, str(script), "iql", str(folder), *words], check=True)
    policy = peers.read_policy(folder / "policy.npz", task)
    generator = np.random.default_rng(0)
    return Acting(lambda observations: policy.act(observations, generator, False))


def summarized(run: pathlib.Path) -> dict[str, Any]:
    """What a record keeps of a run's own summary."""
    told = json.loads((run / "summary.json").read_text())
    return {key: told[key] for key in ("promise", "wall_seconds")} | {
        "verdict": told["verdict"]["level"]
    }


def numbers(judged: closed_loop.Judged) -> dict[str, Any]:
    """What a record keeps."""
    return {
        "return": float(judged.returns.mean()),
        "return_std": float(judged.returns.std(ddof=1)),
        "trips": judged.trips,
        "episodes": len(judged.returns),
    }


def broken(judged: closed_loop.Judged, limits: pathlib.Path) -> dict[str, float]:
    """Shares of the steps that break the limits of a description; as instruments show them.

    Args:
      judged: the episodes.
      limits: a plant's .toml.

    Returns:
      By signal with a limit, how many of the steps lie beyond it, and by how much the worst; by action
      with a rate, how many moves are faster, and the fastest of all, per step.
    """
    described = tomllib.loads(limits.read_text())
    found: dict[str, float] = {}
    for at, signal in enumerate(described["observations"]):
        if not {"low", "high"} & set(signal):
            continue
        values = judged.measured[..., at]
        values = values[np.isfinite(values)]
        low, high = signal.get("low", -np.inf), signal.get("high", np.inf)
        beyond = np.maximum(low - values, values - high)
        found[f"{signal['name']}_beyond"] = float((beyond > 0.0).mean())
        found[f"{signal['name']}_worst"] = float(max(beyond.max(), 0.0))
    for at, signal in enumerate(described["actions"]):
        if "max_rate" not in signal:
            continue
        moves = np.abs(np.diff(judged.actions[..., at], axis=0))
        moves = moves[np.isfinite(moves)]
        most = signal["max_rate"] * described["step_seconds"]
        found[f"{signal['name']}_too_fast"] = float((moves > most * (1.0 + 1e-4)).mean())
        found[f"{signal['name']}_fastest"] = float(moves.max())
    return found


def main() -> None:
    """See the module's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("plant", choices=PLANTS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--what", default=",".join(ALGORITHMS))
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--peers_python", default="")
    arguments = parser.parse_args()
    plant: Any = importlib.import_module(f"examples.{arguments.plant}")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{arguments.plant}.csv"
    if not log.exists():
        plant.write_log(log)
    limits = plant.DESCRIPTION.with_stem(f"{arguments.plant}-limits")
    path = ROOT / "results" / "plants" / f"{arguments.plant}.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    task = plant_file.read(plant.DESCRIPTION)
    data = functools.cache(lambda: plant_logs.read([log], task))

    def note(
        name: str,
        make: Callable[[], closed_loop.Controller],
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        if name in rows:
            return
        judged = plant.judge(make())
        counted = broken(judged, limits) if limits.exists() else {}
        rows[name] = numbers(judged) | counted | more() | {"commit": provenance.commit()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, rows)
        print(closed_loop.tell(name, judged), flush=True)

    for name, controller in plant.controllers().items():
        note(name, functools.partial(lambda made: made, controller))
    wanted = arguments.what.split(",")
    for seed in map(int, arguments.seeds.split(",")):
        if "bc" in wanted:
            at = folder / f"{arguments.plant}-bc-seed{seed}"
            note(f"bc seed {seed}", functools.partial(cloned, data(), task, at, seed))
        if "iql" in wanted and arguments.peers_python:
            at, python = folder / f"{arguments.plant}-iql-seed{seed}", arguments.peers_python
            note(f"iql seed {seed}", functools.partial(iql, data(), task, at, seed, python))
        ours = [(name, arguments.plant) for name in TRAINING if name in wanted]
        if LIMITED in wanted and limits.exists():
            ours += [(name, limits.stem) for name in TRAINING if name in wanted]
        for algorithm, described in ours:
            make = functools.partial(trained, algorithm, described, log, seed)
            added = " limited" if described != arguments.plant else ""
            name = f"{algorithm}{added} seed {seed}"
            run = folder / f"{described}-{algorithm}-seed{seed}"
            note(name, make, functools.partial(summarized, run))


if __name__ == "__main__":
    main()
