"""Which episodes of a data set went well."""

from __future__ import annotations

import numpy as np

from offline_tf.numerics.holdout import Split
from offline_tf.types import Array, Transitions

SHARES = (1.0, 0.5, 0.25, 0.1)
_LEAST_EPISODES = 5  # with fewer, a share says more of luck than of a policy
_LEAST_ROWS = 1000
_ONE_IN = 10
_RIDGES = (0.1, 1.0, 10.0, 100.0)
_EXPLAINED = 0.8  # starts that leave more of the variance than this decide nothing


def full_returns(data: Transitions, limit: int = 0) -> Array:
    """[E] what each episode would have earned up to a time limit; NaN where too little of it is there.

    An episode that ended is counted as it is. One that was cut goes on at its mean reward. Of one that
    was cut in less than half of the longest cut one's length too little is there. What an episode
    earned beyond the limit does not count.

    Args:
      data: the data set.
      limit: steps; 0: the length of the longest cut episode.
    """
    bounds, returns = data.episode_bounds(), data.episode_returns()
    lengths = (bounds[:, 1] - bounds[:, 0]).astype(np.float64)
    for at in np.flatnonzero(lengths > limit) if limit else ():
        first = bounds[at, 0]
        returns[at] = data.rewards[first : first + limit].astype(np.float64).sum()
        lengths[at] = limit
    is_cut = ~data.terminals[bounds[:, 1] - 1]  # [E]
    if not is_cut.any():
        return returns
    longest = lengths[is_cut].max()
    going_on = returns * np.maximum((limit or longest) / lengths, 1.0)
    going_on[lengths < 0.5 * longest] = np.nan
    return np.where(is_cut, going_on, returns)


def known_returns(data: Transitions, limit: int = 0) -> list[float]:
    """What each episode would have earned, where enough of it is there; see `full_returns`."""
    returns = full_returns(data, limit)
    return returns[np.isfinite(returns)].tolist()


def scores(data: Transitions) -> Array:
    """[E] return of each episode, less what its start lets expect; see `full_returns`.

    What is expected comes from a ridge regression on the first observation and its squares, each
    episode predicted without itself; where that leaves more than 80 % of the variance, it is the mean.
    Fragments, whose return is not known, are the worst.
    """
    returns, first = full_returns(data), data.episode_bounds()[:, 0]
    is_known = np.isfinite(returns)
    found = np.full(len(returns), -np.inf)
    found[is_known] = _scores(returns[is_known], data.observations[first[is_known]])
    return found


def _scores(returns: Array, first: Array) -> Array:
    """[E] returns, [E, S] first observations -> [E]."""
    starts = first.astype(np.float64)  # [E, S]
    spread = starts.std(axis=0)
    standard = (starts - starts.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    features = np.concatenate([standard, np.square(standard) - 1.0], axis=1)  # [E, 2 S]
    plain = returns - returns.mean()
    alone = min(
        (_left_out(features - features.mean(axis=0), plain, ridge) for ridge in _RIDGES),
        key=lambda errors: float(np.square(errors).mean()),
    )
    decides = np.square(alone).mean() < _EXPLAINED * np.square(plain).mean()
    return alone if decides else plain


def _left_out(features: Array, values: Array, ridge: float) -> Array:
    """Errors of a ridge regression on rows that it was fitted without; [E, F], [E], centred -> [E]."""
    gram = features.T @ features + ridge * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T)  # [F, E]
    leverage = np.einsum("ef,fe->e", features, weights) + 1.0 / len(values)
    return (values - features @ (weights @ values)) / np.maximum(1.0 - leverage, 0.1)


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
    chosen = np.zeros(len(data), bool)
    for episode in _chosen(data, share):
        chosen[slice(*bounds[episode])] = True
    train, held_out = (rows[chosen[rows]] for rows in split)
    return Split(train, held_out) if len(train) else Split(held_out, np.arange(0))


def best_with_held_out(data: Transitions, share: float, split: Split) -> Split:
    """As `best`; of these every tenth is held out where none of theirs was, but others' are."""
    train, held_out = best(data, share, split)
    if len(held_out) or not len(split.held_out):
        return Split(train, held_out)
    bounds = data.episode_bounds()
    episodes = np.unique(np.searchsorted(bounds[:, 0], train, side="right") - 1)
    if len(episodes) == 1:
        return Split(train, held_out)
    last = bounds[episodes[::_ONE_IN]]  # [n, 2]
    held_out = np.concatenate([np.arange(*each) for each in last])
    return Split(np.setdiff1d(train, held_out), held_out)


def _chosen(data: Transitions, share: float) -> Array:
    """Numbers of the best episodes."""
    count = len(data.episode_bounds())
    wanted = count if share >= 1.0 else max(1, round(share * count))
    return np.argsort(-scores(data), kind="stable")[:wanted]


def returns_to_come(
    data: Transitions, share: float, limit: int, passed: Array | None = None
) -> Array:
    """[limit, E] what the best episodes earn from each step on, up to the time limit, in the mean.

    An episode that ended earns nothing more. One that was cut goes on at its mean reward.

    Args:
      data: the data set.
      share: of the episodes; fragments, see `full_returns`, are left out where there are others.
      limit: steps.
      passed: [E] steps after which one begins to count, below the limit; the mean is over the episodes
        that got there. None: [1], none.
    """
    bounds, known = data.episode_bounds(), np.isfinite(full_returns(data))
    chosen = _chosen(data, share)
    chosen = chosen[known[chosen]] if known[chosen].any() else chosen
    total, got_there = np.zeros(limit), np.zeros(limit)
    for first, stop in bounds[chosen]:
        rewards = data.rewards[first : min(stop, first + limit)].astype(np.float64)
        total[: len(rewards)] += rewards
        if data.terminals[stop - 1]:
            got_there[: len(rewards)] += 1.0
        else:
            total[len(rewards) :] += rewards.mean()
            got_there += 1.0
    to_come = np.append(np.cumsum(total[::-1])[::-1], np.zeros(limit))
    passed = np.zeros(1, np.int64) if passed is None else passed
    from_there = to_come[np.arange(limit)[:, None] + passed]  # [limit, E]
    return from_there / np.maximum(got_there[passed], 1.0)
