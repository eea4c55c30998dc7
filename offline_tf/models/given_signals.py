"""Signals that nobody in the loop decides: set points, the weather, what is fed. They follow the log.

A model cannot predict when a planner changes a set point, and a controller that is judged while none
changes is judged too well. So simulated episodes take these signals from the log, row after row from
the row where they begin. Where the log ends or is interrupted, the last values hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from offline_tf.numerics.large_columns import blocks
from offline_tf.types import TaskSpec, Tensor, Transitions


class GivenSignals(NamedTuple):
    """What the log says of them.

    Attributes:
      columns: G positions in an observation.
      values: [N, G], at the log's rows.
      following: [N] int32, the row after each; itself where the log is interrupted.
    """

    columns: tuple[int, ...]
    values: Tensor
    following: Tensor

    @classmethod
    def of(cls, task: TaskSpec, data: Transitions) -> GivenSignals | None:
        """Those of a data set; None of a task that has none."""
        if not task.given:
            return None
        columns = list(task.given)
        values = np.ascontiguousarray(data.observations[:, columns], np.float32)
        count = len(values)
        following = np.minimum(np.arange(1, count + 1, dtype=np.int32), count - 1)
        for part in blocks(count - 1):
            after = slice(part.start + 1, part.stop + 1)
            goes_on = (data.next_observations[part] == data.observations[after]).all(axis=1)
            following[part] = np.where(goes_on, following[part], np.arange(part.start, part.stop))
        # Made once: a constant of a graph would be copied into each that is traced.
        return cls(task.given, tf.constant(values), tf.constant(following))

    def after(self, rows: Tensor, next_states: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the signals of the following rows into predicted states.

        Args:
          rows: [K] int32, where each path stands in the log.
          next_states: [.., K, S].

        Returns:
          The states [.., K, S], and the rows after [K].
        """
        rows = tf.gather(self.following, rows)  # [K]
        told = tf.gather(self.values, rows)  # [K, G]
        state_dim = next_states.shape[-1]
        place = np.zeros(state_dim, np.int32)
        place[list(self.columns)] = np.arange(len(self.columns))
        is_given = np.zeros(state_dim, bool)
        is_given[list(self.columns)] = True
        spread = tf.gather(told, place, axis=1)  # [K, S]
        return tf.where(is_given, spread, next_states), rows
