"""Minibatches: which rows of a data set they hold, and where their columns come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from offline_tf.models import compilation
from offline_tf.numerics.large_columns import largest_resident
from offline_tf.types import Array, Tensor

_RESIDENT_COLUMNS = 4  # that many of the largest resident size


class Feed:
    """Rows of a data set for `Fit.run`: held in TensorFlow where they are few, else gathered by chunks.

    Both ways give the same numbers.
    """

    def __init__(self, gather: Callable[[Array], tuple[Tensor, ...]], rows: Array) -> None:
        """Gathers everything now, or nothing yet.

        Args:
          gather: row numbers [n] -> columns [n, ..]; each row on its own.
          rows: [N] the rows that there are.
        """
        self._gather = gather
        self._rows = rows
        width = sum(np.asarray(column).nbytes for column in gather(rows[:1]))
        self._held: tuple[Tensor, ...] | None = None
        if width * len(rows) <= _RESIDENT_COLUMNS * largest_resident():
            self._held = tuple(tf.constant(column) for column in gather(rows))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def __call__(self, chunk: Array) -> tuple[tuple[Tensor, ...], Tensor]:
        """Returns columns, and `chunk` as positions in them.

        Args:
          chunk: [steps, M, B] int32 positions in `rows`.
        """
        if self._held is not None:
            return self._held, tf.constant(chunk)
        wanted, positions = np.unique(chunk, return_inverse=True)
        if compilation.compiler() == "xla":  # which compiles each number of rows anew
            wanted = np.resize(wanted, chunk.size)
        columns = tuple(tf.constant(column) for column in self._gather(self._rows[wanted]))
        return columns, tf.constant(positions.reshape(chunk.shape), tf.int32)


def shuffled_batches(
    generators: Sequence[np.random.Generator], count: int, batch_size: int
) -> Array:
    """One epoch of minibatches without replacement, each member in its own order.

    The remainder that does not fill a batch is dropped, as in the authors' code.

    Returns:
      [count // batch_size, M, batch_size] int32 row numbers.
    """
    size = min(batch_size, count)
    steps = count // size
    orders = [g.permutation(count)[: steps * size].astype(np.int32) for g in generators]
    return np.stack([order.reshape(steps, size) for order in orders], axis=1)


def drawn_batches(
    generators: Sequence[np.random.Generator],
    count: int,
    steps: int,
    batch_size: int,
    cumulative: Array | None = None,
) -> Array:
    """Minibatches of rows drawn with replacement, each member its own.

    Args:
      generators: one per member.
      count: rows to draw from.
      steps: minibatches per member.
      batch_size: rows per minibatch.
      cumulative: [count] sums of the chances of the rows up to each, the last one 1; None draws all
        alike.

    Returns:
      [steps, M, batch_size] int32 row numbers.
    """
    shape = (steps, batch_size)

    def draw(generator: np.random.Generator) -> Array:
        if cumulative is None:
            return generator.integers(count, size=shape, dtype=np.int32)
        rows = np.searchsorted(cumulative, generator.random(shape), side="right")
        return np.minimum(rows, count - 1).astype(np.int32)

    return np.stack([draw(generator) for generator in generators], axis=1)
