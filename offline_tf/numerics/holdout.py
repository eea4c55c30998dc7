"""Which rows train and which are held out, whole episodes at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offline_tf.numerics import seeds
from offline_tf.types import Array


class Split(NamedTuple):
    """Which rows train and which are held out; int64 row numbers."""

    train: Array
    held_out: Array

    def where(self, usable: Array) -> Split:
        """Those of its rows that are usable, [N] bool."""
        return Split(self.train[usable[self.train]], self.held_out[usable[self.held_out]])

    def judged(self, count: int) -> Array:
        """At most `count` rows for reports: held-out ones, training rows where none are held out.

        `judged_kind` says which.
        """
        rows = self.held_out if len(self.held_out) else self.train
        return rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(np.int64)]

    @property
    def judged_kind(self) -> str:
        """What `judged` gives, as metrics name it: "held_out" or "training_rows"."""
        return "held_out" if len(self.held_out) else "training_rows"


_LEAST_SHARE, _MOST_SHARE, _ROWS_WANTED = 0.02, 0.1, 5000


def share_of(share: float | None, rows: int) -> float:
    """The share of the rows to hold out: the given one, or what judging takes.

    None: 5000 rows, but at least 2 % and at most 10 % of all.
    """
    if share is not None:
        return share
    return min(max(_LEAST_SHARE, _ROWS_WANTED / rows), _MOST_SHARE)


def split_episodes(bounds: Array, share: float, seed: int, by_time: bool = False) -> Split:
    """Holds out whole episodes until `share` of the rows is reached.

    An episode that would take more than twice the share is passed over; where all would, the
    shortest is held out.

    Args:
      bounds: [E, 2] first and one past last row of each episode.
      share: of the rows, in [0, 0.5]; 0 or a single episode holds out nothing.
      seed: of the choice.
      by_time: whether the last ones are held out, whatever the seed. Episodes that are pieces of one
        long log resemble their neighbours, so that pieces drawn at random would be judged too well.
    """
    rows = int(bounds[-1, 1])
    is_held_out, count = np.zeros(rows, bool), 0
    if share > 0 and len(bounds) > 1:
        order = seeds.generator(seed, "dynamics/split").permutation(len(bounds))
        if by_time:
            order = np.arange(len(bounds))[::-1]
        lengths = bounds[order, 1] - bounds[order, 0]
        for (start, end), length in zip(bounds[order[:-1]], lengths[:-1], strict=True):
            if count + length > 2.0 * share * rows:
                continue
            is_held_out[start:end] = True
            count += length
            if count >= share * rows:
                break
        if not count:
            start, end = bounds[order[np.argmin(lengths)]]
            is_held_out[start:end] = True
    return Split(np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))
