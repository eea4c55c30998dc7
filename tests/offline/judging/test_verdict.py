from __future__ import annotations

import pytest

from offline_tf.judging import verdict

GOOD = {"promise": 95.0, "expected": 100.0, "models_apart": 5.0, "halted_share": 0.02}
DATA = verdict.DataReturns.of([50.0] * 9 + [100.0])  # mean 55, best tenth 100, spread 45


ADVICE = {"halted_share": "plan less"}


def on(clone=90.0, error=0.01, of_clone=None, **changes):
    judged = GOOD | changes
    below = verdict.below_clone(clone - judged["promise"], DATA.spread, "deploy the clone")
    return verdict.of([*verdict.of_judgement(judged, DATA, error, ADVICE, of_clone), below])


def test_a_promise_within_the_data_is_green():
    assert on().level == "green"
    assert on().in_words() == "can be relied on: no ground against it"


@pytest.mark.parametrize(
    ("changes", "name", "level"),
    [
        ({"promise": -40.0}, "below_data", "doubtful"),
        ({"promise": -320.0}, "below_data", "bad"),
        ({"promise": 30.0, "expected": 30.0}, "below_data", "doubtful"),
        ({"expected": 265.0}, "above_best", "doubtful"),
        ({"expected": 420.0}, "above_best", "bad"),
        ({"halted_share": 0.6}, "halted_share", "doubtful"),
        ({"halted_share": 0.95}, "halted_share", "bad"),
        ({"models_apart": 80.0}, "models_apart", "doubtful"),
        ({"models_apart": 160.0}, "models_apart", "bad"),
        ({"limits_broken": 0.05}, "limits_broken", "doubtful"),
        ({"limits_broken": 0.2}, "limits_broken", "bad"),
        ({"clone": 100.0}, "below_clone", "doubtful"),
        ({"clone": 120.0}, "below_clone", "bad"),
        ({"error": 0.6}, "model_error", "doubtful"),
        ({"error": 1.0}, "model_error", "bad"),
        ({"promise": float("nan")}, "below_data", "bad"),
    ],
)
def test_each_ground_alone_decides(changes, name, level):
    found = on(**changes)
    assert found.to_json()["grounds"][name]["level"] == level
    assert found.level in (level, "bad")
    assert {"doubtful": "is doubtful: ", "bad": "cannot be relied on: "}[found.level] in (
        found.in_words()
    )


def test_data_are_told_by_their_mean_and_their_best_tenth():
    assert (DATA.mean, DATA.of_best, DATA.spread) == (55.0, 100.0, 45.0)
    alike = verdict.DataReturns.of([-20.0] * 5)
    assert (alike.mean, alike.of_best, alike.spread) == (-20.0, -20.0, 2.0)


def test_a_bound_below_the_data_is_no_ground_where_as_much_more_is_expected():
    # Middles 34 and 32 beside a mean of 55; half of the spread is 22.5.
    level = {
        promise: on(promise=promise, clone=promise).to_json()["grounds"]["below_data"]["level"]
        for promise in (-32.0, -36.0)
    }
    assert level == {-32.0: "green", -36.0: "doubtful"}


def test_episodes_speak_for_a_clone_where_the_models_know_nothing():
    unknown = {"promise": -5.0, "expected": 1.0, "models_apart": 0.0, "halted_share": 1.0}
    assert on(clone=-5.0, **unknown).level == "bad"
    found = on(clone=-5.0, of_clone=60.0, **unknown).to_json()
    assert found["level"] == "doubtful"
    assert found["grounds"]["halted_share"]["level"] == "doubtful"
    assert found["grounds"]["below_data"]["level"] == "green"
    assert found["grounds"]["below_data"]["words"].startswith("what the clone is worth lies below")
    assert on(clone=-5.0, of_clone=-120.0, **unknown).level == "bad"
    some = unknown | {"halted_share": 0.85}
    assert on(clone=-5.0, of_clone=60.0, **some).level == "green"


def test_words_name_number_and_advice():
    assert on(halted_share=0.6).in_words() == (
        "is doubtful: share of the judge's episodes that leave what its models know (0.60): plan less"
    )


def test_words_name_all_that_is_not_green_and_the_worst_first():
    words = on(halted_share=0.6, error=1.0, models_apart=80.0).in_words()
    assert words == (
        "cannot be relied on: held-out error of the judge's models, where 1 is that of predicting the "
        "mean change over one step or ten (1.00): raise --judge_steps, or record more data; also "
        "doubtful: share of the judge's episodes that leave what its models know (0.60): plan less; "
        "how far the judge's models are apart, as a share of the expected return (0.80): raise "
        "--judge_steps, or record more data"
    )
