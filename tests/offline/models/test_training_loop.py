"""The one training loop: what it runs, what it logs, and what a kill or a divergence leaves."""

import functools
import shutil

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf.models import fitting, minibatches, training_loop
from offline_tf.models.early_stopping import EarlyStopping
from offline_tf.run_folder import stopping
from offline_tf.types import UserError

INPUTS = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
TARGETS = INPUTS @ np.array([[1.0], [-2.0]], np.float32)
ROWS = np.arange(32)


def rates(steps, total):
    """Learning rate 1, 2, 3, .. of the steps."""
    del total
    return (1.0 + steps).astype(np.float32)


def drawn(done, count):
    """Minibatches [count, 2, 4]; their streams are named by the steps done."""
    generators = [np.random.default_rng([member, done]) for member in range(2)]
    return minibatches.drawn_batches(generators, len(ROWS), count, 4)


def shuffled(epoch):
    streams = [np.random.default_rng([epoch, member]) for member in range(2)]
    return minibatches.shuffled_batches(streams, len(ROWS), 5)


SCHEDULES = {
    "epochs": training_loop.by_epochs(4, shuffled, functools.partial(fitting.cosine, 0.05, 0.1)),
    "steps": training_loop.by_steps(18, 5, drawn, functools.partial(fitting.cosine, 0.1, 0.0)),
}


def linear(stage, schedule, factor=0.05, steps_per_call=3, **named):
    """Fits two linear models by least squares; returns their weights."""
    weights = [tf.Variable(tf.fill([2, 1], 0.1 * member)) for member in range(2)]

    def loss(batches):
        return [
            factor * tf.reduce_mean(tf.square(x @ w - y))
            for w, (x, y) in zip(weights, batches, strict=True)
        ]

    optimiser = fitting.Fit(weights, loss=loss)
    stage.track([*weights, *optimiser.adam.moments])
    feed = minibatches.Feed(lambda rows: (INPUTS[rows], TARGETS[rows]), ROWS)
    done = training_loop.fit(
        optimiser,
        feed=lambda done: feed,
        schedule=schedule,
        report=lambda done, losses: {"loss": training_loop.mean_loss(losses)},
        stage=stage,
        steps_per_call=steps_per_call,
        **named,
    )
    return weights, done


def metrics(record, name="x"):
    return (record.folder / "metrics" / f"{name}.csv").read_text()


def test_epochs_go_through_the_rows_and_number_their_steps_throughout():
    schedule = training_loop.by_epochs(3, lambda epoch: np.full((4, 2, 5), epoch), rates)
    assert (schedule.total, schedule.unit) == (3, "epochs")
    block = schedule.block(2)
    assert block.units == 1
    np.testing.assert_array_equal(block.rows, np.full((4, 2, 5), 2))
    np.testing.assert_array_equal(block.learning_rates, [9.0, 10.0, 11.0, 12.0])


def test_steps_come_in_blocks_and_the_last_one_is_what_is_left():
    schedule = training_loop.by_steps(
        11, 4, lambda done, count: np.full((count, 1, 2), done), rates
    )
    assert (schedule.total, schedule.unit) == (11, "steps")
    assert [schedule.block(done).units for done in (0, 4, 8)] == [4, 4, 3]
    np.testing.assert_array_equal(schedule.block(8).rows, np.full((3, 1, 2), 8))
    np.testing.assert_array_equal(schedule.block(8).learning_rates, [9.0, 10.0, 11.0])


def test_rows_are_drawn_with_replacement_by_their_chances():
    cumulative = np.cumsum([0.25, 0.0, 0.75])
    generators = [np.random.default_rng(seed) for seed in range(2)]
    rows = minibatches.drawn_batches(generators, 3, 500, 4, cumulative)
    assert rows.shape == (500, 2, 4) and rows.dtype == np.int32
    # 4000 draws: standard error sqrt(0.25 * 0.75 / 4000) = 0.007.
    np.testing.assert_allclose(np.bincount(rows.ravel()) / 4000, [0.25, 0.0, 0.75], atol=0.03)
    assert (rows[:, 0] != rows[:, 1]).any()
    alike = minibatches.drawn_batches([np.random.default_rng(0)], 3, 500, 8)
    np.testing.assert_allclose(np.bincount(alike.ravel()) / 4000, np.full(3, 1 / 3), atol=0.03)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_fit_is_adam_on_the_schedules_rows_at_its_rates(tmp_path, kind):
    schedule, record = SCHEDULES[kind], toys.record(tmp_path / "run")
    weights, done = linear(record.stage("x"), schedule)
    assert done == schedule.total
    expected = [np.full((2, 1), 0.1 * member) for member in range(2)]
    first, second, step, losses = [0.0, 0.0], [0.0, 0.0], 0, []
    at = 0
    while at < schedule.total:
        units, rows, learning_rates = schedule.block(at)
        at += units
        of_block = []
        for batch, rate in zip(rows, learning_rates, strict=True):
            step += 1
            for m in range(2):
                x, y = INPUTS[batch[m]].astype(float), TARGETS[batch[m]].astype(float)
                error = x @ expected[m] - y
                of_block.append(0.05 * np.square(error).mean())
                gradient = 0.05 * 2 * x.T @ error / len(x)
                first[m] = 0.9 * first[m] + 0.1 * gradient
                second[m] = 0.999 * second[m] + 0.001 * np.square(gradient)
                scale = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                expected[m] = expected[m] - rate * scale * first[m] / (np.sqrt(second[m]) + 1e-8)
        losses.append((at, of_block))
    for weight, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-3, atol=1e-4)
    table = np.loadtxt(metrics(record).splitlines()[1:], delimiter=",")
    np.testing.assert_array_equal(table[:, 0], [at for at, _ in losses])
    if kind == "epochs":  # two calls of three steps: the mean of means is the mean
        wanted = [np.mean(of_block) for _, of_block in losses]
        np.testing.assert_allclose(table[:, 1], wanted, rtol=1e-3)


def test_how_many_steps_a_call_runs_decides_nothing(tmp_path):
    runs = [
        linear(toys.record(tmp_path / str(size)).stage("x"), SCHEDULES["epochs"], 0.05, size)[0]
        for size in (1, 4, 100)
    ]
    assert toys.bits(runs[0]) == toys.bits(runs[1]) == toys.bits(runs[2])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_fit_killed_again_and_again_ends_with_the_bits_of_an_unbroken_one(
    tmp_path, monkeypatch, kind
):
    schedule, whole = SCHEDULES[kind], toys.record(tmp_path / "whole")
    expected = toys.bits(linear(whole.stage("x"), schedule)[0])
    # In the first block; after the second one's log, before its checkpoint; before the next log.
    for method, call in (("progress", 1), ("save", 2), ("log", 2)):
        stage = toys.record(tmp_path / "broken").stage("x")
        with monkeypatch.context() as patch, pytest.raises(toys.Killed):
            patch.setattr(type(stage), method, toys.dying(getattr(type(stage), method), call))
            linear(stage, schedule)
    broken = toys.record(tmp_path / "broken")
    assert toys.bits(linear(broken.stage("x"), schedule)[0]) == expected
    assert metrics(broken) == metrics(whole)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("killed", [False, True])
def test_a_fit_stopped_within_a_block_goes_on_from_there(tmp_path, monkeypatch, kind, killed):
    """Asked to stop at every call, it takes up each where it was; killed after, it ends alike."""
    whole = toys.record(tmp_path / "whole")
    expected, done = linear(whole.stage("x"), SCHEDULES[kind], steps_per_call=2)
    cut = toys.record(tmp_path / "cut")
    starts, ran = [], fitting.Fit.run
    calls = []

    def run(self, arrays, rows, rates, batch_size):
        calls.append(len(rows))
        return ran(self, arrays, rows, rates, batch_size)

    monkeypatch.setattr(fitting.Fit, "run", run)
    for attempt in range(100):
        monkeypatch.setattr(training_loop.stopping, "_asked", stopping.Stopped("now", 130))
        if killed and attempt % 3 == 2:  # stopped nowhere, and lost after one call
            monkeypatch.setattr(training_loop.stopping, "_asked", None)
            monkeypatch.setattr(fitting.Fit, "run", lambda *_: 1 / 0)
        try:
            found, found_done = linear(cut.stage("x"), SCHEDULES[kind], steps_per_call=2)
            break
        except (stopping.Stopped, ZeroDivisionError):
            starts.append(len(calls))
            monkeypatch.setattr(fitting.Fit, "run", run)
    assert found_done == done
    assert toys.bits(found) == toys.bits(expected)
    assert metrics(cut) == metrics(whole)
    assert sum(calls) == 18 if kind == "steps" else sum(calls) == 4 * 6
    assert not list((cut.folder / "checkpoints").glob("*.stopped"))


def test_what_was_saved_within_a_block_is_left_alone_once_it_is_old(tmp_path, monkeypatch):
    record = toys.record(tmp_path / "run")
    schedule = SCHEDULES["steps"]
    monkeypatch.setattr(training_loop.stopping, "_asked", stopping.Stopped("now", 130))
    with pytest.raises(stopping.Stopped):
        linear(record.stage("x"), schedule, steps_per_call=2)
    within = record.folder / "checkpoints" / "x.stopped"
    shutil.copytree(within, tmp_path / "kept")
    monkeypatch.setattr(training_loop.stopping, "_asked", None)
    expected, _ = linear(record.stage("x"), schedule, steps_per_call=2)
    shutil.copytree(tmp_path / "kept", within)  # as if killed before it was taken away
    found, _ = linear(record.stage("x"), schedule, steps_per_call=2)
    assert toys.bits(found) == toys.bits(expected)
    (data,) = within.glob("*.data*")
    data.write_bytes(data.read_bytes()[:7])
    found, _ = linear(record.stage("x"), schedule, steps_per_call=2)
    assert toys.bits(found) == toys.bits(expected)


def test_a_fit_that_diverges_keeps_the_checkpoint_before(tmp_path):
    """The last two of six rates are infinite."""
    table = np.float32([0.1, 0.1, 0.1, 0.1, np.inf, np.inf])
    bad = training_loop.by_steps(6, 2, drawn, lambda steps, total: table[steps])
    good = training_loop.by_steps(4, 2, drawn, lambda steps, total: table[steps])
    record = toys.record(tmp_path / "run")
    with pytest.raises(UserError, match="^x: .* not finite within 6 steps; .* lower --some_rate"):
        linear(record.stage("x"), bad, rate_flag="some_rate")
    assert [line.split(",")[0] for line in metrics(record).splitlines()[1:]] == ["2", "4"]
    kept, done = linear(record.stage("x"), good)
    assert done == 4
    alone, _ = linear(toys.record(tmp_path / "alone").stage("x"), good)
    assert toys.bits(kept) == toys.bits(alone)


def test_a_fit_ends_where_it_is_told_to(tmp_path):
    record = toys.record(tmp_path / "run")
    _, done = linear(record.stage("x"), SCHEDULES["steps"], is_over=lambda done: done >= 10)
    assert done == 10
    assert [line.split(",")[0] for line in metrics(record).splitlines()[1:]] == ["5", "10"]


def test_early_stopping_keeps_the_weights_of_the_lowest_loss():
    weight = tf.Variable(0.0)
    stopping = EarlyStopping([weight], patience=20)
    over = []
    for done, loss in ((10, 5.0), (20, 3.0), (30, 3.0), (40, float("nan"))):
        weight.assign(float(done))
        stopping.note(done, loss)
        over.append(stopping.is_over(done))
    assert over == [False, False, False, True]
    assert stopping.take_best(40, "x") == 20 and float(weight) == 20.0
    best, loss, step = stopping.variables  # their order is that of checkpoints
    assert (float(best), float(loss), int(step)) == (20.0, 3.0, 20)


def test_without_patience_nothing_is_kept_and_nothing_ends_early():
    weight = tf.Variable(7.0)
    stopping = EarlyStopping([weight], patience=0)
    stopping.note(10, 1.0)
    assert not stopping.is_over(10**6)
    assert stopping.take_best(30, "x") == 30 and float(weight) == 7.0
    assert [v.numpy() for v in stopping.variables] == [np.inf, 0]


def test_patience_without_a_finite_loss_is_an_error():
    stopping = EarlyStopping([tf.Variable(0.0)], patience=10)
    stopping.note(10, float("nan"))
    with pytest.raises(RuntimeError, match="x: the held-out loss was never a finite number"):
        stopping.take_best(10, "x")
