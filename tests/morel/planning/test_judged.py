from __future__ import annotations

import numpy as np
import toys

from morel_tf.config import PlannerConfig
from morel_tf.planning.judged import Keeper
from offline_tf.judging.judge import Judgement

CONFIG = PlannerConfig(judge_patience=20, judge_halvings=1)


class ToyJudge:
    """Two models, whose mean is the policy's first bias and which are `apart`."""

    def __init__(self, apart=0.0):
        self.apart = apart

    def policy(self, policy):
        by_model = float(policy.layers[-1][1][0]) + self.apart * np.array([-0.5, 0.5])
        returns = np.stack([by_model, by_model], axis=1)
        return Judgement(returns, returns, np.ones((2, 2)), np.zeros((2, 2), bool))


def keeper():
    policy = toys.linear_policy(np.zeros((2, 1)), [0.0])
    return policy, Keeper(policy, CONFIG)


def look(policy, kept, centre, done, apart=0.0):
    policy.weights[1].assign([centre])
    return kept.look(ToyJudge(apart), done)


def test_the_policy_of_the_highest_promise_is_kept():
    policy, kept = keeper()
    assert kept.promise == -np.inf
    for done, promise in ((0, 1.0), (10, 3.0), (20, 2.0)):
        numbers = look(policy, kept, promise, done)
    assert (numbers["promise"], numbers["best_promise"], numbers["kl_share"]) == (2.0, 3.0, 1.0)
    assert policy.weights[1].numpy() == 2.0 and not kept.is_over
    assert kept.take_best() == 10 and policy.weights[1].numpy() == 3.0


def test_models_that_agree_by_chance_promise_no_more_than_they_usually_would():
    """Spreads 2 s, with s of the two models' means apart / sqrt(2), and a factor 1 + 1/2."""
    policy, kept = keeper()
    student, spread = 6.314, np.sqrt(1.5 * 10.0**2 / 2)
    first = look(policy, kept, 100.0, 0, apart=10.0)
    np.testing.assert_allclose(first["promise"], 100.0 - student * spread)
    second = look(policy, kept, 101.0, 10, apart=0.0)  # agree by chance
    usual = np.sqrt(spread**2 / 2)
    np.testing.assert_allclose(second["promise"], 101.0 - student * usual)
    # The best promise is told with what is usual by now, and is that of the higher centre.
    third = look(policy, kept, 90.0, 20, apart=20.0)
    usual = np.sqrt((spread**2 + 0.0 + 4.0 * spread**2) / 3)
    np.testing.assert_allclose(third["best_promise"], 101.0 - student * usual)
    assert kept.take_best() == 10


def judged_as(*means, apart=0.0):
    """A judgement of three models, which find these means of two starts, `apart` from each other."""
    by_model = np.array([[-1.0], [0.0], [1.0]]) * apart
    least = np.array([means]) + by_model
    return Judgement(least, least, np.ones(least.shape), np.zeros(least.shape, bool))


class JudgeOf:
    """Says one thing of the clone, whose bias is 0, and another of all other policies."""

    def __init__(self, best, clone):
        self._best, self._clone = best, clone

    def policy(self, policy):
        return self._best if float(policy.layers[-1][1][0]) else self._clone


def no_episodes():
    raise AssertionError("the models know enough")


def test_the_clone_is_kept_where_no_policy_surely_gains_over_it():
    policy, kept = keeper()
    for done, promise in ((0, 0.0), (10, 3.0), (20, 2.0)):
        look(policy, kept, promise, done, apart=0.0)
    best = judged_as(5.0, 5.0, apart=100.0)
    # The models are far apart, but agree that the policy earns 1 more.
    judge = JudgeOf(best, judged_as(4.0, 4.0, apart=100.0))
    assert kept.take_best_or_first(judge, no_episodes) == (10, 1.0, best)
    assert policy.weights[1].numpy() == 3.0
    # They do not agree on that.
    judge = JudgeOf(best, judged_as(4.0, 4.0))
    iteration, gained, judged = kept.take_best_or_first(judge, no_episodes)
    assert iteration == 0 and policy.weights[1].numpy() == 0.0 and judged.centre == 4.0
    np.testing.assert_allclose(
        gained, 1.0 - 1.061 * 100.0 * np.sqrt(4 / 3)
    )  # Student, 80 %, 2 degrees
    # They agree that it earns less.
    judge = JudgeOf(best, judged_as(6.0, 6.0, apart=100.0))
    assert kept.take_best_or_first(judge, no_episodes)[:2] == (0, -1.0)


def test_where_most_roll_outs_halt_the_clones_episodes_speak_for_it():
    """By the models alone the policy gains 4; by what its episodes earned, the clone is 3 ahead."""
    worth = judged_as(8.0, 8.0)
    for halted, expected in ((3, (10, 4.0)), (4, (0, -3.0))):
        policy, kept = keeper()
        look(policy, kept, 0.0, 0)
        look(policy, kept, 3.0, 10)
        best = judged_as(5.0, 5.0)
        best.halted.reshape(-1)[:halted] = True
        judge = JudgeOf(best, judged_as(1.0, 1.0))
        assert kept.take_best_or_first(judge, lambda: worth)[:2] == expected


def test_the_clone_itself_may_be_the_best():
    policy, kept = keeper()
    look(policy, kept, 3.0, 0)
    look(policy, kept, 2.0, 10)
    judge = JudgeOf(judged_as(3.0, 3.0), judged_as(9.0, 9.0))
    assert kept.take_best_or_first(judge, no_episodes)[0] == 0
    assert policy.weights[1].numpy() == 3.0


def test_without_progress_the_step_is_halved_from_the_best_then_planning_ends():
    policy, kept = keeper()
    look(policy, kept, 3.0, 0)
    look(policy, kept, 2.0, 10)
    assert kept.kl_share == 1.0
    look(policy, kept, 1.0, 20)
    assert kept.kl_share == 0.5 and policy.weights[1].numpy() == 3.0 and not kept.is_over
    look(policy, kept, 2.5, 30)
    assert not kept.is_over  # patience runs anew from the halving
    look(policy, kept, 2.9, 40)
    assert kept.is_over and policy.weights[1].numpy() == 3.0


def test_progress_after_a_halving_gives_new_patience():
    policy, kept = keeper()
    for done, promise in ((0, 3.0), (20, 1.0), (30, 4.0), (40, 1.0)):
        look(policy, kept, promise, done)
    assert kept.kl_share == 0.5 and not kept.is_over


def test_a_promise_that_is_no_number_is_never_kept():
    policy, kept = keeper()
    look(policy, kept, 3.0, 0)
    look(policy, kept, np.nan, 10)
    kept.take_best()
    assert policy.weights[1].numpy() == 3.0


def test_its_variables_are_all_of_its_state():
    policy, kept = keeper()
    look(policy, kept, 3.0, 0)
    look(policy, kept, 1.0, 20)
    other_policy, other = keeper()
    for mine, theirs in zip(other.variables, kept.variables, strict=True):
        mine.assign(theirs)
    assert other.kl_share == kept.kl_share
    other.take_best()
    assert other_policy.weights[1].numpy() == 3.0
    for pair in ((policy, kept), (other_policy, other)):
        look(*pair, 2.0, 40)
    assert other.is_over and kept.is_over
