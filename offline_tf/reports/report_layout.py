"""What a report shows of a run: panels of curves, and numbers of the summary, each with its words.

An algorithm hands its Layout to `write` when its run opens. The run folder then carries it, as
panels.json, so that a report is made from folders alone.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from offline_tf.run_folder.files import write_json
from offline_tf.types import Array, UserError

_FILE = "panels.json"
_BOUNDS = ("_low", "_high")


class Line(NamedTuple):
    """One curve.

    Attributes:
      label: for the legend.
      table: of metrics, such as "planning.evaluation".
      column: of the table; where it has COLUMN_low and COLUMN_high too, they are drawn as a band.
    """

    label: str
    table: str
    column: str


class Panel(NamedTuple):
    """Curves in one picture; those without a column in the run are left out."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]


class Number(NamedTuple):
    """An entry of summary.json, and the words for it."""

    key: str
    label: str


class Layout(NamedTuple):
    """What a report shows, in order; numbers that a summary lacks are left out."""

    panels: tuple[Panel, ...]
    numbers: tuple[Number, ...]


def write(folder: pathlib.Path, layout: Layout) -> None:
    """Keeps the layout in a run folder."""
    panels = [
        panel._asdict() | {"lines": [line._asdict() for line in panel.lines]}
        for panel in layout.panels
    ]
    numbers = [number._asdict() for number in layout.numbers]
    write_json(folder / _FILE, {"panels": panels, "numbers": numbers})


def read(folder: pathlib.Path) -> Layout | None:
    """The layout that a run folder carries; None where there is none, as in folders of older runs.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        panels = tuple(
            Panel(
                panel["title"],
                panel["x_label"],
                panel["y_label"],
                tuple(Line(x["label"], x["table"], x["column"]) for x in panel["lines"]),
            )
            for panel in content["panels"]
        )
        numbers = tuple(Number(entry["key"], entry["label"]) for entry in content["numbers"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--workdir: expected panels and numbers in {path}, got another file ({error!r}); "
            "delete it to see the metrics as they stand"
        ) from None
    return Layout(panels, numbers)


def plain(tables: Mapping[str, Array], summary: Mapping[str, Any]) -> Layout:
    """A layout for a run that carries none: every column of every table, every number, as named.

    Args:
      tables: of metrics, by name; structured arrays with a column "step". One row makes no curve.
      summary: of the run.
    """
    panels = []
    for table, rows in tables.items():
        columns = rows.dtype.names or ()
        for column in columns if len(rows) > 1 else ():
            is_bound = column.endswith(_BOUNDS) and column.rsplit("_", 1)[0] in columns
            if column != "step" and not is_bound:
                line = Line(column, table, column)
                panels.append(Panel(f"{table}: {column}", "step", column, (line,)))
    numbers = tuple(
        Number(key, key.replace("_", " ").capitalize())
        for key, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "seed"
    )
    return Layout(tuple(panels), numbers)


def numbers_of(layout: Layout, summary: Mapping[str, Any]) -> dict[str, float]:
    """Those numbers of a summary by which runs are compared: key -> number."""
    values = {number.key: summary.get(number.key) for number in layout.numbers}
    return {key: value for key, value in values.items() if value is not None}
