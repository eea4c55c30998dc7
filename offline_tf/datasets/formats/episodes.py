"""Episodes as people keep them, one mapping of arrays each, and the ends of episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf.datasets.formats import columns, synonyms
from offline_tf.numerics.large_columns import ColumnWriter, scratch_bytes, selected
from offline_tf.types import Array, TaskSpec, Transitions, UserError

_PLACE = ("episodes", "starts")  # where in a file an episode lies says nothing within it


def join(
    episodes: Iterable[Mapping[str, Any]],
    source: str,
    state_dim: int | None = None,
    keys: Sequence[str] = (),
) -> Transitions:
    """Joins episodes; each ends where its arrays end, whatever its flags say.

    An episode of T steps has T actions and rewards, and T observations with or without T
    next_observations, or T + 1 observations. With neither, where its last step led is not known: see
    `columns.from_columns`. Flags are arrays of T, or one value for the episode's end. An episode
    without flags counts as cut. Steps after an end inside an episode are refused.

    Args:
      episodes: arrays by D4RL's names or those of `synonyms.SYNONYMS`.
      source: what to name in errors.
      state_dim: S of the task, checked when given.
      keys: where observations are a dict of arrays, those that are joined, in this order.

    Raises:
      UserError: a column is missing, lengths do not fit, or a dict lacks such keys.
    """
    writers = {name: ColumnWriter() for name in columns.DTYPES}
    counts, sizes = dict.fromkeys(columns.DTYPES, 0), dict.fromkeys(columns.DTYPES, 0)
    episode_count = left_out = 0
    allowed = scratch_bytes()
    for number, mapping in enumerate(episodes):
        part, dropped = _episode(mapping, f"{source}, episode {number}", keys)
        left_out += dropped
        if part is None:
            continue
        episode_count += 1
        for name, values in part.items():
            counts[name] += 1
            with np.errstate(over="ignore"):  # beyond float32 is infinite; the doctor names it
                converted = np.asarray(values, columns.DTYPES[name])
            sizes[name] += converted.nbytes
            try:
                writers[name].append(converted)
            except ValueError as error:
                raise UserError(
                    f"--dataset: {source}, episode {number}: expected {name} of one width in all "
                    f"episodes ({error})"
                ) from None
        columns.check_scratch(sizes.values(), source, allowed)
    if not episode_count:
        raise UserError(f"--dataset: expected episodes with steps in {source}, found none")
    complete = [name for name, count in counts.items() if count == episode_count]
    joined = {name: writers.pop(name).finish() for name in complete}
    return columns.from_columns(joined, source, state_dim, left_out)


def _episode(
    mapping: Mapping[str, Any], source: str, keys: Sequence[str]
) -> tuple[dict[str, Array] | None, int]:
    """One episode's columns, all of one length, with flags; None if nothing of it can be used.

    Beside them, how many rows are left out because it is not known where they led.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(
            f"--dataset: {source}: expected a dict of arrays, got {type(mapping).__name__}"
        )
    named = {
        name: _joined(values, keys, source) if isinstance(values, Mapping) else values
        for name, values in synonyms.renamed(mapping).items()
    }
    arrays = {name: _numbers(named[name], name, source) for name in named if name not in _PLACE}
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            names = ", ".join(sorted(map(str, mapping))) or "none"
            raise UserError(f"--dataset: {source} lacks {name!r}, got {names}")
    for name in ("observations", "next_observations", "actions"):
        if name in arrays and arrays[name].ndim == 1:
            arrays[name] = arrays[name][:, None]
    steps = len(arrays["rewards"].reshape(-1))
    arrays["rewards"] = arrays["rewards"].reshape(-1)
    # Some recorders keep a last, unused action.
    arrays["actions"] = arrays["actions"][:steps]
    observations = arrays["observations"]
    if len(observations) != steps and (
        "next_observations" in arrays or len(observations) != steps + 1
    ):
        raise UserError(
            f"--dataset: {source}: expected {steps} or {steps + 1} rows in observations for "
            f"{steps} rewards, got {len(observations)}"
        )
    if "next_observations" not in arrays and len(observations) == steps + 1:
        arrays["next_observations"] = observations[1:]
        arrays["observations"] = observations[:-1]
    flags = {
        name: _flags(arrays.pop(name, None), steps, name, source)
        for name in ("terminals", "timeouts", "dones")
    }
    dones = flags.pop("dones")
    if "terminals" in named:  # what ended otherwise was cut
        flags["timeouts"] |= dones & ~flags["terminals"]
    else:
        flags["terminals"] |= dones & ~flags["timeouts"]
    arrays |= flags
    if steps and not flags["terminals"][-1]:
        arrays["timeouts"][-1] = True
    ended = flags["terminals"][:-1] | flags["timeouts"][:-1]
    if ended.any():
        raise UserError(
            f"--dataset: {source} goes on after its end at step {int(np.argmax(ended))}; expected "
            "one episode per entry"
        )
    dropped = 0
    if "next_observations" not in arrays and steps:
        unknown = np.full_like(observations[-1:], np.nan, np.float32)
        arrays["next_observations"] = np.concatenate([observations[1:steps], unknown])
        dropped = int(not flags["terminals"][-1])
        steps -= dropped
        arrays = {name: values[:steps] for name, values in arrays.items()}
        if dropped and steps:
            arrays["timeouts"][-1] = True
    for name, values in arrays.items():
        if len(values) != steps:
            raise UserError(
                f"--dataset: {source}: expected {steps} rows in {name} as in rewards, "
                f"got {len(values)}"
            )
    return (arrays if steps else None), dropped


def _joined(parts: Mapping[str, Any], keys: Sequence[str], source: str) -> Array:
    """Arrays [n, ...] of a dict of observations, side by side."""
    missing = [key for key in keys if key not in parts]
    if missing or not keys:
        lacking = f" without {', '.join(missing)}" if missing else ""
        raise UserError(
            f"--dataset: {source}: observations are a dict{lacking} ({', '.join(parts)}); say which "
            f"of them are joined, in which order, such as --observation_keys={','.join(parts)}"
        )
    arrays = [_numbers(parts[key], key, source) for key in keys]
    lengths = {key: array.shape[:1] for key, array in zip(keys, arrays, strict=True)}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise UserError(
            f"--dataset: {source}: expected observations of one length, got "
            + ", ".join(f"{key} {array.shape}" for key, array in zip(keys, arrays, strict=True))
        )
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _numbers(values: Any, name: str, source: str) -> Array:
    try:
        array = np.asarray(values[()] if hasattr(values, "shape") else values)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise UserError(f"--dataset: {source}: expected an array of numbers in {name!r}")
    return array


def _flags(values: Array | None, steps: int, name: str, source: str) -> Array:
    flags = np.zeros(steps, bool)
    if values is None or not steps:
        return flags
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"--dataset: {source}: expected flags in {name!r}, got NaN or infinity")
    if values.size == 1:
        flags[-1] = bool(values.reshape(-1)[0])
    elif values.size == steps:
        flags[:] = values.reshape(-1).astype(bool)
    else:
        raise UserError(
            f"--dataset: {source}: expected 1 or {steps} values in {name}, got {values.size}"
        )
    return flags


def separate_time_limits(data: Transitions, task: TaskSpec) -> Transitions:
    """Turns terminals at the time limit that the task does not call terminal into timeouts.

    Recorders with a single "done" flag (CS285's) also set it when the time was up, where the value
    goes on. Where the state after the time limit is not known, the limit is the likelier reason, and
    the row is left out, as any cut row without a next observation is.

    Args:
      data: the transitions.
      task: time limit and termination.
    """
    if task.termination is None:
        return data
    bounds = data.episode_bounds()
    last = bounds[:, 1] - 1
    at_limit = (bounds[:, 1] - bounds[:, 0] == task.max_episode_steps) & data.terminals[last]
    known = data.next_known
    unknown_rows, rows = (last[at_limit & (known[last] == wanted)] for wanted in (False, True))
    if len(rows):
        is_terminal = np.asarray(task.termination(tf.constant(data.next_observations[rows])))
        rows = rows[~is_terminal]
    if not len(rows) + len(unknown_rows):
        return data
    logging.info(
        "%d terminals at the time limit of %d steps are no known terminal states of %s: taken as "
        "timeouts; %d of them, without a next observation, are left out",
        len(rows) + len(unknown_rows),
        task.max_episode_steps,
        task.name,
        len(unknown_rows),
    )
    terminals, timeouts = data.terminals.copy(), data.timeouts.copy()
    terminals[rows], timeouts[rows] = False, True
    fields = {**vars(data), "terminals": terminals, "timeouts": timeouts}
    if len(unknown_rows):
        kept = np.ones(len(data), bool)
        kept[unknown_rows] = False
        fields["timeouts"] = columns.cut_before_dropped(terminals, timeouts, kept)
        fields = {
            name: None if values is None else selected(values, kept)
            for name, values in fields.items()
        }
    return Transitions(**fields)
