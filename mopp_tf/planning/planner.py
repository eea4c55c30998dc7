"""MOPP on one page: one decision of the planner (Zhan et al. 2022, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mopp_tf.config import PlannerConfig
from mopp_tf.models import autoregressive_density
from mopp_tf.objectives import Objective
from mopp_tf.planning import pruning, rollout
from mopp_tf.planning.decision import Candidates, Decision, by_environment, decide_among
from offline_tf.models import compilation, devices
from offline_tf.tasks import closed_form
from offline_tf.types import TaskSpec, Tensor


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
        work at once; as many as --devices where these are more.
    """

    groups = 2

    def __init__(
        self,
        task: TaskSpec,
        *,
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
        whole = Planner(
            self.task,
            models=self._models,
            knobs=self.knobs,
            limit=self.limit,
            objective=self._objective,
        )
        whole.groups = 1
        return whole

    def _group_sizes(self) -> list[int]:
        """Candidates per group; they add up to N."""
        groups = max(self.groups, devices.here())
        whole, remainder = divmod(self.knobs.population, groups)
        sizes = [whole + (index < remainder) for index in range(groups)]
        return [size for size in sizes if size]

    def initial_plan(self, observation: Tensor) -> Tensor:
        """The plan before the first decision: member 0's mode, H times; [E, S] -> [E, H, A]."""
        member = self._models.behavior.bind(self._dtype, constant=True)(0)
        mode = member.mode(self._models.behavior.inputs(observation))  # [E, A]
        return tf.repeat(mode[:, None], self.knobs.horizon, axis=1)

    def behavior_value(self, observation: Tensor, seed: Tensor) -> Tensor:
        """The fitted value of the behaviour, [E, S] -> [E], in scaled rewards."""
        bound = rollout.Bound.of(self._models, self._dtype)
        components = self._models.behavior.components
        noise = autoregressive_density.Noise.draw(self._noise_shape([1]), components, seed)
        return rollout.state_value(
            models=self._models,
            bound=bound,
            states=observation,
            knobs=self.knobs,
            member=0,
            noise=noise,
        )

    def step(self, observation: Tensor, action: Tensor) -> Step:
        """What the dynamics models predict for [E, S] and actions [E, A] in the task's units."""
        every = self.forecast(observation, action)
        next_states = tf.reduce_mean(every.next_states, axis=0)  # [E, S]
        assert self.task.termination is not None, "see offline_tf/models/learned_task.py"
        return every._replace(
            next_states=next_states,
            rewards=tf.reduce_mean(every.rewards, axis=0),
            terminated=compilation.of_task(self.task.termination)(next_states),
        )

    def forecast(self, observation: Tensor, action: Tensor) -> Step:
        """The same of each member: next states [K, E, S], rewards and ends [K, E]."""
        dynamics = self._models.dynamics
        bounded = closed_form.executable(self.task, observation, action)
        in_units = (bounded - self._middle) / self._half  # [E, A]
        predict = dynamics.bind(self._dtype, constant=True)
        outputs = predict(observation, in_units)  # [K, E, S + 1]
        next_states = dynamics.next_states(observation, outputs)  # [K, E, S]
        next_states = closed_form.with_the_past(self.task, observation, bounded, next_states)
        members = zip(tf.unstack(next_states), tf.unstack(dynamics.rewards(outputs)), strict=True)
        rewards = [self._objective.own(observation, in_units, *each) for each in members]
        disagreement = dynamics.uncertainty(outputs, self.knobs.uncertainty_units)  # [E]
        assert self.task.termination is not None, "see offline_tf/models/learned_task.py"
        ends = compilation.of_task(self.task.termination)
        return Step(
            next_states=next_states,
            rewards=tf.stack(rewards),  # [K, E]
            terminated=tf.stack([ends(each) for each in tf.unstack(next_states)]),
            disagreement=disagreement,
            known=disagreement <= self.limit,
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
        member_seed, proposal_seed, value_seed = tf.unstack(tf.random.split(seed, 3))
        uniform = tf.random.stateless_uniform([knobs.horizon + 1, 2], member_seed)
        candidates = [environments, knobs.population]
        at_one_step = self._noise_shape(candidates)
        if not knobs.max_q:
            at_one_step[0] = 1
        of_values = self._noise_shape([1] if knobs.value_noise == "common" else candidates)
        draw = autoregressive_density.Noise.draw
        return rollout.Noise(
            members=self.members(uniform),
            proposals=draw([knobs.horizon, *at_one_step], components, proposal_seed),
            value=draw(of_values, components, value_seed),
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
        # Compiled as the parts are: XLA draws other numbers than TensorFlow's kernels.
        noise = compilation.of_part(self.noise)(count, seed)
        return self.decide_given(observation, plan, noise)

    def decide_given(self, observation: Tensor, plan: Tensor, noise: rollout.Noise) -> Decision:
        """As `decide`, with the noise that it draws given."""
        knobs = self.knobs

        # Roll out N candidates per environment, guided by boosted behaviour and max-Q.
        candidates = self._roll_out(observation, plan, noise)  # [E, N, ..]

        # Prune what the ensemble disagrees about; a return that is not finite counts as unknown.
        finite = tf.math.is_finite(candidates.returns)  # [E, N]
        disagreement = tf.where(finite[:, :, None], candidates.disagreement, float("inf"))
        pruned = pruning.prune(
            disagreement=disagreement,
            violation=candidates.violation,
            limit=self.limit,
            least=knobs.least,
            rule=knobs.fallback,
        )
        if knobs.uncertainty_penalty:
            candidates = self._penalize(candidates, pruned.fallback)

        # Average the rest by their returns; execute the first action; shift the plan.
        return decide_among(
            candidates, pruned, knobs, execute=self._in_bounds, hand_on=_one_step_on
        )

    def _roll_out(self, observation: Tensor, plan: Tensor, noise: rollout.Noise) -> Candidates:
        """Candidates [E, N, ..]: observation [E, S], plan [E, H, A]; groups do not wait for others."""
        bound = None if devices.here() > 1 else rollout.Bound.of(self._models, self._dtype)

        @compilation.of_part
        def of_group(states: Tensor, plan: Tensor, noise: rollout.Noise) -> Candidates:
            return rollout.roll_out(
                task=self.task,
                models=self._models,
                bound=bound or rollout.Bound.of(self._models, self._dtype),  # on the part's device
                objective=self._objective,
                knobs=self.knobs,
                states=states,
                plan=plan,
                noise=noise,
            )

        groups, first = [], 0
        for number, count in enumerate(self._group_sizes()):
            states = tf.repeat(observation, count, axis=0)  # [E * count, S]
            plans = tf.repeat(plan, count, axis=0)  # [E * count, H, A]
            with devices.part(number):
                rows = of_group(states, plans, _of_candidates(noise, first, count))
            groups.append(by_environment(rows, count))
            first += count
        return Candidates(*(tf.concat(parts, axis=1) for parts in zip(*groups, strict=True)))

    def _penalize(self, candidates: Candidates, fallback: Tensor) -> Candidates:
        """Takes a price for disagreement above the limit where the fallback [E] chose."""
        disagreement = candidates.disagreement  # [E, N, H]
        excess = tf.where(disagreement > self.limit, disagreement, 0.0)
        price = self.knobs.uncertainty_penalty * tf.cast(fallback, tf.float32)  # [E]
        penalty = price[:, None] * tf.reduce_sum(excess, axis=2)  # [E, N]
        return candidates._replace(returns=candidates.returns - penalty)

    def _in_bounds(self, action: Tensor) -> Tensor:
        """[E, A] in units of the bounds -> [E, A] in the task's units, clipped."""
        return self._middle + self._half * tf.clip_by_value(action, -1.0, 1.0)


def _one_step_on(plan: Tensor) -> Tensor:
    """Drops the first action of plans [E, H, A] and repeats the last one."""
    return tf.concat([plan[:, 1:], plan[:, -1:]], axis=1)


def _of_candidates(noise: rollout.Noise, first: int, count: int) -> rollout.Noise:
    """[.., E, N, ..] -> [.., E * count, ..] of `count` candidates from `first` on."""

    def flat(values: Tensor, axis: int) -> Tensor:
        chosen = values[(slice(None),) * (axis + 1) + (slice(first, first + count),)]
        return tf.reshape(chosen, [*chosen.shape[:axis], -1, *chosen.shape[axis + 2 :]])

    value = noise.value
    if value.normal.shape.rank == 4:  # each candidate's own
        value = value.each(lambda x: flat(x, 1))
    return noise._replace(proposals=noise.proposals.each(lambda x: flat(x, 2)), value=value)
