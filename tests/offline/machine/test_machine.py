"""The report on machine and Python: what is missing, of another version, or crashes."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from offline_tf import doctor_environment, install_hints
from offline_tf.machine import facts, verdict

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the original tooling's Python has pins of its own"
)
HERE = facts.packages()
PARTS = {
    "mujoco": {"version": "3.16.0"},
    "tensorflow": {
        "version": "2.21.0",
        "devices": ["/physical_device:CPU:0"],
        "cuda_build": False,
        "onednn": True,
        "threads_inter_op": 0,
        "threads_intra_op": 1,
        "precision_auto": "bfloat16",
        "bfloat16_speed_ratio": 2.5,
    },
    "rendering": {"back_end": "", "reason": "no egl", "mp4": False, "install": "apt install x"},
    "folders": {"d4rl": {"path": "/d", "exists": True, "gib": 1.5, "free_gib": 20.0}},
}
FILES = {
    "requirements.txt": "# Pins.\nabsl-py==2.5.1\n# why\ngymnasium[mujoco]==1.4.0\n",
    "requirements-formats.txt": "# Optional: more formats.\n-r requirements.txt\nminari==0.5.4\n",
    "requirements-dev.txt": "-r requirements.txt\nruff==0.17.5  # lints\n",
    "requirements-original.txt": "# Python 3.10.\nabsl-py==2.5.1\ngym==0.23.1\n",
}


@pytest.fixture
def here(monkeypatch):
    """Versions that can be changed; all as pinned."""
    versions = {package.name: package.pinned for package in HERE}
    pinned = [package._replace(installed=None) for package in HERE]
    monkeypatch.setattr(
        facts, "packages", lambda: [p._replace(installed=versions.get(p.name)) for p in pinned]
    )
    return versions


def test_pins_are_read_from_all_files_of_this_python(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    found = facts.packages(tmp_path, {"absl-py": "2.5.1", "ruff": "0.1"}.get)
    tests = "The tests and checks of ./run.sh test."
    assert found == [
        ("absl-py", "2.5.1", "2.5.1", "requirements.txt", ""),
        ("gymnasium", "1.4.0", None, "requirements.txt", ""),
        ("minari", "0.5.4", None, "requirements-formats.txt", "Optional: more formats."),
        ("ruff", "0.17.5", "0.1", "requirements-dev.txt", tests),
    ]
    assert facts.packages(tmp_path / "nowhere") == []


def test_our_own_pins_are_found():
    names = {package.name for package in HERE if package.file == "requirements.txt"}
    assert {"tensorflow", "keras", "mujoco", "gymnasium", "numpy", "h5py"} <= names
    assert facts.installed_version("tensorflow") == tf.__version__
    assert facts.installed_version("no-such-package-here") is None


def test_all_well_is_said_last_and_json_says_the_same(here, monkeypatch, capsys):
    monkeypatch.setattr(facts, "separately", lambda: PARTS)
    assert doctor_environment.main([]) == 0
    text = capsys.readouterr().out
    assert text.endswith("no problem found\n") and "2.5 times as fast" in text
    assert "none (no egl); apt install x; films as gif\n" in text and "1.50 GiB" in text
    assert doctor_environment.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == [] and report["tensorflow"] == PARTS["tensorflow"]
    assert {"project", "python", "system", "cpu", "memory", "packages"} <= set(report)
    assert report["project"]["version"] in text and report["project"]["commit"] in text


def test_a_needed_package_that_is_missing_or_different_is_a_problem(here, monkeypatch, capsys):
    monkeypatch.setattr(facts, "separately", lambda: PARTS)
    del here["h5py"]
    here["mujoco"] = "4.0.0"
    here["minari"] = "0.1"
    del here["tensorflow-datasets"]
    assert doctor_environment.main([]) == 1
    text = capsys.readouterr().out
    problems = [line for line in text.splitlines() if line.startswith("PROBLEM")]
    fix = install_hints.install("requirements.txt")
    assert fix.endswith("-m pip install -r requirements.txt") or "/requirements.txt" in fix
    assert problems == [
        f"PROBLEM h5py is missing, expected {_pin('h5py')}; {fix}",
        f"PROBLEM mujoco is 4.0.0, expected {_pin('mujoco')}; {fix}",
    ]
    assert text.count("<- differs") == 2 and "no problem found" not in text
    assert "not installed: tensorflow-datasets\n" in text
    assert install_hints.install("requirements-formats.txt") in text


def _pin(name):
    return next(package.pinned for package in HERE if package.name == name)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("python", "version"), "3.10.9", "Python is 3.10.9, expected 3.11 to 3.13"),
        (("python", "version"), "3.14.0", "Python is 3.14.0, expected 3.11 to 3.13"),
        (
            ("tensorflow",),
            {"error": "it crashes (signal 4)"},
            "does not start: it crashes (signal 4)",
        ),
        (("cpu", "features"), {"avx2": False}, "the CPU has no AVX2"),
        (("packages",), [], "no requirements.txt beside the code"),
    ],
)
def test_other_faults_are_problems(here, path, value, words):
    report = facts.examine(PARTS)
    assert report["problems"] == []
    inner = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (problem,) = verdict.problems(report)
    assert words in problem.what
    report["problems"] = [problem._asdict()]
    assert words in verdict.in_words(report).splitlines()[-1]


def test_parts_that_fail_are_told_and_hide_nothing_else(here, monkeypatch):
    def broken():
        raise ImportError("libfoo.so:\n cannot open")

    monkeypatch.setitem(facts.PARTS, "mujoco", broken)
    assert facts.one_part("mujoco") == {"error": "ImportError: libfoo.so: cannot open"}
    report = facts.examine({name: {"error": f"{name} is broken"} for name in facts.PARTS})
    text = verdict.in_words(report)
    assert all(f"{name} is broken" in text for name in facts.PARTS)
    problems = [problem["what"] for problem in report["problems"]]
    for part in ("tensorflow", "mujoco", "folders"):
        assert any(f"{part} is broken" in what for what in problems)


def test_a_part_is_examined_in_a_process_of_its_own(monkeypatch):
    found = facts.separately(["mujoco", "nonsense"])
    assert found["mujoco"]["version"] == facts.installed_version("mujoco")
    assert found["nonsense"] == {"error": "it crashes (no answer)"}


def test_a_bare_python_is_told_what_is_missing():
    def run(*words):
        command = [sys.executable, "-S", "-E", "-m", "offline_tf.doctor_environment", *words]
        return subprocess.run(command, cwd=facts._ROOT, capture_output=True, text=True)

    done = run("--part=mujoco")
    assert json.loads(done.stdout)["error"].startswith("ModuleNotFoundError"), done.stderr
    done = run("--help")
    assert done.returncode == 0 and "Exit code" in done.stdout


def test_caches_are_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLINE_TF_DATA", str(tmp_path / "ours"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "none" / "at" / "all"))
    (tmp_path / "ours" / "deep").mkdir(parents=True)
    with (tmp_path / "ours" / "deep" / "file").open("wb") as file:
        file.truncate(3 * 2**28)
    found = facts.folders()
    assert found["offline_tf"]["gib"] == 0.75 and found["offline_tf"]["exists"]
    assert not found["d4rl"]["exists"] and found["d4rl"]["free_gib"] > 0
    assert set(found) == {"offline_tf", "d4rl", "minari"}


def test_cores_memory_and_the_speed_of_products_are_plausible():
    assert 0 < facts.cpu()["cores_usable"] <= os.cpu_count()
    memory = facts.memory()
    assert memory["total"] is None or 0 < memory["available"] <= memory["total"]
    assert 0.01 < facts.bfloat16_ratio(tf, size=64, seconds=0.0) < 100


def test_the_containers_quota_counts(monkeypatch):
    monkeypatch.setattr(
        facts, "_read", lambda path: "50000 100000\n" if path.endswith("cpu.max") else ""
    )
    assert facts.cpu()["cores_usable"] == 0.5 and facts.cpu()["features"] == {}
    assert set(facts.memory().values()) == {None}


def test_a_processor_that_is_not_x86_lacks_nothing(monkeypatch):
    text = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes\n"
    monkeypatch.setattr(facts, "_read", lambda path: text)
    assert facts.cpu()["features"] == {}
