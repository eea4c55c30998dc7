import dataclasses
import io
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf import tasks
from offline_tf.numerics import holdout, standardize
from offline_tf.policies import cloning, gaussian
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import UserError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_policy(hidden=(8, 6), seed=0, state_dim=5, action_dim=2):
    units = gaussian.Units(
        np.linspace(-1.0, 1.0, state_dim),
        np.linspace(0.1, 2.0, state_dim),
        np.linspace(-0.5, 0.5, action_dim),
        np.linspace(1.0, 3.0, action_dim),
    )
    made = gaussian.GaussianPolicy(units, hidden, -0.5, np.random.default_rng(seed))
    # The output layer starts a hundred times smaller; differences would drown.
    for weight in made.weights[-3:-1]:
        weight.assign(100 * weight)
    made.log_std.assign(np.linspace(-1.0, 0.5, action_dim))
    return made


def arrays(actor):
    return [*actor.units, actor.log_std, *(x for layer in actor.layers for x in layer)]


def assert_same_bits(first, second):
    for one, two in zip(arrays(first), arrays(second), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_numpy_and_tensorflow_agree(hidden):
    made = make_policy(hidden)
    actor = made.numpy()
    x, actions = normal(30, 5), normal(30, 2, seed=1)
    np.testing.assert_allclose(actor.mean(x), made.mean(x), rtol=1e-4, atol=1e-5)
    expected = made.distribution(x).log_prob(actions)
    np.testing.assert_allclose(actor.log_prob(x, actions), expected, rtol=1e-4, atol=1e-4)


def test_mean_is_a_tanh_network_in_its_own_units():
    actor = make_policy((3,)).numpy()
    x = normal(4, 5)
    (k0, b0), (k1, b1) = actor.layers
    shift, scale = np.linspace(-1.0, 1.0, 5), np.linspace(0.1, 2.0, 5)
    for row, found in zip(x, actor.mean(x)):
        seen = (row - shift) * scale
        hidden = [np.tanh(sum(seen * k0[:, j]) + b0[j]) for j in range(3)]
        said = [sum(h * k for h, k in zip(hidden, k1[:, a])) + b1[a] for a in range(2)]
        expected = [-0.5 + 1.0 * said[0], 0.5 + 3.0 * said[1]]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_log_prob_by_hand():
    # Mean 0, sigma (1, 2), action (1, 2): -1/2 - 1/2 - ln 2 - ln(2 pi).
    layers = ((np.zeros((1, 2), np.float32), np.zeros(2, np.float32)),)
    actor = gaussian.NumpyPolicy(toys.plain_units(1, 2), layers, np.log(np.float32([1, 2])))
    found = actor.log_prob(np.zeros((1, 1), np.float32), np.float32([[1, 2]]))
    np.testing.assert_allclose(found, [-1 - np.log(2) - np.log(2 * np.pi)], rtol=1e-6)


def test_samples_have_the_policys_mean_and_spread():
    actor = make_policy().numpy()
    x = np.repeat(normal(1, 5), 4000, axis=0)
    samples = actor.sample(x, np.random.default_rng(0))
    std = np.exp(actor.log_std)
    # Five standard errors of a mean and of a standard deviation over 4,000 draws.
    assert (np.abs(samples.mean(axis=0) - actor.mean(x[:1])[0]) < 5 * std / np.sqrt(4000)).all()
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=5 / np.sqrt(8000))


def test_new_policy_is_nearly_zero():
    # Output layer scaled by 1e-2 (gaussian_mlp.py), hidden units within +-1, fan-in 6.
    units = toys.plain_units(5, 2)
    made = gaussian.GaussianPolicy(units, (8, 6), -0.5, generator=np.random.default_rng(0))
    assert np.abs(made.mean(normal(50, 5))).max() < 0.01 / np.sqrt(6) * (6 + 1)
    np.testing.assert_array_equal(made.log_std, np.float32([-0.5, -0.5]))


def test_save_and_load_keep_bits(tmp_path):
    actor, path = make_policy().numpy(), tmp_path / "deep" / "policy.npz"
    about = {"env": "hopper", "mean_return": 1234.5, "nested": [1, None]}
    gaussian.save(path, actor, about)
    loaded, read = gaussian.load(path)
    assert_same_bits(loaded, actor)
    assert read == about
    assert [p.name for p in path.parent.iterdir()] == ["policy.npz"]


def garbage(kind):
    if kind == "truncated":
        return gaussian.shipped("hopper").read_bytes()[:5000]
    if kind == "deflated":  # a byte within compressed data, as a bad disk leaves
        good = bytearray(gaussian.shipped("hopper").read_bytes())
        good[len(good) // 2] ^= 0xFF
        return bytes(good)
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, np.zeros(3))
        return file.getvalue()
    return {"text": b"garbage", "empty": b""}[kind]


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "deflated", "npy"])
def test_loading_garbage_is_the_users_error(tmp_path, kind):
    path = tmp_path / "policy.npz"
    path.write_bytes(garbage(kind))
    with pytest.raises(UserError, match="is no policy weight file"):
        gaussian.load(path)


def test_loading_other_arrays_is_the_users_error(tmp_path):
    path = tmp_path / "policy.npz"
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(UserError, match="is no policy weight file"):
        gaussian.load(path)
    with pytest.raises(UserError, match="found none"):
        gaussian.load(tmp_path / "none.npz")


def test_assign_takes_over_another_policy():
    first, second = make_policy(seed=0), make_policy(seed=1)
    second.log_std.assign([0.25, -3.0])
    x = normal(6, 5)
    assert (first.mean(x) != second.mean(x)).numpy().all()
    first.assign(second.numpy())
    np.testing.assert_array_equal(first.mean(x), second.mean(x))
    assert_same_bits(first.numpy(), second.numpy())


def test_assign_refuses_another_shape():
    with pytest.raises(ValueError):
        make_policy((8, 6)).assign(make_policy((8,)).numpy())


def test_numpy_is_a_copy():
    made = make_policy()
    before = [x.copy() for x in arrays(made.numpy())]
    actor = made.numpy()
    for weight in made.weights:
        weight.assign_add(tf.ones_like(weight))
    for one, two in zip(arrays(actor), before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_no_action_is_drowned_by_one_with_a_larger_range(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)).astype(np.float32)
    y = np.stack([1000.0 * rng.uniform(-1, 1, 4000), 0.5 * x[:, 0]], axis=1).astype(np.float32)
    units = toys.plain_units(2, 2)._replace(output_scale=np.float32([1000.0, 1.0]))
    made = gaussian.GaussianPolicy(units, (16,), -1.0, np.random.default_rng(0))
    stage = toys.record(tmp_path / "run").stage("cloning")
    cloning.fit_or_load(
        made,
        observations=x,
        actions=y,
        epochs=5,
        batch_size=100,
        learning_rate=0.01,
        seed=0,
        stage=stage,
    )
    left = y - made.mean(x).numpy()
    assert left[:, 1].var() < 0.02 * y[:, 1].var()
    expected = np.square(left / [1000.0, 1.0]).mean()
    assert stage.result["mse"] == pytest.approx(expected, rel=0.1)


def test_a_file_without_units_is_of_raw_ones():
    loaded, _ = gaussian.load(gaussian.shipped("hopper"))
    with np.load(gaussian.shipped("hopper")) as file:
        assert "output_scale" not in file.files  # made before there were others
        np.testing.assert_array_equal(loaded.units.input_scale, file["input_scale"])
    np.testing.assert_array_equal(loaded.units.input_shift, np.zeros(11))
    np.testing.assert_array_equal(loaded.units.output_shift, np.zeros(3))
    np.testing.assert_array_equal(loaded.units.output_scale, np.ones(3))


def test_units_of_data_are_spreads_and_halves_of_ranges():
    task = dataclasses.replace(
        toys.cart(), action_low=np.float32([0.0]), action_high=np.float32([100.0])
    )
    seen = gaussian.Statistics(np.float32([300.0, 5.0]), np.float32([0.25, 0.0]))
    units = gaussian.data_units(task, seen)
    np.testing.assert_array_equal(units.input_shift, [300.0, 5.0])
    np.testing.assert_array_equal(units.input_scale, [4.0, 0.0])  # what never changes is not seen
    np.testing.assert_array_equal(units.output_shift, [50.0])
    np.testing.assert_array_equal(units.output_scale, [50.0])
    made = gaussian.GaussianPolicy(units, (8,), -1.0)
    np.testing.assert_allclose(made.log_std, [np.log(50.0) - 1.0], rtol=1e-6)
    np.testing.assert_allclose(made.mean(np.float32([[300.5, 5.0]])), [[50.0]], atol=1.0)


def test_actions_without_a_range_stay_in_their_own_unit():
    task = dataclasses.replace(
        toys.cart(),
        action_names=("locked", "free", "above"),
        action_low=np.float32([2.0, -np.inf, 5.0]),
        action_high=np.float32([2.0, np.inf, np.inf]),
    )
    units = gaussian.data_units(task, gaussian.Statistics(np.zeros(2), np.ones(2)))
    np.testing.assert_array_equal(units.output_shift, [2.0, 0.0, 5.0])
    np.testing.assert_array_equal(units.output_scale, [1.0, 1.0, 1.0])


def test_cloning_learns_in_units_far_from_one(tmp_path):
    """Kelvin in, percent out: raw tanh units would all be saturated."""
    rng = np.random.default_rng(0)
    kelvin = (300.5 + 0.25 * rng.normal(size=(4000, 2))).astype(np.float32)
    percent = (50.0 + 60.0 * (kelvin[:, :1] - 300.5)).astype(np.float32)
    task = dataclasses.replace(
        toys.cart(), action_low=np.float32([0.0]), action_high=np.float32([100.0])
    )
    explained = {}
    for name, units in (
        ("raw", gaussian.raw_units(task)),
        ("data", gaussian.data_units(task, standardize.statistics(kelvin))),
    ):
        made = gaussian.GaussianPolicy(units, (16,), -1.0, np.random.default_rng(0))
        stage = toys.record(tmp_path / name).stage("cloning")
        cloning.fit_or_load(
            made,
            observations=kelvin,
            actions=percent,
            epochs=5,
            batch_size=100,
            learning_rate=0.01,
            seed=0,
            stage=stage,
        )
        left = percent - made.mean(kelvin).numpy()
        explained[name] = 1.0 - left.var() / percent.var()
    assert explained["data"] > 0.98 and explained["raw"] < 0.5


@pytest.mark.parametrize("robot", tasks.names())
def test_velocity_scale_touches_velocities_only(robot):
    task = tasks.get(robot)
    units = gaussian.raw_units(task, 0.02)
    for name, value in zip(task.observation_names, units.input_scale, strict=True):
        assert value == (np.float32(0.02) if "velocity" in name else 1)


@pytest.mark.parametrize("robot", tasks.names())
def test_shipped_policies_fit_their_robot(robot):
    task = tasks.get(robot)
    actor, about = gaussian.load(gaussian.shipped(robot))
    actions = actor.mean(np.zeros((2, task.state_dim), np.float32))
    assert actions.shape == (2, task.action_dim) and np.isfinite(actions).all()
    assert about["env"] == robot and f"--env={robot}" in about["command"]


def linear_data(rows=2000):
    x = normal(rows, 4)
    return x, np.clip(x @ (0.2 * normal(4, 2, seed=1)) + np.float32([0.1, -0.3]), -1, 1)


def clone(folder, epochs, rate=0.01):
    made = gaussian.GaussianPolicy(
        toys.plain_units(4, 2), (), -0.5, generator=np.random.default_rng(0)
    )
    stage = RunRecord.create_or_continue(folder, "toy", {"seed": 0}).stage("cloning")
    observations, actions = linear_data()
    fitted = cloning.fit_or_load(
        made,
        observations=observations,
        actions=actions,
        epochs=epochs,
        batch_size=100,
        learning_rate=rate,
        seed=0,
        stage=stage,
    )
    return made, fitted, stage


def test_rounds_restart_at_the_whole_rate_and_are_twice_as_long():
    rounds = cloning.Rounds(100, 2)
    assert rounds.total == 700
    rates = rounds.rates(1.0, np.array([0, 50, 99, 100, 200, 299, 300, 500, 699]))
    half, last = 0.5, [0.5 * (1.0 + np.cos(np.pi * (1.0 - 1.0 / n))) for n in (100, 200, 400)]
    expected = [1.0, half, last[0], 1.0, half, last[1], 1.0, half, last[2]]
    np.testing.assert_allclose(rates, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("done", "best", "over"),
    [
        (100, 100, False),  # the first round has none before it
        (299, 90, False),  # the second is not over
        (300, 100, True),  # nothing better in it
        (300, 200, False),
        (400, 100, True),  # a look after its end tells as much
        (700, 300, True),
        (700, 301, False),
    ],
)
def test_no_round_follows_one_that_found_nothing_better(done, best, over):
    assert cloning.Rounds(100, 2).is_over(done, best) is over


def test_without_restarts_there_is_one_round():
    rounds = cloning.Rounds(100, 0)
    assert rounds.total == 100 and not rounds.is_over(100, 1)
    np.testing.assert_allclose(rounds.rates(2.0, np.array([0, 50])), [2.0, 1.0])
    assert cloning.Rounds(0, 2).total == 0


def test_a_clone_is_fitted_on_while_the_held_out_error_falls(tmp_path):
    """A hard function goes through all rounds; of noise the first round knows all there is."""
    x = normal(3000, 4)
    noise = np.random.default_rng(1).normal(size=(3000, 2)).astype(np.float32)
    rows = holdout.Split(np.arange(2000), np.arange(2000, 3000))
    steps, residuals = {}, {}
    for name, actions in (("hard", np.sin(3.0 * x[:, :2])), ("noise", noise)):
        for restarts in (0, 2):
            made = gaussian.GaussianPolicy(
                toys.plain_units(4, 2), (16,), -0.5, generator=np.random.default_rng(0)
            )
            stage = toys.record(tmp_path / f"{name}{restarts}").stage("cloning")
            cloning.fit_or_load(
                made,
                observations=x,
                actions=actions,
                rows=rows,
                epochs=0,
                steps=1000,
                restarts=restarts,
                batch_size=50,
                learning_rate=1e-2,
                seed=0,
                stage=stage,
            )
            log = tmp_path / f"{name}{restarts}" / "metrics" / "cloning.csv"
            steps[name, restarts] = int(log.read_text().splitlines()[-1].split(",")[0])
            residuals[name, restarts] = float(np.mean(stage.result["residual"]))
    assert steps == {("hard", 0): 1000, ("hard", 2): 7000, ("noise", 0): 1000, ("noise", 2): 3000}
    assert residuals["hard", 2] < 0.9 * residuals["hard", 0]
    assert residuals["noise", 2] == pytest.approx(residuals["noise", 0], rel=0.05)


def cloned_in_rounds(folder, steps, restarts, target=None):
    made = gaussian.GaussianPolicy(
        toys.plain_units(4, 2), (16,), -0.5, generator=np.random.default_rng(0)
    )
    x = normal(3000, 4)
    stage = toys.record(folder).stage("cloning")
    cloning.fit_or_load(
        made,
        observations=x,
        actions=np.sin(3.0 * x[:, :2]) if target is None else target,
        rows=holdout.Split(np.arange(2000), np.arange(2000, 3000)),
        epochs=0,
        steps=steps,
        restarts=restarts,
        batch_size=50,
        learning_rate=1e-2,
        seed=0,
        stage=stage,
    )
    return toys.bits(made.weights), float(np.mean(stage.result["residual"]))


@pytest.mark.parametrize("steps", [200, 500, 1500])
def test_restarts_never_end_with_a_higher_held_out_error(tmp_path, steps):
    """Whatever the steps between looks: each round's end is looked at, where the rate is 0."""
    noise = np.random.default_rng(1).normal(size=(3000, 2)).astype(np.float32)
    for name, target in (("hard", None), ("noise", noise)):
        _, one = cloned_in_rounds(tmp_path / f"{name}-one", steps, 0, target)
        _, more = cloned_in_rounds(tmp_path / f"{name}-more", steps, 2, target)
        assert more <= one


@pytest.mark.parametrize("saves", [1, 2, 3, 4, 6, 8])
def test_a_fit_killed_in_any_round_ends_with_the_same_bits(tmp_path, monkeypatch, saves):
    """Rounds of 1500, 3000 and 6000 steps; the last saves are those of the best weights."""
    expected = cloned_in_rounds(tmp_path / "whole", 1500, 2)
    save, done = Stage.save, []

    def killed(self, *arguments, **options):
        save(self, *arguments, **options)
        done.append(arguments)
        if len(done) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        cloned_in_rounds(tmp_path / "killed", 1500, 2)
    monkeypatch.undo()
    assert cloned_in_rounds(tmp_path / "killed", 1500, 2) == expected


def test_cloning_finds_a_linear_policy_and_leaves_log_std(tmp_path):
    x, actions = linear_data()
    made, fitted, stage = clone(tmp_path / "run", 12)
    # Least squares in closed form: the clipping leaves a small residual.
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    solution, residual, *_ = np.linalg.lstsq(design, actions, rcond=None)
    kernel, bias = fitted.layers[0]
    np.testing.assert_allclose(np.vstack([kernel, bias]), solution, atol=0.01)
    assert stage.complete
    assert stage.result["mse"] == pytest.approx(residual.sum() / actions.size, abs=2e-4)
    np.testing.assert_array_equal(fitted.log_std, np.float32([-0.5, -0.5]))
    np.testing.assert_array_equal(made.mean(x[:5]), made.bind()(x[:5]))


def test_cloning_goes_on_where_it_stopped(tmp_path):
    _, straight, _ = clone(tmp_path / "straight", 4)
    clone(tmp_path / "stopped", 2)
    _, continued, _ = clone(tmp_path / "stopped", 4)
    assert_same_bits(straight, continued)
    _, again, _ = clone(tmp_path / "stopped", 4)
    assert_same_bits(straight, again)


def test_cloning_that_diverges_ends_in_one_line(tmp_path):
    with pytest.raises(
        UserError, match="^cloning: .* not finite within 1 epochs.*--bc_learning_rate"
    ):
        clone(tmp_path / "run", 2, rate=1e30)
    assert clone(tmp_path / "run", 1)[2].complete  # what it wrote before can be gone on from


def test_no_epochs_leave_the_policy_random(tmp_path):
    made, fitted, stage = clone(tmp_path / "run", 0)
    fresh = gaussian.GaussianPolicy(
        toys.plain_units(4, 2), (), -0.5, generator=np.random.default_rng(0)
    )
    assert_same_bits(fitted, fresh.numpy())
    assert stage.complete
    _, again, _ = clone(tmp_path / "run", 0)  # it has weights to be read
    assert_same_bits(again, fitted)


def test_a_header_that_numpy_cannot_take_apart_is_refused(tmp_path):
    """Found by benchmarks/fuzz: numpy's reader raises what its tokenizer does."""
    path = tmp_path / "policy.npz"
    gaussian.save(path, *gaussian.load(gaussian.shipped("hopper")))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"{'descr'", b"(('descr'"))
    with pytest.raises(UserError, match=r"policy\.npz is no policy weight file"):
        gaussian.load(path)


BOUNDS = cloning.Bounds(np.float32([-1.0]), np.float32([1.0]))


def clone_of_one_action(folder, x, y, censored, epochs=20, rate=0.02):
    """A linear policy from x to y, both [N, 1], and its stage."""
    made = gaussian.GaussianPolicy(toys.plain_units(1, 1), (), -1.0, np.random.default_rng(0))
    stage = toys.record(folder).stage("cloning")
    cloning.fit_or_load(
        made,
        observations=x,
        actions=y.astype(np.float32),
        epochs=epochs,
        batch_size=100,
        learning_rate=rate,
        seed=0,
        stage=stage,
        censored=BOUNDS if censored else None,
    )
    return made, stage


@pytest.mark.parametrize("censored", [False, True])
def test_a_mean_may_lie_beyond_the_bound_that_an_action_stands_at(tmp_path, censored):
    """A linear policy three times too steep for the bounds; half of its actions stand at them."""
    x = np.random.default_rng(0).uniform(-1, 1, size=(4000, 1)).astype(np.float32)
    made, stage = clone_of_one_action(tmp_path / "run", x, np.clip(3.0 * x, -1.0, 1.0), censored)
    steep = float(made.mean(np.float32([[1.0]])).numpy()[0, 0])
    if censored:
        assert steep > 2.7 and stage.result["residual"][0] < 0.03
    else:
        assert 1.0 < steep < 1.6 and stage.result["residual"][0] > 0.2


def test_errors_at_a_bound_count_inwards_alone():
    bounds = cloning.Bounds(np.float32([0.0, -2.0]), np.float32([100.0, 2.0]))
    means = np.float32([[120.0, -3.0], [90.0, -1.0], [-5.0, 2.5], [50.0, 0.5]])
    logged = np.float32([[100.0, -2.0], [99.95, -2.0], [0.0, 1.9], [40.0, 0.0]])
    expected = np.float32([[0.0, 0.0], [-9.95, 1.0], [0.0, 0.6], [10.0, 0.5]])
    np.testing.assert_allclose(bounds.errors(means, logged).numpy(), expected, rtol=1e-5)


def test_actions_without_a_bound_are_not_censored():
    infinite = np.float32(np.inf)
    bounds = cloning.Bounds(
        np.float32([-infinite, 0.0, -infinite]), np.float32([infinite, infinite, 5.0])
    )
    logged = np.float32([[3.0, 7.0, -2.0], [-3.0, 0.0, 5.0]])
    means = np.float32([[2.0, 6.0, -4.0], [-1.0, -2.0, 8.0]])
    expected = np.float32([[-1.0, -1.0, -2.0], [2.0, 0.0, 0.0]])
    np.testing.assert_array_equal(bounds.errors(means, logged).numpy(), expected)
    np.testing.assert_array_equal(bounds.inside(logged), [[True] * 3, [True, False, False]])


def test_noise_shows_where_actions_stand_at_no_bound(tmp_path):
    """A policy ten times too steep, with noise 0.3: nine of ten actions stand at a bound."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(4000, 1)).astype(np.float32)
    y = np.clip(10.0 * x + 0.3 * rng.normal(size=x.shape), -1.0, 1.0)
    _, stage = clone_of_one_action(tmp_path / "run", x, y, True, rate=0.05)
    assert np.mean(BOUNDS.inside(y)) < 0.15
    assert stage.result["residual"][0] == pytest.approx(0.3, rel=0.2)


def test_noise_of_actions_that_all_stand_at_bounds_is_that_of_the_executed_ones(tmp_path):
    x, y = np.ones((200, 1), np.float32), np.where(np.arange(200) % 2, 1.0, -1.0)[:, None]
    _, stage = clone_of_one_action(tmp_path / "run", x, y, True, epochs=0)
    assert 0.9 < stage.result["residual"][0] < 1.5
