import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import objectives
from mopp_tf.config import MbopConfig, PlannerConfig
from mopp_tf.control_config import ControlConfig, changed_planner
from mopp_tf.models.rows import RewardScale
from offline_tf import tasks
from offline_tf.models import compilation
from offline_tf.types import UserError

CHEETAH = tasks.get("halfcheetah")
SCALE = RewardScale(shift=-3.0, scale=4.0)
HERE = __name__
LEARNED = tf.constant([0.5, -1.0])
STATES = tf.constant([[1.0, 2.0], [3.0, 4.0]])
ACTIONS = tf.constant([[0.5], [-1.0]])
NEXT = tf.constant([[1.5, 2.5], [-3.5, 4.5]])


def _cheetah_states(heights, speeds):
    states = np.full((len(heights), 17), 100.0, np.float32)  # no other dimension counts
    states[:, 0], states[:, 8] = heights, speeds
    return tf.constant(states)


def test_cheetah_columns():
    assert CHEETAH.observation_names[0] == "height"
    assert CHEETAH.observation_names[8] == "velocity_x"


def test_jump_by_hand():
    states = _cheetah_states([7.0, 7.0, 7.0], [1.0, 4.0, -6.0])
    after = _cheetah_states([0.2, 0.0, -0.1], [3.0, 3.0, 2.0])
    actions = tf.constant([[1.0, 0, 0, 0, 0, 0], [0.5, -0.5, 0, 0, 0, 0], [1.0] * 6])
    # v = 2, 3.5 (paid as 3), -2; then -0.1 |a|^2 and 15 z of the state after the step.
    expected = [2.0 - 0.1 + 3.0, 3.0 - 0.05 + 0.0, -2.0 - 0.6 - 1.5]
    np.testing.assert_allclose(objectives.jump(states, actions, after), expected, rtol=1e-5)
    expected[1] += 0.25
    found = objectives.jump(states, actions, after, 3.25)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_speed_limit_by_hand():
    states, actions = _cheetah_states([0.0] * 4, [99.0] * 4), tf.zeros([4, 6])
    after = _cheetah_states([50.0] * 4, [4.0, 5.0, 5.25, 8.0])
    found = objectives.speed_limit(states, actions, after, 5.0)
    np.testing.assert_allclose(found, [0.0, 0.0, 0.25, 3.0])


def reward(s, a, n):
    """Tells its three arguments and their columns apart."""
    return s[:, 0] + 10.0 * a[:, 0] + 100.0 * n[:, 1]


def constraint(s, a, n, limit=0.0):
    return n[:, 0] + a[:, 0] - limit


def _objective(**fields):
    return objectives.Objective(SCALE, **fields)


def _check(objective, rewards, broken):
    found = objective.apply(STATES, ACTIONS, NEXT, LEARNED)
    np.testing.assert_allclose(found[0], rewards, rtol=1e-6)
    np.testing.assert_allclose(found[1], broken, rtol=1e-6)


def test_without_functions_the_learned_reward_stays():
    _check(_objective(), [0.5, -1.0], [0.0, 0.0])


def test_a_user_reward_is_added_or_takes_the_place_in_scaled_units():
    # reward = (1 + 5 + 250, 3 - 10 + 450), divided by the scale 4; the shift does not enter.
    _check(_objective(reward=reward), [0.5 + 64.0, -1.0 + 110.75], [0.0, 0.0])
    _check(_objective(reward=reward, replaces=True), [64.0, 110.75], [0.0, 0.0])


def test_the_tasks_reward_takes_the_place_of_the_models_in_scaled_units():
    # (1 + 5 + 250 - shift) / 4 and (3 - 10 + 450 - shift) / 4
    own = [(256.0 - SCALE.shift) / 4.0, (443.0 - SCALE.shift) / 4.0]
    _check(_objective(of_task=reward), own, [0.0, 0.0])
    _check(_objective(of_task=reward, reward=reward), [own[0] + 64.0, own[1] + 110.75], [0.0, 0.0])
    _check(_objective(of_task=reward, reward=reward, replaces=True), [64.0, 110.75], [0.0, 0.0])
    _check(_objective(of_task=reward, constraint=constraint), own, [2.0, 0.0])


def test_a_task_without_a_reward_has_none_of_its_own():
    assert objectives.reward_of(toys.cart(reward=None), "v2") is None
    told = toys.cart(reward=lambda s, a, n, physics: physics)
    assert objectives.reward_of(told, "v5")(None, None, None) == "v5"


def test_functions_see_actions_in_the_units_of_the_task():
    bounds = {"middle": np.float32([2.0]), "half": np.float32([4.0])}
    # 2 + 4 a: 4 and -2.
    replaced = [(1 + 40 + 250) / 4, (3 - 20 + 450) / 4]
    _check(_objective(reward=reward, replaces=True, **bounds), replaced, [0.0, 0.0])
    # n_0 + a: 1.5 + 4 and -3.5 - 2.
    _check(_objective(constraint=constraint, **bounds), [0.5, -1.0], [5.5, 0.0])


def test_a_hard_constraint_prunes_and_takes_nothing():
    # n_0 + a: 2 and -4.5; in its own units, not in those of the reward.
    _check(_objective(constraint=constraint), [0.5, -1.0], [2.0, 0.0])
    both = _objective(constraint=constraint, reward=reward)
    _check(both, [64.5, 109.75], [2.0, 0.0])


def test_a_soft_constraint_takes_its_price_and_prunes_nothing():
    # price 6 per unit, 2 units, scale 4: 3 off where it is broken, nothing paid where it is not.
    _check(_objective(constraint=constraint, price=6.0), [0.5 - 3.0, -1.0], [0.0, 0.0])
    both = _objective(constraint=constraint, price=6.0, reward=reward, replaces=True)
    _check(both, [64.0 - 3.0, 110.75], [0.0, 0.0])
    _check(_objective(constraint=constraint, price=0.0), [0.5, -1.0], [0.0, 0.0])


@pytest.mark.parametrize(
    ("flags", "rewards", "broken"),
    [
        ({}, [0.5, -1.0], [0.0, 0.0]),
        ({"reward": f"{HERE}:reward"}, [64.5, 109.75], [0.0, 0.0]),
        ({"reward": f"{HERE}:reward", "reward_mode": "replace"}, [64.0, 110.75], [0.0, 0.0]),
        ({"constraint": f"{HERE}:constraint"}, [0.5, -1.0], [2.0, 0.0]),
        ({"constraint": f"{HERE}:constraint", "constraint_arg": 1.5}, [0.5, -1.0], [0.5, 0.0]),
        (
            {
                "constraint": f"{HERE}:constraint",
                "constraint_mode": "soft",
                "constraint_weight": 6.0,
            },
            [-2.5, -1.0],
            [0.0, 0.0],
        ),
    ],
)
def test_make_reads_the_flags(flags, rewards, broken):
    _check(objectives.make(toys.cart(), SCALE, ControlConfig(**flags)), rewards, broken)


def test_make_takes_asymmetric_bounds_from_the_task():
    task = toys.cart(action_low=np.float32([-2.0]), action_high=np.float32([6.0]))
    made = objectives.make(task, SCALE, ControlConfig(constraint=f"{HERE}:constraint"))
    _check(made, [0.5, -1.0], [5.5, 0.0])


def test_the_papers_examples_load_by_name():
    flags = {
        "reward": "mopp_tf.objectives:jump",
        "reward_mode": "replace",
        "constraint": "mopp_tf.objectives:speed_limit",
        "constraint_arg": 2.0,
    }
    made = objectives.make(CHEETAH, SCALE, ControlConfig(**flags))
    states, after = _cheetah_states([0.0], [1.0]), _cheetah_states([0.2], [3.0])
    rewards, broken = made.apply(states, tf.zeros([1, 6]), after, tf.constant([9.0]))
    np.testing.assert_allclose(rewards, [(2.0 + 3.0) / 4.0], rtol=1e-5)
    np.testing.assert_allclose(broken, [1.0])
    made = objectives.make(CHEETAH, SCALE, ControlConfig(**flags, reward_arg=1.0))
    rewards, _ = made.apply(states, tf.zeros([1, 6]), after, tf.constant([9.0]))
    np.testing.assert_allclose(rewards, [(1.0 + 3.0) / 4.0], rtol=1e-5)


def wide(s, a, n):
    return tf.concat([s, a], axis=1)


def twice(s, a, n):
    return tf.concat([s[:, 0], n[:, 0]], axis=0)


def scalar(s, a, n):
    return tf.reduce_sum(n)


def nothing(s, a, n):
    return None


def raising(s, a, n):
    raise RuntimeError("the moon is full")


def beyond(s, a, n):
    return s[:, 8]


def needs_a_limit(s, a, n, limit):
    return s[:, 0] - limit


NUMBER = 3.0


@pytest.mark.parametrize("flag", ["reward", "constraint"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_such_module_anywhere:reward", "no_such_module_anywhere"),
        (f"{HERE}:no_such_function", "no_such_function"),
        (f"{HERE}:", "MODULE:FUNCTION"),
        (f"{HERE}:NUMBER", "expected a function"),
        (f"{HERE}:wide", "(2, 3)"),
        (f"{HERE}:scalar", "()"),
        (f"{HERE}:twice", "(4,)"),
        (f"{HERE}:nothing", "trial call"),
        (f"{HERE}:raising", "the moon is full"),
        (f"{HERE}:beyond", "out of bounds"),  # the cart has no dimension 8
        (f"{HERE}:needs_a_limit", "limit"),  # its argument was not given
        ("mopp_tf.objectives:jump", "reads halfcheetah's observations by position"),
    ],
)
def test_a_bad_function_is_one_line(flag, name, expected):
    with pytest.raises(UserError) as caught:
        objectives.make(toys.cart(), SCALE, ControlConfig(**{flag: name}))
    message = str(caught.value)
    assert message.startswith(f"--{flag}: ")
    assert expected in message
    assert "\n" not in message


def two_lines(s, a, n):
    raise RuntimeError("the moon\nis full")


def double(s, a, n):
    return tf.cast(s[:, 0], tf.float64)


def eager_only(s, a, n):
    return s.numpy()[:, 0]


def looping(s, a, n):
    total = tf.zeros_like(s[:, 0])
    for step in tf.range(3):
        if step > 0:
            total += s[:, 0]
    return total


def test_a_function_may_loop_and_branch_over_tensors():
    """The planner's graph is made without AutoGraph, the user's function with it."""
    made = objectives.make(toys.cart(), SCALE, ControlConfig(reward=f"{HERE}:looping"))
    found = compilation.function(made.reward)(STATES, ACTIONS, NEXT)
    np.testing.assert_array_equal(found, [2.0, 6.0])


@pytest.mark.parametrize(
    "name",
    [
        ":reward",
        ".relative:reward",
        *(f"{HERE}:{n}" for n in ("two_lines", "eager_only")),
    ],
)
def test_a_function_that_would_fail_in_planning_is_one_line_now(name):
    with pytest.raises(UserError, match=r"\A--reward: [^\n]+\Z"):
        objectives.make(toys.cart(), SCALE, ControlConfig(reward=name))


@pytest.mark.parametrize("text", ["def reward(s, a, n:\n", "print(undefined)\n", "1 / 0\n"])
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, text):
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"\A--reward: expected MODULE:FUNCTION [^\n]+Error[^\n]+\Z"
    ):
        objectives.make(toys.cart(), SCALE, ControlConfig(reward="broken_module:reward"))


@pytest.mark.parametrize(
    "flags",
    [
        {"reward_mode": "replace"},
        {"reward_arg": 1.0},
        {"constraint_mode": "soft"},
        {"constraint_weight": 5.0},
        {"constraint_arg": 1.0, "reward": f"{HERE}:reward"},
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(flags):
    (name, *_) = flags
    kind = name.split("_")[0]
    with pytest.raises(UserError, match=f"^--{name}: expected --{kind} with it, got none$"):
        objectives.make(toys.cart(), SCALE, ControlConfig(**flags))


def test_functions_from_python_take_the_place_of_names():
    made = objectives.make(
        toys.cart(), SCALE, ControlConfig(reward_mode="replace"), reward, constraint
    )
    _check(made, [64.0, 110.75], [2.0, 0.0])


def test_a_function_of_another_type_is_brought_to_float32():
    made = objectives.make(toys.cart(), SCALE, ControlConfig(reward=f"{HERE}:double"))
    states = tf.constant([[1.5, 0.0], [2.5, 0.0]])
    found = made.reward(states, states[:, :1], states)
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, [1.5, 2.5])


@pytest.mark.parametrize("name", ["reward", "a:b:c"])
@pytest.mark.parametrize("flag", ["reward", "constraint"])
def test_a_name_without_one_colon_is_refused(flag, name):
    with pytest.raises(UserError, match=f"^--{flag}: expected MODULE:FUNCTION, got '{name}'$"):
        ControlConfig(**{flag: name})


def test_planner_knobs_can_be_changed_at_run_time():
    knobs, mbop = PlannerConfig(), MbopConfig()
    found, _ = changed_planner(knobs, mbop, ("max_q=false", "sigma_max=1", "horizon=8"))
    assert found == dataclasses.replace(knobs, max_q=False, sigma_max=1.0, horizon=8)
    assert isinstance(found.sigma_max, float)
    assert changed_planner(knobs, mbop, ()) == (knobs, mbop)
    for change, message in (
        ("sigma_mx=1", "did you mean 'sigma_max'"),
        ("max_q", "expected KNOB=VALUE"),
        ("max_q=perhaps", "expected max_q as bool, got 'perhaps'"),
        ("horizon=2.5", "expected horizon as int"),
        ("horizon=0", "--horizon: expected a value in"),
    ):
        with pytest.raises(UserError, match=message):
            changed_planner(knobs, mbop, (change,))


def test_mbop_has_knobs_of_its_own_at_run_time():
    knobs, mbop = PlannerConfig(), MbopConfig()
    changes = ("mbop_sigma=0.4", "mbop_horizon=9", "temperature_units=absolute")
    assert changed_planner(knobs, mbop, changes, "mbop") == (
        dataclasses.replace(knobs, temperature_units="absolute"),
        dataclasses.replace(mbop, mbop_sigma=0.4, mbop_horizon=9),
    )
    for algorithm, change in (
        ("mbop", "max_q=false"),
        ("mbop", "horizon=9"),
        ("mopp", "mbop_sigma=0.4"),
    ):
        with pytest.raises(UserError, match=f"of {algorithm}'s planner, got '{change}'"):
            changed_planner(knobs, mbop, (change,), algorithm)
