"""Which policy planning keeps, how large its steps are, and when it ends: by the judge's promise."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from absl import logging

from morel_tf.config import PlannerConfig
from offline_tf.judging.judge import Judge, promise_of
from offline_tf.policies.gaussian import GaussianPolicy


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

    def _promised(self, centre: float, spread: float) -> float:
        usual = np.sqrt(float(self._squares) / max(int(self._looks), 1))
        return promise_of(centre, max(spread, float(usual)), int(self._models))

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

    def take_best(self, least: float = -np.inf) -> int:
        """Gives the policy its best weights; returns the updates that they had seen.

        Args:
          least: with a lower promise it gets the weights that planning began with.
        """
        if self.promise < least:
            logging.info(
                "planning: at most %.1f is promised, and the clone is worth %.1f by its episodes; the "
                "clone is kept",
                self.promise,
                least,
            )
        weights = self._first if self.promise < least else self._best
        for best, weight in zip(weights, self._policy.weights, strict=True):
            weight.assign(best)
        return 0 if weights is self._first else int(self._iteration)
