"""Guarded control under pushes: how often a robot falls with the policy, guarded, or cloned.

python -m benchmarks.guarded --workdir=RUN --numbers=results/tables/guarded-hopper.json

RUN is a finished MOReL run of a robot that can fall. Episodes run side by side; after `first` steps,
and then every `every` steps, velocities get a push: independent normal numbers times `push`, the
same for every controller, as are the starts. A push of 1 is one m/s, or one rad/s. A fall is a
termination before `steps`. Falls are compared pairwise; the interval is that of the difference.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

import morel_tf
from flags import schema
from morel_tf.experiment import restore
from morel_tf.experiment.configs import from_manifest
from offline_tf import tasks
from offline_tf.config import shared_knobs
from offline_tf.config.knobs import check, knob
from offline_tf.models import compilation
from offline_tf.numerics import seeds
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks import environments
from offline_tf.types import Array

USAGE = "usage: python -m benchmarks.guarded --workdir=RUN [--pushes=0,1,2,4] [--numbers=FILE]"
Act = Callable[[Array], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Guarded control."""

    workdir: str = knob("", "Run folder of MOReL.")
    pushes: tuple[float, ...] = knob((0.0, 0.5, 1.0, 1.5, 2.0), "Standard deviations.", low=0.0)
    episodes: int = knob(200, "Episodes per controller and push.", low=2)
    steps: int = knob(500, "Steps of an episode.", low=1)
    first: int = knob(100, "Steps before the first push.", low=0)
    every: int = knob(100, "Steps between pushes.", low=1)
    seed: int = knob(2000, "Of starts and pushes.", low=0)
    threads: int = shared_knobs.threads_knob()
    numbers: str = knob("", "JSON file for the table.")

    def __post_init__(self) -> None:
        """Checks the bounds."""
        check(self)
        shared_knobs.check_run_folder(self.workdir)


def falls(
    config: BenchmarkConfig, task: Any, physics: str, threads: int, act: Act, push: float
) -> tuple[Array, Array, Array]:
    """Returns, per episode: whether it fell, its return, the share of steps with a fallback."""
    simulator = environments.make_simulator(task, physics, config.episodes, threads)
    simulator.reset(seeds.generator(config.seed, "guarded/start"))
    alive = np.ones(config.episodes, bool)
    returns, fallbacks = np.zeros(config.episodes), np.zeros(config.episodes)
    lengths = np.zeros(config.episodes)
    for step in range(config.steps):
        if push and step >= config.first and (step - config.first) % config.every == 0:
            drawn = seeds.generator(config.seed, "guarded/push", step)
            velocities = simulator.qvel
            kicked = velocities + push * drawn.standard_normal(velocities.shape)
            simulator.set_states(simulator.qpos, kicked)
        actions, used = act(simulator.observations())
        rewards, terminated = simulator.step(task.clip_actions(actions))
        returns += np.where(alive, rewards, 0.0)
        fallbacks += alive & used
        lengths += alive
        alive &= ~terminated
        if terminated.any():
            simulator.reset(seeds.generator(config.seed, "guarded/refill", step), terminated)
    return ~alive, returns, fallbacks / lengths


def main(config: BenchmarkConfig) -> None:
    """Prints a table and writes it."""
    threads = compilation.use_threads(config.threads)
    record = RunRecord.open_existing(pathlib.Path(config.workdir))
    configs = from_manifest(record.manifest)
    task = tasks.get(configs.run.env)
    controller = morel_tf.load(config.workdir)
    clone = restore.load_cloned(configs, task, record).numpy()
    no_fallback = np.zeros(config.episodes, bool)

    def guarded(observations: Array) -> tuple[Array, Array]:
        outputs = controller.act_guarded(observations)
        return outputs["action"], outputs["fallback_used"]

    controllers: dict[str, Act] = {
        "policy": lambda o: (controller.act(o), no_fallback),
        "guarded": guarded,
        "cloning": lambda o: (clone.mean(o), no_fallback),
    }
    table = []
    for push in config.pushes:
        fell = {}
        for name, act in controllers.items():
            fell[name], returns, used = falls(config, task, configs.run.physics, threads, act, push)
            row = {
                "push": push,
                "controller": name,
                "falls": float(fell[name].mean()),
                "return": float(returns.mean()),
                "fallback_share": float(used.mean()),
            }
            table.append(row)
            logging.info("%s", ", ".join(f"{k} {v}" for k, v in row.items()))
        fewer = fell["policy"].astype(float) - fell["guarded"].astype(float)
        half = 1.96 * fewer.std(ddof=1) / np.sqrt(len(fewer))
        logging.info("push %g: guarded falls less by %.3f +- %.3f", push, fewer.mean(), half)
        table.append({"push": push, "fewer_falls": float(fewer.mean()), "half_interval": half})
    if config.numbers:
        about = {"run": record.folder.name, "commit": record.manifest["commit"]}
        write_json(
            pathlib.Path(config.numbers), dataclasses.asdict(config) | about | {"rows": table}
        )


if __name__ == "__main__":
    schema.run(main, configs=[BenchmarkConfig], usage=USAGE)
