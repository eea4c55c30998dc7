"""IQL, TD3+BC and CQL of d3rlpy on the same file, judged in the same episodes.

python -m benchmarks.robustness.peers SET FILE --algorithm=iql --peers_python=PYTHON --workdir=FOLDER

PYTHON is an environment with d3rlpy (requirements-benchmarks.txt). It trains in a process of its own
for --minutes of CPU time on one thread; the final policy comes back as weights.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

from benchmarks.robustness import simulate
from benchmarks.robustness.data_sets import BY_NAME
from offline_tf import tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.policies.foreign import MlpPolicy
from offline_tf.run_folder import provenance
from offline_tf.run_folder.files import write_json
from offline_tf.types import TaskSpec, Transitions

ALGORITHMS = ("iql", "td3bc", "cql")
_TRAINING = pathlib.Path(__file__).parent / "peer_training.py"


def write_rows(path: pathlib.Path, data: Transitions, task: TaskSpec) -> None:
    """What a peer learns from; actions in halves of the bounds' range."""
    np.savez(
        path,
        observations=data.observations,
        actions=task.to_unit(data.actions),
        rewards=data.rewards,
        next_observations=data.next_observations,
        terminals=data.terminals.astype(np.float32),
        returns=data.episode_returns(),
    )


def read_policy(path: pathlib.Path, task: TaskSpec) -> MlpPolicy:
    """Reads a peer's final policy; the standardisation goes into the first layer.

    Raises:
      ValueError: it acts otherwise than it did there.
    """
    with np.load(path, allow_pickle=False) as file:
        named = {name: file[name] for name in file.files}
    count = sum(name.startswith("kernel_") for name in named)
    layers = [(named[f"kernel_{i}"], named[f"bias_{i}"]) for i in range(count)]
    kernel = layers[0][0].astype(np.float64) / named["scale"][:, None]
    bias = layers[0][1] - named["shift"] @ kernel
    layers[0] = kernel.astype(np.float32), bias.astype(np.float32)
    *hidden, last = layers
    policy = MlpPolicy(hidden, last, None, "ReLU", (task.action_low, task.action_high))
    acted = policy.act(named["states"], np.random.default_rng(0), False)
    if not np.allclose(task.to_unit(acted), named["actions"], atol=1e-3):
        raise ValueError(f"{path}: the policy acts otherwise here than in its own library")
    return policy


def main() -> None:
    """Trains, judges, writes summary.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=sorted(BY_NAME))
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--algorithm", choices=ALGORITHMS, required=True)
    parser.add_argument("--peers_python", required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the simulators")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    began, folder = time.monotonic(), arguments.workdir
    data_set = BY_NAME[arguments.set]
    task = tasks.get(data_set.env)
    data = d4rl.read(arguments.file, task.state_dim)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "policy.npz").exists():
        write_rows(folder / "rows.npz", data, task)
        command = [arguments.peers_python, str(_TRAINING), arguments.algorithm, str(folder)]
        command += [f"--minutes={arguments.minutes}", f"--seed={arguments.seed}"]
        if code := subprocess.run(command).returncode:
            sys.exit(code if code > 0 else 130)
    policy = read_policy(folder / "policy.npz", task)
    found = simulate.returns(
        functools.partial(policy.act, stochastic=False),
        task=task,
        physics=data_set.physics,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    steps = json.loads((folder / "progress.json").read_text())["steps"]
    summary = {
        "algorithm": arguments.algorithm,
        "env": task.name,
        "dataset": arguments.file.stem,
        "seed": arguments.seed,
        "commit": provenance.commit(),
        "behavior_return": float(data.episode_returns().mean()),
        "steps": steps,
        "cpu_minutes": arguments.minutes,
        "wall_seconds": time.monotonic() - began,
    }
    write_json(folder / "summary.json", summary | simulate.summary(found))
    (folder / "rows.npz").unlink(missing_ok=True)
    print(json.dumps(simulate.summary(found)))


if __name__ == "__main__":
    main()
