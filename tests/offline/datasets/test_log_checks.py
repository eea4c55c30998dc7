"""Ten and more faults, put one at a time into a clean log of two tanks: each is found, alone."""

import dataclasses

import numpy as np
import pytest

from offline_tf.datasets.quality import log_checks
from offline_tf.tasks.plants import plant_file

STEP, COUNT = 10.0, 6000
DESCRIPTION = {
    "name": "tanks",
    "step_seconds": STEP,
    "log": {"time": "time", "time_format": "seconds", "max_gap_seconds": 60.0},
    "observations": [{"name": "upper"}, {"name": "lower"}, {"name": "position"}],
    "actions": [
        {"name": "pump", "low": 0.0, "high": 1.0},
        {"name": "valve", "low": 0.0, "high": 1.0},
    ],
}
TASK = plant_file.task_of(DESCRIPTION, "plant.toml")


def law(error):
    """A controller of the pump."""
    return np.clip(0.5 - 0.8 * error, 0.0, 1.0)


def clean(pump_of=None, executed=lambda valve: valve):
    """Two tanks, a pump under a controller with steps added, a valve that an operator sets."""
    generator = np.random.default_rng(0)
    times = np.cumsum(STEP + generator.uniform(-1.0, 1.0, COUNT))
    times[COUNT // 3 :] += 3600.0  # one gap
    rows = {name: np.empty(COUNT) for name in ("upper", "lower", "position", "pump", "valve")}
    upper, lower, valve, extra = 0.5, 0.5, 0.5, 0.0
    for t in range(COUNT):
        if generator.random() < 0.02:
            valve = generator.uniform(0.1, 0.9)
        if generator.random() < 0.03:
            extra = generator.uniform(-0.4, 0.4)
        pump = np.clip(law(lower - 0.6) + extra, 0.0, 1.0)
        if pump_of is not None:
            pump = pump_of(upper, lower, t)
        position = executed(valve)
        rows["pump"][t], rows["valve"][t] = pump, valve
        seen = (upper, lower, position) + generator.normal(size=3) * (0.0005, 0.0005, 0.001)
        rows["upper"][t], rows["lower"][t], rows["position"][t] = seen
        flow = 0.1 * position * np.sqrt(max(upper, 0.0))
        upper += 0.08 * pump - flow
        lower += flow - 0.05 * np.sqrt(max(lower, 0.0))
        upper, lower = max(upper, 0.0), max(lower, 0.0)
    return times, rows


@pytest.fixture(scope="module")
def log():
    return clean()


def codes(times, rows, task=TASK):
    return {finding.code for finding in log_checks.find(times, rows, task)}


def changed(log, name, change):
    times, rows = log
    values = rows[name].copy()
    change(values)
    return times, rows | {name: values}


def test_a_clean_log_has_no_fault(log):
    assert codes(*log) == set()


def set_to(rows, value):
    def change(values):
        values[rows] = value

    return change


def times_changed(log, change):
    times = log[0].copy()
    change(times)
    return times, log[1]


def back(times):
    times[4000:] -= 3600.0


def twice(times):
    times[100:400:3] = times[99:399:3]


def in_percent(values):
    values[3000:] *= 100.0


def rounded(values):
    values[:] = np.round(values / 0.25) * 0.25


FAULTS = {
    "stamps_twice": lambda log: times_changed(log, twice),
    "clock_jumps": lambda log: times_changed(log, back),
    "missing/lower": lambda log: changed(log, "lower", set_to(slice(100, 1000), np.nan)),
    "stuck/upper": lambda log: changed(log, "upper", set_to(slice(3000, 3300), 0.4321)),
    "quantised/upper": lambda log: changed(log, "upper", rounded),
    "units/lower": lambda log: changed(log, "lower", in_percent),
    "never_moves/valve": lambda log: changed(log, "valve", set_to(slice(None), 0.5)),
    "move_together/pump/valve": lambda log: (log[0], log[1] | {"valve": 0.9 * log[1]["pump"]}),
    "beyond_bounds/pump": lambda log: changed(log, "pump", set_to(slice(0, 300), 1.2)),
    "not_executed/valve": lambda _: clean(executed=lambda valve: np.clip(valve, 0.25, 0.7)),
    "no_excitation/pump": lambda _: clean(
        pump_of=lambda upper, lower, t: 0.4 - 0.1 * (lower - 0.6)
    ),
    "controller_changes/pump": lambda _: clean(
        pump_of=lambda upper, lower, t: np.clip(
            0.4 + (-0.8 if t < COUNT // 2 else 0.5) * (lower - 0.5) + 0.01 * np.sin(t / 3.0),
            0.0,
            1.0,
        )
    ),
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found(log, code):
    found = codes(*FAULTS[code](log))
    assert code in found
    # A controller that reads a broken sensor seems to have another law.
    follow = ("no_excitation", "controller_changes")
    others = {other for other in found - {code} if not other.startswith(follow)}
    assert others == set()


@pytest.mark.parametrize("code", FAULTS)
def test_a_finding_says_what_it_means_and_what_to_do(log, code):
    for finding in log_checks.find(*FAULTS[code](log), TASK):
        assert all(text for text in dataclasses.astuple(finding))
