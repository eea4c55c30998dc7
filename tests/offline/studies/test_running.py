"""Runs in processes of their own, with a toy in the place of training."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from offline_tf.config.study_config import StudyConfig
from offline_tf.run_folder import locks, stopping
from offline_tf.studies import conduct, guarded, overview, pools, running, working
from offline_tf.studies.running import Job
from offline_tf.types import UserError

TOY = """
import fcntl, json, pathlib, signal, sys, time
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
folder.mkdir(exist_ok=True)
lock = (folder / "run.lock").open("a")
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
if flags["does"] == "fail":
    sys.exit("error: expected more, got less\\nand more words")
count = int((folder / "manifest.json").read_text()) if (folder / "manifest.json").exists() else 0
while count < int(flags["steps"]):
    count += 1
    (folder / "manifest.json").write_text(str(count))
    print("step", count, flush=True)
    time.sleep(0.05)
    if asked:
        sys.exit(143)
summary = {"true_return_mean": float(count), "wall_seconds": 1.0}
(folder / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(here, name="one", does="count", steps=2):
    return Job(name, ["toy", f"--does={does}", f"--steps={steps}"], here / "study" / name)


def wait_for(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_all_runs_of_a_list_are_done_and_a_failure_says_why(here):
    jobs = [job(here, "a"), job(here, "b", "fail"), job(here, "c")]
    ends = {}
    source = conduct.Listed(jobs, lambda job, end: ends.update({job.name: end}))
    conduct.conduct(source, pools.LocalPool(2))
    assert {name: end.status for name, end in ends.items()} == {"a": 0, "b": 1, "c": 0}
    assert ends["b"].line == "error: expected more, got less" and not ends["b"].stopped
    assert running.End.read(jobs[1]) == ends["b"]
    lines = overview.table(jobs)
    assert lines[0].split() == ["a", "done", "0.0", "min", "return", "2"]
    assert lines[1].endswith("error: expected more, got less") and "failed" in lines[1]
    assert lines[-1] == "3 runs: 2 done, 1 failed"


def test_an_error_of_an_earlier_try_is_not_told_again(here):
    once = job(here)
    once.folder.parent.mkdir()
    once.log.write_text("error: of yesterday\n")
    assert running.run_to_end(once).line == "step 2"


def test_who_stops_a_study_stops_its_runs_and_they_go_on(here):
    jobs = [job(here, name, steps=200) for name in ("a", "b", "c")]
    ends = []
    source = conduct.Listed(jobs, lambda job, end: ends.append((job.name, end.stopped)))

    def watch(running_jobs):
        if all((each.folder / "manifest.json").exists() for each in jobs[:2]):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(stopping.Stopped), stopping.allowed():
        conduct.conduct(source, pools.LocalPool(2), watch)
    assert sorted(ends) == [("a", True), ("b", True)]
    states = [overview.state_of(each).kind for each in jobs]
    assert states == ["stopped", "stopped", "waiting"]
    before = int((jobs[0].folder / "manifest.json").read_text())
    again = Job("a", ["toy", "--does=count", f"--steps={before + 1}"], jobs[0].folder)
    assert running.run_to_end(again).status == 0
    assert json.loads((again.folder / "summary.json").read_text())["true_return_mean"] == before + 1


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_run_whose_worker_is_killed_saves_and_the_next_waits_for_it(here):
    lost = job(here, steps=2000)
    code = (
        "import pathlib\nfrom offline_tf.studies.running import Job, run_to_end\n"
        f"run_to_end(Job('one', {lost.words!r}, pathlib.Path({str(lost.folder)!r})))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: (lost.folder / "manifest.json").exists())
    assert overview.state_of(lost).kind == "running"
    worker.kill()
    worker.wait()
    # The lost run has its lock until it has saved; the next try begins when it is free.
    count = int((lost.folder / "manifest.json").read_text())
    next_try = Job("one", ["toy", "--does=count", f"--steps={count + 100}"], lost.folder)
    assert running.run_to_end(next_try).status == 0
    said = lost.log.read_text().split()
    assert said.count("1") == 1, "it began anew"


def test_a_try_waits_while_another_process_holds_the_run(here):
    held = job(here)
    held.folder.mkdir(parents=True)
    # A lock of this process would not stop this process.
    code = (
        "import pathlib, sys, time\nfrom offline_tf.run_folder import locks\n"
        f"file = locks.take(pathlib.Path({str(held.folder / running.LOCK)!r}))\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    attempt = running.Try(held)
    assert attempt.poll() is None and not held.log.exists()
    other.communicate()
    wait_for(lambda: attempt.poll() is not None)
    assert held.is_done
    assert locks.take(held.folder / running.LOCK) is not None


def test_a_study_that_another_process_works_on_is_left_alone(here, monkeypatch):
    (here / "s.toml").write_text('folder = "study"\n[[runs]]\nalgorithm = "morel"\n')

    def taken(_):
        raise BlockingIOError

    monkeypatch.setattr(working.locks, "take", taken)
    with pytest.raises(UserError, match="another process works in study"):
        working.work(StudyConfig(study="s.toml", workers=1))


def test_a_job_that_is_refused_is_given_again(here):
    class Full(pools.LocalPool):
        refusals = 2

        def submit(self, job):
            self.refusals -= 1
            return super().submit(job) if self.refusals < 0 else False

    once = job(here)
    conduct.conduct(conduct.Listed([once], lambda *_: None), Full(1))
    assert once.is_done


def test_one_that_waits_can_be_stopped(here):
    attempt = running.Try(job(here))
    attempt.stop()
    assert attempt.poll().stopped


def test_a_parent_that_is_gone_already_is_noticed(here):
    command = guarded.command(["toy", "--does=count"])
    command[3] = "1"
    done = subprocess.run(command, capture_output=True)
    if sys.platform == "linux" and os.getpid() != 1:
        assert done.returncode == 143 and not (here / "study").exists()
