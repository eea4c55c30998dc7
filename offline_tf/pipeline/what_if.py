"""What a run's models say of actions that nobody has tried: a forecast from a moment of the log."""

from __future__ import annotations

import csv
import datetime
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.formats import plant_logs, tables, timestamps
from offline_tf.datasets.names import KINDS, Reading
from offline_tf.export import batch_prediction, loaded
from offline_tf.inspection import data_figures, figures
from offline_tf.models.given_signals import GivenSignals
from offline_tf.numerics.large_columns import blocks
from offline_tf.reports import html_page
from offline_tf.run_folder import files
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks import closed_form
from offline_tf.types import Array, TaskSpec, Transitions, UserError

LOGGED, CONTROLLER = "logged", "controller"
_NEEDED = "forecast"
_ROUNDING = 1e-5
_ROWS_PLANNED = 64

# (step, states [M, S]) -> actions [M, A].
Act = Callable[[int, Array], Array]


class Log(NamedTuple):
    """The data that a run learned from.

    Attributes:
      task: of the run.
      data: the steps.
      times: [N] seconds, when each begins; of data without time stamps, the numbers of the rows.
      has_stamps: whether `times` are dates.
    """

    task: TaskSpec
    data: Transitions
    times: Array
    has_stamps: bool


class Forecast(NamedTuple):
    """T steps by M models, and what the log has of the same time.

    Attributes:
      states: [T + 1, M, S].
      actions: [T, M, A].
      rewards: [T, M].
      known: [T] bool, whether the models knew all their pairs.
      disagreement: [T], the largest of the models'.
      logged_states, logged_actions: [L + 1, S], [L, A] of the L <= T steps that the log has.
      suggested: [L, A], what the controller would do in the states of the log.
    """

    states: Array
    actions: Array
    rewards: Array
    known: Array
    disagreement: Array
    logged_states: Array
    logged_actions: Array
    suggested: Array


def open_log(record: RunRecord) -> Log:
    """Reads a run's data again.

    Raises:
      UserError: they are not there any more.
    """
    flags = record.manifest["flags"]
    task, name = tasks.get(flags["env"]), flags["dataset"]
    if name in KINDS or not name:
        raise UserError(
            "--workdir: expected a run on data of yours, got one on data made here: "
            f"--dataset={name!r} in its manifest"
        )
    if task.log is not None and (paths := sources.tables_of(name)):
        data, times = plant_logs.read_with_times(paths, task)
        return Log(task, data, times, task.log.time_format != timestamps.SECONDS)
    reading = Reading(flags.get("columns", ()), flags.get("observation_keys", ()))
    data, _ = sources.load(name, task, reading)
    return Log(task, data, np.arange(len(data), dtype=np.float64), False)


def row_of(log: Log, start: str) -> int:
    """The row that a moment falls into.

    Args:
      log: the data.
      start: a time stamp, or a number in the units of `times`; empty: where the longest piece begins.

    Raises:
      UserError: it is no moment, or none of the log.
    """
    if not start:
        bounds = log.data.episode_bounds()
        longest = bounds[np.argmax(bounds[:, 1] - bounds[:, 0])]
        return int(longest[0])
    form = timestamps.ISO if log.has_stamps else timestamps.SECONDS
    try:
        moment = float(timestamps.seconds(np.array([start], object), form, "")[0])
    except UserError:
        what = "a time stamp such as 2024-03-01T10:00" if log.has_stamps else "a number"
        raise UserError(f"--start: expected {what}, got {start!r}") from None
    row = int(np.searchsorted(log.times, moment, side="right")) - 1
    length = log.task.dt if log.task.log is not None else 1.0
    if row < 0 or moment >= log.times[row] + length:
        near = int(np.clip(row + 1, 0, len(log.times) - 1))
        raise UserError(
            f"--start: the log has no step at {start}; one near it is at {moment_in_words(log, near)}"
        )
    return row


def moment_in_words(log: Log, row: int) -> str:
    """When a row's step begins."""
    value = float(log.times[row])
    if not log.has_stamps:
        return f"{value:g}"
    moment = datetime.datetime.fromtimestamp(value, datetime.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds").removesuffix(".000")


def actions_of(path: pathlib.Path, task: TaskSpec) -> Array:
    """[T, A] of a table with a column per action.

    Raises:
      UserError: it lacks one, or has no rows.
    """
    if not path.is_file() or not tables.is_table(path):
        raise UserError(
            f"--actions: expected {LOGGED}, {CONTROLLER} or a table with the columns "
            f"{', '.join(task.action_names)}, got {path}"
        )
    table = tables.Table(path)
    if missing := [name for name in task.action_names if name not in table.names]:
        raise UserError(f"--actions: {path} lacks the columns {', '.join(missing)}")
    parts = [
        np.stack([block[name] for name in task.action_names], axis=1)
        for block in table.blocks(list(task.action_names), [])
    ]
    if not parts or not sum(map(len, parts)):
        raise UserError(f"--actions: expected rows under the header of {path}, found none")
    return np.concatenate(parts).astype(np.float32)


def forecast(
    model: loaded.Deployed, log: Log, *, row: int, steps: int, actions: Array | str
) -> Forecast:
    """Lets each model go its own way from a state of the log; T ends where all have ended.

    Signals that nobody in the loop decides follow the log.

    Args:
      model: an export with the signature "forecast".
      log: the data.
      row: where it begins.
      steps: T.
      actions: [T, A]; or "logged", those of the log, as long as it goes on; or "controller", those of
        the export.
    """
    task, data = log.task, log.data
    part = slice(row, min(row + steps, len(data)))
    goes_on = (data.next_observations[part][:-1] == data.observations[part][1:]).all(axis=1)
    cuts = np.flatnonzero(~goes_on)
    length = int(cuts[0]) + 1 if len(cuts) else part.stop - row
    window = slice(row, row + length)
    if isinstance(actions, str) and actions == LOGGED:
        steps = length
    first = data.observations[row].astype(np.float32)
    size = model.call(_NEEDED, state=first[None], action=data.actions[row][None])
    count = len(size["next_state"])
    act = _acting(model, data, row, count, actions)
    given, at = GivenSignals.of(task, data), np.full(count, row, np.int32)
    physics = ""  # of the robots, which have no given signals
    ended, held_back = np.zeros(count, bool), False

    def ends(after: Array) -> Array:
        if task.termination is None:
            return np.asarray(answer["terminated"][diagonal, diagonal])
        return np.asarray(task.termination(tf.constant(after)))

    states = np.tile(first, (count, 1))
    rows: list[tuple[Array, ...]] = []
    diagonal = np.arange(count)
    for step in range(steps):
        asked = act(step, states)
        taken = closed_form.executable(task, tf.constant(states), tf.constant(asked)).numpy()
        held_back |= bool(np.abs(taken - asked).max() > _ROUNDING * task.action_high.max())
        answer = model.call(_NEEDED, state=states, action=taken)
        following = answer["next_state"][diagonal, diagonal]
        if given is not None:
            following, at = (x.numpy() for x in given.after(at, following))
        paid = answer["reward"][diagonal, diagonal]
        if given is not None and task.reward is not None:  # the model knew no other set point
            pair = tf.constant(states), tf.constant(taken)
            paid = task.reward(*pair, tf.constant(following), physics).numpy()
        paid = np.where(ended, np.float32(0.0), paid)
        rows.append((following, taken, paid, answer["known"], answer["disagreement"]))
        ended = ended | ends(following)
        states = following
        if ended.all():
            break
    if held_back:
        logging.warning("actions beyond bounds or rates are brought within them, as an export does")
    after, taken, paid, known, disagreement = (np.stack(x) for x in zip(*rows, strict=True))
    logged = np.concatenate(
        [data.observations[window], data.next_observations[window][-1:]], axis=0
    )
    return Forecast(
        states=np.concatenate([np.tile(first, (count, 1))[None], after]),
        actions=taken,
        rewards=paid,
        known=np.asarray(known.all(axis=1)),
        disagreement=disagreement.max(axis=1),
        logged_states=logged,
        logged_actions=data.actions[window],
        suggested=_suggested(model, data.observations[window]),
    )


def _acting(
    model: loaded.Deployed, data: Transitions, row: int, count: int, actions: Array | str
) -> Act:
    if not isinstance(actions, str):
        return lambda step, states: np.tile(actions[step], (count, 1))
    if actions == LOGGED:
        return lambda step, states: np.tile(data.actions[row + step], (count, 1))
    kind = loaded.Planner if "plan" in model.signatures else loaded.Controller
    controller = kind(model.folder)
    return lambda step, states: controller.act(states)


def _suggested(model: loaded.Deployed, observations: Array) -> Array:
    size = _ROWS_PLANNED if "plan" in model.signatures else len(observations)
    parts = [
        batch_prediction.predict(model, observations[part], False, (0, part.start))["action"]
        for part in blocks(len(observations), size)
    ]
    return np.concatenate(parts)


def in_words(found: Forecast, log: Log) -> list[str]:
    """What a person asks first."""
    returns = found.rewards.sum(axis=0)
    lines = [
        f"{len(found.known)} steps of {log.task.dt:g} s: the models know "
        f"{100 * found.known.mean():.0f} % of them",
        f"return {returns.mean():.1f}, by single models {returns.min():.1f} to {returns.max():.1f}",
    ]
    if not found.known.all():
        at = int(np.argmin(found.known))
        lines.append(f"from step {at} on the forecast is a guess: the data do not support it")
    return lines


def write_table(path: pathlib.Path, found: Forecast, log: Log, row: int) -> None:
    """Writes a row a step: what is done, and what is measured after it with the models' range."""
    own = _own_signals(log.task)
    with files.whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        bands = [f"{log.task.observation_names[i]}{x}" for i in own for x in ("", "_low", "_high")]
        rows.writerow(["time", *log.task.action_names, *bands, "reward", "known", "disagreement"])
        begins = log.times[row]
        for step in range(len(found.known)):
            after = found.states[step + 1][:, own]  # [M, S']
            numbers = np.stack([after.mean(0), after.min(0), after.max(0)], axis=1).reshape(-1)
            seconds = log.task.dt * step if log.task.log is not None else float(step)
            moment = moment_in_words(log._replace(times=np.array([begins + seconds])), 0)
            rows.writerow(
                [moment, *(f"{x:.6g}" for x in found.actions[step].mean(axis=0))]
                + [*(f"{x:.6g}" for x in numbers), f"{found.rewards[step].mean():.6g}"]
                + [int(found.known[step]), f"{found.disagreement[step]:.4g}"]
            )


def write_page(path: pathlib.Path, found: Forecast, log: Log, title: str) -> None:
    """Writes one HTML file: every signal with its band beside the log, and the actions."""
    task, own = log.task, _own_signals(log.task)
    figure = data_figures.forecast(
        [task.observation_names[i] for i in own],
        found.states[:, :, own],
        found.logged_states[:, own],
        task.action_names,
        (found.actions, found.logged_actions, found.suggested),
        found.known,
        task.dt,
    )
    words = "".join(f"<p>{line}.</p>" for line in in_words(found, log))
    drawn = figures.svg(figure, title)
    body = (
        f"<header><h1>{title}</h1>{words}</header>"
        f'<section><figure class="full">{drawn}</figure></section>'
    )
    page = html_page.document(title, body, "offline_tf.what_if")
    with files.whole(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _own_signals(task: TaskSpec) -> list[int]:
    return [i for i, name in enumerate(task.observation_names) if "@" not in name]
