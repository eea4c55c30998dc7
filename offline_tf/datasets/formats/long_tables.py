"""Tables of (tag, time, value), as historians export them: a column per tag, a row per stamp."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offline_tf.datasets.formats import timestamps
from offline_tf.datasets.formats.tables import Table
from offline_tf.numerics.large_columns import ColumnWriter
from offline_tf.types import Array, UserError

_MOST_TAGS, _REPEATS = 1000, 3  # a tag comes up that often in a sample, on average


class Form(NamedTuple):
    """Which columns hold what.

    Attributes:
      tag: names of signals.
      value: numbers.
    """

    tag: str
    value: str


def looks_like(samples: dict[str, list[str]], time: str, numeric: Sequence[str]) -> Form | None:
    """The form of a table that looks like one: a column of numbers, and one of few words.

    Args:
      samples: the first cells of each column.
      time: column of the stamps.
      numeric: columns of numbers.
    """
    if len(numeric) != 1:
        return None
    for name, cells in samples.items():
        count = len(set(cells))
        if name not in (time, *numeric) and 2 <= count <= len(cells) / _REPEATS:
            return Form(name, numeric[0])
    return None


def columns_of(
    blocks: Iterator[tuple[Array, Array, Array]],
    wanted: Sequence[str] | None = None,
    added: str = "",
) -> tuple[Array, dict[str, Array]]:
    """Turns rows into columns.

    Args:
      blocks: times [n], tags [n] of str, values [n].
      wanted: tags; None: all.
      added: tag whose values of one stamp are added up, such as payments.

    Returns:
      Rising times [m], each once, and by tag [m] float64, NaN where it has no value then. Of two values
      of one stamp the later one counts.

    Raises:
      UserError: there are more than a thousand tags.
    """
    number: dict[str, int] = collections.defaultdict(itertools.count().__next__)
    for tag in wanted or ():
        number[tag]
    stamps, codes, values = ColumnWriter(), ColumnWriter(), ColumnWriter()
    for times, tags, numbers in blocks:
        kinds = pa.array(tags, pa.string()).dictionary_encode()
        names = [str(tag).strip() for tag in kinds.dictionary.to_pylist()]
        place = np.array(
            [number[tag] if wanted is None or tag in number else -1 for tag in names], np.int32
        )
        if len(number) > _MOST_TAGS:
            raise UserError(f"--dataset: expected {_MOST_TAGS} tags at most, got more")
        rows = pc.fill_null(kinds.indices, -1).to_numpy(zero_copy_only=False)
        code = np.where(rows >= 0, np.append(place, -1)[rows], -1).astype(np.int32)
        kept = code >= 0
        stamps.append(times[kept])
        codes.append(code[kept])
        values.append(numbers[kept])
    every, code, numbers = stamps.finish(), codes.finish(), values.finish()
    times, row = np.unique(every, return_inverse=True)
    found = {}
    for tag, at in number.items():
        own = code == at
        column = np.full(len(times), np.nan)
        if tag == added:
            paid = own & np.isfinite(numbers)
            column[row[paid]] = 0.0
            np.add.at(column, row[paid], numbers[paid])
        else:
            column[row[own]] = numbers[own]
        writer = ColumnWriter()  # on disk where it is large
        writer.append(column)
        found[tag] = writer.finish()
    return times, found


def read(
    table: Table, time: str, form: str, names: Form, most: int = 0
) -> Iterator[tuple[Array, Array, Array]]:
    """Yields times, tags and values of a table by blocks.

    Args:
      table: the table.
      time, form: column of the stamps and their format.
      names: columns.
      most: rows, about; 0: all.
    """
    count = 0
    for block in table.blocks([names.value], [time, names.tag], allow_missing=True):
        yield (
            timestamps.seconds(block[time], form, str(table.path)),
            block[names.tag],
            block[names.value],
        )
        count += len(block[time])
        if most and count >= most:
            return
