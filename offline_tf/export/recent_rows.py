"""What a controller with history has to remember: the last rows of the loop that it acts in.

    rows = RecentRows(controller.interface.observation_names, controller.interface.action_names)
    while True:
        action = controller.act(rows.observe(measured, action_before))
        rows.acted(action)

A task with `history = 3` observes a signal, then NAME@-1 and NAME@-2: what it was one and two steps
before. Measurements are those of the names without "@", in their order. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline_tf.types import Array

_BEFORE = "@-"


class RecentRows:
    """Makes observations of measurements and of the actions before them.

    Attributes:
      measured_names: what `observe` takes, in its order.
    """

    def __init__(self, observation_names: Sequence[str], action_names: Sequence[str]) -> None:
        """Begins an episode.

        Args:
          observation_names, action_names: of the task or of an export's interface.

        Raises:
          ValueError: a name with a lag is of nothing that is measured or done.
        """
        self.measured_names = tuple(name for name in observation_names if _BEFORE not in name)
        columns = {name: index for index, name in enumerate(self.measured_names)}
        columns |= {name: len(columns) + index for index, name in enumerate(action_names)}
        self._actions = len(action_names)
        self._lags, self._columns = [], []
        for name in observation_names:
            signal, _, lag = name.partition(_BEFORE)
            if signal not in columns:
                raise ValueError(f"{name} is neither measured nor an action")
            self._lags.append(int(lag or 0))
            self._columns.append(columns[signal])
        self._rows: list[Array] = []

    def reset(self) -> None:
        """Begins an episode: forgets the rows."""
        self._rows = []

    def observe(self, measured: Array, action_before: Array | None = None) -> Array:
        """Adds what is measured now, and gives the observation.

        Args:
          measured: [S'] or [B, S'], of `measured_names`.
          action_before: [A] or [B, A], with an episode's first row: what was done before it. Needed
            where an observation has past actions.

        Returns:
          [S] or [B, S] float32. Before an episode's first row everything was as in that row.

        Raises:
          ValueError: other shapes, or no action before the first row.
        """
        measured = np.asarray(measured, np.float32)
        wanted = len(self.measured_names)
        if measured.ndim not in (1, 2) or measured.shape[-1] != wanted:
            raise ValueError(
                f"expected [{wanted}] or [B, {wanted}] measurements, got {measured.shape}"
            )
        done = np.zeros((*measured.shape[:-1], self._actions), np.float32)
        if not self._rows:
            if action_before is not None:
                done = done + np.asarray(action_before, np.float32)
            elif max(self._columns) >= wanted:
                raise ValueError("expected action_before with an episode's first measurements")
            self._rows = [np.concatenate([measured, done], axis=-1)] * (max(self._lags) + 1)
        else:
            self._rows = [*self._rows[1:], np.concatenate([measured, done], axis=-1)]
        columns = [self._rows[-1 - lag][..., at] for lag, at in zip(self._lags, self._columns)]
        return np.stack(columns, axis=-1)

    def acted(self, action: Array) -> None:
        """Says what was done after the last `observe`: [A] or [B, A], as executed.

        Raises:
          ValueError: nothing was observed yet.
        """
        if not self._rows:
            raise ValueError("expected observe before acted")
        newest = self._rows[-1].copy()
        newest[..., len(self.measured_names) :] = action
        self._rows[-1] = newest
