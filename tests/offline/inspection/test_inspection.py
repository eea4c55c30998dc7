from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import toys

from offline_tf.inspection import figures, measures
from offline_tf.inspection.measures import Prediction, Rows, View

CART = toys.cart()
# Two-sided quantiles of the standard normal for inspection.LEVELS, from tables.
QUANTILES = np.array([0.12566, 0.31864, 0.67449, 1.15035, 1.64485, 1.95996, 2.57583])


def view(gains=(0.0, 1.0), limit=1.0, drift=(0.0, 0.0)) -> View:
    """Members that are off by gain * (|x| - 1) beyond |x| = 1, and by `drift` of x at every step."""

    def look(states, actions):
        change = tf.stack([toys.DT * states[:, 1], toys.PUSH * actions[:, 0]], axis=1)
        beyond = tf.nn.relu(tf.abs(states[:, 0]) - 1.0)
        off = [g * beyond + d for g, d in zip(gains, drift, strict=True)]
        told = tf.stack([states + change + tf.stack([o, 0.0 * o], axis=1) for o in off])
        return Prediction(told, (max(gains) - min(gains)) * beyond)

    return View(measures.compiled(look, CART), limit, CART.observation_names)


def rows_at(x) -> Rows:
    x = np.asarray(x, np.float32)
    rng = np.random.default_rng(0)
    states = np.stack([x, rng.normal(size=len(x))], axis=1).astype(np.float32)
    actions = rng.uniform(-1, 1, (len(x), 1)).astype(np.float32)
    return Rows(states, actions, states + toys.change(states, actions).astype(np.float32))


def test_errors_are_in_units_of_the_changes_spread():
    rows = rows_at([-3.0, 0.0, 0.5, 2.0])  # |x| - 1: 2, 0, 0, 1
    found = measures.errors(rows, measures.predict(view(), rows.states, rows.actions))
    unit = (rows.next_states - rows.states).std(axis=0)
    root = np.sqrt((2**2 + 1**2) / 4)
    np.testing.assert_allclose(found["member_error"][:, 0], [0.0, root / unit[0]], atol=1e-5)
    np.testing.assert_allclose(found["error"], [0.5 * root / unit[0], 0.0], atol=1e-5)


def test_a_dimension_that_never_changes_has_no_unit():
    rows = rows_at([0.0, 0.1])
    still = rows._replace(next_states=rows.states)
    found = measures.errors(still, measures.predict(view(), rows.states, rows.actions))
    assert np.isfinite(found["error"]).all()


@pytest.mark.parametrize("told", [1.0, 0.5])
def test_coverage_is_the_chance_of_the_gaussian(told):
    """Truth with spread 0.3; models that say so, and models that promise half of it."""
    rows = rows_at(np.linspace(-1, 1, 4000))
    noise = 0.3 * np.random.default_rng(1).normal(size=rows.states.shape)
    truth = rows._replace(next_states=rows.next_states + noise.astype(np.float32))
    said = measures.predict(view(), rows.states, rows.actions).next_states
    found = measures.calibration(truth, said, np.full(said.shape, 0.3 * told))
    expected = np.array([math.erf(told * bound / math.sqrt(2)) for bound in QUANTILES])
    np.testing.assert_array_equal(found["level"], measures.LEVELS)
    # Standard error at most 0.5 / sqrt(4000).
    np.testing.assert_allclose(found["coverage"], expected[:, None].repeat(2, 1), atol=0.03)


def test_members_that_differ_widen_the_interval():
    rows = rows_at(np.full(50, 3.0))  # members are 2 apart around a mean that is 1 off
    said = measures.predict(view(), rows.states, rows.actions).next_states
    found = measures.calibration(rows, said, np.full(said.shape, 1e-3))
    # Spread sqrt(1e-6 + 1): 1 off is one standard deviation, within 75 % and not within 50 %.
    at = {level: found["coverage"][i, 0] for i, level in enumerate(found["level"])}
    assert at[0.5] == 0.0 and at[0.75] == 1.0


def test_open_loops_run_each_member_on_its_own_states():
    data = toys.transitions((30, 30))
    steps, starts = 12, np.array([0, 5, 35])
    columns = (data.observations, data.actions, data.next_observations)
    found = measures.open_loop(
        view(gains=(0.0, 0.0), drift=(0.0, 0.01)),
        states=columns[0],
        actions=columns[1],
        next_states=columns[2],
        starts=starts,
        steps=steps,
    )
    for step in range(steps + 1):
        here = columns[0][starts + step] if step < steps else columns[2][starts + step - 1]
        np.testing.assert_allclose(found["recorded"][step], here, atol=1e-6)
        np.testing.assert_allclose(found["predicted"][step, 0], here, atol=1e-5)
        off = found["predicted"][step, 1] - here
        np.testing.assert_allclose(off[:, 0], 0.01 * step, atol=1e-5)
        np.testing.assert_allclose(off[:, 1], 0.0, atol=1e-5)
    # The mean of both is off by half of that, in units of the spread, over two dimensions.
    expected = 0.5 * 0.01 * np.arange(steps + 1) / columns[0][:, 0].std() / np.sqrt(2)
    np.testing.assert_allclose(found["drift"], expected[:, None].repeat(3, 1), atol=2e-5)


def test_open_loops_stay_within_held_out_episodes_and_take_all_of_them():
    bounds = np.array([[0, 10], [10, 14], [14, 30], [30, 60]])
    held_out = np.concatenate([np.arange(0, 14), np.arange(30, 60)])
    starts = measures.open_loop_starts(bounds, held_out, 6, 40)
    assert set(np.searchsorted(bounds[:, 1], starts, side="right")) == {0, 3}
    assert starts[starts < 10].max() == 4 and 50 < starts.max() <= 54
    # As many of the short episode as it has, and up to half of all of the long one.
    assert (starts < 10).sum() == 5 and 15 <= (starts >= 30).sum() <= 20
    assert len(measures.open_loop_starts(bounds, held_out, 6, 2)) == 2
    assert not len(measures.open_loop_starts(bounds, np.arange(10, 14), 6, 4))
    assert measures.open_loop_steps(bounds, held_out, 50) == 10
    assert measures.open_loop_steps(bounds, held_out, 7) == 7


def test_separation_knows_what_lies_beyond_the_limit():
    near, far = rows_at(np.linspace(-1, 1, 40)), rows_at([3.0, -3.0, 1.5])
    groups = measures.separation(
        view(limit=0.7),
        held_out=near,
        low=CART.action_low,
        high=CART.action_high,
        generator=np.random.default_rng(0),
        others={"other": (far.states, far.actions)},
    )
    np.testing.assert_allclose(groups["other"], [2.0, 2.0, 0.5], atol=1e-6)
    numbers = measures.separation_numbers(groups, 0.7)
    assert numbers["known/held out"] == 1.0 and numbers["auroc/other"] == 1.0
    assert numbers["known/other"] == pytest.approx(1 / 3)
    # This detector does not look at actions.
    assert numbers["auroc/random actions"] == numbers["auroc/shuffled actions"] == 0.5


def test_the_plane_holds_what_varies_most():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(500, 1)) @ np.array([[1.0, 2.0, -1.0]])
    second = rng.normal(size=(500, 1)) @ np.array([[0.5, -0.2, 0.1]])
    states = (base + second + [5.0, 0.0, -2.0]).astype(np.float32)
    plane = measures.principal_plane(states)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-6)
    assert plane.share.sum() == pytest.approx(1.0, abs=1e-5) and plane.share[0] > plane.share[1]
    # Two axes hold everything here: places give the states back.
    back = plane.shift + (plane.place(states) @ plane.axes) * plane.scale
    np.testing.assert_allclose(back, states, atol=1e-4)


def test_the_map_shows_the_detector_in_the_plane():
    rows = rows_at(np.linspace(-2, 2, 300))
    plane = measures.principal_plane(rows.states)
    found = measures.known_map(view(limit=0.5), plane, rows.states, rows.actions, cells=12)
    for i, y in enumerate(found["y"]):
        for j, x in enumerate(found["x"]):
            state = plane.shift + (np.array([x, y]) @ plane.axes) * plane.scale
            expected = max(abs(state[0]) - 1.0, 0.0) / 0.5
            assert found["ratio"][i, j] == pytest.approx(expected, abs=1e-4)
    assert found["ratio"].min() == 0.0 and found["ratio"].max() > 1.0


def test_one_dimension_has_a_plane_and_a_map_too():
    states = np.linspace(-2, 2, 90, dtype=np.float32)[:, None]
    plane = measures.principal_plane(states)
    assert plane.axes.shape == (2, 1) and plane.share[0] == pytest.approx(1.0)
    np.testing.assert_array_equal(plane.place(states)[:, 1], 0.0)

    def look(s, a):
        return Prediction(tf.stack([s, s]), tf.abs(s[:, 0]))

    seen = View(look, 0.0, ("x",))  # a limit of 0, as of a single member
    actions = np.zeros((90, 1), np.float32)
    found = measures.known_map(seen, plane, states, actions, cells=5)
    assert np.isfinite(found["ratio"]).all()
    (axis, bar) = figures.known_map(**found, share=plane.share, limited=False).axes
    assert axis.get_title() == "Disagreement; no limit"
    assert bar.get_ylabel() == "log10 of disagreement"
    with_limit = figures.known_map(**found, share=plane.share).axes[0]
    assert len(with_limit.collections) > len(axis.collections)  # the line of the limit
    shown = figures.candidates(
        np.zeros((2, 4, 3, 1)), np.ones((2, 4), bool), np.ones((2, 4)), ["x"], ["one", "two"]
    )
    assert [axis.get_visible() for axis in shown.axes] == [True, True, False, False]


def test_survivors_and_the_chosen_candidate_look_different():
    states = np.arange(3.0)[:, None, None] + np.zeros((1, 3, 4, 1))
    keep, weights = np.array([[True, False, True]]), np.array([[0.2, 0.0, 0.8]])
    axis = figures.candidates(states, keep, weights, ["x"], ["one"]).axes[0]
    by_value = [(line.get_ydata()[0], line.get_linestyle()) for line in axis.lines]
    assert by_value == [(0.0, "-"), (1.0, ":"), (2.0, "-"), (2.0, "-")]  # the last is the heaviest
    assert axis.lines[0].get_color() == axis.lines[2].get_color() != axis.lines[1].get_color()
    assert axis.lines[3].get_linewidth() > axis.lines[2].get_linewidth()


def test_coverage_stands_over_its_level():
    level = np.array([0.1, 0.5, 0.9])
    axis = figures.calibration(level, np.stack([0.5 * level, 0.9 * level], axis=1)).axes[0]
    (mean,) = (line for line in axis.lines if line.get_label() == "mean")
    np.testing.assert_allclose(mean.get_xdata(), level)
    np.testing.assert_allclose(mean.get_ydata(), 0.7 * level)


def test_every_group_of_pairs_is_drawn():
    groups = {f"set {i}": np.geomspace(0.1, 1.0 + i, 50) for i in range(8)}
    numbers = {f"known/{name}": 1.0 for name in groups}
    axis = figures.separation(groups, 1.0, numbers).axes[0]
    shown = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [name for name in groups if any(name in text for text in shown)] == list(groups)
