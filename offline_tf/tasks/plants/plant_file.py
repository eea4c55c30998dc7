"""plant.toml: a task, and how its log is read, in a file without Python.

`describe` writes a first draft of one from a table. Its keys:

  name, step_seconds, max_episode_steps, history, time_of_day
  [log]           time, time_format, max_gap_seconds, idle_seconds; date, where it has a column of its
                  own; batch: which run a row is of; tag, value: of a table of (tag, time, value), whose
                  tags are the signals' columns
  [[observations]] name, column, resample, hold_seconds; low, high: limits that are to be kept;
                  given: true of set points, the weather, what is fed
  [[actions]]     name, column, resample, hold_seconds, low, high, max_rate
  [reward]        expression; or column, and add: true of payments now and then
  [termination]   expression
  [limits]        price
"""

from __future__ import annotations

import difflib
import keyword
import math
import pathlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from offline_tf.tasks.plants import expressions
from offline_tf.tasks.plants.expressions import Expression
from offline_tf.types import LogSpec, Signal, TaskSpec, Tensor, UserError

ENDING = ".toml"
RESAMPLINGS = ("mean", "last", "linear")
TIME_OF_DAY = ("time_of_day_sin", "time_of_day_cos")
_NAME = re.compile(r"[A-Za-z_]\w*")
_TOP = {
    "name": str,
    "step_seconds": float,
    "max_episode_steps": int,
    "history": int,
    "time_of_day": bool,
    "log": dict,
    "observations": list,
    "actions": list,
    "reward": dict,
    "termination": dict,
    "limits": dict,
}
_LOG = {"time": str, "time_format": str, "max_gap_seconds": float, "idle_seconds": float}
_LONG = {"tag": str, "value": str, "date": str, "batch": str}
_SIGNAL = {"name": str, "column": str, "resample": str, "hold_seconds": float}
_BOUNDED = {**_SIGNAL, "low": float, "high": float}
_OBSERVATION = {**_BOUNDED, "given": bool}
_ACTION = {**_BOUNDED, "max_rate": float}
_LIMITS = {"price": float}
_REWARD = {"expression": str, "column": str, "add": bool}
_TERMINATION = {"expression": str}
_WORDS = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}


def lagged(name: str, lag: int) -> str:
    """What an observation calls a signal of `lag` steps before."""
    return f"{name}@-{lag}"


def read(path: pathlib.Path) -> TaskSpec:
    """Reads a task.

    Raises:
      UserError: there is no such file, it is no TOML, or something in it is wrong.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--env: expected a plant's description at {path} ({error.strerror}); "
            "`./run.sh describe` writes a first draft from a table"
        ) from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError
        raise UserError(f"--env: {path} is no TOML: {error}") from None
    return task_of(content, f"--env: {path}")


def task_of(content: Mapping[str, Any], where: str) -> TaskSpec:
    """The task that a description makes.

    Args:
      content: of the file.
      where: what to name in errors.

    Raises:
      UserError: something in it is wrong.
    """
    top = _checked(content, _TOP, where, needed=("name", "step_seconds", "observations", "actions"))
    log = _checked(top.get("log", {}), _LOG | _LONG, f"{where}: [log]", needed=("time",))
    if ("tag" in log) != ("value" in log):
        raise UserError(
            f"{where}: [log]: expected both tag and value, of a table of (tag, time, value)"
        )
    step = _positive(top["step_seconds"], f"{where}: step_seconds")
    gap = _positive(log.get("max_gap_seconds", 3.0 * step), f"{where}: max_gap_seconds")
    observations = _signals(top["observations"], _OBSERVATION, "observations", gap, where)
    actions = _signals(top["actions"], _ACTION, "actions", gap, where)
    names = [signal.name for signal in (*observations, *actions)]
    for key in ("time", "date", "batch"):
        if any(signal.column == log.get(key) for signal in (*observations, *actions)):
            raise UserError(f"{where}: the column {log[key]!r} is [log] {key}, and no signal")
    if log.get("tag") and (log.get("date") or log.get("batch")):
        raise UserError(f"{where}: [log]: a table of (tag, time, value) has no date and no batch")
    if log.get("idle_seconds", 0.0) < 0:
        raise UserError(f"{where}: idle_seconds: expected 0 or more, got {log['idle_seconds']}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where}: several signals are called {', '.join(twice)}; name each once")
    history = top.get("history", 1)
    if not 1 <= history <= 100:
        raise UserError(f"{where}: expected a history of 1 to 100 rows, got {history}")
    time_of_day = top.get("time_of_day", False)
    reward = _checked(top.get("reward", {}), _REWARD, f"{where}: [reward]")
    ending = _checked(top.get("termination", {}), _TERMINATION, f"{where}: [termination]")
    if "expression" in reward and "column" in reward:
        raise UserError(f"{where}: [reward]: expected an expression or a column, got both")
    if "add" in reward and "column" not in reward:
        raise UserError(f"{where}: [reward]: add is for a column, found none")
    observed = [signal.name for signal in observations] + list(TIME_OF_DAY) * time_of_day
    commanded = [signal.name for signal in actions]
    layout = observed + [
        lagged(signal.name, lag)
        for lag in range(1, history)
        for signal in (*observations, *actions)
    ]
    bounds = [
        np.array([float(part[key]) for part in top["actions"]], np.float32)
        if all(key in part for part in top["actions"])
        else None
        for key in ("low", "high")
    ]
    if bounds[0] is None or bounds[1] is None or not (bounds[0] < bounds[1]).all():
        raise UserError(f"{where}: expected low and high, low below high, of each of [[actions]]")
    given = tuple(i for i, part in enumerate(top["observations"]) if part.get("given", False))
    given += tuple(range(len(observations), len(observed)))  # the time of day
    limits = _checked(top.get("limits", {}), _LIMITS, f"{where}: [limits]")
    violation = _violation(top["observations"], where)
    if (violation is None) != ("price" not in limits):
        raise UserError(
            f"{where}: expected a price under [limits], what a step beyond a limit costs, and low or "
            "high of an observation; got one without the other"
        )
    price = _positive(limits["price"], f"{where}: [limits] price") if limits else 0.0
    return TaskSpec(
        name=top["name"],
        observation_names=tuple(layout),
        action_names=tuple(commanded),
        action_low=bounds[0],
        action_high=bounds[1],
        dt=step,
        max_episode_steps=_positive(
            top.get("max_episode_steps", 1000), f"{where}: max_episode_steps"
        ),
        reward=_with_price(_reward(reward, layout, commanded, where), violation, price),
        termination=_termination(ending, layout, where),
        log=LogSpec(
            time=log["time"],
            time_format=log.get("time_format", "iso"),
            observations=observations,
            actions=actions,
            max_gap_seconds=gap,
            idle_seconds=log.get("idle_seconds", math.inf) or math.inf,
            reward=reward.get("column", ""),
            adds_rewards=reward.get("add", False),
            history=history,
            time_of_day=time_of_day,
            limit_price=price,
            tag=log.get("tag", ""),
            value=log.get("value", ""),
            date=log.get("date", ""),
            batch=log.get("batch", ""),
        ),
        becomes=_becomes(layout, commanded, given),
        given=given,
        action_change=_action_change(top["actions"], top["step_seconds"], history, where),
        violation=violation,
    )


def _checked(
    content: Any, kinds: Mapping[str, type], where: str, needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A table whose keys are known and whose values are of their kinds."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected keys and values, got {content!r:.50}")
    for key in content:
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(kinds)}"
            raise UserError(f"{where}: unknown key {key!r}{hint}")
    if missing := [key for key in needed if key not in content]:
        raise UserError(f"{where}: expected {', '.join(missing)}, found none")
    found = {}
    for key, value in content.items():
        kind = kinds[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        good = is_number if kind is float else type(value) is kind
        if not good or (is_number and not abs(value) < 1e300):
            raise UserError(
                f"{where}: expected {_WORDS.get(kind, 'a table')} for {key}, got {value!r:.50}"
            )
        found[key] = float(value) if kind is float else value
    return found


def _positive(value: Any, where: str) -> Any:
    if not value > 0:
        raise UserError(f"{where}: expected more than 0, got {value}")
    return value


def _signals(
    parts: list[Any], kinds: Mapping[str, type], kind: str, gap: float, where: str
) -> tuple[Signal, ...]:
    found = []
    for number, part in enumerate(parts):
        place = f"{where}: [[{kind}]] {number + 1}"
        values = _checked(part, kinds, place, needed=("name",))
        name = values["name"]
        if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in TIME_OF_DAY:
            raise UserError(
                f"{place}: expected a name of letters, digits and _ for expressions, got {name!r}; "
                "what the table calls it goes to 'column'"
            )
        resample = values.get("resample", "mean")
        if resample not in RESAMPLINGS:
            raise UserError(
                f"{place}: expected resample as one of {', '.join(RESAMPLINGS)}, got {resample!r}"
            )
        hold = _positive(values.get("hold_seconds", gap), f"{place}: hold_seconds")
        found.append(Signal(name, values.get("column", name), resample, hold))
    if not found:
        raise UserError(f"{where}: expected [[{kind}]], found none")
    return tuple(found)


def _reward(table: Mapping[str, str], layout: list[str], commanded: list[str], where: str) -> Any:
    """TaskSpec.reward of an expression; None where there is none."""
    if "expression" not in table:
        return None
    place = f"{where}: [reward]"
    own = [name for name in layout if "@" not in name]
    expression = expressions.parse(table["expression"], [*own, *commanded], place)
    _check_before(expression, layout, commanded, place)

    def reward(states: Tensor, actions: Tensor, next_states: Tensor, physics: str) -> Tensor:
        del physics
        after = {name: next_states[:, layout.index(name)] for name in own}
        after |= {name: actions[:, i] for i, name in enumerate(commanded)}
        before = {name: states[:, layout.index(name)] for name in own}
        for name in commanded:
            if lagged(name, 1) in layout:
                before[name] = states[:, layout.index(lagged(name, 1))]
        return expression(after, before)

    return reward


def _with_price(reward: Any, violation: Any, price: float) -> Any:
    """TaskSpec.reward less what broken limits cost; None where there is none."""
    if reward is None or violation is None:
        return reward

    def less(states: Tensor, actions: Tensor, next_states: Tensor, physics: str) -> Tensor:
        return reward(states, actions, next_states, physics) - price * violation(next_states)

    return less


def _violation(parts: list[Any], where: str) -> Any:
    """TaskSpec.violation of the observations' low and high; None where there are none.

    A signal beyond a limit counts 1, and what it lies beyond as a share of its range: of high - low, or
    of the size of the only limit.
    """
    low = np.array([float(part.get("low", -math.inf)) for part in parts], np.float32)
    high = np.array([float(part.get("high", math.inf)) for part in parts], np.float32)
    if not (np.isfinite(low) | np.isfinite(high)).any():
        return None
    if not (low < high).all():
        raise UserError(f"{where}: expected low below high of each of [[observations]]")
    both = np.isfinite(low) & np.isfinite(high)
    only = np.where(np.isfinite(low), np.abs(low), np.abs(high))
    width = np.where(both, high - low, np.where(np.isfinite(only) & (only > 0), only, 1.0))

    def violation(next_states: Tensor) -> Tensor:
        measured = next_states[:, : len(low)]
        beyond = tf.maximum(tf.nn.relu(measured - high), tf.nn.relu(low - measured))
        return tf.reduce_sum(tf.cast(beyond > 0.0, tf.float32) + beyond / width, axis=1)

    return violation


def _becomes(layout: list[str], commanded: list[str], given: tuple[int, ...]) -> tuple[int, ...]:
    """TaskSpec.becomes: NAME@-2 will be what NAME@-1 is now, NAME@-1 what NAME is, or the action.

    Empty where all is to be predicted.
    """
    sources = {name: len(layout) + index for index, name in enumerate(commanded)}
    sources |= {name: index for index, name in enumerate(layout)}
    found = []
    for index, entry in enumerate(layout):
        name, _, lag = entry.partition("@-")
        before = name if lag == "1" else lagged(name, int(lag or 0) - 1)
        found.append(sources[before] if lag else index if index in given else -1)
    return tuple(found) if max(found) >= 0 else ()


def _action_change(parts: list[Any], step: float, history: int, where: str) -> Any:
    """TaskSpec.action_change of max_rate, per second; None where all are free."""
    if not any("max_rate" in part for part in parts):
        return None
    if history < 2:
        raise UserError(
            f"{where}: max_rate needs the action of the step before; set history = 2 or more"
        )
    rates = [_positive(part.get("max_rate", math.inf), f"{where}: max_rate") for part in parts]
    return np.array(rates, np.float32) * np.float32(step)


def _check_before(
    expression: Expression, layout: list[str], commanded: list[str], place: str
) -> None:
    for name in sorted(expression.names_before & set(commanded)):
        if lagged(name, 1) not in layout:
            raise UserError(
                f"{place}: before({name}) needs the action of the step before; set history = 2 or more"
            )


def _termination(table: Mapping[str, str], layout: list[str], where: str) -> Any:
    """TaskSpec.termination of an expression; where there is none, nothing ends."""
    own = [name for name in layout if "@" not in name]
    if "expression" not in table:
        return lambda next_states: tf.zeros(tf.shape(next_states)[0], tf.bool)
    place = f"{where}: [termination]"
    expression = expressions.parse(table["expression"], own, place)
    if expression.names_before:
        raise UserError(f"{place}: before() is for rewards; an episode ends by what was reached")

    def termination(next_states: Tensor) -> Tensor:
        after = {name: next_states[:, layout.index(name)] for name in own}
        return tf.not_equal(expression(after, {}), 0.0)

    return termination
