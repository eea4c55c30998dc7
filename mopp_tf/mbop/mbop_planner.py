"""MBOP, for comparison: model-based offline planning without pruning and max-Q.

Source: Argenson & Dulac-Arnold 2021 (arXiv 2008.05556), Algorithm 2, and the MOPP authors'
mbop_agent.py for network sizes. Differs from the latter: windows of the value target never cross an
episode end, a step without a logged previous action is left out, and the mixed action is fed on, as
in the paper.
"""

from __future__ import annotations

import tensorflow as tf

from mopp_tf.config import MbopConfig, PlannerConfig
from mopp_tf.mbop.learning import MbopLearned
from mopp_tf.objectives import Objective
from mopp_tf.planning import pruning, rollout
from mopp_tf.planning.decision import Candidates, Decision, by_environment, decide_among
from offline_tf.models import networks
from offline_tf.tasks import closed_form
from offline_tf.types import TaskSpec, Tensor


class MbopPlanner(tf.Module):
    """MBOP's planner with the interface of MOPP's.

    Candidate n follows member n mod K from start to end. The plan that is handed on is the one just
    made, unshifted; its first action is the one executed.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        learned: MbopLearned,
        knobs: PlannerConfig,
        mbop: MbopConfig,
        objective: Objective,
        dtype: tf.DType = tf.float32,
    ) -> None:
        """Holds the parts; see `mopp_tf.planning.planner.Planner`."""
        super().__init__()
        self.task = task
        self.knobs = knobs
        self._mbop = mbop
        self._models = learned.models
        self._normalizer = learned.prepared.normalizer
        self._value_shift, self._value_scale = learned.value_shift, learned.value_scale
        self._objective = objective
        self._dtype = dtype
        self._middle = 0.5 * (task.action_high + task.action_low)
        self._half = 0.5 * (task.action_high - task.action_low)

    def initial_plan(self, observation: Tensor) -> Tensor:
        """Zeros, [E, S] -> [E, H, A]."""
        return tf.zeros([tf.shape(observation)[0], self.knobs.horizon, self.task.action_dim])

    def decide(self, observation: Tensor, plan: Tensor, seed: Tensor) -> Decision:
        """Plans one step of E environments; arguments and result as in `Planner.decide`."""
        rows = self._roll_out(observation, plan, seed)
        candidates = by_environment(rows, self.knobs.population)  # [E, N, ..]

        # Nothing is uncertain here: only constraints, and what is not finite, prune.
        finite = tf.math.is_finite(candidates.returns)  # [E, N]
        unknown = tf.where(finite, 0.0, float("inf"))[:, :, None]  # [E, N, 1]
        pruned = pruning.prune(
            disagreement=unknown,
            violation=candidates.violation,
            limit=float("inf"),
            least=1,
            rule="fill",
        )

        return decide_among(
            candidates, pruned, self.knobs, execute=self._in_bounds, hand_on=lambda mean: mean
        )

    def _roll_out(self, observation: Tensor, plan: Tensor, seed: Tensor) -> Candidates:
        """One trajectory per candidate, B = E * N: observation [E, S], plan [E, H, A]."""
        knobs, dynamics = self.knobs, self._models.dynamics
        predict = dynamics.bind(self._dtype, constant=True)
        behaviors = [networks.bind(m, self._dtype, True) for m in self._models.behavior]
        values = [networks.bind(m, self._dtype, True) for m in self._models.value]
        states = tf.repeat(observation, knobs.population, axis=0)  # [B, S]
        old_plan = tf.repeat(plan, knobs.population, axis=0)  # [B, H, A]
        number = tf.range(tf.shape(states)[0]) % knobs.population  # [B], of the candidate
        streams = tf.random.split(seed, knobs.horizon)
        previous = old_plan[:, 0]  # [B, A], the action before
        tally = rollout.Tally.zero(states)
        visited, actions, disagreement = [states], [], []
        for t in range(knobs.horizon):
            inputs = self._inputs(states, previous)
            action = _own(tf.stack([f(inputs) for f in behaviors]), number)  # [B, A]
            noise = tf.random.stateless_normal(tf.shape(action), streams[t])
            action += self._mbop.mbop_sigma * noise
            mix = self._mbop.mbop_mix
            action = tf.clip_by_value(mix * old_plan[:, t] + (1.0 - mix) * action, -1.0, 1.0)
            action = closed_form.executable_in_units(self.task, states, action)
            outputs = predict(states, action)  # [K, B, S + 1]
            next_states = dynamics.next_states(states, _own(outputs, number))  # [B, S]
            next_states = closed_form.with_the_past_in_units(self.task, states, action, next_states)
            rewards = tf.reduce_mean(dynamics.rewards(outputs), axis=0)  # [B]
            tally = rollout.pay(
                tally=tally,
                states=states,
                actions=action,
                next_states=next_states,
                rewards=rewards,
                task=self.task,
                objective=self._objective,
                knobs=knobs,
            )
            actions.append(action)
            disagreement.append(dynamics.uncertainty(outputs, knobs.uncertainty_units))  # [B]
            visited.append(next_states)
            states, previous = next_states, action
        returns = tally.returns
        if knobs.terminal_value:
            inputs = self._inputs(states, previous)
            value = tf.reduce_mean(tf.stack([f(inputs)[:, 0] for f in values]), axis=0)  # [B]
            returns += tally.alive * (value * self._value_scale + self._value_shift)
        return Candidates(
            actions=tf.stack(actions, axis=1),
            states=tf.stack(visited, axis=1),
            returns=returns,
            disagreement=tf.stack(disagreement, axis=1),
            violation=tally.violation,
        )

    def _inputs(self, states: Tensor, previous: Tensor) -> Tensor:
        """What behaviour and value see: states [B, S], previous actions [B, A] -> [B, S + A]."""
        return tf.concat([self._normalizer.standard_states(states), previous], axis=1)

    def _in_bounds(self, action: Tensor) -> Tensor:
        """[E, A] in units of the bounds -> [E, A] in the task's units."""
        return self._middle + self._half * action


def _own(outputs: Tensor, number: Tensor) -> Tensor:
    """Outputs [K, B, D], candidate numbers [B] -> [B, D] of member number mod K."""
    return networks.of_members(outputs, number % outputs.shape[0])
