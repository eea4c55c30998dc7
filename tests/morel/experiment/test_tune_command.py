"""`tune` as a user calls it: a process of its own, whose TensorFlow has not begun."""

import json
import subprocess
import sys

import pytest

_TRAIN = (
    "--env=hopper",
    "--data_steps=6000",
    "--ensemble_size=2",
    "--dynamics_hidden=32,32",
    "--dynamics_steps=300",
    "--iterations=4",
    "--paths_per_member=4",
    "--policy_hidden=16,16",
    "--horizon=50",
    "--judge_members=2",
    "--judge_steps=300",
    "--judge_starts=3",
    "--final_episodes=2",
    "--threads=1",
    "--noinspection",
)


def _run(*words):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_a_finished_run_is_tuned(tmp_path):
    folder = tmp_path / "run"
    _run("morel_tf.train", *_TRAIN, f"--data_dir={tmp_path}", f"--workdir={folder}")
    _run("morel_tf.tune", f"--workdir={folder}", "--minutes=0.05")
    ranked = json.loads((folder / "tune.json").read_text())
    assert len(ranked) >= 2  # the run as it is, and at least the first candidate
    assert (folder / "tune.flags").exists()
