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


def mean(times: Array, values: Array, begins: Array, ends: Array) -> Array:
    """[g] the mean of the held signal over [begin, end), weighted by time; NaN before the first sample.

    Args:
      times, values: of the samples.
      begins, ends: [g], of each stretch; ends > begins.
    """
    integral = np.concatenate([[0.0], np.cumsum(values[:-1] * np.diff(times))])  # [n] up to each

    def up_to(moments: Array) -> Array:
        at = np.clip(np.searchsorted(times, moments, side="right") - 1, 0, None)
        return integral[at] + values[at] * (moments - times[at])

    found = (up_to(ends) - up_to(begins)) / (ends - begins)
    return np.where(begins >= times[0], found, np.nan)


def age(times: Array, grid: Array) -> Array:
    """[g] seconds since the newest sample at each grid time; infinity before the first."""
    at = np.searchsorted(times, grid, side="right") - 1
    return np.where(at >= 0, grid - times[np.maximum(at, 0)], np.inf)
