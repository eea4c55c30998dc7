"""Two run folders compared: what differs is named, what means nothing is not."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf.run_folder import comparison
from offline_tf.types import UserError


def run(folder):
    """A finished run of two stages, one of which has a fit."""
    record = toys.record(folder)
    for name, number in (("clone_0.1", 1.0), ("planning", 2.0)):
        stage = record.stage(name)
        stage.track([tf.Variable([number, np.nan])])
        stage.log(1, {"loss": 0.5, "decision_ms": 3.0})
        stage.save(1)
        stage.finish({"loss": 0.5, "nested": {"x": float("nan")}})
    module = tf.Module()
    module.weights = tf.Variable([1.0, 2.0])
    tf.saved_model.save(module, str(folder / "export"))
    (folder / "export" / "policy.tflite").write_bytes(b"weights")
    policy(folder, np.arange(3.0), "abc")
    (folder / "summary.json").write_text(json.dumps({"promise": 7.0, "wall_seconds": 1.0}))
    return folder


def policy(folder, kernel, commit, seed=0):
    (folder / "policies").mkdir(exist_ok=True)
    about = json.dumps({"seed": seed, "commit": commit, "command": f"train in {folder}"})
    np.savez(folder / "policies" / "20480.npz", kernel=kernel, about=about, name="relu")


@pytest.fixture
def two(tmp_path):
    first = run(tmp_path / "first")
    shutil.copytree(first, tmp_path / "second")
    return first, tmp_path / "second"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_runs_made_apart_are_equal(tmp_path):
    assert comparison.differences(run(tmp_path / "a"), run(tmp_path / "b")) == []


def test_parts_stand_in_the_order_in_which_they_ended(two):
    assert comparison.parts_of(two[0]) == ["clone_0.1", "planning"]


def test_what_may_differ_is_not_told(two):
    _, second = two
    edit(second / "metrics" / "planning.csv", ",3", ",9")  # milliseconds
    edit(second / "summary.json", '"wall_seconds": 1.0', '"wall_seconds": 2.0')
    (second / "export" / "saved_model.pb").write_bytes(b"other names of nodes")
    content = json.loads((second / "stages" / "planning.json").read_text())
    (second / "stages" / "planning.json").write_text(json.dumps(content | {"seconds": 99.0}))
    policy(second, np.arange(3.0), "def")
    assert comparison.differences(*two) == []


@pytest.mark.parametrize(
    ("kernel", "seed", "what"),
    [
        (np.array([0.0, 1.0, np.nextafter(2.0, 3.0)]), 0, "kernel"),
        (np.arange(3), 0, "kernel"),
        (np.arange(4.0), 0, "kernel"),
        (np.arange(3.0), 1, "about"),
    ],
)
def test_a_policy_that_differs_is_named(two, kernel, seed, what):
    policy(two[1], kernel, "abc", seed)
    ((stage, found),) = comparison.differences(*two)
    assert (stage, found) == ("policies", f"policies/20480.npz: {what}")


def test_a_weight_is_found_in_the_stage_that_it_is_of(two):
    stage = toys.record(two[1]).stage("planning")
    variable = tf.Variable([0.0, 0.0])
    stage.track([variable])
    stage.restore()
    variable.assign([np.nextafter(np.float32(2.0), np.float32(3.0)), np.nan])
    stage.save(1)
    (found,) = comparison.differences(*two)
    assert found.stage == "planning" and found.what == "checkpoints/planning: variables/0"


@pytest.mark.parametrize(
    ("file", "old", "new", "stage", "what"),
    [
        ("metrics/planning.csv", "0.5", "0.25", "planning", "metrics/planning.csv: loss at step 1"),
        ("metrics/clone_0.1.csv", "0.5", "1", "clone_0.1", "metrics/clone_0.1.csv: loss at step 1"),
        (
            "metrics/planning.csv",
            "1,0.5,3\n",
            "",
            "planning",
            "metrics/planning.csv: other columns or rows",
        ),
        ("stages/planning.json", "NaN", "1.0", "planning", "stages/planning.json: result.nested.x"),
        ("summary.json", "7.0", "8.0", "summary", "summary.json: promise"),
        ("export/policy.tflite", "w", "W", "export", "export/policy.tflite"),
    ],
)
def test_a_difference_is_named(two, file, old, new, stage, what):
    edit(two[1] / file, old, new)
    assert comparison.differences(*two) == [(stage, what)]


def test_what_one_run_lacks_is_named(two):
    shutil.rmtree(two[1] / "export")
    (two[1] / "stages" / "planning.json").unlink()
    found = comparison.differences(*two)
    assert ("planning", "stages/planning.json: in one of them only") in found
    assert ("export", "export/policy.tflite: in one of them only") in found


def test_a_weight_of_an_export_is_found(two):
    module = tf.Module()
    module.weights = tf.Variable([1.0, np.nextafter(np.float32(2.0), np.float32(3.0))])
    tf.saved_model.save(module, str(two[1] / "export"))
    assert comparison.differences(*two) == [("export", "export/variables/variables: weights")]


def test_an_unfinished_run_is_refused(two):
    (two[1] / "summary.json").unlink()
    with pytest.raises(UserError, match=r"expected a finished run with summary\.json"):
        comparison.differences(*two)
