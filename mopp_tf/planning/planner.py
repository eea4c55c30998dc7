"""MOPP on one page: one decision of the planner (Zhan et al. 2022, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mopp_tf.config import PlannerConfig
from mopp_tf.models import autoregressive_density
from mopp_tf.objectives import Objective
from mopp_tf.planning import averaging, pruning, rollout
from offline_tf.models import compilation
from offline_tf.types import TaskSpec, Tensor


class Decision(NamedTuple):
    """What one decision yields for E environments.

    Attributes:
      action: [E, A], to be executed, within the task's bounds.
      plan: [E, H, A], the plan for the next decision (shifted), in units of the bounds.
      returns, weights, keep: [E, N], of the candidates; returns in scaled rewards.
      expected_return: [E], weighted mean of the returns.
      return_spread: [E], standard deviation of the kept returns.
      effective_sample_size: [E], 1 / sum of squared weights.
      kept_share: [E], share of candidates that survived pruning or were chosen by the fallback.
      fallback: [E] bool, whether too few survived.
      weight_entropy: [E], -sum w ln w, in nats.
      disagreement: [E, H], weighted mean of the candidates'.
      states: [E, N, H + 1, S], of the candidates.
      trajectory: [E, H + 1, S], the states of the candidate with the largest weight.
    """

    action: Tensor
    plan: Tensor
    returns: Tensor
    weights: Tensor
    keep: Tensor
    expected_return: Tensor
    return_spread: Tensor
    effective_sample_size: Tensor
    weight_entropy: Tensor
    kept_share: Tensor
    fallback: Tensor
    disagreement: Tensor
    states: Tensor
    trajectory: Tensor


class Step(NamedTuple):
    """What the models say of B pairs of state and action.

    Attributes:
      next_states: [B, S], mean over the members.
      rewards: [B], in scaled rewards, mean over the members.
      terminated: [B] bool, the task ends in the next state.
      disagreement: [B], in knobs.uncertainty_units.
      known: [B] bool, the disagreement is not above the limit.
    """

    next_states: Tensor
    rewards: Tensor
    terminated: Tensor
    disagreement: Tensor
    known: Tensor


class Planner(tf.Module):
    """MOPP's planner over fitted models; `decide` is one graph for a whole decision.

    Attributes:
      groups: parts of the candidates that the graph rolls out independently, so that as many cores
        work at once.
    """

    groups = 2

    def __init__(
        self,
        task: TaskSpec,
        models: rollout.Models,
        knobs: PlannerConfig,
        limit: float,
        objective: Objective,
        dtype: tf.DType = tf.float32,
    ) -> None:
        """Holds the parts.

        Args:
          task: bounds and termination.
          models: behaviour, dynamics, Q.
          knobs: of the planner.
          limit: L, in knobs.uncertainty_units; not used where knobs.prune is False.
          objective: another reward and constraints; Objective(scale) for none.
          dtype: of the networks' products.
        """
        super().__init__()
        self.task = task
        self.knobs = knobs
        self.limit = limit if knobs.prune else float("inf")
        self._models = models
        self._objective = objective
        self._dtype = dtype
        self._middle = 0.5 * (task.action_high + task.action_low)
        self._half = 0.5 * (task.action_high - task.action_low)

    def in_one_piece(self) -> Planner:
        """The same planner in float32 with its candidates in one group, for another engine."""
        made = Planner(self.task, self._models, self.knobs, self.limit, self._objective)
        made.groups = 1
        return made

    def _group_sizes(self) -> list[int]:
        whole, rest = divmod(self.knobs.population, self.groups)
        sizes = [whole + (index < rest) for index in range(self.groups)]
        return [size for size in sizes if size]

    def initial_plan(self, observation: Tensor) -> Tensor:
        """The plan before the first decision: member 0's mode, H times; [E, S] -> [E, H, A]."""
        first = self._models.behavior.bind(self._dtype, constant=True)(0)
        mode = first.mode(self._models.behavior.inputs(observation))
        return tf.repeat(mode[:, None], self.knobs.horizon, axis=1)

    def behavior_value(self, observation: Tensor, seed: Tensor) -> Tensor:
        """The fitted value of the behaviour, [E, S] -> [E], in scaled rewards."""
        bound = rollout.Bound.of(self._models, self._dtype)
        components = self._models.behavior.components
        noise = autoregressive_density.Noise.draw(self._noise_shape([1]), components, seed)
        return rollout.state_value(self._models, bound, observation, self.knobs, 0, noise)

    def step(self, observation: Tensor, action: Tensor) -> Step:
        """What the dynamics models predict for [E, S] and actions [E, A] in the task's units."""
        dynamics = self._models.dynamics
        bounded = tf.clip_by_value(action, self.task.action_low, self.task.action_high)
        predict = dynamics.bind(self._dtype, constant=True)
        outputs = predict(observation, (bounded - self._middle) / self._half)
        following = tf.reduce_mean(dynamics.next_states(observation, outputs), axis=0)
        disagreement = dynamics.uncertainty(outputs, self.knobs.uncertainty_units)
        assert self.task.termination is not None, "see offline_tf/models/learned_task.py"
        return Step(
            following,
            tf.reduce_mean(dynamics.rewards(outputs), axis=0),
            compilation.of_task(self.task.termination)(following),
            disagreement,
            disagreement <= self.limit,
        )

    def _noise_shape(self, rows: Sequence[int | Tensor]) -> list[int | Tensor]:
        """Of proposals at one step, [K_Q, *rows, A]."""
        return [self.knobs.q_proposals, *rows, self.task.action_dim]

    def noise(self, environments: int | Tensor, seed: Tensor) -> rollout.Noise:
        """Draws all that is random in one decision.

        Args:
          environments: E.
          seed: [2] int32.

        Returns:
          rollout.Noise, proposals [H, K_Q, E, N, A], value [K_Q, 1, A] or [K_Q, E, N, A].
        """
        knobs, components = self.knobs, self._models.behavior.components
        which, draws, valuing = tf.unstack(tf.random.split(seed, 3))
        members = tf.random.stateless_uniform([knobs.horizon + 1, 2], which)
        candidates = [environments, knobs.population]
        shape = self._noise_shape(candidates)
        if not knobs.max_q:
            shape[0] = 1
        valuers = self._noise_shape([1] if knobs.value_noise == "common" else candidates)
        return rollout.Noise(
            self.members(members),
            autoregressive_density.Noise.draw([knobs.horizon, *shape], components, draws),
            autoregressive_density.Noise.draw(valuers, components, valuing),
        )

    def members(self, uniform: Tensor) -> Tensor:
        """Numbers in [0, 1), [.., 2] -> numbers of a behaviour and a dynamics member, int32."""
        sizes = [self._models.behavior.size, self._models.dynamics.size]
        return tf.cast(uniform * sizes, tf.int32)

    def decide(self, observation: Tensor, plan: Tensor, seed: Tensor) -> Decision:
        """Plans one step of E environments.

        Args:
          observation: [E, S].
          plan: [E, H, A], of the last decision, or `initial_plan`.
          seed: [2] int32; the same seed gives the same decision.

        Returns:
          A Decision.
        """
        count = observation.shape[0] or tf.shape(observation)[0]
        return self.decide_given(observation, plan, self.noise(count, seed))

    def decide_given(self, observation: Tensor, plan: Tensor, noise: rollout.Noise) -> Decision:
        """As `decide`, with the noise that it draws given."""
        knobs = self.knobs
        bound = rollout.Bound.of(self._models, self._dtype)

        # Roll out N candidates per environment, guided by boosted behaviour and max-Q.
        parts, first = [], 0
        for count in self._group_sizes():
            part = rollout.roll_out(
                self.task,
                self._models,
                bound,
                self._objective,
                knobs,
                tf.repeat(observation, count, axis=0),
                tf.repeat(plan, count, axis=0),
                _of_candidates(noise, first, count),
            )
            first += count
            parts.append([tf.reshape(x, [-1, count, *x.shape[1:]]) for x in part])
        found = rollout.Candidates(*(tf.concat(x, axis=1) for x in zip(*parts, strict=True)))

        # Prune what the ensemble disagrees about; a return that is not finite counts as unknown.
        finite = tf.math.is_finite(found.returns)
        doubt = tf.where(finite[:, :, None], found.uncertainty, float("inf"))
        pruned = pruning.prune(doubt, found.violation, self.limit, knobs.least, knobs.fallback)
        returns = found.returns
        if knobs.uncertainty_penalty:
            excess = tf.where(found.uncertainty > self.limit, found.uncertainty, 0.0)
            price = knobs.uncertainty_penalty * tf.cast(pruned.fallback, tf.float32)
            returns -= price[:, None] * tf.reduce_sum(excess, axis=2)

        # Average the rest by their returns; shift the plan.
        average = averaging.weighted_average(
            found.actions,
            returns,
            pruned.keep,
            knobs.inverse_temperature,
            knobs.temperature_units == "relative",
        )
        action = tf.clip_by_value(average.plan[:, 0], -1.0, 1.0)
        best = tf.argmax(average.weights, axis=1)
        return Decision(
            action=self._middle + self._half * action,
            plan=tf.concat([average.plan[:, 1:], average.plan[:, -1:]], axis=1),
            returns=returns,
            weights=average.weights,
            keep=pruned.keep,
            expected_return=tf.reduce_sum(
                tf.where(pruned.keep, average.weights * returns, 0.0), axis=1
            ),
            return_spread=averaging.spread(returns, pruned.keep),
            effective_sample_size=average.effective_sample_size,
            weight_entropy=averaging.entropy(average.weights),
            kept_share=tf.reduce_mean(tf.cast(pruned.keep, tf.float32), axis=1),
            fallback=pruned.fallback,
            disagreement=tf.reduce_sum(
                tf.where(
                    pruned.keep[:, :, None], average.weights[:, :, None] * found.uncertainty, 0.0
                ),
                axis=1,
            ),
            states=found.states,
            trajectory=tf.gather(found.states, best, batch_dims=1),
        )


def _of_candidates(noise: rollout.Noise, first: int, count: int) -> rollout.Noise:
    """[.., E, N, ..] -> [.., E * count, ..] of `count` candidates from `first` on."""

    def flat(values: Tensor, axis: int) -> Tensor:
        some = values[(slice(None),) * (axis + 1) + (slice(first, first + count),)]
        return tf.reshape(some, [*some.shape[:axis], -1, *some.shape[axis + 2 :]])

    value = noise.value
    if value.normal.shape.rank == 4:  # each candidate's own
        value = value.each(lambda x: flat(x, 1))
    return noise._replace(proposals=noise.proposals.each(lambda x: flat(x, 2)), value=value)
