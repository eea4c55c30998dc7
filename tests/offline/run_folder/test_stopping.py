from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import config as mopp_config
from mopp_tf.experiment import dry_run as mopp_estimate
from mopp_tf.experiment.configs import Configs as MoppConfigs
from morel_tf import config
from morel_tf.experiment import dry_run
from morel_tf.experiment.configs import Configs, folder_of
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.pipeline import timing
from offline_tf.run_folder import stopping
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent


def test_nothing_stops_unless_it_is_asked_to():
    stopping.check()
    with stopping.allowed():
        stopping.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_checkpoint_with_its_state(tmp_path, number):
    before = signal.getsignal(number)
    record = toys.record(tmp_path / "run")
    weight = tf.Variable(0.0)
    stage = record.stage("fit")
    stage.track([weight])
    with pytest.raises(stopping.Stopped) as found, stopping.allowed():
        for step in range(1, 10):
            weight.assign(float(step))
            stage.progress(step, 9, "steps")
            if step == 3:
                os.kill(os.getpid(), number)
            if step % 2 == 0:
                stage.save(step)
    assert found.value.status == 128 + number and int(weight) == 4
    again = RunRecord.open_existing(tmp_path / "run").stage("fit")
    weight.assign(-1.0)
    again.track([weight])
    assert again.restore() == 4 and float(weight) == 4.0
    stopping.check()  # the request went with the run
    assert signal.getsignal(number) == before


def test_a_second_signal_does_not_wait():
    with pytest.raises(KeyboardInterrupt), stopping.allowed():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_time_is_over_after_max_hours(tmp_path):
    stage = toys.record(tmp_path / "run").stage("look")
    with stopping.allowed(max_hours=1.0):
        stage.progress(1, 2, "rows")
    with pytest.raises(stopping.Stopped) as found, stopping.allowed(max_hours=0.0):
        stage.progress(1, 2, "rows")
    assert found.value.status == stopping.OUT_OF_TIME and "--max_hours" in str(found.value)


def test_a_stage_that_ends_is_complete_before_the_run_stops(tmp_path):
    record = toys.record(tmp_path / "run")
    with pytest.raises(stopping.Stopped), stopping.allowed(max_hours=0.0):
        record.stage("look").finish({"found": 1})
    assert record.stage("look").complete and record.stage("look").result == {"found": 1}


def _command(folder, *more):
    words = ["morel_tf.train", "--env=hopper", "--data_steps=3000", f"--workdir={folder}"]
    words += ["--dynamics_hidden=16", "--ensemble_size=2", "--threads=1", *more]
    return [sys.executable, "-m", *words, f"--data_dir={folder.parent}"]


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def _configs(**run):
    return [config.RunConfig(**run), *(stage() for stage in config.STAGES[1:])]


@pytest.fixture
def untimed(monkeypatch):
    """Every piece of a run takes a hundredth of a second; none is tried."""
    monkeypatch.setattr(timing, "least", lambda call: 0.01)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path, monkeypatch, untimed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run.compilation, "use_threads", lambda threads: 1)
    said = "\n".join(dry_run.plan(*_configs(data_steps=3000)))
    assert "make a new run in runs/morel-hopper-default-seed0" in said and "3,000 rows" in said
    assert re.search(r"in all, about +[\d.]+ min", said) and "planning" in said
    assert not list(tmp_path.iterdir())
    # A run that has fitted its models need not do so again.
    flags = Configs(*_configs(data_steps=3000)).flat()
    record = RunRecord.create_or_continue(
        tmp_path / "runs" / "morel-hopper-default-seed0", "morel", flags
    )
    record.stage("dynamics").finish({})
    said = "\n".join(dry_run.plan(*_configs(data_steps=3000)))
    assert "go on with the run in" in said and not re.search(r"^  dynamics", said, re.M)


@pytest.mark.parametrize(
    ("flags", "rule", "expected"),
    [
        ({}, "beta", "morel-hopper-default-seed0"),
        ({"dataset": "logs/my_data.hdf5"}, "beta", "morel-hopper-my_data-default-seed0"),
        ({"dataset": "tfds:x"}, "beta", "morel-hopper-tfds-x-default-seed0"),
        ({"exploration": "eps1", "seed": 3}, "beta", "morel-hopper-eps1-default-seed3"),
        ({"env": "my_plant.py:TANK"}, "none", "naive_mbrl-tank-default-seed0"),
    ],
)
def test_other_data_and_no_detector_have_a_folder_of_their_own(flags, rule, expected):
    configs = Configs(*_configs(**flags))
    configs = configs._replace(usad=dataclasses.replace(configs.usad, threshold_rule=rule))
    assert folder_of(configs) == pathlib.Path("runs") / expected
    away = configs._replace(run=dataclasses.replace(configs.run, workdir="away"))
    assert folder_of(away) == pathlib.Path("away")


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        ({}, "3,000"),
        ({"dataset": "medium-ours"}, "3,000"),
        ({"dataset": "medium-expert-ours"}, "6,000"),
    ],
)
def test_a_dry_run_counts_the_rows_that_would_be_made(tmp_path, monkeypatch, untimed, flags, rows):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run.compilation, "use_threads", lambda threads: 1)
    assert f"{rows} rows" in "\n".join(dry_run.plan(*_configs(data_steps=3000, **flags)))


def _of(stages, configs, **changes):
    fields = {f.name for stage in stages for f in dataclasses.fields(stage)}
    assert set(changes) <= fields
    names = [[f.name for f in dataclasses.fields(stage)] for stage in stages]
    return configs(
        *(
            stage(**{name: changes[name] for name in own if name in changes})
            for stage, own in zip(stages, names, strict=True)
        )
    )


def test_a_decision_weighs_what_its_rows_pass_through():
    def work(**changes):
        made = _of(mopp_config.STAGES, MoppConfigs, **changes)
        return mopp_estimate.decision_work(toys.cart(), made)

    sizes = {"dynamics_members": 3, "behavior_members": 2, "population": 10, "horizon": 2}
    sizes |= {"mlp_hidden": (7,), "q_hidden": (5,), "q_proposals": 4, "network": "mlp"}
    # Two states, one action: 3 inputs.
    dynamics, behavior, q = 3 * (21 + 42), 14 + 14, 2 * (15 + 5)
    assert work(**sizes) == 10 * (2 * (dynamics + behavior + 4 * q) + 4 * q)
    assert work(**sizes, max_q=False, terminal_value=False) == 10 * 2 * (dynamics + behavior)
    # MBOP: 500-500 everywhere, a value for each model of the dynamics, no max-Q.
    dynamics, behavior, value = (
        count * (1500 + 250_000 + 500 * width) for count, width in ((3, 3), (2, 1), (3, 1))
    )
    found = work(**sizes, algorithm="mbop", mbop_horizon=6)
    assert found == 10 * (6 * (dynamics + behavior) + value)


def test_a_dry_run_of_mopp_refuses_what_the_run_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [stage() for stage in mopp_config.STAGES]
    stages[2] = dataclasses.replace(stages[2], dynamics_members=1)
    with pytest.raises(UserError, match="^--dynamics_members: expected 2 or more"):
        mopp_estimate.plan(*stages)


def test_no_reader_takes_the_end_of_the_time_for_a_damaged_file(tmp_path, monkeypatch):
    def slow(*_):
        time.sleep(30)

    path = tmp_path / "data.hdf5"
    path.touch()
    monkeypatch.setattr(sources.h5py, "File", slow)
    with pytest.raises(stopping.Stopped), stopping.at_once(1e-5):
        sources.read_file(path, tasks.get("hopper"))


def test_a_dry_run_counts_what_a_training_left(tmp_path, monkeypatch, untimed):
    monkeypatch.setattr(dry_run.compilation, "use_threads", lambda threads: 1)
    flags = {"dataset": "medium-replay-sac", "data_dir": str(tmp_path)}
    with pytest.raises(UserError, match="^--dataset=medium-replay-sac: expected"):
        dry_run.plan(*_configs(**flags))
    with h5py.File(tmp_path / "hopper-medium-replay-sac.hdf5", "w") as file:
        file.create_dataset("actions", data=np.zeros((700, 3)), compression="gzip")
    assert "(700 rows)" in "\n".join(dry_run.plan(*_configs(**flags)))


@pytest.mark.parametrize(
    "flag", ["--dataset=nosuch.hdf5", "--dataset=nosuch-ours", "--dynamics_from=nosuch"]
)
def test_a_dry_run_refuses_what_is_not_there(tmp_path, flag, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run.compilation, "use_threads", lambda threads: 1)
    name, value = flag.removeprefix("--").split("=")
    with pytest.raises(UserError, match=f"^--{name}: expected"):
        dry_run.plan(*_configs(**{name: value}))


@pytest.mark.parametrize(
    ("plan", "stages"), [(dry_run.plan, config.STAGES), (mopp_estimate.plan, mopp_config.STAGES)]
)
def test_a_task_file_may_make_tensors_before_a_dry_run(tmp_path, monkeypatch, plan, stages):
    """TensorFlow takes no number of threads any more once there is a tensor."""
    (tmp_path / "plant.py").write_text("from nowhere import the_file_was_run")
    asked = []
    monkeypatch.setattr(
        dry_run.compilation, "use_threads", lambda threads: asked.append(threads) or 1
    )
    run = stages[0](env=f"{tmp_path / 'plant.py'}:SPEC")
    with pytest.raises(UserError, match="the_file_was_run|nowhere"):
        plan(run, *(stage() for stage in stages[1:]))
    assert asked == [0]


def test_a_process_that_makes_data_stops_with_the_run(tmp_path):
    """The command is asked to stop, and has ended, before the run does."""
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "  pathlib.Path('ended').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path('began').touch(); time.sleep(60)\n"
    )
    made_here = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}"]

    def ask(*_):
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    with pytest.raises(stopping.Stopped), stopping.allowed():
        stopping.run_command(made_here)
    assert (tmp_path / "ended").exists()
    assert stopping.run_command([sys.executable, "-c", "import sys; sys.exit(3)"]) == 3


@pytest.mark.slow
def test_ctrl_c_ends_with_the_command_to_go_on(tmp_path):
    command = _command(tmp_path / "run", "--dynamics_epochs=100000")
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment())
    checkpoints = tmp_path / "run" / "checkpoints"
    until = time.monotonic() + 120
    while not list(checkpoints.glob("*/checkpoint")) and time.monotonic() < until:
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    last = said.strip().splitlines()[-1]
    said_first = f"stopped by SIGINT; to go on: {sys.executable} -m morel_tf.train --env=hopper"
    assert last.startswith(said_first)
    assert np.all([f.suffix != ".partial" for f in (tmp_path / "run").rglob("*")])
