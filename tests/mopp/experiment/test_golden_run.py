"""A run folder as version 0.1.0 wrote it; golden/run_mopp/manifest.json has its flags and commit."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mopp_tf.experiment import restore
from mopp_tf.experiment.configs import from_manifest
from offline_tf import tasks
from offline_tf.run_folder.record import RunRecord

FOLDER = pathlib.Path(__file__).parents[2] / "golden" / "run_mopp"
# Sums of absolute weights, as read by the code that wrote the folder.
WEIGHTS = {"behavior": 90.21980627975427, "dynamics": 627.8142090813199, "q": 62.33395795326214}


def test_its_models_and_planner_are_those_that_were_written(tmp_path):
    record = RunRecord.open_existing(shutil.copytree(FOLDER, tmp_path / "run"))
    configs, task = from_manifest(record.manifest), tasks.get("hopper")
    learned = restore.load(configs, task, record)
    for name, part in learned.models._asdict().items():
        total = sum(np.abs(weight.numpy(), dtype=np.float64).sum() for weight in part.weights)
        assert total == pytest.approx(WEIGHTS[name], rel=1e-12), name
    assert learned.limit == 6.016048431396484
    assert learned.scale.scale == 4.187169313430786
    planner = restore.make_planner(task, configs=configs, learned=learned)
    # It is older than the judge, and than rules for what these are.
    assert (planner.knobs.plan, planner.knobs.sigma_max) == ("always", 0.25)
    start = tf.zeros([2, task.state_dim])
    decision = planner.decide(start, planner.initial_plan(start), tf.constant([0, 1]))
    assert decision.action.shape == (2, task.action_dim)
    assert np.isfinite(decision.action).all()
