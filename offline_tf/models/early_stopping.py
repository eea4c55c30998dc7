"""When a fit ends before its schedule does, and which weights it keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


class EarlyStopping:
    """Ends a fit that no longer gets better, and keeps its best weights.

    Attributes:
      variables: what checkpoints must hold.
    """

    def __init__(self, weights: Sequence[tf.Variable], patience: int) -> None:
        """Copies the weights.

        Args:
          weights: what is fitted.
          patience: a fit ends where its best checkpoint is so many steps back; 0: it never does, and
            nothing is kept.
        """
        self._patience = patience
        self._weights = list(weights) if patience else []
        self._best_weights = [tf.Variable(w, trainable=False) for w in self._weights]
        self._best_loss = tf.Variable(np.inf, dtype=tf.float32, trainable=False)
        self._best_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = [*self._best_weights, self._best_loss, self._best_step]

    def is_over(self, done: int) -> bool:
        """Whether patience has run out after so many steps."""
        return bool(self._patience) and done - int(self._best_step) >= self._patience

    @property
    def best_step(self) -> int:
        """The step that the best weights are of."""
        return int(self._best_step)

    def note(self, done: int, held_out_loss: float) -> None:
        """Keeps the present weights if no loss was lower before."""
        if not self._patience or not held_out_loss < float(self._best_loss):
            return
        self._best_loss.assign(held_out_loss)
        self._best_step.assign(done)
        for best, weight in zip(self._best_weights, self._weights, strict=True):
            best.assign(weight)

    def take_best(self, done: int, name: str) -> int:
        """Gives the weights their best values; after the loop.

        Args:
          done: steps.
          name: of the fit.

        Returns:
          The step that the weights are of: `done` without patience.

        Raises:
          RuntimeError: no loss was a finite number.
        """
        if not self._patience:
            return done
        if not int(self._best_step):
            raise RuntimeError(f"{name}: the held-out loss was never a finite number")
        for best, weight in zip(self._best_weights, self._weights, strict=True):
            weight.assign(best)
        return int(self._best_step)
