"""From picked checkpoints and a replay buffer to shipped policies, data sets and their statistics."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np

from benchmarks import published
from benchmarks.d4rl_recipe import checkpoints
from benchmarks.d4rl_recipe.checkpoints import Pick, Training
from benchmarks.robustness import ship_policy
from offline_tf.datasets import sources
from offline_tf.datasets.formats import d4rl, replay_buffer
from offline_tf.datasets.simulated import sac_kinds
from offline_tf.numerics.large_columns import cache_folder
from offline_tf.policies import foreign
from offline_tf.run_folder import files
from offline_tf.types import Array, TaskSpec, Transitions

EPISODES = 100  # of a shipped policy; others than those it was picked by
_EPISODES_SEED = 1
SETS = {  # kind -> D4RL's
    "random-ours": "random",
    "medium-sac": "medium",
    "expert-sac": "expert",
    "medium-expert-sac": "medium-expert",
    "medium-replay-sac": "medium-replay",
    "full-replay-sac": "full-replay",
}


class Set(NamedTuple):
    """A data set beside D4RL's.

    Attributes:
      name: such as hopper-medium-sac.
      mean, std: of the returns of whole episodes; the spread is over episodes (n), as quoted. None
        where no episode is whole, as in a replay set of a few steps.
      episodes: whole ones.
      steps: rows, also of episodes that were cut.
      quoted: D4RL's; None where nothing is known.
    """

    name: str
    mean: float | None
    std: float | None
    episodes: int
    steps: int
    quoted: published.Statistics | None

    @property
    def ratio(self) -> float | None:
        """Mean return, as a share of D4RL's."""
        if self.quoted is None or self.mean is None:
            return None
        return self.mean / self.quoted.mean


def ship(
    pick: Pick,
    kind: str,
    *,
    training: Training,
    interrupted_after: tuple[int, ...],
    task: TaskSpec,
    threads: int,
) -> dict[str, Any]:
    """Writes a picked checkpoint as the policy of medium-sac or expert-sac.

    Args:
      pick: the checkpoint.
      kind: of data.
      training: where it is from.
      interrupted_after: steps; the training's command draws other numbers from there on.
      task: the robot.
      threads: of the simulators.

    Returns:
      What the file says of itself. Its mean return is that of 100 other episodes, with drawn actions.
    """
    path = training.checkpoints[pick.worth.steps]
    policy = foreign.read_sb3(path, task)
    about = ship_policy.about(path, training.every, policy.hidden_widths)
    drawn, mean = (
        checkpoints.earned(policy, task, stochastic, EPISODES, seed=_EPISODES_SEED, threads=threads)
        for stochastic in (True, False)
    )
    which = "first with the" if SETS[kind] == "medium" else "nearest to the"
    target = f"mean return of D4RL's {task.name}-{SETS[kind]}-v2, {pick.target:g} (quoted)"
    about |= {
        "command": f"{about['command']} --keep-buffer",
        "interrupted_after": [steps for steps in interrupted_after if steps < pick.worth.steps],
        "mean_return": float(drawn.mean()),
        "std_return": float(drawn.std(ddof=1)),
        "mean_return_of_mean_actions": float(mean.mean()),
        "picked": {
            "by": f"{which} {target}" if pick.matches else f"the last; none has the {target}",
            "of_checkpoints": len(training.checkpoints),
            "mean_return_then": pick.worth.mean,
            "episodes_then": pick.worth.episodes,
        },
    }
    foreign.save_mlp(sac_kinds.policy_path(task.name, kind), policy, about)
    return about


def write_replay(
    kind: str,
    steps: int,
    *,
    training: Training,
    task: TaskSpec,
    about: dict[str, Any],
    data_dir: str,
) -> None:
    """Writes a replay set into the cache folder.

    Args:
      kind: medium-replay-sac or full-replay-sac.
      steps: of training that it holds.
      training: whose buffer.
      task: the robot.
      about: what a policy of the training says of itself, see `ship`.
      data_dir: see `large_columns.cache_folder`.

    Raises:
      UserError: the buffer cannot be read or has fewer steps, or the folder cannot be written to.
    """
    recorded = replay_buffer.read(training.buffer, task, steps)
    attributes = {
        "task": task.name,
        "physics": about["physics"],
        "num_steps": steps,
        "training": about["command"].replace(f"--steps={about['steps']}", f"--steps={steps}"),
        "interrupted_after": np.array(recorded.interrupted_after, np.int64),
    }
    path = sac_kinds.replay_file(task, kind, data_dir)
    files.check_writable(path, "data_dir")
    d4rl.write(path, recorded.transitions, attributes=attributes)


def whole_returns(data: Transitions, longest: int) -> Array:
    """Returns [E] of the episodes that ended in a terminal state or at the time limit."""
    bounds = data.episode_bounds()
    lengths = bounds[:, 1] - bounds[:, 0]
    return data.episode_returns()[data.terminals[bounds[:, 1] - 1] | (lengths >= longest)]


def measure(
    kind: str, *, task: TaskSpec, steps: int, seed: int, data_dir: str, threads: int
) -> Set:
    """Reads a data set, or makes it first, and measures it.

    Args:
      kind: one of SETS.
      task: the robot.
      steps, seed: of data that are collected.
      data_dir: see `large_columns.cache_folder`.
      threads: of the simulators.
    """
    data, name = sources.load_named(
        kind,
        task=task,
        physics=sac_kinds.PHYSICS,
        steps=steps,
        seed=seed,
        data_dir=data_dir,
        threads=threads,
    )
    returns = whole_returns(data, task.max_episode_steps)
    quoted = published.D4RL_DATA[task.name].get(SETS[kind])
    mean, std = (float(returns.mean()), float(returns.std())) if len(returns) else (None, None)
    return Set(name, mean, std, len(returns), len(data), quoted)


def record_file(env: str, data_dir: str) -> pathlib.Path:
    """Where the returns of all checkpoints lie, beside the data."""
    return cache_folder(data_dir) / f"{env}-sac-checkpoints.json"


def row(found: Set) -> str:
    """A line of the Markdown table."""
    quoted, ratio = found.quoted, found.ratio
    theirs = "- | -"
    if quoted is not None:
        rows = "-" if quoted.steps is None else f"{quoted.steps:,}"
        theirs = f"{quoted.mean:.0f} +- {quoted.std:.0f} | {rows}"
    ours = "-" if found.mean is None else f"{found.mean:.0f} +- {found.std:.0f}"
    return (
        f"| {found.name} | {found.steps:,} | {found.episodes} | {ours} | "
        f"{theirs} | {'-' if ratio is None else format(ratio, '.2f')} |"
    )


HEADER = (
    "| data | rows | episodes | mean return | D4RL's (quoted) | D4RL's rows (quoted) | ratio |\n"
    "|---|---|---|---|---|---|---|"
)
