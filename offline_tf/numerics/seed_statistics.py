"""What few seeds say: interquartile means, bootstrap intervals, probabilities of improvement.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
Scores are [n_t] arrays, one per task; tasks may have different numbers of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from offline_tf.types import Array

_CUT = 0.25  # of the scores on each side
_RESAMPLED = 2000
_LEAST = 3  # seeds of a task; fewer have no interval


class Interval(NamedTuple):
    """A value and its 95 % bootstrap interval; NaN bounds where there are too few seeds."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Sequence[Array]) -> float:
    """Mean of the middle half of all tasks' scores: a quarter is cut on each side, rounded down."""
    every = np.sort(np.concatenate([np.asarray(each, np.float64) for each in scores]))
    cut = int(_CUT * len(every))
    return float(every[cut : len(every) - cut].mean())


def interval(
    scores: Sequence[Array], statistic: Callable[[Sequence[Array]], float], seed: int = 0
) -> Interval:
    """Percentiles of a statistic over resampled seeds; each task keeps its number (stratified).

    Args:
      scores: by task.
      statistic: of such scores.
      seed: of the resampling.
    """
    value = statistic(scores)
    if min(len(each) for each in scores) < _LEAST:
        return Interval(value, np.nan, np.nan)
    generator = np.random.default_rng(seed)
    found = [
        statistic([generator.choice(each, len(each)) for each in scores]) for _ in range(_RESAMPLED)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def improvement(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """Chance that a run of ours beats one of theirs on the same task, averaged over tasks; ties half.

    Args:
      ours, theirs: by task, in the same order.
    """
    chances = []
    for a, b in zip(ours, theirs, strict=True):
        difference = np.asarray(a, np.float64)[:, None] - np.asarray(b, np.float64)[None]
        chances.append(float((difference > 0).mean() + 0.5 * (difference == 0).mean()))
    return float(np.mean(chances))


def improvement_interval(ours: Sequence[Array], theirs: Sequence[Array], seed: int = 0) -> Interval:
    """`improvement`, with the interval of both sides resampled."""
    count = len(ours)
    return interval([*ours, *theirs], lambda both: improvement(both[:count], both[count:]), seed)


def profile(scores: Sequence[Array], at: Array) -> Array:
    """Share of runs above each level, averaged over tasks: a performance profile.

    Args:
      scores: by task.
      at: [L] levels.

    Returns:
      [L].
    """
    above = [(np.asarray(each, np.float64)[:, None] > at).mean(axis=0) for each in scores]
    return np.mean(above, axis=0)
