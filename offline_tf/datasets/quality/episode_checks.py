"""Checks of episodes: their ends and lengths, and whether rows follow one another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from offline_tf.datasets.quality.findings import Finding
from offline_tf.numerics import standardize
from offline_tf.types import Array, TaskSpec, Transitions

_SAME = 1e-4  # of a dimension's spread: observations that should be equal


def both_flags(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Rows that are terminal and timeout at once."""
    del task
    if (data.terminals & data.timeouts).any():
        count = int((data.terminals & data.timeouts).sum())
        yield Finding(
            "both_flags",
            "note",
            f"{count} rows are terminal and timeout at once",
            "they are taken as terminal: no value beyond them",
            "nothing, if the episode really ended there",
        )


def long_episodes(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Episodes longer than the task's time limit."""
    lengths = _lengths(data)
    if len(lengths) == 1 and lengths[0] > task.max_episode_steps:
        yield Finding(
            "one_episode",
            "warning",
            f"the data are one episode of {lengths[0]} steps; --env={task.name} has "
            f"{task.max_episode_steps}",
            "resets inside it would be learned as dynamics, and plans have one start state",
            "add timeouts where episodes end",
        )
    elif (lengths > task.max_episode_steps).any():
        yield Finding(
            "long_episodes",
            "warning",
            f"{int((lengths > task.max_episode_steps).sum())} episodes are longer than the time "
            f"limit of {task.max_episode_steps} steps, up to {lengths.max()}",
            "ends may be missing there, and resets be learned as dynamics",
            "check the timeouts",
        )


def one_step_episodes(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """End flags on most rows; of rows that do not follow each other, that is right."""
    del task
    lengths = _lengths(data)
    if not (len(lengths) > 3 and (lengths == 1).mean() > 0.5):
        return
    seen = f"{100 * (lengths == 1).mean():.0f} % of the episodes have one step"
    differs = _differs(data.next_observations[:-1], data.observations[1:], _spread(data))
    if differs.mean() > 0.5:
        yield Finding(
            "single_transitions",
            "warning",
            f"{seen}, and rows do not follow each other",
            "models, detector and Q can be fitted; returns of the data, their better part and errors "
            "over many steps mean nothing, so that no judge can be asked",
            "give the rows in the order in which they were recorded, if that is known; else train with "
            "--judge_members=0",
        )
    else:
        yield Finding(
            "one_step_episodes",
            "error",
            seen,
            "the end flags are set on most rows, so no value is ever carried on",
            "check what the recorder wrote as terminals and timeouts (one of them inverted?)",
        )


def limit_as_terminal(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """A time limit that is recorded as a terminal state."""
    del task
    lengths = _lengths(data)
    common = int(np.bincount(lengths).argmax())
    full = lengths == common  # the recording may stop within the last one
    terminal = data.terminals[_last_rows(data)[full]].all()
    if len(lengths) > 3 and terminal and full.mean() > 0.9 and common > 1:
        yield Finding(
            "limit_as_terminal",
            "warning",
            f"{100 * full.mean():.0f} % of the episodes end terminal after exactly {common} steps",
            "this looks like a time limit; as a terminal state it teaches that life ends there",
            "write them as timeouts",
        )


def termination(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Terminals against the task's own termination, where the next observation is known."""
    if task.termination is None:
        return
    known = data.next_known
    is_terminal = known & np.asarray(task.termination(tf.constant(data.next_observations)))
    unmarked = is_terminal & ~data.terminals
    # Long episodes have few falls: of all rows they may be next to none.
    if unmarked.mean() > 0.001 or unmarked.sum() > max(3, 0.1 * is_terminal.sum()):
        yield Finding(
            "terminals_missing",
            "warning",
            f"{int(unmarked.sum())} of {int(is_terminal.sum())} rows that lead to states that "
            f"--env={task.name} calls terminal are not marked",
            "values are carried on beyond a fall",
            "mark them, or choose the task that the data were recorded with",
        )
    marked = data.terminals & known
    unfounded = marked & ~is_terminal
    if unfounded.sum() > 0.01 * max(marked.sum(), 1):
        yield Finding(
            "terminals_unfounded",
            "warning",
            f"{int(unfounded.sum())} of {int(marked.sum())} terminals are no terminal states "
            f"of --env={task.name}",
            "the recorder ended episodes for reasons that the observation does not show",
            "if they are time limits, write them as timeouts",
        )


def continuity(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Next observations against the following rows."""
    if len(data) < 2:
        return
    spread = _spread(data)
    finished = (data.terminals | data.timeouts)[:-1]
    following, promised = data.observations[1:], data.next_observations[:-1]
    differs = _differs(promised, following, spread)
    jumps = differs & ~finished
    changes = _differs(data.observations, data.next_observations, spread)[data.next_known]
    if not changes.mean() > 0.01:
        yield Finding(
            "next_is_same",
            "error",
            "next_observations equal observations",
            "the models would learn that nothing ever changes",
            "write the observation after the action as next_observations",
        )
    elif (~finished).any() and jumps.sum() > 0.001 * (~finished).sum():
        share = 100 * jumps.sum() / (~finished).sum()
        mostly_jumps = share > 50
        yield Finding(
            "discontinuous",
            "error" if mostly_jumps else "warning",
            f"in {share:.1f} % of the steps inside episodes the next row does not start where the "
            "last one led",
            "rows are shuffled, or ends of episodes are not marked; what needs sequences (values of "
            "logged actions, restored velocities) is wrong there",
            "keep the rows in time order and mark the ends",
        )


def next_of_other_episode(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Last observations of cut episodes, against the first ones of the next episodes."""
    if task.log is not None:  # its episodes are pieces of one log
        return
    last = _last_rows(data)
    cut = last[(data.timeouts[last] & ~data.terminals[last]) & (last < len(data) - 1)]
    promised, following = data.next_observations[cut], data.observations[cut + 1]
    equal = ~_differs(promised, following, _spread(data))
    if len(cut) > 2 and equal.mean() > 0.5:  # not at the borders of files and of parallel recorders
        yield Finding(
            "next_of_other_episode",
            "error",
            f"the next observations of {100 * equal.mean():.0f} % of the cut episodes are the first "
            "ones of the next episodes",
            "the models would learn jumps to start states",
            "record the observation before the reset, or leave next_observations out",
        )


def same_last_observation(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Last observations, against each other."""
    del task
    last = _last_rows(data)
    last = last[data.next_known[last]]
    if len(last) > 2 and not np.ptp(data.next_observations[last], axis=0).any():
        yield Finding(
            "same_last_observation",
            "error",
            "all episodes end in the same observation",
            "the files of tensorflow-datasets' d4rl builder have this fault: the last step is wrong",
            "drop the last step of each episode (--dataset=tfds:NAME does)",
        )


def _lengths(data: Transitions) -> Array:
    """[E] steps of each episode."""
    bounds = data.episode_bounds()
    return bounds[:, 1] - bounds[:, 0]


def _last_rows(data: Transitions) -> Array:
    """[E] the last row of each episode."""
    return data.episode_bounds()[:, 1] - 1


def _spread(data: Transitions) -> Array:
    """[S] standard deviations of the observations."""
    return np.maximum(standardize.statistics(data.observations).scale, 1e-6)


def _differs(first: Array, second: Array, spread: Array) -> Array:
    """[n, S], [n, S] -> [n] bool, by more than rounding."""
    return (np.abs(first - second) > _SAME * spread + 1e-6).any(axis=1)
