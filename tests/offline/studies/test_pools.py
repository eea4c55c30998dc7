"""Engines that are not installed here are told; those that are run a toy."""

import sys

import pytest

from offline_tf.config.study_config import StudyConfig
from offline_tf.run_folder import stopping
from offline_tf.studies import conduct, pools, working
from offline_tf.studies.running import Job
from offline_tf.types import UserError

TOY = """
import pathlib, sys
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
folder.mkdir(parents=True, exist_ok=True)
if flags["kind"] == "fail":
    sys.exit("error: no")
(folder / "summary.json").write_text("{}")
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    kinds = ["good", "fail", "good"]
    return [Job(f"j{n}", ["toy", f"--kind={k}"], tmp_path / f"j{n}") for n, k in enumerate(kinds)]


@pytest.mark.parametrize(
    ("engine", "module"), [("ray", "ray"), ("slurm", "submitit")], ids=["ray", "slurm"]
)
def test_an_engine_that_is_not_installed_is_told(tmp_path, monkeypatch, engine, module):
    monkeypatch.setitem(sys.modules, module, None)
    file = tmp_path / "study.toml"
    file.write_text(f'folder = "{tmp_path}/study"\n[[runs]]\nalgorithm = "morel"\n')
    config = StudyConfig(study=str(file), engine=engine, workers=1)
    with pytest.raises(UserError, match=f"--engine={engine} needs {module}: .*requirements-study"):
        working.work(config)


def test_slurm_jobs_run_by_submitit(jobs, tmp_path):
    pytest.importorskip("submitit")
    needs = pools.Needs(1, 1e9)
    options = {"timeout_min": 5}
    pool = pools.SlurmPool(
        tmp_path / "slurm", workers=2, needs=needs, options=options, cluster="local"
    )
    ends = {}
    conduct.conduct(conduct.Listed(jobs, lambda job, end: ends.update({job.name: end})), pool)
    assert {name: end.status for name, end in ends.items()} == {"j0": 0, "j1": 1, "j2": 0}
    assert ends["j1"].line == "error: no"


SLOW = """
import pathlib, signal, sys, time
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
folder.mkdir(parents=True, exist_ok=True)
def save(*_):
    time.sleep(1.0)
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(folder / "manifest.json").touch()
time.sleep(120)
"""


def stopped_after_saving(pool, job):
    """A study is stopped while its run works."""

    def watch(_):
        if (job.folder / "manifest.json").exists():
            raise stopping.Stopped("asked", 130)

    with pytest.raises(stopping.Stopped):
        conduct.conduct(conduct.Listed([job], lambda *_: None), pool, watch)
    return (job.folder / "saved").exists()


def test_a_stopped_study_lets_slurm_jobs_save(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    (tmp_path / "slow.py").write_text(SLOW)
    job = Job("slow", ["slow"], tmp_path / "runs" / "slow", tmp_path)
    needs, options = pools.Needs(1, 1e9), {"timeout_min": 5}
    pool = pools.SlurmPool(
        tmp_path / "slurm", workers=1, needs=needs, options=options, cluster="local"
    )
    assert stopped_after_saving(pool, job)


def test_a_stopped_study_lets_ray_tasks_save(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "slow.py").write_text(SLOW)
    job = Job("slow", ["slow"], tmp_path / "runs" / "slow", tmp_path)
    assert stopped_after_saving(pools.RayPool("", 1, pools.Needs(1, 0.0)), job)


def test_a_run_that_fits_no_machine_of_ray_is_told():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="needs 1 cores and 9313.2 GiB, the largest machines have"):
        pools.RayPool("", 1, pools.Needs(1, 1e13))


def test_words_for_slurm_are_numbers_where_they_look_like_them():
    words = ["4", "4.5", "false", "cpu"]
    assert [working._value(word) for word in words] == [4, 4.5, False, "cpu"]


def test_ray_runs_on_a_cluster_of_its_own(jobs):
    pytest.importorskip("ray")
    pool = pools.RayPool("", 2, pools.Needs(1, 0.0))
    ends = {}
    conduct.conduct(conduct.Listed(jobs, lambda job, end: ends.update({job.name: end})), pool)
    assert {name: end.status for name, end in ends.items()} == {"j0": 0, "j1": 1, "j2": 0}


def test_no_cluster_at_an_address_is_told():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127.0.0.1:1 \(.*refused\)"):
        pools.RayPool("127.0.0.1:1", 1, pools.Needs())


def test_cores_and_memory_say_how_many_run_at_a_time(monkeypatch):
    monkeypatch.setattr(working.large_columns, "machine_memory", lambda: 20 << 30)
    monkeypatch.setattr(working.os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert working.fitting(pools.Needs(2, 1.0)) == 8
    assert working.fitting(pools.Needs(1, 5 << 30)) == 3
    assert working.fitting(pools.Needs(1, 50 << 30)) == 1


def test_flags_of_another_engine_are_refused():
    with pytest.raises(UserError, match="--address"):
        StudyConfig(study="a", address="here:1")
    with pytest.raises(UserError, match="--slurm"):
        StudyConfig(study="a", slurm=("a=b",))
    with pytest.raises(UserError, match="NAME=VALUE"):
        StudyConfig(study="a", engine="slurm", slurm=("partition",))
