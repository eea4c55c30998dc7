from __future__ import annotations

import dataclasses
import itertools
import types

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf import algorithm
from morel_tf.config import DynamicsConfig
from offline_tf.models import gaussian_ensemble, networks
from offline_tf.models.gaussian_ensemble import GaussianEnsemble
from offline_tf.numerics import holdout
from offline_tf.numerics.holdout import Split
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import UserError

TASK = toys.cart()
NAMES = TASK.observation_names
NOISE = (0.05, 0.2)
SMALL = DynamicsConfig(
    ensemble_size=2,
    dynamics_hidden=(16,),
    dynamics_epochs=4,
    dynamics_batch_size=32,
    holdout_share=0.02,
    precision="float32",
)


def _ensemble(config=SMALL, seed=0, statistics=None):
    rng = np.random.default_rng(9)
    inputs = Statistics(*rng.uniform(0.5, 1.5, (2, 3)).astype(np.float32))
    deltas = Statistics(*rng.uniform(0.2, 0.4, (2, 2)).astype(np.float32))
    return GaussianEnsemble(TASK, config, *(statistics or (inputs, deltas)), seed)


def _columns(data):
    return data.observations, data.actions, data.next_observations


def _named_columns(data):
    return dict(zip(("states", "actions", "next_states"), _columns(data), strict=True))


def _problem(config=SMALL, noise=NOISE, lengths=(20,) * 10):
    """Data, an ensemble with its statistics, and a split."""
    data = toys.transitions(lengths, noise=noise)
    statistics = gaussian_ensemble.data_statistics(TASK, config.scale, *_columns(data))
    split = holdout.split_episodes(data.episode_bounds(), config.holdout_share, 0)
    return data, _ensemble(config, statistics=statistics), split


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A cart with noise, learned well; with the error before the fit."""
    config = dataclasses.replace(
        SMALL, dynamics_epochs=30, dynamics_learning_rate=5e-3, holdout_share=0.3
    )
    record = toys.record(tmp_path_factory.mktemp("fitted") / "run")
    data, ensemble, split = _problem(config, lengths=(20,) * 100)
    states, actions, after = (x[split.held_out] for x in _columns(data))
    inputs = ensemble.standardise_inputs(tf.constant(states), tf.constant(actions))
    before = gaussian_ensemble.held_out_error(
        ensemble, inputs, ensemble.deltas.normalize(after - states), NAMES
    )
    gaussian_ensemble.fit_or_load(
        ensemble,
        data=_columns(data),
        split=split,
        config=config,
        names=NAMES,
        seed=0,
        record=record,
    )
    return config, record, data, ensemble, split, before


def test_errors_on_training_rows_are_not_called_held_out(tmp_path):
    config = dataclasses.replace(SMALL, dynamics_epochs=1, holdout_share=0.0)
    record = toys.record(tmp_path / "run")
    data, ensemble, split = _problem(config)
    gaussian_ensemble.fit_or_load(
        ensemble,
        data=_columns(data),
        split=split,
        config=config,
        names=NAMES,
        seed=0,
        record=record,
    )
    found = set(record.stage("dynamics").result)
    assert found == {"training_rows", "split_seed", "hidden", "statistics"}
    header = (tmp_path / "run" / "metrics" / "dynamics_fit.csv").read_text().splitlines()[0]
    assert header == "step,loss,training_rows_mse"


def test_a_row_whose_next_state_is_not_known_is_never_seen(tmp_path):
    """Whatever stands in it, statistics and weights are those of the data without it, to the bit."""
    data = toys.unrecorded(toys.transitions((20,) * 10, noise=NOISE))
    known = data.next_known
    assert (~known).sum() == 5
    poisoned = dataclasses.replace(
        data,
        observations=np.where(known[:, None], data.observations, np.float32(1e6)),
        actions=np.where(known[:, None], data.actions, np.float32(-1e6)),
    )
    knobs = types.SimpleNamespace(dynamics=dataclasses.replace(SMALL, holdout_share=0.2))
    prepared = algorithm.prepare(TASK, poisoned, knobs, 0)
    assert np.isin(np.flatnonzero(known), np.concatenate(prepared.split)).all()
    position = np.cumsum(known) - 1
    without = Split(*(position[rows] for rows in prepared.split))
    found = []
    for name, columns, usable, split in (
        ("poisoned", _columns(poisoned), known, prepared.split),
        ("without", [column[known] for column in _columns(data)], None, without),
    ):
        statistics = gaussian_ensemble.data_statistics(TASK, "std", *columns, usable=usable)
        ensemble = _ensemble(statistics=statistics)
        report = gaussian_ensemble.fit(
            ensemble,
            **dict(zip(("states", "actions", "next_states"), columns, strict=True)),
            split=split,
            config=SMALL,
            names=NAMES,
            seed=0,
            stage=toys.record(tmp_path / name).stage("dynamics_fit"),
        )
        found.append((toys.bits(ensemble.weights), report))
    assert found[0] == found[1]


def test_next_states_are_s_plus_mask_times_shift_plus_scale_times_network():
    ensemble = _ensemble()
    rng = np.random.default_rng(0)
    states = rng.normal(size=(7, 2)).astype(np.float32)
    actions = rng.uniform(-1, 1, (7, 1)).astype(np.float32)
    outputs = ensemble.bind()(states, actions)
    found = ensemble.next_states(states, ensemble.means(outputs))
    given = np.concatenate([states, actions], axis=1)
    given = (given - ensemble.inputs.shift) / ensemble.inputs.scale
    for member, prediction in zip(ensemble.members, found, strict=True):
        change = ensemble.deltas.shift + ensemble.deltas.scale * toys.numpy_forward(member, given)
        np.testing.assert_allclose(prediction, states + change, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-2)


def test_a_dimension_that_is_constant_in_the_data_never_changes():
    data = toys.transitions()
    states, after = data.observations.copy(), data.next_observations.copy()
    states[:, 1] = after[:, 1] = 0.25
    statistics = gaussian_ensemble.data_statistics(TASK, "std", states, data.actions, after)
    ensemble = _ensemble(statistics=statistics)
    np.testing.assert_array_equal(ensemble.mask, [1.0, 0.0])
    outputs = ensemble.bind()(1e3 * states, data.actions)
    found = ensemble.next_states(states, ensemble.means(outputs)).numpy()
    np.testing.assert_array_equal(found[..., 1], np.full(found.shape[:2], np.float32(0.25)))
    assert np.abs(found[..., 0] - states[:, 0]).max() > 0.01


def test_actions_beyond_the_bounds_count_as_the_bounds():
    ensemble = _ensemble()
    states = np.zeros((3, 2), np.float32)
    wild, bound, less = (np.full((3, 1), x, np.float32) for x in (40.0, 1.0, 0.9))
    at = ensemble.bind()
    np.testing.assert_array_equal(at(states, wild), at(states, bound))
    assert np.abs(at(states, less) - at(states, bound)).max() > 1e-3
    drawn, far, further = ensemble.bind(bounded=False), 0 * wild + 100.0, 0 * wild + 1e4
    assert np.abs(drawn(states, wild) - at(states, bound)).max() > 1e-3
    np.testing.assert_array_equal(drawn(states, far), drawn(states, further))
    of_wild = gaussian_ensemble.data_statistics(TASK, "std", states, 40 * np.eye(3)[:, :1], states)[
        0
    ]
    of_bound = gaussian_ensemble.data_statistics(TASK, "std", states, np.eye(3)[:, :1], states)[0]
    np.testing.assert_array_equal(of_wild, of_bound)


def test_data_statistics_by_hand():
    """Columns (x, v, a) of three rows; "mad" is the mean absolute deviation from the mean."""
    states = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]], np.float32)
    actions = np.array([[0.5], [-3.0], [0.5]], np.float32)  # -3 counts as -1
    after = states + np.array([[1.0, 0.0], [1.0, 0.0], [4.0, 3.0]], np.float32)
    inputs, deltas = gaussian_ensemble.data_statistics(TASK, "std", states, actions, after)
    np.testing.assert_allclose(inputs.shift, [2.0, 2.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(inputs.scale, np.sqrt([8 / 3, 2.0, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(deltas.shift, [2.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(deltas.scale, np.sqrt([2.0, 2.0]), rtol=1e-6)
    inputs, deltas = gaussian_ensemble.data_statistics(TASK, "mad", states, actions, after)
    np.testing.assert_allclose(inputs.scale, [4 / 3, 4 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(deltas.scale, [4 / 3, 4 / 3], rtol=1e-6)


def test_one_step_changes_no_state_by_more_than_the_bound():
    ensemble = _ensemble(statistics=(toys.identity(3), toys.identity(2)))
    start = tf.constant([[3.0, -2.0]])
    found = ensemble.next_states(start, tf.constant([[5e3, -5e3]]))
    np.testing.assert_array_equal(found, [[103.0, -102.0]])  # authors' large_value, 100
    pascal = Statistics(np.float32([0.0, 50.0]), np.float32([2000.0, 1.0]))
    ensemble = _ensemble(statistics=(toys.identity(3), pascal))
    found = ensemble.next_states(
        tf.constant([[1e5, 0.0]]), tf.constant([[1.5, -500.0], [50.0, 500.0]])
    )
    np.testing.assert_allclose(found, [[103000.0, -100.0], [120000.0, 100.0]])


def test_fixed_covariance_is_half_the_squared_error_with_its_gradient():
    ensemble = _ensemble()
    rng = np.random.default_rng(0)
    outputs = tf.constant(rng.normal(size=(50, 2)), tf.float32)
    targets = rng.normal(size=(50, 2)).astype(np.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        nll = -tf.reduce_mean(ensemble.distribution(outputs).log_prob(targets)) / 2
        half_mse = 0.5 * tf.reduce_mean(tf.square(outputs - targets))
    assert float(nll - half_mse) == pytest.approx(0.5 * np.log(2 * np.pi), rel=1e-5)
    np.testing.assert_allclose(
        tape.gradient(nll, outputs), tape.gradient(half_mse, outputs), atol=1e-8
    )


@pytest.mark.parametrize("covariance", ["fixed", "learned"])
def test_the_loss_of_fit_is_the_mean_likelihood_of_the_training_rows(covariance, tmp_path):
    """One batch of all rows at a rate of zero; the logged loss against a loop in numpy."""
    data, _, split = _problem()
    config = dataclasses.replace(
        SMALL,
        covariance=covariance,
        dynamics_epochs=1,
        dynamics_learning_rate=0.0,
        dynamics_batch_size=len(split.train),
    )
    data, ensemble, split = _problem(config)
    before = toys.bits(networks.variables(*ensemble.members))
    stage = toys.record(tmp_path / "run").stage("dynamics_fit")
    gaussian_ensemble.fit(
        ensemble,
        **_named_columns(data),
        split=split,
        config=config,
        names=NAMES,
        seed=0,
        stage=stage,
    )
    assert toys.bits(networks.variables(*ensemble.members)) == before
    states, actions, after = (x[split.train].astype(np.float64) for x in _columns(data))
    given = np.concatenate([states, actions], axis=1)
    given = (given - ensemble.inputs.shift) / ensemble.inputs.scale
    targets = (after - states - ensemble.deltas.shift) / ensemble.deltas.scale
    expected = []
    for member in ensemble.members:
        outputs = toys.numpy_forward(member, given)
        log_std = np.clip(outputs[:, 2:], -5, 1) if covariance == "learned" else 0.0 * targets
        z = (targets - outputs[:, :2]) / np.exp(log_std)
        expected.append((0.5 * z**2 + log_std + 0.5 * np.log(2 * np.pi)).mean())
    csv = (tmp_path / "run" / "metrics" / "dynamics_fit.csv").read_text().splitlines()
    row = dict(zip(csv[0].split(","), map(float, csv[1].split(",")), strict=True))
    assert row["loss"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_fitting_brings_the_held_out_error_down_to_the_noise(fitted):
    _, record, _, ensemble, _, before = fitted
    report = record.stage("dynamics").result["held_out"]
    assert list(report) == ["mse", "mse/x", "mse/v"]
    floor = (np.array(NOISE) / ensemble.deltas.scale) ** 2
    found = np.array([report["mse/x"], report["mse/v"]])
    # 30 held-out episodes of 20 steps: the variance is known to 6 %, two standard errors 12 %.
    np.testing.assert_allclose(found, floor, rtol=0.2)
    assert report["mse"] == pytest.approx(found.mean())
    assert before["mse"] > 2 * report["mse"]


def test_held_out_error_is_the_members_mean_squared_error_on_held_out_rows_alone(fitted):
    _, record, data, ensemble, split, _ = fitted
    states, actions, after = (x[split.held_out] for x in _columns(data))
    given = (np.concatenate([states, actions], 1) - ensemble.inputs.shift) / ensemble.inputs.scale
    targets = (after - states - ensemble.deltas.shift) / ensemble.deltas.scale
    errors = [np.square(toys.numpy_forward(m, given) - targets) for m in ensemble.members]
    report = record.stage("dynamics").result["held_out"]
    expected = np.mean(errors, axis=(0, 1))
    np.testing.assert_allclose([report["mse/x"], report["mse/v"]], expected, rtol=1e-4)
    # noise_std is the residuals' standard deviation, the maximum-likelihood Sigma given f.
    np.testing.assert_allclose(ensemble.noise_std, np.sqrt(expected), rtol=1e-4)
    noise = ensemble.noise(tf.zeros([3, 2]))
    np.testing.assert_allclose(noise * ensemble.deltas.scale, [NOISE] * 3, rtol=0.1)


def test_learned_covariance_recovers_the_noise(tmp_path):
    config = dataclasses.replace(
        SMALL, covariance="learned", dynamics_epochs=60, dynamics_learning_rate=5e-3
    )
    data, ensemble, split = _problem(config, lengths=(20,) * 60)
    stage = toys.record(tmp_path / "run").stage("dynamics_fit")
    gaussian_ensemble.fit(
        ensemble,
        **_named_columns(data),
        split=split,
        config=config,
        names=NAMES,
        seed=0,
        stage=stage,
    )
    outputs = ensemble.bind()(data.observations, data.actions)
    for member in outputs:
        found = ensemble.noise(member).numpy().mean(axis=0) * ensemble.deltas.scale
        np.testing.assert_allclose(found, NOISE, rtol=0.15)


def test_whole_episodes_are_held_out():
    lengths = np.array([5, 30, 12, 7, 21, 9, 16])
    ends = np.cumsum(lengths)
    bounds = np.stack([ends - lengths, ends], axis=1)
    seen = set()
    for seed, share in itertools.product(range(6), (0.02, 0.2, 0.5)):
        split = holdout.split_episodes(bounds, share, seed)
        both = np.concatenate([split.train, split.held_out])
        np.testing.assert_array_equal(np.sort(both), np.arange(100))
        inside = np.isin(np.arange(100), split.held_out)
        held = [inside[start:end] for start, end in bounds]
        assert all(part.all() or not part.any() for part in held)
        assert share * 100 <= len(split.held_out) < 100
        # Stopping at the first episode that reaches the share: without it, too few.
        longest = max(len(part) for part in held if part.any())
        assert len(split.held_out) - longest < share * 100
        seen.add(tuple(split.held_out))
    assert len(seen) > 6
    first, again = (holdout.split_episodes(bounds, 0.2, 3) for _ in range(2))
    np.testing.assert_array_equal(first.held_out, again.held_out)


@pytest.mark.parametrize("lengths", [(5000, 3), (3, 5000), (4000, 3, 5000)])
def test_a_long_episode_is_not_held_out_for_a_small_share(lengths):
    ends = np.cumsum(lengths)
    bounds = np.stack([ends - lengths, ends], axis=1)
    for seed in range(8):
        split = holdout.split_episodes(bounds, 0.02, seed)
        assert len(split.held_out) == 3 and len(split.train) == sum(lengths) - 3


@pytest.mark.parametrize(
    ("bounds", "share"), [([[0, 9]], 0.5), ([[0, 4], [4, 9]], 0.0), ([[0, 1], [1, 9]], 0.5)]
)
def test_never_everything_is_held_out(bounds, share):
    for seed in range(8):  # either episode comes first under some of them
        split = holdout.split_episodes(np.array(bounds), share, seed)
        assert len(split.train) > 0
        if share == 0.0 or len(bounds) == 1:
            assert len(split.held_out) == 0 and len(split.train) == 9


def test_training_rows_are_judged_where_none_are_held_out():
    rows = np.arange(50)
    nobody, some = Split(rows, rows[:0]), Split(rows[:40], rows[40:])
    np.testing.assert_array_equal(nobody.judged(100), rows)
    np.testing.assert_array_equal(some.judged(100), rows[40:])
    np.testing.assert_array_equal(some.judged(2), [40, 49])


def test_members_see_other_orders_and_the_rate_falls_over_all_epochs():
    config = dataclasses.replace(SMALL, dynamics_epochs=2)  # batches of 32: three of 100 rows
    schedule = gaussian_ensemble._schedule(members=2, count=100, config=config, seed=0)
    assert (schedule.total, schedule.unit) == (2, "epochs")
    blocks = [schedule.block(epoch) for epoch in range(2)]
    assert [(block.units, block.rows.shape) for block in blocks] == [(1, (3, 2, 32))] * 2
    orders = [block.rows[:, member].ravel() for block in blocks for member in range(2)]
    for one, other in itertools.combinations(orders, 2):
        assert (one != other).mean() > 0.5
    share = config.dynamics_final_rate_share
    falling = share + (1 - share) * 0.5 * (1 + np.cos(np.pi * np.arange(6) / 6))
    rates = np.concatenate([block.learning_rates for block in blocks])
    np.testing.assert_allclose(rates, config.dynamics_learning_rate * falling, rtol=1e-6)


def test_a_fit_that_diverges_ends_in_one_line_and_keeps_nothing(tmp_path):
    config = dataclasses.replace(SMALL, dynamics_epochs=2, dynamics_learning_rate=1e30)
    data, ensemble, split = _problem(config)
    record = toys.record(tmp_path / "run")
    with pytest.raises(
        UserError, match="^dynamics_fit: .* not finite within 1 epochs; .* --dynamics_learning_rate"
    ):
        gaussian_ensemble.fit_or_load(
            ensemble,
            data=_columns(data),
            split=split,
            config=config,
            names=NAMES,
            seed=0,
            record=record,
        )
    assert not record.stage("dynamics").complete
    assert not (record.folder / "checkpoints" / "dynamics_fit").exists()


def test_members_start_differently():
    ensemble = _ensemble()
    kernels = [networks.dense_weights(member)[0][0].numpy() for member in ensemble.members]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    # torch.nn.Linear's U(+-1/sqrt(fan_in)); 3 inputs.
    assert np.abs(kernels).max() <= 1 / np.sqrt(3)
    more = _ensemble(dataclasses.replace(SMALL, ensemble_size=3))
    assert toys.bits(networks.variables(*more.members[:2])) == toys.bits(
        networks.variables(*ensemble.members)
    )


def test_an_unbroken_fit_and_one_killed_again_and_again_end_with_the_same_bits(
    tmp_path, monkeypatch
):
    data, unbroken, split = _problem()
    record = toys.record(tmp_path / "unbroken")
    gaussian_ensemble.fit_or_load(
        unbroken, data=_columns(data), split=split, config=SMALL, names=NAMES, seed=0, record=record
    )
    expected = toys.bits(unbroken.weights)
    csv = (record.folder / "metrics" / "dynamics_fit.csv").read_text()

    # Kills: in the first epoch; after the second's log and before its checkpoint; before the next
    # log; and after the last checkpoint, before the stage is marked as done.
    kills = [("progress", 1), ("save", 2), ("log", 2), ("finish", 1)]
    for method, call in kills:
        broken = toys.record(tmp_path / "broken")
        _, ensemble, _ = _problem()
        with monkeypatch.context() as patch:
            stage_class = type(broken.stage("dynamics_fit"))
            patch.setattr(stage_class, method, toys.dying(getattr(stage_class, method), call))
            with pytest.raises(toys.Killed):
                gaussian_ensemble.fit_or_load(
                    ensemble,
                    data=_columns(data),
                    split=split,
                    config=SMALL,
                    names=NAMES,
                    seed=0,
                    record=broken,
                )
    broken = toys.record(tmp_path / "broken")
    _, ensemble, _ = _problem()
    gaussian_ensemble.fit_or_load(
        ensemble, data=_columns(data), split=split, config=SMALL, names=NAMES, seed=0, record=broken
    )
    assert toys.bits(ensemble.weights) == expected
    assert (broken.folder / "metrics" / "dynamics_fit.csv").read_text() == csv
    results = [r.stage("dynamics").result for r in (broken, record)]
    assert results[0] == results[1]


def test_load_rebuilds_the_fitted_models_from_the_folder_alone(fitted):
    config, record, data, ensemble, _, _ = fitted
    loaded = gaussian_ensemble.load(TASK, config, 123, type(record).open_existing(record.folder))
    rows = slice(0, 40)
    states, actions = data.observations[rows], data.actions[rows]
    first, second = (e.bind()(states, actions) for e in (ensemble, loaded))
    np.testing.assert_array_equal(first, second)
    after = [e.next_states(states, e.means(x)) for e, x in ((ensemble, first), (loaded, second))]
    np.testing.assert_array_equal(*after)
    np.testing.assert_array_equal(loaded.noise_std, ensemble.noise_std)
    assert toys.bits(loaded.weights) == toys.bits(ensemble.weights)


def test_fitted_models_are_read_and_not_fitted_again(fitted, monkeypatch):
    config, record, data, ensemble, split, _ = fitted
    monkeypatch.setattr(gaussian_ensemble, "fit", lambda *_, **__: pytest.fail("fitted again"))
    _, other, _ = _problem(config, lengths=(20,) * 100)
    gaussian_ensemble.fit_or_load(
        other, data=_columns(data), split=split, config=config, names=NAMES, seed=0, record=record
    )
    assert toys.bits(other.weights) == toys.bits(ensemble.weights)


def test_models_of_another_run_are_taken_over(fitted, tmp_path, monkeypatch):
    config, record, data, ensemble, split, _ = fitted
    monkeypatch.setattr(gaussian_ensemble, "fit", lambda *_, **__: pytest.fail("fitted again"))
    _, other, _ = _problem(config, lengths=(20,) * 100)
    mine = toys.record(tmp_path / "run")
    gaussian_ensemble.fit_or_load(
        other,
        data=_columns(data),
        split=split,
        config=config,
        names=NAMES,
        seed=0,
        record=mine,
        other=record,
    )
    again = gaussian_ensemble.load(TASK, config, 0, mine)
    assert toys.bits(again.weights) == toys.bits(ensemble.weights)
    assert mine.stage("dynamics").result == record.stage("dynamics").result
    assert toys.bits(gaussian_ensemble.load(TASK, config, 0, mine).weights) == toys.bits(
        ensemble.weights
    )


@pytest.mark.parametrize(
    ("given", "rows", "expected"),
    [((), 100_000, (256, 256)), ((), 1_000_000, (512, 512)), ((8, 4), 1_000_000, (8, 4))],
)
def test_widths_follow_the_rows_unless_they_are_given(given, rows, expected):
    assert gaussian_ensemble.hidden_of(given, rows) == expected


def test_models_whose_widths_followed_the_rows_are_loaded_with_these(tmp_path):
    config = dataclasses.replace(SMALL, dynamics_hidden=(), dynamics_epochs=1)
    data = toys.transitions((20,) * 10, noise=NOISE)
    statistics = gaussian_ensemble.data_statistics(TASK, config.scale, *_columns(data))
    ensemble = GaussianEnsemble(TASK, config, *statistics, 0, hidden=(8, 4))
    record = toys.record(tmp_path)
    gaussian_ensemble.fit_or_load(
        ensemble,
        data=_columns(data),
        split=holdout.split_episodes(data.episode_bounds(), 0.1, 0),
        config=config,
        names=NAMES,
        seed=0,
        record=record,
    )
    loaded = gaussian_ensemble.load(TASK, config, 0, record)
    assert loaded.hidden == (8, 4)
    for weight, expected in zip(loaded.weights, ensemble.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_loading_unfitted_models_is_refused(tmp_path):
    with pytest.raises(UserError, match="not fitted yet"):
        gaussian_ensemble.load(TASK, SMALL, 0, toys.record(tmp_path / "run"))


def test_resampled_members_see_whole_episodes_of_the_training_rows():
    bounds = np.array([[0, 10], [10, 15], [15, 30], [30, 40]])
    rows = np.array([*range(10), *range(15, 30), *range(30, 40)])  # the second is held out
    members = gaussian_ensemble.resampled(rows, bounds, 5, seed=0)
    lengths = {0: 10, 15: 15, 30: 10}
    for positions in members:
        found, at = rows[positions], 0
        for _ in range(3):  # as many episodes as there are
            start = int(found[at])
            np.testing.assert_array_equal(
                found[at : at + lengths[start]], np.arange(start, start + lengths[start])
            )
            at += lengths[start]
        assert at == len(found)
    assert len({tuple(positions) for positions in members}) > 1
    again = gaussian_ensemble.resampled(rows, bounds, 5, seed=0)
    assert all((a == b).all() for a, b in zip(members, again, strict=True))


def test_members_draw_from_their_own_rows_alone():
    config = dataclasses.replace(SMALL, dynamics_epochs=0, dynamics_steps=30)
    own = [np.arange(0, 10), np.arange(50, 55)]
    schedule = gaussian_ensemble._schedule(2, 100, config, 0, own)
    batches = schedule.block(0).rows
    assert batches.shape == (30, 2, config.dynamics_batch_size)
    assert set(batches[:, 0].ravel()) == set(own[0]) and set(batches[:, 1].ravel()) == set(own[1])


def test_without_a_number_of_steps_there_are_forty_passes_within_bounds():
    config = dataclasses.replace(SMALL, dynamics_epochs=0, dynamics_batch_size=256)
    found = [gaussian_ensemble.steps_of(config, n) for n in (1000, 200_000, 10_000_000)]
    assert found == [15_000, 31_250, 50_000]
    given = dataclasses.replace(config, dynamics_steps=7)
    assert gaussian_ensemble.steps_of(given, 1000) == 7


def test_a_fit_ends_where_the_held_out_error_no_longer_falls(tmp_path, monkeypatch):
    """Looks at 10, 20, 30 ...; the error is least at 20, and patience is 20 steps."""
    monkeypatch.setattr(gaussian_ensemble, "_STEPS_PER_LOOK", 10)
    errors = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    seen = []

    def held_out_error(ensemble, inputs, targets, names, update_noise=False):
        seen.append(toys.bits(ensemble.weights[:2]))
        return {"mse": 0.0 if update_noise else next(errors)}

    monkeypatch.setattr(gaussian_ensemble, "held_out_error", held_out_error)
    config = dataclasses.replace(
        SMALL, dynamics_epochs=0, dynamics_steps=60, dynamics_patience=20, holdout_share=0.3
    )
    data = toys.transitions((20,) * 6)
    states, actions, after = _columns(data)
    split = holdout.split_episodes(data.episode_bounds(), 0.3, 0)
    statistics = gaussian_ensemble.data_statistics(TASK, "std", states, actions, after)
    ensemble = GaussianEnsemble(TASK, config, *statistics, 0)
    gaussian_ensemble.fit(
        ensemble,
        states=states,
        actions=actions,
        next_states=after,
        split=split,
        config=config,
        names=TASK.observation_names,
        seed=0,
        stage=toys.record(tmp_path / "run").stage("dynamics_fit"),
    )
    assert len(seen) == 5  # at 10, 20, 30, 40, and at the end
    assert seen[-1] == seen[1] != seen[-2]
