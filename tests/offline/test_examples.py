import importlib
import importlib.util
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from examples import closed_loop
from offline_tf.datasets.formats import plant_logs, table_rows
from offline_tf.tasks.plants import plant_file

PATH = pathlib.Path(__file__).parents[2] / "examples" / "tank.py"


@pytest.fixture(scope="module")
def tank():
    spec = importlib.util.spec_from_file_location("tank", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Constant(tf.Module):
    def __init__(self, pump):
        super().__init__()
        self.pump = pump

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "observation")])
    def act(self, observation):
        return {"action": self.pump + 0.0 * observation[:, :1]}


def test_the_tanks_log_holds_what_its_equations_say(tank, tmp_path):
    tank.main(tmp_path / "tank.csv", batches=3)
    data = table_rows.read([tmp_path / "tank.csv"], tank.TANK)
    demand = data.next_observations[:, 2]
    for row in range(0, len(data), 37):
        following = tank.step(data.observations[row], float(data.actions[row, 0]), 0.0)
        np.testing.assert_allclose(data.next_observations[row, :2], following[:2], atol=2e-6)
    assert (demand >= 0.1).all() and (demand <= 0.9).all()
    assert len(data.episode_bounds()) == 3


def test_an_export_is_judged_in_the_tanks_equations(tank, tmp_path):
    found = {}
    for pump in (0.0, 1.0):
        model = Constant(pump)
        tf.saved_model.save(model, str(tmp_path / str(pump)), {"serving_default": model.act})
        found[pump] = tank.judge(tmp_path / str(pump), batches=10)
    assert found[1.0][1] == 10 and found[0.0][1] == 0  # a pump that never rests floods the tank
    # Without water the level is 0 and nothing is pumped: 1 - 4 * 0.5 in every step once it is dry.
    assert -200.0 < found[0.0][0] < -100.0


class Tank:
    """A plant by hand: the level moves by the valve; it trips above 3."""

    def __init__(self, level):
        self.level, self.tripped = level, False
        self.action_before = np.zeros(1, np.float32)

    def measured(self):
        return np.array([self.level, 2.0])

    def step(self, action):
        self.level += float(action[0])
        self.tripped = self.level > 3.0


def loop_task(**changes):
    content = {
        "name": "tank",
        "step_seconds": 1.0,
        "max_episode_steps": 3,
        "history": 2,
        "log": {"time": "t"},
        "observations": [{"name": "level"}, {"name": "wanted"}],
        "actions": [{"name": "valve", "low": -1.0, "high": 1.0}],
        "reward": {"expression": "-abs(level - wanted) - 0.5 * abs(valve - before(valve))"},
    }
    return plant_file.task_of(content | changes, "here")


class Steps:
    """Acts by a list, the same for all."""

    def __init__(self, actions):
        self._actions = actions

    def reset(self):
        self._left = list(self._actions)

    def act(self, observation):
        return np.full((len(observation), 1), self._left.pop(0), np.float32)


def test_the_loop_pays_until_a_trip_and_remembers_the_action_before():
    plants = [Tank(0.0), Tank(2.5)]
    judged = closed_loop.run(loop_task(), plants, Steps([5.0, 0.5, 0.5]))  # the first is cut to 1
    # 1, 1.5, 2 from 0: -1 -0.5 (moved by 1), -0.5 -0.25, 0; from 2.5 the first step trips.
    np.testing.assert_allclose(judged.returns, [-1.5 - 0.75 + 0.0, -1.5 - 0.5])
    assert judged.trips == 1
    np.testing.assert_allclose(judged.actions[:, 0, 0], [1.0, 0.5, 0.5])
    assert np.isnan(judged.actions[1:, 1]).all() and np.isnan(judged.measured[1:, 1]).all()


def test_a_step_tests_constants_are_those_of_the_process():
    """1 - exp(-(t - 3) / 10) after three dead steps, of a gain of -2 and a step of 0.5."""
    times = np.arange(200.0)
    answer = 7.0 - np.where(times > 3, 1.0 - np.exp(-(times - 3.0) / 10.0), 0.0)
    found = closed_loop.StepTest.of(answer, 0.5)
    assert found.gain == pytest.approx(-2.0, rel=1e-3)
    assert found.time_steps == pytest.approx(10.0, abs=1.0)
    assert found.dead_steps == pytest.approx(3.0, abs=1.0)
    gain, integral = closed_loop.StepTest(-2.0, 10.0, 3.0).simc()
    assert gain == pytest.approx(10.0 / (-2.0 * 6.0)) and integral == 10.0
    assert closed_loop.StepTest(1.0, 100.0, 2.0).simc()[1] == 16.0


def test_the_pi_leaves_no_offset_and_does_not_wind_up():
    task = loop_task(max_episode_steps=60)
    pi = closed_loop.PI(
        task,
        controlled="level",
        wanted="wanted",
        gain=0.3,
        integral_steps=8.0,
        resting=lambda wanted: 0.0 * wanted,
    )

    class Leaking(Tank):
        def step(self, action):
            super().step(action - 0.05)

    judged = closed_loop.run(task, [Leaking(0.0), Leaking(1.9)], pi)
    assert judged.trips == 0
    np.testing.assert_allclose(judged.measured[-1, :, 0], 2.0, atol=0.02)


@pytest.mark.parametrize(
    ("name", "package"), [("reactor", "pcgym"), ("drive", "gym_electric_motor")]
)
def test_a_plants_description_reads_its_own_log(tmp_path, name, package):
    pytest.importorskip(package)
    plant = importlib.import_module(f"examples.{name}")
    length = {"reactor": {"days": 0.05}, "drive": {"seconds": 24.0}}[name]
    plant.write_log(tmp_path / "log.csv", **length)
    task = plant_file.read(plant.DESCRIPTION)
    data = plant_logs.read([tmp_path / "log.csv"], task)
    assert len(data) > 200 and np.isfinite(data.observations).all()
    assert (data.rewards <= 0).all() and data.actions.std() > 0
    judged = plant.judge(plant.controllers()["PI (SIMC)"], episodes=2)
    assert np.isfinite(judged.returns).all()
