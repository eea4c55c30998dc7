"""Models in the simulator's place: episodes that end at HALT where the models disagree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.datasets import velocities
from offline_tf.models import compilation, networks
from offline_tf.models.disagreement import largest_pairwise_distance
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.models.given_signals import GivenSignals
from offline_tf.tasks import closed_form
from offline_tf.types import Array, TaskSpec, Tensor


class Models(NamedTuple):
    """What drives and ends the episodes.

    Attributes:
      task: with reward and termination.
      physics: which reward.
      ensemble: M models; each drives whole episodes.
      weights: [S] factors of standardised deltas: the space of the disagreement.
      threshold: of the disagreement; above it an episode meets HALT.
      halted_reward: what every step after HALT pays, until the time limit; at most 0.
      given: signals that follow the log; None: there are none.
    """

    task: TaskSpec
    physics: str
    ensemble: GaussianEnsemble
    weights: Array
    threshold: float
    halted_reward: float
    given: GivenSignals | None = None


class ModelSimulator:
    """K = M * E episodes, as `offline_tf.evaluation.episodes` runs them; model m drives the m-th E.

    Attributes:
      task, count: as of the real simulator.
      elapsed: [K] int64, steps since the start of each.
      unknown: [K] bool, whether the last step met HALT.
      broken: [K] bool, whether a limit of the task's signals was broken in it.
      expected: [K] float64, what the own model paid for the last step.
    """

    def __init__(
        self,
        models: Models,
        starts: Array,
        after_halt: Array | None = None,
        rows: Array | None = None,
    ) -> None:
        """Puts every model's episodes into their start states.

        Args:
          models: drive.
          starts: [E, S].
          after_halt: [T, E] what an episode that meets HALT at a step is paid for it and all later
            ones, or [T, 1], the same for all starts; None: `halted_reward` a step.
          rows: [E], of the starts in the log; needed where signals follow it.
        """
        size = models.ensemble.size
        self.task = models.task
        self.count = size * len(starts)
        self.elapsed = np.zeros(self.count, np.int64)
        self.unknown = np.zeros(self.count, bool)
        self.broken = np.zeros(self.count, bool)
        self.expected = np.zeros(self.count)
        self._models = models
        if after_halt is None:
            remaining = np.arange(self.task.max_episode_steps, 0, -1)
            after_halt = (remaining * float(models.halted_reward))[:, None]
        by_start = np.broadcast_to(after_halt, (len(after_halt), len(starts)))
        self._after_halt = np.tile(by_start, (1, size))  # [T, K]
        self._starts = np.tile(starts, (size, 1)).astype(np.float32)  # [K, S]
        self._states = self._starts.copy()
        rows = np.zeros(len(starts), np.int32) if rows is None else rows
        self._first_rows = np.tile(rows, size).astype(np.int32)  # [K]
        self._rows = self._first_rows.copy()
        self._member = np.repeat(np.arange(size, dtype=np.int32), len(starts))  # [K]
        self._advance = compilation.function(self._advanced)

    def observations(self) -> Array:
        """[K, S] float32; velocities clipped where the task clips them."""
        return velocities.observe(self.task, self._states)

    def reset(self, generator: np.random.Generator, which: Array | None = None) -> None:
        """Puts episodes where `which` ([K] bool, default all) back to their start states."""
        del generator
        which = np.ones(self.count, bool) if which is None else which
        self._states[which] = self._starts[which]
        self._rows[which] = self._first_rows[which]
        self.elapsed[which] = 0

    def step(self, actions: Array) -> tuple[Array, Array]:
        """Advances all episodes.

        A step pays the least reward that any of the models predicts. At HALT an episode is paid for
        this and every step that its time limit leaves.

        Args:
          actions: [K, A]; brought within bounds and rates here.

        Returns:
          rewards [K] float64 and terminated [K] bool, true at a fall and at HALT.
        """
        after, own, least, fallen, unknown, broken, self._rows = (
            x.numpy()
            for x in self._advance(
                tf.constant(self._states),
                tf.constant(actions, tf.float32),
                tf.constant(self._rows),
            )
        )
        at = np.minimum(self.elapsed, len(self._after_halt) - 1)
        at_halt = self._after_halt[at, np.arange(self.count)]  # [K]
        self._states = np.where(unknown[:, None], self._states, after)
        self.elapsed += 1
        self.unknown, self.broken = unknown, broken & ~unknown
        self.expected = np.where(unknown, at_halt, own.astype(np.float64))
        return np.where(unknown, at_halt, least.astype(np.float64)), unknown | fallen

    def _advanced(self, states: Tensor, actions: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """One step of all models.

        Args:
          states, actions: [K, S], [K, A].
          rows: [K] int32, in the log.

        Returns:
          Next states [K, S]; own and least rewards, fallen, unknown, broken and the next rows, [K].
        """
        models, ensemble, task = self._models, self._models.ensemble, self.task
        actions = closed_form.executable(task, states, actions)
        outputs = ensemble.bind()(states, actions)  # [M, K, width]
        means = ensemble.means(outputs)  # [M, K, S]
        disagreement = largest_pairwise_distance(means * models.weights)  # [K]
        every = ensemble.next_states(states, means)  # [M, K, S]
        every = closed_form.with_the_past(task, states, actions, every)
        if models.given is not None:
            every, rows = models.given.after(rows, every)
        after = networks.of_members(every, self._member)  # [K, S]
        assert task.reward is not None and task.termination is not None, "see learned_task"
        pay = compilation.of_task(task.reward)
        own = pay(states, actions, after, models.physics)
        by_model = [pay(states, actions, each, models.physics) for each in tf.unstack(every)]
        least = tf.reduce_min(tf.stack(by_model), axis=0)
        fallen = compilation.of_task(task.termination)(after)
        finite = tf.reduce_all(tf.math.is_finite(after), axis=1) & tf.math.is_finite(least)
        # A disagreement that is no number is unknown, whatever the threshold.
        unknown = (disagreement > models.threshold) | tf.math.is_nan(disagreement) | ~finite
        broken = tf.zeros_like(unknown)
        if task.violation is not None:
            broken = task.violation(after) > 0.0
        return after, own, least, fallen, unknown, broken, rows
