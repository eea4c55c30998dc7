"""A run folder as version 0.1.0 wrote it; golden/run_morel/manifest.json has its flags and commit."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from morel_tf.experiment import restore
from offline_tf.run_folder.record import RunRecord

FOLDER = pathlib.Path(__file__).parents[2] / "golden" / "run_morel"


@pytest.fixture
def record(tmp_path):
    return RunRecord.open_existing(shutil.copytree(FOLDER, tmp_path / "run"))


def test_its_controller_acts_and_detects_as_it_did(record):
    """The expected outputs were computed by the code that wrote the folder."""
    controller = restore.load_controller(record)
    expected = np.load(FOLDER / "expected.npz")
    observation, action = tf.constant(expected["observation"]), tf.constant(expected["action"])
    acted = controller.act(observation)["action"]
    np.testing.assert_allclose(acted, expected["out_action"], rtol=1e-5, atol=1e-6)
    known = controller.is_known(observation, action)
    np.testing.assert_allclose(known["disagreement"], expected["out_known_disagreement"], rtol=1e-4)
    np.testing.assert_array_equal(known["known"], expected["out_known_known"])


def test_its_stages_are_complete(record):
    names = {"data", "dynamics", "usad", "behavior_cloning", "planning", "evaluation", "export"}
    assert set(record.results()) == names
