"""The registry of tasks: `get("hopper")`; `register(spec)` adds one."""

from __future__ import annotations

import difflib
import importlib

from offline_tf.types import TaskSpec, UserError

_BUILT_IN = ("hopper", "walker2d", "halfcheetah", "ant")
_registered: dict[str, TaskSpec] = {}


def names() -> list[str]:
    """Returns all values that --env takes."""
    return [*_BUILT_IN, *sorted(_registered)]


def register(spec: TaskSpec) -> None:
    """Makes `spec` known as --env=<spec.name>.

    Raises:
      ValueError: the name is taken.
    """
    if spec.name in names():
        raise ValueError(f"task {spec.name!r} is registered already; choose another name")
    _registered[spec.name] = spec


def get(name: str) -> TaskSpec:
    """Returns the task of that name.

    Raises:
      UserError: unknown name; the message gives the nearest one.
    """
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        return importlib.import_module(f"offline_tf.tasks.{name}").SPEC
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"--env: expected one of {', '.join(names())}, got {name!r}{hint}")
