"""What a policy is worth by the data alone: fitted Q evaluation of its mean action (Le et al. 2019).

One-step targets, because the data are another policy's. Fitted values of a policy that goes where the
data do not are extrapolations: read them beside the detector's share of known actions.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from offline_tf.models import critics, fitting, networks
from offline_tf.numerics import holdout, seeds, standardize
from offline_tf.numerics.large_columns import derive
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor, Transitions

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
    units, of_actions = (
        standardize.with_flat_as_it_is(standardize.statistics(values))
        for values in (data.observations, data.actions)
    )
    q = critics.QFunction(units, task.action_dim, _HIDDEN, seed)
    scale = float(np.sqrt(np.square(data.rewards, dtype=np.float64).mean())) or 1.0
    split = holdout.split_episodes(data.episode_bounds(), _HOLDOUT_SHARE, seed)

    def standard(actions: Array) -> Array:
        return ((task.clip_actions(actions) - of_actions.shift) / of_actions.scale).astype(
            np.float32
        )

    def act(observations: Array) -> Array:
        return standard(policy.mean(observations))

    after = derive(act, data.next_observations)

    # Beyond the range of each dimension Q is that of its edge: extrapolation would feed on itself.
    least, largest = data.observations.min(axis=0), data.observations.max(axis=0)

    def gather(rows: Array) -> tuple[Array, ...]:
        return (
            data.observations[rows],
            standard(data.actions[rows]),
            data.rewards[rows] / np.float32(scale),
            np.clip(data.next_observations[rows], least, largest),
            data.terminals[rows].astype(np.float32),
            np.full(len(rows), discount, np.float32),
            after[rows],
        )

    dtype = networks.product_dtype("float32")

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        (batch,) = batches
        return [tf.reduce_sum(critics.errors(q, batch, dtype)[0])]

    loop = fitting.Fit(q.weights, loss, before_step=lambda: q.move_targets(_TARGET_RATE))
    stage.track([*q.weights, *q.target_weights, *loop.adam.moments])
    feed = fitting.Feed(gather, split.train)
    held = [tf.constant(column) for column in gather(split.judged(_STARTS))]
    fitting.fit_to_draws(
        loop,
        feed,
        lambda done: seeds.generator(seed, "policy_value/rows", done),
        stage,
        steps,
        _STEPS_PER_SAVE,
        _BATCH,
        _LEARNING_RATE,
        lambda: {"td_error": float(critics.errors(q, held, dtype)[0].numpy().mean())},
    )
    bounds = data.episode_bounds()
    bounds = bounds[np.linspace(0, len(bounds) - 1, min(len(bounds), _STARTS)).astype(np.int64)]
    first = data.observations[bounds[:, 0]]
    values = q.bind()(tf.constant(first), tf.constant(act(first))).numpy()
    return dict(
        stage.finish(
            {
                "fqe_value": scale * float(values.mean()),
                "fqe_gap": scale * float(np.abs(values[0] - values[1]).mean()),
                "fqe_discount": discount,
                "data_value": discounted_returns(data, bounds, discount),
            }
        )
    )


def discounted_returns(
    data: Transitions, bounds: Array, discount: float, shift: float = 0.0
) -> float:
    """Mean discounted return of rewards less `shift`, over the episodes in `bounds`, [E, 2]."""
    rewards = (data.rewards[start:end].astype(np.float64) - shift for start, end in bounds)
    return float(np.mean([r @ discount ** np.arange(len(r)) for r in rewards]))
