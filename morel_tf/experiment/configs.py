"""The configuration of a MOReL run: from flags, from a run folder; what has to go together."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, NamedTuple

from morel_tf import algorithm, config
from offline_tf import tasks
from offline_tf.config.knobs import rebuild
from offline_tf.types import UserError


class Configs(NamedTuple):
    """The dataclasses of config.STAGES, in their order."""

    run: config.RunConfig
    dynamics: config.DynamicsConfig
    usad: config.UsadConfig
    pmdp: config.PmdpConfig
    judge: config.JudgeConfig
    cloning: config.CloningConfig
    planner: config.PlannerConfig

    @property
    def knobs(self) -> algorithm.Knobs:
        """Without the run's."""
        return algorithm.Knobs(*self[1:])

    def flat(self) -> dict[str, Any]:
        """All flags by name."""
        return {k: v for part in self for k, v in dataclasses.asdict(part).items()}


def from_manifest(manifest: dict[str, Any]) -> Configs:
    """Rebuilds the configuration of a run from its folder."""
    return Configs(*(rebuild(cls, manifest["flags"]) for cls in config.STAGES))


def algorithm_name(configs: Configs) -> str:
    """As in summaries: MOReL, or what it is without a detector."""
    return "naive_mbrl" if configs.usad.threshold_rule == "none" else "morel"


def default_workdir(configs: Configs) -> pathlib.Path:
    """Where a run goes without --workdir: other data, or no detector, have a folder of their own."""
    run = configs.run
    data = pathlib.Path(run.dataset).stem.replace(":", "-")
    if not data and run.exploration != "pure":
        data = run.exploration
    words = [
        algorithm_name(configs),
        tasks.short_name(run.env),
        data,
        run.preset,
        f"seed{run.seed}",
    ]
    return pathlib.Path("runs") / "-".join(word for word in words if word)


def folder_of(configs: Configs) -> pathlib.Path:
    """The run's folder."""
    return pathlib.Path(configs.run.workdir) if configs.run.workdir else default_workdir(configs)


def check(configs: Configs) -> None:
    """Checks, before anything is read, what flags have to do with each other.

    Raises:
      UserError: they do not go together.
    """
    if configs.dynamics.ensemble_size < 2 and configs.usad.threshold_rule != "none":
        raise UserError(
            "--ensemble_size: expected 2 models or more, as one disagrees with nobody; or give "
            "--threshold_rule=none (naive model-based RL)"
        )
