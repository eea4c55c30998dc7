"""python -m offline_tf.collect --env=hopper --exploration=eps1: makes a data set in the simulator."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time

from absl import logging

from flags import schema
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.datasets.names import EXPLORATIONS
from offline_tf.run_folder import files
from offline_tf.types import UserError

USAGE = """
usage: python -m offline_tf.collect --env=hopper --exploration=pure --num_steps=1000000 [flags]

Writes a data set in D4RL's HDF5 layout. Noisy settings are 40 % behaviour policy, 40 % noisy behaviour
policy and 20 % uniform random actions, by episode.
"""
_STEPS_PER_SECOND = 20_000.0  # two cores, a robot of Hopper's size


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Collection."""

    env: str = shared_knobs.env_knob()
    physics: str = shared_knobs.physics_knob()
    simulator: str = shared_knobs.simulator_knob()
    exploration: str = knob(
        "pure",
        "Which mixture.",
        choices=EXPLORATIONS,
        source="MOReL sec. 5",
    )
    num_steps: int = knob(1_000_000, "Transitions.", low=1, source="MOReL sec. 5")
    seed: int = knob(0, "Random seed; the same seed gives the same file on one machine.", low=0)
    behavior_actions: str = knob(
        "stochastic",
        "The behaviour policy draws from its Gaussian, or acts by its mean.",
        choices=("stochastic", "mean"),
    )
    policy: str = knob(
        "",
        "Behaviour policy: a weight file of ours, a zip file of Stable-Baselines3, or the folder of a "
        "SavedModel; empty: the shipped one.",
    )
    policy_normalizer: str = knob(
        "",
        "vecnormalize.pkl of a policy that was trained under VecNormalize; empty: that beside the zip "
        "file, or in the folder of its name.",
    )
    output: str = knob("", "HDF5 file; empty: ENV-PHYSICS-EXPLORATION-STEPS-seedN.hdf5 here.")
    threads: int = shared_knobs.threads_knob()

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)


def _path(config: CollectConfig) -> pathlib.Path:
    """The file to be made.

    Raises:
      UserError: it is there already, or cannot be written.
    """
    env = tasks.short_name(config.env)
    name = f"{env}-{config.physics}-{config.exploration}-{config.num_steps}-seed{config.seed}"
    path = pathlib.Path(config.output or f"{name}.hdf5")
    if path.exists():
        raise UserError(f"--output: {path} exists; it is not replaced")
    files.check_writable(path, "output")
    return path


def _policy(config: CollectConfig) -> pathlib.Path:
    """The file or folder of the behaviour policy."""
    from offline_tf.policies import gaussian  # here, so that --help needs no TensorFlow

    return pathlib.Path(config.policy) if config.policy else gaussian.shipped(config.env)


def _normalizer(config: CollectConfig) -> pathlib.Path | None:
    """VecNormalize's file, where it is named."""
    return pathlib.Path(config.policy_normalizer) if config.policy_normalizer else None


def main(config: CollectConfig) -> None:
    """Collects."""
    from offline_tf.datasets.simulated import generated

    task = tasks.get(config.env, config.simulator)
    path = _path(config)
    began = time.monotonic()
    data = generated.make(
        path=path,
        task=task,
        physics=config.physics,
        exploration=config.exploration,
        num_steps=config.num_steps,
        seed=config.seed,
        stochastic=config.behavior_actions == "stochastic",
        policy_path=_policy(config),
        normalizer=_normalizer(config),
        threads=config.threads or os.cpu_count() or 1,
    ).transitions
    seconds = time.monotonic() - began
    returns = data.episode_returns()
    logging.info(
        "%s: %d transitions, %d episodes, return %.1f +- %.1f, %.0f s (%.0f steps/s)",
        path,
        len(data),
        len(returns),
        returns.mean(),
        returns.std(),
        seconds,
        len(data) / seconds,
    )


def plan(config: CollectConfig) -> list[str]:
    """What --dry_run prints.

    Raises:
      UserError: the data could not be made: no such task, simulator or policy, or no place to write.
    """
    from offline_tf.policies import foreign  # here, so that --help needs no TensorFlow
    from offline_tf.tasks import environments

    task = tasks.get(config.env, config.simulator)
    path, steps = _path(config), config.num_steps
    environments.check_simulated(task, config.physics)
    if config.exploration != "random":
        foreign.load(_policy(config), task, _normalizer(config))
    return [
        f"{steps:,} transitions of {config.env} ({config.exploration}) to {path}",
        f"  about {steps / _STEPS_PER_SECOND / 60:.1f} min on two cores",
    ]


if __name__ == "__main__":
    schema.run(main, configs=[CollectConfig], usage=USAGE, plan=plan)
