"""Logged states of the simulator against the logged observations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from offline_tf import tasks
from offline_tf.datasets.quality.findings import Finding
from offline_tf.numerics.large_columns import derive
from offline_tf.types import SimulationSpec, TaskSpec, Transitions

_STATE_SAME = 1e-2  # of a dimension's spread, and absolutely
_MOST = 0.9  # rows whose logged simulator state gives the logged observation
_ROWS_JUDGED = 50_000


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
    computed = spec.observe(data.qpos[rows], data.qvel[rows])
    fits = computed.shape == observed.shape
    tolerance = _STATE_SAME * (1.0 + observed.std(axis=0))
    matches = (
        (np.abs(computed - observed) <= tolerance).all(axis=1)
        if fits
        else np.zeros(len(rows), bool)
    )
    finite = derive(
        lambda q, v: np.isfinite(q).all(axis=1) & np.isfinite(v).all(axis=1), data.qpos, data.qvel
    )
    share = 100 * (~matches).mean()
    what = f"infos/qpos and infos/qvel do not give the observation in {share:.3g} % of rows"
    if not fits:
        what = (
            f"infos/qpos of width {data.qpos.shape[1]} and infos/qvel of width {data.qvel.shape[1]} "
            f"are no state of --env={task.name}"
        )
    elif not finite.all():
        what = (
            f"infos/qpos or infos/qvel holds NaN or infinity in {int((~finite).sum())} rows, the first "
            f"is row {int(np.argmin(finite))}"
        )
    elif matches.mean() > _MOST:
        return
    yield _foreign_states(what, task)


def _foreign_states(what: str, task: TaskSpec) -> Finding:
    consequence = "its policy is not measured from the data's own start states"
    if task.velocity_limit is not None:
        consequence = f"it restores velocities by finite differences, and {consequence}"
    return Finding(
        "simulator_states",
        "warning",
        what,
        f"MOReL does not use them: {consequence}",
        "write the simulator's state of before each step",
    )
