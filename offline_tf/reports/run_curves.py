"""Curves of runs: the panels of their layouts, drawn from their tables of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from offline_tf.inspection import figures
from offline_tf.reports.report_layout import Layout, Line
from offline_tf.reports.run_contents import Run
from offline_tf.types import Array

_MOST_POINTS = 400  # of a curve
_Series = tuple[str, Array, Array, Array | None]  # label, steps [n], values [n], half widths [n]


def draw(runs: Sequence[Run], layouts: Sequence[Layout]) -> list[tuple[str, Figure]]:
    """Draws all panels of which a run has curves: (title, figure), in the order of the layouts.

    Args:
      runs: whose curves stand in one picture where title and axes of their panels are the same.
      layouts: of each run.
    """
    several = len(runs) > 1
    headings = dict.fromkeys(panel[:3] for layout in layouts for panel in layout.panels)
    drawn = []
    for heading in headings:
        series = [
            curve
            for run, layout in zip(runs, layouts, strict=True)
            for panel in layout.panels
            if panel[:3] == heading
            for line in panel.lines
            for curve in _series(run, line, f"{run.name}: " if several else "")
        ]
        if series:
            drawn.append((heading[0], figures.curves(series, *heading, always_legend=several)))
    return drawn


def _series(run: Run, line: Line, prefix: str) -> Iterator[_Series]:
    """A line's curve; none where the run has no such column."""
    table = run.tables.get(line.table)
    if table is None or line.column not in (table.dtype.names or ()):
        return
    rows, half = table[:: max(len(table) // _MOST_POINTS, 1)], None
    if f"{line.column}_high" in (table.dtype.names or ()):
        half = rows[f"{line.column}_high"] - rows[line.column]
    yield prefix + line.label, rows["step"], rows[line.column], half
