import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import algorithm, config
from mopp_tf.models import behavior, rows, share, training
from offline_tf.numerics.holdout import Split

TASK = toys.cart()
UNITS = rows.Normalizer(toys.identity(2), toys.identity(1), toys.identity(3))


def graded(count=8, length=10):
    """Episodes whose number is their reward."""
    data = toys.transitions((length,) * count)
    paid = np.repeat(np.arange(float(count)), length).astype(np.float32)
    return dataclasses.replace(data, rewards=paid)


@pytest.mark.parametrize(
    ("given", "held_out", "expected"), [(None, 3, 5), (None, 0, 0), (2, 3, 2), (2, 0, 0), (0, 3, 0)]
)
def test_a_fit_ends_by_held_out_rows_where_there_are_some(given, held_out, expected):
    knobs = config.ModelConfig(patience=given)
    assert training.patience_of(knobs, Split(np.arange(5), np.arange(held_out))) == expected


def test_rows_of_other_episodes_are_never_drawn(tmp_path, monkeypatch):
    data = graded()
    knobs = algorithm.Knobs(
        config.ModelConfig(encoder_hidden=(4,), head_hidden=(4,), batch_size=64, holdout_share=0.0),
        config.DynamicsConfig(),
        config.BehaviorConfig(behavior_share=0.25, behavior_steps=10, return_weighting=1.0),
        config.QConfig(),
        config.PlannerConfig(),
    )
    prepared = algorithm.prepare(TASK, data=data, knobs=knobs, seed=0, record=toys.record(tmp_path))
    assert prepared.share == 0.25
    good = prepared.behavior_split.train
    returns = np.repeat(data.episode_returns(), 10)
    assert len(good) == 20 and returns[good].min() > np.delete(returns, good).max()
    assert len(prepared.split.train) == 80
    drawn = []
    schedule = training.drawn_schedule

    def noting(*arguments, **named):
        made = schedule(*arguments, **named)
        assert named["count"] == 20 and len(named["chances"]) == 20  # return weights, of these rows
        drawn.append(made.block(0).rows)
        return made

    monkeypatch.setattr(training, "drawn_schedule", noting)
    model = behavior.BehaviorModel(TASK, knobs.model, knobs.behavior, UNITS, 0)
    behavior.fit(
        model,
        rows=prepared.table,
        split=prepared.behavior_split,
        names=TASK.action_names,
        knobs=knobs.model,
        config=knobs.behavior,
        seed=0,
        stage=toys.record(tmp_path / "fit").stage("behavior_fit"),
    )
    assert drawn[0].min() >= 0 and drawn[0].max() < 20


@pytest.mark.parametrize("given", [None, 0.5])
def test_without_a_judge_all_episodes_are_taken_or_as_many_as_asked_for(tmp_path, given):
    record = toys.record(tmp_path)
    arguments = {"task": TASK, "data": graded(), "split": Split(np.arange(80), np.arange(0))}
    found = share.choose_or_load(given, **arguments, seed=0, judge=None, record=record)
    assert found == (given or 1.0) and not record.stage("share").complete


def test_the_share_of_models_that_are_taken_over_is_theirs(tmp_path):
    theirs = toys.record(tmp_path / "theirs")
    theirs.stage("share").finish({"share": 0.25, "promises": {}})
    arguments = {"task": TASK, "data": graded(), "split": Split(np.arange(80), np.arange(0))}
    for other, expected in ((theirs, 0.25), (toys.record(tmp_path / "old"), 1.0)):
        found = share.choose_or_load(
            None,
            **arguments,
            seed=0,
            judge=None,
            record=toys.record(tmp_path / f"ours{expected}"),
            models_from=other,
        )
        assert found == expected


@pytest.mark.parametrize(("components", "network"), [(1, "adm"), (2, "adm"), (1, "mlp")])
def test_the_rule_of_sigma_max_is_the_behaviours_own_spread(components, network):
    """Two actions whose heads say the same everywhere: the wider one counts, of the wider Gaussian."""
    low, high = -np.ones(2, np.float32), np.ones(2, np.float32)
    task = toys.cart(action_names=("a", "b"), action_low=low, action_high=high)
    model = behavior.BehaviorModel(
        task,
        config.ModelConfig(encoder_hidden=(4,), head_hidden=(4,), network=network, mlp_hidden=(4,)),
        config.BehaviorConfig(behavior_members=3, components=components),
        UNITS,
        0,
    )

    def raw(std):
        """What a head says for a standard deviation: exp(-5 + 2.5 (tanh(raw) + 1))."""
        return np.arctanh((np.log(std) + 5.0) / 2.5 - 1.0)

    stds = [(0.05, 0.02), (0.01, 0.08), (0.03, 0.11)]  # of members 0 to 2: by action
    for variable in model.weights:
        variable.assign(tf.zeros_like(variable))
    for network_, pair in zip(model.members, stds, strict=True):
        words = [
            [0.0, raw(s)] if components == 1 else [0.0, 0.0, 0.0, 0.0, raw(0.8 * s), raw(s)]
            for s in pair
        ]
        if network == "mlp":
            network_.layers[-1].bias.assign(np.concatenate(words))
        else:
            for head, dim in zip(network_.heads, network_.order, strict=True):
                head.layers[-1].bias.value.assign(words[dim])
    states = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    widest = model.widest(states)
    np.testing.assert_allclose(widest, np.repeat([[0.05], [0.08], [0.11]], 50, axis=1), rtol=1e-5)
    assert behavior.own_spread(model, states, 0.25) == pytest.approx(0.08, rel=1e-5)
    assert behavior.own_spread(model, states, 0.07) == 0.07
