"""A training's checkpoints: what each earns, and which are as good as D4RL's policies."""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.robustness import simulate
from offline_tf.datasets.simulated import sac_kinds
from offline_tf.policies import foreign
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec, UserError

EPISODES = 20
TOLERANCE = 0.1


class Training(NamedTuple):
    """Files of `benchmarks.robustness.train_policy`.

    Attributes:
      checkpoints: number of steps -> zip file, in order.
      buffer: the replay buffer of `steps` steps.
      steps: that the buffer was saved after.
      every: steps between checkpoints.
    """

    checkpoints: dict[int, pathlib.Path]
    buffer: pathlib.Path
    steps: int
    every: int


class Worth(NamedTuple):
    """What a checkpoint earns, over episodes in our simulator with v2 physics.

    Attributes:
      steps: of training.
      mean, std: returns with drawn actions, as in D4RL's data; the spread is over episodes (n - 1).
      mean_of_mean_actions: the mean return of the mean action.
      episodes: of each.
      file_hash: of the zip file.
    """

    steps: int
    mean: float
    std: float
    mean_of_mean_actions: float
    episodes: int
    file_hash: str


class Pick(NamedTuple):
    """A checkpoint that stands for one of D4RL's policies.

    Attributes:
      worth: of the checkpoint.
      target: the published mean return.
      matches: whether the checkpoint earns that within the tolerance.
    """

    worth: Worth
    target: float
    matches: bool


def find(folder: pathlib.Path, env: str, seed: int) -> Training:
    """Finds a training's files.

    Args:
      folder: train_policy's --output.
      env: the robot.
      seed: of the training.

    Raises:
      UserError: there are no checkpoints, or no replay buffer.
    """
    start = f"SAC-{sac_kinds.ENVIRONMENTS[env]}-{sac_kinds.PHYSICS}"
    name = re.compile(rf"{re.escape(start)}-(\d+)-seed{seed}\.zip")
    matches = [m for path in folder.glob(f"{start}-*.zip") if (m := name.fullmatch(path.name))]
    found = {int(match[1]): folder / match.string for match in matches}
    if not found:
        raise UserError(
            f"--training: expected checkpoints {start}-STEPS-seed{seed}.zip in {folder}, found none; "
            "train with benchmarks.robustness.train_policy"
        )
    buffer = folder / f"{start}-buffer-seed{seed}.pkl"
    if not buffer.exists():
        raise UserError(
            f"--training: expected {buffer}, found none; train with --keep-buffer, which saves it"
        )
    told = files.read_json(buffer.with_suffix(".json"), "training")
    steps = sorted(found)
    every = min((b - a for a, b in zip(steps[:-1], steps[1:], strict=True)), default=steps[0])
    return Training({n: found[n] for n in steps}, buffer, int(told["steps"]), every)


def judge(
    training: Training,
    task: TaskSpec,
    *,
    known: Sequence[Worth] = (),
    episodes: int = EPISODES,
    threads: int = 1,
    tell: Callable[[Worth], None] = lambda worth: None,
) -> list[Worth]:
    """Runs episodes of every checkpoint; all have the same start states.

    Args:
      training: whose checkpoints.
      task: the robot.
      known: what was found before; a checkpoint of the same file is not run again.
      episodes: of each checkpoint, with drawn actions and with mean actions.
      threads: of the simulators.
      tell: called with each as it is found.
    """
    before = {(one.file_hash, one.episodes): one for one in known}
    found = []
    for steps, path in training.checkpoints.items():
        file_hash = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        worth = before.get((file_hash, episodes))
        if worth is None:
            policy = foreign.read_sb3(path, task)
            drawn, mean = (
                earned(policy, task, stochastic, episodes, threads=threads)
                for stochastic in (True, False)
            )
            std, of_mean = float(drawn.std(ddof=1)), float(mean.mean())
            worth = Worth(steps, float(drawn.mean()), std, of_mean, episodes, file_hash)
            tell(worth)
        found.append(worth)
    return found


def earned(
    policy: foreign.MlpPolicy,
    task: TaskSpec,
    stochastic: bool,
    episodes: int,
    *,
    seed: int = 0,
    threads: int = 1,
) -> Array:
    """Returns [E] of a policy with drawn actions, or with mean ones; see `simulate.returns`."""
    return simulate.returns(
        lambda observations, generator: policy.act(observations, generator, stochastic),
        task=task,
        physics=sac_kinds.PHYSICS,
        episodes=episodes,
        seed=seed,
        threads=threads,
    )


def medium(found: Sequence[Worth], target: float, tolerance: float = TOLERANCE) -> Pick:
    """The first checkpoint whose mean return is that of D4RL's medium set, within the tolerance.

    The first, as D4RL stopped its training early: the replay set ends there.

    Args:
      found: of all checkpoints.
      target: the published mean return.
      tolerance: share of the target by which the mean return may differ.

    Raises:
      UserError: there is none.
    """
    for worth in found:
        if abs(worth.mean - target) <= tolerance * abs(target):
            return Pick(worth, target, True)
    nearest = _nearest(found, target, tolerance).worth
    raise UserError(
        f"--training: expected a checkpoint that earns {target:g} within {tolerance:.0%}, as D4RL's "
        f"medium set does; the nearest earns {nearest.mean:.0f} after {nearest.steps} steps; train "
        "longer, keep more checkpoints, or give --tolerance"
    )


def expert(found: Sequence[Worth], target: float, tolerance: float = TOLERANCE) -> Pick:
    """The checkpoint whose mean return is nearest to that of D4RL's expert set, else the last.

    Where none matches the target, the best of many would be taken for its luck in these episodes.
    Arguments as in `medium`.
    """
    pick = _nearest(found, target, tolerance)
    return pick if pick.matches else Pick(found[-1], target, False)


def _nearest(found: Sequence[Worth], target: float, tolerance: float) -> Pick:
    worth = min(found, key=lambda one: abs(one.mean - target))
    return Pick(worth, target, abs(worth.mean - target) <= tolerance * abs(target))
