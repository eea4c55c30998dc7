"""Files that are written whole or not at all; what a full disk, or one that takes nothing, leaves."""

import contextlib
import errno
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import toys

from offline_tf.datasets.formats import d4rl, minari
from offline_tf.export import saved_model
from offline_tf.policies import gaussian
from offline_tf.run_folder import files


@pytest.mark.parametrize("ending", [".partial", ".partial.npz"])
def test_a_file_is_there_once_it_is_whole(tmp_path, ending):
    path = tmp_path / "deep" / "x.npz"
    with files.whole(path, ending) as partial:
        assert partial.name == f"x.npz{ending}"
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError("x"), KeyboardInterrupt()]
)
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(type(error)), files.whole(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_whole_or_gone(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(ValueError), files.whole(path) as partial:
        (partial / "deep").mkdir(parents=True)
        raise ValueError
    assert not list(tmp_path.iterdir())
    with files.whole(path) as partial:
        partial.mkdir()
    assert path.is_dir()


def test_an_error_names_the_file(tmp_path):
    with pytest.raises(OSError) as raised, files.whole(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "x")


@contextlib.contextmanager
def small_disk(path, kilobytes):
    """A file system in memory of that size; skips where this user may not make one."""
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path], capture_output=True
    )
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


WRITERS = {
    "json": lambda path: files.write_json(path, list(range(200_000))),
    "HDF5": lambda path: d4rl.write(path, toys.transitions((2000,) * 20)),
    "Minari": lambda path: minari.write(
        path, toys.transitions((2000,) * 20), toys.cart(), "a/b-v0"
    ),
    "policy": lambda path: gaussian.save(
        path.with_suffix(".npz"),
        toys.linear_policy(np.ones((2, 1)), [0.0]).numpy(),
        {"x": np.random.default_rng(0).integers(10, size=10**6).tolist()},
    ),
    "LiteRT": lambda path: saved_model._write(path, bytes(10**6)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_and_left_with_what_was_there(tmp_path, name):
    with small_disk(tmp_path / "disk", 200) as disk:
        (disk / "old").write_text("kept")
        with pytest.raises(OSError) as raised:
            WRITERS[name](disk / "new")
        assert raised.value.errno == errno.ENOSPC
        assert str(raised.value.filename).startswith(str(disk / "new"))
        assert [p.name for p in disk.iterdir()] == ["old"]


RUN = (
    "--env=hopper",
    "--data_steps=6000",
    "--ensemble_size=2",
    "--dynamics_hidden=16,16",
    "--dynamics_epochs=3",
    "--iterations=10",
    "--eval_every=5",
    "--eval_episodes=2",
    "--final_episodes=3",
    "--paths_per_member=4",
    "--policy_hidden=8,8",
    "--baseline_hidden=16,16",
    "--horizon=50",
    "--threads=1",
)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [30, 60, 120, 250, 700, 1100])
def test_a_run_on_a_full_disk_ends_in_one_line_and_goes_on_once_there_is_space(tmp_path, kilobytes):
    from offline_tf.run_folder import comparison

    def train(folder):
        words = [*RUN, f"--data_dir={tmp_path / 'data'}", f"--workdir={folder}"]
        command = [sys.executable, "-m", "morel_tf.train", *words]
        return subprocess.run(command, capture_output=True, text=True)

    whole = tmp_path / "whole"
    assert train(whole).returncode == 0
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        ended = train(disk / "run")
        last = ended.stderr.strip().splitlines()[-1]
        assert ended.returncode == 2 and "Traceback" not in ended.stderr
        assert (
            last.startswith("error: ")
            and "No space left on device; mend this; what was saved" in last
        )
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        again = train(disk / "run")
        assert again.returncode == 0, again.stderr
        assert comparison.differences(whole, disk / "run") == []
        assert not [p for p in pathlib.Path(disk).rglob("*partial*")]


@pytest.mark.slow
def test_a_read_only_disk_is_refused_before_anything_is_done(tmp_path):
    with small_disk(tmp_path / "disk", 200) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        words = [*RUN, f"--workdir={disk / 'run'}"]
        command = [sys.executable, "-m", "morel_tf.train", *words]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 2 and not (disk / "run").exists()
        assert ended.stderr.startswith(f"error: --workdir: {disk} cannot be written to")
