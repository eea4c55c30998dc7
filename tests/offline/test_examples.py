import importlib.util
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from offline_tf.datasets.formats import table_rows

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
