"""Expressions against Python's own arithmetic, and what must not get through."""

import math

import numpy as np
import pytest
import tensorflow as tf

from offline_tf.tasks.plants import expressions
from offline_tf.types import UserError

KNOWN = ("level", "temp", "valve")
GENERATOR = np.random.default_rng(0)
AFTER = {name: GENERATOR.uniform(0.5, 3.0, 50) for name in KNOWN}
BEFORE = {name: GENERATOR.uniform(0.5, 3.0, 50) for name in KNOWN}


def value(text):
    after, before = (
        {name: tf.constant(values, tf.float32) for name, values in numbers.items()}
        for numbers in (AFTER, BEFORE)
    )
    return expressions.parse(text, KNOWN, "plant.toml: [reward]")(after, before).numpy()


@pytest.mark.parametrize(
    "text",
    [
        "-(level - 2.0)**2 - 0.1*abs(valve)",
        "2**3**0.5 + level",
        "-level**2",
        "level % 0.7 / temp",
        "1 < level < 2",
        "level > 1 and temp > 1 or not valve > 2",
        "(level > 2) * 10 - (temp <= 1)",
        "min(level, temp, valve) + max(level, 2)",
        "sqrt(level) + exp(-temp) + log(valve) + sin(level) + cos(level) + tanh(level)",
        "level != level",
        "+level + pi - pi",
    ],
)
def test_arithmetic_is_pythons(text):
    functions = {name: getattr(math, name) for name in ("sqrt", "exp", "log", "sin", "cos", "tanh")}
    known = functions | {"abs": abs, "min": min, "max": max, "pi": math.pi}
    expected = [
        float(eval(text, known | {name: float(AFTER[name][i]) for name in KNOWN}))
        for i in range(50)
    ]
    np.testing.assert_allclose(value(text), expected, rtol=1e-4, atol=1e-5)


def test_before_is_the_value_before_the_step():
    found = value("abs(valve - before(valve))")
    np.testing.assert_allclose(found, abs(AFTER["valve"] - BEFORE["valve"]), rtol=1e-5, atol=1e-6)


def test_where_and_clip():
    found = value("where(level > 2, clip(temp, 1, 2), -1)")
    expected = np.where(AFTER["level"] > 2, np.clip(AFTER["temp"], 1, 2), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_constant_is_one_number_a_row():
    np.testing.assert_array_equal(value("1"), np.ones(50))


def test_names_that_are_used_are_known():
    found = expressions.parse("level + before(temp) * pi", KNOWN, "x")
    assert found.names == {"level"} and found.names_before == {"temp"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected arithmetic"),
        ("level +", "expected arithmetic"),
        ("level = 2", "expected arithmetic"),
        ("level\ntemp", "expected arithmetic"),
        ("(" * 300 + "level" + ")" * 300, "expected arithmetic"),
        ("-" * 5000 + "level", "expected arithmetic"),
        ("level + pressure", "unknown names pressure .*known are level, temp, valve"),
        ("before(pressure)", "unknown names pressure"),
        ("__import__('os').system('touch x')", "the function"),
        ("open('x')", "the function open"),
        ("level.__class__", "attribute"),
        ("[level for level in temp]", "no arithmetic"),
        ("(lambda: 1)()", "the function"),
        ("'level'", "no arithmetic"),
        ("True", "no arithmetic"),
        ("level if temp else valve", "no arithmetic"),
        ("level @ temp", "no arithmetic"),
        ("level & temp", "no arithmetic"),
        ("level is temp", "no arithmetic"),
        ("f'{level}'", "no arithmetic"),
        ("(level := 2)", "no arithmetic"),
        ("1e999", "not finite"),
        ("1j", "no arithmetic"),
        ("abs(level, temp)", "2 arguments of abs"),
        ("min(level)", "1 arguments of min"),
        ("clip(level, 1)", "2 arguments of clip"),
        ("min(*level)", "named arguments of min"),
        ("abs(x=level)", "named arguments of abs"),
        ("before(level + 1)", "before\\(\\) without the name"),
        ("9" * 5000, "expected arithmetic"),
    ],
)
def test_what_is_no_arithmetic_is_refused(text, message):
    with pytest.raises(UserError, match=f"(?s)^plant.toml: .*{message}"):
        expressions.parse(text, KNOWN, "plant.toml")
