"""Checks of columns, row by row: numbers, units, bounds, repeated rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from offline_tf.datasets.quality.findings import Finding
from offline_tf.numerics.large_columns import derive
from offline_tf.types import Array, TaskSpec, Transitions

_FEW_ROWS = 10_000
_TINY = 1e-5
_NEARLY_ALL = 0.9  # of a column's actions outside the bounds


def not_finite(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """NaN and infinities."""
    del task
    for name in ("observations", "actions", "rewards", "next_observations"):
        values = getattr(data, name)
        not_finite_rows = derive(
            lambda part: ~np.isfinite(part.reshape(len(part), -1)).all(axis=1), values
        )
        if name == "next_observations":
            not_finite_rows = not_finite_rows & data.next_known
        if not_finite_rows.any():
            yield Finding(
                f"not_finite/{name}",
                "error",
                f"{int(not_finite_rows.sum())} rows of {name} hold NaN or infinity, the first is row "
                f"{int(np.argmax(not_finite_rows))}",
                "every model that sees one of them becomes NaN",
                "remove the episodes with these rows, or mend the recorder",
            )


def next_unknown(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Terminal rows whose next observation was not recorded."""
    del task
    unknown = int((~data.next_known).sum())
    if unknown:
        yield Finding(
            "next_unknown",
            "note",
            f"{unknown} of {int(data.terminals.sum())} terminal rows have no next observation",
            "they count for Q, cloning and returns; dynamics models, detector, learned reward and "
            f"learned termination are fitted on the other {len(data) - unknown} rows",
            "record the observation after the last action too",
        )


def few_rows(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
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
        constant = [
            n for n, spread in zip(names, np.ptp(values, axis=0), strict=True) if not spread
        ]
        if len(constant) == len(names):
            yield Finding(
                f"constant/{name}/all",
                "error",
                f"all {name} are the same in every row",
                "there is nothing to learn from",
                "check what the recorder wrote under this name",
            )
        elif constant:
            yield Finding(
                f"constant/{name}",
                "warning",
                f"{', '.join(constant)} in {name} never changes",
                "the models cannot know what happens where it does",
                "check the sensor or the column order; else live with it",
            )


def tiny_units(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Dimensions whose changes are lost in the models' precision."""
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


def constant_rewards(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Rewards that never change."""
    del task
    if len(data) > 1 and not np.ptp(data.rewards):
        yield Finding(
            "constant/rewards",
            "warning",
            f"all rewards are {data.rewards[0]:g}",
            "with learned rewards every policy is as good as any other",
            "record rewards, or give the task a reward function",
        )


def actions_outside(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Actions outside the bounds."""
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


def actions_large(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Dimensions of the action whose values are nearly all outside the bounds."""
    large = [
        name
        for name, column, low, high in zip(
            task.action_names, data.actions.T, task.action_low, task.action_high, strict=True
        )
        if ((column < low) | (column > high)).mean() > _NEARLY_ALL
    ]
    if large:
        yield Finding(
            "actions_large",
            "warning",
            f"nearly all values of {', '.join(large)} are outside the bounds",
            "clipped, as dynamics and detector are given them, they say nothing; they seem to be in "
            "other units than the bounds",
            "check units; policies act in the task's bounds",
        )


def actions_small(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Actions that use a small part of the bounds."""
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


def duplicates(data: Transitions, task: TaskSpec) -> Iterator[Finding]:
    """Rows that stand in the data more than once."""
    del task
    # Numbers that equal rows share and others hardly ever do.
    generator = np.random.default_rng(0)
    widths = (data.observations.shape[1], data.actions.shape[1])
    multipliers = [
        generator.integers(2**63, size=width, dtype=np.uint64) * 2 + 1 for width in widths
    ]

    def key(observations: Array, actions: Array) -> Array:
        bits = (np.ascontiguousarray(x).view(np.uint32) for x in (observations, actions))
        sums = [(b * factors).sum(axis=1) for b, factors in zip(bits, multipliers, strict=True)]
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
