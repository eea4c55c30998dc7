"""Which episodes of a data set went well."""

from __future__ import annotations

import numpy as np

from offline_tf.numerics.holdout import Split
from offline_tf.types import Array, Transitions

SHARES = (1.0, 0.5, 0.25, 0.1)
_LEAST_EPISODES = 5  # with fewer, a share says more of luck than of a policy
_LEAST_ROWS = 1000
_RIDGE = 10.0


def scores(data: Transitions) -> Array:
    """[E] return of each episode, less what its start lets expect.

    What is expected comes from a ridge regression on the first observation, and its squares, each
    episode predicted without itself. Where starts decide nothing it is close to the mean return.
    """
    returns, first = data.episode_returns(), data.episode_bounds()[:, 0]
    starts = data.observations[first].astype(np.float64)  # [E, S]
    spread = starts.std(axis=0)
    standard = (starts - starts.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    features = np.concatenate([standard, np.square(standard) - 1.0], axis=1)  # [E, 2 S]
    centred = features - features.mean(axis=0)
    gram = centred.T @ centred + _RIDGE * np.eye(features.shape[1])
    hat = centred @ np.linalg.solve(gram, centred.T)  # [E, E]
    residual = (returns - returns.mean()) - hat @ (returns - returns.mean())
    alone = residual / np.maximum(1.0 - np.diag(hat) - 1.0 / len(returns), 0.1)
    plain = returns - returns.mean()
    return alone if np.square(alone).mean() < np.square(plain).mean() else plain


def shares(data: Transitions) -> tuple[float, ...]:
    """The shares of the episodes that are worth a clone of their own, largest first."""
    lengths = np.diff(data.episode_bounds(), axis=1)[:, 0]
    enough = [
        share
        for share in SHARES
        if share * len(lengths) >= _LEAST_EPISODES and share * lengths.sum() >= _LEAST_ROWS
    ]
    return tuple(enough) or (1.0,)


def best(data: Transitions, share: float, split: Split) -> Split:
    """The rows of the best episodes, apart into training and held-out ones.

    Args:
      data: the data set.
      share: of the episodes, those with the highest scores; at least one.
      split: of all rows.
    """
    if share >= 1.0:
        return split
    bounds = data.episode_bounds()
    count = max(1, round(share * len(bounds)))
    chosen = np.zeros(len(data), bool)
    for episode in np.argsort(-scores(data), kind="stable")[:count]:
        chosen[slice(*bounds[episode])] = True
    train, held_out = (rows[chosen[rows]] for rows in split)
    return Split(train, held_out) if len(train) else Split(held_out, np.arange(0))
