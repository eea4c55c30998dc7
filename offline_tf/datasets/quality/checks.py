"""What can be wrong with logged data: each check says what was found, what it means, what to do.

All checks take Transitions and a task and return findings; nothing is changed, nothing is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from offline_tf import tasks
from offline_tf.numerics import standardize
from offline_tf.numerics.large_columns import derive
from offline_tf.types import Array, SimulationSpec, TaskSpec, Transitions, UserError

SEVERITIES = ("note", "warning", "error")
_FEW_ROWS = 10_000
_SAME = 1e-4  # of a dimension's spread: observations that should be equal
_AGREES = 0.9  # correlation of logged rewards with the task's own; HalfCheetah's proxy has 0.97
_SCALE = 1.33  # HalfCheetah's proxy: 1.17
_ROWS_JUDGED = 50_000
_STATE_SAME = 1e-2  # of a dimension's spread, and absolutely
_TINY = 1e-5
_MOST = 0.9  # rows whose logged simulator state gives the logged observation
_NEARLY_ALL = 0.9  # of a column's actions outside the bounds
_LARGE = 2_000_000  # rows above which most checks look at stretches of the data
_STRETCHES = 20


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing about a data set.

    Attributes:
      code: short name, the same for the same fault.
      severity: one of SEVERITIES; with an error no training makes sense.
      what: what was seen, with numbers.
      meaning: what it does to training.
      advice: what to do.
    """

    code: str
    severity: str
    what: str
    meaning: str
    advice: str


Check = Callable[[Transitions, TaskSpec], Iterator[Finding]]


def cheap(data: Transitions, task: TaskSpec) -> list[Finding]:
    """Runs the checks that take no longer than reading the data; the worst findings come first."""
    return _sorted(data, task, _CHEAP)


def thorough(data: Transitions, task: TaskSpec) -> list[Finding]:
    """Runs all checks but the replay in the simulator (`replay.find_physics`)."""
    return _sorted(data, task, (*_CHEAP, duplicates))


def before_training(data: Transitions, task: TaskSpec) -> list[Finding]:
    """Runs the cheap checks and logs their warnings; returns the findings.

    Raises:
      UserError: data that cannot be learned from.
    """
    found = cheap(data, task)
    for finding in found:
        if finding.severity == "error":
            raise UserError(f"--dataset: {finding.what}: {finding.meaning}. {finding.advice}")
        if finding.severity == "warning":
            logging.warning("--dataset: %s: %s. %s", finding.what, finding.meaning, finding.advice)
    return found


def _sorted(
    data: Transitions,
    task: TaskSpec,
    which: tuple[Check, ...],
) -> list[Finding]:
    # Numbers that are not finite would drown the rest.
    found = list(not_finite(data, task))
    if not found:
        part = stretches(data)
        found = [f for check in which for f in check(data if check in _OF_ALL else part, task)]
        if part is not data:
            found.append(
                Finding(
                    "partly_checked",
                    "note",
                    f"{len(part)} of {len(data)} rows were looked at, in {_STRETCHES} stretches; "
                    "sizes, ends of episodes, repeated rows and numbers that are not finite everywhere",
                    "a fault elsewhere is not seen",
                    "nothing, unless the file was joined from parts of different origin",
                )
            )
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


def stretches(data: Transitions) -> Transitions:
    """The data, or, where they are many, whole episodes from evenly spread places.

    Where an episode is longer than a stretch, a part of it is taken, cut at its end.
    """
    if len(data) <= _LARGE:
        return data
    size = _LARGE // (2 * _STRETCHES)
    bounds = data.episode_bounds()
    parts, cuts, taken = [], [], 0
    for first in np.linspace(0, len(data) - size, _STRETCHES).astype(np.int64):
        inside = bounds[(bounds[:, 0] >= first) & (bounds[:, 1] <= first + size)]
        start, end = (first, first + size) if not len(inside) else (inside[0, 0], inside[-1, 1])
        parts.append(np.arange(start, end))
        taken += end - start
        if not len(inside):
            cuts.append(taken - 1)
    rows = np.concatenate(parts)
    given = {name: values for name, values in vars(data).items() if values is not None}
    part = {name: values[rows] for name, values in given.items()}
    part["timeouts"][cuts] |= ~part["terminals"][cuts]
    return Transitions(**part)


def not_finite(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """NaN and infinities."""
    del task
    for name in ("observations", "actions", "rewards", "next_observations"):
        values = getattr(data, name)
        bad = derive(lambda part: ~np.isfinite(part.reshape(len(part), -1)).all(axis=1), values)
        if bad.any():
            yield Finding(
                f"not_finite/{name}",
                "error",
                f"{int(bad.sum())} rows of {name} hold NaN or infinity, the first is row "
                f"{int(np.argmax(bad))}",
                "every model that sees one of them becomes NaN",
                "remove the episodes with these rows, or mend the recorder",
            )


def size(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Too little data."""
    del task
    if len(data) < _FEW_ROWS:
        yield Finding(
            "few_rows",
            "warning",
            f"{len(data)} rows",
            "models of robots need some 100,000 rows before they can be planned in",
            "record more, or expect the detector to call most of the space unknown",
        )


def constant_columns(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Dimensions that never change."""
    for name, values, names in (
        ("observations", data.observations, task.observation_names),
        ("actions", data.actions, task.action_names),
    ):
        still = [n for n, spread in zip(names, np.ptp(values, axis=0), strict=True) if not spread]
        if len(still) == len(names):
            yield Finding(
                f"constant/{name}/all",
                "error",
                f"all {name} are the same in every row",
                "there is nothing to learn from",
                "check what the recorder wrote under this name",
            )
        elif still:
            yield Finding(
                f"constant/{name}",
                "warning",
                f"{', '.join(still)} in {name} never changes",
                "the models cannot know what happens where it does",
                "check the sensor or the column order; else live with it",
            )
    spreads = dict(zip(task.observation_names, np.ptp(data.observations, axis=0), strict=True))
    tiny = [name for name, spread in spreads.items() if 0.0 < spread < _TINY]
    if tiny:
        yield Finding(
            "tiny_units",
            "warning",
            f"{', '.join(tiny)} in observations changes by less than {_TINY:g} in all the data",
            "the models take changes below 1e-8 for none",
            "give it in a smaller unit, so that its numbers are larger",
        )
    if len(data) > 1 and not np.ptp(data.rewards):
        yield Finding(
            "constant/rewards",
            "warning",
            f"all rewards are {data.rewards[0]:g}",
            "with learned rewards every policy is as good as any other",
            "record rewards, or give the task a reward function",
        )


def action_bounds(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Actions outside the bounds, or in other units."""
    outside = ((data.actions < task.action_low) | (data.actions > task.action_high)).any(axis=1)
    if outside.any():
        yield Finding(
            "actions_outside",
            "note",
            f"{100 * outside.mean():.1f} % of the rows have actions outside the bounds, up to "
            f"{np.abs(data.actions).max():.3g}",
            "simulators clip them; dynamics and detector are given clipped actions, rewards the "
            "logged ones",
            "nothing, if the plant clips too",
        )
    beyond = [
        name
        for name, column, low, high in zip(
            task.action_names, data.actions.T, task.action_low, task.action_high, strict=True
        )
        if ((column < low) | (column > high)).mean() > _NEARLY_ALL
    ]
    if beyond:
        yield Finding(
            "actions_large",
            "warning",
            f"nearly all values of {', '.join(beyond)} are outside the bounds",
            "clipped, as dynamics and detector are given them, they say nothing; they seem to be in "
            "other units than the bounds",
            "check units; policies act in the task's bounds",
        )
    used = np.abs(data.actions).max() / np.abs([task.action_low, task.action_high]).max()
    if 0.0 < used < 0.1:
        yield Finding(
            "actions_small",
            "warning",
            f"the largest action is {100 * used:.2g} % of its bound",
            "either the policy was timid or actions are in other units than the bounds",
            "check units; policies act in the task's bounds",
        )


def clipped_observations(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Velocities at the limit of what is observed."""
    if task.velocity_limit is None:
        return
    speeds = np.abs(data.observations[:, list(task.velocity_indices)])
    share = (speeds >= task.velocity_limit).any(axis=1).mean()
    if share > 0.001:
        restored = "they are restored from infos/qvel"
        if data.qvel is None:
            restored = "they are restored by finite differences, infos/qvel is absent"
        yield Finding(
            "observations_clipped",
            "note",
            f"{100 * share:.1f} % of the rows have velocities at the limit of "
            f"+-{task.velocity_limit:g}",
            "such observations are not Markov, and models err there without noticing",
            f"with MOReL's --velocities=restored {restored}",
        )


def ends(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Terminals, time limits and episode lengths."""
    bounds = data.episode_bounds()
    lengths = bounds[:, 1] - bounds[:, 0]
    last = bounds[:, 1] - 1
    if (data.terminals & data.timeouts).any():
        count = int((data.terminals & data.timeouts).sum())
        yield Finding(
            "both_flags",
            "note",
            f"{count} rows are terminal and timeout at once",
            "they are taken as terminal: no value beyond them",
            "nothing, if the episode really ended there",
        )
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
    if len(lengths) > 3 and (lengths == 1).mean() > 0.5:
        yield Finding(
            "one_step_episodes",
            "error",
            f"{100 * (lengths == 1).mean():.0f} % of the episodes have one step",
            "the end flags are set on most rows, so no value is ever carried on",
            "check what the recorder wrote as terminals and timeouts (one of them inverted?)",
        )
    common = int(np.bincount(lengths).argmax())
    full = lengths == common  # the recording may stop within the last one
    terminal = data.terminals[last[full]].all()
    if len(lengths) > 3 and terminal and full.mean() > 0.9 and common > 1:
        yield Finding(
            "limit_as_terminal",
            "warning",
            f"{100 * full.mean():.0f} % of the episodes end terminal after exactly {common} steps",
            "this looks like a time limit; as a terminal state it teaches that life ends there",
            "write them as timeouts",
        )


def termination(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Terminals against the task's own termination."""
    if task.termination is None:
        return
    truly = np.asarray(task.termination(tf.constant(data.next_observations)))
    unmarked = truly & ~data.terminals
    # Long episodes have few falls: of all rows they may be next to none.
    if unmarked.mean() > 0.001 or unmarked.sum() > max(3, 0.1 * truly.sum()):
        yield Finding(
            "terminals_missing",
            "warning",
            f"{int(unmarked.sum())} of {int(truly.sum())} rows that lead to states that "
            f"--env={task.name} calls terminal are not marked",
            "values are carried on beyond a fall",
            "mark them, or choose the task that the data were recorded with",
        )
    unfounded = data.terminals & ~truly
    if unfounded.sum() > 0.01 * max(data.terminals.sum(), 1):
        yield Finding(
            "terminals_unfounded",
            "warning",
            f"{int(unfounded.sum())} of {int(data.terminals.sum())} terminals are no terminal states "
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
    unequal = _differs(promised, following, spread)
    broken = unequal & ~finished
    if not _differs(data.observations, data.next_observations, spread).mean() > 0.01:
        yield Finding(
            "next_is_same",
            "error",
            "next_observations equal observations",
            "the models would learn that nothing ever changes",
            "write the observation after the action as next_observations",
        )
    elif (~finished).any() and broken.sum() > 0.001 * (~finished).sum():
        share = 100 * broken.sum() / (~finished).sum()
        bad = share > 50
        yield Finding(
            "discontinuous",
            "error" if bad else "warning",
            f"in {share:.1f} % of the steps inside episodes the next row does not start where the "
            "last one led",
            "rows are shuffled, or ends of episodes are not marked; what needs sequences (values of "
            "logged actions, restored velocities) is wrong there",
            "keep the rows in time order and mark the ends",
        )


def last_observations(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Where episodes end, against the rows after them and against each other."""
    del task
    last = data.episode_bounds()[:, 1] - 1
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
    if len(last) > 2 and not np.ptp(data.next_observations[last], axis=0).any():
        yield Finding(
            "same_last_observation",
            "error",
            "all episodes end in the same observation",
            "the files of tensorflow-datasets' d4rl builder have this fault: the last step is wrong",
            "drop the last step of each episode (--dataset=tfds:NAME does)",
        )


def _spread(data: Transitions) -> Array:
    """[S] standard deviations of the observations."""
    return np.maximum(standardize.statistics(data.observations).scale, 1e-6)


def _differs(one: Array, two: Array, spread: Array) -> Array:
    """[n, S], [n, S] -> [n] bool, by more than rounding."""
    return (np.abs(one - two) > _SAME * spread + 1e-6).any(axis=1)


def rewards(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Rewards against the task's own reward function, which for robots is a proxy: see `tasks`."""
    if task.reward is None or not np.ptp(data.rewards):
        return
    rows = np.arange(len(data))[:: max(1, len(data) // _ROWS_JUDGED)]
    own = own_rewards(data, task, rows)
    logged = data.rewards.astype(np.float64)
    if not np.ptp(own):
        return

    def agreement(offset: int) -> float:
        other = np.clip(rows + offset, 0, len(data) - 1)
        return float(np.corrcoef(logged[other], own)[0, 1]) if np.ptp(logged[other]) else 0.0

    here = agreement(0)
    for offset, name in ((-1, "earlier"), (1, "later")):
        there = agreement(offset)
        if there > _AGREES and 1.0 - there < 0.5 * (1.0 - here):
            yield Finding(
                "rewards_shifted",
                "error",
                f"rewards stand one row {name} than --env={task.name} pays them",
                "every action would be paid for what another one did",
                "shift the column by one row within episodes",
            )
            return
    if here < _AGREES:
        yield Finding(
            "rewards_differ",
            "warning",
            f"rewards go with --env={task.name}'s own with a correlation of {here:.2f} only",
            "the data were recorded with another reward, or observations are in another order or "
            "unit",
            "if the reward is another one on purpose, use a learned reward",
        )
        return
    slope = _width(logged[rows]) / max(_width(own), 1e-12)
    bias = float(np.median(logged[rows] - own))
    if not 1 / _SCALE < slope < _SCALE or abs(bias) > 0.5 * own.std():
        shift = float(np.median(logged[rows]) - slope * np.median(own))
        yield Finding(
            "rewards_scaled",
            "warning",
            f"rewards are {slope:.3g} times --env={task.name}'s plus {shift:.3g}",
            "returns and scores are not comparable with others'; a shift changes what an early end "
            "is worth",
            "undo it, unless it is wanted",
        )


def own_rewards(data: Transitions, task: TaskSpec, rows: Array) -> Array:
    """[n] float64, what the task's reward function says of these rows."""
    assert task.reward is not None
    given = (data.observations, data.actions, data.next_observations)
    states, actions, following = (tf.constant(values[rows]) for values in given)
    return np.asarray(task.reward(states, actions, following, "v2"), np.float64)


def _width(values: Array) -> float:
    """Between the 10th and the 90th percentile."""
    low, high = np.quantile(values, (0.1, 0.9))
    return float(high - low)


def simulator_states(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """infos/qpos and infos/qvel that are not the states that were observed."""
    spec = tasks.get(task.name).simulation if task.name in tasks.ROBOTS else task.simulation
    if not isinstance(spec, SimulationSpec) or data.qpos is None or data.qvel is None:
        return
    if data.qpos.ndim != 2 or data.qvel.ndim != 2:
        yield _foreign_states("infos/qpos and infos/qvel are no tables of numbers", task)
        return
    rows = np.linspace(0, len(data) - 1, min(len(data), _ROWS_JUDGED)).astype(np.int64)
    observed = data.observations[rows]
    seen = spec.observe(data.qpos[rows], data.qvel[rows])
    fits = seen.shape == observed.shape
    tolerance = _STATE_SAME * (1.0 + observed.std(axis=0))
    same = (np.abs(seen - observed) <= tolerance).all(axis=1) if fits else np.zeros(len(rows), bool)
    good = derive(
        lambda q, v: np.isfinite(q).all(axis=1) & np.isfinite(v).all(axis=1), data.qpos, data.qvel
    )
    share = 100 * (~same).mean()
    what = f"infos/qpos and infos/qvel do not give the observation in {share:.3g} % of rows"
    if not fits:
        what = (
            f"infos/qpos of width {data.qpos.shape[1]} and infos/qvel of width {data.qvel.shape[1]} "
            f"are no state of --env={task.name}"
        )
    elif not good.all():
        what = (
            f"infos/qpos or infos/qvel holds NaN or infinity in {int((~good).sum())} rows, the first "
            f"is row {int(np.argmin(good))}"
        )
    elif same.mean() > _MOST:
        return
    yield _foreign_states(what, task)


def _foreign_states(what: str, task: TaskSpec) -> Finding:
    lost = "its policy is not measured from the data's own start states"
    if task.velocity_limit is not None:
        lost = f"it restores velocities by finite differences, and {lost}"
    return Finding(
        "simulator_states",
        "warning",
        what,
        f"MOReL does not use them: {lost}",
        "write the simulator's state of before each step",
    )


def with_own_states(data: Transitions, task: TaskSpec) -> Transitions:
    """The data, without infos/qpos and infos/qvel where they are not the observed states; says so."""
    for finding in simulator_states(data, task):
        logging.warning("--dataset: %s. %s", finding.what, finding.meaning)
        return dataclasses.replace(data, qpos=None, qvel=None)
    return data


def duplicates(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Rows that stand in the data more than once."""
    del task
    # Numbers that equal rows share and others hardly ever do.
    generator = np.random.default_rng(0)
    widths = (data.observations.shape[1], data.actions.shape[1])
    odd = [generator.integers(2**63, size=width, dtype=np.uint64) * 2 + 1 for width in widths]

    def key(observations: Array, actions: Array) -> Array:
        bits = (np.ascontiguousarray(x).view(np.uint32) for x in (observations, actions))
        sums = [(b * by).sum(axis=1) for b, by in zip(bits, odd, strict=True)]
        return sums[0] + (sums[1] ^ (sums[1] >> np.uint64(29)))

    keys = derive(key, data.observations, data.actions)
    repeated = 1.0 - len(np.unique(keys)) / len(keys)
    if repeated > 0.01:
        yield Finding(
            "duplicates",
            "warning",
            f"{100 * repeated:.1f} % of the rows repeat an earlier observation and action",
            "held-out errors look too good, and the repeated rows weigh more",
            "check whether files were joined twice",
        )


_OF_ALL: tuple[Check, ...] = (size, ends, last_observations, simulator_states, duplicates)
_CHEAP: tuple[Check, ...] = (
    size,
    constant_columns,
    action_bounds,
    clipped_observations,
    ends,
    termination,
    continuity,
    last_observations,
    simulator_states,
    rewards,
)
