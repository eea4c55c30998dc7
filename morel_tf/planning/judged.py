"""Which policy planning keeps, how large its steps are, and when it ends: by the judge's promise."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from absl import logging

from morel_tf.config import PlannerConfig
from offline_tf.judging.judge import Judge
from offline_tf.policies.gaussian import GaussianPolicy


class Keeper:
    """Keeps the policy that the judge promises most of.

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
        self._promise = tf.Variable(-np.inf, dtype=tf.float64, trainable=False)
        self._iteration = tf.Variable(0, dtype=tf.int64, trainable=False)  # of the best
        self._since = tf.Variable(0, dtype=tf.int64, trainable=False)  # patience runs from here
        self._halvings = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = [
            *self._best,
            self._promise,
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
    def has_judged(self) -> bool:
        """Whether there was a judgement."""
        return bool(np.isfinite(float(self._promise)))

    def look(self, judge: Judge, done: int) -> dict[str, float]:
        """Judges the present policy, which may be kept, or be replaced by the best.

        Args:
          judge: promises.
          done: updates so far.

        Returns:
          Numbers for the log, see `Judgement.numbers`, and "best_promise", "kl_share".
        """
        numbers = judge.policy(self._policy.numpy()).numbers()
        if numbers["promise"] > float(self._promise):
            self._promise.assign(numbers["promise"])
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
                float(self._promise),
                int(self._iteration),
                "planning ends" if self.is_over else "back to it with half the step",
            )
        return numbers | {"best_promise": float(self._promise), "kl_share": self.kl_share}

    def take_best(self, least: float = -np.inf) -> int:
        """Gives the policy its best weights; returns the updates that they had seen.

        Args:
          least: with a lower promise it gets the weights that planning began with.
        """
        if float(self._promise) < least:
            logging.info(
                "planning: at most %.1f is promised, and the clone is worth %.1f by its episodes; the "
                "clone is kept",
                float(self._promise),
                least,
            )
        weights = self._first if float(self._promise) < least else self._best
        for best, weight in zip(weights, self._policy.weights, strict=True):
            weight.assign(best)
        return 0 if weights is self._first else int(self._iteration)
