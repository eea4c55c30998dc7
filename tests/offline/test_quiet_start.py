"""What a user sees on stderr before a command's own first line: nothing, unless --verbose."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from offline_tf import quiet_start, tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.types import Transitions

ROOT = pathlib.Path(__file__).parent.parent.parent
START_UP = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795941653.301519   24782 cudart_stub.cc:31] Could not find cuda drivers.\n"
    "2026-11-29 08:41:01.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations on\n"
    "I0000 00:00:1795941653.422253   24782 cpu_feature_guard.cc:227] This TensorFlow binary\n"
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow\n"
)
NO_DEVICE = "E0000 00:00:1795941745.373427   25361 cuda_platform.cc:52] failed call to cuInit\n"


def command(*words, folder=ROOT):
    """A process of its own; (status, stderr)."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    run = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    return run.returncode, run.stderr


def run_fake(folder, body, *before):
    """Imports a module called tensorflow with this text; (status, stderr)."""
    (folder / "tensorflow.py").write_text(body)
    code = "; ".join(["from offline_tf import quiet_start", *before, "import tensorflow"])
    return command("-c", code, folder=folder)


def test_start_up_messages_are_dropped_and_all_others_stay(monkeypatch):
    others = "ours\nW is no level\nE0000 00:00:1.2  3 blas.cc:1] cannot load\nTo enable it: pip\n"
    monkeypatch.setattr(quiet_start, "_DEVICES", ())
    assert quiet_start.without_start_up(START_UP + others + NO_DEVICE) == others


def test_an_error_of_cuda_is_dropped_only_where_there_is_no_device(tmp_path, monkeypatch):
    monkeypatch.setattr(quiet_start, "_DEVICES", (f"{tmp_path}/nvidia*",))
    assert quiet_start.without_start_up(NO_DEVICE) == ""
    (tmp_path / "nvidia0").touch()
    assert quiet_start.without_start_up(NO_DEVICE) == NO_DEVICE


SAYS = f"import os, types\nos.write(2, {START_UP + 'other' + chr(10)!r}.encode())\n"
DEVICES = "config = types.SimpleNamespace(list_physical_devices=lambda: os.write(2, b'asked\\n'))\n"


@pytest.mark.parametrize(
    ("ends", "status", "starts"),
    [
        (DEVICES, 0, "other\nasked\n"),
        ("os.abort()", -6, START_UP + "other\n"),
        ("raise ImportError('libfoo')", 1, START_UP + "other\nTraceback"),
        ("import sys; sys.exit(3)", 3, "other\n"),
    ],
    ids=["loads", "crashes", "fails", "is stopped"],
)
def test_what_the_import_writes(tmp_path, ends, status, starts):
    found = run_fake(tmp_path, SAYS + ends, "quiet_start.install()")
    assert found[0] == status and found[1].startswith(starts), found
    assert status or found[1] == starts


def test_a_look_for_the_module_is_no_import(tmp_path):
    look = "import importlib.util as u; assert u.find_spec('tensorflow').origin"
    found = run_fake(tmp_path, SAYS + DEVICES, "quiet_start.install()", look)
    assert found == (0, "other\nasked\n")


def test_without_it_nothing_is_held_back(tmp_path):
    assert run_fake(tmp_path, SAYS + DEVICES) == (0, START_UP + "other\n")


BINARIES = {
    "morel_tf.train": ["--workdir=run"],
    "mopp_tf.train": ["--workdir=run"],
    "offline_tf.datasets.doctor": [],
}
WRONG = {
    "morel_tf.train": ["--iterations=-1"],
    "mopp_tf.train": ["--horizon=-1"],
    "offline_tf.datasets.doctor": ["--seed=-1", "--dataset=x"],
}


def _mistakes():
    """Every mistake of every binary; those that start TensorFlow take seconds: one each is fast."""
    fast = {("env", "offline_tf.datasets.doctor"), ("file", "morel_tf.train")}
    for kind in ("value", "unknown", "env", "file"):
        for module in BINARIES:
            is_slow = kind in ("env", "file") and (kind, module) not in fast
            yield pytest.param(kind, module, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.parametrize(("kind", "module"), _mistakes())
def test_a_mistake_is_told_in_one_line(tmp_path, kind, module):
    words = {
        "value": WRONG[module],
        "unknown": ["--no_such_flag"],
        "env": ["--env=nonsense", "--dataset=missing.hdf5"],
        "file": ["--env=hopper", "--dataset=missing.hdf5"],
    }[kind]
    status, said = command("-m", module, *BINARIES[module], *words, folder=tmp_path)
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A file of Hopper's that is too short to learn from."""
    task = tasks.get("hopper")
    rows = np.arange(60, dtype=np.float32)
    columns = {
        "observations": np.sin(rows[:, None] * np.arange(1, task.state_dim + 1)) + 1.0,
        "actions": np.cos(rows[:, None] * np.arange(1, task.action_dim + 1)),
        "rewards": rows / 60,
        "next_observations": np.sin((rows[:, None] + 1) * np.arange(1, task.state_dim + 1)) + 1.0,
        "terminals": np.zeros(60, bool),
        "timeouts": np.arange(60) % 20 == 19,
    }
    path = tmp_path_factory.mktemp("data") / "small.hdf5"
    d4rl.write(
        path,
        Transitions(
            **{k: v.astype(np.float32) if v.dtype != bool else v for k, v in columns.items()}
        ),
        {},
        {},
    )
    return path


def test_a_command_that_needs_tensorflow_begins_with_its_own_words(recording, tmp_path):
    words = ["-m", "offline_tf.datasets.doctor", f"--dataset={recording}", "--noreplay"]
    _, said = command(*words, "--output=a", folder=tmp_path)
    assert said.startswith("a: doctor-small.txt and .json"), said
    _, told = command(*words, "--output=b", "--verbose", folder=tmp_path)
    assert "cudart_stub" in told or "cpu_feature_guard" in told
