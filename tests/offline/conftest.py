import pathlib

import numpy as np
import pytest

from offline_tf import tasks
from offline_tf.policies import gaussian
from offline_tf.run_folder.record import RunRecord

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "v2_transitions.npz"


@pytest.fixture(scope="session")
def golden():
    """robot -> column -> array of the transitions that gym 0.23.1 with mujoco-py recorded."""
    with np.load(GOLDEN) as file:
        columns = [name.split("/") for name in file.files if not name.endswith("/version")]
        robots = {robot: {} for robot, _ in columns}
        for robot, column in columns:
            robots[robot][column] = file[f"{robot}/{column}"]
    return robots


@pytest.fixture(scope="session")
def hopper():
    return tasks.get("hopper")


@pytest.fixture(scope="session")
def hopper_policy():
    return gaussian.load(gaussian.shipped("hopper"))[0]


@pytest.fixture
def record(tmp_path):
    return RunRecord.create_or_continue(tmp_path / "run", "toy", {"seed": 0})
