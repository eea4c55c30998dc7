"""Forecasts by toy models whose steps are worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf import tasks
from offline_tf.datasets.formats import plant_logs
from offline_tf.export import saved_model
from offline_tf.pipeline import what_if
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Transitions, UserError

PLANT = """
name = "tank"
step_seconds = 10
max_episode_steps = 100
[log]
time = "when"
max_gap_seconds = 25
[[observations]]
name = "level"
resample = "last"
[[observations]]
name = "wanted"
resample = "last"
given = true
[[actions]]
name = "valve"
low = -1
high = 1
[reward]
expression = "-abs(level - wanted)"
"""


class Two(tf.Module):
    """Two models: the level rises by the valve, or by twice the valve; known below 3."""

    def forecast(self, state, action):
        level, wanted = state[:, :1], state[:, 1:]
        each = [tf.concat([level + gain * action, wanted], axis=1) for gain in (1.0, 2.0)]
        return {
            "next_state": tf.stack(each),
            "reward": tf.stack([-tf.abs(x[:, 0] - x[:, 1]) for x in each]),
            "terminated": tf.zeros([2, tf.shape(state)[0]], tf.bool),
            "known": level[:, 0] < 3.0,
            "disagreement": tf.abs(action[:, 0]),
        }

    def act(self, observation):
        return {"action": tf.clip_by_value(observation[:, 1:] - observation[:, :1], -1.0, 1.0)}

    def is_known(self, observation, action):
        return {"known": observation[:, 0] < 3.0, "disagreement": tf.abs(action[:, 0])}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a log of twelve steps with a silence after the eighth; wanted is 2, later 4."""
    folder = tmp_path_factory.mktemp("what-if")
    (folder / "plant.toml").write_text(PLANT)
    lines = ["when,level,wanted,valve"]
    for k in range(14):
        minute, second = divmod(10 * k + (600 if k > 8 else 0), 60)
        lines.append(f"2024-03-01T10:{minute:02d}:{second:02d},{k},{2 if k < 3 else 4},0.5")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    flags = {"env": str(folder / "plant.toml"), "dataset": str(folder / "log.csv")}
    record = RunRecord.create_or_continue(folder / "run", "morel", flags)
    state = tf.TensorSpec([None, 2], tf.float32, "state")
    seen = tf.TensorSpec([None, 2], tf.float32, "observation")
    action = tf.TensorSpec([None, 1], tf.float32, "action")
    module = Two()
    made = {
        "forecast": tf.function(module.forecast).get_concrete_function(state, action),
        "serving_default": tf.function(module.act).get_concrete_function(seen),
        "is_known": tf.function(module.is_known).get_concrete_function(seen, action),
    }
    saved_model.save(module, folder / "run" / "export", made, tasks.get(flags["env"]), "words")
    return record


def opened(run):
    from offline_tf.export import loaded

    return loaded.Deployed(run.folder), what_if.open_log(run)


def test_each_model_goes_its_own_way_and_set_points_follow_the_log(run):
    model, log = opened(run)
    row = what_if.row_of(log, "2024-03-01T10:00:10")
    assert row == 1 and what_if.moment_in_words(log, 1) == "2024-03-01T10:00:10"
    actions = np.array([[1.0], [0.5], [0.0]], np.float32)
    found = what_if.forecast(model, log, row=row, steps=3, actions=actions)
    np.testing.assert_allclose(found.states[:, 0, 0], [1, 2, 2.5, 2.5])
    np.testing.assert_allclose(found.states[:, 1, 0], [1, 3, 4, 4])
    np.testing.assert_allclose(found.states[:, 0, 1], [2, 2, 4, 4])  # wanted
    np.testing.assert_allclose(found.rewards[:, 1], [-1, 0, 0])  # beside what is wanted then
    assert found.known.tolist() == [True, False, False]
    np.testing.assert_allclose(found.disagreement, [1, 0.5, 0])
    np.testing.assert_allclose(found.logged_states[:, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(found.suggested[:, 0], [1, 0, 1])
    words = what_if.in_words(found, log)
    assert words[0] == "3 steps of 10 s: the models know 33 % of them"
    assert words[1] == "return -2.0, by single models -3.0 to -1.0"
    assert words[2].startswith("from step 1 on the forecast is a guess")


def test_what_is_asked_is_executed_within_the_bounds(run):
    model, log = opened(run)
    asked = np.array([[5.0], [-5.0]], np.float32)
    found = what_if.forecast(model, log, row=0, steps=2, actions=asked)
    assert found.actions[:, 0, 0].tolist() == [1.0, -1.0]
    np.testing.assert_allclose(found.states[:, 0, 0], [0, 1, 0])


def test_a_model_that_ends_earns_nothing_more(run):
    """Levels above 1.5 end an episode: the second model's at once, the other's in the second step."""
    model, log = opened(run)
    ending = dataclasses.replace(log.task, termination=lambda after: after[:, 0] > 1.5)
    found = what_if.forecast(
        model, log._replace(task=ending), row=0, steps=6, actions=np.ones((6, 1), np.float32)
    )
    assert len(found.rewards) == 2
    np.testing.assert_allclose(found.rewards, [[-1, 0], [0, 0]])


def test_a_run_on_data_made_here_has_no_log(run, tmp_path):
    record = RunRecord.create_or_continue(tmp_path / "r", "morel", {"env": "hopper", "dataset": ""})
    with pytest.raises(UserError, match="expected a run on data of yours"):
        what_if.open_log(record)


def test_the_controller_acts_in_the_models(run):
    model, log = opened(run)
    found = what_if.forecast(model, log, row=0, steps=4, actions=what_if.CONTROLLER)
    np.testing.assert_allclose(found.states[:, 0, 0], [0, 1, 2, 2, 3])
    np.testing.assert_allclose(found.states[:, 1, 0], [0, 2, 2, 2, 4])


def test_logged_actions_end_where_the_log_does(run):
    model, log = opened(run)
    found = what_if.forecast(model, log, row=2, steps=50, actions=what_if.LOGGED)
    # Eight rows at the regular distance, then the last value holds for two steps.
    assert len(found.known) == 8 and len(found.logged_actions) == 8
    np.testing.assert_allclose(found.actions, 0.5)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("yesterday", "--start: expected a time stamp such as 2024-03-01T10:00, got 'yesterday'"),
        ("2024-03-01T09:00", "no step at 2024-03-01T09:00; one near it is at 2024-03-01T10:00:00"),
        ("2024-03-01T10:05", "one near it is at 2024-03-01T10:11:30"),
        ("2025-01-01", "the log has no step at 2025-01-01; one near it is at 2024-03-01T10:12:00"),
    ],
)
def test_a_moment_without_a_step_is_told_with_the_next_one(run, start, words):
    _, log = opened(run)
    with pytest.raises(UserError) as error:
        what_if.row_of(log, start)
    assert words in str(error.value)


def test_actions_of_a_table(run, tmp_path):
    _, log = opened(run)
    (tmp_path / "plan.csv").write_text("step;valve\n0;0,5\n1;-0,25\n")
    found = what_if.actions_of(tmp_path / "plan.csv", log.task)
    assert found.tolist() == [[0.5], [-0.25]]
    (tmp_path / "other.csv").write_text("pump\n1\n2\n")
    with pytest.raises(UserError, match="--actions: .*other.csv lacks the columns valve"):
        what_if.actions_of(tmp_path / "other.csv", log.task)
    with pytest.raises(UserError, match="--actions: expected logged, controller or a table"):
        what_if.actions_of(Path("nowhere"), log.task)


def test_the_page_and_the_table_hold_what_was_forecast(run, tmp_path):
    model, log = opened(run)
    found = what_if.forecast(
        model, log, row=1, steps=2, actions=np.array([[1.0], [0.5]], np.float32)
    )
    what_if.write_table(tmp_path / "x.csv", found, log, 1)
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["time"] == "2024-03-01T10:00:20" and rows[1]["valve"] == "0.5"
    assert [float(rows[1][x]) for x in ("level", "level_low", "level_high")] == [3.25, 2.5, 4]
    assert [row["known"] for row in rows] == ["1", "0"]
    what_if.write_page(tmp_path / "x.html", found, log, "a plan")
    page = (tmp_path / "x.html").read_text()
    assert "the models know 50 % of them" in page and "<svg" in page


def test_data_without_stamps_begin_at_a_row():
    task = toys.cart()
    data = _rows()
    log = what_if.Log(task, data, np.arange(len(data), dtype=np.float64), False)
    assert what_if.row_of(log, "2") == 2 and what_if.moment_in_words(log, 2) == "2"
    assert what_if.row_of(log, "") == 0


def _rows():
    states = np.arange(8, dtype=np.float32).reshape(4, 2)
    flags = np.zeros(4, bool)
    return Transitions(
        states, np.zeros((4, 1), np.float32), np.zeros(4, np.float32), states + 2, flags, flags
    )


def test_times_of_a_log_are_those_of_its_steps(run):
    task = tasks.get(run.manifest["flags"]["env"])
    data, times = plant_logs.read_with_times([Path(run.manifest["flags"]["dataset"])], task)
    assert len(times) == len(data) and (np.diff(times) >= 10).all()
