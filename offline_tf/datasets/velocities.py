"""The true velocities behind observations that clip them.

Hopper's and Walker2d's observations clip velocities to +-10 and so are not Markov. The dynamics
models may be fitted on states with the true velocities; the policy still sees clipped ones.
"""

from __future__ import annotations

import functools

import numpy as np

from offline_tf.numerics.large_columns import derive
from offline_tf.types import Array, TaskSpec, Transitions, UserError


def finite_difference(task: TaskSpec, previous_observations: Array, observations: Array) -> Array:
    """Restores clipped velocities from two observations one step apart.

    v = (p_t - p_{t-1}) / dt where the observed |v| stands at the limit, an observed position p
    belongs to v, and the difference lies beyond the limit on the same side; else as observed.

    Args:
      task: names the pairs (velocity, position).
      previous_observations: [B, S], one step earlier.
      observations: [B, S].

    Returns:
      [B, S] float32 states.
    """
    states = np.array(observations, np.float32)
    if task.velocity_limit is None:
        return states
    for velocity, position in task.finite_difference:
        observed = observations[:, velocity]
        slope = (observations[:, position] - previous_observations[:, position]) / task.dt
        clipped = (np.abs(observed) >= task.velocity_limit) & (
            slope * np.sign(observed) > task.velocity_limit
        )
        states[clipped, velocity] = slope[clipped]
    return states


def restore(
    task: TaskSpec, transitions: Transitions, use_recorded: bool = True
) -> tuple[Array, Array]:
    """Returns states and next states [N, S] with true velocities.

    Velocities that were clipped come from the recorded qvel where the file has it and it lies beyond
    the limit on the same side, else from finite differences. The last next state of an episode has no
    recorded qvel, and the first state no predecessor: the former takes the finite difference, the
    latter stays as observed (robots start at rest). A next state that is not known (`types.next_known`)
    stays NaN.

    Args:
      task: the task.
      transitions: the data.
      use_recorded: False restores everything by finite differences, as a deployed detector must.

    Raises:
      UserError: the recorded qvel has another width than the task's velocities, or holds NaN or
        infinity.
    """
    observations, next_observations = transitions.observations, transitions.next_observations
    if task.velocity_limit is None:
        return observations, next_observations
    ends = transitions.terminals | transitions.timeouts
    first = np.concatenate([[True], ends[:-1]])
    last = np.append(ends[:-1], True)
    slopes = derive(functools.partial(finite_difference, task), observations, next_observations)
    by_differences = _shifted(slopes, observations, first, -1)
    if use_recorded and transitions.qvel is not None:
        indices = list(task.velocity_indices)
        if transitions.qvel.shape[1:] != (len(indices),):
            raise UserError(
                f"--dataset: expected infos/qvel of {len(indices)} velocities a row, got shape "
                f"{transitions.qvel.shape}; mend it or leave it out"
            )
        is_finite = derive(lambda part: np.isfinite(part).all(axis=1), transitions.qvel)
        if not is_finite.all():
            raise UserError(
                f"--dataset: infos/qvel holds NaN or infinity in {int((~is_finite).sum())} rows, the "
                f"first is row {int(np.argmin(is_finite))}; mend it or leave it out"
            )

        def recorded(block: Array, restored: Array, qvel: Array) -> Array:
            states = np.array(restored)
            observed = block[:, indices]
            at_limit = np.abs(observed) >= task.velocity_limit
            exceeds = at_limit & (qvel * np.sign(observed) >= task.velocity_limit)
            states[:, indices] = np.where(exceeds, qvel, states[:, indices])
            return states

        states = derive(recorded, observations, by_differences, transitions.qvel)
        return states, _shifted(states, slopes, last, 1)
    return by_differences, slopes


def _shifted(values: Array, edge_values: Array, at_edge: Array, by: int) -> Array:
    """values[row + by], or edge_values[row] where `at_edge`; by is 1 or -1."""
    count = len(values)

    def block(rows: Array) -> Array:
        neighbours = values[np.clip(rows + by, 0, count - 1)]
        return np.where(at_edge[rows, None], edge_values[rows], neighbours)

    return derive(block, np.arange(count))


def observe(task: TaskSpec, states: Array) -> Array:
    """[B, S] states -> [B, S] observations, a copy with the velocities that the task clips clipped."""
    clipped, limit = states.copy(), task.velocity_limit
    if limit is not None:
        indices = list(task.velocity_indices)
        clipped[:, indices] = np.clip(states[:, indices], -limit, limit)
    return clipped
