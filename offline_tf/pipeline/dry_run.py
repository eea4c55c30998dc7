"""What a run will take, told to a person: seconds by stage, and memory."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from offline_tf.datasets import sources
from offline_tf.datasets.names import KINDS, REPLAY_KINDS
from offline_tf.datasets.simulated import sac_kinds
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


class Rows(NamedTuple):
    """How many rows a data set has, and how that is known.

    Attributes:
      number: of rows.
      guessed: in words, where they were not counted.
    """

    number: int
    guessed: str = ""

    def __str__(self) -> str:
        """For a person."""
        return (
            f"about {self.number:,} rows, {self.guessed}"
            if self.guessed
            else f"{self.number:,} rows"
        )


def weights(*widths: int) -> int:
    """Weights of a fully connected network."""
    return sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def is_made(dataset: str) -> bool:
    """Whether a run makes its data: none are named, or a kind that is not read from a training."""
    return not dataset or (dataset in KINDS and dataset not in REPLAY_KINDS)


def rows_of(task: TaskSpec, dataset: str, made: int, data_dir: str = "") -> Rows:
    """Rows of a data set: those in the file, or those that would be made.

    Args:
      task: whose rows they are.
      dataset: the value of --dataset.
      made: rows of data that are made.
      data_dir: see `large_columns.cache_folder`.
    """
    if is_made(dataset):
        return Rows(made * (2 if dataset.startswith("medium-expert") else 1))
    is_replay = dataset in REPLAY_KINDS
    path = sac_kinds.replay_file(task, dataset, data_dir) if is_replay else pathlib.Path(dataset)
    if tables := sources.tables_of(str(path)):
        return Rows(sum(map(sources.count_lines, tables)), "by their lines")
    if not path.is_file():
        return Rows(made, "assumed")
    counted = sources.count_rows(path)
    if counted is not None:
        return Rows(counted)
    row = 4 * (2 * task.state_dim + task.action_dim + 2)
    return Rows(max(path.stat().st_size // row, 1), "by its size")


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
    lines.append(f"  {'in all, about':18s} {total / 60:6.1f} min on an idle machine")
    have = large_columns.machine_memory()
    lines.append(f"  memory, about      {needed / _GIB:6.1f} GiB of {have / _GIB:.0f} GiB")
    if needed > have:
        lines.append("  that is too much: lower $OFFLINE_TF_COLUMN_MB, or take fewer rows")
    return lines


def read_words(said: str) -> tuple[float, float]:
    """Minutes in all and bytes of memory, from the lines of `in_words`."""
    numbers = [
        re.search(rf"^  {what}, about +([\d.]+) ", said, re.M) for what in ("in all", "memory")
    ]
    minutes, gib = (float(number[1]) for number in numbers if number is not None)
    return minutes, gib * _GIB


def more_settings(minutes: float) -> str:
    """What --select=offline adds."""
    return f"then other settings on the same models, for up to {minutes:g} minutes"
