"""Data that a run makes for itself with a shipped behaviour policy, kept in a cache folder."""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys
from typing import Any

from absl import logging

from offline_tf import policy as policy_file
from offline_tf.datasets import collection, d4rl
from offline_tf.types import TaskSpec, Transitions, UserError


def cache_folder(data_dir: str) -> pathlib.Path:
    """--data_dir, else $OFFLINE_TF_DATA, else ~/.cache/offline_tf."""
    chosen = data_dir or os.environ.get("OFFLINE_TF_DATA", "")
    return pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache" / "offline_tf"


def show_progress(done: int, total: int, rate: float) -> None:
    """A progress line that rewrites itself on a terminal, and is silent elsewhere."""
    if sys.stderr.isatty():
        filled = int(30 * done / total)
        bar = "#" * filled + "." * (30 - filled)
        left = (total - done) / max(rate, 1e-9)
        sys.stderr.write(f"\r[{bar}] {done}/{total} steps, {rate:.0f}/s, {left:.0f} s left ")
        sys.stderr.flush()


def make(
    path: pathlib.Path,
    task: TaskSpec,
    physics: str,
    exploration: str,
    num_steps: int,
    seed: int,
    stochastic: bool,
    policy_path: pathlib.Path,
    threads: int,
) -> collection.Collected:
    """Collects a data set and writes it to `path` in D4RL's layout.

    Raises:
      UserError: the behaviour policy is missing.
    """
    policy, about = (None, {}) if exploration == "random" else policy_file.load(policy_path)
    made = collection.collect(
        task,
        physics,
        policy,
        exploration,
        num_steps,
        seed,
        stochastic,
        threads=threads,
        progress=show_progress,
    )
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    attributes: dict[str, Any] = {
        "task": task.name,
        "physics": physics,
        "exploration": exploration,
        "num_steps": num_steps,
        "seed": seed,
        "behavior_actions": "stochastic" if stochastic else "mean",
        "behavior_policy": policy_path.name if policy is not None else "none",
        "behavior_policy_return": about.get("mean_return", float("nan")),
        "components": ",".join(collection.COMPONENTS),
    }
    extra = {"infos/action_log_probs": made.log_probs, "infos/component": made.components}
    d4rl.write(path, made.transitions, extra, attributes)
    return made


def load_or_make(
    task: TaskSpec,
    physics: str,
    exploration: str,
    num_steps: int,
    seed: int,
    data_dir: str,
    threads: int,
) -> tuple[Transitions, str]:
    """Reads the data set from the cache folder, or makes it first and says so.

    Returns:
      The transitions and the data set's name.

    Raises:
      UserError: the task has no simulator or no shipped behaviour policy.
    """
    name = f"{task.name}-{physics}-{exploration}-{num_steps}-seed{seed}"
    shipped = policy_file.shipped(task.name)
    # A changed behaviour policy must not be answered with the old one's data.
    tag = ""
    if exploration != "random" and shipped.exists():
        tag = "-" + hashlib.blake2b(shipped.read_bytes(), digest_size=4).hexdigest()
    path = cache_folder(data_dir) / f"{name}{tag}.hdf5"
    if not path.exists():
        if task.simulation is None or not (shipped.exists() or exploration == "random"):
            raise UserError(
                f"--dataset: --env={task.name} has no simulator or no shipped behaviour policy to "
                "make data with; give an HDF5 file with --dataset"
            )
        logging.info("making %s: %d steps in the simulator", path, num_steps)
        make(path, task, physics, exploration, num_steps, seed, True, shipped, threads)
    return d4rl.read(path, task.state_dim), name
