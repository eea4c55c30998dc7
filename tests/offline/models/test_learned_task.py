"""Learned reward and termination against functions that are known."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf.models import learned_task
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Transitions

BOUND = 2.0
KNOWN = toys.cart(bound=BOUND)
PLANT = dataclasses.replace(KNOWN, reward=None, termination=None)


def logged(count=8000, seed=0):
    """Single steps from states on both sides of the bound."""
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(count, 2)).astype(np.float32)
    actions = generator.uniform(-1, 1, size=(count, 1)).astype(np.float32)
    following = (states + toys.change(states, actions)).astype(np.float32)
    terminals = np.abs(following[:, 0]) > BOUND
    paid = np.asarray(toys.reward(states, actions, following), np.float32)
    return Transitions(states, actions, paid, following, terminals, ~terminals)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    record = RunRecord.create_or_continue(tmp_path_factory.mktemp("run"), "morel", {}, ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_task, "_STEPS", 1000)
        patch.setattr(learned_task, "_BATCH", 256)
        return learned_task.complete(PLANT, logged(), 0, record), record


def test_the_learned_functions_are_those_that_made_the_data(run):
    task, record = run
    fresh = logged(2000, seed=1)
    given = tuple(map(tf.constant, (fresh.observations, fresh.actions, fresh.next_observations)))
    paid = task.reward(*given, "v2")
    assert paid.shape == (2000,)
    error = np.sqrt(np.mean((paid.numpy() - fresh.rewards) ** 2))
    assert error < 0.05 * fresh.rewards.std()
    called = task.termination(given[2]).numpy()
    assert called.dtype == bool
    # Off the bound by more than the classifier can be expected to place it.
    clear = np.abs(np.abs(fresh.next_observations[:, 0]) - BOUND) > 0.1
    np.testing.assert_array_equal(called[clear], fresh.terminals[clear])
    report = learned_task.errors(record)
    assert report["learned_reward_error"] < 0.05
    assert report["learned_terminal_recall"] > 0.9
    assert report["learned_terminal_precision"] > 0.8


def test_a_run_folder_gives_the_same_functions_back(run):
    task, record = run
    again = learned_task.of_run(PLANT, 0, RunRecord.open_existing(record.folder))
    fresh = logged(100, seed=2)
    given = tuple(map(tf.constant, (fresh.observations, fresh.actions, fresh.next_observations)))
    np.testing.assert_array_equal(again.reward(*given, ""), task.reward(*given, ""))
    np.testing.assert_array_equal(again.termination(given[2]), task.termination(given[2]))
    inside = tf.function(lambda s, a, n: (task.reward(s, a, n, ""), task.termination(n)))
    np.testing.assert_allclose(inside(*given)[0], task.reward(*given, ""), atol=1e-5)


def test_what_a_task_declares_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(learned_task, "_STEPS", 10)
    record = RunRecord.create_or_continue(tmp_path / "run", "morel", {}, ())
    assert learned_task.complete(KNOWN, logged(100), 0, record) is KNOWN
    assert learned_task.errors(record) == {}
    half = learned_task.complete(
        dataclasses.replace(PLANT, termination=KNOWN.termination), logged(500), 0, record
    )
    assert half.termination is KNOWN.termination
    assert half.reward is not None


def test_rows_that_lead_nowhere_known_are_not_learned_from(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(learned_task, "_STEPS", 10)
    data = toys.unrecorded(logged(500))
    unknown = ~data.next_known
    assert 0 < unknown.sum() == data.terminals.sum()
    poisoned = dataclasses.replace(
        data,
        observations=np.where(unknown[:, None], np.float32(1e6), data.observations),
        actions=np.where(unknown[:, None], np.float32(-1e6), data.actions),
        rewards=np.where(unknown, np.float32(1e6), data.rewards),
    )
    found = []
    for name, rows in (("clean", data), ("poisoned", poisoned)):
        record = RunRecord.create_or_continue(tmp_path / name, "morel", {}, ())
        task = learned_task.complete(PLANT, rows, 0, record)
        fresh = tuple(map(tf.constant, (logged(50).observations, logged(50).actions)))
        found.append(task.reward(*fresh, fresh[0], "").numpy())
        # What a terminal state looks like is nowhere in these data.
        assert not task.termination(tf.constant(logged(500).next_observations)).numpy().any()
        assert learned_task.errors(record)["learned_terminal_recall"] is None
    np.testing.assert_array_equal(*found)
    count = int(unknown.sum())
    assert f"{count} of {count} terminal states were not recorded" in caplog.text


def test_without_terminals_nothing_is_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(learned_task, "_STEPS", 10)
    data = logged(500)
    never = dataclasses.replace(data, terminals=np.zeros(500, bool), timeouts=np.ones(500, bool))
    record = RunRecord.create_or_continue(tmp_path / "run", "morel", {}, ())
    task = learned_task.complete(PLANT, never, 0, record)
    assert not task.termination(tf.constant(data.next_observations)).numpy().any()
    assert learned_task.errors(record)["learned_terminal_recall"] is None
