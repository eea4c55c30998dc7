import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from offline_tf import install_hints


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ("my project", ".venv/bin/python -m pip install -r x.txt"),
        ("my project/.venv/bin", "./python -m pip install -r '{home}/my project/x.txt'"),
        ("", "'my project/.venv/bin/python' -m pip install -r 'my project/x.txt'"),
        (
            "elsewhere",
            "'{home}/my project/.venv/bin/python' -m pip install -r '{home}/my project/x.txt'",
        ),
    ],
)
def test_what_is_missing_is_installed_into_the_python_that_runs(
    tmp_path, monkeypatch, here, expected
):
    root = tmp_path / "my project"
    monkeypatch.setattr(install_hints, "_ROOT", root)
    monkeypatch.setattr(install_hints.sys, "executable", str(root / ".venv" / "bin" / "python"))
    monkeypatch.setattr(install_hints.pathlib.Path, "cwd", lambda: tmp_path / here)
    assert install_hints.install("x.txt") == expected.format(home=tmp_path)


def test_the_command_runs_and_the_files_are_there(monkeypatch):
    monkeypatch.chdir(pathlib.Path(sys.prefix))
    words = shlex.split(install_hints.install("requirements.txt", "--help"))
    assert pathlib.Path(words[-1]).is_file()
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "pip install" in said.stdout


@pytest.mark.parametrize("module", ["morel_tf.train", "mopp_tf.train", "offline_tf.collect"])
@pytest.mark.parametrize(("setting", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)])
def test_products_of_numpy_take_one_thread_or_as_many_as_the_user_says(module, setting, threads):
    code = (
        f"import os, {module}, numpy; x = numpy.ones((500, 500)); x @ x;"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {**os.environ, **setting}
    if not setting:
        environment.pop("OPENBLAS_NUM_THREADS", None)
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == str(min(threads, os.cpu_count() or 1)), run.stderr
