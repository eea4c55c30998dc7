import pathlib
import shlex
import subprocess
import sys

from offline_tf import packages


def test_what_is_missing_is_installed_into_the_python_that_runs(tmp_path, monkeypatch):
    python = tmp_path / "my project" / ".venv" / "bin" / "python"
    monkeypatch.setattr(packages.sys, "executable", str(python))
    elsewhere = packages.install("-r requirements-formats.txt")
    assert elsewhere == f"'{python}' -m pip install -r requirements-formats.txt"
    monkeypatch.setattr(packages.pathlib.Path, "cwd", lambda: tmp_path / "my project")
    assert packages.install("minari") == ".venv/bin/python -m pip install minari"


def test_the_command_runs(monkeypatch):
    monkeypatch.chdir(pathlib.Path(sys.prefix))
    said = subprocess.run(
        [*shlex.split(packages.install("--help"))], capture_output=True, text=True, check=True
    )
    assert "pip install" in said.stdout
