"""Record one-step transitions of the original Gym "-v2" MuJoCo robots.

Writes ``v2_transitions.npz`` next to this file: for hopper, walker2d, halfcheetah and ant, 200
transitions of Hopper-v2, Walker2d-v2, HalfCheetah-v2 and Ant-v2 as gym 0.23.1, mujoco-py 2.1.2.14 and
the MuJoCo 2.1.0 library compute them. The project's tests compare today's ``mujoco`` package with this
file; they never run this script. It needs the original tooling, under Python 3.10, and nothing of this
project.

Setting up (Linux, x86-64)
--------------------------
1.  System packages (Debian names): ``gcc``, ``libosmesa6-dev``, ``libgl1-mesa-dev``, ``patchelf``.

2.  A virtual environment with Python 3.10.13 (the version used here), and in it::

        pip install "pip<24.1" "setuptools<66" wheel
        pip install "numpy<2" "Cython<3" cffi imageio fasteners glfw cloudpickle gym_notices
        pip install --no-deps gym==0.23.1
        pip install --no-deps --no-build-isolation mujoco-py==2.1.2.14

3.  The MuJoCo 2.1.0 library, a folder named ``mujoco210``. Either the official archive of that release,
    or the copy inside the wheel of ``free-mujoco-py`` 2.1.6, unpacked beside (not installed: it would
    shadow mujoco-py)::

        pip download --no-deps -d wheel free-mujoco-py==2.1.6
        python -m zipfile -e wheel/free_mujoco_py-2.1.6-py3-none-any.whl unpacked
        # the library is unpacked/mujoco_py/binaries/linux/mujoco210

4.  Two variables, then the script. The first import compiles mujoco-py's extension (about a minute)::

        export MUJOCO_PY_MUJOCO_PATH=$PWD/unpacked/mujoco_py/binaries/linux/mujoco210
        export LD_LIBRARY_PATH=$MUJOCO_PY_MUJOCO_PATH/bin
        python record_v2_transitions.py

What is recorded
----------------
Per robot, the first axis being the transition:

``qpos``, ``qvel``
    float64, the state before. The values are representable in float32, so that a float32 copy is
    exact; only Ant's quaternion (``qpos[3:7]``) is not, it has been normalised in float64.
``action``
    float32, within [-1, 1], uniform per component. The environment is stepped with the float64
    copy: Gym's control cost is computed in the action's own dtype.
``next_qpos``, ``next_qvel``, ``reward``, ``done``
    what ``env.step(action)`` leaves and returns: float64, float64, float64, bool. Ant's reward reads
    the torso's ``xpos``, which mj_step leaves at its last Runge-Kutta stage, not at ``next_qpos``.
``next_observation``
    what ``env.step(action)`` returns, rounded to float32 to keep the file small. Ant's has 111
    components, the last 84 being external forces, which MuJoCo 2.1.0 does not compute for this
    model: all zero.
``floor_contacts``, ``self_contacts``
    int64, the largest number of contacts with the floor, and between two parts of the robot, found at
    the start of any of the step's ``frame_skip`` substeps or at the end of the last. The Runge-Kutta
    stages between them are not looked at.

States: 60 near the start (``reset_model``), 140 drawn from episodes with random actions that run on
after the robot has fallen. ``gym/version``, ``mujoco_py/version``, ``mujoco/version``,
``numpy/version`` and ``python/version`` are strings.

A transition as a pure function of (qpos, qvel, action)
-------------------------------------------------------
MuJoCo keeps state outside qpos and qvel: the time, and ``qacc_warmstart``, where the constraint solver
starts. For each transition the script therefore does::

    sim.reset()                          # mj_resetData: time, ctrl and qacc_warmstart are zero
    env.set_state(qpos, qvel)            # calls mj_forward, which writes qacc_warmstart
    sim.data.qacc_warmstart[:] = 0       # undo that
    env.step(action)                     # frame_skip times mj_step, which computes the rest afresh

After the first of the ``frame_skip`` substeps, ``qacc_warmstart`` is carried over as usual. In MuJoCo
2.1.0 ``mj_forward`` also normalises the quaternion inside ``qpos``; the recorded ``qpos`` is read back
afterwards. Every transition is computed twice, with others between, and must come out bit for bit the
same. Today's ``mujoco`` needs ``mj_resetData``, then qpos, qvel and ctrl, then ``mj_step``: no forward.
"""

import os
import platform

import gym
import mujoco_py
import numpy as np

ROBOTS = {
    "hopper": "Hopper-v2",
    "walker2d": "Walker2d-v2",
    "halfcheetah": "HalfCheetah-v2",
    "ant": "Ant-v2",
}
SEED = 20240
NEAR_START = 60
FROM_EPISODES = 140
EPISODES = 28
EPISODE_STEPS = 80
TARGET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "v2_transitions.npz")


def random_action(env, rng):
    return rng.uniform(-1.0, 1.0, size=env.model.nu).astype(np.float32)


def visited_states(env, rng):
    """States of fresh episodes and of episodes with random actions, as float32 values in float64."""
    states = []
    for _ in range(NEAR_START):
        env.reset()
        states.append((env.sim.data.qpos.copy(), env.sim.data.qvel.copy()))
    for episode in range(EPISODES):
        env.reset()
        action = random_action(env, rng)
        # Every second episode holds each action for four steps, which moves the robot further.
        hold = 4 if episode % 2 else 1
        keep = rng.choice(EPISODE_STEPS, size=FROM_EPISODES // EPISODES, replace=False)
        for step in range(EPISODE_STEPS):
            if step in keep:
                states.append((env.sim.data.qpos.copy(), env.sim.data.qvel.copy()))
            if step % hold == 0:
                action = random_action(env, rng)
            env.step(action.astype(np.float64))  # "done" is ignored: falls are wanted
    return [
        (qpos.astype(np.float32).astype(np.float64), qvel.astype(np.float32).astype(np.float64))
        for qpos, qvel in states
    ]


def restore(env, qpos, qvel):
    """Set the state, nothing left over from before. Return qpos as MuJoCo holds it, normalised."""
    env.sim.reset()
    env.set_state(qpos, qvel)
    env.sim.data.qacc_warmstart[:] = 0
    assert env.sim.data.time == 0 and not env.sim.data.ctrl.any()
    assert np.array_equal(env.sim.data.qvel, qvel)
    return env.sim.data.qpos.copy()


def transition(env, qpos, qvel, action):
    restore(env, qpos, qvel)
    observation, reward, done, _ = env.step(action.astype(np.float64))
    return {
        "next_qpos": env.sim.data.qpos.copy(),
        "next_qvel": env.sim.data.qvel.copy(),
        "next_observation": observation.astype(np.float32),
        "reward": np.float64(reward),
        "done": np.bool_(done),
    }


def count_contacts(env, qpos, qvel, action):
    """Largest number of contacts with the floor, and without it, at the ends of the substeps."""
    floor = env.model.geom_name2id("floor")
    restore(env, qpos, qvel)
    env.sim.data.ctrl[:] = action
    with_floor = without = 0
    for substep in range(env.frame_skip + 1):
        # mj_step leaves the contacts of an earlier stage: find those of the present state.
        mujoco_py.functions.mj_fwdPosition(env.sim.model, env.sim.data)
        contacts = env.sim.data.contact[: env.sim.data.ncon]
        touching = sum(floor in (contact.geom1, contact.geom2) for contact in contacts)
        with_floor = max(with_floor, touching)
        without = max(without, env.sim.data.ncon - touching)
        if substep < env.frame_skip:
            env.sim.step()
    return {"floor_contacts": np.int64(with_floor), "self_contacts": np.int64(without)}


def record(name, seed):
    env = gym.make(name).unwrapped
    env.reset(seed=seed)
    rng = np.random.RandomState(seed)
    rows = []
    for qpos, qvel in visited_states(env, rng):
        qpos = restore(env, qpos, qvel)
        action = random_action(env, rng)
        row = {"qpos": qpos, "qvel": qvel, "action": action}
        row.update(transition(env, qpos, qvel, action))
        row.update(count_contacts(env, qpos, qvel, action))
        rows.append(row)
    for row in rows[::-1]:
        again = transition(env, row["qpos"], row["qvel"], row["action"])
        for key, value in again.items():
            assert np.array_equal(value, row[key]), (name, key)
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def main():
    arrays = {
        "gym/version": gym.__version__,
        "mujoco_py/version": mujoco_py.__version__,
        "mujoco/version": str(mujoco_py.functions.mj_version()),
        "numpy/version": np.__version__,
        "python/version": platform.python_version(),
    }
    for number, (robot, name) in enumerate(ROBOTS.items()):
        for key, value in record(name, SEED + number).items():
            arrays[robot + "/" + key] = value
        counts = {
            key: int((arrays[robot + "/" + key] > 0).sum())
            for key in ("done", "floor_contacts", "self_contacts")
        }
        print(robot, counts)
    np.savez_compressed(TARGET, **arrays)
    print(TARGET, os.path.getsize(TARGET), "bytes")


if __name__ == "__main__":
    main()
