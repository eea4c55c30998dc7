"""Which policy planning keeps, how large its steps are, and when it ends: by the judge's promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from morel_tf.config import PlannerConfig
from offline_tf.judging.judge import MOSTLY_HALTED, Judge, Judgement, gain, promise_of
from offline_tf.policies.gaussian import GaussianPolicy
from offline_tf.types import Array


class Kept(NamedTuple):
    """What planning ends with.

    Attributes:
      iteration: updates that the weights had seen; 0: the clone's.
      gain: lower bound of what the best policy earns more than the clone.
      judgement: of the policy that is kept.
    """

    iteration: int
    gain: float
    judgement: Judgement


class Keeper:
    """Keeps the policy that the judge promises most of.

    Few models are close to each other by chance at times, and of many policies one would be kept on
    which they are. So no spread counts for less than those so far do in the mean square.

    Without a higher promise for a while, planning goes back to it with smaller steps, then ends.

    Attributes:
      variables: what checkpoints must hold.
    """

    def __init__(self, policy: GaussianPolicy, config: PlannerConfig) -> None:
        """Copies the policy; nothing is judged yet."""
        self._policy = policy
        self._first = [weight.numpy() for weight in policy.weights]
        self._config = config
        self._best = [tf.Variable(weight, trainable=False) for weight in policy.weights]
        self._centre = tf.Variable(-np.inf, dtype=tf.float64, trainable=False)  # of the best
        self._spread = tf.Variable(0.0, dtype=tf.float64, trainable=False)  # of the best
        self._squares = tf.Variable(0.0, dtype=tf.float64, trainable=False)  # of all spreads
        self._looks = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._models = tf.Variable(2, dtype=tf.int64, trainable=False)
        self._iteration = tf.Variable(0, dtype=tf.int64, trainable=False)  # of the best
        self._since = tf.Variable(0, dtype=tf.int64, trainable=False)  # patience runs from here
        self._halvings = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = [
            *self._best,
            self._centre,
            self._spread,
            self._squares,
            self._looks,
            self._models,
            self._iteration,
            self._since,
            self._halvings,
        ]

    @property
    def kl_share(self) -> float:
        """Share of the KL per update that is left."""
        return 0.5 ** int(self._halvings)

    @property
    def is_over(self) -> bool:
        """Whether planning is to end."""
        return int(self._halvings) > self._config.judge_halvings

    @property
    def promise(self) -> float:
        """Of the best policy; none is -inf."""
        return self._promised(float(self._centre), float(self._spread))

    @property
    def _usual(self) -> float:
        """Spread of the judgements so far, in the mean square."""
        return float(np.sqrt(float(self._squares) / max(int(self._looks), 1)))

    def _promised(self, centre: float, spread: float) -> float:
        return promise_of(centre, max(spread, self._usual), int(self._models))

    def look(self, judge: Judge, done: int) -> dict[str, float]:
        """Judges the present policy, which may be kept, or be replaced by the best.

        Args:
          judge: promises.
          done: updates so far.

        Returns:
          Numbers for the log, see `Judgement.numbers`, and "best_promise", "kl_share".
        """
        judgement = judge.policy(self._policy.numpy())
        if np.isfinite(judgement.spread):
            self._squares.assign_add(judgement.spread**2)
            self._looks.assign_add(1)
        self._models.assign(len(judgement.least))
        promise = self._promised(judgement.centre, judgement.spread)
        if promise > self.promise:
            self._centre.assign(judgement.centre)
            self._spread.assign(judgement.spread)
            self._iteration.assign(done)
            self._since.assign(done)
            for best, weight in zip(self._best, self._policy.weights, strict=True):
                best.assign(weight)
        elif done - int(self._since) >= self._config.judge_patience:
            self._since.assign(done)
            self._halvings.assign_add(1)
            self.take_best()
            logging.info(
                "planning: no higher promise than %.1f since iteration %d; %s",
                self.promise,
                int(self._iteration),
                "planning ends" if self.is_over else "back to it with half the step",
            )
        numbers = judgement.numbers() | {"promise": promise}
        return numbers | {"best_promise": self.promise, "kl_share": self.kl_share}

    def take_best(self) -> int:
        """Gives the policy its best weights; returns the updates that they had seen."""
        self._take(self._best)
        return int(self._iteration)

    def take_best_or_first(self, judge: Judge, worth: Callable[[], Judgement]) -> Kept:
        """Gives the policy its best weights, or those of the clone that planning began with.

        Two policies are compared model by model and start by start: what a model gets wrong of both
        falls out. So it takes less to prefer one than to promise what it earns. The clone is kept where
        one comparison in five would show it to be no worse.

        Where most roll-outs of the best policy meet HALT, the models do not know what it earns, and the
        clone's episodes speak for the clone: beyond HALT it earns what they did. Else HALT costs both
        the same.

        Args:
          judge: of the best policy.
          worth: what the clone is worth by its episodes, see `clones`.

        Returns:
          A Kept.
        """
        self._take(self._first)
        first = self._policy.numpy()
        iteration = self.take_best()
        best = judge.policy(self._policy.numpy())
        clone = judge.policy(first)
        by_episodes = best.halted.mean() > MOSTLY_HALTED
        gained = gain(best.least - (worth() if by_episodes else clone).least)
        if not iteration or gained > 0.0:
            return Kept(iteration, gained, best)
        logging.info(
            "planning: the policy of iteration %d does not surely gain over the clone (%.1f or more); "
            "the clone is kept",
            iteration,
            gained,
        )
        self._take(self._first)
        return Kept(0, gained, clone)

    def _take(self, weights: Sequence[Array | tf.Variable]) -> None:
        for weight, value in zip(self._policy.weights, weights, strict=True):
            weight.assign(value)
