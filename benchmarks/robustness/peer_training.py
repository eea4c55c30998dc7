"""Trains an algorithm of d3rlpy for some minutes of CPU time; needs d3rlpy, nothing of this project.

PYTHON benchmarks/robustness/peer_training.py iql FOLDER --minutes=20 --seed=0 reads FOLDER/rows.npz and
writes FOLDER/policy.npz: the last policy, not the best one. Settings are the library's defaults, but
observations are standardised, and IQL's rewards are scaled by the range of returns as in its paper.

Differs: minibatches are gathered from arrays, and the last step before a timeout is used. d3rlpy's
replay buffer picks rows one by one in Python and drops that step.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.dataset import TransitionMiniBatch

BATCH = 256
_STEPS_PER_LOOK, _SECONDS_PER_CHECKPOINT = 100, 60.0
_CHECKPOINT, _PROGRESS = "algo.d3", "progress.json"
CONFIGS = {
    "iql": d3rlpy.algos.IQLConfig,
    "td3bc": d3rlpy.algos.TD3PlusBCConfig,
    "cql": d3rlpy.algos.CQLConfig,
}


def make(algorithm: str, rows: dict[str, np.ndarray]) -> Any:
    """The algorithm, its networks built."""
    mean = rows["observations"].mean(axis=0)
    std = rows["observations"].std(axis=0)
    scaler = d3rlpy.preprocessing.StandardObservationScaler(mean=mean, std=std)
    made = CONFIGS[algorithm](observation_scaler=scaler, batch_size=BATCH).create(device="cpu")
    made.create_impl(rows["observations"].shape[1:], rows["actions"].shape[1])
    return made


def batch(rows: dict[str, np.ndarray], chosen: np.ndarray) -> TransitionMiniBatch:
    """Rows as d3rlpy takes them; none of the three algorithms reads the next action."""
    actions = rows["actions"][chosen]
    return TransitionMiniBatch(
        observations=rows["observations"][chosen],
        actions=actions,
        rewards=rows["rewards"][chosen, None],
        next_observations=rows["next_observations"][chosen],
        next_actions=actions,
        terminals=rows["terminals"][chosen, None],
        intervals=np.ones((len(chosen), 1), np.float32),
        transitions=[],
    )


def save_policy(path: pathlib.Path, algo: Any) -> None:
    """Writes kernels and biases; the action is tanh of the last layer, ReLU between the others."""
    parts = dict(algo.impl.policy.named_children())
    hidden = [x for x in parts["_encoder"].modules() if isinstance(x, torch.nn.Linear)]
    last = parts["_fc"] if "_fc" in parts else parts["_mu"]
    arrays = {}
    for index, layer in enumerate([*hidden, last]):
        arrays[f"kernel_{index}"] = layer.weight.detach().numpy().T
        arrays[f"bias_{index}"] = layer.bias.detach().numpy()
    scaler = algo.config.observation_scaler
    states = np.random.default_rng(0).normal(scaler.mean, scaler.std, (8, len(scaler.mean)))
    states = states.astype(np.float32)
    checks = {"states": states, "actions": algo.predict(states)}
    partial = path.with_name("partial.npz")
    np.savez(partial, shift=scaler.mean, scale=scaler.std + scaler.eps, **arrays, **checks)
    partial.replace(path)


def save(folder: pathlib.Path, algo: Any, progress: dict[str, Any]) -> None:
    """Keeps the state; a kill leaves weights that are at most newer than the progress."""
    partial = folder / f"{_CHECKPOINT}.partial"
    algo.save_model(str(partial))
    partial.replace(folder / _CHECKPOINT)
    (folder / _PROGRESS).write_text(json.dumps(progress))
    print(json.dumps(progress), flush=True)


def main() -> None:
    """Trains; goes on from the last checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("algorithm", choices=sorted(CONFIGS))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    d3rlpy.seed(arguments.seed)
    with np.load(arguments.folder / "rows.npz") as file:
        rows = {name: file[name] for name in file.files}
    if arguments.algorithm == "iql":
        returns = rows.pop("returns")
        rows["rewards"] = rows["rewards"] * np.float32(1000.0 / max(np.ptp(returns), 1e-6))
    algo, progress = make(arguments.algorithm, rows), {"steps": 0, "seconds": 0.0}
    if (arguments.folder / _PROGRESS).exists():
        algo.load_model(str(arguments.folder / _CHECKPOINT))
        progress = json.loads((arguments.folder / _PROGRESS).read_text())
    before, began = progress["seconds"], time.process_time()
    generator = np.random.default_rng([arguments.seed, progress["steps"]])
    saved, wanted = before, 60.0 * arguments.minutes
    while progress["seconds"] < wanted:
        for _ in range(_STEPS_PER_LOOK):
            algo.update(batch(rows, generator.integers(len(rows["rewards"]), size=BATCH)))
        progress["steps"] += _STEPS_PER_LOOK
        progress["seconds"] = before + time.process_time() - began
        if progress["seconds"] - saved > _SECONDS_PER_CHECKPOINT:
            saved = progress["seconds"]
            save(arguments.folder, algo, progress)
    save(arguments.folder, algo, progress)
    save_policy(arguments.folder / "policy.npz", algo)


if __name__ == "__main__":
    main()
