"""Which physics a recording was made in: its transitions, replayed in the simulator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offline_tf.numerics import seeds
from offline_tf.tasks.simulator import Simulator
from offline_tf.types import Array, SimulationSpec, TaskSpec, Transitions

PHYSICS = ("v2", "v4", "v5")
_ROWS = 2000
# A share of rows that come out the same to four digits: contacts amplify the rounding of float32.
_SAME = 1e-3
_ENOUGH = 0.5
_TIE = 0.02


class Replay(NamedTuple):
    """How well each physics explains the rows.

    Attributes:
      rows: transitions replayed.
      agreement: physics -> share of rows whose next observation comes out the same.
      error: physics -> median over rows of the largest error, in standard deviations of the step.
      explained_by: the physics that explain the data, the best first; v4 and v5 often move alike.
    """

    rows: int
    agreement: dict[str, float]
    error: dict[str, float]
    explained_by: tuple[str, ...]


def find_physics(
    data: Transitions, task: TaskSpec, seed: int = 0, threads: int = 2
) -> Replay | None:
    """Replays single steps under every physics.

    States come from infos/qpos and infos/qvel, else from observations (the unobserved position is
    put to 0). Rows with a velocity at the observation's limit are left out, and rows after which the
    episode ended in a fall.

    Args:
      data: the transitions.
      task: the robot.
      seed: which rows are taken.
      threads: of the simulators.

    Returns:
      A Replay, or None where the task has no simulator or the observation does not fix the state.
    """
    if not isinstance(task.simulation, SimulationSpec):
        return None
    usable = ~data.terminals  # so their next observations are known
    if task.velocity_limit is not None:
        speeds = np.abs(data.observations[:, list(task.velocity_indices)])
        after = np.abs(data.next_observations[:, list(task.velocity_indices)])
        usable &= (np.maximum(speeds, after) < task.velocity_limit).all(axis=1)
    rows = np.flatnonzero(usable)
    if not len(rows):
        return None
    rows = np.sort(seeds.generator(seed, "replay").permutation(rows)[:_ROWS])
    changes = (data.next_observations - data.observations)[data.next_known]
    scale = np.maximum(changes.std(axis=0), 1e-6)
    agreement, error = {}, {}
    for physics in PHYSICS:
        simulator = Simulator(task, physics, len(rows), threads)
        states = _states(data, task, simulator, rows)
        if states is None:
            return None
        simulator.set_states(*states)
        simulator.step(task.clip_actions(data.actions[rows]))
        errors = np.abs(simulator.observations() - data.next_observations[rows]) / scale
        worst = errors.max(axis=1)
        agreement[physics] = float((worst < _SAME).mean())
        error[physics] = float(np.median(worst))
    ranked = sorted(PHYSICS, key=lambda physics: (-agreement[physics], error[physics]))
    best = agreement[ranked[0]]
    explained = tuple(p for p in ranked if best >= _ENOUGH and agreement[p] >= best - _TIE)
    return Replay(len(rows), agreement, error, explained)


def _states(
    data: Transitions, task: TaskSpec, simulator: Simulator, rows: Array
) -> tuple[Array, Array] | None:
    """Qpos [n, Q] and qvel [n, V] before the action."""
    if data.qpos is not None and data.qvel is not None:
        return data.qpos[rows], data.qvel[rows]
    velocities, positions = simulator.model.nv, task.state_dim - simulator.model.nv
    unobserved = simulator.model.nq - positions
    if positions < 1 or unobserved < 0:
        return None
    observations = data.observations[rows].astype(np.float64)
    qpos = np.concatenate([np.zeros((len(rows), unobserved)), observations[:, :positions]], axis=1)
    return qpos, observations[:, positions : positions + velocities]
