"""Knobs that several commands share: each function makes the field of one flag.

An argument is what one algorithm or command says differently from another.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from offline_tf import tasks
from offline_tf.config.knobs import check, knob
from offline_tf.types import UserError

PHYSICS = ("v2", "v4", "v5")
PRECISIONS = ("auto", "float32", "bfloat16")


# --- what a run is of ---


def env_knob() -> Any:
    """--env: the task."""
    return knob("hopper", tasks.ENV_HELP)


def physics_knob(followed_by_v2: str = "") -> Any:
    """--physics of the robots.

    Args:
      followed_by_v2: who published numbers with v2; empty: the help text explains no version.
    """
    versions = f": v2 ({followed_by_v2}), v4 or v5 (Gymnasium)" if followed_by_v2 else ""
    return knob("v2", f"Robot physics{versions}.", choices=PHYSICS)


def simulator_knob() -> Any:
    """--simulator: the library that runs the robots."""
    return knob("mujoco", tasks.SIMULATOR_HELP, choices=tasks.SIMULATORS)


def seed_knob() -> Any:
    """--seed of a whole run."""
    return knob(0, "Random seed of data, models and planner.", low=0, high=2**31 - 1)


# --- its data ---


def dataset_knob(default: str, if_empty: str = "") -> Any:
    """--dataset that a run learns from.

    Args:
      default: the value without the flag.
      if_empty: what an empty value means, where it is allowed.
    """
    return knob(
        default,
        "Logged data: an HDF5 file with D4RL's keys, a D4RL name, a Minari id or folder, tfds:NAME, "
        "a pickle of episodes, npz, CSV or Parquet (a file, a folder, a pattern), a LeRobot folder; or "
        "data that is made here: random-ours, medium-ours, mixed-ours, expert-ours, "
        "medium-expert-ours; by D4RL's recipe medium-sac, expert-sac, medium-expert-sac, and of a "
        f"training's buffer medium-replay-sac, full-replay-sac{if_empty and f'; empty: {if_empty}'}.",
    )


def columns_knob() -> Any:
    """--columns: names of a table's columns."""
    return knob(
        (),
        "Names of a table's columns in order, where it has no line of names; observation:N, action:N "
        "and next_observation:N stand for the task's, as in observation:2,action:1,reward,terminal.",
    )


def observation_keys_knob() -> Any:
    """--observation_keys: which parts of an observation that is a dict."""
    return knob(
        (),
        "Where observations are a dict of arrays (Minari, RLDS, LeRobot): those that are joined, in "
        "this order.",
    )


def data_steps_knob(twice_for: str, source: str = "") -> Any:
    """--data_steps: the size of data that is made.

    Args:
      twice_for: the kind of data with twice as many steps.
      source: of the default.
    """
    return knob(
        1_000_000,
        f"Steps of data to make (twice that for {twice_for}).",
        low=1000,
        source=source,
    )


def data_dir_knob(if_empty: str = "$OFFLINE_TF_DATA or ~/.cache/offline_tf") -> Any:
    """--data_dir: where data that is made lies.

    Args:
      if_empty: the folder without the flag.
    """
    return knob("", f"Folder for data that is made; empty: {if_empty}.")


def holdout_share_knob(used_for: str) -> Any:
    """--holdout_share of the logged data.

    Args:
      used_for: what the held-out rows decide or show.
    """
    return knob(
        None,
        f"Share of the rows held out, as whole episodes, for {used_for}; none: 5000 rows, but at least "
        "2 % and at most 10 %.",
        low=0.0,
        high=0.5,
    )


# --- which settings ---


def select_knob(what: str) -> Any:
    """--select: whether other settings are tried.

    Args:
      what: is tried.
    """
    return knob(
        "none",
        f"none: the settings that are given, and the rules; offline: {what} too, and the judge takes "
        "one; no simulator decides.",
        choices=("none", "offline"),
    )


def select_minutes_knob() -> Any:
    """--select_minutes: what --select=offline may take."""
    return knob(
        60.0,
        "With --select=offline no setting is tried that would not be done after so many minutes of "
        "trying.",
        low=0.0,
    )


# --- how it computes, and what it looks at ---


def precision_knob() -> Any:
    """--precision of training; see `networks.product_dtype`."""
    return knob(
        "auto",
        "Products in training: float32, bfloat16, or auto (bfloat16 where the CPU has it, but with "
        "XLA).",
        choices=PRECISIONS,
    )


def compile_knob() -> Any:
    """--compile, for the commands with hot loops; see `compilation.use_compiler`."""
    return knob(
        "auto",
        "What runs the hot loops (fitting, roll-outs in the model, decisions): graph (TensorFlow's "
        "own kernels), xla, or auto (xla where TensorFlow sees a GPU).",
        choices=("auto", "graph", "xla"),
    )


def threads_knob() -> Any:
    """--threads; see `compilation.use_threads`."""
    return knob(0, "CPU threads; 0: all cores.", low=0)


def devices_knob() -> Any:
    """--devices of shared fits; see `devices.use_devices`."""
    return knob(
        "1",
        "GPUs that each fit of models, behaviour and Q computes on, and that roll-outs and candidates "
        "are split over: a number, or all. On a machine without a GPU these are parts of the CPU, to "
        "try it. Over several machines: all, with TF_CONFIG.",
    )


def check_devices(devices: str) -> None:
    """Checks --devices.

    Raises:
      UserError: it is neither all nor a number from 1.
    """
    if devices != "all" and not (devices.isdecimal() and int(devices) >= 1):
        raise UserError(f"--devices: expected all or a number from 1, got {devices!r}")


def inspection_knob() -> Any:
    """--inspection at the end of a run."""
    return knob(True, "Look at the models after training: pictures, AUROC, open loops.")


# --- commands that read a run's folder ---


def run_folder_knob() -> Any:
    """--workdir of a command that reads a run."""
    return knob("", "Run folder.")


def other_physics_knob() -> Any:
    """--physics in place of the run's."""
    return knob("", "Robot physics; empty: the run's.", choices=("", *PHYSICS))


def other_simulator_knob() -> Any:
    """--simulator in place of the run's."""
    return knob("", f"{tasks.SIMULATOR_HELP} Empty: the run's.", choices=("", *tasks.SIMULATORS))


def check_run_folder(workdir: str) -> None:
    """Checks that a command was given a run.

    Raises:
      UserError: it was not.
    """
    if not workdir:
        raise UserError("--workdir: expected the folder of a run, got none")


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Inspection."""

    workdir: str = run_folder_knob()
    against: tuple[str, ...] = knob(
        (),
        "Data set to tell apart, as for --dataset, or random-ours, medium-ours ...; may be "
        "given several times.",
        repeated=True,
    )
    data_dir: str = data_dir_knob("the run's")
    threads: int = threads_knob()

    def __post_init__(self) -> None:
        """Checks the bounds, and that there is a run."""
        check(self)
        check_run_folder(self.workdir)


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """Tuning."""

    workdir: str = run_folder_knob()
    minutes: float = knob(
        60.0, "No setting is begun that would end after so many minutes.", low=0.0
    )

    def __post_init__(self) -> None:
        """Checks the bounds, and that there is a run."""
        check(self)
        check_run_folder(self.workdir)
