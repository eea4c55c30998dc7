import numpy as np
import pytest
import tensorflow as tf

from offline_tf.run_folder import checkpoints, files
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError


@pytest.fixture
def record(tmp_path):
    return RunRecord.create_or_continue(tmp_path / "run", "morel", {"seed": 0})


def tracked(record, width=4):
    """A stage and its variable, in a process that has just begun."""
    variable = tf.Variable(tf.zeros((3, width)))
    stage = RunRecord.open_existing(record.folder).stage("fit")
    stage.track([variable])
    return stage, variable


def save(record, steps):
    stage, variable = tracked(record)
    for step in steps:
        variable.assign(tf.fill(variable.shape, float(step)))
        stage.log(step, {"loss": float(step)})
        stage.save(step)


def test_the_highest_number_comes_first_and_other_files_are_passed_over(tmp_path):
    for name in ("ckpt-9", "ckpt-10", "ckpt-2"):
        (tmp_path / f"{name}.index").touch()
    for name in ("ckpt-11.data-00000-of-00001", "ckpt-x.index", "other-12.index", "checkpoint"):
        (tmp_path / name).touch()
    found = checkpoints.in_folder(tmp_path)
    assert found == [str(tmp_path / name) for name in ("ckpt-10", "ckpt-9", "ckpt-2")]
    assert checkpoints.in_folder(tmp_path / "none") == []


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"model_checkpoint_path: 7", b"}"])
def test_a_damaged_list_loses_no_checkpoint(record, content):
    save(record, (1, 2))
    path = record.folder / "checkpoints" / "fit" / "checkpoint"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    stage, variable = tracked(record)
    assert stage.restore() == 2
    np.testing.assert_array_equal(variable, np.full((3, 4), 2.0))
    stage.save(3)
    stage.save(4)
    stage.save(5)
    assert tracked(record)[0].restore() == 5
    found = checkpoints.in_folder(record.folder / "checkpoints" / "fit")
    assert [path.rpartition("-")[2] for path in found][:2] == ["5", "4"]


def test_a_list_that_names_files_elsewhere_deletes_none(record, tmp_path):
    save(record, (1, 2))
    elsewhere = tmp_path / "precious"
    for ending in (".index", ".data-00000-of-00001"):
        elsewhere.with_suffix(ending).write_text("mine")
    path = record.folder / "checkpoints" / "fit" / "checkpoint"
    names = "".join(f'all_model_checkpoint_paths: "{elsewhere}"\n' for _ in range(3))
    stamps = "".join(f"all_model_checkpoint_timestamps: {2e9 + n}\n" for n in range(3))
    head = f'model_checkpoint_path: "{elsewhere}"\nlast_preserved_timestamp: 1.0\n'
    path.write_text(head + names + stamps)
    stage, _ = tracked(record)
    assert stage.restore() == 2
    for step in (3, 4, 5, 6):
        stage.save(step)
    assert elsewhere.with_suffix(".index").read_text() == "mine"
    assert elsewhere.with_suffix(".data-00000-of-00001").read_text() == "mine"


def test_what_was_saved_on_a_stop_and_does_not_fit_is_named(record):
    other, _ = tracked(record, width=5)
    other.stop_within_block(2, 1, [np.zeros(2, np.float32)])
    with pytest.raises(UserError, match=r"does not fit the run .*delete .*fit\.stopped to go on"):
        tracked(record)[0].restore()


def test_a_table_that_is_no_text_keeps_its_whole_rows(record):
    save(record, (1, 2))
    path = record.folder / "metrics" / "fit.csv"
    path.write_bytes(path.read_bytes() + b"3,\xff\xfe\n" + b"\xff,1\n" + b"9" * 5000 + b",1\n")
    assert tracked(record)[0].restore() == 2
    assert path.read_bytes() == b"step,loss\n1,1\n2,2\n"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"result": 1}', "[" * 100_000, "\x00"])
def test_a_damaged_result_is_named_with_what_to_do(record, content):
    record.stage("judge").finish({"bound": 1.5}, 2.0)
    path = record.folder / "stages" / "judge.json"
    path.write_text(content)
    with pytest.raises(UserError, match="judge.json.*delete it and start the run again"):
        record.stage("judge").result  # noqa: B018
    with pytest.raises(UserError, match="judge.json"):
        record.results()


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "models.npz"
    with pytest.raises(UserError, match="^--workdir: .*models.npz cannot be read .*; train again$"):
        files.read_arrays(path, "workdir")
    np.savez(path, a=np.array([None, 1], object))
    with pytest.raises(UserError, match="models.npz cannot be read"):
        files.read_arrays(path, "workdir")
    np.savez(path, a=np.arange(3))
    np.testing.assert_array_equal(files.read_arrays(path, "workdir")["a"], [0, 1, 2])
