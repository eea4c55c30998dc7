"""Per-dimension statistics of a data set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offline_tf.types import Array

EPSILON = 1e-8


class Statistics(NamedTuple):
    """Shift and scale of each dimension, [D] float32 each."""

    shift: Array
    scale: Array

    def normalize(self, values: Array) -> Array:
        """(x - shift) / (scale + 1e-8), float32."""
        return ((values - self.shift) / (self.scale + EPSILON)).astype(np.float32)


def statistics(values: Array, scale: str = "std") -> Statistics:
    """Returns mean and spread of [N, D] values.

    Args:
      values: the data.
      scale: "std" (paper) or "mad", the mean absolute deviation (authors' code).
    """
    mean = values.mean(axis=0, dtype=np.float64)
    if scale == "std":
        spread = values.std(axis=0, dtype=np.float64)
    else:
        spread = np.abs(values - mean).mean(axis=0, dtype=np.float64)
    return Statistics(mean.astype(np.float32), spread.astype(np.float32))
