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
from mopp_tf.planning import averaging, pruning
from mopp_tf.planning.planner import Decision
from offline_tf.models import compilation, networks
from offline_tf.types import TaskSpec, Tensor


class MbopPlanner(tf.Module):
    """MBOP's planner with the interface of MOPP's.

    Candidate n follows member n mod K from start to end. The plan that is handed on is the one just
    made, unshifted; its first action is the one executed.
    """

    def __init__(
        self,
        task: TaskSpec,
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
        self._value = (learned.value_shift, learned.value_scale)
        self._objective = objective
        self._dtype = dtype
        self._middle = 0.5 * (task.action_high + task.action_low)
        self._half = 0.5 * (task.action_high - task.action_low)

    def initial_plan(self, observation: Tensor) -> Tensor:
        """Zeros, [E, S] -> [E, H, A]."""
        return tf.zeros([tf.shape(observation)[0], self.knobs.horizon, self.task.action_dim])

    def decide(self, observation: Tensor, plan: Tensor, seed: Tensor) -> Decision:
        """Plans one step of E environments; arguments and result as in `Planner.decide`."""
        knobs, population = self.knobs, self.knobs.population
        dynamics = self._models.dynamics
        predict = dynamics.bind(self._dtype, constant=True)
        behaviors = [networks.bind(m, self._dtype, True) for m in self._models.behavior]
        values = [networks.bind(m, self._dtype, True) for m in self._models.value]
        states = tf.repeat(observation, population, axis=0)
        old = tf.repeat(plan, population, axis=0)
        number = tf.range(tf.shape(states)[0]) % population
        streams = tf.random.split(seed, knobs.horizon)
        previous = old[:, 0]
        returns = tf.zeros_like(states[:, 0])
        alive = tf.ones_like(returns)
        violation = tf.zeros_like(returns)
        trail, taken, doubts = [states], [], []
        for t in range(knobs.horizon):
            inputs = tf.concat([self._normalizer.standard_states(states), previous], axis=1)
            proposal = _own(tf.stack([f(inputs) for f in behaviors]), number)
            proposal += self._mbop.mbop_sigma * tf.random.stateless_normal(
                tf.shape(proposal), streams[t]
            )
            action = self._mbop.mbop_mix * old[:, t] + (1.0 - self._mbop.mbop_mix) * proposal
            action = tf.clip_by_value(action, -1.0, 1.0)
            outputs = predict(states, action)
            following = dynamics.next_states(states, _own(outputs, number))
            reward = tf.reduce_mean(dynamics.rewards(outputs), axis=0)
            reward, broken = self._objective.apply(states, action, following, reward)
            returns += alive * reward
            violation += alive * broken
            if knobs.planner_termination == "task":
                assert self.task.termination is not None, "see learned_task"
                alive *= 1.0 - tf.cast(
                    compilation.of_task(self.task.termination)(following), tf.float32
                )
            taken.append(action)
            doubts.append(dynamics.uncertainty(outputs, knobs.uncertainty_units))
            trail.append(following)
            states, previous = following, action
        if knobs.terminal_value:
            inputs = tf.concat([self._normalizer.standard_states(states), previous], axis=1)
            value = tf.reduce_mean(tf.stack([f(inputs)[:, 0] for f in values]), axis=0)
            returns += alive * (value * self._value[1] + self._value[0])
        shape = [-1, population]
        actions = tf.reshape(
            tf.stack(taken, axis=1), [-1, population, knobs.horizon, self.task.action_dim]
        )
        returns = tf.reshape(returns, shape)
        # Nothing is uncertain here: only constraints, and what is not finite, prune.
        known = tf.where(tf.math.is_finite(returns), 0.0, float("inf"))[:, :, None]
        keep, none_left = pruning.prune(
            known, tf.reshape(violation, shape), float("inf"), 1, "fill"
        )
        average = averaging.weighted_average(
            actions,
            returns,
            keep,
            knobs.inverse_temperature,
            knobs.temperature_units == "relative",
        )
        doubt = tf.reshape(tf.stack(doubts, axis=1), [-1, population, knobs.horizon])
        states = tf.reshape(
            tf.stack(trail, axis=1), [-1, population, knobs.horizon + 1, self.task.state_dim]
        )
        weights = average.weights
        return Decision(
            action=self._middle + self._half * average.plan[:, 0],
            plan=average.plan,
            returns=returns,
            weights=weights,
            keep=keep,
            expected_return=tf.reduce_sum(tf.where(keep, weights * returns, 0.0), axis=1),
            return_spread=averaging.spread(returns, keep),
            effective_sample_size=average.effective_sample_size,
            weight_entropy=averaging.entropy(weights),
            kept_share=tf.reduce_mean(tf.cast(keep, tf.float32), axis=1),
            fallback=none_left,
            disagreement=tf.reduce_sum(
                tf.where(keep[:, :, None], weights[:, :, None] * doubt, 0.0), axis=1
            ),
            states=states,
            trajectory=tf.gather(states, tf.argmax(weights, axis=1), batch_dims=1),
        )


def _own(outputs: Tensor, number: Tensor) -> Tensor:
    """Outputs [K, B, D], candidate numbers [B] -> [B, D] of member number mod K."""
    return networks.of_members(outputs, number % outputs.shape[0])
