import csv
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from offline_tf.run_folder import files, provenance
from offline_tf.run_folder import stage as stage_module
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

FLAGS = {"seed": 3, "env": "hopper", "hidden": (512, 512), "beta": 5.0, "workdir": "a"}


def snapshot(folder):
    """Path -> (bytes, time of last change) of everything in a folder."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def killed(*_):
    raise KeyboardInterrupt


def table(record, name):
    with (record.folder / "metrics" / f"{name}.csv").open() as file:
        return list(csv.reader(file))


# --- the folder ---


def test_create_writes_the_manifest(tmp_path):
    folder = tmp_path / "deep" / "run"
    record = RunRecord.create_or_continue(folder, "morel", FLAGS)
    written = json.loads((folder / "manifest.json").read_text())
    assert written == record.manifest
    assert written["algorithm"] == "morel" and written["seed"] == 3
    assert written["flags"] == FLAGS | {"hidden": [512, 512]}
    assert written["versions"]["tensorflow"] == tf.__version__
    assert written["versions"]["numpy"] == np.__version__
    assert written["commit"]


def test_same_flags_continue_and_change_nothing(tmp_path):
    first = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    before = snapshot(tmp_path)
    second = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    assert second.manifest == first.manifest
    assert snapshot(tmp_path) == before


def test_other_flags_are_refused_and_change_nothing(tmp_path):
    RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    before = snapshot(tmp_path)
    changed = FLAGS | {"beta": 25.0, "hidden": (32, 32), "new": "x"}
    with pytest.raises(UserError) as error:
        RunRecord.create_or_continue(tmp_path, "morel", changed, ignored=("workdir",))
    message = str(error.value)
    assert "--beta is 5.0 there and 25.0 now" in message
    assert "--hidden is [512, 512] there and [32, 32] now" in message
    assert "--new is None there and 'x' now" in message
    assert "--seed" not in message and "\n" not in message
    assert snapshot(tmp_path) == before


def test_a_flag_that_is_younger_than_the_run_counts_as_its_default(tmp_path):
    RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    now, defaults = FLAGS | {"judge_hidden": (8,)}, {"judge_hidden": (8,), "seed": 99}
    RunRecord.create_or_continue(tmp_path, "morel", now, defaults=defaults)
    with pytest.raises(UserError, match=r"--judge_hidden is \[8\] there and \[9\] now"):
        RunRecord.check_folder(tmp_path, "morel", FLAGS | {"judge_hidden": (9,)}, (), defaults)


def test_a_folder_that_vanishes_ends_the_run(tmp_path):
    record = RunRecord.create_or_continue(tmp_path / "run", "morel", FLAGS)
    stage = record.stage("fit")
    stage.track([tf.Variable(1.0)])
    shutil.rmtree(tmp_path / "run")
    for work in (
        lambda: stage.log(1, {"loss": 1.0}),
        lambda: stage.save(1),
        lambda: stage.finish({}),
    ):
        with pytest.raises(UserError, match="run has lost its manifest.json, or is gone"):
            work()
    assert not (tmp_path / "run").exists()


def test_a_clock_that_jumps_back_leaves_the_newest_checkpoint_the_newest(tmp_path, monkeypatch):
    variable = tf.Variable(1.0)
    stage = RunRecord.create_or_continue(tmp_path, "morel", FLAGS).stage("fit")
    stage.track([variable])
    now = time.time()
    for step in range(1, 5):
        monkeypatch.setattr(time, "time", lambda step=step: now - 86400.0 * step)
        variable.assign(float(step))
        stage.save(step)
    monkeypatch.undo()
    variable.assign(0.0)
    again = RunRecord.create_or_continue(tmp_path, "morel", FLAGS).stage("fit")
    again.track([variable])
    assert again.restore() == 4 and float(variable) == 4.0


def test_a_stage_with_a_dot_in_its_name_drops_rows_that_are_done_again(tmp_path):
    record = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    for name in ("clone_0.1", "clone_0.1.look", "clone_0.15"):
        record.stage(name.removesuffix(".look")).log(
            1, {"x": 1.0}, "look" if "look" in name else ""
        )
    record.stage("clone_0.1").restart()
    left = {path.name for path in (tmp_path / "metrics").iterdir()}
    assert left == {"clone_0.15.csv"}


def test_flags_that_only_the_run_has_differ(tmp_path):
    RunRecord.create_or_continue(tmp_path, "morel", FLAGS | {"of_the_future": 7})
    with pytest.raises(UserError, match=r"\(--of_the_future is 7 there and None now\)"):
        RunRecord.check_folder(tmp_path, "morel", FLAGS)


def test_what_other_machines_used_is_added(tmp_path):
    record = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    record.note_also(dtype=None)
    assert "dtype" not in record.manifest
    for dtype in ("float32", None, "float32", "bfloat16", "float32, bfloat16"):
        record.note_also(dtype=dtype, compiler="graph")
    kept = RunRecord.open_existing(tmp_path).manifest
    assert kept["dtype"] == "float32, bfloat16" and kept["compiler"] == "graph"


def test_another_algorithm_is_refused(tmp_path):
    RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    with pytest.raises(UserError, match="algorithm is morel there"):
        RunRecord.create_or_continue(tmp_path, "mopp", FLAGS)


def test_ignored_flags_may_differ_and_the_old_ones_stay(tmp_path):
    RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    changed = FLAGS | {"workdir": "b"}
    with pytest.raises(UserError, match="--workdir is 'a' there and 'b' now"):
        RunRecord.create_or_continue(tmp_path, "morel", changed)
    record = RunRecord.create_or_continue(tmp_path, "morel", changed, ignored=("workdir",))
    assert record.manifest["flags"]["workdir"] == "a"


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="holds other files"):
        RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    assert snapshot(tmp_path) == before


def test_kill_while_the_manifest_is_written_can_be_repeated(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    RunRecord.create_or_continue(tmp_path, "morel", FLAGS)


def test_all_commits_that_had_a_part_are_kept(tmp_path, monkeypatch):
    both = "first, second"
    for name, expected in (("first", "first"), ("second", both), ("second", both)):
        monkeypatch.setattr(provenance, "commit", lambda name=name: name)
        record = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
        record.note_commit()
        assert record.commits == expected == RunRecord.open_existing(tmp_path).commits
    taking = RunRecord.create_or_continue(tmp_path / "taking", "morel", FLAGS)
    taking.note(commit="new")
    for _ in range(2):
        taking.note_commit(record)
        assert taking.commits == "new, first, second"
    (tmp_path / "summary.json").write_text("{}")  # finished: whoever looks at it has no part in it
    monkeypatch.setattr(provenance, "commit", lambda: "third")
    record = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    record.note_commit()
    assert record.commits == "first, second"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "web app"}'])
def test_somebody_elses_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="^--workdir: .*manifest.json"):
        RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    with pytest.raises(UserError, match="^--models_from: .*manifest.json"):
        RunRecord.open_existing(tmp_path, "models_from")
    assert (tmp_path / "manifest.json").read_text() == content


def test_a_folder_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="expected a folder, but .*file is a file"):
        RunRecord.check_folder(tmp_path / "file" / "deep" / "run", "morel", FLAGS)


def test_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    RunRecord.create_or_continue(tmp_path / "run", "morel", FLAGS)


def test_checking_a_folder_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    assert RunRecord.check_folder(folder, "morel", FLAGS) is None
    assert not folder.exists()
    made = RunRecord.create_or_continue(folder, "morel", FLAGS)
    before = snapshot(tmp_path)
    assert RunRecord.check_folder(folder, "morel", FLAGS) == made.manifest
    with pytest.raises(UserError, match="--beta is 5.0 there and 1.0 now"):
        RunRecord.check_folder(folder, "morel", FLAGS | {"beta": 1.0})
    assert snapshot(tmp_path) == before


def test_open_existing(tmp_path):
    with pytest.raises(UserError, match="expected a run folder with manifest.json"):
        RunRecord.open_existing(tmp_path)
    made = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    assert RunRecord.open_existing(tmp_path).manifest == made.manifest


def test_notes_survive(tmp_path):
    RunRecord.create_or_continue(tmp_path, "morel", FLAGS).note(data_hash="abc", rows=7)
    record = RunRecord.create_or_continue(tmp_path, "morel", FLAGS)
    assert record.manifest["data_hash"] == "abc" and record.manifest["rows"] == 7
    assert record.manifest["flags"]["env"] == "hopper"


# --- write_json ---


def test_failed_dump_keeps_the_old_content(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"x": 1})
    before = snapshot(tmp_path)
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert snapshot(tmp_path) == before


def test_kill_before_the_rename_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    write_json(path, {"x": 3})
    assert json.loads(path.read_text()) == {"x": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


# --- stages ---


def test_stage_is_complete_once_finished(record):
    stage = record.stage("dynamics")
    assert not stage.complete and record.results() == {}
    assert stage.finish({"loss": [1.5, 2.5]}) == {"loss": [1.5, 2.5]}
    again = RunRecord.open_existing(record.folder).stage("dynamics")
    assert again.complete and again.result == {"loss": [1.5, 2.5]}
    assert not record.stage("usad").complete
    results = record.results()
    assert list(results) == ["dynamics"] and results["dynamics"]["seconds"] >= 0


def tracked(record, name="fit", value=0.0):
    stage = record.stage(name)
    variables = [tf.Variable(tf.fill([2, 3], value)), tf.Variable(0, dtype=tf.int64)]
    stage.track(variables)
    return stage, variables


def test_checkpoint_brings_values_back_bit_equal(record):
    stage, (weights, count) = tracked(record)
    assert stage.restore() == 0
    # Bits, not values: a denormal number, a negative zero, NaN.
    exact = np.float32([[1e-45, -0.0, np.nan], [1 / 3, np.pi, np.inf]])
    weights.assign(exact)
    count.assign(2**40 + 1)
    stage.save(7)
    fresh, (other, number) = tracked(record)
    assert fresh.restore() == 7
    np.testing.assert_array_equal(other.numpy().view(np.uint32), exact.view(np.uint32))
    assert int(number) == 2**40 + 1


def test_the_newest_of_two_checkpoints_counts(record):
    stage, (weights, _) = tracked(record)
    for step in (1, 2, 3):
        weights.assign(tf.fill([2, 3], float(step)))
        stage.save(step)
    fresh, (other, _) = tracked(record)
    assert fresh.restore() == 3 and float(other[0, 0]) == 3.0
    kept = sorted(p.name for p in (record.folder / "checkpoints" / "fit").glob("*.index"))
    assert kept == ["ckpt-2.index", "ckpt-3.index"]


def test_stages_do_not_share_checkpoints(record):
    stage, _ = tracked(record, "fit", 1.0)
    stage.save(5)
    other, (weights, _) = tracked(record, "fit2", 2.0)
    assert other.restore() == 0 and float(weights[0, 0]) == 2.0


def test_seconds_add_up_over_restarts(record, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stage_module.time, "monotonic", lambda: now[0])
    stage, _ = tracked(record)
    now[0] += 40
    stage.save(1)
    now[0] += 1000  # lost: the run was killed before the next checkpoint
    fresh, _ = tracked(record)
    fresh.restore()
    now[0] += 2.5
    fresh.finish(None)
    assert record.results()["fit"]["seconds"] == 42.5


# --- metrics ---


def test_log_writes_one_row_per_step(record):
    stage = record.stage("fit")
    stage.log(1, {"loss": 0.5, "rate": 1e-3})
    stage.log(2, {"loss": 1 / 3, "rate": 1e-4})
    stage.log(1, {"score": 7.0}, table="eval")
    assert table(record, "fit") == [
        ["step", "loss", "rate"],
        ["1", "0.5", "0.001"],
        ["2", "0.333333333", "0.0001"],
    ]
    assert table(record, "fit.eval") == [["step", "score"], ["1", "7"]]
    assert list((record.folder / "tensorboard").iterdir())


# The last but one is the beginning of "12,...".
@pytest.mark.parametrize("half_line", ["", "6,0.1", "4,0.1", "1", "\n"])
def test_restore_drops_rows_after_the_checkpoint(record, half_line):
    stage, _ = tracked(record)
    stage.restore()
    neighbour = record.stage("fit2")
    for step in range(1, 6):
        stage.log(step, {"loss": float(step)})
        stage.log(step, {"score": float(step)}, table="eval")
        neighbour.log(step, {"loss": float(step)})
        if step == 3:
            stage.save(step)
    path = record.folder / "metrics" / "fit.csv"
    with path.open("a") as file:  # killed while it wrote a line
        file.write(half_line)
    fresh, _ = tracked(record)
    assert fresh.restore() == 3
    expected = [["1", "1"], ["2", "2"], ["3", "3"]]
    assert table(record, "fit")[1:] == expected
    assert table(record, "fit.eval")[1:] == expected
    assert len(table(record, "fit2")) == 6  # another stage's rows stay
    fresh.log(4, {"loss": 44.0})
    assert table(record, "fit")[1:] == [*expected, ["4", "44"]]


def damage(record, number, how):
    (path,) = (record.folder / "checkpoints" / "fit").glob(f"ckpt-{number}.data*")
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:5])


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_checkpoint_leaves_the_one_before(record, how):
    stage, (variable, _) = tracked(record)
    for step in (1, 2, 3):
        variable.assign(tf.fill(variable.shape, float(step)))
        stage.log(step, {"loss": float(step)})
        stage.save(step)
    damage(record, 3, how)
    fresh, (variable, _) = tracked(record)
    assert fresh.restore() == 2
    np.testing.assert_array_equal(variable, np.full(variable.shape, 2.0))
    assert table(record, "fit")[1:] == [["1", "1"], ["2", "2"]]
    damage(record, 2, how)
    with pytest.raises(
        UserError, match="^--workdir: expected a checkpoint of fit that can be read"
    ):
        tracked(record)[0].restore()


def test_a_complete_stage_does_not_take_an_older_checkpoint(record):
    stage, _ = tracked(record)
    stage.save(1)
    stage.save(2)
    stage.finish({})
    damage(record, 2, "cut")
    with pytest.raises(
        UserError, match="^--workdir: expected a checkpoint of fit that can be read"
    ):
        tracked(record)[0].restore()


def test_a_complete_stage_whose_weights_are_gone_is_refused_and_keeps_its_table(record):
    stage, _ = tracked(record)
    stage.log(1, {"loss": 1.0})
    stage.save(1)
    stage.finish({})
    shutil.rmtree(record.folder / "checkpoints")
    before = snapshot(record.folder)
    fresh, variable = tracked(record)
    with pytest.raises(UserError, match="^--workdir: expected the weights of fit in .*checkpoints"):
        fresh.restore()
    assert snapshot(record.folder) == before


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    code = (
        "import fcntl, pathlib, sys; f = pathlib.Path(sys.argv[1]).open('a'); "
        "fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "other"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "run.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="^--workdir: another process is training in"):
            RunRecord.create_or_continue(folder, "morel", FLAGS)
        assert [p.name for p in folder.iterdir()] == ["run.lock"]
        other.kill()  # however it ends, the lock goes with it
        other.wait()
        assert RunRecord.create_or_continue(folder, "morel", FLAGS).manifest["seed"] == 3


def test_restore_without_a_checkpoint_starts_the_table_again(record):
    stage, _ = tracked(record)
    stage.log(1, {"loss": 1.0})
    fresh, _ = tracked(record)
    assert fresh.restore() == 0
    fresh.log(1, {"loss": 2.0})
    assert table(record, "fit") == [["step", "loss"], ["1", "2"]]


@pytest.mark.parametrize("header", ["", "step,lo"])
def test_restore_survives_a_kill_in_the_header(record, header):
    path = record.folder / "metrics" / "fit.csv"
    path.parent.mkdir(parents=True)
    path.write_text(header)
    stage, _ = tracked(record)
    assert stage.restore() == 0
    stage.log(1, {"loss": 1.0})
    assert table(record, "fit") == [["step", "loss"], ["1", "1"]]


def test_restart_forgets_the_metrics_of_a_killed_try(record):
    record.stage("data").log(1, {"rows": 5.0})
    record.stage("data2").log(1, {"rows": 6.0})
    again = record.stage("data")
    again.restart()
    again.log(1, {"rows": 7.0})
    assert table(record, "data") == [["step", "rows"], ["1", "7"]]
    assert table(record, "data2") == [["step", "rows"], ["1", "6"]]
