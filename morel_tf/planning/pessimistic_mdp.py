"""The pessimistic MDP (MOReL, section 4): the learned model until the first unknown pair, then HALT.

Three pure functions: `start_rows`, `step`, `roll_out`. A path's state is (state, halted).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from morel_tf.config import PmdpConfig
from morel_tf.models import usad
from offline_tf.models import compilation, devices, networks
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.models.given_signals import GivenSignals
from offline_tf.policies.gaussian import GaussianPolicy
from offline_tf.tasks import closed_form
from offline_tf.types import Array, TaskSpec, Tensor


class PessimisticMdp(NamedTuple):
    """What the P-MDP is made of.

    Attributes:
      task: reward, termination, clipping of observations.
      physics: which reward.
      ensemble: the models.
      weights: [S], the detector's space.
      threshold: of the disagreement.
      halt_reward: min_D(r) - offset, paid once; not with halt="truncate".
      halted_reward: what each step after HALT costs until the horizon: the data's mean reward where
        that is below 0, else 0. Without it HALT would be cheaper than going on where rewards are costs.
        They are paid at once and so not discounted: HALT costs more than the same steps would.
      config: the knobs.
      given: signals that follow the log; None: there are none.
    """

    task: TaskSpec
    physics: str
    ensemble: GaussianEnsemble
    weights: Array
    threshold: float
    halt_reward: float
    halted_reward: float
    config: PmdpConfig
    given: GivenSignals | None = None


def make(
    task: TaskSpec,
    *,
    physics: str,
    ensemble: GaussianEnsemble,
    weights: Array,
    threshold: float,
    least_reward: float,
    mean_reward: float,
    config: PmdpConfig,
    given: GivenSignals | None = None,
) -> PessimisticMdp:
    """Builds the P-MDP; rewards are the data's, the rest as in `PessimisticMdp`."""
    return PessimisticMdp(
        task=task,
        physics=physics,
        ensemble=ensemble,
        weights=weights,
        threshold=threshold,
        halt_reward=least_reward - config.halt_offset,
        halted_reward=min(0.0, mean_reward),
        config=config,
        given=given,
    )


class Step(NamedTuple):
    """One step of K paths.

    Attributes:
      next_states: [K, S]; a halted path stays where it is, and with halt="truncate" one that meets an
        unknown pair.
      rewards: [K]; 0 once halted.
      unknown: [K] bool, HALT was entered in this step.
      terminated: [K] bool, the task ended, or HALT was entered, in this step, and nothing is to be
        expected after it; see `step` for halt="truncate".
      halted: [K] bool, nothing happens any more.
      disagreement: [K].
      rows: [K] int32, where each path stands in the log after the step.
    """

    next_states: Tensor
    rewards: Tensor
    unknown: Tensor
    terminated: Tensor
    halted: Tensor
    disagreement: Tensor
    rows: Tensor


class RollOut(NamedTuple):
    """[H, K, ...] block of paths; rows with valid = False did not happen, and hold zeros."""

    observations: Tensor  # [H, K, S]
    actions: Tensor  # [H, K, A]
    rewards: Tensor  # [H, K]
    next_observations: Tensor  # [H, K, S]
    terminated: Tensor  # [H, K]
    unknown: Tensor  # [H, K]
    valid: Tensor  # [H, K]
    disagreement: Tensor  # [H, K]


def observe(task: TaskSpec, states: Tensor) -> Tensor:
    """[.., S] states -> [.., S] observations: clips the velocities where the task does."""
    if task.velocity_limit is None:
        return states
    bound = np.full(task.state_dim, np.inf, np.float32)  # [S]
    bound[list(task.velocity_indices)] = task.velocity_limit
    return tf.clip_by_value(states, -bound, bound)


def start_mix(config: PmdpConfig, task: TaskSpec) -> float:
    """Share of start states that are drawn from all data.

    Without --start_mix a plant's log is begun anywhere: it is one long series, and where its pieces
    begin says nothing.
    """
    if config.start_mix is not None:
        return config.start_mix
    return 0.0 if task.log is None else 1.0


def start_rows(
    first_rows: Array, rows: int, pmdp: PessimisticMdp, generator: np.random.Generator
) -> Array:
    """Draws the rows that one update starts from: those of the data's episode starts, or of all.

    Args:
      first_rows: [E], of episodes.
      rows: N.
      pmdp: its knobs paths_per_member and start_mix, and its task.
      generator: draws.

    Returns:
      [paths_per_member]; every member starts from the same ones.
    """
    count, mix = pmdp.config.paths_per_member, start_mix(pmdp.config, pmdp.task)
    chosen = first_rows[generator.integers(len(first_rows), size=count)]
    mixed = generator.uniform(size=count) < mix
    return np.where(mixed, generator.integers(rows, size=count), chosen)


def step(
    pmdp: PessimisticMdp,
    *,
    outputs: Tensor,
    member: Tensor,
    states: Tensor,
    actions: Tensor,
    halted: Tensor,
    noise: Tensor | None,
    remaining: Tensor | int = 0,
    rows: Tensor | None = None,
) -> Step:
    """Advances K paths by one step.

    At the first unknown (s, a) the step's reward becomes the HALT reward, what the remaining steps cost
    in HALT is added, and the path is over; a halted path pays 0 for ever.

    Differs: the paper's HALT goes on paying -kappa. Here that is one payment, and -kappa is no more
    than the data's mean cost; where the data's mean reward is above 0, nothing is paid after it. With
    halt="truncate" (the authors' code) neither HALT nor, where there is a detector, a fall counts as
    termination, so the planner bootstraps there. What the models say of the unknown pair enters
    nothing: its reward is that of staying, and the planner bootstraps from the last known state, as in
    the authors' code, whose reward knows no next state. Their code also
    drops paths of fewer than 5 states and keeps at least 4 steps of a truncated one; here every path
    counts as it is. Rewards and falls are the simulator's own; their gym_hopper.py has a reward of s
    and a alone, a fall at a smaller angle, and gives the unhealthy state one more step.

    Args:
      pmdp: the P-MDP.
      outputs: [M, K, width] raw member outputs at (states, actions).
      member: [K] int32, whose model each path follows.
      states: [K, S].
      actions: [K, A], within the bounds.
      halted: [K] bool.
      noise: [K, S] standard normal draws, or None for the mean.
      remaining: steps after this one until the horizon.
      rows: [K] int32, where each path stands in the log; None: given signals stay as they are.

    Returns:
      A Step.
    """
    ensemble, task = pmdp.ensemble, pmdp.task
    disagreement = usad.disagreement_of(ensemble, outputs, pmdp.weights)  # [K]
    own = networks.of_members(outputs, member)  # [K, width]
    deltas = ensemble.means(own)  # [K, S]
    if noise is not None:
        deltas += noise * ensemble.noise(own)
    proposed = ensemble.next_states(states, deltas)  # [K, S]
    proposed = closed_form.with_the_past(task, states, actions, proposed)
    if rows is None:
        rows = tf.zeros_like(member)
    elif pmdp.given is not None:
        proposed, rows = pmdp.given.after(rows, proposed)
    # A disagreement that is no number is unknown, whatever the threshold. (In a graph TensorFlow makes
    # ~(a <= b) to a > b, which is False then.)
    above = (disagreement > pmdp.threshold) | tf.math.is_nan(disagreement)  # [K]
    unknown = above & ~halted
    if pmdp.config.halt == "truncate":
        proposed = tf.where(unknown[:, None], states, proposed)
    assert task.reward is not None and task.termination is not None, "see learned_task"
    fallen = compilation.of_task(task.termination)(proposed) & ~halted  # [K]
    rewards = compilation.of_task(task.reward)(states, actions, proposed, pmdp.physics)
    if pmdp.config.halt == "absorbing":
        rest = tf.cast(remaining, tf.float32) * pmdp.halted_reward
        rewards = tf.where(unknown, pmdp.halt_reward + rest, rewards)
        terminated = unknown | fallen
    elif math.isinf(pmdp.threshold):  # without a detector the authors' flag says what it should
        terminated = fallen
    else:
        terminated = tf.zeros_like(unknown)
    over = halted | unknown | fallen  # [K]
    return Step(
        next_states=tf.where(halted[:, None], states, proposed),
        rewards=tf.where(halted, 0.0, rewards),
        unknown=unknown,
        terminated=terminated,
        halted=over,
        disagreement=disagreement,
        rows=rows,
    )


class Bound(NamedTuple):
    """Models and policy with their weights read once.

    Attributes:
      predict: (states [k, S], actions [k, A]) -> raw member outputs [M, k, width].
      mean: observations [k, S] -> [k, A].
      std: [A], of the policy's draws.
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    mean: Callable[[Tensor], Tensor]
    std: Tensor

    @classmethod
    def of(cls, pmdp: PessimisticMdp, policy: GaussianPolicy) -> Bound:
        """Reads the weights."""
        dtype = networks.product_dtype(pmdp.config.rollout_precision)
        predict = pmdp.ensemble.bind(dtype, bounded=pmdp.config.model_actions == "clipped")
        return cls(predict, policy.bind(), tf.exp(policy.log_std))


def roll_out(
    pmdp: PessimisticMdp,
    *,
    policy: GaussianPolicy,
    starts: Tensor,
    member: Tensor,
    seed: Tensor,
    rows: Tensor | None = None,
    whole: bool = False,
    bound: Bound | None = None,
) -> RollOut:
    """Rolls K paths out for at most H steps, all members and paths in one tf.while_loop.

    The loop ends early when every path is over, and a path that is over costs nothing more.

    Args:
      pmdp: the P-MDP.
      policy: draws actions; sees observations.
      starts: [K, S] states.
      member: [K] int32, one model per whole path.
      seed: [2] int32.
      rows: [K] int32, of the starts in the log, where the P-MDP has given signals.
      whole: whether the result has H rows, zeros after the loop's end, and not as many as the loop ran,
        and paths that are over are computed on; for XLA, which needs shapes that are known before.
      bound: models and policy, where others share them.

    Returns:
      A RollOut.
    """
    task, config = pmdp.task, pmdp.config
    tf.debugging.assert_shapes([(starts, ("K", task.state_dim)), (member, ("K",))])
    count, horizon = tf.shape(starts)[0], config.horizon
    predict, mean_of, std = bound or Bound.of(pmdp, policy)
    action_noise = tf.random.stateless_normal([horizon, count, task.action_dim], seed)  # [H, K, A]
    sample_states = config.rollout_noise == "sample"

    def body(t: Tensor, states: Tensor, at: Tensor, halted: Tensor, out: tuple) -> tuple:
        index = None if whole else tf.where(~halted)  # [k, 1], paths that go on

        def of_these(values: Tensor) -> Tensor:  # [K, ..] -> [k, ..]
            return values if index is None else tf.gather_nd(values, index)

        def among_all(values: Tensor, others: Tensor) -> Tensor:  # [k, ..], [K, ..] -> [K, ..]
            return values if index is None else tf.tensor_scatter_nd_update(others, index, values)

        here = of_these(states)  # [k, S]
        observations = observe(task, here)  # [k, S]
        drawn = mean_of(observations) + std * of_these(action_noise[t])  # [k, A]
        actions = closed_form.executable(task, here, drawn)
        noise = None
        if sample_states:
            step_seed = tf.stack([seed[0] + t, seed[1] + 1])
            noise = of_these(tf.random.stateless_normal(tf.shape(states), step_seed))  # [k, S]
        result = step(
            pmdp,
            outputs=predict(here, drawn if task.action_change is None else actions),
            member=of_these(member),
            states=here,
            actions=actions,
            halted=of_these(halted),
            noise=noise,
            remaining=horizon - 1 - t,
            rows=None if rows is None else of_these(at),
        )
        # Columns side by side: one operation for all costs what it does for one.
        numbers = [observations, drawn, observe(task, result.next_states)]
        numbers += [result.rewards[:, None], result.disagreement[:, None]]
        is_so = [result.terminated, result.unknown, ~of_these(halted)]
        row = tf.concat(numbers, axis=1), tf.stack(is_so, axis=1)
        out = tuple(
            array.write(t, tf.where(~halted[:, None], x, empty) if whole else among_all(x, empty))
            for array, x, empty in zip(out, row, empties, strict=True)
        )
        return (
            t + 1,
            among_all(result.next_states, states),
            among_all(tf.cast(result.rows, at.dtype), at),
            among_all(result.halted, halted),
            out,
        )

    s, a = task.state_dim, task.action_dim
    empties = tf.zeros([count, s + a + s + 2]), tf.zeros([count, 3], tf.bool)
    fields = tuple(
        tf.TensorArray(empty.dtype, size=horizon, element_shape=[starts.shape[0], empty.shape[1]])
        for empty in empties
    )
    at = tf.zeros_like(member) if rows is None else rows
    steps, _, _, _, out = tf.while_loop(
        lambda t, states, at, halted, out: (t < horizon) & ~tf.reduce_all(halted),
        body,
        (tf.constant(0), starts, at, tf.zeros([count], tf.bool), fields),
        parallel_iterations=1,
    )
    numbers, is_so = (array.stack() if whole else array.gather(tf.range(steps)) for array in out)
    observations, actions, following, others = tf.split(numbers, [s, a, s, 2], axis=2)
    terminated, unknown, valid = tf.unstack(is_so, axis=2)
    return RollOut(
        observations=observations,
        actions=actions,
        rewards=others[..., 0],
        next_observations=following,
        terminated=terminated,
        unknown=unknown,
        valid=valid,
        disagreement=others[..., 1],
    )


def roll_out_in_groups(
    pmdp: PessimisticMdp,
    *,
    policy: GaussianPolicy,
    starts: Tensor,
    member: Tensor,
    seed: Tensor,
    rows: Tensor | None = None,
    groups: int = 2,
    whole: bool = False,
) -> RollOut:
    """Like `roll_out`, in independent loops that TensorFlow runs side by side.

    The steps of one loop follow one another and are too small to fill two cores. The number of groups
    is fixed, so that results do not depend on the number of cores. With --devices each has one.

    Args:
      pmdp, policy, starts, member: as in `roll_out`; K is a multiple of `groups`.
      seed: [2] int32; group g draws from seed + [0, 2 g].
      rows: as in `roll_out`.
      groups: number of loops.
      whole: as in `roll_out`.

    Returns:
      A RollOut; paths in the order of `starts`, steps padded to the longest group.
    """
    bound = Bound.of(pmdp, policy)  # here: XLA cannot read variables of another device

    @compilation.of_part
    def of_group(starts: Tensor, member: Tensor, seed: Tensor, rows: Tensor | None) -> RollOut:
        return roll_out(
            pmdp,
            policy=policy,
            starts=starts,
            member=member,
            seed=seed,
            rows=rows,
            whole=whole,
            bound=bound,
        )

    parts = []
    for group, (part_starts, part_member, part_rows) in enumerate(
        zip(
            tf.split(starts, groups),
            tf.split(member, groups),
            [None] * groups if rows is None else tf.split(rows, groups),
            strict=True,
        )
    ):
        part_seed = seed + tf.constant([0, 2 * group])
        with devices.part(group):
            parts.append(of_group(part_starts, part_member, part_seed, part_rows))
    if whole:
        return RollOut(*(tf.concat(columns, axis=1) for columns in zip(*parts, strict=True)))
    steps = tf.reduce_max(tf.stack([tf.shape(part.valid)[0] for part in parts]))

    def joined(*columns: Tensor) -> Tensor:
        padded = [
            tf.pad(x, [[0, steps - tf.shape(x)[0]]] + [[0, 0]] * (len(x.shape) - 1))
            for x in columns
        ]
        return tf.concat(padded, axis=1)

    return RollOut(*(joined(*columns) for columns in zip(*parts, strict=True)))
