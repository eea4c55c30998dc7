"""Fits on several devices: parts of a CPU, in processes of their own: TensorFlow makes devices once."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from offline_tf.config import shared_knobs
from offline_tf.models import devices
from offline_tf.types import UserError

_TESTS = pathlib.Path(__file__).parents[2]
_ROWS = 65  # three devices have 21, 22 and 22 of them


def _fits(case):
    """What `fits_on_devices` prints."""
    return _printed("fits_on_devices.py", case, str(_ROWS))


@functools.cache
def _printed(name, case, *others):
    """What a script prints; a process has one number of devices."""
    paths = os.pathsep.join([str(_TESTS.parent), str(_TESTS)])
    script = str(pathlib.Path(__file__).with_name(name))
    done = subprocess.run(
        [sys.executable, script, *case.split(), *others],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["dynamics", "q"])
@pytest.mark.parametrize("case", ["3 graph", pytest.param("2 xla", marks=pytest.mark.slow)])
def test_a_fit_on_several_devices_is_that_on_one(kind, case):
    one, several = _fits(case)[f"{kind} 1"], _fits(case)[f"{kind} {case[0]}"]
    np.testing.assert_allclose(several["losses"], one["losses"], rtol=1e-5)
    for ours, theirs in zip(several["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert several["steps"] == one["steps"] == 40


@pytest.mark.parametrize("kind", ["dynamics", "q"])
def test_all_devices_hold_the_same_weights(kind):
    assert _fits("3 graph")[f"{kind} 3"]["apart"] == 0.0


@pytest.mark.parametrize("case", ["3 graph", pytest.param("2 xla", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["roll_out", "decision"])
def test_parts_on_several_devices_give_what_one_gives(kind, case):
    printed = _printed("parts_on_devices.py", case)
    one, several = printed[f"{kind} 1"], printed[f"{kind} {case[0]}"]
    assert np.shape(one["numbers"])[-1] > 1
    np.testing.assert_allclose(several["numbers"], one["numbers"], atol=1e-6)
    parts = int(case[0]) if kind == "decision" else 2  # paths are drawn in two groups
    assert one["where"][0] == []
    assert several["where"][0] == [str(number) for number in range(parts)]


def test_an_exported_planner_knows_no_devices():
    printed = _printed("parts_on_devices.py", "3 graph")
    assert printed["decision 3"]["where"][1] == []


def test_minibatches_need_a_row_for_each_device():
    assert _fits("3 graph")["error"] == (
        "--devices: expected at most 2, the rows of a minibatch, got 3"
    )


@pytest.mark.parametrize(
    "text",
    [
        "worker 1 of 2",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_wrong_tf_config_is_told(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    for asked in (devices.use_devices, devices.use_devices_here):
        with pytest.raises(UserError, match="TF_CONFIG: expected"):
            asked("all")


def test_without_all_a_tf_config_of_the_platform_means_nothing(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"chief": ["a:1"]}}')
    assert devices.use_devices("1") == 1
    assert devices.use_devices_here("1") == ""
    devices.check_one_worker("select=offline", "1")


def test_pieces_are_tried_on_one_worker_alone(monkeypatch):
    config = {"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    said = devices.use_devices_here("all")
    assert said == "fits on 3 devices of 3 workers, timed on this one alone"
    assert devices.workers() == devices.replicas() == 1


def test_what_needs_one_worker_says_so(monkeypatch):
    devices.check_one_worker("select=offline", "all")
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(UserError, match="--select=offline: expected one worker"):
        devices.check_one_worker("select=offline", "all")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_devices_are_a_number_or_all(text):
    with pytest.raises(UserError, match="--devices: expected all or a number from 1"):
        shared_knobs.check_devices(text)


def test_one_device_needs_no_strategy():
    assert devices.use_devices("1") == 1
    assert devices.strategy() is None
    assert devices.in_words() == ""
    assert devices.agreed(3) == 3
