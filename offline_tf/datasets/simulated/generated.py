"""Data that a run makes for itself with a shipped behaviour policy, kept in a cache folder."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shlex
import sys
from typing import Any

import numpy as np
from absl import logging

from offline_tf import tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.simulated import collection
from offline_tf.numerics import seeds
from offline_tf.numerics.large_columns import cache_folder
from offline_tf.policies import foreign
from offline_tf.policies import gaussian as policy_file
from offline_tf.run_folder import files, locks, stopping
from offline_tf.run_folder.progress import Progress
from offline_tf.tasks import environments
from offline_tf.types import EnvironmentSpec, TaskSpec, Transitions, UserError

_QUALITIES = {  # kind -> which of a robot's shipped policies it is made with
    "mixed-ours": ("medium",),
    "medium-ours": ("medium",),
    "expert-ours": ("expert",),
    "medium-expert-ours": ("medium", "expert"),
}


def make(
    path: pathlib.Path,
    *,
    task: TaskSpec,
    physics: str,
    exploration: str,
    num_steps: int,
    seed: int,
    stochastic: bool,
    policy_path: pathlib.Path,
    threads: int,
    normalizer: pathlib.Path | None = None,
) -> collection.Collected:
    """Collects a data set and writes it to `path` in D4RL's layout.

    Raises:
      UserError: the behaviour policy is missing.
    """
    progress = Progress("making data")
    policy, about = (
        (None, {}) if exploration == "random" else foreign.load(policy_path, task, normalizer)
    )
    collected = collection.collect(
        task,
        physics=physics,
        policy=policy,
        exploration=exploration,
        num_steps=num_steps,
        seed=seed,
        stochastic=stochastic,
        threads=threads,
        progress=lambda done: progress.tell(done, num_steps, "steps"),
    )
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
    extra = {"infos/action_log_probs": collected.log_probs, "infos/component": collected.components}
    d4rl.write(path, collected.transitions, extra, attributes)
    return collected


def load_or_make(
    task: TaskSpec,
    *,
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
    name = f"{stem(task, physics)}-{exploration}-{num_steps}-seed{seed}"
    shipped = policy_file.shipped(task.name)
    return cached(
        name,
        shipped=shipped,
        task=task,
        physics=physics,
        exploration=exploration,
        num_steps=num_steps,
        seed=seed,
        data_dir=data_dir,
        threads=threads,
    )


def stem(task: TaskSpec, physics: str) -> str:
    """What data of a task are called in the cache: another simulator's data are other data."""
    physics_name = environments.physics_of(task, physics).partition(" ")[0]
    name = f"{tasks.short_name(task.name)}-{physics_name}"
    if not isinstance(task.simulation, EnvironmentSpec):
        return name
    # Plants of two modules may have one name.
    identity = f"{task.name} {task.simulation}"
    return f"{name}-{hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()}"


def check(task: TaskSpec, *, kind: str = "", exploration: str = "") -> None:
    """Checks, without reading or making anything, that data can be made.

    Args:
      task: whose data.
      kind: one of names.OUR_KINDS; empty: the task's own policy with `exploration`.
      exploration: see `collection.collect`.

    Raises:
      UserError: the task has no simulator or no shipped policy of that kind.
    """
    if kind == "random-ours" or exploration == "random":
        _check_can_be_made(task, None)
        return
    names = [f"{task.name}-{quality}" for quality in _QUALITIES[kind]] if kind else [task.name]
    for name in names:
        _check_can_be_made(task, policy_file.shipped(name))


def _check_can_be_made(task: TaskSpec, policy: pathlib.Path | None) -> None:
    """Raises where there is no simulator, or not the policy's file; None needs no file."""
    if task.simulation is None or not (policy is None or policy.exists()):
        raise UserError(
            f"--dataset: --env={task.name} has no simulator or no shipped behaviour policy to "
            "make data with; give an HDF5 file with --dataset"
        )


def cached(
    name: str,
    *,
    shipped: pathlib.Path,
    task: TaskSpec,
    physics: str,
    exploration: str,
    num_steps: int,
    seed: int,
    data_dir: str,
    threads: int,
) -> tuple[Transitions, str]:
    """Reads NAME from the cache folder, or makes it with the policy in `shipped`.

    Args:
      name: of the file, less what tells the policies of two versions apart.
      shipped: the behaviour policy, which draws its actions.
      task, physics, exploration, num_steps, seed, threads: see `collection.collect`.
      data_dir: see `large_columns.cache_folder`.

    Returns:
      The transitions and the name.

    Raises:
      UserError: the task has no simulator, or there is no such policy.
    """
    # A changed behaviour policy must not be answered with the old one's data.
    tag = ""
    if exploration != "random" and shipped.exists():
        tag = "-" + hashlib.blake2b(shipped.read_bytes(), digest_size=4).hexdigest()
    path = cache_folder(data_dir) / f"{name}{tag}.hdf5"
    if not path.exists():
        _check_can_be_made(task, None if exploration == "random" else shipped)
        files.check_writable(path, "data_dir")
        with locks.held(path.with_suffix(".lock")):  # somebody else may be making it
            if not path.exists():
                logging.info("making %s: %d steps in the simulator", path, num_steps)
                make(
                    path,
                    task=task,
                    physics=physics,
                    exploration=exploration,
                    num_steps=num_steps,
                    seed=seed,
                    stochastic=True,
                    policy_path=shipped,
                    threads=threads,
                )
    return d4rl.read(path, task.state_dim), name


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
    """Reads data of one of D4RL's kinds from the cache folder, or makes it first and says so.

    random: uniform actions. expert: the final policy of an online training of fixed length, acting
    stochastically. medium: its first checkpoint at a third of the expert's return. mixed: whole
    episodes of that training up to the medium checkpoint. medium-expert: both, twice the steps.

    Args:
      task, physics: the robot.
      kind: one of names.OUR_KINDS.
      num_steps: rows (mixed: at most).
      seed: of the collection.
      data_dir: see `large_columns.cache_folder`.
      threads: of the simulators.

    Returns:
      The transitions and the data set's name, such as hopper-medium-ours.

    Raises:
      UserError: the task has no simulator or no shipped policy of that kind.
    """
    name = f"{task.name}-{kind}"
    common: dict[str, Any] = {
        "physics": physics,
        "num_steps": num_steps,
        "seed": seed,
        "data_dir": data_dir,
        "threads": threads,
    }
    if kind == "random-ours":
        return load_or_make(task, exploration="random", **common)[0], name
    if kind == "medium-expert-ours":
        medium, _ = load_or_make_kind(task, kind="medium-ours", **common)
        expert, _ = load_or_make_kind(task, kind="expert-ours", **common)
        return joined(medium, expert), name
    (quality,) = _QUALITIES[kind]
    shipped = policy_file.shipped(f"{task.name}-{quality}")
    if kind == "mixed-ours":
        training_data = _training_transitions(task, physics, shipped, data_dir)
        return whole_episodes(training_data, num_steps, seed), name
    cached_name = f"{stem(task, physics)}-{kind}-{num_steps}-seed{seed}"
    data, _ = cached(cached_name, shipped=shipped, task=task, exploration="pure", **common)
    return data, name


def joined(first: Transitions, second: Transitions) -> Transitions:
    """Two data sets one after the other; the last row of the first ends its episode."""
    timeouts = first.timeouts.copy()
    timeouts[-1] |= not first.terminals[-1]
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(Transitions):
        a, b = getattr(first, field.name), getattr(second, field.name)
        a = timeouts if field.name == "timeouts" else a
        columns[field.name] = None if a is None or b is None else np.concatenate([a, b])
    return Transitions(**columns)


def whole_episodes(data: Transitions, num_steps: int, seed: int) -> Transitions:
    """A random choice of whole episodes with at most num_steps rows, in random order.

    Episodes that neither terminated nor lasted the longest there is were cut by the end of the
    recording; they are left out.
    """
    bounds = data.episode_bounds()
    lengths = bounds[:, 1] - bounds[:, 0]
    is_whole = data.terminals[bounds[:, 1] - 1] | (lengths == lengths.max())
    order = seeds.generator(seed, "made/whole_episodes").permutation(np.flatnonzero(is_whole))
    order = order[np.cumsum(lengths[order]) <= num_steps]
    rows = np.concatenate([np.arange(*bounds[i]) for i in order])
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(Transitions):
        values = getattr(data, field.name)
        columns[field.name] = None if values is None else values[rows]
    return Transitions(**columns)


def _training_transitions(
    task: TaskSpec, physics: str, shipped: pathlib.Path, data_dir: str
) -> Transitions:
    """All transitions seen until the medium policy was there; trains again where they are missing.

    The command stands in the policy's file; it runs as a process of its own.
    """
    _, about = policy_file.load(shipped)
    tag = hashlib.blake2b(shipped.read_bytes(), digest_size=4).hexdigest()
    path = cache_folder(data_dir) / f"{task.name}-{physics}-training-{tag}.hdf5"
    if not path.exists():
        if about.get("physics", physics) != physics:
            raise UserError(f"--physics: {shipped.name} was trained with {about['physics']}")
        command = [*shlex.split(about["command"])[1:], f"--save_transitions={path.resolve()}"]
        command.append(f"--workdir={path.with_suffix('').resolve()}-run")
        files.check_writable(path, "data_dir")
        with locks.held(path.with_suffix(".lock")):
            if not path.exists():
                logging.info("making %s: python %s", path, shlex.join(command))
                if stopping.run_command([sys.executable, *command]):
                    raise UserError(f"--dataset: python {shlex.join(command)} failed; see above")
    return d4rl.read(path, task.state_dim)
