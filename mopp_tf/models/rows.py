"""From Transitions to the columns that MOPP's models are fitted on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from offline_tf.numerics import standardize
from offline_tf.numerics.large_columns import derive
from offline_tf.types import Array, TaskSpec, Transitions, next_known


class RewardScale(NamedTuple):
    """scaled = (r - shift) / scale."""

    shift: float
    scale: float

    def apply(self, rewards: Array) -> Array:
        """[N] -> [N] float32."""
        return ((rewards - self.shift) / self.scale).astype(np.float32)


class Rows(NamedTuple):
    """Columns of N transitions; actions in the units of the bounds, that is in [-1, 1].

    Differs: every transition is there, terminal ones with their reward, which count in the scale of
    rewards too; the authors' reader drops those and pairs the last row of an episode that was cut with
    the first of the next.

    A terminal row without a next observation is there too. The dynamics models, and the units that all
    models share, are made from the other rows: their targets are s' and reward together.

    Attributes:
      states, next_states: [N, S]; next states may be NaN, see `next_known`.
      actions: [N, A].
      rewards: [N], scaled.
      terminals: [N] float32, 1 where no value follows.
      next_actions: [N, A], the action logged after it; 0 where the episode ends.
      has_next: [N] bool, whether there is such an action.
      weights: [N] float64, how often a row is drawn for the behaviour model, relative to the mean.
    """

    states: Array
    actions: Array
    rewards: Array
    next_states: Array
    terminals: Array
    next_actions: Array
    has_next: Array
    weights: Array

    @property
    def next_known(self) -> Array:
        """[N] bool, rows whose next state is known; see `types.next_known`."""
        return next_known(self.next_states, self.terminals)

    def at(self, rows: Array | slice) -> Rows:
        """These rows alone."""
        return Rows(*(column[rows] for column in self))


class Normalizer(NamedTuple):
    """Statistics of states, of actions, and of the S + 1 dynamics targets."""

    states: standardize.Statistics
    actions: standardize.Statistics
    targets: standardize.Statistics

    def standard_states(self, states: Any) -> Any:
        """[.., S] in the units of the data, arrays or tensors -> standardised."""
        return (states - self.states.shift) / self.states.scale


def reward_scale(rewards: Array, rule: str) -> RewardScale:
    """How rewards are scaled.

    Args:
      rewards: [N].
      rule: "none"; "range", r / (max - min); "minmax", (r - min) / (max - min).
    """
    low, high = float(rewards.min()), float(rewards.max())
    width = high - low if high > low else 1.0
    return {
        "none": RewardScale(0.0, 1.0),
        "range": RewardScale(0.0, width),
        "minmax": RewardScale(low, width),
    }[rule]


def episode_weights(data: Transitions, strength: float) -> Array:
    """[N] row weights exp(strength * standardised return of the row's episode), mean 1.

    Args:
      data: the data set.
      strength: 0 makes all weights 1.
    """
    returns = data.episode_returns()
    scores = (returns - returns.mean()) / max(float(returns.std()), 1e-8)
    bounds = data.episode_bounds()
    weights = np.repeat(np.exp(strength * scores), bounds[:, 1] - bounds[:, 0])
    return weights / weights.mean()


def prepare(
    task: TaskSpec, data: Transitions, scale: RewardScale, return_weighting: float = 0.0
) -> Rows:
    """Builds the columns.

    Args:
      task: for the bounds.
      data: in episode order.
      scale: of rewards.
      return_weighting: see `episode_weights`.
    """
    actions = derive(task.to_unit, data.actions)
    has_next = ~(data.terminals | data.timeouts)
    has_next[-1:] = False

    def following(rows: Array) -> Array:
        after = actions[np.minimum(rows + 1, len(actions) - 1)]
        return np.where(has_next[rows, None], after, np.float32(0.0))

    return Rows(
        data.observations,
        actions,
        scale.apply(data.rewards),
        data.next_observations,
        data.terminals.astype(np.float32),
        derive(following, np.arange(len(actions))),
        has_next,
        episode_weights(data, return_weighting),
    )


class Windows(NamedTuple):
    """Discounted rewards of up to n steps, within the episode.

    Attributes:
      rewards: [N], sum_{i < k} gamma^i r_{t+i}, k <= n where the episode ends sooner.
      last: [N] int64, row t + k - 1, beyond which a value may follow.
      discounts: [N], gamma^k.
    """

    rewards: Array
    last: Array
    discounts: Array


def windows(rows: Rows, steps: int, discount: float, followed: Array | None = None) -> Windows:
    """Sums rewards over n steps from each row on.

    Args:
      rows: in episode order.
      steps: n, at least 1.
      discount: gamma.
      followed: [N] bool, steps that the policy to be valued takes itself: a window goes on through
        these alone; None: through all.
    """
    last = np.arange(len(rows.rewards))
    rewards = rows.rewards.astype(np.float64)
    discounts = np.full(len(last), discount)
    for _ in range(steps - 1):
        goes_on = rows.has_next[last]
        if followed is not None:
            goes_on = goes_on & followed[np.minimum(last + 1, len(last) - 1)]
        last = last + goes_on
        rewards += np.where(goes_on, discounts * rows.rewards[last], 0.0)
        discounts = np.where(goes_on, discounts * discount, discounts)
    return Windows(rewards.astype(np.float32), last, discounts.astype(np.float32))


def dynamics_targets(rows: Rows, kind: str) -> Array:
    """[N, S + 1]: change of state ("delta") or next state ("absolute"), then the reward.

    NaN where the next state is not known.
    """
    states = rows.next_states - rows.states if kind == "delta" else rows.next_states
    return np.concatenate([states, rows.rewards[:, None]], axis=1)


def fit_normalizer(rows: Rows, kind: str, normalize: bool) -> Normalizer:
    """Statistics of the rows, or shift 0 and scale 1 where nothing is to be normalised.

    A dimension that never changes keeps scale 1.

    Args:
      rows: all of them, held-out ones too; those whose next state is not known do not count.
      kind: of the dynamics targets.
      normalize: whether to.
    """
    known = rows.next_known

    def of(block: Callable[[slice], Array]) -> standardize.Statistics:
        width = block(slice(0, 1)).shape[1]
        if not normalize:
            return standardize.Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))
        return standardize.with_flat_as_it_is(
            standardize.statistics_of(block, len(known), usable=known)
        )

    return Normalizer(
        of(lambda at: rows.states[at]),
        of(lambda at: rows.actions[at]),
        of(lambda at: dynamics_targets(rows.at(at), kind)),
    )
