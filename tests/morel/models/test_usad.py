from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.config import DynamicsConfig, UsadConfig
from morel_tf.experiment import summary
from morel_tf.models import usad
from morel_tf.models.usad import Calibration
from offline_tf import tasks
from offline_tf.datasets import velocities
from offline_tf.models.gaussian_ensemble import GaussianEnsemble, data_statistics
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import Transitions

HOPPER = tasks.get("hopper")
VALUES = np.array([0.0, 1.0, 2.0, 3.0, 9.0], np.float32)  # mean 3, std sqrt(10), max 9


def _naive_disagreement(predictions):
    """[M, B, D] -> [B], pair by pair."""
    members, batch, _ = predictions.shape
    return np.array(
        [
            max(
                np.linalg.norm(predictions[i, b] - predictions[j, b])
                for i in range(members)
                for j in range(members)
            )
            for b in range(batch)
        ]
    )


def _hopper_data(fastest, rows=60, seed=0):
    """Random walks of the hopper at up to `fastest` rad/s; the observation clips at 10."""
    rng = np.random.default_rng(seed)
    qvel = rng.uniform(-fastest, fastest, (rows, 6))
    angles = rng.normal(scale=0.1, size=(rows, 5))
    angles[:, 0] += 1.2
    ends = np.arange(rows) % 20 == 19
    for t in range(1, rows):
        if not ends[t - 1]:  # positions follow the velocities, up to the integrator's error
            angles[t] = angles[t - 1] + 0.008 * (qvel[t, 1:] + rng.normal(scale=0.1, size=5))
    observations = np.concatenate([angles, np.clip(qvel, -10, 10)], axis=1).astype(np.float32)
    after = np.roll(observations, -1, axis=0)
    after[ends] = observations[ends]
    return Transitions(
        observations=observations,
        actions=rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        next_observations=after,
        terminals=np.zeros(rows, bool),
        timeouts=ends,
        qpos=np.concatenate([np.zeros((rows, 1)), angles], axis=1),
        qvel=qvel,
    )


def _ensemble(task, states, actions, after, members=3):
    config = DynamicsConfig(ensemble_size=members, dynamics_hidden=(8,), precision="float32")
    return GaussianEnsemble(
        task, config, *data_statistics(task, "std", states, actions, after), seed=0
    )


def _hopper_detector(data):
    states, after = velocities.restore(HOPPER, data)
    ensemble = _ensemble(HOPPER, states, data.actions, after)
    return ensemble, usad.space_weights(HOPPER, ensemble, "observation"), (states, after)


@pytest.mark.parametrize(
    ("settings", "threshold", "rejected"),
    [
        ({"threshold_rule": "beta", "beta": 0.0}, 3.0, 0.2),
        ({"threshold_rule": "beta", "beta": 1.5}, 3.0 + 1.5 * np.sqrt(10.0), 0.2),
        ({"threshold_rule": "beta", "beta": 2.0}, 9.0, 0.0),  # beta_max is 1.9
        ({"threshold_rule": "max", "pessimism_coef": 3.0}, 3.0, 0.2),
        ({"threshold_rule": "max", "pessimism_coef": 0.5}, 18.0, 0.0),
        ({"threshold_rule": "max", "pessimism_coef": 6.0}, 1.5, 0.6),
        ({"threshold_rule": "quantile", "threshold_quantile": 0.5}, 2.0, 0.4),
        ({"threshold_rule": "quantile", "threshold_quantile": 0.875}, 6.0, 0.2),
        ({"threshold_rule": "quantile", "threshold_quantile": 1.0}, 9.0, 0.0),
        ({"threshold_rule": "none"}, np.inf, 0.0),
    ],
)
def test_threshold_rules_by_hand(settings, threshold, rejected):
    found = usad.calibrate(VALUES, UsadConfig(**settings))
    assert found.threshold == pytest.approx(threshold)
    assert found.rejected == pytest.approx(rejected)
    assert (found.mean, found.maximum) == (3.0, 9.0)
    assert found.std == pytest.approx(np.sqrt(10.0))
    assert found.beta_max == pytest.approx(6.0 / np.sqrt(10.0))


@pytest.mark.parametrize(
    ("share", "margin", "threshold"), [(0.0, 1.0, 9.0), (0.5, 1.0, 4.0), (0.5, 2.0, 8.0)]
)
def test_the_auto_rule_looks_at_whole_episodes(share, margin, threshold):
    """Of the episodes' maxima 9 and 4 the share that may be above is 0 or 1."""
    config = UsadConfig(threshold_rule="auto", cut_share=share, threshold_margin=margin)
    found = usad.calibrate(VALUES, config, np.array([9.0, 4.0]))
    assert found.threshold == pytest.approx(threshold)


def test_what_is_advised_where_too_much_is_expected_makes_more_unknown():
    verb, flag = summary._ADVICE["above_best"].split(",")[0].split()
    usual = UsadConfig(threshold_rule="auto")
    share = usual.cut_share * {"raise": 2.0, "lower": 0.5}[verb]
    changed = dataclasses.replace(usual, **{flag.removeprefix("--"): share})
    maxima = np.linspace(1.0, 9.0, 100)
    thresholds = [usad.calibrate(VALUES, config, maxima).threshold for config in (changed, usual)]
    assert thresholds[0] < thresholds[1]


def test_beta_max_is_the_beta_at_which_nothing_is_unknown_any_more():
    values = np.random.default_rng(0).exponential(size=500).astype(np.float32)
    beta_max = usad.calibrate(values, UsadConfig()).beta_max
    below, above = (
        usad.calibrate(values, UsadConfig(threshold_rule="beta", beta=beta_max + shift)).rejected
        for shift in (-1e-3, 1e-3)
    )
    assert below == pytest.approx(1 / 500)
    assert above == 0.0


def test_the_unknown_set_shrinks_as_the_threshold_grows():
    ensemble = toys.hinged_ensemble(toys.cart(), gains=(0.0, 1.0, -0.5))
    rng = np.random.default_rng(0)
    states = rng.uniform(-4, 4, (300, 2)).astype(np.float32)
    actions = rng.uniform(-1, 1, (300, 1)).astype(np.float32)
    values = usad.batched(ensemble, weights=np.ones(2, np.float32), states=states, actions=actions)
    np.testing.assert_allclose(values, 1.5 * np.maximum(np.abs(states[:, 0]) - 1, 0), atol=1e-5)
    unknown = [
        values > usad.calibrate(values, UsadConfig(threshold_rule="beta", beta=beta)).threshold
        for beta in (0.0, 0.3, 0.7, 1.2, 5.0)
    ]
    for less, more in zip(unknown[1:], unknown[:-1]):
        assert not (less & ~more).any()
        assert less.sum() < more.sum()
    assert not unknown[-1].any()


def test_space_weights_by_hand():
    """A constant dimension counts nowhere; the authors' space has velocities times 0.02."""
    task = toys.cart()
    config = DynamicsConfig(dynamics_hidden=(4,))
    moving = Statistics(np.zeros(2, np.float32), np.array([0.5, 4.0], np.float32))
    ensemble = GaussianEnsemble(task, config, toys.identity(3), moving, 0)
    expected = {"delta": [1.0, 1.0], "observation": [0.5, 4.0], "authors": [0.5, 0.08]}
    for space, weights in expected.items():
        np.testing.assert_allclose(usad.space_weights(task, ensemble, space), weights, rtol=1e-6)
    still = Statistics(np.zeros(2, np.float32), np.array([0.5, 0.0], np.float32))
    ensemble = GaussianEnsemble(task, config, toys.identity(3), still, 0)
    for space, first in (("delta", 1.0), ("observation", 0.5), ("authors", 0.5)):
        np.testing.assert_allclose(usad.space_weights(task, ensemble, space), [first, 0.0])


@pytest.mark.parametrize("space", ["delta", "observation", "authors"])
def test_disagreement_is_the_distance_of_predicted_next_states(space):
    """On the hopper: in its own units, in standardised deltas, or under the authors' mask."""
    data = _hopper_data(fastest=8.0, rows=20)
    ensemble = _ensemble(HOPPER, data.observations, data.actions, data.next_observations)
    outputs = ensemble.bind()(data.observations, data.actions)
    after = ensemble.next_states(data.observations, ensemble.means(outputs)).numpy()
    units = {
        "delta": 1.0 / ensemble.deltas.scale,
        "observation": np.ones(11),
        "authors": np.array([1.0] * 5 + [0.02] * 6),  # gym_hopper.py
    }[space]
    weights = usad.space_weights(HOPPER, ensemble, space)
    found = usad.disagreement_of(ensemble, outputs, weights)
    np.testing.assert_allclose(found, _naive_disagreement(after * units), rtol=1e-3)
    batches = usad.batched(
        ensemble, weights=weights, states=data.observations, actions=data.actions, batch_size=7
    )
    np.testing.assert_allclose(batches, found, rtol=1e-5)


def test_one_member_disagrees_with_nobody_and_order_does_not_matter():
    outputs = tf.random.stateless_normal([3, 5, 2], [0, 1])
    three = toys.hinged_ensemble(toys.cart(), (0.0, 0.0, 0.0))
    weights = np.array([1.0, 3.0], np.float32)
    found = usad.disagreement_of(three, outputs, weights)
    np.testing.assert_allclose(found, _naive_disagreement(outputs.numpy() * weights), rtol=1e-5)
    np.testing.assert_allclose(
        usad.disagreement_of(three, tf.gather(outputs, [2, 0, 1]), weights), found, rtol=1e-6
    )
    np.testing.assert_array_equal(usad.disagreement_of(three, outputs[:1], weights), np.zeros(5))


def test_a_learned_spread_is_not_part_of_the_disagreement():
    outputs = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    outputs[1, :, :2] = outputs[0, :, :2]
    ensemble = toys.hinged_ensemble(toys.cart(), log_std=0.0)
    found = usad.disagreement_of(ensemble, tf.constant(outputs), np.ones(2, np.float32))
    np.testing.assert_array_equal(found, np.zeros(4))


def test_error_prediction_is_perfect_where_disagreement_is_the_error():
    """Gains 0 and 1: the members' mean is off by half of what they disagree by."""
    ensemble = toys.hinged_ensemble(toys.cart())
    rng = np.random.default_rng(0)
    states = np.stack([rng.permutation(np.linspace(1.5, 9.0, 80)), rng.normal(size=80)], axis=1)
    states, actions = states.astype(np.float32), rng.uniform(-1, 1, (80, 1)).astype(np.float32)
    true = toys.change(states, actions)
    weights = np.ones(2, np.float32)
    found = usad.error_prediction(ensemble, weights, states, actions, true)
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert found["auroc"] == 1.0
    # The truth is what member 1 says near the origin's side: then the error falls as it grows.
    true[:, 0] += 0.5 * (states[:, 0] - 1) + (10 - states[:, 0])
    found = usad.error_prediction(ensemble, weights, states, actions, true)
    assert found["rank_correlation"] == pytest.approx(-1.0)
    assert found["auroc"] == 0.0


class _Spy:
    """Remembers what each detector was calibrated on."""

    def __init__(self):
        self.received, self.values, self.judged = [], [], []

    def __call__(self, ensemble, *, states, rows, **others):
        self.received.append(states[rows])
        self.values.append(_BATCHED(ensemble, states=states, rows=rows, **others))
        return self.values[-1]


_BATCHED = usad.batched


def _calibrate(data, record, config, monkeypatch):
    ensemble, weights, states = _hopper_detector(data)
    spy = _Spy()
    monkeypatch.setattr(usad, "batched", spy)
    judge = usad.error_prediction

    def judged(*arguments):
        spy.judged.append(arguments[2:])
        return judge(*arguments)

    monkeypatch.setattr(usad, "error_prediction", judged)
    arguments = {
        "ensemble": ensemble,
        "weights": weights,
        "data": data,
        "states": states,
        "held_out": np.arange(40, 60),
        "config": config,
        "record": record,
    }
    return usad.calibrate_or_load(HOPPER, **arguments), spy, arguments


def test_each_detector_is_calibrated_on_what_it_will_receive(tmp_path, monkeypatch):
    data = _hopper_data(fastest=12.0)
    config = UsadConfig(threshold_rule="beta", beta=1.0, disagreement_space="observation")
    calibrations, spy, arguments = _calibrate(
        data, toys.record(tmp_path / "run"), config, monkeypatch
    )
    ensemble, weights, states = (arguments[name] for name in ("ensemble", "weights", "states"))
    planning, observation = states[0], data.observations
    history = velocities.restore(HOPPER, data, use_recorded=False)[0]
    np.testing.assert_array_equal(planning[:, 5:], data.qvel.astype(np.float32))
    first = np.arange(60) % 20 == 0  # no previous observation to restore from
    np.testing.assert_array_equal(history[first], data.observations[first])
    received = {"planning": planning, "observation": observation, "history": history}
    values = {
        k: _BATCHED(ensemble, weights=weights, states=x, actions=data.actions)
        for k, x in received.items()
    }
    for name, expected in values.items():
        found, reference = calibrations[name], usad.calibrate(expected, config)
        assert found.threshold == pytest.approx(expected.mean() + expected.std(), rel=1e-4)
        assert found[2:] == pytest.approx(reference[2:], rel=1e-4)
        assert found.rejected == (expected > reference.threshold).mean()
    # Where nothing is clipped the three see the same; where something is, they do not.
    clipped = (np.abs(data.qvel) > 10).any(axis=1)
    for name in ("observation", "history"):
        np.testing.assert_allclose(received[name][~clipped], planning[~clipped], atol=1e-6)
        moved = np.abs(values[name] - values["planning"]) > 1e-6
        assert moved[clipped].mean() > 0.9
    assert 0 < clipped.sum() < 60
    # Errors are told on held-out rows, from what each detector receives.
    assert len(spy.judged) == 3
    for inputs, (seen, actions, changes) in zip(received.values(), spy.judged, strict=True):
        np.testing.assert_array_equal(seen, inputs[40:60])
        np.testing.assert_array_equal(actions, data.actions[40:60])
        np.testing.assert_array_equal(changes, (states[1] - states[0])[40:60])
    assert len({c.threshold for c in calibrations.values()}) == 3
    # Rows that a detector sees as planning does are not computed again.
    assert [len(x) for x in spy.received] == [
        60,
        *((received[k] != planning).any(axis=1).sum() for k in ("observation", "history")),
    ]

    again = usad.calibrate_or_load(HOPPER, **arguments)
    assert len(spy.values) == 3
    assert again == calibrations == usad.load(arguments["record"])
    prediction = arguments["record"].stage("usad").result["error_prediction"]
    assert set(prediction) == {"planning", "observation", "history"}


def test_detectors_are_one_where_nothing_is_clipped(tmp_path, monkeypatch):
    config = UsadConfig(threshold_rule="quantile", threshold_quantile=0.9)
    data = dataclasses.replace(_hopper_data(fastest=9.0), qvel=None)
    calibrations, spy, arguments = _calibrate(
        data, toys.record(tmp_path / "run"), config, monkeypatch
    )
    assert len(spy.values) == 1
    assert calibrations["planning"] == calibrations["observation"] == calibrations["history"]
    assert set(calibrations) == {"planning", "observation", "history"}
    assert calibrations["planning"].rejected == pytest.approx(0.1)
    assert usad.load(arguments["record"]) == calibrations


def test_rows_whose_next_state_is_not_known_do_not_set_the_threshold(tmp_path, monkeypatch):
    data = _hopper_data(fastest=9.0)
    ends = data.timeouts
    data = dataclasses.replace(data, terminals=ends, timeouts=~ends & False, qvel=None)
    after = np.where(ends[:, None], np.float32(np.nan), data.next_observations)
    data = dataclasses.replace(data, next_observations=after)
    found = []
    for name, actions in (
        ("plain", data.actions),
        ("far", np.where(ends[:, None], -data.actions, data.actions)),
    ):
        record = toys.record(tmp_path / name)
        rows = dataclasses.replace(data, actions=actions)
        ensemble = _ensemble(
            HOPPER, *(x[~ends] for x in (data.observations, data.actions, data.next_observations))
        )
        found.append(
            usad.calibrate_or_load(
                HOPPER,
                ensemble=ensemble,
                weights=usad.space_weights(HOPPER, ensemble, "delta"),
                data=rows,
                states=(rows.observations, rows.next_observations),
                held_out=np.zeros(0, np.int64),
                config=UsadConfig(threshold_rule="quantile", threshold_quantile=1.0),
                record=record,
            )
        )
        prediction = record.stage("usad").result["error_prediction"]["planning"]
        assert np.isfinite(list(prediction.values())).all()
    assert found[0] == found[1]


def test_no_threshold_survives_the_run_folder(tmp_path, monkeypatch):
    record = toys.record(tmp_path / "run")
    config = UsadConfig(threshold_rule="none")
    calibrations, *_ = _calibrate(_hopper_data(fastest=12.0), record, config, monkeypatch)
    loaded = usad.load(record)
    assert loaded == calibrations
    assert isinstance(loaded["planning"], Calibration)
    assert loaded["planning"].threshold == np.inf


def test_a_kill_before_the_end_of_calibration_leaves_one_row_of_metrics(tmp_path, monkeypatch):
    record = toys.record(tmp_path / "run")
    stage = type(record.stage("usad"))
    with monkeypatch.context() as patch, pytest.raises(toys.Killed):
        patch.setattr(stage, "finish", toys.dying(stage.finish, 1))
        _calibrate(_hopper_data(fastest=9.0), record, UsadConfig(), patch)
    _calibrate(_hopper_data(fastest=9.0), record, UsadConfig(), monkeypatch)
    assert len((record.folder / "metrics" / "usad.csv").read_text().splitlines()) == 2
