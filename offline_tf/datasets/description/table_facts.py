"""What a table of a plant looks like, before anybody has said what its columns are."""

from __future__ import annotations

import pathlib
import re
from typing import NamedTuple

import numpy as np

from offline_tf.datasets.formats import long_tables, plant_logs, timestamps
from offline_tf.datasets.formats.dialects import FLAGS, MISSING, as_number
from offline_tf.datasets.formats.tables import Table
from offline_tf.numerics import resampling
from offline_tf.types import Array, UserError

MOST_ROWS = 1_000_000
_DATE_NAME, _OF_DAY_NAME = re.compile(r"date|datum", re.I), re.compile(r"time|zeit|uhrzeit", re.I)
_BATCH_GAP = 1e3  # seconds between runs whose clocks begin anew
_UNIT = re.compile(r"[\[(].*")  # of a name, in brackets at its end
_TIME_NAME = re.compile(r"time|when|stamp|date|zeit|datum|second|^t$|^ts$", re.I)
_COMMAND_NAME = re.compile(
    r"set.?point|\bsp\b|_sp$|command|cmd|\bmv\b|_mv$|soll|valve|pump|heater|duty|action", re.I
)
_REWARD_NAME = re.compile(r"reward|profit|cost|kpi", re.I)
_MOVES_RARELY = 0.05  # share of rows in which a set point moves, at most
_LONGEST_LAG, _LEAST_CORRELATION = 30, 0.1
_STUCK = 20.0  # times the usual time between two changes
_GAP = 5.0  # times the longest usual distance between rows
_USUAL = 0.99  # of the distances between rows
_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)


class Column(NamedTuple):
    """A column of numbers.

    Attributes:
      name: in the table.
      kind: "action", "observation", "reward" or "constant".
      low, high: of its values.
      missing: share of rows without a value.
      moves: share of its values that differ from the one before.
      values: how many different ones.
      hold_seconds: how far its values are apart, where that is more than the table's gap; else 0.
      stuck_seconds: the longest time without a change, where that is far above the usual; else 0.
      why: the evidence for its kind.
    """

    name: str
    kind: str
    low: float
    high: float
    missing: float
    moves: float
    values: int
    hold_seconds: float
    stuck_seconds: float
    why: str


class Delay(NamedTuple):
    """An action's effect on a measurement."""

    action: str
    observation: str
    steps: int
    correlation: float


class Facts(NamedTuple):
    """What a table looks like.

    Attributes:
      path: of the file.
      dialect: in words; empty for the usual one.
      rows: that were looked at.
      is_whole: whether those are all.
      time, time_format: column of the stamps, and their format.
      date: column of the dates, where they have one of their own; else empty.
      batch: column that says which run a row is of, where clocks begin anew; else empty.
      spacing_seconds: median distance of two rows, and its 1 % and 99 % quantiles.
      step_seconds: a sampling time that suits.
      gaps: (stamp in seconds, length in seconds) of each.
      gap_seconds: what counts as one.
      columns: of numbers.
      long: columns of a table of (tag, time, value), whose tags are `columns`; None of others.
      left_out: other columns.
      delays: of actions' effects, the strongest of each action.
    """

    path: pathlib.Path
    dialect: str
    rows: int
    is_whole: bool
    time: str
    date: str
    batch: str
    time_format: str
    spacing_seconds: tuple[float, float, float]
    step_seconds: float
    gaps: list[tuple[float, float]]
    gap_seconds: float
    columns: list[Column]
    long: long_tables.Form | None
    left_out: list[str]
    delays: list[Delay]

    def of_kind(self, kind: str) -> list[Column]:
        """Columns of a kind."""
        return [column for column in self.columns if column.kind == kind]


def find(path: pathlib.Path, time: str = "", step_seconds: float = 0.0) -> Facts:
    """Looks at a table.

    Args:
      path: of the file.
      time: column of the time stamps; empty: the first that looks like one.
      step_seconds: sampling time; 0: one that suits.

    Raises:
      UserError: it cannot be read, or has no time stamps or no two columns of numbers.
    """
    table = Table(path)
    samples = table.sample()
    date, time, form = _time_columns(table, samples, time)
    numeric = [
        name for name in table.names if name not in (date, time) and _is_numeric(samples[name])
    ]
    by_tag = long_tables.looks_like(samples, time, numeric)
    if by_tag is not None:
        rows = long_tables.read(table, time, form, by_tag, MOST_ROWS)
        times, values = long_tables.columns_of(rows)
        count = sum(int(np.isfinite(column).sum()) for column in values.values())
        numeric, is_whole = list(values), count < MOST_ROWS
    else:
        times, values, is_whole = _read(table, (date, time), form, numeric)
    batch = _batch(times, values)
    if batch:
        numeric.remove(batch)
        first = np.append(0, np.flatnonzero(np.diff(values.pop(batch)) != 0) + 1)
        times = plant_logs.one_after_another(times, first, _BATCH_GAP, 1.0)
    used = {date, time, batch, *numeric, *(by_tag or ())}
    order = np.argsort(times, kind="stable")
    times = times[order]
    distances = np.diff(times)
    distances = distances[distances > 0]
    if len(distances) < 10:
        raise UserError(f"--table: expected ten rows with different time stamps in {path}")
    low, middle, high = np.quantile(distances, (1 - _USUAL, 0.5, _USUAL))
    step = step_seconds or _step(float(low), float(middle), float(high))
    gap = max(_GAP * float(high), 3.0 * step)
    long = np.flatnonzero(np.diff(times) > gap)
    columns = [_column(name, times, values[name][order], gap) for name in numeric]
    if len([column for column in columns if column.kind != "constant"]) < 2:
        raise UserError(f"--table: expected two columns of numbers that change in {path}")
    return Facts(
        path=path,
        dialect=table.dialect.in_words() if table.dialect else "",
        rows=len(times),
        is_whole=is_whole,
        time=time,
        date=date,
        batch=batch,
        time_format=form,
        spacing_seconds=(float(low), float(middle), float(high)),
        step_seconds=step,
        gaps=[(float(times[i]), float(times[i + 1] - times[i])) for i in long],
        gap_seconds=gap,
        columns=columns,
        long=by_tag,
        left_out=[name for name in table.names if name not in used],
        delays=_delays(times, {n: v[order] for n, v in values.items()}, columns, step),
    )


def _time_columns(table: Table, samples: dict[str, list[str]], given: str) -> tuple[str, str, str]:
    """Columns of the dates (or empty) and of the stamps, and their format."""
    date = next((name for name in table.names if _DATE_NAME.fullmatch(name)), "")
    of_day = next((name for name in table.names if _OF_DAY_NAME.fullmatch(name)), "")
    if date and of_day and given in ("", of_day):
        pairs = zip(samples[date], samples[of_day], strict=False)  # the last row may be cut
        words = timestamps.joined(*np.array(list(pairs), object).reshape(-1, 2).T)
        if form := timestamps.guess(words.tolist()):
            return date, of_day, form
    return ("", *_time_column(table, samples, given))


def _batch(times: Array, values: dict[str, Array]) -> str:
    """The column that changes exactly where the clock goes back; empty: there is none."""
    back = np.flatnonzero(np.diff(times) < 0)
    for name, column in values.items() if len(back) else ():
        if np.array_equal(np.flatnonzero(np.diff(column) != 0), back):
            return name
    return ""


def _time_column(table: Table, samples: dict[str, list[str]], given: str) -> tuple[str, str]:
    if given and given not in table.names:
        raise UserError(
            f"--time: {table.path} has no column {given!r}, got {', '.join(table.names)}"
        )
    for name in [given] if given else table.names:
        form = timestamps.guess(samples[name])
        is_counted = form == timestamps.SECONDS
        plain = _UNIT.sub("", name).strip()
        if form and (given or not is_counted or _TIME_NAME.search(plain)):
            return name, form
    where = f"in the column {given!r}" if given else "in any column"
    raise UserError(
        f"--table: found no time stamps {where} of {table.path}; name theirs with --time, or, "
        "where each row is one step, describe the task in a file FILE.py (docs/plant.md)"
    )


def _is_numeric(cells: list[str]) -> bool:
    """Whether most cells of a sample that are not missing are numbers or flags."""
    known = [cell for cell in cells if cell not in MISSING]
    values = [cell in FLAGS or as_number(cell, ",") is not None for cell in known]
    return sum(values) > 0.5 * len(known)


def _read(
    table: Table, marks: tuple[str, str], form: str, names: list[str]
) -> tuple[Array, dict[str, Array], bool]:
    stamps: list[Array] = []
    parts: dict[str, list[Array]] = {name: [] for name in names}
    count, is_whole = 0, True
    date, time = marks
    for block in table.blocks(names, [x for x in marks if x], allow_missing=True):
        words = timestamps.joined(block[date], block[time]) if date else block[time]
        stamps.append(timestamps.seconds(words, form, str(table.path)))
        for name in names:
            parts[name].append(block[name])
        count += len(block[time])
        if count >= MOST_ROWS:
            is_whole = False
            break
    if not count:
        raise UserError(f"--table: expected rows under the header of {table.path}, found none")
    if not all(np.isfinite(part).all() for part in stamps):
        raise UserError(f"--table: expected a time stamp in each row of {table.path}")
    return (
        np.concatenate(stamps),
        {name: np.concatenate(part) for name, part in parts.items()},
        is_whole,
    )


def _step(low: float, middle: float, high: float) -> float:
    """Regular rows: their distance. Others: a round number of some rows."""
    if high <= 1.05 * low:
        return float(f"{middle:.6g}")
    return float(next((step for step in _STEPS if step >= 4.0 * middle), _STEPS[-1]))


def _column(name: str, times: Array, values: Array, gap: float) -> Column:
    known = np.isfinite(values)
    missing = 1.0 - float(known.mean())
    if not known.any():
        return Column(
            name, "constant", np.nan, np.nan, missing, 0.0, 0, 0.0, 0.0, "holds no number"
        )
    stamps, values = times[known], values[known]
    changed = np.flatnonzero(np.diff(values) != 0) + 1
    different = len(np.unique(values[:100_000]))
    low, high = float(values.min()), float(values.max())
    moves = len(changed) / max(len(values) - 1, 1)
    if not len(changed):
        return Column(name, "constant", low, high, missing, 0.0, 1, 0.0, 0.0, "never changes")
    between = np.diff(stamps[np.concatenate([[0], changed, [len(stamps) - 1]])])
    between = between[between <= 10 * gap] if (between <= 10 * gap).any() else between
    usual = float(np.median(between))
    longest = float(between.max())
    kind, why = _kind(name, moves, different)
    apart = _GAP * float(np.quantile(np.diff(stamps), _USUAL))
    is_stuck = kind == "observation" and longest > max(_STUCK * usual, gap)
    return Column(
        name=name,
        kind=kind,
        low=low,
        high=high,
        missing=missing,
        moves=moves,
        values=different,
        hold_seconds=apart if apart > gap else 0.0,
        stuck_seconds=longest if is_stuck else 0.0,
        why=why,
    )


def _kind(name: str, moves: float, different: int) -> tuple[str, str]:
    seen = f"changes in {100 * moves:.1f} % of its rows, {different} values"
    if _REWARD_NAME.search(name):
        return "reward", f"by its name; {seen}"
    if moves < _MOVES_RARELY:
        return "action", f"holds its value like a set point: {seen}"
    if _COMMAND_NAME.search(name):
        return "action", f"by its name; {seen}"
    return "observation", seen


def _delays(
    times: Array, values: dict[str, Array], columns: list[Column], step: float
) -> list[Delay]:
    """After how many steps a measurement's change goes with an action's change, by correlation."""
    count = min(int((times[-1] - times[0]) / step), MOST_ROWS)
    if count < 4 * _LONGEST_LAG:
        return []
    grid = times[0] + step * np.arange(1, count)

    def changes(name: str) -> Array:
        known = np.isfinite(values[name])
        unique = np.append(np.diff(times[known]) > 0, True)
        held = resampling.last(times[known][unique], values[name][known][unique], grid)
        return np.nan_to_num(np.diff(held))

    found = []
    measured = {c.name: changes(c.name) for c in columns if c.kind == "observation"}
    for action in (c.name for c in columns if c.kind == "action"):
        moved = changes(action)
        best = Delay(action, "", 0, 0.0)
        for name, answered in measured.items():
            for lag in range(_LONGEST_LAG):
                pair = moved[: len(moved) - lag], answered[lag:]
                if min(part.std() for part in pair) > 0:
                    correlation = float(np.corrcoef(*pair)[0, 1])
                    if abs(correlation) > abs(best.correlation):
                        best = Delay(action, name, lag, correlation)
        if abs(best.correlation) >= _LEAST_CORRELATION:
            found.append(best)
    return found
