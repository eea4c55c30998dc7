import dataclasses
import functools
import re

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from offline_tf import tasks
from offline_tf.policies import gaussian
from offline_tf.tasks.simulator import Simulator, load_model
from offline_tf.types import UserError

ROBOTS = ("hopper", "walker2d", "halfcheetah", "ant")
GYM_NAMES = {"hopper": "Hopper", "walker2d": "Walker2d", "halfcheetah": "HalfCheetah", "ant": "Ant"}
PHYSICS = [(robot, physics) for robot in ROBOTS for physics in ("v2", "v4")] + [("hopper", "v5")]
# RMSE and largest error of the trapezoid-rule reward, measured over 4,800 to 16,000 steps of each
# physics with three seeds, and rounded up by about a fifth.
RANDOM_REWARD_ERROR = {
    "hopper": (0.005, 0.08),
    "walker2d": (0.020, 0.20),
    "halfcheetah": (0.22, 1.2),
    "ant": (0.11, 1.0),
}
SHIPPED_REWARD_ERROR = {
    "hopper": (0.0065, 0.11),
    "walker2d": (0.029, 0.42),
    "halfcheetah": (0.46, 1.6),
    "ant": (0.10, 0.90),
}
# A joint of Gymnasium's xml -> our word.
JOINT_RENAMES = {
    "hopper": lambda name: name.removesuffix("_joint"),
    "walker2d": lambda name: re.sub("(.*)_left", r"left_\1", name.removesuffix("_joint")),
    "halfcheetah": lambda name: re.sub("^f", "front_", re.sub("^b", "back_", name)),
    "ant": lambda name: name,
}


@functools.cache
def gym_env(name):
    # Ant-v5 shows contact forces by default; our observation leaves them out.
    options = {"include_cfrc_ext_in_observation": False} if name == "Ant-v5" else {}
    return gymnasium.make(name, **options).unwrapped


def true_states(simulator):
    """Observations [K, S] with the velocities unclipped."""
    states = simulator.task.simulation.observe(simulator.qpos, simulator.qvel)
    states[:, list(simulator.task.velocity_indices)] = simulator.qvel
    return states.astype(np.float32)


def roll_out(task, physics, actor, steps, count=8):
    generator = np.random.default_rng(0)
    simulator = Simulator(task, physics, count, threads=1)
    simulator.reset(generator)
    rows = []
    for _ in range(steps):
        states = true_states(simulator)
        if actor is None:
            actions = generator.uniform(-1, 1, (count, task.action_dim)).astype(np.float32)
        else:
            actions = task.clip_actions(actor.sample(simulator.observations(), generator))
        rewards, terminated = simulator.step(actions)
        rows.append((states, actions, rewards, true_states(simulator), terminated))
        simulator.reset(generator, terminated)
    return [np.concatenate(column) for column in zip(*rows)]


def check_against_simulator(task, physics, actor, steps, bounds):
    states, actions, rewards, next_states, terminated = roll_out(task, physics, actor, steps)
    np.testing.assert_array_equal(task.termination(next_states).numpy(), terminated)
    error = task.reward(states, actions, next_states, physics).numpy() - rewards
    rmse, largest = bounds
    assert np.sqrt(np.mean(error**2)) < rmse
    assert np.abs(error).max() < largest
    return terminated


@pytest.mark.parametrize(("robot", "physics"), PHYSICS)
def test_reward_and_termination_agree_with_random_episodes(robot, physics):
    bounds = RANDOM_REWARD_ERROR[robot]
    terminated = check_against_simulator(tasks.get(robot), physics, None, 150, bounds)
    assert terminated.any() == (robot != "halfcheetah")


@pytest.mark.parametrize(("robot", "physics"), PHYSICS)
def test_reward_and_termination_agree_with_trained_episodes(robot, physics):
    actor, _ = gaussian.load(gaussian.shipped(robot))
    bounds = SHIPPED_REWARD_ERROR[robot]
    check_against_simulator(tasks.get(robot), physics, actor, 300, bounds)


def test_reward_by_hand(hopper):
    states = np.zeros((2, 11), np.float32)
    next_states = np.zeros((2, 11), np.float32)
    states[:, 0], states[:, 5] = 1.25, 2.0
    next_states[:, 0], next_states[:, 5] = (1.25, 0.5), 4.0  # the second one has fallen
    actions = np.float32([[1.0, -1.0, 0.5], [0.0, 0.0, 0.0]])
    # (2 + 4) / 2 + 1 - 1e-3 * 2.25; v2 and v4 pay the bonus on the last step too, v5 does not.
    for physics, expected in {
        "v2": [3.99775, 4.0],
        "v4": [3.99775, 4.0],
        "v5": [3.99775, 3],
    }.items():
        rewards = hopper.reward(states, actions, next_states, physics)
        np.testing.assert_allclose(rewards, expected, rtol=1e-6)


# (robot, index in the state, bound, what passes at -eps, at the bound and at +eps). From Gymnasium:
# hopper_v4.py and walker2d_v4.py compare strictly, ant_v4.py does not.
HOPPER_ENTRIES = [
    case
    for index in range(2, 11)
    for case in (
        ("hopper", index, 100.0, (True, False, False)),
        ("hopper", index, -100.0, (False, False, True)),
    )
]
BOUNDS = [
    ("hopper", 0, 0.7, (False, False, True)),
    ("hopper", 0, 100.0, (True, True, True)),  # the height is not among the bounded entries
    ("hopper", 1, 0.2, (True, False, False)),
    ("hopper", 1, -0.2, (False, False, True)),
    *HOPPER_ENTRIES,
    ("walker2d", 0, 0.8, (False, False, True)),
    ("walker2d", 0, 2.0, (True, False, False)),
    ("walker2d", 1, 1.0, (True, False, False)),
    ("walker2d", 1, -1.0, (False, False, True)),
    ("ant", 0, 0.2, (False, True, True)),
    ("ant", 0, 1.0, (True, True, False)),
]


def around(bound, dtype):
    bound = dtype(bound)
    return [np.nextafter(bound, dtype(-np.inf)), bound, np.nextafter(bound, dtype(np.inf))]


@pytest.mark.parametrize(("robot", "index", "bound", "healthy"), BOUNDS)
def test_termination_at_each_bound(robot, index, bound, healthy):
    states = np.zeros((3, tasks.get(robot).state_dim), np.float32)
    states[:, 0] = 0.9  # healthy for all robots
    states[:, index] = around(bound, np.float32)
    terminated = tasks.get(robot).termination(states).numpy()
    np.testing.assert_array_equal(terminated, ~np.array(healthy))


@pytest.mark.parametrize(("robot", "index", "bound", "healthy"), BOUNDS)
def test_simulators_own_test_is_gymnasiums_at_each_bound(robot, index, bound, healthy):
    spec = tasks.get(robot).simulation
    env = gym_env(f"{GYM_NAMES[robot]}-v4")
    hidden = env.model.nq + env.model.nv - tasks.get(robot).state_dim  # x, and y for Ant
    vector = np.zeros(env.model.nq + env.model.nv)
    vector[hidden] = 0.9
    for value, expected in zip(around(bound, np.float64), healthy):
        vector[hidden + index] = value
        qpos, qvel = vector[: env.model.nq], vector[env.model.nq :]
        assert spec.healthy(qpos[None], qvel[None]) == expected
        env.data.qpos[:], env.data.qvel[:] = qpos, qvel
        assert env.is_healthy == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 4, 26])
def test_ant_ends_where_anything_is_not_finite(index, value):
    states = np.zeros((2, 27), np.float32)
    states[:, 0] = 0.75
    states[1, index] = value
    np.testing.assert_array_equal(tasks.get("ant").termination(states), [False, True])


def test_halfcheetah_never_ends():
    states = np.full((5, 17), 1e6, np.float32)
    assert not tasks.get("halfcheetah").termination(tf.constant(states)).numpy().any()


@pytest.mark.parametrize("physics", ["v4", "v5"])
@pytest.mark.parametrize("robot", ROBOTS)
def test_one_step_equals_gymnasium(robot, physics, golden):
    task = tasks.get(robot)
    env = gym_env(f"{GYM_NAMES[robot]}-{physics}")
    rows = {name: golden[robot][name][::5] for name in ("qpos", "qvel", "action")}
    rows["qvel"] = rows["qvel"] * np.linspace(1, 4, len(rows["qvel"]))[:, None]  # some are clipped
    simulator = Simulator(task, physics, len(rows["qpos"]), threads=1)
    simulator.set_states(rows["qpos"], rows["qvel"])
    rewards, terminated = simulator.step(rows["action"])
    observations = simulator.observations()
    clipped = np.abs(simulator.qvel).max() > 10
    assert clipped and 0 < terminated.sum() < len(terminated) or robot == "halfcheetah"
    contact_costs = []
    for k, (qpos, qvel, action) in enumerate(zip(*rows.values())):
        env.set_state(qpos, qvel)
        env.data.qacc_warmstart[:] = 0
        seen, reward, ended, _, info = env.step(action.astype(np.float64))
        np.testing.assert_array_equal(simulator.qpos[k], env.data.qpos)
        np.testing.assert_array_equal(simulator.qvel[k], env.data.qvel)
        np.testing.assert_array_equal(observations[k], seen.astype(np.float32))
        assert terminated[k] == ended
        if robot == "ant":
            # Gymnasium's speed comes from a stale xpos (see test_physics); the rest is the same.
            reward += (env.data.qpos[0] - qpos[0]) / env.dt - info["reward_forward"]
            contact_costs.append(info.get("reward_contact", 0.0))
        assert rewards[k] == pytest.approx(reward, abs=1e-9)
    if robot == "ant":
        assert (min(contact_costs) < 0) == (physics == "v5")


@pytest.mark.parametrize("robot", ROBOTS)
def test_spec_agrees_with_gymnasium(robot):
    task, env = tasks.get(robot), gym_env(f"{GYM_NAMES[robot]}-v4")
    assert task.dt == pytest.approx(env.dt)
    assert task.simulation.frame_skip == env.frame_skip
    assert task.max_episode_steps == gymnasium.spec(f"{GYM_NAMES[robot]}-v4").max_episode_steps
    np.testing.assert_array_equal(task.action_low, env.action_space.low)
    np.testing.assert_array_equal(task.action_high, env.action_space.high)
    assert task.state_dim == env.observation_space.shape[0]
    assert len(task.velocity_indices) == env.model.nv
    rename = JOINT_RENAMES[robot]
    joints = [rename(env.model.joint(i).name) for i in range(env.model.njnt)]
    joints = [name for name in joints if "root" not in name]
    motors = [rename(env.model.joint(i).name) for i in env.model.actuator_trnid[:, 0]]
    assert task.action_names == tuple(f"{name}_motor" for name in motors)
    for suffix in ("angle", "velocity"):
        named = [name for name in task.observation_names if name.endswith(suffix)]
        assert named[-len(joints) :] == [f"{name}_{suffix}" for name in joints]


@pytest.mark.parametrize("robot", ["hopper", "walker2d"])
def test_finite_difference_pairs_name_one_joint(robot):
    task = tasks.get(robot)
    model = load_model(task, "v2")
    # In the state, position i is qpos[1 + i] and the velocity at nq - 1 + j is qvel[j]; all joints
    # are hinges or slides, so that qvel[j] is the derivative of qpos[j].
    pairs = {(model.nq - 1 + joint, joint - 1) for joint in range(1, model.nq)}
    assert set(task.finite_difference) == pairs


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="got 'hoper'; did you mean 'hopper'") as error:
        tasks.get("hoper")
    assert "walker2d" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError) as error:
        tasks.get("zzz")
    assert "did you mean" not in str(error.value)


def test_register_adds_a_task_once(monkeypatch, hopper):
    monkeypatch.setattr(tasks, "_registered", {})
    mine = dataclasses.replace(hopper, name="mine", simulation=None, reference_returns=None)
    tasks.register(mine)
    assert tasks.get("mine") is mine and "mine" in tasks.names()
    assert mine.normalized_score(10.0) is None
    for taken in (mine, hopper):
        with pytest.raises(ValueError, match="registered already"):
            tasks.register(taken)
    with pytest.raises(UserError, match="declares no simulator"):
        load_model(mine)
    with pytest.raises(UserError, match="expected one of v2, v4, v5, got 'v3'"):
        load_model(hopper, "v3")


# D4RL infos.py, REF_MIN_SCORE and REF_MAX_SCORE.
@pytest.mark.parametrize(
    ("robot", "low", "high"),
    [
        ("hopper", -20.272305, 3234.3),
        ("walker2d", 1.629008, 4592.3),
        ("halfcheetah", -280.178953, 12135.0),
        ("ant", -325.6, 3879.7),
    ],
)
def test_normalized_score(robot, low, high):
    task = tasks.get(robot)
    scores = [task.normalized_score(x) for x in (low, high, (low + high) / 2)]
    np.testing.assert_allclose(scores, [0, 100, 50], atol=1e-10)


def test_clip_actions(hopper):
    actions = np.float64([[-3.0, 0.25, 1.0], [1.5, -1.0, 0.0]])
    clipped = hopper.clip_actions(actions)
    np.testing.assert_array_equal(clipped, [[-1.0, 0.25, 1.0], [1.0, -1.0, 0.0]])
    assert clipped.dtype == np.float32


# reset_noise_scale of Gymnasium's classes; velocities are normal in HalfCheetah and Ant.
@pytest.mark.parametrize(
    ("robot", "noise", "normal"),
    [
        ("hopper", 5e-3, False),
        ("walker2d", 5e-3, False),
        ("halfcheetah", 0.1, True),
        ("ant", 0.1, True),
    ],
)
def test_start_states_have_the_noise_of_gymnasium(robot, noise, normal):
    simulator = Simulator(tasks.get(robot), "v2", 500, threads=1)
    simulator.reset(np.random.default_rng(0))
    offset = simulator.qpos - gym_env(f"{GYM_NAMES[robot]}-v4").init_qpos
    assert 0.99 * noise < np.abs(offset).max() <= noise
    # A uniform's standard deviation is scale / sqrt(3); 5 % is over 4 sigma of 3000 or more draws.
    np.testing.assert_allclose(offset.std(), noise / np.sqrt(3), rtol=0.05)
    spread = noise if normal else noise / np.sqrt(3)
    np.testing.assert_allclose(simulator.qvel.std(), spread, rtol=0.05)
    assert (np.abs(simulator.qvel).max() > noise) == normal


def test_resets_repeat_by_seed_and_leave_others_alone(hopper):
    first, second = (Simulator(hopper, "v2", 4, threads=1) for _ in range(2))
    first.reset(np.random.default_rng(7))
    second.reset(np.random.default_rng(7))
    np.testing.assert_array_equal(first.qpos, second.qpos)
    np.testing.assert_array_equal(first.qvel, second.qvel)
    first.step(np.zeros((4, 3), np.float32))
    before = first.qpos.copy()
    which = np.array([False, True, False, True])
    first.reset(np.random.default_rng(8), which)
    np.testing.assert_array_equal(first.qpos[~which], before[~which])
    assert (first.qpos[which] != before[which]).any(axis=1).all()
    np.testing.assert_array_equal(first.elapsed, [1, 0, 1, 0])
    second.reset(np.random.default_rng(8))
    assert (second.qpos != before).any()


@pytest.mark.parametrize(("robot", "physics"), [("walker2d", "v2"), ("ant", "v5")])
def test_threads_do_not_change_bits(robot, physics):
    task, traces = tasks.get(robot), []
    for threads in (1, 2):
        simulator = Simulator(task, physics, 7, threads)
        generator = np.random.default_rng(0)
        simulator.reset(generator)
        for _ in range(20):
            rewards, _ = simulator.step(generator.uniform(-1, 1, (7, task.action_dim)))
        traces.append(np.concatenate([simulator.qpos, simulator.qvel, rewards[:, None]], axis=1))
    np.testing.assert_array_equal(*traces)


def test_simulators_are_independent_of_their_neighbours(hopper):
    # One simulator alone equals its copy among others: a transition has no other memory.
    generator = np.random.default_rng(0)
    many, one = Simulator(hopper, "v2", 5, threads=1), Simulator(hopper, "v2", 1, threads=1)
    many.reset(generator)
    one.set_states(many.qpos[3:4], many.qvel[3:4])
    for _ in range(30):
        actions = generator.uniform(-1, 1, (5, 3)).astype(np.float32)
        many.step(actions)
        one.step(actions[3:4])
        np.testing.assert_array_equal(many.qpos[3], one.qpos[0])
        np.testing.assert_array_equal(many.qvel[3], one.qvel[0])


def test_a_task_can_stand_in_a_file(tmp_path):
    path = tmp_path / "plant.py"
    path.write_text(
        "import dataclasses\nimport toys\nTANK = dataclasses.replace(toys.cart(), name='tank')\n"
    )
    path.write_text(
        "from __future__ import annotations\n"
        + path.read_text()
        + "@dataclasses.dataclass\nclass Pump:\n    power: float\n"
    )
    found = tasks.get(f"{path}:TANK")
    assert found.name == "tank"
    assert found.state_dim == 2
    assert tasks.short_name(f"{path}:TANK") == "tank"
    assert tasks.short_name("hopper") == "hopper"
    with pytest.raises(UserError, match="expected a TaskSpec called 'TNK' in .*, got TANK"):
        tasks.get(f"{path}:TNK")
    with pytest.raises(UserError, match="expected a Python file at"):
        tasks.get(f"{tmp_path / 'none.py'}:TANK")
    for bounds in (
        "action_low=(-1.0,), action_high=(1.0,)",
        "action_low=np.zeros(2), action_high=np.ones(2)",
        "action_low=np.ones(1), action_high=np.ones(1)",
        "action_low=np.zeros(1), action_high=np.full(1, np.inf)",
    ):
        path.write_text(f"import toys, numpy as np\nTANK = toys.cart({bounds})\n")
        with pytest.raises(
            UserError, match="arrays of 1 finite numbers, the lower below the upper"
        ):
            tasks.get(f"{path}:TANK")
    for wrong in ("dt=0.0", "dt=None", "max_episode_steps=0", "max_episode_steps=2.5"):
        path.write_text(
            f"import toys\nimport dataclasses\nTANK = dataclasses.replace(toys.cart(), {wrong})\n"
        )
        with pytest.raises(UserError, match=f"expected {wrong.partition('=')[0]}.* positive"):
            tasks.get(f"{path}:TANK")
    for told, words in (
        ("becomes=(0,)", "becomes with 2 numbers, got 1"),
        ("becomes=(-1, 3)", r"becomes with numbers from -1 to 2, got \(-1, 3\)"),
        ("given=(1,)", r"becomes\[i\] = i of each given i \(1,\), got becomes=\(\)"),
        ("given=(1,), becomes=(-1, 0)", "becomes\\[i\\] = i of each given i"),
        ("action_change=np.ones(1)", "action_change of all actions, and in becomes"),
        ("becomes=(-1, 2), action_change=np.ones(2)", "action_change of all actions"),
    ):
        path.write_text(
            "import toys, numpy as np\nimport dataclasses\n"
            f"TANK = dataclasses.replace(toys.cart(), {told})\n"
        )
        with pytest.raises(UserError, match=f"expected {words}"):
            tasks.get(f"{path}:TANK")
    path.write_text("import toys, numpy as np\nTANK = toys.cart(max_episode_steps=np.int64(7))\n")
    assert tasks.get(f"{path}:TANK").max_episode_steps == 7
    path.write_text(
        "import toys\nimport dataclasses\n"
        "TANK = dataclasses.replace(toys.cart(), action_names=('v',))\n"
    )
    with pytest.raises(UserError, match="different names, got v twice"):
        tasks.get(f"{path}:TANK")
    path.write_text("raise RuntimeError('no licence')")
    with pytest.raises(UserError, match="fails when it is run: no licence"):
        tasks.get(f"{path}:TANK")
