"""Which checks of logged data run, in order, and what training does with their findings.

All checks take Transitions and a task and yield findings; nothing is changed, nothing is read.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import logging

from offline_tf.datasets.quality import (
    column_checks,
    episode_checks,
    reward_checks,
    state_checks,
)
from offline_tf.datasets.quality.findings import SEVERITIES, Check, Finding
from offline_tf.types import TaskSpec, Transitions, UserError

CHEAP: tuple[Check, ...] = (
    column_checks.next_unknown,
    column_checks.few_rows,
    column_checks.constant_columns,
    column_checks.tiny_units,
    column_checks.constant_rewards,
    column_checks.actions_outside,
    column_checks.actions_large,
    column_checks.actions_small,
    column_checks.clipped_observations,
    episode_checks.both_flags,
    episode_checks.long_episodes,
    episode_checks.one_step_episodes,
    episode_checks.limit_as_terminal,
    episode_checks.termination,
    episode_checks.continuity,
    episode_checks.next_of_other_episode,
    episode_checks.same_last_observation,
    state_checks.simulator_states,
    reward_checks.rewards,
)
THOROUGH: tuple[Check, ...] = (*CHEAP, column_checks.duplicates)
_OF_ALL_ROWS: tuple[Check, ...] = (
    column_checks.next_unknown,
    column_checks.few_rows,
    episode_checks.both_flags,
    episode_checks.long_episodes,
    episode_checks.one_step_episodes,
    episode_checks.limit_as_terminal,
    episode_checks.next_of_other_episode,
    episode_checks.same_last_observation,
    state_checks.simulator_states,
    column_checks.duplicates,
)
_LARGE = 2_000_000  # rows above which the other checks look at stretches of the data
_STRETCHES = 20


def cheap(data: Transitions, task: TaskSpec) -> list[Finding]:
    """Runs the checks that take no longer than reading the data; the worst findings come first."""
    return _worst_first(data, task, CHEAP)


def thorough(data: Transitions, task: TaskSpec) -> list[Finding]:
    """Runs all checks but the replay in the simulator (`physics_replay.find_physics`)."""
    return _worst_first(data, task, THOROUGH)


def before_training(data: Transitions, task: TaskSpec) -> list[Finding]:
    """Runs the cheap checks and logs their warnings; returns the findings.

    Raises:
      UserError: data that cannot be learned from.
    """
    findings = cheap(data, task)
    for finding in findings:
        if finding.severity == "error":
            raise UserError(f"--dataset: {finding.what}: {finding.meaning}. {finding.advice}")
        if finding.severity == "warning":
            logging.warning("--dataset: %s: %s. %s", finding.what, finding.meaning, finding.advice)
    return findings


def with_own_states(data: Transitions, task: TaskSpec) -> Transitions:
    """The data, without infos/qpos and infos/qvel where they are not the observed states; says so."""
    for finding in state_checks.simulator_states(data, task):
        logging.warning("--dataset: %s. %s", finding.what, finding.meaning)
        return dataclasses.replace(data, qpos=None, qvel=None)
    return data


def _worst_first(data: Transitions, task: TaskSpec, checks: tuple[Check, ...]) -> list[Finding]:
    # Numbers that are not finite would drown the rest.
    findings = list(column_checks.not_finite(data, task))
    if not findings:
        part = stretches(data)
        for check in checks:
            findings += check(data if check in _OF_ALL_ROWS else part, task)
        if part is not data:
            findings.append(
                Finding(
                    "partly_checked",
                    "note",
                    f"{len(part)} of {len(data)} rows were looked at, in {_STRETCHES} stretches; "
                    "sizes, ends of episodes, repeated rows and numbers that are not finite everywhere",
                    "a fault elsewhere is not seen",
                    "nothing, unless the file was joined from parts of different origin",
                )
            )
    return sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))


def stretches(data: Transitions) -> Transitions:
    """The data, or, where they are many, whole episodes from evenly spread places.

    Where an episode is longer than a stretch, a part of it is taken, cut at its end.
    """
    if len(data) <= _LARGE:
        return data
    size = _LARGE // (2 * _STRETCHES)
    bounds = data.episode_bounds()
    parts, cuts, row_count = [], [], 0
    for first in np.linspace(0, len(data) - size, _STRETCHES).astype(np.int64):
        inside = bounds[(bounds[:, 0] >= first) & (bounds[:, 1] <= first + size)]
        start, end = (first, first + size) if not len(inside) else (inside[0, 0], inside[-1, 1])
        parts.append(np.arange(start, end))
        row_count += end - start
        if not len(inside):
            cuts.append(row_count - 1)
    rows = np.concatenate(parts)
    columns = {name: values for name, values in vars(data).items() if values is not None}
    part = {name: values[rows] for name, values in columns.items()}
    part["timeouts"][cuts] |= ~part["terminals"][cuts]
    return Transitions(**part)
