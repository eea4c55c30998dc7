import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf.config import PlannerConfig
from mopp_tf.models.rows import RewardScale
from mopp_tf.planning import choice
from offline_tf.judging.judge import Judge
from offline_tf.judging.model_simulator import Models
from offline_tf.numerics.holdout import Split

KNOBS = PlannerConfig(sigma_max=0.2)


def judge_with(promises, seen=None):
    """Promises by what tells the candidates apart: (plan, max-Q, sigma_max)."""

    def judge_one(knobs):
        key = knobs.plan if knobs.plan == "never" else (knobs.max_q, knobs.sigma_max)
        if seen is not None:
            seen.append(key)
        # The starts differ by more than the candidates, which all models see alike.
        return {
            "promise": promises[key],
            "halted_share": 0.0,
            "least": [[promises[key], promises[key] + 50.0]] * 3,
        }

    return judge_one


@pytest.mark.parametrize(
    ("promises", "chosen", "knobs"),
    [
        # The clone wins ties, and half of sigma_max is tried with the better planner.
        ({"never": 5, (True, 0.2): 5, (False, 0.2): 4, (True, 0.1): 5}, "clone", {"plan": "never"}),
        (
            {"never": 5, (True, 0.2): 6, (False, 0.2): 4, (True, 0.1): 6},
            "max_q",
            {"plan": "always"},
        ),
        (
            {"never": 5, (True, 0.2): 1, (False, 0.2): 7, (False, 0.1): 6},
            "no_max_q",
            {"plan": "always", "max_q": False},
        ),
        (
            {"never": 5, (True, 0.2): 1, (False, 0.2): 2, (False, 0.1): 6},
            "half_sigma",
            {"plan": "always", "max_q": False, "sigma_max": 0.1},
        ),
        # What is no number is not chosen.
        (
            {"never": 5, (True, 0.2): np.nan, (False, 0.2): 2, (True, 0.1): 3},
            "clone",
            {"plan": "never"},
        ),
    ],
)
def test_the_candidate_that_gains_most_over_the_clone_is_chosen(tmp_path, promises, chosen, knobs):
    found = choice.choose_or_load(KNOBS, judge_with(promises), toys.record(tmp_path))
    assert (found["chosen"], found["knobs"]) == (chosen, knobs)
    assert len(found["candidates"]) == 4 and found["candidates"]["clone"]["gain"] == 0.0


def test_where_the_data_are_narrow_the_spread_of_the_paper_is_tried_too(tmp_path):
    promises = {"never": 5, (True, 0.1): 6, (False, 0.1): 4, (True, 0.05): 3, (True, 0.25): 8}
    narrow = PlannerConfig(sigma_max=0.1)
    found = choice.choose_or_load(narrow, judge_with(promises), toys.record(tmp_path))
    assert (found["chosen"], found["knobs"]) == (
        "paper_sigma",
        {"plan": "always", "sigma_max": 0.25},
    )


def test_a_planner_that_the_models_do_not_agree_on_is_not_chosen(tmp_path):
    def judge_one(knobs):
        by_model = [0.0, 0.0, 0.0] if knobs.plan == "never" else [9.0, 9.0, -8.0]
        return {
            "promise": float(np.mean(by_model)),
            "halted_share": 0.0,
            "least": [[x, x] for x in by_model],
        }

    assert choice.choose_or_load(KNOBS, judge_one, toys.record(tmp_path))["chosen"] == "clone"


def test_more_settings_are_judged_on_top_of_the_best(tmp_path, monkeypatch):
    more = (({"horizon": 8}, ""), ({"max_q": False}, ""), ({"inverse_temperature": 1.0}, ""))
    monkeypatch.setattr(choice, "MORE", more)
    promises = {"never": 5, (True, 0.2): 6, (False, 0.2): 4, (True, 0.1): 3}

    def judge_one(knobs):
        promise = promises.get(
            "never" if knobs.plan == "never" else (knobs.max_q, knobs.sigma_max), 1
        )
        promise += (knobs.horizon == 8) - 2 * (knobs.inverse_temperature == 1.0)
        return {"promise": promise, "halted_share": 0.0, "least": [[promise, promise + 50.0]] * 3}

    found = choice.choose_or_load(KNOBS, judge_one, toys.record(tmp_path), 60.0)
    assert found["chosen"] == "horizon_8" and found["knobs"] == {"plan": "always", "horizon": 8}
    added = {k: v for k, v in found["changes"].items() if "horizon" in k}
    assert added == {
        "horizon_8": {"plan": "always", "horizon": 8},
        "horizon_8_max_q_False": {"plan": "always", "horizon": 8, "max_q": False},
        "horizon_8_inverse_temperature_1.0": {
            "plan": "always",
            "horizon": 8,
            "inverse_temperature": 1.0,
        },
    }


def test_more_settings_end_with_their_minutes(tmp_path, monkeypatch):
    now = iter(range(0, 10_000, 40))  # a look at the clock takes forty seconds
    monkeypatch.setattr(choice.time, "monotonic", lambda: next(now))
    comparison = choice.Comparison(
        KNOBS,
        lambda _: {"promise": 1.0, "halted_share": 0.0, "least": [[1.0, 2.0]] * 3},
        toys.record(tmp_path),
    )
    comparison.add("max_q", {"plan": "always"})
    choice.compare_more(comparison, 2.0)
    # The first one begins after 40 s; the second would begin after 120 s and take 40 more.
    assert list(comparison.changes) == ["clone", "max_q", "horizon_8"]


def test_more_settings_leave_out_what_is_judged_already(tmp_path):
    """Horizon 8 is the run's own, and without max-Q there are no proposals to look among."""

    def judge_one(knobs):
        return {"promise": 1.0, "halted_share": 0.0, "least": [[1.0, 2.0]] * 3}

    knobs = dataclasses.replace(KNOBS, horizon=8, terminal_value=False)
    comparison = choice.Comparison(knobs, judge_one, toys.record(tmp_path))
    comparison.add("no_max_q", {"plan": "always", "max_q": False})
    choice.compare_more(comparison, 60.0)
    assert list(comparison.changes) == [
        "clone",
        "no_max_q",
        "max_q_False_horizon_2",
        "max_q_False_inverse_temperature_10.0",
        "max_q_False_inverse_temperature_1.0",
        "max_q_False_plan_mix_0.3",
    ]


def test_a_planner_that_the_models_agree_on_by_chance_is_not_chosen(tmp_path):
    """max_q gains 5 in all models, but the two others show that they are usually 10 apart."""

    def judge_one(knobs):
        by_model = [5.0] * 3 if knobs.max_q and knobs.sigma_max == 0.2 else [-10.0, 0.0, 10.0]
        by_model = [0.0] * 3 if knobs.plan == "never" else by_model
        return {
            "promise": float(np.mean(by_model)),
            "halted_share": 0.0,
            "least": [[x, x] for x in by_model],
        }

    found = choice.choose_or_load(KNOBS, judge_one, toys.record(tmp_path))
    assert found["chosen"] == "clone"
    # The variance of 10 and a third of it, Student's 80 % with 2 degrees.
    usual = np.sqrt(100 * (1 + 1 / 3))
    np.testing.assert_allclose(found["candidates"]["max_q"]["gain"], 5.0 - 1.061 * usual)


def test_whole_episodes_are_asked_of_the_chosen_one_once(tmp_path):
    seen = []
    judge_one = judge_with({"never": 5, (True, 0.1): 7}, seen)
    chosen = {"chosen": "half_sigma", "knobs": {"plan": "always", "sigma_max": 0.1}}
    for _ in range(2):
        found = choice.promise_or_load(KNOBS, judge_one, chosen, toys.record(tmp_path))
        assert found == {"promise": 7, "halted_share": 0.0}
    assert seen == [(True, 0.1)]
    clone = {"chosen": "clone", "knobs": {"plan": "never"}}
    other = toys.record(tmp_path / "clone")
    worth = judge_with({"never": 9})
    found = choice.promise_or_load(KNOBS, judge_one, clone, other, worth)
    assert found == {"promise": 5, "halted_share": 0.0, "worth": 9, "worth_centre": 34.0}
    whole = choice.to_the_end(toy_judge(), 3)
    assert len(whole.starts) == 3 and whole.models.task.max_episode_steps == 50


@pytest.mark.parametrize(
    ("plan", "chosen", "names"),
    [("always", "planner", ["clone", "planner"]), ("never", "clone", ["clone"])],
)
def test_what_was_decided_by_a_flag_is_judged_beside_the_clone(tmp_path, plan, chosen, names):
    knobs = PlannerConfig(sigma_max=0.2, plan=plan)
    promises = {"never": 5, (True, 0.2): 1}
    found = choice.choose_or_load(knobs, judge_with(promises), toys.record(tmp_path))
    assert found["chosen"] == chosen and list(found["candidates"]) == names


def test_a_killed_choice_judges_only_what_is_missing(tmp_path):
    promises = {"never": 5, (True, 0.2): 6, (False, 0.2): 4, (True, 0.1): 3}
    seen = []
    judge_one = judge_with(promises, seen)
    with pytest.raises(toys.Killed):
        choice.choose_or_load(KNOBS, toys.dying(judge_one, 3), toys.record(tmp_path))
    assert seen == ["never", (True, 0.2)]
    again = type(toys.record(tmp_path / "other")).open_existing(tmp_path)
    assert choice.choose_or_load(KNOBS, judge_one, again)["chosen"] == "max_q"
    assert seen == ["never", (True, 0.2), (False, 0.2), (True, 0.1)]
    choice.choose_or_load(KNOBS, lambda _: pytest.fail("judged again"), again)


class Decided(NamedTuple):
    action: Any
    plan: Any
    kept_share: Any
    fallback: Any


def toy_judge(steps=50):
    task = toys.cart(max_episode_steps=steps)
    models = Models(task, "v2", toys.hinged_ensemble(task), np.ones(2, np.float32), np.inf, -1.0)
    return Judge(models, np.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [0.3, 0.0]], np.float32))


def test_few_starts_are_starts_and_middles_of_held_out_episodes():
    bounds = np.array([[0, 20], [20, 40], [40, 60]])
    states = np.stack([np.arange(60.0), np.zeros(60)], axis=1).astype(np.float32)
    split = Split(np.arange(20), np.arange(20, 60))
    few = choice.few_starts(
        toy_judge(), states=states, bounds=bounds, split=split, count=5, steps=7, seed=0
    )
    np.testing.assert_array_equal(few.starts[:3], toy_judge().starts[:3])
    rows = few.starts[3:, 0]
    assert len(set(rows)) == 2 and (rows >= 20).all()
    assert ((rows % 20 >= 5) & (rows % 20 <= 15)).all()
    assert few.models.task.max_episode_steps == 7
    np.testing.assert_array_equal(few.passed, [0, 0, 0, *(rows % 20)])
    far = choice.few_starts(
        toy_judge(), states=states, bounds=bounds, split=split, count=5, steps=70, seed=0
    )
    assert far.models.task.max_episode_steps == 50


def test_planners_are_judged_by_what_the_judges_models_pay(monkeypatch):
    """Force 1 for ever against none: x' of every step is paid."""

    class Pushes(tf.Module):
        def __init__(self, task, *, models, knobs, limit, objective, dtype):
            super().__init__()
            self.force = 0.0 if knobs.plan == "never" else 1.0

        def initial_plan(self, observation):
            return tf.zeros([tf.shape(observation)[0], 1, 1])

        def decide(self, observation, plan, seed):
            count = tf.shape(observation)[0]
            return Decided(
                action=tf.fill([count, 1], self.force),
                plan=plan,
                kept_share=tf.fill([count], 0.25),
                fallback=tf.fill([count], True),
            )

    monkeypatch.setattr(choice, "Planner", Pushes)
    judge_one = choice.judged_by(
        toy_judge(3), task=toys.cart(), models=None, scale=None, limit=1.0, seed=0
    )
    clone, planner = (
        judge_one(choice.changed(KNOBS, {"plan": plan})) for plan in ("never", "always")
    )
    # From rest at x: 3 steps pay 1 + x each; with force x' is 0, 0.05, 0.15 and v 0, 0.5, 1 higher,
    # and each force costs 0.1.
    np.testing.assert_allclose(clone["expected"], 3 * 1.15, rtol=1e-5)
    pushed = 3 * 1.15 + 0.05 + 0.15 + 0.3 * 1.5 - 0.3
    np.testing.assert_allclose(planner["expected"], pushed, rtol=1e-5)
    assert planner["promise"] > clone["promise"]
    assert (planner["kept_share"], planner["fallback"]) == (0.25, 1.0)


@pytest.mark.parametrize(("whose", "paid"), [("models", 0.5), ("task", 6.0)])
def test_planners_are_judged_with_the_reward_that_they_are_exported_with(monkeypatch, whose, paid):
    """A planner whose force is what its objective says of a step that the models pay 0.5."""

    class Pays(tf.Module):
        def __init__(self, task, *, objective, **_):
            super().__init__()
            rows = tf.zeros([1, 2]), tf.zeros([1, 1]), tf.ones([1, 2])
            self.force = objective.apply(*rows, tf.constant([0.5]))[0] / 10.0

        def initial_plan(self, observation):
            return tf.zeros([tf.shape(observation)[0], 1, 1])

        def decide(self, observation, plan, seed):
            count = tf.shape(observation)[0]
            action = tf.fill([count, 1], self.force[0])
            return Decided(action, plan, tf.ones([count]), tf.fill([count], False))

    monkeypatch.setattr(choice, "Planner", Pays)
    judge_one = choice.judged_by(
        toy_judge(1),
        task=toys.cart(),
        models=None,
        scale=RewardScale(1.0, 2.0),
        limit=1.0,
        seed=0,
        reward=lambda s, a, n: 13.0 * n[:, 0],  # (13 - 1) / 2 = 6
    )
    knobs = dataclasses.replace(KNOBS, plan="always", planner_reward=whose)
    # One step from rest pays 1 + x - 0.1 a^2.
    at_rest = judge_one(dataclasses.replace(knobs, planner_reward="models"))["expected"]
    base = at_rest + 0.1 * 0.05**2
    np.testing.assert_allclose(
        judge_one(knobs)["expected"], base - 0.1 * (paid / 10) ** 2, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("halted", "chosen", "gained"), [(0.5, "planner", 2.0), (0.6, "clone", -28.0)]
)
def test_halt_costs_both_the_same_unless_most_roll_outs_halt(tmp_path, halted, chosen, gained):
    def judge_one(knobs):
        if knobs.plan == "never":
            paid, alone = [[40.0, 90.0]] * 3, [[10.0, 60.0]] * 3
            return {
                "promise": 40.0,
                "halted_share": 1.0,
                "least": paid,
                "least_alone": alone,
            }
        return {
            "promise": 12.0,
            "halted_share": halted,
            "least": [[12.0, 62.0]] * 3,
        }

    record = toys.record(tmp_path)
    comparison = choice.Comparison(KNOBS, judge_one, record)
    comparison.add("planner", {"plan": "always"})
    assert (comparison.best(), comparison.gain("planner")) == (chosen, pytest.approx(gained))
    # Of a run that is older than this, whose clone was always paid.
    stage = record.folder / "stages" / "judged_clone.json"
    older = json.loads(stage.read_text())
    del older["result"]["least_alone"]
    stage.write_text(json.dumps(older))
    again = choice.Comparison(KNOBS, judge_one, toys.record(tmp_path))
    again.add("planner", {"plan": "always"})
    assert again.gain("planner") == pytest.approx(-28.0)


def test_beyond_halt_the_clone_earns_what_its_episodes_did(monkeypatch):
    class Stands(tf.Module):
        def __init__(self, task, **_):
            super().__init__()

        def initial_plan(self, observation):
            return tf.zeros([tf.shape(observation)[0], 1, 1])

        def decide(self, observation, plan, seed):
            count = tf.shape(observation)[0]
            return Decided(tf.zeros([count, 1]), plan, tf.ones([count]), tf.fill([count], False))

    monkeypatch.setattr(choice, "Planner", Stands)
    judge = toy_judge(3)
    unknown = Judge(judge.models._replace(threshold=-1.0), judge.starts)
    judge_one = choice.judged_by(
        unknown,
        task=toys.cart(),
        models=None,
        scale=None,
        limit=1.0,
        seed=0,
        after_halt=np.array(
            [[37.0], [27.0], [17.0], [7.0]]
        ),  # of whole episodes; three steps are judged
    )
    clone, planner = (
        judge_one(choice.changed(KNOBS, {"plan": plan})) for plan in ("never", "always")
    )
    assert clone["promise"] == 30.0 and planner["promise"] == -3.0
    assert clone["least_alone"] == planner["least"] and "least_alone" not in planner
