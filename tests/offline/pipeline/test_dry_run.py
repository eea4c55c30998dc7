"""What --dry_run says about time: pieces of a run are tried, and multiplied by their numbers."""

import dataclasses
import gzip
import time

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf
import toys

from benchmarks import estimates
from mopp_tf import config as of_mopp
from mopp_tf.experiment import dry_run as mopp_dry_run
from mopp_tf.experiment.configs import Configs as MoppConfigs
from morel_tf import config as of_morel
from morel_tf.experiment import dry_run as morel_dry_run
from morel_tf.experiment.configs import Configs as MorelConfigs
from offline_tf import tasks
from offline_tf.pipeline import dry_run, timing


def configs(stages, kind, **changes):
    """Those of a run with some flags of its own."""
    names = [[f.name for f in dataclasses.fields(stage)] for stage in stages]
    assert set(changes) <= {name for own in names for name in own}
    return kind(
        *(
            stage(**{name: changes[name] for name in own if name in changes})
            for stage, own in zip(stages, names, strict=True)
        )
    )


def morel(rows, **changes):
    made = configs(of_morel.STAGES, MorelConfigs, **changes)
    return morel_dry_run.seconds(tasks.get(made.run.env), made, rows, 1)


def mopp(**changes):
    made = configs(of_mopp.STAGES, MoppConfigs, **changes)
    return mopp_dry_run.seconds(tasks.get(made.run.env), made, 1)


@pytest.fixture
def one_second(monkeypatch):
    """Every piece that is tried takes a second."""
    monkeypatch.setattr(timing, "least", lambda call: 1.0)


def busy(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_the_fastest_try_counts_and_not_the_first():
    spent = iter([0.1, 0.05, 0.02, 0.05])
    found = timing.least(lambda: busy(next(spent, 0.5)))
    assert 0.02 <= found < 0.05


def test_time_that_other_processes_take_does_not_count():
    assert timing.least(lambda: (busy(0.01), time.sleep(0.2))) < 0.1


def test_a_task_of_estimates_never_ends_and_always_pays():
    task = timing.endless(dataclasses.replace(toys.cart(), reward=None))
    states, actions = tf.zeros([3, task.state_dim]), tf.zeros([3, task.action_dim])
    assert not task.termination(states).numpy().any()
    assert task.reward(states, actions, states, "v2").shape == (3,)
    assert timing.simulator_step(dataclasses.replace(task, simulation=None), "v2", 1) == 0.0


def test_morel_is_its_pieces_times_their_numbers(one_second):
    sizes = {"dynamics_epochs": 2, "dynamics_batch_size": 50, "bc_epochs": 3, "bc_batch_size": 10}
    sizes |= {"horizon": 100, "iterations": 7, "eval_every": 7, "eval_episodes": 1}
    judged = morel(1000, **sizes)
    assert judged["judge_models"] == pytest.approx(15_000 / 5)
    # A look after every ten updates and one at each of four clones, of 1000 steps.
    assert judged["judge"] == pytest.approx((7 / 10 + 4) * 1000)
    found = morel(1000, judge_members=0, **sizes)
    assert not {"judge", "judge_models"} & set(found)
    clones = judged["behavior_cloning"] - found["behavior_cloning"]
    assert clones == pytest.approx(3 * 3 * 100 / 5)
    fixed = morel_dry_run._FIXED
    # Five Adam steps in a call; 8192 pairs; 50 steps of roll-outs; updates of 100 steps.
    assert found["dynamics"] == pytest.approx(2 * 20 / 5 + fixed["dynamics"])
    assert found["behavior_cloning"] == pytest.approx(3 * 100 / 5 + fixed["behavior_cloning"])
    assert found["usad"] == pytest.approx(1000 / 8192 + fixed["usad"])
    step = timing.simulator_step(tasks.get("hopper"), "v2", 1)
    looks = 1.4 * 2 * 1000 * step
    iteration = 100 * (1 / 50 + 0.75 / 100)
    assert found["planning"] == pytest.approx(7 * iteration + looks + fixed["planning"])
    assert found["evaluation"] == pytest.approx(4 * 100 * 1000 * step + 1)


def test_a_policy_whose_width_is_open_is_priced_as_the_widest(one_second):
    rounds = 10_000 * (1 + 2 + 4) / 5
    fixed = morel_dry_run._FIXED["behavior_cloning"]
    sizes = {"horizon": 100, "iterations": 1, "eval_episodes": 1}
    found = morel(1000, **sizes)["behavior_cloning"]
    assert found == pytest.approx(rounds * (1 + 4) + fixed)  # one narrow clone, four wide ones
    found = morel(1000, **sizes, policy_hidden=(64, 64))["behavior_cloning"]
    assert found == pytest.approx(rounds * 4 + fixed)


@pytest.mark.parametrize("algorithm", ["mopp", "mbop"])
def test_mopp_is_its_pieces_times_their_numbers(one_second, algorithm):
    sizes = {"dynamics_steps": 10, "behavior_steps": 20, "q_steps": 30, "network": "mlp"}
    found = mopp(algorithm=algorithm, eval_episodes=3, horizon=1, mbop_horizon=1, **sizes)
    fixed = mopp_dry_run._FIXED
    for name, steps in [("dynamics", 10), ("behavior", 20), ("q", 30)]:
        assert found[name] == pytest.approx(steps / 5 + fixed[name])
    step = timing.simulator_step(tasks.get("hopper"), "v2", 1)
    assert found["evaluation"] == pytest.approx(1000 * (1 + 3 * step) + fixed["evaluation"])
    assert ("limit" in found) == (algorithm == "mopp")


def test_members_that_share_the_threads_are_priced_by_one_of_them(one_second):
    sizes = {"dynamics_steps": 10, "encoder_hidden": (8,), "head_hidden": (4,), "horizon": 1}
    found = mopp(dynamics_members=4, **sizes)
    assert found["dynamics"] == pytest.approx(4 * 10 / 5 + mopp_dry_run._FIXED["dynamics"])


@pytest.mark.slow
def test_the_pieces_of_both_algorithms_can_be_tried(monkeypatch):
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    small = {"dynamics_hidden": (8,), "policy_hidden": (8,), "baseline_hidden": (8,)}
    assert all(value > 0 for value in morel(100, **small, paths_per_member=2).values())
    small = {"encoder_hidden": (8,), "head_hidden": (4,), "q_hidden": (8,), "population": 4}
    for algorithm in ("mopp", "mbop"):
        found = mopp(algorithm=algorithm, **small, batch_size=8, eval_episodes=2)
        assert all(value > 0 or name == "data" for name, value in found.items())


def test_the_benchmark_compares_what_both_have():
    told = {"data": 1.0, "dynamics": 20.0, "q": 30.0}
    found = estimates.compare(told, {"data": 9.0, "dynamics": 10.0, "evaluation": 5.0})
    assert found == {"dynamics": (20.0, 10.0), "in all": (20.0, 10.0)}


def test_the_benchmark_reads_the_records_of_campaigns():
    runs = list(estimates.of_record("results/hopper-pure-1m.json"))
    assert [run.name for run in runs] == ["morel --env=hopper --seed=0"]
    assert runs[0].configs.planner.iterations == 250 and runs[0].rows == 1_000_000
    assert runs[0].took["dynamics"] > 100
    names = {run.family for run in estimates.of_record("results/mopp-default.json")}
    assert names == {"mopp"}


def packed_columns(path, rows):
    with h5py.File(path, "w") as file:
        file.create_dataset("acts", data=np.zeros((rows, 3)), compression="gzip")


def text_table(path, rows):
    lines = ["time,level,valve", *["0.5,1.25,0"] * rows]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.write("\n".join(lines))


def parquet_table(path, rows):
    pyarrow.parquet.write_table(pyarrow.table({"level": np.zeros(rows)}), path)


def unknown_bytes(path, rows):
    path.write_bytes(bytes(4 * 27 * rows))  # of Hopper's rows, of 27 numbers


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("log.hdf5", packed_columns, "1,234 rows"),
        ("log.npz", lambda path, rows: np.savez(path, action=np.zeros((rows, 3))), "1,234 rows"),
        ("log.csv", text_table, "about 1,234 rows, by their lines"),
        ("log.csv.gz", text_table, "about 1,234 rows, by their lines"),
        ("log.parquet", parquet_table, "about 1,234 rows, by their lines"),
        ("log.pkl", unknown_bytes, "about 1,234 rows, by its size"),
        ("damaged.hdf5", unknown_bytes, "about 1,234 rows, by its size"),
        ("nothing", lambda path, rows: None, "about 5,000 rows, assumed"),
    ],
)
def test_rows_are_counted_where_the_file_tells_them_and_else_the_guess_is_told(
    tmp_path, name, write, said
):
    write(tmp_path / name, 1234)
    assert str(dry_run.rows_of(tasks.get("hopper"), str(tmp_path / name), 5000)) == said


def test_several_tables_are_counted_together(tmp_path):
    text_table(tmp_path / "a.csv", 100)
    text_table(tmp_path / "b.csv", 23)
    for name in (tmp_path, tmp_path / "*.csv"):
        assert dry_run.rows_of(tasks.get("hopper"), str(name), 1).number == 123
