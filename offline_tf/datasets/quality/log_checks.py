"""Faults of a plant's log, seen in its rows before they become steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from offline_tf.datasets.quality.findings import Finding
from offline_tf.numerics import resampling
from offline_tf.types import Array, LogSpec, TaskSpec

_STUCK = 30.0  # times the usual time between two changes of a sensor
_COARSE = 0.2  # smallest step of a sensor, in standard deviations
_FEW_VALUES = 12
_PIECES = 40  # of a log, for what changes along it
_OTHER_UNIT = 8.0  # times the spread within pieces, between neighbouring ones
_CLIPPED = 0.02  # share of commands that the plant does not follow
_ALIKE = 0.98  # correlation of a command and what is measured of it
_DETERMINED = 0.995  # share of an action's variance that measurements explain
_OTHER_LAW = 0.5  # share of variance that a law explains where it was fitted and not elsewhere
_MISSING = 0.05  # share of the rows in which a signal is not known
_LEAST_ROWS = 60  # in which a command moves, to ask for a law
_MOST_ROWS = 200_000  # of regressions


class Rows(NamedTuple):
    """A log's rows.

    Attributes:
      times: [n] seconds, as they stand in the file.
      signals: name in the task -> [n] float64, NaN where nothing was measured.
      log: what the columns are.
      task: bounds of the actions, and the step.
    """

    times: Array
    signals: Mapping[str, Array]
    log: LogSpec
    task: TaskSpec

    @property
    def observations(self) -> dict[str, Array]:
        """Measurements by name."""
        return {signal.name: self.signals[signal.name] for signal in self.log.observations}

    @property
    def actions(self) -> dict[str, Array]:
        """Commands by name."""
        return {signal.name: self.signals[signal.name] for signal in self.log.actions}


def find(times: Array, columns: Mapping[str, Array], task: TaskSpec) -> list[Finding]:
    """All faults of a log.

    Args:
      times, columns: see `plant_logs.samples`.
      task: with a log.
    """
    assert task.log is not None
    parts = (*task.log.observations, *task.log.actions)
    signals = {part.name: columns[part.column] for part in parts}
    rows = Rows(times, signals, task.log, task)
    found = [finding for check in CHECKS for finding in check(rows)]
    return found


def stamps(rows: Rows) -> Iterator[Finding]:
    """Stamps that occur twice, or go back."""
    steps = np.diff(rows.times)
    if (steps == 0).any():
        share = 100 * (steps == 0).mean()
        yield Finding(
            "stamps_twice",
            "warning",
            f"{int((steps == 0).sum())} stamps ({share:.1f} %) are those of the row before",
            "of rows with one stamp the last one is taken",
            "export the log with finer stamps, or without doubles",
        )
    if (steps < 0).any():
        yield Finding(
            "clock_jumps",
            "warning",
            f"the clock goes back {int((steps < 0).sum())} times, by {-steps.min():,.0f} s at most, "
            f"first in row {int(np.argmax(steps < 0)) + 2}",
            "rows are sorted by their stamps, so that two times of the plant are mixed",
            "export the log in UTC (summer time ends with an hour twice), or by files in their order",
        )


def missing(rows: Rows) -> Iterator[Finding]:
    """Signals whose last value is often too old; an analyser that reports now and then is not."""
    order = np.argsort(rows.times, kind="stable")
    times = rows.times[order]
    for signal in (*rows.log.observations, *rows.log.actions):
        known = times[np.isfinite(rows.signals[signal.name][order])]
        if not len(known):
            continue  # reading the log refuses it
        share = float((resampling.age(known, times) > signal.hold_seconds).mean())
        if share > _MISSING:
            yield Finding(
                f"missing/{signal.name}",
                "warning",
                f"in {100 * share:.0f} % of the rows {signal.name} is older than "
                f"{signal.hold_seconds:g} s",
                "the log is cut where a signal is not known",
                "raise hold_seconds if the sensor reports changes alone; else look at it",
            )


def stuck(rows: Rows) -> Iterator[Finding]:
    """Sensors that hold a value far longer than they usually do, while others move."""
    for name, values in rows.observations.items():
        times, known = _known(rows.times, values)
        changes = np.flatnonzero(np.diff(known) != 0) + 1
        if len(changes) < 10 or _is_coarse(known):
            continue
        marks = times[np.concatenate([[0], changes, [len(times) - 1]])]
        # What lies across a gap was not seen to hold.
        gaps = np.diff(times) > rows.log.max_gap_seconds
        lengths = np.diff(marks) - _within(times, marks, gaps)
        usual = float(np.median(lengths))
        longest = int(np.argmax(lengths))
        limit = max(_STUCK * usual, 20.0 * rows.task.dt)
        if lengths[longest] > limit:
            yield Finding(
                f"stuck/{name}",
                "warning",
                f"{name} holds one value for {lengths[longest]:,.0f} s from "
                f"{marks[longest] - times[0]:,.0f} s on; usually it changes after {usual:,.1f} s",
                "the models learn that nothing happens there, whatever is done",
                "set its cells there to empty, so that the log is cut",
            )


def _within(times: Array, marks: Array, gaps: Array) -> Array:
    """Seconds of gaps between each two marks."""
    silent = np.concatenate([[0.0], np.cumsum(np.where(gaps, np.diff(times), 0.0))])
    return np.diff(np.interp(marks, times, silent))


def quantised(rows: Rows) -> Iterator[Finding]:
    """Sensors with few values, far apart."""
    for name, values in rows.observations.items():
        _, known = _known(rows.times, values)
        levels, spread = np.unique(known), known.std()
        if _is_coarse(known):
            yield Finding(
                f"quantised/{name}",
                "warning",
                f"{name} has {len(levels)} values, {np.diff(levels).min():.4g} apart, with a standard "
                f"deviation of {spread:.4g}",
                "changes within a step are hidden or come as jumps; a model calls them noise",
                "log it with more digits, or raise step_seconds or history",
            )


def _is_coarse(values: Array) -> bool:
    levels = np.unique(values)
    if len(levels) < 2:
        return False
    return len(levels) <= _FEW_VALUES or np.diff(levels).min() > _COARSE * values.std()


def units(rows: Rows) -> Iterator[Finding]:
    """Sensors whose level jumps far, once or twice, and stays: another unit or sensor."""
    for name, values in rows.observations.items():
        _, known = _known(rows.times, values)
        if len(known) < 10 * _PIECES:
            continue
        pieces = np.array_split(known, _PIECES)
        middles = np.array([np.median(piece) for piece in pieces])
        inner = np.array([np.subtract(*np.quantile(piece, (0.95, 0.05))) for piece in pieces])
        jumps = np.abs(np.diff(middles))
        at = int(np.argmax(jumps))
        before, after = middles[: at + 1], middles[at + 1 :]
        usual = min(float(np.median(inner[: at + 1])), float(np.median(inner[at + 1 :])))
        apart = min(
            abs(a - b) for a in (before.min(), before.max()) for b in (after.min(), after.max())
        )
        ratio = np.median(after) / np.median(before) if np.median(before) else np.inf
        stays = apart > _OTHER_UNIT * usual
        if stays and (abs(ratio) > 2.0 or abs(ratio) < 0.5 or ratio < 0):
            yield Finding(
                f"units/{name}",
                "warning",
                f"{name} jumps from about {np.median(before):.4g} to about {np.median(after):.4g} "
                f"(times {ratio:.4g}) after {100 * (at + 1) / _PIECES:.0f} % of the log, and stays",
                "its unit or its sensor was changed: models would take one plant for two",
                "bring the column to one unit, or leave out one part",
            )


def idle_actions(rows: Rows) -> Iterator[Finding]:
    """Commands that never move, or always move together."""
    moving = {}
    for name, values in rows.actions.items():
        _, known = _known(rows.times, values)
        if known.std() == 0.0:
            yield Finding(
                f"never_moves/{name}",
                "error",
                f"{name} never moves",
                "no model can learn its effect, and no controller may move it",
                "leave it out of [[actions]], or log it while it moves",
            )
        else:
            moving[name] = _held(rows, values)
    names = list(moving)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if _correlation(moving[first], moving[second]) > _DETERMINED:
                yield Finding(
                    f"move_together/{first}/{second}",
                    "error",
                    f"{first} and {second} always move together",
                    "no model can tell the effect of one from that of the other",
                    "make one action of them, or log each moving on its own",
                )


def clipped(rows: Rows) -> Iterator[Finding]:
    """Commands that the plant did not follow: beyond bounds, or beyond what is measured of them."""
    bounds = zip(rows.actions.items(), rows.task.action_low, rows.task.action_high, strict=True)
    for (name, values), low, high in bounds:
        _, known = _known(rows.times, values)
        share = float(((known < low) | (known > high)).mean())
        if share > 0:
            yield Finding(
                f"beyond_bounds/{name}",
                "warning",
                f"{100 * share:.1f} % of {name} lies outside of {low:g} to {high:g}: "
                f"{known.min():.4g} to {known.max():.4g}",
                "it is what was asked for, not what the plant could do; it is clipped",
                "log what was executed, or correct low and high",
            )
        command = _held(rows, values)
        for other, measured in rows.observations.items():
            answer = _held(rows, measured)
            both = np.isfinite(command) & np.isfinite(answer)
            asked, seen = command[both], answer[both]
            if len(asked) < _LEAST_ROWS:
                continue
            inner = (asked > np.quantile(asked, 0.2)) & (asked < np.quantile(asked, 0.8))
            if inner.sum() < 50 or min(asked[inner].std(), seen[inner].std()) == 0.0:
                continue
            if np.corrcoef(asked[inner], seen[inner])[0, 1] < _ALIKE:
                continue
            slope, offset = np.polyfit(asked[inner], seen[inner], 1)
            wrong = np.abs(seen - slope * asked - offset)
            usual = max(float(np.quantile(wrong[inner], 0.95)), 1e-3 * float(seen.std()))
            far = float((wrong > 5.0 * usual).mean())
            if far > _CLIPPED:
                yield Finding(
                    f"not_executed/{name}",
                    "warning",
                    f"{other} follows {name} in the middle of its range, and does not in "
                    f"{100 * far:.0f} % of the rows",
                    "the action is logged as requested, not as executed",
                    f"take {other} for the action, or set low and high to what is executed",
                )


def closed_loop(rows: Rows) -> Iterator[Finding]:
    """Commands that follow from the measurements alone, by one law or by two."""
    held = {name: _held(rows, values) for name, values in rows.observations.items()}
    for name, values in rows.actions.items():
        command = _held(rows, values)
        others = [seen for seen in held.values() if not _is_feedback(command, seen)]
        if not others:
            continue
        now = np.stack(others, axis=1)
        regressors = np.concatenate([now, _shifted(now)], axis=1)
        # A law shows where the command moves; what answers to it shows where it holds.
        moves = np.append(False, np.diff(command) != 0)
        good = moves & np.isfinite(command) & np.isfinite(regressors).all(axis=1)
        if good.sum() < _LEAST_ROWS:
            continue
        inputs, outputs = regressors[good], command[good]
        half = len(outputs) // 2
        whole = _explained(inputs, outputs, inputs, outputs)
        if whole > _DETERMINED:
            yield Finding(
                f"no_excitation/{name}",
                "warning",
                f"measurements explain {100 * whole:.1f} % of how {name} moves",
                "the log is of one controller without excitation: what else the action could do is not "
                "in it, and a model cannot tell its effect from that of the measurements",
                "add steps or noise to the command for a while, or log several controllers",
            )
            continue
        first = inputs[:half], outputs[:half]
        second = inputs[half:], outputs[half:]
        own = min(_explained(*first, *first), _explained(*second, *second))
        crossed = max(_explained(*first, *second), _explained(*second, *first))
        if own > _OTHER_LAW and crossed < own - _OTHER_LAW:
            yield Finding(
                f"controller_changes/{name}",
                "note",
                f"a law that explains {100 * own:.0f} % of how {name} moves in one half of the log "
                f"explains {100 * max(crossed, 0.0):.0f} % in the other",
                "the controller was changed: cloning mixes both; for the models it is good",
                "none, or train on the part whose controller is wanted",
            )


def _explained(inputs: Array, outputs: Array, new_inputs: Array, new_outputs: Array) -> float:
    """Share of variance of new outputs that a linear law of the others explains; may be negative."""
    scale = inputs.std(axis=0) + 1e-12
    design = np.concatenate(
        [(inputs - inputs.mean(axis=0)) / scale, np.ones((len(inputs), 1))], axis=1
    )
    law, *_ = np.linalg.lstsq(design, outputs, rcond=None)
    there = np.concatenate(
        [(new_inputs - inputs.mean(axis=0)) / scale, np.ones((len(new_inputs), 1))], axis=1
    )
    variance = float(new_outputs.var())
    return 1.0 - float(np.mean((new_outputs - there @ law) ** 2)) / variance if variance else 1.0


def _is_feedback(command: Array, seen: Array) -> bool:
    """Whether a measurement is that of the command itself: proportional to it, without an offset."""
    if _correlation(command, seen) < _ALIKE:
        return False
    both = np.isfinite(command) & np.isfinite(seen)
    slope, offset = np.polyfit(command[both], seen[both], 1)
    return bool(slope > 0 and abs(offset) < 0.25 * seen[both].std())


def _correlation(first: Array, second: Array) -> float:
    """Of the rows where both are known, without its sign; 0 where one does not move."""
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2 or min(first[both].std(), second[both].std()) == 0.0:
        return 0.0
    return abs(float(np.corrcoef(first[both], second[both])[0, 1]))


def _known(times: Array, values: Array) -> tuple[Array, Array]:
    """Measured samples in the order of their times."""
    measured = np.isfinite(values)
    order = np.argsort(times[measured], kind="stable")
    return times[measured][order], values[measured][order]


def _held(rows: Rows, values: Array) -> Array:
    """[g] a signal at the steps of the task; NaN where it is too old."""
    times, known = _known(rows.times, values)
    unique = np.append(np.diff(times) > 0, True)
    first, last = float(np.min(rows.times)), float(np.max(rows.times))
    count = min(max(int((last - first) / rows.task.dt), 1), _MOST_ROWS)
    grid = first + rows.task.dt * np.arange(count)
    held = resampling.last(times[unique], known[unique], grid)
    hold = next(
        signal.hold_seconds
        for signal in (*rows.log.observations, *rows.log.actions)
        if rows.signals[signal.name] is values
    )
    return np.where(resampling.age(times[unique], grid) <= hold, held, np.nan)


def _shifted(values: Array) -> Array:
    """[g, k] one step before."""
    return np.concatenate([np.full_like(values[:1], np.nan), values[:-1]])


CHECKS: tuple[Callable[[Rows], Iterator[Finding]], ...] = (
    stamps,
    missing,
    stuck,
    quantised,
    units,
    idle_actions,
    clipped,
    closed_loop,
)
