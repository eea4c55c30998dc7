import gymnasium
import numpy as np
import pytest
import toys

from offline_tf import collect, tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.simulated import collection
from offline_tf.evaluation import policy_episodes
from offline_tf.policies.gaussian import NumpyPolicy, raw_units
from offline_tf.tasks import environments
from offline_tf.types import UserError


def linear(task, gain=0.3):
    kernel = gain * np.ones((task.state_dim, task.action_dim), np.float32)
    layers = ((kernel, np.zeros(task.action_dim, np.float32)),)
    return NumpyPolicy(raw_units(task), layers, np.full(task.action_dim, -1.0, np.float32))


def test_a_gymnasium_id_is_a_task_whose_outcome_is_learned():
    task = tasks.get("Pendulum-v1")
    assert (task.state_dim, task.action_dim, task.max_episode_steps) == (3, 1, 200)
    np.testing.assert_array_equal([task.action_low[0], task.action_high[0]], [-2.0, 2.0])
    assert task.reward is None and task.termination is None and task.dt == pytest.approx(0.05)
    assert tasks.short_name("Pendulum-v1") == "pendulum-v1"
    assert environments.physics_of(task, "v2") == "gymnasium Pendulum-v1"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CartPole-v1", "action space"),
        ("Nothing-v7", "cannot make"),
        ("nowhere:Plant-v0", "cannot make"),
        ("Hopper-v4", "--env=hopper --physics=v4"),
        ("Blackjack-v1", "vectors"),
        ("hoper", "did you mean 'hopper'"),
    ],
)
def test_what_does_not_fit_is_named(name, words):
    with pytest.raises(UserError, match=words):
        tasks.get(name)


def test_the_environment_is_stepped_as_gymnasium_steps_it():
    task = tasks.get("Pendulum-v1")
    simulator = environments.make_simulator(task, "v2", 3)
    simulator.reset(np.random.default_rng(0))
    seeds = np.random.default_rng(0)
    twins = [gymnasium.make("Pendulum-v1").unwrapped for _ in range(3)]
    for twin in twins:
        twin.reset(seed=int(seeds.integers(2**31)))
    actions = np.random.default_rng(1).uniform(-2, 2, (20, 3, 1)).astype(np.float32)
    for action in actions:
        rewards, terminated = simulator.step(action)
        expected = [twin.step(a.astype(float)) for twin, a in zip(twins, action, strict=True)]
        np.testing.assert_allclose(simulator.observations(), [e[0] for e in expected])
        np.testing.assert_allclose(rewards, [e[1] for e in expected])
        assert not terminated.any()
    assert not simulator.has_states and simulator.qpos.shape == (3, 0)
    kept = simulator.observations()
    simulator.reset(np.random.default_rng(5), np.array([False, True, False]))
    moved = np.abs(simulator.observations() - kept).max(axis=1)
    np.testing.assert_array_equal(moved > 0, [False, True, False])
    np.testing.assert_array_equal(simulator.elapsed, [20, 0, 20])


class _Cut(gymnasium.Env):
    """Ends its episodes after twenty steps without having said so."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    metadata = {"render_fps": 10}

    def reset(self, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 0.0, False, self.steps >= 20, {}


@pytest.mark.parametrize("limit", [None, 20])
def test_an_episode_that_the_environment_cuts_ends_there(limit):
    name = f"Cut{limit or ''}-v0"
    gymnasium.register(name, entry_point=_Cut, max_episode_steps=limit)
    simulator = environments.make_simulator(tasks.get(name), "v2", 1)
    simulator.reset(np.random.default_rng(0))
    for _ in range(19):
        simulator.step(np.zeros((1, 1)))
    assert simulator.elapsed[0] == 19
    assert not simulator.step(np.zeros((1, 1)))[1].any()
    assert simulator.elapsed[0] == simulator.task.max_episode_steps
    found = policy_episodes.evaluate(
        linear(simulator.task),
        task=simulator.task,
        physics="v2",
        episodes=3,
        stochastic=False,
        seed=0,
        name="cut",
    )
    np.testing.assert_array_equal(found.lengths, [20, 20, 20])
    data = collection.collect(
        simulator.task, physics="v2", policy=None, exploration="random", num_steps=50, seed=0
    ).transitions
    lengths = np.diff(np.flatnonzero(data.timeouts), prepend=-1)  # in random order
    assert sorted(lengths) == [10, 20, 20]
    assert not data.terminals.any()


def test_robots_of_gymnasium_can_be_put_into_a_state():
    task = tasks.get("InvertedPendulum-v5")
    simulator = environments.make_simulator(task, "v2", 2)
    simulator.reset(np.random.default_rng(0))
    qpos, qvel = np.array([[0.1, 0.05], [0.0, -0.02]]), np.array([[0.0, 0.1], [0.2, 0.0]])
    simulator.set_states(qpos, qvel)
    np.testing.assert_allclose(simulator.qpos, qpos)
    np.testing.assert_allclose(simulator.observations(), np.concatenate([qpos, qvel], axis=1))


def test_collect_and_evaluate_in_a_gymnasium_environment(tmp_path):
    path = tmp_path / "pendulum.hdf5"
    collect.main(
        collect.CollectConfig(
            env="Pendulum-v1", exploration="random", num_steps=450, output=str(path)
        )
    )
    task = tasks.get("Pendulum-v1")
    data = d4rl.read(path, 3)
    assert len(data) == 450 and data.qpos is None
    np.testing.assert_array_equal(data.episode_bounds(), [[0, 200], [200, 400], [400, 450]])
    angles = data.observations[:, :2]
    np.testing.assert_allclose(np.square(angles).sum(axis=1), 1.0, rtol=1e-5)
    found = policy_episodes.evaluate(
        linear(task),
        task=task,
        physics="v2",
        episodes=3,
        stochastic=False,
        seed=0,
        name="test",
        horizon=15,
    )
    assert (found.returns < 0).all() and (found.lengths == 15).all()


def test_the_original_simulators_are_asked_for_by_their_ids(monkeypatch):
    """mujoco_py itself runs under `./run.sh original-test`."""
    made = []

    class Fake:
        def make(self, name):
            made.append(name)
            return toys.OldGym()

    task = tasks.get("walker2d", "mujoco_py")
    monkeypatch.setattr(environments.importlib, "import_module", lambda name: Fake())
    simulator = environments.make_simulator(task, "v2", 2)
    simulator.reset(np.random.default_rng(0))
    rewards, terminated = simulator.step(np.zeros((2, 6), np.float32))
    assert made == ["Walker2d-v2"] * 2
    np.testing.assert_array_equal(rewards, [1.0, 1.0])
    np.testing.assert_array_equal(terminated, [True, True])
    simulator.set_states(np.ones((2, 9)), np.zeros((2, 9)))
    np.testing.assert_array_equal(simulator.qpos, np.ones((2, 9)))
    with pytest.raises(UserError, match="--physics=v2 only"):
        environments.make_simulator(task, "v4", 1)
    with pytest.raises(UserError, match="four robots"):
        environments.in_library(toys.cart(), "mujoco_py")


def test_without_the_original_tooling_one_line_says_what_is_missing(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'gym'")

    task = tasks.get("hopper", "mujoco_py")
    monkeypatch.setattr(environments.importlib, "import_module", absent)
    with pytest.raises(UserError, match="original-test") as caught:
        environments.make_simulator(task, "v2", 1)
    assert "\n" not in str(caught.value)
