"""How a text table is written: what stands between cells, decimal signs, header, encoding."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import lzma
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, TextIO

FLAGS = {"True": 1.0, "true": 1.0, "TRUE": 1.0, "False": 0.0, "false": 0.0, "FALSE": 0.0}
# Cells in which nothing was measured, as logs of plants have them.
MISSING = (
    "",
    "NaN",
    "nan",
    "NA",
    "N/A",
    "#N/A",
    "null",
    "NULL",
    "None",
    "none",
    "-",
    "?",
    "Bad",
    "bad",
)
_DELIMITERS = (",", ";", "\t", "|")
_WORDS_OF_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE_CHARACTERS, _SAMPLE_LINES = 1 << 18, 1000
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_POINT_NUMBER = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


class Dialect(NamedTuple):
    """How a text table is written.

    Attributes:
      delimiter: between cells.
      decimal: the sign in numbers, a point or a comma.
      has_header: whether the first line holds names.
      encoding: of the text, as Python calls it.
      lines_before: lines up to the first row of data, the header's among them.
      has_quotes: whether cells stand in quotes, and may hold ends of lines.
    """

    delimiter: str
    decimal: str
    has_header: bool
    encoding: str
    lines_before: int = 0
    has_quotes: bool = False

    def in_words(self) -> str:
        """What is unusual about it; empty for commas, decimal points and UTF-8."""
        found = []
        if self.delimiter != ",":
            found.append(f"{_WORDS_OF_DELIMITERS[self.delimiter]} between columns")
        if self.decimal == ",":
            found.append("decimal commas")
        if not self.encoding.startswith("utf-8"):
            found.append(f"text in {self.encoding}")
        return ", ".join(found)


@contextlib.contextmanager
def opened(path: pathlib.Path, encoding: str) -> Iterator[TextIO]:
    """A file as text, unpacked where its ending says that it is packed."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rt", encoding=encoding, newline="") as file:
        yield file


@contextlib.contextmanager
def opened_bytes(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file as bytes, unpacked where its ending says that it is packed."""
    with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
        yield file


def sniff(path: pathlib.Path) -> tuple[Dialect, list[list[str]]]:
    """Looks at the beginning of a text table.

    Args:
      path: of the file.

    Returns:
      Its dialect, and its first rows as text, the header among them.

    Raises:
      OSError, ValueError, csv.Error, EOFError, lzma.LZMAError: it cannot be read.
    """
    encoding = _encoding(path)
    with opened(path, encoding) as file:
        text = file.read(_SAMPLE_CHARACTERS)
    if "\0" in text:
        raise ValueError("it is no text")
    lines = text.splitlines(keepends=True)
    if len(text) == _SAMPLE_CHARACTERS:
        lines = lines[:-1] or lines  # the last one may be cut
    lines = lines[:_SAMPLE_LINES]
    delimiter = max(_DELIMITERS, key=lambda sign: _fit(lines, sign))
    reader = csv.reader(lines, delimiter=delimiter)
    rows: list[list[str]] = []
    lines_before = 0
    for row in reader:
        if row and not rows:
            lines_before = reader.line_num
        if row:
            rows.append(row)
    decimal = "," if delimiter != "," and _has_decimal_commas(rows[1:] or rows) else "."
    has_header = _is_header(rows, decimal)
    before = lines_before if has_header else 0
    return Dialect(delimiter, decimal, has_header, encoding, before, '"' in text), rows


def _is_header(rows: Sequence[Sequence[str]], decimal: str) -> bool:
    """Whether the first row holds names: one stands where the second row has a number.

    A table of one row, or of text alone, has a header unless that row is numbers and flags.
    """
    if not rows:
        return False
    first = [_is_value(cell, decimal) for cell in rows[0]]
    if len(rows) > 1:
        second = [_is_value(cell, decimal) for cell in rows[1]]
        if any(second):
            return any(b and not a for a, b in zip(first, second, strict=False))
    return not all(first)


def _is_value(cell: str, decimal: str) -> bool:
    """Whether a cell is a number, a flag or a missing value."""
    cell = cell.strip()
    return cell in FLAGS or cell in MISSING or as_number(cell, decimal) is not None


def _encoding(path: pathlib.Path) -> str:
    with opened_bytes(path) as file:
        beginning = file.read(_SAMPLE_CHARACTERS)
    for mark, name in _MARKS:
        if beginning.startswith(mark):
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
        return "utf-8"
    except UnicodeDecodeError:
        return "cp1252"  # Windows's, in western Europe and America


def _fit(lines: Sequence[str], delimiter: str) -> tuple[int, int]:
    """How well a delimiter suits: rows as wide as the first, then columns; (0, 1): there is none."""
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    if not rows or len(rows[0]) < 2:
        return 0, 1
    return sum(len(row) == len(rows[0]) for row in rows), len(rows[0])


def _has_decimal_commas(rows: Sequence[Sequence[str]]) -> bool:
    cells = [cell.strip() for row in rows for cell in row]
    commas = sum(_COMMA_NUMBER.fullmatch(cell) is not None for cell in cells)
    points = sum(_POINT_NUMBER.fullmatch(cell) is not None for cell in cells)
    return commas > points


def as_number(cell: str, decimal: str) -> float | None:
    """A cell's number; None where it is none."""
    try:
        return float(cell.replace(decimal, "."))
    except ValueError:
        return None
