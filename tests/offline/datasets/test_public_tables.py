"""Tables of other people's, rebuilt small: their form, not their content. Each is described and read.

- UCI "Individual household electric power consumption": semicolons, date and time in two columns, "?".
- UCI "Occupancy Detection": quoted, written by R, whose rows have names and whose header has not.
- Tennessee Eastman process, Rieth et al. 2017 (Harvard Dataverse): runs with a sample number each.
- SKAB (Skoltech Anomaly Benchmark): semicolons and decimal points, anomaly flags.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline_tf.datasets import sources
from offline_tf.datasets.description import draft, table_facts
from offline_tf.tasks.plants import plant_file

ROWS = 300


def household(generator):
    """A minute a row; a stretch without a measurement."""
    yield "Date;Time;Global_active_power;Voltage;Sub_metering_1"
    for k in range(ROWS):
        minute = 17 * 60 + 24 + k
        stamp = f"{16 + minute // 1440}/12/2006;{minute // 60 % 24:02d}:{minute % 60:02d}:00"
        if 100 <= k < 110:
            yield f"{stamp};?;?;"
        else:
            power = 2.0 + np.sin(k / 9) + generator.normal() / 9
            yield f"{stamp};{power:.3f};{235 + generator.normal():.3f};{float(17 * (k // 60 % 2)):.3f}"


def occupancy(generator):
    """Rows have names "1", "2", ...; their column has none."""
    yield '"date","Temperature","Humidity","Light","CO2","HumidityRatio","Occupancy"'
    for k in range(ROWS):
        yield (
            f'"{k + 1}","2015-02-04 {17 + (51 + k) // 60}:{(51 + k) % 60:02d}:00",'
            f"{23 + generator.normal():.2f},{27 + generator.normal():.3f},{426 * (k // 90 % 2)},"
            f"{700 + 9 * generator.normal():.2f},{0.0048 + generator.normal() / 1e4:.10f},{k // 90 % 2}"
        )


def tennessee(generator):
    """Two runs of 150 samples, three minutes each."""
    yield ",faultNumber,simulationRun,sample,xmeas_1,xmeas_2,xmv_1"
    for k in range(ROWS):
        run, sample = divmod(k, 150)
        valve = 60 + 3 * (k // 40 % 3)
        yield (
            f"{k + 1},0,{run + 1},{sample + 1},{0.25 + generator.normal() / 99:.5f},"
            f"{3650 + 20 * generator.normal():.1f},{valve:.3f}"
        )


def skab(generator):
    """A second a row, with a pause."""
    yield "datetime;Accelerometer1RMS;Current;Pressure;Volume Flow RateRMS;anomaly;changepoint"
    for k in range(ROWS):
        second = 13 * 60 + k + (30 if k >= 200 else 0)
        yield (
            f"2020-03-09 10:{second // 60:02d}:{second % 60:02d};"
            f"{0.027 + generator.normal() / 999:.6f};{1.33 + generator.normal():.5f};"
            f"{0.05 + generator.normal() / 20:.5f};"
            f"{32.0 + (k // 50 % 2)};{float(k > 250)};{float(k == 251)}"
        )


TABLES = {
    "household": (household, "power.txt", "", 60.0, {"date": "Date", "time": "Time"}),
    "occupancy": (occupancy, "datatraining.txt", "", 60.0, {"time": "date"}),
    "tennessee": (
        tennessee,
        "TEP.csv",
        "sample",
        1.0,
        {"time": "sample", "batch": "simulationRun"},
    ),
    "skab": (skab, "0.csv", "", 1.0, {"time": "datetime"}),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_public_table_is_described_and_read(tmp_path, name):
    rows, file, time, step, log = TABLES[name]
    path = tmp_path / file
    path.write_text("\n".join(rows(np.random.default_rng(0))) + "\n")
    facts = table_facts.find(Path(path), time, step)
    assert {
        key: getattr(facts, key) for key in ("date", "time", "batch") if getattr(facts, key)
    } == log
    made = tmp_path / "plant.toml"
    made.write_text(draft.write(facts, "plant", 1))
    task = plant_file.read(made)
    data, _ = sources.load(str(path), task)
    pieces = {"household": 2, "occupancy": 1, "tennessee": 2, "skab": 2}[name]
    cut = {"household": 10}.get(name, 0)
    assert len(data.episode_bounds()) == pieces
    # Each piece loses its last row, and its last values hold for three rows.
    assert abs(len(data) - (ROWS - cut)) <= 4 * pieces


def test_what_describe_sees_of_each(tmp_path):
    kinds = {}
    for name, (rows, file, time, step, _) in TABLES.items():
        path = tmp_path / f"{name}-{file}"
        path.write_text("\n".join(rows(np.random.default_rng(0))) + "\n")
        facts = table_facts.find(path, time, step)
        kinds[name] = [column.name for column in facts.of_kind("action")]
    assert kinds == {
        "household": ["Sub_metering_1"],
        "occupancy": ["Light", "Occupancy"],
        "tennessee": ["xmv_1"],
        "skab": ["Volume Flow RateRMS", "anomaly", "changepoint"],
    }
