"""Runs kept in a store on a disk (file://); toys stand for training and for other machines."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from offline_tf.config.study_config import StudyConfig
from offline_tf.run_folder import locks
from offline_tf.studies import (
    conduct,
    description,
    keeping,
    overview,
    pools,
    running,
    store,
    working,
)
from offline_tf.studies.running import Job
from offline_tf.types import UserError

pytest.importorskip("fsspec")  # of requirements-study.txt

# Counts to --steps; keeps a checkpoint as TensorFlow does, the last two, and says what it did.
TOY = """
import fcntl, json, pathlib, signal, sys, time
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path(flags["workdir"])
checkpoints = folder / "checkpoints" / "fit"
checkpoints.mkdir(exist_ok=True, parents=True)
lock = (folder / "run.lock").open("a")
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(folder / "manifest.json").write_text(json.dumps({"algorithm": "toy", "flags": {}}))
(folder / "metrics").mkdir(exist_ok=True)
steps = [int(path.stem[5:]) for path in checkpoints.glob("*.index")]
count = max(steps, default=0)
print("from", count, flush=True)
while count < int(flags["steps"]):
    count += 1
    with (folder / "metrics" / "fit.csv").open("a") as file:
        file.write(f"{count},{count}\\n")
    (checkpoints / f"ckpt-{count}.data-00000-of-00001").write_text(str(count))
    (checkpoints / f"ckpt-{count}.index").write_text(str(count))
    for ending in ("index", "data-00000-of-00001"):
        (checkpoints / f"ckpt-{count - 2}.{ending}").unlink(missing_ok=True)
    print("step", count, flush=True)
    time.sleep(0.05)
    if asked:
        sys.exit(143)
(folder / "stages").mkdir(exist_ok=True)
(folder / "stages" / "fit.json").write_text(json.dumps({"result": count, "seconds": 1.0}))
summary = {"true_return_mean": float(count), "wall_seconds": 1.0}
(folder / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(store, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(store, "PUSH_SECONDS", 0.1)
    monkeypatch.setattr(keeping, "_PAUSES", ())
    monkeypatch.setattr(keeping, "_ASK_SECONDS", 0.05)
    return tmp_path


def url(here, name="one"):
    return f"file://{here}/store/{name}"


def kept(here, machine="a", name="one"):
    folder = here / machine / name
    folder.parent.mkdir(exist_ok=True)
    return store.Store(url(here, name), folder)


def job(here, machine="a", name="one", steps=2):
    return Job(name, ["toy", f"--steps={steps}"], here / machine / name, here, url(here, name))


def write(folder, **contents):
    """Files by name; __ is a slash and the dot before the ending."""
    for name, content in contents.items():
        parts = name.split("__")
        path = folder.joinpath(*parts[:-2], ".".join(parts[-2:]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def tree(folder):
    """Contents by path; without what belongs to one machine."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.lock"
    }


def wait_for(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


RUN = {
    "manifest__json": "{}",
    "summary__json": "{}",
    "panels__json": "[]",
    "stages__fit__json": "{}",
    "metrics__fit__csv": "1",
    "checkpoints__fit__ckpt-2__index": "i2",
    "checkpoints__fit__ckpt-2__data-00000-of-00001": "d2",
    "tensorboard__events__v2": "e",
    "export__saved_model__pb": "x",
}


@pytest.fixture
def ups(monkeypatch):
    """Keys in the order in which they go up."""
    found, up = [], store.Store._up

    def noted(self, key):
        found.append(key)
        return up(self, key)

    monkeypatch.setattr(store.Store, "_up", noted)
    return found


def test_what_needs_other_files_goes_up_after_them(here, ups):
    mine = kept(here)
    write(mine.folder, **RUN)
    (mine.folder / "checkpoints" / "fit" / "checkpoint").write_text("list")
    (here / "a" / "one.log").write_text("said")
    (here / "a" / "one.end.json").write_text("{}")
    mine.push()
    assert set(ups[:5]) == {
        *("/metrics/fit.csv", "/panels.json", "/tensorboard/events.v2"),
        *("/export/saved_model.pb", ".log"),
    }
    assert ups[5] == "/checkpoints/fit/ckpt-2.data-00000-of-00001"
    assert set(ups[6:8]) == {"/checkpoints/fit/ckpt-2.index", "/checkpoints/fit/checkpoint"}
    assert ups[8:] == ["/stages/fit.json", "/manifest.json", "/summary.json", ".end.json"]
    assert tree(here / "store" / "one") == tree(mine.folder)


def test_only_what_changed_goes_up_and_what_is_gone_is_taken_away(here, ups):
    mine = kept(here)
    write(mine.folder, **RUN)
    mine.push()
    del ups[:]
    mine.push()
    assert ups == []
    checkpoints = mine.folder / "checkpoints" / "fit"
    for path in checkpoints.glob("ckpt-2*"):
        path.rename(checkpoints / path.name.replace("2", "3"))
    write(mine.folder, metrics__fit__csv="2")  # of the same size
    mine.push()
    data, index = (f"/checkpoints/fit/ckpt-3.{e}" for e in ("data-00000-of-00001", "index"))
    assert ups == ["/metrics/fit.csv", data, index]
    # Another process of this machine knows it too.
    del ups[:]
    kept(here).push()
    assert ups == [] and tree(here / "store" / "one") == tree(mine.folder)


def test_what_is_being_written_stays_here(here):
    mine = kept(here)
    write(mine.folder, **RUN, metrics__reactor_temperature__csv="1")
    for name in ("a.json.partial", "run.lock", "checkpoint.tmp1f", "b_temp/part-0"):
        (mine.folder / name).parent.mkdir(exist_ok=True)
        (mine.folder / name).write_text("half")
    mine.push()
    there = tree(here / "store" / "one").keys()
    assert there == {"metrics/reactor_temperature.csv"} | {
        name.replace("__", "/").rpartition("/")[0] + "." + name.rpartition("__")[2] for name in RUN
    }


def test_what_vanishes_during_a_push_is_made_up_for(here, monkeypatch):
    """The run replaces its checkpoint after it was seen; the store always has a whole one."""
    mine = kept(here)
    write(mine.folder, **RUN)
    mine.push()
    checkpoints, up, seen = mine.folder / "checkpoints" / "fit", store.Store._up, []

    def renumber(old, new):
        for path in sorted(checkpoints.glob(f"ckpt-{old}.*")):
            path.rename(checkpoints / path.name.replace(str(old), str(new)))

    def meanwhile(self, key):
        there = {path.name for path in (here / "store" / "one" / "checkpoints").rglob("*.*")}
        seen.append(
            any({f"ckpt-{n}.index", f"ckpt-{n}.data-00000-of-00001"} <= there for n in (2, 4))
        )
        if key.endswith("ckpt-3.data-00000-of-00001"):
            renumber(3, 4)
        return up(self, key)

    monkeypatch.setattr(store.Store, "_up", meanwhile)
    renumber(2, 3)
    mine.push()
    assert all(seen) and tree(here / "store" / "one") == tree(mine.folder)


def test_a_checkpoint_that_is_replaced_is_not_read_with_another_index(here, monkeypatch):
    mine = kept(here)
    write(mine.folder, **RUN)
    mine.push()
    write(mine.folder, **{"checkpoints__fit__ckpt-2__data-00000-of-00001": "other"})

    def killed(self, key):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.Store, "_up", killed)
        mine.push()
    there = here / "store" / "one" / "checkpoints" / "fit"
    assert not (there / "ckpt-2.index").exists()
    mine.push()
    assert (there / "ckpt-2.index").read_text() == "i2"
    assert (there / "ckpt-2.data-00000-of-00001").read_text() == "other"


def test_a_stage_that_ends_during_the_look_waits_for_the_next_push(here, monkeypatch):
    mine = kept(here)
    write(mine.folder, **{k: v for k, v in RUN.items() if not k.startswith("stages")})
    look, times = mine._here, []

    def ends_after_the_first(passing=False):
        found = look(passing)
        times.append(1)
        if len(times) == 1:
            write(mine.folder, stages__fit__json="{}")
        return found

    monkeypatch.setattr(mine, "_here", ends_after_the_first)
    monkeypatch.setattr(store, "_PASSES", 1)
    mine.push()
    assert not (here / "store" / "one" / "stages").exists()
    mine.push()
    assert (here / "store" / "one" / "stages" / "fit.json").exists()


def test_a_folder_becomes_what_the_store_holds(here):
    mine, other = kept(here), kept(here, "b")
    write(mine.folder, **RUN)
    (here / "a" / "one.log").write_text("said")
    mine.push()
    write(other.folder, **RUN | {"manifest__json": "old", "inspection__x__png": "old"})
    write(other.folder, **{"checkpoints__fit__ckpt-9__index": "old"})
    (other.folder / "x.partial").write_text("old")
    (other.folder / "run.lock").touch()
    assert other.pull(light=False)
    assert tree(other.folder) == tree(mine.folder)
    assert (here / "b" / "one.log").read_text() == "said"
    assert (other.folder / "run.lock").exists()


def test_what_a_try_said_that_made_no_folder_is_kept(here):
    """As wrong flags are told before there is a folder."""
    wrong = job(here)._replace(words=["nothing_of_that_name"])
    assert running.run_to_end(wrong).status == 1
    assert not (here / "store" / "one").exists() and not wrong.folder.exists()
    other = job(here, "b")._replace(words=wrong.words)
    kept(here, "b").bring(may_push=False)
    assert overview.state_of(other).says.endswith("No module named nothing_of_that_name")
    assert running.run_to_end(other).status == 1
    assert other.log.read_text().count("nothing_of_that_name") == 2


def test_a_run_of_which_the_store_holds_nothing_is_left_and_goes_up(here):
    mine = kept(here)
    write(mine.folder, **RUN)
    # What a first push had brought when it was killed: no manifest.
    write(here / "store" / "one", metrics__fit__csv="1", metrics__old__csv="1")
    before = tree(mine.folder)
    assert mine.take()
    mine.settle()
    assert tree(mine.folder) == before == tree(here / "store" / "one")
    mine.release()
    assert mine.lease() is None


def test_a_light_pull_fetches_what_tables_read(here):
    mine, other = kept(here), kept(here, "b")
    write(mine.folder, **RUN)
    (here / "a" / "one.log").write_text("said")
    mine.push()
    assert other.pull(light=True)
    light = {"manifest.json", "summary.json", "panels.json", "stages/fit.json", "metrics/fit.csv"}
    assert tree(other.folder).keys() == light and (here / "b" / "one.log").exists()
    (mine.folder / "summary.json").unlink()
    mine.push()
    other.pull(light=True)
    assert not (other.folder / "summary.json").exists()
    # A copy of what is gone is gone; a run is not.
    for path in (here / "store" / "one").glob("*.json"):
        path.unlink()
    other.pull(light=True)
    mine.pull(light=True)
    assert not other.folder.exists() and (mine.folder / "manifest.json").exists()


def test_a_light_pull_leaves_a_run_alone_that_is_worked_on_here(here, monkeypatch):
    mine, other = kept(here), kept(here, "b")
    write(mine.folder, **RUN)
    mine.push()
    write(other.folder, manifest__json="newer")
    monkeypatch.setattr(locks, "is_held", lambda path: path == other.folder / "run.lock")
    other.bring(may_push=True)
    other.pull(light=True)
    assert tree(other.folder) == {"manifest.json": b"newer"}
    monkeypatch.undo()
    # Nor one whose process has not come to its lock.
    monkeypatch.setattr(store, "_SETTLE_SECONDS", 0.0)
    assert other.take()
    kept(here, "b").bring(may_push=False)
    assert tree(other.folder) == {"manifest.json": b"newer"}


def lease_of(path, **changes):
    lease = store.Lease("there", "another machine", "/x/one", 1, "t", time.time())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(lease._replace(**changes)._asdict()))


def test_a_run_belongs_to_one_worker(here):
    file = here / "store" / "one.lease"
    lease_of(file)
    assert not kept(here).take()
    for free in (
        {"time": time.time() - store.STALE_SECONDS - 1},
        {"machine": store._machine(), "pid": 2**22 + 1},
    ):
        lease_of(file, **free)
        assert kept(here).take()
    file.write_text("{half")
    mine = kept(here)
    assert mine.take() and mine.lease().folder == str(mine.folder)
    # Somebody took it over, say as this machine was cut off: no more is written.
    write(mine.folder, **RUN)
    mine.push()
    lease_of(file)
    write(mine.folder, manifest__json="mine")
    with pytest.raises(store.Taken, match="there has taken"):
        mine.push()
    assert (here / "store" / "one" / "manifest.json").read_text() == "{}"
    mine.release()
    assert json.loads(file.read_text())["host"] == "there"


def test_of_two_that_take_a_run_at_once_one_gets_it(here, monkeypatch):
    monkeypatch.setattr(store, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(store.Lease, "is_left", property(lambda _: False))  # of one process here
    got = []
    threads = [
        threading.Thread(target=lambda m=m: got.append(kept(here, m).take())) for m in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False, True]


def test_a_run_is_kept_while_it_works_and_its_end_too(here):
    once = job(here, steps=30)
    attempt, there = running.Try(once), here / "store" / "one"
    wait_for(lambda: attempt.poll() is None and list(there.glob("checkpoints/fit/*.index")))
    assert not (there / "summary.json").exists() and (here / "store" / "one.lease").exists()
    wait_for(lambda: attempt.poll() is not None)
    assert tree(there) == tree(once.folder)
    assert not (here / "store" / "one.lease").exists()
    assert json.loads((here / "store" / "one.end.json").read_text())["status"] == 0
    # Elsewhere it is not run again.
    other = job(here, "b", steps=30)
    assert running.run_to_end(other).status == 0
    assert other.log.read_text() == once.log.read_text() and other.is_done


WORKER = """
import pathlib
from offline_tf.studies import store
from offline_tf.studies.running import Job, run_to_end
store._SETTLE_SECONDS, store.PUSH_SECONDS = 0.0, 0.1
run_to_end(Job("one", {words!r}, pathlib.Path({folder!r}), pathlib.Path({cwd!r}), {url!r}))
"""


def killed_in_the_middle(here, lost):
    """A worker and its run are killed at once, after some pushes."""
    code = WORKER.format(
        words=lost.words, folder=str(lost.folder), cwd=str(lost.cwd), url=lost.store
    )
    root = pathlib.Path(store.__file__).parents[2]
    worker = subprocess.Popen(
        [sys.executable, "-c", code], cwd=here, env=os.environ | {"PYTHONPATH": f"{root}:{here}"}
    )
    there = here / "store" / "one" / "checkpoints" / "fit"
    wait_for(lambda: any(int(p.stem[5:]) > 5 for p in there.glob("*.index")))
    children = pathlib.Path(f"/proc/{worker.pid}/task").glob("*/children")
    runs = [int(pid) for path in children for pid in path.read_text().split()]
    worker.kill()
    for pid in runs:
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    wait_for(lambda: not locks.is_held(lost.folder / "run.lock"))
    return max(int(path.stem[5:]) for path in there.glob("*.index"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_machine_goes_on_from_what_a_lost_one_brought(here):
    lost = job(here, "a", steps=2000)
    count = killed_in_the_middle(here, lost)
    assert (here / "store" / "one.lease").exists()
    again = job(here, "b", steps=count + 3)
    assert running.run_to_end(again).status == 0 and again.is_done
    log = again.log.read_text().splitlines()
    begins = [line for line in log if line.startswith("from")]
    assert begins == ["from 0", f"from {count}"]
    rows = [
        int(r.split(",")[0]) for r in (again.folder / "metrics" / "fit.csv").read_text().split()
    ]
    assert set(range(1, count + 4)) <= set(rows), "rows up to the checkpoint are missing"
    # The lost machine comes back: what it had beyond is not the truth.
    running.run_to_end(lost)
    assert tree(lost.folder) == tree(again.folder)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_machine_whose_worker_was_killed_loses_nothing(here, ups):
    lost = job(here, "a", steps=2000)
    count = killed_in_the_middle(here, lost)
    newest = lost.folder / "checkpoints" / "fit"
    for ending in ("data-00000-of-00001", "index"):  # saved after the last push
        (newest / f"ckpt-{count + 500}.{ending}").write_text("later")
    again = lost._replace(words=["toy", f"--steps={count + 502}"])
    assert running.run_to_end(again).status == 0
    assert f"from {count + 500}" in lost.log.read_text()
    assert tree(here / "store" / "one") == tree(lost.folder)


def test_a_try_waits_for_the_lease_and_can_be_stopped(here):
    lease_of(here / "store" / "one.lease")
    attempt = running.Try(job(here))
    for _ in range(20):
        assert attempt.poll() is None
        time.sleep(0.01)
    attempt.stop()
    wait_for(lambda: attempt.poll() is not None)
    assert attempt.poll().stopped and not (here / "a" / "one").exists()
    assert (here / "store" / "one.lease").exists()


def test_a_run_that_another_worker_has_taken_over_ends_here(here):
    attempt = running.Try(job(here, steps=2000))
    wait_for(lambda: attempt.poll() is None and (here / "store" / "one" / "manifest.json").exists())
    lease_of(here / "store" / "one.lease")
    ends = []
    wait_for(lambda: ends.append(attempt.poll()) or ends[-1])
    assert ends[-1].stopped and ends[-1].line == "there has taken the run over"
    assert json.loads((here / "store" / "one.lease").read_text())["host"] == "there"


def test_a_store_that_fails_is_told_and_what_it_lacks_goes_up_later(here, monkeypatch):
    once, up, broken = job(here, steps=40), store.Store._up, []

    def fails(self, key):
        if broken:
            raise OSError("the network is gone")
        return up(self, key)

    monkeypatch.setattr(store.Store, "_up", fails)
    attempt = running.Try(once)
    wait_for(lambda: attempt.poll() is None and (once.folder / "manifest.json").exists())
    broken.append(1)
    ends = []
    wait_for(lambda: ends.append(attempt.poll()) or ends[-1])
    assert ends[-1].status == 1 and once.is_done
    assert ends[-1].line.startswith("error: store: expected to write to file://")
    assert "the network is gone" in ends[-1].line and running.End.read(once) == ends[-1]
    assert not (here / "store" / "one" / "summary.json").exists()
    # A look changes nothing; work brings it up.
    kept(here).bring(may_push=False)
    assert once.is_done
    del broken[:]
    kept(here).bring(may_push=True)
    assert tree(here / "store" / "one") == tree(once.folder)
    assert not (here / "store" / "one.lease").exists()


@pytest.fixture
def studied(here, monkeypatch):
    monkeypatch.setitem(description.ALGORITHMS, "morel", "toy")

    def at(machine, steps=3):
        file = here / f"{machine}.toml"
        file.write_text(
            f'folder = "{here}/{machine}"\nstore = "file://{here}/store/"\n'
            f'[[runs]]\nalgorithm = "morel"\nseed = [0, 1]\nsteps = {steps}\n'
        )
        return StudyConfig(study=str(file), workers=2)

    return at


def test_a_study_worked_on_one_machine_is_known_on_another(here, studied, capsys):
    working.work(studied("a"))
    there = {path.name for path in (here / "store").iterdir()}
    names = {"morel-seed0", "morel-seed1"}
    assert there == {f"{name}{ending}" for name in names for ending in ("", ".log", ".end.json")}
    config = studied("b")
    assert working.plan(config)[-1].startswith("left: 0 runs")
    working.work(StudyConfig(study=config.study, status=True))
    assert "2 runs: 2 done" in capsys.readouterr().out
    assert not (here / "b" / "morel-seed0" / "checkpoints").exists()
    working.work(config)
    assert not (here / "b" / "morel-seed0" / "checkpoints").exists(), "it was run again"


def test_a_run_elsewhere_counts_as_running(here, studied, capsys):
    lease_of(here / "store" / "morel-seed0.lease")
    (here / "store" / "morel-seed1.end.json").write_text(
        json.dumps({"status": 1, "line": "error: no", "seconds": 1.0, "host": "there"})
    )
    status = StudyConfig(study=studied("b").study, status=True)
    working.work(status)
    said = capsys.readouterr().out
    assert "1 running, 1 failed" in said and "error: no" in said
    lease_of(here / "store" / "morel-seed0.lease", time=time.time() - store.STALE_SECONDS - 1)
    working.work(status)
    assert "1 failed, 1 waiting" in capsys.readouterr().out


def test_runs_of_before_the_study_had_a_store_go_up(here, studied):
    config = studied("a")
    done = here / "a" / "morel-seed0"
    write(done, **RUN)
    working.work(config)
    assert tree(here / "store" / "morel-seed0") == tree(done)


def test_without_a_store_nothing_is_kept(here):
    once = job(here)._replace(store="")
    conduct.conduct(conduct.Listed([once], lambda *_: None), pools.LocalPool(1))
    assert overview.state_of(once).kind == "done"
    assert {path.name for path in (here / "a").iterdir()} == {"one", "one.log", "one.end.json"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket/x", r"needs a package that is missing \(.*s3fs.*\): .* -m pip install s3fs"),
        ("nobody://x", "begins with no protocol that fsspec knows"),
        ("file:///dev/null/x", "expected to write to file:///dev/null/x, got: .*Not a directory"),
    ],
)
def test_a_store_that_cannot_be_used_ends_in_a_line_before_the_work(here, url, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    file = here / "s.toml"
    file.write_text(f'folder = "a"\nstore = "{url}"\n[[runs]]\nalgorithm = "morel"\n')
    with pytest.raises(UserError, match=said) as caught:
        working.work(StudyConfig(study=str(file), workers=1))
    assert "\n" not in str(caught.value) and not (here / "a").exists()


@pytest.mark.parametrize(
    "url", ["bucket/x", "file://x", "memory://x", "simplecache::s3://x", "", "s3://"]
)
def test_what_no_machine_could_share_is_no_store(here, url):
    file = here / "s.toml"
    file.write_text(f'store = "{url}"\n[[runs]]\nalgorithm = "morel"\n')
    with pytest.raises(UserError, match="store in .*s.toml"):
        description.read(file)
    file.write_text('store = 3\n[[runs]]\nalgorithm = "morel"\n')
    with pytest.raises(UserError, match="expected a URL .* got 3"):
        description.read(file)


def test_without_fsspec_the_error_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match="store needs fsspec: .*requirements-study.txt"):
        store.check("s3://bucket/x", may_write=True)


def test_a_store_that_names_files_elsewhere_is_refused(here, monkeypatch):
    mine = kept(here)
    write(mine.folder, **RUN)
    mine.push()
    other = kept(here, "b")
    found = {f"{other._path}/../../x": {"size": 1}, f"{other._path}/manifest.json": {"size": 1}}
    monkeypatch.setattr(other._fs, "find", lambda *_, **__: found)
    with pytest.raises(store.StoreError, match="found .*/../../x; take it away"):
        other.pull(light=False)
    assert not other.folder.exists()


def test_a_store_that_is_no_disk_does_the_same(here):
    """fsspec's store in memory stands for those that take whole objects alone."""
    mine, other = (store.Store("memory://x/one", here / m / "one") for m in ("a", "b"))
    write(mine.folder, **RUN)
    (here / "a" / "one.log").write_text("said")
    assert mine.take()
    mine.settle()
    assert mine._fs.cat_file("/x/one/manifest.json") == b"{}"
    (mine.folder / "tensorboard" / "events.v2").unlink()
    mine.push()
    mine.release()
    assert mine.lease() is None and other.pull(light=False)
    assert tree(other.folder) == tree(mine.folder) and (here / "b" / "one.log").exists()
    names = store.names_in("memory://x")
    assert names == {"one", "one.log"}
    mine._fs.rm("/x", recursive=True)
