"""The registry of tasks: `get("hopper")`, `get("plant.py:SPEC")`, `get("Pendulum-v1")`.

`register(spec)` adds one.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import numbers
import pathlib
import sys

import numpy as np

from offline_tf.types import TaskSpec, UserError

ENV_HELP = (
    "Task: hopper, walker2d, halfcheetah, ant, FILE.py:NAME, a plant.toml (`./run.sh describe`), or a "
    "Gymnasium id."
)
SIMULATOR_HELP = (
    "What runs the robots: mujoco, or mujoco_py, OpenAI Gym's -v2 environments (Python 3.10 and "
    "requirements-original.txt)."
)
SIMULATORS = ("mujoco", "mujoco_py")
ROBOTS = ("hopper", "walker2d", "halfcheetah", "ant")
_registered: dict[str, TaskSpec] = {}


def names() -> list[str]:
    """Returns all values that --env takes."""
    return [*ROBOTS, *sorted(_registered)]


def register(spec: TaskSpec) -> None:
    """Makes `spec` known as --env=<spec.name>.

    Raises:
      ValueError: the name is taken.
    """
    if spec.name in names():
        raise ValueError(f"task {spec.name!r} is registered already; choose another name")
    _registered[spec.name] = spec


def get(name: str, simulator: str = "mujoco") -> TaskSpec:
    """Returns the task of that name, the one that FILE.py:NAME defines, or a Gymnasium environment.

    Args:
      name: the value of --env.
      simulator: the value of --simulator.

    Raises:
      UserError: unknown name; the message gives the nearest one. Or the file defines no such task,
        or there is no such environment.
    """
    spec = _named(name)
    if simulator == "mujoco":
        return spec
    return importlib.import_module("offline_tf.tasks.environments").in_library(spec, simulator)


def _named(name: str) -> TaskSpec:
    if ".py:" in name:
        return _from_file(name)
    if name.endswith(".toml"):
        plant_file = importlib.import_module("offline_tf.tasks.plants.plant_file")
        return plant_file.read(pathlib.Path(name))
    if name in _registered:
        return _registered[name]
    if name in ROBOTS:
        return importlib.import_module(f"offline_tf.tasks.{name}").SPEC
    robot, separator, version = name.rpartition("-")
    if separator and robot.lower() in ROBOTS:
        raise UserError(
            f"--env: {name} is one of our own robots; say --env={robot.lower()} --physics={version}"
        )
    environments = importlib.import_module("offline_tf.tasks.environments")
    if environments.is_id(name):
        return environments.task_of(name)
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(
        f"--env: expected one of {', '.join(names())}, FILE.py:NAME or a Gymnasium id, "
        f"got {name!r}{hint}"
    )


def short_name(name: str) -> str:
    """What a value of --env is called in names of files: what follows a colon, in lower case.

    Of a plant.toml, the file's name without its folder and ending.
    """
    if name.endswith(".toml"):
        return pathlib.Path(name).stem.lower()
    return name.rpartition(":")[2].lower().replace("/", "-")


def _from_file(name: str) -> TaskSpec:
    """Runs FILE.py and returns its NAME."""
    file_name, _, attribute = name.rpartition(":")
    path = pathlib.Path(file_name)
    if not path.is_file():
        raise UserError(f"--env: expected a Python file at {path}, found none")
    spec = importlib.util.spec_from_file_location(f"offline_tf_user_task_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[spec.name]
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--env: {path} fails when it is run: {reason}") from error
    task = getattr(module, attribute, None)
    if not isinstance(task, TaskSpec):
        known = [key for key, value in vars(module).items() if isinstance(value, TaskSpec)]
        raise UserError(
            f"--env: expected a TaskSpec called {attribute!r} in {path}, "
            f"got {', '.join(known) or 'none at all'}"
        )
    _check(name, task)
    return task


def _check(name: str, spec: TaskSpec) -> None:
    """Checks what a user has written.

    Raises:
      UserError: the bounds are no A finite numbers each, the lower below the upper; the times are no
        times; or two columns have one name.
    """
    columns = [*spec.observation_names, *spec.action_names]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise UserError(
            f"--env: {name}: expected observations and actions of different names, got "
            f"{', '.join(twice)} twice; a command and its measured value need two names"
        )
    if not (isinstance(spec.max_episode_steps, numbers.Integral) and spec.max_episode_steps > 0):
        raise UserError(
            f"--env: {name}: expected max_episode_steps as a positive whole number, got "
            f"{spec.max_episode_steps!r}"
        )
    if not (isinstance(spec.dt, numbers.Real) and 0.0 < spec.dt < float("inf")):
        raise UserError(
            f"--env: {name}: expected dt, the seconds of a step, as a positive number, got {spec.dt!r}"
        )
    bounds = (spec.action_low, spec.action_high)
    good = all(isinstance(b, np.ndarray) and b.shape == (spec.action_dim,) for b in bounds)
    if not good or not (np.isfinite(bounds).all() and (bounds[0] < bounds[1]).all()):
        raise UserError(
            f"--env: {name}: expected action_low and action_high as arrays of {spec.action_dim} finite "
            f"numbers, the lower below the upper, got {bounds[0]!r}, {bounds[1]!r}; leave an actuator "
            "that does not move out of action_names"
        )
    _check_told(name, spec)


def _check_told(name: str, spec: TaskSpec) -> None:
    """Checks what a task says of the next observation, and of how fast actions move.

    Raises:
      UserError: it contradicts itself.
    """
    last, wrong = spec.state_dim + spec.action_dim, ""
    if len(spec.becomes) not in (0, spec.state_dim):
        wrong = f"becomes with {spec.state_dim} numbers, got {len(spec.becomes)}"
    elif any(not -1 <= source < last for source in spec.becomes):
        wrong = f"becomes with numbers from -1 to {last - 1}, got {spec.becomes}"
    elif any(spec.becomes[i : i + 1] != (i,) for i in spec.given):
        wrong = f"becomes[i] = i of each given i {spec.given}, got becomes={spec.becomes}"
    elif spec.action_change is not None and (
        np.shape(spec.action_change) != (spec.action_dim,)
        or len(spec.action_before_indices) != spec.action_dim
    ):
        wrong = "action_change of all actions, and in becomes where each action before stands"
    if wrong:
        raise UserError(f"--env: {name}: expected {wrong}")
