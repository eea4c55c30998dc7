"""Reward and termination learned from the data, for tasks that declare neither.

r(s, a, s') is fitted by least squares; whether s' is terminal by logistic regression, in which terminal
rows weigh sqrt((1 - p) / p) times the others, p their share. Both are networks with two hidden
layers. Where the data hold no terminal state, nothing is terminal.

Rows whose next observation is not known (terminal ones, `types.next_known`) are left out of both fits.
Both functions ask for s'. A terminal state that nobody recorded could only be guessed: the state
before it is none, as the row that led there says, and a model's guess would be far from all data. So
in data without next_observations nothing is terminal. Q still ends at those rows, and the detector is
there for what lies beyond the data. A log says how many rows that are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf.models import fitting, minibatches, networks, training_loop
from offline_tf.numerics import holdout, seeds, standardize
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import Array, TaskSpec, Tensor, Transitions

STAGE = "outcome"
_HIDDEN = (256, 256)
_BATCH = 512
_STEPS = 6000
_STEPS_PER_SAVE = 2000
_LEARNING_RATE = 1e-3
_HOLDOUT_SHARE = 0.05
_ROWS_JUDGED = 20_000


def is_needed(task: TaskSpec, reward: bool = True) -> bool:
    """Whether a task lacks a termination, or a reward where one is wanted."""
    return task.termination is None or (reward and task.reward is None)


def complete(
    task: TaskSpec, data: Transitions, seed: int, record: RunRecord, reward: bool = True
) -> TaskSpec:
    """Returns the task with what it lacks learned from the data; stage "outcome" keeps the models.

    Args:
      task: may lack reward and termination.
      data: the transitions.
      seed: of everything random.
      record: the run folder; a complete stage is read from it.
      reward: whether a lacking reward is a reason to learn (MOPP's dynamics learn it themselves).
    """
    if not is_needed(task, reward):
        return task
    units = _Units.of(data)
    learned = Outcome(task, units, seed)

    def fit(stage: Stage) -> dict[str, Any]:
        return _fit(learned, task, data, seed, stage) | {"units": units.to_json()}

    result = record.fit_or_load(STAGE, learned.weights, fit)
    return learned.into(task, bool(result["terminals"]))


def of_run(task: TaskSpec, seed: int, record: RunRecord) -> TaskSpec:
    """`complete` without the data: reads what a run has learned."""
    stage = record.stage(STAGE)
    if not is_needed(task) or not stage.complete:
        return task
    learned = Outcome(task, _Units.from_json(stage.result["units"]), seed)
    stage.track(learned.weights)
    stage.restore()
    return learned.into(task, bool(stage.result["terminals"]))


def split_of(task: TaskSpec, data: Transitions, seed: int) -> holdout.Split:
    """Which episodes are held out from what is learned here."""
    by_time = task.log is not None
    return holdout.split_episodes(data.episode_bounds(), _HOLDOUT_SHARE, seed, by_time)


def errors(record: RunRecord) -> dict[str, Any]:
    """Errors on held-out rows, or training rows where there are none, for a run's summary.

    Empty where nothing was learned.

    learned_reward_error is in standard deviations of the reward; recall and precision are those of
    the terminal states.
    """
    stage = record.stage(STAGE)
    if not stage.complete:
        return {}
    names = ("reward_error", "terminal_recall", "terminal_precision")
    return {f"learned_{name}": stage.result[name] for name in names}


@dataclasses.dataclass(frozen=True)
class _Units:
    """What the networks' inputs and rewards are measured in."""

    states: standardize.Statistics
    actions: standardize.Statistics
    changes: standardize.Statistics
    rewards: standardize.Statistics

    @classmethod
    def of(cls, data: Transitions) -> _Units:
        known = data.next_known
        statistics = (
            standardize.statistics(data.observations, usable=known),
            standardize.statistics(data.actions, usable=known),
            standardize.statistics_of(
                lambda rows: data.next_observations[rows] - data.observations[rows],
                len(data),
                usable=known,
            ),
            standardize.statistics(data.rewards[:, None], usable=known),
        )
        # What never changes in the data may be a little off in a prediction.
        return cls(*map(standardize.with_flat_as_it_is, statistics))

    def to_json(self) -> dict[str, Any]:
        return {
            field.name: [part.astype(float).tolist() for part in getattr(self, field.name)]
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> _Units:
        return cls(
            **{
                name: standardize.Statistics(*(np.array(part, np.float32) for part in parts))
                for name, parts in stored.items()
            }
        )


class Outcome(tf.Module):
    """The two networks.

    Attributes:
      reward_network: [B, 2 S + A] -> [B, 1], standardised.
      terminal_network: [B, S] -> [B, 1] logits.
    """

    def __init__(self, task: TaskSpec, units: _Units, seed: int) -> None:
        """Draws the first weights."""
        super().__init__()
        self._units = units
        state, action = task.state_dim, task.action_dim
        self.reward_network = networks.mlp(
            2 * state + action,
            hidden=_HIDDEN,
            output_dim=1,
            activation="relu",
            generator=seeds.generator(seed, "outcome/reward"),
        )
        self.terminal_network = networks.mlp(
            state,
            hidden=_HIDDEN,
            output_dim=1,
            activation="relu",
            generator=seeds.generator(seed, "outcome/terminal"),
        )

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables."""
        return networks.variables(self.reward_network, self.terminal_network)

    def standard_rewards(
        self, states: Tensor, actions: Tensor, next_states: Tensor, constant: bool = False
    ) -> Tensor:
        """[B, S], [B, A], [B, S] -> [B] in units of the rewards."""
        units = self._units
        parts = (
            (states, units.states),
            (actions, units.actions),
            (next_states - states, units.changes),
        )
        inputs = tf.concat([_standard(values, by) for values, by in parts], axis=1)
        return networks.bind(self.reward_network, constant=constant)(inputs)[:, 0]

    def terminal_logits(self, next_states: Tensor, constant: bool = False) -> Tensor:
        """[B, S] -> [B]."""
        forward = networks.bind(self.terminal_network, constant=constant)
        return forward(_standard(next_states, self._units.states))[:, 0]

    def into(self, task: TaskSpec, terminals: bool) -> TaskSpec:
        """The task, with these functions where it has none; graphs hold the weights as constants."""
        by = self._units.rewards

        def reward(states: Tensor, actions: Tensor, next_states: Tensor, physics: str) -> Tensor:
            del physics
            standard = self.standard_rewards(states, actions, next_states, constant=True)
            return standard * by.scale[0] + by.shift[0]

        def termination(next_states: Tensor) -> Tensor:
            if not terminals:
                return tf.zeros_like(next_states[:, 0], tf.bool)
            return self.terminal_logits(next_states, constant=True) > 0.0

        changed: dict[str, Callable[..., Tensor]] = {}
        if task.reward is None:
            changed["reward"] = reward
        if task.termination is None:
            changed["termination"] = termination
        return dataclasses.replace(task, **changed)  # type: ignore[arg-type]


def _standard(values: Tensor, by: standardize.Statistics) -> Tensor:
    return (values - by.shift) / (by.scale + standardize.EPSILON)


def _fit(
    learned: Outcome, task: TaskSpec, data: Transitions, seed: int, stage: Stage
) -> dict[str, Any]:
    """Fits both networks and reports held-out errors."""
    known = data.next_known
    if task.termination is None and not known.all():
        logging.warning(
            "the learned termination: %d of %d terminal states were not recorded, and what was not "
            "cannot be learned; give next_observations, or the task a termination",
            int((~known).sum()),
            int(data.terminals.sum()),
        )
    split = split_of(task, data, seed).where(known)
    rewards = learned._units.rewards.normalize(data.rewards[:, None])[:, 0]
    terminals = data.terminals.astype(np.float32)

    def gather(rows: Array) -> tuple[Array, ...]:
        columns = (data.observations, data.actions, data.next_observations, rewards, terminals)
        return tuple(column[rows] for column in columns)

    optimiser = fitting.Fit(learned.weights, loss=_loss(learned, float(terminals[known].mean())))
    stage.track([*learned.weights, *optimiser.adam.moments])
    feed = minibatches.Feed(gather, split.train)
    training_loop.fit(
        optimiser,
        feed=lambda done: feed,
        schedule=training_loop.by_steps(
            _STEPS,
            _STEPS_PER_SAVE,
            lambda done, count: minibatches.drawn_batches(
                [seeds.generator(seed, "outcome/rows", done)], len(feed), count, _BATCH
            ),
            functools.partial(fitting.cosine, _LEARNING_RATE, 0.0),
        ),
        report=lambda done, losses: {"loss": training_loop.mean_loss(losses)},
        stage=stage,
        steps_per_call=_STEPS_PER_SAVE,
    )
    return _report(learned, gather(split.judged(_ROWS_JUDGED)), int(data.terminals[known].sum()))


def _loss(
    learned: Outcome, terminal_share: float
) -> Callable[[list[tuple[Tensor, ...]]], list[Tensor]]:
    """Squared error of the reward and cross-entropy of the terminal, for `fitting.Fit`."""
    # Terminal rows are rare: without a weight the best guess is that there are none.
    share = max(terminal_share, 1e-6)
    weight = float(np.sqrt((1.0 - share) / share))

    def loss(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        ((states, actions, next_states, rewards, terminals),) = batches
        errors = learned.standard_rewards(states, actions, next_states) - rewards
        cross_entropies = tf.nn.weighted_cross_entropy_with_logits(
            terminals, learned.terminal_logits(next_states), weight
        )
        return [tf.reduce_mean(tf.square(errors)) + tf.reduce_mean(cross_entropies)]

    return loss


def _report(learned: Outcome, judged: tuple[Array, ...], terminals: int) -> dict[str, Any]:
    """Errors on rows (states, actions, next states, standardised rewards, terminals), see `errors`."""
    states, actions, next_states, rewards, is_terminal = judged
    predicted_rewards = learned.standard_rewards(
        *map(tf.constant, (states, actions, next_states))
    ).numpy()
    predicted = learned.terminal_logits(tf.constant(next_states)).numpy() > 0.0
    actual = is_terminal > 0.5
    hits = int((predicted & actual).sum())
    spread = max(float(rewards.std()), 1e-9)
    return {
        "reward_error": float(np.sqrt(np.square(predicted_rewards - rewards).mean()) / spread),
        "terminals": terminals,
        "terminal_recall": hits / int(actual.sum()) if actual.any() else None,
        "terminal_precision": hits / int(predicted.sum()) if predicted.any() else None,
    }
