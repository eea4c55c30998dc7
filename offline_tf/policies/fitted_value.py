"""What a policy is worth by the data alone: fitted Q evaluation of its mean action (Le et al. 2019).

One-step targets, because the data are another policy's. Fitted values of a policy that goes where the
data do not are extrapolations: read them beside the detector's share of known actions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from offline_tf.models import (
    critics,
    devices,
    fitted_q_evaluation,
    fitting,
    minibatches,
    networks,
    training_loop,
)
from offline_tf.numerics import holdout, seeds, standardize
from offline_tf.numerics.large_columns import derive
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Transitions

_HIDDEN = (256, 256)
_STEPS = 10_000
_STEPS_PER_SAVE = 1000
_BATCH = 256
_LEARNING_RATE = 1e-3
_TARGET_RATE = 0.05  # with 10,000 steps and a discount of 0.97 fifteen time constants: settled
_HOLDOUT_SHARE = 0.05
_STARTS = 4096


def fit_or_load(
    policy: NumpyPolicy,
    *,
    task: TaskSpec,
    data: Transitions,
    discount: float,
    seed: int,
    stage: Stage,
    steps: int | None = None,
) -> dict[str, float]:
    """Fits Q of the policy; goes on from the stage's last checkpoint, or reads its result.

    Args:
      policy: to be valued; acts by its mean.
      task: bounds of the actions.
      data: the transitions; up to 4096 episode starts are valued.
      discount: gamma.
      seed: of weights and minibatches.
      stage: where checkpoints and metrics go.
      steps: of Adam; None: 10,000.

    Returns:
      In units of the rewards, means over episode starts: "fqe_value", the policy's, which goes on
      beyond time limits; "data_value", the discounted returns that followed in the data up to each
      episode's end; "fqe_gap", the mean distance of the twins there; "fqe_discount".
    """
    if stage.complete:
        return dict(stage.result)
    steps = _STEPS if steps is None else steps
    state_units, action_units = (
        standardize.with_flat_as_it_is(standardize.statistics(values))
        for values in (data.observations, data.actions)
    )
    # Each worker has planned a policy of its own, which may differ from the others' in the last bits.
    q = critics.QFunction(
        state_units, task.action_dim, _HIDDEN, seed, is_shared=devices.workers() == 1
    )
    reward_scale = float(np.sqrt(np.square(data.rewards, dtype=np.float64).mean())) or 1.0

    def standard(actions: Array) -> Array:
        clipped = task.clip_actions(actions)
        return ((clipped - action_units.shift) / action_units.scale).astype(np.float32)

    def act(observations: Array) -> Array:
        return standard(policy.mean(observations))

    gather = _batches(data, standard, act, reward_scale, discount)
    split = holdout.split_episodes(
        data.episode_bounds(), _HOLDOUT_SHARE, seed, by_time=task.log is not None
    )
    _fit(q, gather=gather, split=split, seed=seed, stage=stage, steps=steps)
    bounds = data.episode_bounds()
    bounds = bounds[np.linspace(0, len(bounds) - 1, min(len(bounds), _STARTS)).astype(np.int64)]
    starts = data.observations[bounds[:, 0]]
    values = q.bind()(tf.constant(starts), tf.constant(act(starts))).numpy()  # [2, E]
    return dict(
        stage.finish(
            {
                "fqe_value": reward_scale * float(values.mean()),
                "fqe_gap": reward_scale * float(np.abs(values[0] - values[1]).mean()),
                "fqe_discount": discount,
                "data_value": discounted_returns(data, bounds, discount),
            }
        )
    )


def _batches(
    data: Transitions,
    standard: Callable[[Array], Array],
    act: Callable[[Array], Array],
    reward_scale: float,
    discount: float,
) -> Callable[[Array], critics.Batch]:
    """Row numbers [n] -> one-step transitions in the units of Q.

    Beyond the range of each dimension Q is that of its edge: extrapolation would feed on itself.

    Args:
      data: the transitions.
      standard: the task's actions [n, A] -> in units near 1.
      act: observations [n, S] -> the policy's actions in these units.
      reward_scale: what rewards are divided by.
      discount: gamma.
    """
    next_actions = derive(
        lambda *columns: act(critics.states_to_value(*columns)),
        data.observations,
        data.next_observations,
        data.terminals,
    )
    low, high = data.observations.min(axis=0), data.observations.max(axis=0)

    def gather(rows: Array) -> critics.Batch:
        next_states = critics.states_to_value(
            data.observations[rows], data.next_observations[rows], data.terminals[rows]
        )
        return critics.Batch(
            states=data.observations[rows],
            actions=standard(data.actions[rows]),
            rewards=data.rewards[rows] / np.float32(reward_scale),
            next_states=np.clip(next_states, low, high),
            terminals=data.terminals[rows].astype(np.float32),
            discounts=np.full(len(rows), discount, np.float32),
            next_actions=next_actions[rows],
        )

    return gather


def _fit(
    q: critics.QFunction,
    *,
    gather: Callable[[Array], critics.Batch],
    split: holdout.Split,
    seed: int,
    stage: Stage,
    steps: int,
) -> None:
    """Fits Q on rows drawn with replacement; `gather` is of `_batches`."""
    feed = minibatches.Feed(gather, split.train)
    judged = critics.Batch(*map(tf.constant, gather(split.judged(_STARTS))))
    dtype = networks.product_dtype("float32")

    def look() -> dict[str, float]:
        squared_errors, _ = critics.errors(q, judged, dtype)
        return {"td_error": float(squared_errors.numpy().mean())}

    def rows(done: int, count: int) -> Array:
        stream = seeds.generator(seed, "policy_value/rows", done)
        return minibatches.drawn_batches([stream], len(feed), count, _BATCH)

    fitted_q_evaluation.fit(
        q,
        feed=lambda done: feed,
        schedule=training_loop.by_steps(
            steps, _STEPS_PER_SAVE, rows, functools.partial(fitting.cosine, _LEARNING_RATE, 0.0)
        ),
        look=look,
        stage=stage,
        steps_per_call=_STEPS_PER_SAVE,
        target_rate=_TARGET_RATE,
        dtype=dtype,
    )


def discounted_returns(
    data: Transitions, bounds: Array, discount: float, shift: float = 0.0
) -> float:
    """Mean discounted return of rewards less `shift`, over the episodes in `bounds`, [E, 2]."""
    rewards = (data.rewards[start:end].astype(np.float64) - shift for start, end in bounds)
    return float(np.mean([r @ discount ** np.arange(len(r)) for r in rewards]))
