"""Where episodes end, from whatever a file says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from offline_tf.numerics.large_columns import blocks
from offline_tf.types import Array, UserError

_TOLERANCE = 1e-5  # relative, between a next observation and the next row's observation
_SHUFFLED = 0.9  # share of rows that the next one does not follow, above which none is taken to


def find(columns: Mapping[str, Any], source: str) -> tuple[Array, Array]:
    """Terminals and timeouts of rows, from a file's columns.

    "dones" are ends of either kind: cuts where terminals are known, else terminal where they are no
    timeouts. What the columns say of cuts
    is taken in this order: timeouts; episodes (an episode ends where the next row's name is another)
    and starts; next_observations (it ends where they are not the next row's observations); terminals
    alone. Where hardly any row follows the one before, the rows are shuffled, and each is an episode
    of its own.

    Args:
      columns: by D4RL's names, or those of `synonyms.SYNONYMS`; observations, and any of the others.
      source: what to name in errors and logs.

    Returns:
      Terminals and timeouts, each [N] bool.

    Raises:
      UserError: episodes cannot be told apart, or a column holds no flags.
    """
    count = columns["observations"].shape[0]
    terminals = np.zeros(count, bool)
    if "terminals" in columns:
        terminals = flags(columns["terminals"], "terminals", source)
    timeouts = np.zeros(count, bool)
    if "timeouts" in columns:
        timeouts = flags(columns["timeouts"], "timeouts", source)
    if "dones" in columns:
        dones = flags(columns["dones"], "dones", source)
        if "terminals" in columns:  # what ended otherwise was cut
            timeouts |= dones & ~terminals
        else:
            terminals |= dones & ~timeouts
    named = [name for name in ("episodes", "starts") if name in columns]
    if "starts" in named and _are_row_numbers(columns["starts"], count):
        named.remove("starts")
    if named:
        for name in named:
            cut = _before_others if name == "episodes" else _before_starts
            timeouts |= cut(columns[name], count, source) & ~terminals
        timeouts[-1] |= not terminals[-1]
    elif "timeouts" not in columns and "next_observations" in columns:
        timeouts |= _where_rows_do_not_follow(columns, terminals, source)
    elif "timeouts" not in columns and not (terminals | timeouts).any():
        raise UserError(
            f"--dataset: {source} has no timeouts and no terminals, so episodes cannot be told "
            "apart; add a boolean column 'timeouts' that is true on each episode's last row, or "
            "'next_observations'"
        )
    return terminals, timeouts


def flags(values: Any, name: str, source: str) -> Array:
    """A column of flags as [N] bool, read by blocks.

    Raises:
      UserError: it holds NaN or infinity.
    """
    parts = []
    for rows in blocks(len(values)):
        part = np.asarray(values[rows]).reshape(-1)
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise UserError(f"--dataset: {source}: expected flags in {name!r}, got NaN or infinity")
        parts.append(part.astype(bool))
    return np.concatenate(parts)


def _before_others(names: Any, count: int, source: str) -> Array:
    """Rows whose next row belongs to another episode."""
    values = np.asarray(names[:]).reshape(-1)
    if len(values) != count:
        raise UserError(
            f"--dataset: {source} has {count} observations but {len(values)} names of episodes"
        )
    return np.append(values[1:] != values[:-1], True)


def _are_row_numbers(values: Any, count: int) -> bool:
    """Whether a column numbers the rows, as pandas' index does."""
    if len(values) != count or count < 2:
        return False
    return bool((np.asarray(values[:]).reshape(-1) == np.arange(count)).all())


def _before_starts(starts: Any, count: int, source: str) -> Array:
    """Rows before those where an episode begins.

    Args:
      starts: [N] flags, or [E] numbers of rows.
      count: rows N.
      source: for the error.
    """
    values = np.asarray(starts[:]).reshape(-1)
    cut = np.zeros(count, bool)
    if len(values) == count and set(np.unique(values)) <= {0, 1}:
        cut[:-1] = values[1:].astype(bool)
        return cut
    rows = values.astype(np.int64)
    if (
        (rows != values).any()
        or (rows < 0).any()
        or (rows > count).any()
        or (np.diff(rows) < 0).any()
    ):
        raise UserError(
            f"--dataset: {source}: expected rising numbers of rows at which episodes start, got "
            f"{', '.join(map(str, values[:5]))}, ..."
        )
    cut[rows[rows > 0] - 1] = True
    return cut


def _where_rows_do_not_follow(columns: Mapping[str, Any], terminals: Array, source: str) -> Array:
    """Rows whose next observation is not the next row's observation."""
    count = len(terminals)
    breaks = np.ones(count, bool)
    for rows in blocks(count - 1):
        after = np.asarray(columns["next_observations"][rows], np.float64)
        begun = np.asarray(columns["observations"][rows.start + 1 : rows.stop + 1], np.float64)
        follows = np.isclose(after, begun, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        breaks[rows] = ~follows.all(axis=1)
    cut = breaks & ~terminals
    if count > 1 and breaks[:-1].mean() > _SHUFFLED:
        logging.warning(
            "--dataset: %s: hardly any row follows the one before (%.0f %% do not), so each counts as "
            "an episode of one step. Models, detector and Q can be fitted; what needs whole episodes "
            "(returns of the data, the better part of it, errors over many steps) means nothing",
            source,
            100 * breaks[:-1].mean(),
        )
        return ~terminals
    if cut[:-1].any() or not terminals.any():
        logging.info(
            "--dataset: %s does not say where episodes were cut: found %d ends where a row's next "
            "observation is not the next row's",
            source,
            int(cut.sum()),
        )
    return cut
