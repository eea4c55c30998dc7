"""What a run will take, roughly: work in floating-point operations over what this machine does."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from offline_tf.datasets.names import KINDS
from offline_tf.models import compilation
from offline_tf.numerics import large_columns
from offline_tf.types import TaskSpec

_GIB = 1 << 30
_BASE = 0.8 * _GIB  # TensorFlow and the models; docs/results/memory.md
_COPIES = 6.5  # of the data, where all columns are in memory
_BYTES_PER_ROW = 90  # where they are not


class Part(NamedTuple):
    """A stage and its seconds."""

    name: str
    seconds: float


def operations_per_second(dtype: tf.DType, threads: int) -> float:
    """Measured for a third of a second: [1024, 512] x [512, 512], a product per thread at a time."""
    rows = tf.cast(tf.random.stateless_normal([1024, 512], [0, 0]), dtype)
    weights = tf.cast(tf.random.stateless_normal([512, 512], [0, 1]), dtype)

    @compilation.function
    def several(x: tf.Tensor) -> list[tf.Tensor]:
        # Different products, so that none is dropped as a copy of another.
        return [tf.matmul(x, weights + tf.cast(i, dtype)) for i in range(threads)]

    several(rows)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < 0.33:
        several(rows)[-1].numpy()
        calls += 1
    return 2.0 * 1024 * 512 * 512 * threads * calls / (time.perf_counter() - began)


def weights(*widths: int) -> int:
    """Weights of a fully connected network."""
    return sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def rows_of(task: TaskSpec, dataset: str, made: int) -> int:
    """Rows of a data set: of the file by its size, else those that would be made."""
    if dataset in KINDS:
        return made * (2 if dataset == "medium-expert-ours" else 1)
    path = pathlib.Path(dataset)
    if not dataset or not path.is_file():
        return made
    return max(path.stat().st_size // (4 * (2 * task.state_dim + task.action_dim + 2)), 1)


def memory(task: TaskSpec, rows: int) -> float:
    """Bytes at the peak, by the rule of docs/results/memory.md."""
    row = 4 * (2 * task.state_dim + task.action_dim + 2)
    column = 4 * rows * task.state_dim
    if column > large_columns.largest_resident():
        return _BASE + _BYTES_PER_ROW * rows
    return _BASE + _COPIES * row * rows


def in_words(parts: Sequence[Part], needed: float) -> list[str]:
    """Lines for a person."""
    total = sum(part.seconds for part in parts)
    lines = [f"  {part.name:18s} {part.seconds / 60:6.1f} min" for part in parts]
    lines.append(f"  {'in all, about':18s} {total / 60:6.1f} min (half to twice that)")
    have = large_columns.machine_memory()
    lines.append(f"  memory, about      {needed / _GIB:6.1f} GiB of {have / _GIB:.0f} GiB")
    if needed > have:
        lines.append("  that is too much: lower $OFFLINE_TF_COLUMN_MB, or take fewer rows")
    return lines
