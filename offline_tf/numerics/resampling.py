"""Irregular samples of a signal brought to a grid of times. A sample holds until the next one.

Times are seconds, rising; values are finite; both [n] float64, n >= 1.
"""

from __future__ import annotations

import numpy as np

from offline_tf.types import Array


def last(times: Array, values: Array, grid: Array) -> Array:
    """[g] the newest value at or before each grid time; NaN before the first."""
    at = np.searchsorted(times, grid, side="right") - 1
    return np.where(at >= 0, values[np.maximum(at, 0)], np.nan)


def linear(times: Array, values: Array, grid: Array) -> Array:
    """[g] on the straight line between neighbouring samples; NaN outside of them."""
    return np.interp(grid, times, values, left=np.nan, right=np.nan)


def sample_sum(times: Array, values: Array, begins: Array, ends: Array) -> Array:
    """[g] the sum of the samples in (begin, end]; 0 where there is none.

    Args:
      times, values: of the samples.
      begins, ends: [g], of each stretch.
    """
    marks = np.stack([np.searchsorted(times, x, side="right") for x in (begins, ends)], axis=1)
    sums = np.add.reduceat(np.append(values, 0.0), marks.reshape(-1))[::2]
    return np.where(marks[:, 1] > marks[:, 0], sums, 0.0)


def sample_mean(times: Array, values: Array, begins: Array, ends: Array) -> Array:
    """[g] the mean of the samples in (begin, end]; where there is none, the newest value before.

    Args:
      times, values: of the samples.
      begins, ends: [g], of each stretch.
    """
    first = np.searchsorted(times, begins, side="right")
    beyond = np.searchsorted(times, ends, side="right")
    # Sums of each stretch alone: one absurd value spoils no other.
    marks = np.stack([first, beyond], axis=1).reshape(-1)
    sums = np.add.reduceat(np.append(values, 0.0), marks)[::2]
    count = np.maximum(beyond - first, 1)
    return np.where(beyond > first, sums / count, last(times, values, ends))


def held_mean(times: Array, values: Array, edges: Array) -> Array:
    """[g - 1] the mean of the held signal between neighbouring edges, weighted by time.

    Args:
      times, values: of the samples.
      edges: [g], rising.

    Returns:
      NaN before the first sample.
    """
    moments = np.concatenate([edges, times[(times > edges[0]) & (times < edges[-1])]])
    order = np.argsort(moments, kind="stable")
    moments = moments[order]
    held = last(times, values, moments[:-1]) * np.diff(moments)
    begins = np.flatnonzero(order < len(edges))[:-1]
    return np.add.reduceat(held, begins) / np.diff(edges)


def age(times: Array, grid: Array) -> Array:
    """[g] seconds since the newest sample at each grid time; infinity before the first."""
    at = np.searchsorted(times, grid, side="right") - 1
    return np.where(at >= 0, grid - times[np.maximum(at, 0)], np.inf)
