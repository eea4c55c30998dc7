"""Data by D4RL's recipe: policies of a training with SAC, and what that training saw.

Medium is a checkpoint that earns what D4RL's medium set does, expert one that earns what its expert set
does; both draw their actions. A replay set is the training's replay buffer. `benchmarks.d4rl_recipe`
picks the checkpoints and writes the replay sets.

Source: Fu et al. 2020 (D4RL), and its files of Gym's robots, version 2.

Differs: D4RL trained with rlkit's SAC; these trainings are Stable-Baselines3's.
"""

from __future__ import annotations

import pathlib
from typing import Any

from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.names import REPLAY_KINDS
from offline_tf.datasets.simulated import generated
from offline_tf.numerics.large_columns import cache_folder
from offline_tf.policies import gaussian as policy_file
from offline_tf.types import TaskSpec, Transitions, UserError

PHYSICS = "v2"
ENVIRONMENTS = {"hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "halfcheetah": "HalfCheetah-v4"}
_PARTS = {"medium-expert-sac": ("medium-sac", "expert-sac")}


def policy_path(env: str, kind: str) -> pathlib.Path:
    """Where the policy of medium-sac or expert-sac lies: shipped with the package."""
    return policy_file.shipped(f"{env}-{kind}")


def replay_file(task: TaskSpec, kind: str, data_dir: str) -> pathlib.Path:
    """Where a replay set lies; see `large_columns.cache_folder`."""
    return cache_folder(data_dir) / f"{task.name}-{kind}.hdf5"


def check(task: TaskSpec, *, physics: str, kind: str, data_dir: str) -> None:
    """Checks, without reading or making anything, that data of a kind can be had.

    Args:
      task, physics: the robot.
      kind: one of names.SAC_KINDS.
      data_dir: see `large_columns.cache_folder`.

    Raises:
      UserError: other physics, another task, no shipped policy, or no replay set.
    """
    if task.name not in ENVIRONMENTS:
        raise UserError(
            f"--dataset={kind}: expected --env={', '.join(ENVIRONMENTS)}, got --env={task.name}"
        )
    if physics != PHYSICS:
        raise UserError(
            f"--dataset={kind}: expected --physics={PHYSICS}, where its policies were trained, got "
            f"{physics}"
        )
    for part in _PARTS.get(kind, (kind,)):
        is_replay = part in REPLAY_KINDS
        path = replay_file(task, part, data_dir) if is_replay else policy_path(task.name, part)
        if not path.exists():
            raise UserError(
                f"--dataset={kind}: expected {path}, found none; {_how_to_make(task.name, data_dir)}"
            )


def _how_to_make(env: str, data_dir: str) -> str:
    folder = data_dir and f" --data_dir={data_dir}"
    return (
        "train with `python -m benchmarks.robustness.train_policy SAC "
        f"{ENVIRONMENTS[env]} --physics={PHYSICS} --steps=1000000 --every=10000 --keep-buffer "
        "--actor=256,256 --output=FOLDER`, then run `python -m benchmarks.d4rl_recipe "
        f"{env} --training=FOLDER{folder}`"
    )


def load_or_make_kind(
    task: TaskSpec,
    *,
    physics: str,
    kind: str,
    num_steps: int,
    seed: int,
    data_dir: str,
    threads: int,
) -> tuple[Transitions, str]:
    """Reads data of a kind from the cache folder; medium and expert are made where they are missing.

    Args:
      task, physics: the robot.
      kind: one of names.SAC_KINDS.
      num_steps: rows of medium and of expert; a replay set has its training's.
      seed: of the collection.
      data_dir: see `large_columns.cache_folder`.
      threads: of the simulators.

    Returns:
      The transitions and the data set's name, such as hopper-medium-sac.

    Raises:
      UserError: see `check`.
    """
    check(task, physics=physics, kind=kind, data_dir=data_dir)
    name = f"{task.name}-{kind}"
    if kind in REPLAY_KINDS:
        return d4rl.read(replay_file(task, kind, data_dir), task.state_dim), name
    common: dict[str, Any] = {
        "physics": physics,
        "num_steps": num_steps,
        "seed": seed,
        "data_dir": data_dir,
        "threads": threads,
    }
    if kind in _PARTS:
        medium, expert = (load_or_make_kind(task, kind=part, **common)[0] for part in _PARTS[kind])
        return generated.joined(medium, expert), name
    file = f"{generated.stem(task, physics)}-{kind}-{num_steps}-seed{seed}"
    shipped = policy_path(task.name, kind)
    return generated.cached(file, shipped=shipped, task=task, exploration="pure", **common)[0], name
