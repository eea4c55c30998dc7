"""Tables as people keep them, read by blocks of rows: CSV in any dialect, packed or not, and Parquet.

What a table's columns mean for a task is said in `table_rows`.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from offline_tf.datasets.formats import columns, dialects
from offline_tf.datasets.formats.dialects import FLAGS, MISSING, Dialect
from offline_tf.types import Array, UserError

_TEXT, _PARQUET = (".csv", ".tsv", ".txt", ".dat"), (".parquet", ".pq")
_PACKED = (".gz", ".bz2", ".xz")
_BLOCK_BYTES, _BLOCK_ROWS = 1 << 22, 65_536
_SAMPLE = 1000
_FLAG_NAMES = pa.array(list(FLAGS), pa.string())
_FLAG_VALUES = pa.array([float(value) for value in FLAGS.values()], pa.float64())
# As pyarrow compares them, with blanks around.
_MISSING = [
    f"{before}{word}{after}" for word in MISSING for before in ("", " ") for after in ("", " ")
]


def is_table(path: pathlib.Path) -> bool:
    """Whether a file's ending is a table's: .csv, .csv.gz, .tsv, .parquet and the like."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in _PACKED:
        endings.pop()
        return bool(endings) and endings[-1] in _TEXT
    return bool(endings) and endings[-1] in (*_TEXT, *_PARQUET)


class Table:
    """A table that is read from its beginning, once or several times.

    Attributes:
      path: of the file.
      names: of the columns, in order.
      dialect: of a text table; None for Parquet.
      has_names: whether the columns have names; else they are "0", "1", ...
    """

    def __init__(self, path: pathlib.Path, names: Sequence[str] = ()) -> None:
        """Reads its beginning.

        Args:
          path: of the file.
          names: of all columns, in place of the file's; empty: the file's.

        Raises:
          UserError: it cannot be read, or has another number of columns.
        """
        self.path = path
        self.dialect: Dialect | None = None
        self._sample: list[list[str]] = []  # rows under the header
        try:
            if path.suffix.lower() in _PARQUET:
                with pyarrow.parquet.ParquetFile(path) as file:
                    found = list(file.schema_arrow.names)
            else:
                self.dialect, rows = dialects.sniff(path)
                self._sample = rows[int(self.dialect.has_header) :]
                found = [cell.strip() for cell in rows[0]] if rows else []
                is_wider = all(len(row) == len(found) + 1 for row in self._sample)
                # A sign at the end of each row is no column.
                if is_wider and any(row[-1].strip() for row in self._sample):
                    found = ["", *found]  # R writes names of rows, and none for their column
        except Exception as error:  # pyarrow, csv and the unpackers raise many kinds
            raise UserError(self._unreadable(error)) from None
        text = self.dialect
        self.has_names = bool(names) or text is None or text.has_header or not found
        if names and len(names) != len(found):
            raise UserError(
                f"--columns: expected names for the {len(found)} columns of {path}, got "
                f"{len(names)}: {', '.join(names)}"
            )
        self.names = tuple(names) or tuple(
            found if self.has_names else (str(i) for i in range(len(found)))
        )

    def blocks(
        self, numbers: Sequence[str], words: Sequence[str] = (), allow_missing: bool = False
    ) -> Iterator[dict[str, Array]]:
        """Reads columns.

        Args:
          numbers: columns of numbers, or of True and False, which are 1 and 0.
          words: columns of anything, as text; none of `numbers`.
          allow_missing: whether cells of MISSING are NaN; otherwise they are refused in text.

        Yields:
          Column -> [n] float64, [n, k] where cells are lists (Parquet), or [n] of str.

        Raises:
          UserError: a cell is not a number (its line is named), or the file is damaged.
        """
        wanted = {name: self.names.index(name) for name in (*numbers, *words)}
        try:
            for batch in self._batches(wanted, frozenset(words), allow_missing):
                yield {
                    name: _words(array) if name in words else _numbers(array)
                    for name, array in zip(wanted, batch.columns, strict=True)
                }
        except UserError:
            raise
        except Exception as error:  # as in __init__
            bad_cell = self._bad_cell(numbers, MISSING if allow_missing else ())
            raise UserError(bad_cell or self._unreadable(error)) from None

    def sample(self) -> dict[str, list[str]]:
        """The first cells of each column, as text; empty where a cell of Parquet is."""
        if self.dialect is not None:
            rows = self._sample
            return {
                name: [row[at].strip() for row in rows if at < len(row)]
                for at, name in enumerate(self.names)
            }
        found: dict[str, list[str]] = {name: [] for name in self.names}
        try:
            batches = self._batches({n: i for i, n in enumerate(self.names)}, frozenset(), True)
            for name, array in zip(self.names, next(batches, pa.table({})).columns, strict=False):
                found[name] = [cell or "" for cell in _words(array.slice(0, _SAMPLE))]
        except Exception as error:  # as in __init__
            raise UserError(self._unreadable(error)) from None
        return found

    def count_lines(self) -> int:
        """Lines under the header, or rows of a Parquet file; no cell is looked at.

        Raises:
          UserError: the file is damaged.
        """
        try:
            if self.dialect is None:
                return int(pyarrow.parquet.read_metadata(self.path).num_rows)
            with dialects.opened_bytes(self.path) as file:
                blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
                ends, last = 0, b"\n"
                for block in blocks:
                    ends, last = ends + block.count(b"\n"), block[-1:]
        except Exception as error:  # as in __init__
            raise UserError(self._unreadable(error)) from None
        return max(ends + (last != b"\n") - self.dialect.lines_before, 0)

    def _batches(
        self, wanted: dict[str, int], words: frozenset[str], allow_missing: bool
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the wanted columns in their order."""
        if self.dialect is None:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                names = [file.schema_arrow.names[at] for at in wanted.values()]
                for batch in file.iter_batches(_BLOCK_ROWS, columns=names):
                    yield batch.select(names)
            return
        # Names may occur twice in a file; numbers of columns do not.
        keys = [str(at) for at in wanted.values()]
        is_text = [name in words or self._is_flag(at) for name, at in wanted.items()]
        kinds = {
            key: pa.string() if text else pa.float64()
            for key, text in zip(keys, is_text, strict=True)
        }
        read_options = pyarrow.csv.ReadOptions(
            column_names=[str(at) for at in range(len(self.names))],
            skip_rows=self.dialect.lines_before,
            block_size=_BLOCK_BYTES,
            encoding=self.dialect.encoding.removesuffix("-sig"),
        )
        parse_options = pyarrow.csv.ParseOptions(
            delimiter=self.dialect.delimiter, newlines_in_values=self.dialect.has_quotes
        )
        convert_options = pyarrow.csv.ConvertOptions(
            include_columns=keys,
            column_types=kinds,
            null_values=_MISSING if allow_missing else [],
            strings_can_be_null=allow_missing,
            decimal_point=self.dialect.decimal,
        )
        with (
            dialects.opened_bytes(self.path) as file,
            pyarrow.csv.open_csv(file, read_options, parse_options, convert_options) as reader,
        ):
            yield from reader

    def _is_flag(self, at: int) -> bool:
        """Whether the first cells of a column are True and False."""
        cells = [row[at].strip() for row in self._sample if at < len(row)]
        cells = [cell for cell in cells if cell not in MISSING]
        return bool(cells) and all(cell in FLAGS for cell in cells)

    def _bad_cell(self, numbers: Sequence[str], missing: Sequence[str]) -> str:
        """The line that says which cell of a text table is no number; empty where none is seen."""
        if self.dialect is None:
            return ""
        try:
            with dialects.opened(self.path, self.dialect.encoding) as file:
                rows = csv.reader(file, delimiter=self.dialect.delimiter)
                if self.dialect.has_header:
                    next(rows, None)
                for row in rows:
                    for name in numbers if row else ():
                        at = self.names.index(name)
                        cell = row[at].strip() if at < len(row) else "nothing"
                        if cell in missing or (cell in FLAGS and self._is_flag(at)):
                            continue
                        if dialects.as_number(cell, self.dialect.decimal) is None:
                            return (
                                f"--dataset: {self.path}, line {rows.line_num}: expected a number, "
                                f"got {name}={cell!r}"
                            )
        except (OSError, ValueError, EOFError, csv.Error):
            pass  # what else is wrong with the file is said instead
        return ""

    def _unreadable(self, error: Exception) -> str:
        kind = "Parquet file" if self.path.suffix.lower() in _PARQUET else "CSV table"
        return columns.unreadable(self.path, kind, error)


def _numbers(array: pa.Array) -> Array:
    """[n] or [n, k] float64.

    Raises:
      ValueError: it holds other things, or lists of several lengths.
    """
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = np.unique(pc.list_value_length(array).to_numpy(zero_copy_only=False))
        if len(lengths) != 1 or not lengths[0] > 0:
            raise ValueError("a column of lists has lists of several lengths")
        return _numbers(array.flatten()).reshape(len(array), -1)
    if pa.types.is_string(kind):
        cells = pc.utf8_trim_whitespace(array)
        place = pc.index_in(cells, value_set=_FLAG_NAMES)
        numbers = pc.cast(pc.if_else(pc.is_null(place), cells, None), pa.float64())
        array = pc.coalesce(pc.take(_FLAG_VALUES, place), numbers)
    return pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _words(array: pa.Array) -> Array:
    """[n] of str; None where there is no cell."""
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    if pa.types.is_timestamp(array.type):  # to digits that can be read back
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    if pa.types.is_nested(array.type) or pa.types.is_binary(array.type):
        return np.full(len(array), "", object)
    return pc.cast(array, pa.string()).to_numpy(zero_copy_only=False)
