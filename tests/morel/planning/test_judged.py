from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.config import PlannerConfig
from morel_tf.planning.judged import Keeper
from offline_tf.judging.judge import Judgement

GAIN = PlannerConfig(judge_patience=20, judge_halvings=1)
PROMISE = dataclasses.replace(GAIN, judge_keeps="promise")
WAYS = pytest.mark.parametrize("config", (GAIN, PROMISE), ids=("gain", "promise"))
STUDENT_67, STUDENT_95 = 0.577, 6.314  # of 1 degree of freedom


class ToyJudge:
    """Two models, whose mean is the policy's first bias and which are `apart`."""

    def __init__(self, apart=0.0):
        self.apart = apart

    def policy(self, policy):
        by_model = float(policy.layers[-1][1][0]) + self.apart * np.array([-0.5, 0.5])
        returns = np.stack([by_model, by_model], axis=1)
        return Judgement(returns, returns, np.ones((2, 2)), np.zeros((2, 2), bool))


class Judges:
    """Says what it was told of each policy, by its first bias."""

    def __init__(self, **by_bias):
        self.judgements = {float(name[1:]): judgement for name, judgement in by_bias.items()}

    def policy(self, policy):
        return self.judgements[float(policy.layers[-1][1][0])]


def judged_as(*means, apart=0.0, halted=0.0):
    """A judgement of three models, which find these means of two starts, `apart` from each other."""
    by_model = np.array([[-1.0], [0.0], [1.0]]) * apart
    least = np.array([means]) + by_model
    ends = np.arange(least.size) < halted * least.size
    return Judgement(least, least, np.ones(least.shape), ends.reshape(least.shape))


def keeper(config=GAIN, worth=None, first=0.0):
    policy = toys.linear_policy(np.zeros((2, 1)), [first])
    return policy, Keeper(policy, config, worth)


def look(policy, kept, bias, done, apart=0.0, judge=None):
    policy.weights[1].assign([bias])
    return kept.look(judge or ToyJudge(apart), done)


def test_the_policy_that_likely_gains_most_over_the_clone_is_kept():
    policy, kept = keeper(first=1.0)
    assert kept.gain == kept.promise == -np.inf
    assert look(policy, kept, 1.0, 0)["gain"] == 0.0 and kept.gain == -np.inf
    for done, bias in ((10, 3.0), (20, 2.0)):
        numbers = look(policy, kept, bias, done)
    assert (numbers["gain"], kept.gain, numbers["kl_share"]) == (1.0, 2.0, 1.0)
    assert (numbers["promise"], numbers["best_promise"]) == (2.0, 3.0)
    assert policy.weights[1].numpy() == 2.0 and not kept.is_over
    assert kept.take_best() == 10 and policy.weights[1].numpy() == 3.0
    final = kept.take_best_or_first(ToyJudge())
    assert (final.iteration, final.gain, final.judgement.centre) == (10, 2.0, 3.0)


def test_a_likely_gain_is_kept_where_the_models_promise_less_than_of_the_clone():
    """Of a policy that gains 1 the models agree; of one that gains 260 they lie 200 apart.

    So planning ended early where the promise decided.
    """
    judge = Judges(
        b0=judged_as(500.0, 500.0),
        b1=judged_as(501.0, 501.0),
        b2=judged_as(760.0, 760.0, apart=200.0),
    )
    kept_by = {}
    for config in (GAIN, PROMISE):
        policy, kept = keeper(config)
        for bias in (0, 1, 2):
            look(policy, kept, float(bias), 10 * bias, judge=judge)
        kept_by[config.judge_keeps] = kept.take_best_or_first(judge).iteration
    assert kept_by == {"gain": 20, "promise": 10}
    spread, usual = 200.0 * np.sqrt(4 / 3), 200.0 * np.sqrt(4 / 9)  # of the last, of the one before
    assert 760.0 - 2.920 * spread < 501.0 - 2.920 * usual  # Student's, 2 degrees, 95 %
    assert 260.0 - 0.5 * spread > 1.0 - 0.5 * usual  # 2/3


def test_the_policy_of_the_highest_promise_is_kept_where_that_is_asked_for():
    policy, kept = keeper(PROMISE)
    for done, promise in ((0, 1.0), (10, 3.0), (20, 2.0)):
        numbers = look(policy, kept, promise, done)
    assert (numbers["promise"], numbers["best_promise"], numbers["kl_share"]) == (2.0, 3.0, 1.0)
    assert policy.weights[1].numpy() == 2.0 and not kept.is_over
    assert kept.take_best() == 10 and policy.weights[1].numpy() == 3.0


def test_models_that_agree_by_chance_promise_no_more_than_they_usually_would():
    """Spreads 2 s, with s of the two models' means apart / sqrt(2), and a factor 1 + 1/2."""
    policy, kept = keeper(PROMISE)
    spread = np.sqrt(1.5 * 10.0**2 / 2)
    first = look(policy, kept, 100.0, 0, apart=10.0)
    np.testing.assert_allclose(first["promise"], 100.0 - STUDENT_95 * spread)
    second = look(policy, kept, 101.0, 10, apart=0.0)  # agree by chance
    usual = np.sqrt(spread**2 / 2)
    np.testing.assert_allclose(second["promise"], 101.0 - STUDENT_95 * usual)
    # The best promise is told with what is usual by now, and is that of the higher centre.
    third = look(policy, kept, 90.0, 20, apart=20.0)
    usual = np.sqrt((spread**2 + 0.0 + 4.0 * spread**2) / 3)
    np.testing.assert_allclose(third["best_promise"], 101.0 - STUDENT_95 * usual)
    assert kept.take_best() == 10


def test_models_that_agree_by_chance_on_a_gain_show_no_more_than_they_usually_would():
    """Models agree on the clone, so differences are apart like policies; its own look is none."""
    policy, kept = keeper()
    spread = np.sqrt(1.5 * 10.0**2 / 2)
    look(policy, kept, 0.0, 0)
    first = look(policy, kept, 100.0, 10, apart=10.0)
    np.testing.assert_allclose(first["gain"], 100.0 - STUDENT_67 * spread)
    second = look(policy, kept, 101.0, 20, apart=0.0)
    np.testing.assert_allclose(second["gain"], 101.0 - STUDENT_67 * spread / np.sqrt(2))
    look(policy, kept, 90.0, 30, apart=20.0)
    usual = np.sqrt((spread**2 + 0.0 + 4.0 * spread**2) / 3)
    np.testing.assert_allclose(kept.gain, 101.0 - STUDENT_67 * usual)
    assert kept.take_best_or_first(ToyJudge()).gain == kept.gain


@WAYS
def test_the_clone_is_kept_where_no_policy_likely_gains_over_it(config):
    best = judged_as(5.0, 5.0, apart=100.0)

    def kept_of(clone):
        policy, kept = keeper(config)
        judge = Judges(b0=clone, b3=best)
        # Planning went as if the policy were promised more, so that the comparison decides.
        look(policy, kept, 0.0, 0, judge=judge if config == GAIN else None)
        look(policy, kept, 3.0, 10, judge=judge if config == GAIN else None)
        return policy.weights[1], kept.take_best_or_first(judge)

    # The models are far apart, but agree that the policy earns 1 more.
    weight, found = kept_of(judged_as(4.0, 4.0, apart=100.0))
    assert found[:3] == (10, 1.0, best) and weight.numpy() == 3.0
    # They do not agree on that.
    weight, found = kept_of(judged_as(4.0, 4.0))
    assert found.iteration == 0 and weight.numpy() == 0.0 and found.judgement.centre == 4.0
    student = {"gain": 0.5, "promise": 1.061}[config.judge_keeps]  # of 2 degrees, 2/3 and 80 %
    np.testing.assert_allclose(found.gain, 1.0 - student * 100.0 * np.sqrt(4 / 3))
    # They agree that it earns less.
    assert kept_of(judged_as(6.0, 6.0, apart=100.0))[1][:2] == (0, -1.0)


@WAYS
def test_where_most_roll_outs_halt_the_clones_episodes_speak_for_it(config):
    """By the models alone the policy gains 4; by what its episodes earned, the clone is 3 ahead."""
    worth = judged_as(8.0, 8.0)
    for halted, expected in ((0.5, (10, 4.0)), (0.6, (0, -3.0))):
        policy, kept = keeper(config, lambda: worth)
        judge = Judges(b0=judged_as(1.0, 1.0), b3=judged_as(5.0, 5.0, halted=halted))
        look(policy, kept, 0.0, 0, judge=judge)
        look(policy, kept, 3.0, 10, judge=judge)
        assert kept.take_best_or_first(judge)[:2] == expected


@pytest.mark.parametrize(("config", "expected"), [(GAIN, (0, -3.0)), (PROMISE, (10, 4.0))])
def test_a_clone_that_halts_is_not_behind_a_policy_that_does_not(config, expected):
    """HALT took 7 of the clone's 8 and nothing of the policy's 5; the promise looks at the policy's."""
    policy, kept = keeper(config, lambda: judged_as(8.0, 8.0))
    judge = Judges(b0=judged_as(1.0, 1.0, halted=0.6), b3=judged_as(5.0, 5.0))
    look(policy, kept, 0.0, 0, judge=judge)
    look(policy, kept, 3.0, 10, judge=judge)
    assert kept.take_best_or_first(judge)[:2] == expected


def test_nobody_is_asked_what_the_clones_episodes_earned_where_the_models_know_enough():
    policy, kept = keeper(worth=lambda: pytest.fail("the models know enough"))
    for done, bias in ((0, 0.0), (10, 3.0)):
        look(policy, kept, bias, done)
    assert kept.take_best_or_first(ToyJudge())[:2] == (10, 3.0)


@WAYS
def test_of_a_kept_clone_no_more_is_promised_than_models_usually_let_one(config):
    """They are 1 apart on the clone and 60 on a policy that earns less."""
    policy, kept = keeper(config)
    judge = Judges(b0=judged_as(500.0, 500.0, apart=1.0), b3=judged_as(400.0, 400.0, apart=60.0))
    for done, bias in ((0, 0.0), (10, 3.0)):
        look(policy, kept, bias, done, judge=judge)
    found = kept.take_best_or_first(judge)
    usual = np.sqrt((1.0**2 + 60.0**2) / 2 * 4 / 3)
    student = 2.920  # of 2 degrees, 95 %
    np.testing.assert_allclose((found.iteration, found.promise), (0, 500.0 - student * usual))


@WAYS
def test_the_clone_itself_may_be_the_best(config):
    policy, kept = keeper(config, first=3.0)
    look(policy, kept, 3.0, 0)
    look(policy, kept, 2.0, 10)
    assert kept.take_best_or_first(ToyJudge())[0] == 0
    assert policy.weights[1].numpy() == 3.0


def test_without_a_look_the_clone_stays():
    policy, kept = keeper(first=3.0)
    look(policy, kept, 3.0, 0)
    assert kept.take_best_or_first(ToyJudge())[:2] == (0, 0.0)
    assert policy.weights[1].numpy() == 3.0


@WAYS
def test_without_progress_the_step_is_halved_from_the_best_then_planning_ends(config):
    policy, kept = keeper(config)
    look(policy, kept, 0.0, 0)
    look(policy, kept, 3.0, 10)
    look(policy, kept, 2.0, 20)
    assert kept.kl_share == 1.0
    look(policy, kept, 1.0, 30)
    assert kept.kl_share == 0.5 and policy.weights[1].numpy() == 3.0 and not kept.is_over
    look(policy, kept, 2.5, 40)
    assert not kept.is_over  # patience runs anew from the halving
    look(policy, kept, 2.9, 50)
    assert kept.is_over and policy.weights[1].numpy() == 3.0


def test_planning_goes_on_from_the_best_policy_though_it_gains_nothing_yet():
    policy, kept = keeper(first=9.0)
    look(policy, kept, 9.0, 0)
    for done, bias in ((10, 1.0), (20, 3.0), (30, 2.0), (40, 2.0)):
        look(policy, kept, bias, done)
    assert kept.kl_share == 0.5 and policy.weights[1].numpy() == 3.0
    assert kept.take_best_or_first(ToyJudge())[:2] == (0, -6.0)
    assert policy.weights[1].numpy() == 9.0


@WAYS
def test_progress_after_a_halving_gives_new_patience(config):
    policy, kept = keeper(config)
    for done, bias in ((0, 0.0), (10, 3.0), (30, 1.0), (40, 4.0), (50, 1.0)):
        look(policy, kept, bias, done)
    assert kept.kl_share == 0.5 and not kept.is_over


@WAYS
def test_what_is_no_number_is_never_kept(config):
    policy, kept = keeper(config)
    look(policy, kept, 0.0, 0)
    look(policy, kept, 3.0, 10)
    look(policy, kept, np.nan, 20)
    kept.take_best()
    assert policy.weights[1].numpy() == 3.0


@WAYS
def test_its_variables_are_all_of_its_state(config):
    policy, kept = keeper(config)
    look(policy, kept, 0.0, 0)
    look(policy, kept, 3.0, 10)
    look(policy, kept, 1.0, 30)
    other_policy, other = keeper(config)
    for mine, theirs in zip(other.variables, kept.variables, strict=True):
        mine.assign(theirs)
    assert other.kl_share == kept.kl_share
    assert (other.promise, other.gain) == (kept.promise, kept.gain)
    other.take_best()
    assert other_policy.weights[1].numpy() == 3.0
    for pair in ((policy, kept), (other_policy, other)):
        look(*pair, 2.0, 50)
    assert other.is_over and kept.is_over
    assert other.take_best_or_first(ToyJudge())[:2] == kept.take_best_or_first(ToyJudge())[:2]


def test_a_run_that_goes_on_judges_the_clone_anew():
    """Its judgement is no variable; the policy may be any by then."""
    policy, kept = keeper(first=2.0)
    policy.weights[1].assign([5.0])
    assert look(policy, kept, 5.0, 10)["gain"] == 3.0
    assert policy.weights[1].numpy() == 5.0


def test_runs_older_than_the_rule_keep_what_was_promised_most():
    field = next(f for f in dataclasses.fields(PlannerConfig) if f.name == "judge_keeps")
    assert (field.default, field.metadata["older"]) == ("gain", "promise")
    # Their checkpoints hold these variables, in this order: three weights, then the best's bound, the
    # spreads so far, the models, and the best's iteration, where patience began, halvings.
    policy, kept = keeper(PROMISE)
    look(policy, kept, 3.0, 10, apart=2.0)
    look(policy, kept, -9.0, 30)
    spread = np.sqrt(1.5 * 2.0**2 / 2)
    values = [variable.numpy() for variable in kept.variables[3:]]
    np.testing.assert_allclose(values, [3.0, spread, spread**2, 2, 2, 10, 30, 1])
    dtypes = [variable.dtype for variable in kept.variables[3:]]
    assert dtypes == [tf.float64] * 3 + [tf.int64] * 5
