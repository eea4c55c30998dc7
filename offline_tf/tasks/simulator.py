"""Many MuJoCo simulators of one task at once, under the physics of the papers or of today.

`v2` is Gymnasium's v4 model with the masses and inertias of OpenAI Gym's -v2 robots, which old
MuJoCo computed differently (a capsule's two end caps counted as pi r^3, not 4/3 pi r^3), and with
its contact margins, which new MuJoCo adds up. It equals mujoco-py's -v2 robots to rounding with
MuJoCo 3, but for Ant's reward (docs/results/physics.md); MuJoCo 4 integrates Ant's quaternion in
another way, so requirements.txt pins 3.
`v4` and `v5` are Gymnasium's own.

Differs: every control step starts the constraint solver cold, so that a transition is a function of
(qpos, qvel, action) alone and a run can be repeated from any state. Gymnasium carries the
solver's warm start over; the two agree to the solver's tolerance in one step.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Iterator

import gymnasium
import numpy as np

from offline_tf.types import Array, SimulationSpec, TaskSpec, UserError

_BACK_END = os.environ.pop("MUJOCO_GL", None)  # osmesa's LLVM and TensorFlow's abort together
import mujoco  # noqa: E402
import mujoco.rollout  # noqa: E402

if _BACK_END is not None:
    os.environ["MUJOCO_GL"] = _BACK_END

_TWO_SPHERES = """<mujoco><worldbody><geom size="1" margin="0.5"/><body pos="0 0 2">
<freejoint/><geom size="1" margin="0.5"/></body></worldbody></mujoco>"""

PHYSICS = ("v2", "v4", "v5")
_V2_FILE = pathlib.Path(__file__).parent / "v2_physics.json"
_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS


def load_model(task: TaskSpec, physics: str = "v2") -> mujoco.MjModel:
    """Returns the robot's MuJoCo model.

    Raises:
      UserError: the task has no simulator, or the physics is unknown.
    """
    if not isinstance(task.simulation, SimulationSpec):
        raise UserError(f"--env={task.name}: this task declares no simulator")
    if physics not in PHYSICS:
        raise UserError(f"--physics: expected one of {', '.join(PHYSICS)}, got {physics!r}")
    assets = pathlib.Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    with _without_warnings():
        model = mujoco.MjModel.from_xml_path(str(assets / task.simulation.xml[physics]))
    if physics == "v2":
        make_v2(model, task.simulation.v2_key)
    return model


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Within, MuJoCo keeps warnings to itself; it has some on Gymnasium's own files.

    Else they stand on the terminal, and in a file MUJOCO_LOG.TXT in whatever folder one is.
    """
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def make_v2(model: mujoco.MjModel, robot: str) -> None:
    """Gives Gymnasium's v4 model of a robot the constants of OpenAI Gym's -v2, in place.

    Args:
      model: of Hopper-v4 or another robot.
      robot: Hopper, Walker2d, HalfCheetah or Ant.
    """
    for field, values in json.loads(_V2_FILE.read_text())[robot].items():
        getattr(model, field)[:] = np.asarray(values)
    if _margins_add():
        model.geom_margin[:] *= 0.5
    mujoco.mj_setConst(model, mujoco.MjData(model))


@functools.cache
def _margins_add() -> bool:
    """Whether a contact's margin is the sum of both geoms' (MuJoCo >= 3.5), not the larger one.

    All geoms of a robot have one margin, so halving it brings the old contacts back exactly.
    """
    model = mujoco.MjModel.from_xml_string(_TWO_SPHERES)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return bool(data.contact[0].includemargin > 0.75)


class Simulator:
    """`count` simulators of one task that step together.

    Attributes:
      task, physics: what is simulated.
      count: number of simulators K.
      qpos, qvel: [K, Q] and [K, V] float64, the present physical states.
      elapsed: [K] int64, control steps since the last reset of each.
    """

    def __init__(self, task: TaskSpec, physics: str, count: int, threads: int = 2) -> None:
        """Builds the simulators; call `reset` before the first `step`."""
        self.task = task
        self.physics = physics
        self.count = count
        self.model = load_model(task, physics)
        assert isinstance(task.simulation, SimulationSpec)
        self._spec = task.simulation
        self._contact_weight = self._spec.contact_cost.get(physics, 0.0)
        self._data = [mujoco.MjData(self.model) for _ in range(max(threads, 1))]
        self._pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0).rollout_
        size = mujoco.mj_stateSize(self.model, _FULL)
        expected = 1 + self.model.nq + self.model.nv
        if size != expected:
            raise ValueError(f"expected a state of {expected} (time, qpos, qvel), got {size}")
        self._state = np.zeros((count, size))
        self._controls = np.zeros((count, self._spec.frame_skip, self.model.nu))
        self._next = np.zeros((count, self._spec.frame_skip, size))
        self._sensors = np.zeros((count, self._spec.frame_skip, self.model.nsensordata))
        self.elapsed = np.zeros(count, np.int64)

    @property
    def has_states(self) -> bool:
        """Whether physical states can be read and set."""
        return True

    @property
    def qpos(self) -> Array:
        """[K, Q] positions."""
        return self._state[:, 1 : 1 + self.model.nq]

    @property
    def qvel(self) -> Array:
        """[K, V] velocities."""
        return self._state[:, 1 + self.model.nq :]

    def observations(self) -> Array:
        """Returns [K, S] float32 observations of the present states."""
        return self._spec.observe(self.qpos, self.qvel).astype(np.float32)

    def reset(self, generator: np.random.Generator, which: Array | None = None) -> None:
        """Puts the simulators where `which` ([K] bool, default all) into new start states."""
        which = np.ones(self.count, bool) if which is None else which
        number = int(which.sum())
        if number:
            qpos, qvel = self._spec.start(generator, number, self.model.qpos0, self.model.nv)
            self.set_states(qpos, qvel, which)

    def set_states(self, qpos: Array, qvel: Array, which: Array | None = None) -> None:
        """Sets physical states ([n, Q], [n, V]) of the simulators where `which` is true."""
        which = np.ones(self.count, bool) if which is None else which
        self._state[which] = np.concatenate([np.zeros((len(qpos), 1)), qpos, qvel], axis=1)
        self.elapsed[which] = 0

    def step(self, actions: Array) -> tuple[Array, Array]:
        """Advances all simulators by one control step.

        Args:
          actions: [K, A], within the bounds: the caller clips, so that what it logs was executed.

        Returns:
          rewards [K] float64 and terminated [K] bool. New states stand in qpos and qvel.
        """
        before = self.qpos[:, 0].copy()
        self._controls[:] = actions[:, None, :]
        if self._contact_weight:
            contact_cost = self._contact_weight * self._advance_with_contact_forces()
        else:
            contact_cost = np.zeros(self.count)
            self._pool.rollout(
                [self.model] * self.count,
                self._data,
                self._spec.frame_skip,
                mujoco.mjtState.mjSTATE_CTRL.value,
                self._state,
                None,
                self._controls,
                self._next,
                self._sensors,
                None,
            )
        self._state[:] = self._next[:, -1]
        self.elapsed += 1
        healthy = self._spec.healthy(self.qpos, self.qvel)
        velocity = (self.qpos[:, 0] - before) / self.task.dt
        cost = self.task.control_cost * np.square(np.asarray(actions, np.float64)).sum(axis=1)
        pays_bonus = healthy if self.physics == "v5" else np.ones_like(healthy)
        rewards = velocity + self.task.alive_bonus * pays_bonus - cost - contact_cost
        return rewards, ~healthy

    def _advance_with_contact_forces(self) -> Array:
        """Steps one simulator after the other; returns [K], the squared clipped contact forces."""
        data = self._data[0]
        forces = np.zeros(self.count)
        for index in range(self.count):
            mujoco.mj_setState(self.model, data, self._state[index], _FULL)
            data.qacc_warmstart[:] = 0
            data.ctrl[:] = self._controls[index, 0]
            mujoco.mj_step(self.model, data, nstep=self._spec.frame_skip)
            mujoco.mj_rnePostConstraint(self.model, data)
            forces[index] = np.square(np.clip(data.cfrc_ext, -1.0, 1.0)).sum()
            mujoco.mj_getState(self.model, data, self._next[index, -1], _FULL)
        return forces
