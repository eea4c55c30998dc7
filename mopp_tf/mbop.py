"""MBOP, for comparison: model-based offline planning without pruning and max-Q.

Source: Argenson & Dulac-Arnold 2021 (arXiv 2008.05556), Algorithm 2, and the MOPP authors'
mbop_agent.py for network sizes. Differs from the latter: windows of the value target never cross an
episode end, a step without a logged previous action is left out, and the mixed action is fed on, as
in the paper.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mopp_tf import algorithm, averaging, dynamics, pruning, training
from mopp_tf.config import MbopConfig, PlannerConfig
from mopp_tf.dynamics import DynamicsModel
from mopp_tf.objectives import Objective
from mopp_tf.planner import Decision
from mopp_tf.rows import Normalizer
from offline_tf.models import compilation, networks
from offline_tf.numerics import seeds
from offline_tf.numerics.holdout import Split
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor, Transitions, UserError

HIDDEN = (500, 500)


def truncated_returns(rewards: Array, ends: Array, terminals: Array, horizon: int) -> Array:
    """sum_{i < H} r_{t+i} within the episode; NaN where a time limit cuts the window.

    Args:
      rewards: [N].
      ends: [N] bool, last rows of episodes.
      terminals: [N] bool, rows after which nothing is ever paid.
      horizon: H.

    Returns:
      [N].
    """
    total = np.zeros(len(rewards))
    running = np.ones(len(rewards), bool)
    whole = np.ones(len(rewards), bool)
    at = np.arange(len(rewards))
    for step in range(horizon):
        total[running] += rewards[at[running]]
        last = running & ends[np.minimum(at, len(rewards) - 1)]
        if step < horizon - 1:
            whole &= ~(last & ~terminals[np.minimum(at, len(rewards) - 1)])
        running &= ~last
        at = at + 1
    return np.where(whole, total, np.nan)


def rows_with_value(data: Transitions, split: Split, horizon: int) -> Split:
    """The rows that have a previous action and a whole window of rewards: the value network's.

    Args:
      data: to learn from.
      split: its rows.
      horizon: H.

    Raises:
      UserError: no training row has.
    """
    ends = data.terminals | data.timeouts
    ends[-1:] = True
    returns = truncated_returns(data.rewards, ends, data.terminals, horizon)
    has = np.isfinite(returns) & _has_previous(ends)
    found = Split(split.train[has[split.train]], split.held_out[has[split.held_out]])
    if not len(found.train):
        raise UserError(
            f"--mbop_horizon: expected episodes of {horizon + 1} steps or more, or with a terminal end "
            "after 2 or more, for the value network, got none; give a smaller horizon"
        )
    return found


def _has_previous(ends: Array) -> Array:
    """[N] bool, rows that are not an episode's first; ends: [N] bool, last rows."""
    return ~np.concatenate([[True], ends[:-1]])


class MbopModels(NamedTuple):
    """Ensembles of deterministic networks over normalised inputs.

    Attributes:
      behavior: (s, previous a) -> a.
      dynamics: (s, a) -> s', r; only its normalisation is that of MOPP's.
      value: (s, previous a) -> truncated return.
    """

    behavior: list[keras.Model]
    dynamics: DynamicsModel
    value: list[keras.Model]


class MbopLearned(NamedTuple):
    """Fitted models, the units they work in, and value = shift + scale * network."""

    models: MbopModels
    prepared: algorithm.Prepared
    value_shift: float
    value_scale: float


def build(
    task: TaskSpec, knobs: algorithm.Knobs, prepared: algorithm.Prepared, seed: int
) -> MbopModels:
    """Makes the networks; nothing is fitted yet."""
    width = task.state_dim + task.action_dim

    def ensemble(name: str, count: int, output: int, activation: str) -> list[keras.Model]:
        return [
            networks.mlp(
                width,
                HIDDEN,
                output,
                activation,
                seeds.generator(seed, f"mbop/{name}/init", member),
                initializer="glorot",
                name=f"{name}_{member}",
            )
            for member in range(count)
        ]

    count = knobs.dynamics.dynamics_members
    return MbopModels(
        ensemble("behavior", knobs.behavior.behavior_members, task.action_dim, "silu"),
        DynamicsModel(
            task,
            knobs.model,
            knobs.dynamics,
            prepared.normalizer,
            prepared.change_scale,
            seed,
            ensemble("dynamics", count, task.state_dim + 1, "silu"),
        ),
        ensemble("value", count, 1, "relu"),
    )


def learn(
    task: TaskSpec,
    prepared: algorithm.Prepared,
    knobs: algorithm.Knobs,
    seed: int,
    record: RunRecord,
    models_from: RunRecord | None = None,
) -> MbopLearned:
    """Fits dynamics, behaviour and value by least squares.

    Args:
      task: names and dimensions.
      prepared: the data.
      knobs: those of MOPP; the value network is fitted for as many steps as MOPP's Q.
      seed: of everything random.
      record: the run folder; complete stages are read from it.
      models_from: a run whose fitted models are taken over.

    Raises:
      UserError: a fit diverged.
    """
    table, split, normalizer = prepared.table, prepared.split, prepared.normalizer
    assert table is not None and split is not None
    models = build(task, knobs, prepared, seed)
    ends = ~table.has_next
    returns = truncated_returns(table.rewards, ends, table.terminals > 0, knobs.planner.horizon)
    shift, scale = float(np.nanmean(returns)), max(float(np.nanstd(returns)), 1e-8)
    values = ((np.nan_to_num(returns) - shift) / scale).astype(np.float32)[:, None]
    weighted = table.weights if knobs.behavior.return_weighting else None
    every, has_previous = np.ones(len(ends), bool), _has_previous(ends)
    has_value = has_previous & np.isfinite(returns)

    def conditions(at: Array) -> Array:
        previous = table.actions[np.maximum(at - 1, 0)]
        return np.concatenate([_normal(table.states[at], normalizer), previous], axis=1)

    def part(
        name: str,
        members: list[keras.Model],
        gather: Callable[[Array], tuple[Array, Array]],
        usable: Array,
        names: tuple[str, ...],
        steps: int,
        row_weights: Array | None = None,
    ) -> None:
        rows = Split(split.train[usable[split.train]], split.held_out[usable[split.held_out]])

        def fit(stage: Stage) -> dict[str, Any]:
            report = training.fit_members(
                members,
                training.squared_error,
                "mse",
                gather,
                rows,
                names,
                knobs.model,
                steps,
                seed,
                stage,
                row_weights,
            )
            return report | {"shift": shift, "scale": scale}

        record.fit_or_load(name, networks.variables(*members), fit, models_from)

    part(
        "dynamics",
        models.dynamics.members,
        functools.partial(
            dynamics.gather, models.dynamics, table, knobs.dynamics.targets, normalizer
        ),
        every,
        (*task.observation_names, "reward"),
        knobs.dynamics.dynamics_steps,
    )
    part(
        "behavior",
        models.behavior,
        lambda at: (conditions(at), table.actions[at]),
        has_previous,
        task.action_names,
        knobs.behavior.behavior_steps,
        weighted,
    )
    part(
        "q",
        models.value,
        lambda at: (conditions(at), values[at]),
        has_value,
        ("value",),
        knobs.q.q_steps,
    )
    return MbopLearned(models, prepared, shift, scale)


def load(task: TaskSpec, knobs: algorithm.Knobs, record: RunRecord) -> MbopLearned:
    """Rebuilds what a run has fitted from its folder alone.

    Raises:
      UserError: the models are not fitted yet.
    """
    prepared = algorithm.load_units(record)
    models = build(task, knobs, prepared, prepared.models_seed)
    parts = {"dynamics": models.dynamics.members, "behavior": models.behavior, "q": models.value}
    for name, members in parts.items():
        stage = record.stage(name)
        if not stage.complete:
            raise UserError(
                f"--workdir: the run in {record.folder} is not finished; continue it first"
            )
        stage.track(networks.variables(*members))
        stage.restore()
    kept = record.stage("q").result
    return MbopLearned(models, prepared, kept["shift"], kept["scale"])


def _normal(states: Any, normalizer: Normalizer) -> Any:
    return (states - normalizer.states.shift) / normalizer.states.scale


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
        """Holds the parts; see `mopp_tf.planner.Planner`."""
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
            inputs = tf.concat([_normal(states, self._normalizer), previous], axis=1)
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
            inputs = tf.concat([_normal(states, self._normalizer), previous], axis=1)
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
