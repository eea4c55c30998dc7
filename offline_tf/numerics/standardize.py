"""Per-dimension statistics of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from offline_tf.numerics.large_columns import blocks
from offline_tf.types import Array

EPSILON = 1e-8


class Statistics(NamedTuple):
    """Shift and scale of each dimension, [D] float32 each."""

    shift: Array
    scale: Array

    def normalize(self, values: Array) -> Array:
        """(x - shift) / (scale + 1e-8), float32."""
        return ((values - self.shift) / (self.scale + EPSILON)).astype(np.float32)


def statistics(values: Array, scale: str = "std", usable: Array | None = None) -> Statistics:
    """Returns mean and spread of [N, D] values.

    Args:
      values: the data.
      scale: "std" (paper) or "mad", the mean absolute deviation (authors' code).
      usable: [N] bool, rows that count; None: all.
    """
    return statistics_of(lambda rows: values[rows], len(values), scale, usable)


def statistics_of(
    block: Callable[[slice], Array],
    count: int,
    scale: str = "std",
    usable: Array | None = None,
) -> Statistics:
    """`statistics` of values that are never in memory together.

    Args:
      block: rows -> their values [n, D]; called twice for each row.
      count: N.
      scale, usable: as in `statistics`.
    """
    used = count if usable is None else int(usable.sum())

    def values_of(rows: slice) -> Array:
        values = block(rows)
        return values if usable is None or usable[rows].all() else values[usable[rows]]

    def mean_of(function: Callable[[Array], Array]) -> Array:
        sums = [function(values_of(rows)).sum(axis=0, dtype=np.float64) for rows in blocks(count)]
        return np.sum(sums, axis=0) / used

    mean = mean_of(lambda values: values)
    if scale == "std":
        spread = np.sqrt(mean_of(lambda values: np.square(values - mean)))
    else:
        spread = mean_of(lambda values: np.abs(values - mean))
    return Statistics(mean.astype(np.float32), spread.astype(np.float32))


def with_flat_as_it_is(found: Statistics) -> Statistics:
    """Scale 1 for dimensions that never change: what is off there by a little stays little."""
    flat = found.scale < EPSILON
    return found._replace(scale=np.where(flat, 1.0, found.scale).astype(np.float32))
