"""Exports in use: acting in a loop, and files of observations to files of actions."""

import contextlib
import csv
import shutil
from unittest import mock

import h5py
import numpy as np
import pytest
import tensorflow as tf
import toys

import mopp_tf
import morel_tf
from offline_tf import predict
from offline_tf.export import batch_prediction, loaded, prediction_files, saved_model
from offline_tf.types import UserError

TASK = toys.cart()
HORIZON = 3


class _Controller(tf.Module):
    """a = x / 4; known where |x| <= 1; a fallback that does nothing."""

    def act(self, observation):
        return {"action": tf.clip_by_value(0.25 * observation[:, :1], -1.0, 1.0)}

    def is_known(self, observation, action):
        del action
        size = tf.abs(observation[:, 0])
        return {"known": size <= 1.0, "disagreement": size}

    def act_guarded(self, observation):
        action = self.act(observation)["action"]
        verdict = self.is_known(observation, action)
        safe = tf.where(verdict["known"][:, None], action, 0.0)
        return verdict | {"action": safe, "fallback_used": ~verdict["known"]}


class _Planner(tf.Module):
    """Hands the plan on, shifted; acts by its head, and by the seed's step."""

    def initial_plan(self, observation):
        return {"plan": tf.tile(observation[:, :1, None], [1, HORIZON, 1])}

    def plan(self, observation, plan, seed):
        return {
            "action": plan[:, 0] + 100.0 * tf.cast(seed[1], tf.float32),
            "plan": tf.concat([plan[:, 1:], observation[:, None, :1]], axis=1),
            "kept_share": tf.ones_like(observation[:, 0]),
            "disagreement": tf.zeros_like(plan[:, :, 0]) + tf.range(float(HORIZON)),
            "expected_return": observation[:, 1],
        }


def _spec(*shape, dtype=tf.float32, name):
    return tf.TensorSpec(shape, dtype, name)


def _save(module, folder, **inputs):
    made = {
        name: tf.function(getattr(module, name)).get_concrete_function(*specs)
        for name, specs in inputs.items()
    }
    if "act" in made:
        made["serving_default"] = made.pop("act")
    saved_model.save(module, folder, made, TASK, "words")


@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    folder = tmp_path_factory.mktemp("morel") / "export"
    state, action = _spec(None, 2, name="observation"), _spec(None, 1, name="action")
    _save(_Controller(), folder, act=[state], is_known=[state, action], act_guarded=[state])
    return folder


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mopp") / "export"
    state = _spec(None, 2, name="observation")
    plan = _spec(None, HORIZON, 1, name="plan")
    seed = _spec(2, dtype=tf.int32, name="seed")
    _save(_Planner(), folder, initial_plan=[state], plan=[state, plan, seed])
    return folder


def test_a_controller_acts_for_one_and_for_many(controller):
    for path in (controller, controller.parent):
        controller = morel_tf.load(path)
        np.testing.assert_allclose(controller.act([0.5, 0.0]), [0.125])
        np.testing.assert_allclose(controller.act([[0.5, 0.0], [8.0, 0.0]]), [[0.125], [1.0]])
    found = controller.act_guarded([2.0, 0.0])
    assert not found["known"] and found["fallback_used"] and found["action"].tolist() == [0.0]
    assert controller.act_guarded([[2.0, 0.0], [0.0, 0.0]])["known"].tolist() == [False, True]
    assert controller.is_known([0.5, 0.0], [0.0]) and not controller.is_known([1.5, 0.0], [0.0])
    assert controller.interface == loaded.Interface.of(TASK)
    for bad in ([0.5], [[[0.5, 0.0]]], 0.5):
        with pytest.raises(ValueError, match=r"expected shape \[2\] or \[B, 2\]"):
            controller.act(bad)


def test_a_planner_remembers_its_plan_and_takes_a_new_seed_each_step(planner):
    acting = mopp_tf.load(planner, seed=7)
    acted = [float(acting.act([x, 0.5])[0]) for x in (1.0, 2.0, 3.0, 4.0, 5.0)]
    # The first plan is 1 1 1; what is seen at step t is executed three later. Seeds count the steps.
    np.testing.assert_allclose(acted, [1.0, 101.0, 201.0, 301.0, 402.0])
    assert acting.decision["expected_return"] == 0.5
    with pytest.raises(ValueError, match="expected 1 observations as before, got 2; call reset"):
        acting.act([[0.0, 0.0]] * 2)
    before = acting.decision
    for bad in (np.nan, np.inf):  # it would stay in the plan
        with pytest.raises(ValueError, match="expected an observation of finite numbers"):
            acting.act([bad, 0.0])
    assert acting.decision is before
    acting.reset()
    assert acting.decision == {}
    np.testing.assert_allclose(acting.act([[9.0, 0.0]] * 2), [[509.0]] * 2)


def test_the_wrong_export_and_none_are_named(controller, planner, tmp_path):
    with pytest.raises(UserError, match="signature 'plan'"):
        mopp_tf.load(controller)
    with pytest.raises(UserError, match="signature 'is_known'"):
        morel_tf.load(planner)
    with pytest.raises(UserError, match=r"expected a run folder or an export .* at "):
        morel_tf.load(tmp_path)
    for name, content in ((loaded.INTERFACE, "{"), ("saved_model.pb", "cut")):
        shutil.copytree(controller, tmp_path / name)
        (tmp_path / name / name).write_text(content)
        with pytest.raises(UserError, match=f"the export in .*{name} cannot be read: "):
            morel_tf.load(tmp_path / name)


ROWS = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)


def _csv_of(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "v", "x"])
        writer.writerows([t, float(v), float(x)] for t, (x, v) in enumerate(rows))


def _inputs(folder):
    paths = {form: folder / f"given.{form}" for form in ("csv", "npz", "hdf5")}
    _csv_of(paths["csv"], ROWS)
    np.savez(paths["npz"], observations=ROWS)
    with h5py.File(paths["hdf5"], "w") as file:
        file["observations"] = ROWS.astype(np.float64)
    return paths


def _run(export_, given, output, **changes):
    values = {"export": str(export_), "input": str(given), "output": str(output)} | changes
    predict.main(predict.PredictConfig(**values))


def _read(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        table = dict(zip(header, np.array(rows, float).T, strict=True))
        return table | {"action": table["force"][:, None]}
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


@pytest.mark.parametrize("guarded", [False, True])
def test_every_form_goes_to_every_form(controller, tmp_path, guarded):
    known = np.abs(ROWS[:, 0]) <= 1.0
    action = np.clip(0.25 * ROWS[:, :1], -1, 1)
    if guarded:
        action = np.where(known[:, None], action, 0.0)
    assert 0 < known.sum() < len(ROWS)
    for form, given in _inputs(tmp_path).items():
        for ending in ("csv", "npz", "hdf5"):
            output = tmp_path / f"{form}.{ending}.{guarded}.{ending}"
            _run(controller, given, output, guarded=guarded, batch_size=4)
            found = _read(output)
            np.testing.assert_allclose(found["action"], action, rtol=1e-5)
            np.testing.assert_array_equal(found["known"].astype(bool), known)
            np.testing.assert_allclose(found["disagreement"], np.abs(ROWS[:, 0]), rtol=1e-5)
            assert ("fallback_used" in found) is guarded
    assert not list(tmp_path.glob("*.partial"))


PLANT = """
name = "cart"
step_seconds = 10
[log]
time = "when"
[[observations]]
name = "x"
column = "X [m]"
resample = "last"
[[observations]]
name = "v"
resample = "last"
[[actions]]
name = "force"
low = -1
high = 1
"""


def test_a_plants_log_is_read_as_steps_with_their_time(controller, tmp_path):
    """Rows come every 5 s and a step has 10; the description lies beside the model."""
    folder = tmp_path / "export"
    shutil.copytree(controller, folder)
    (tmp_path / "plant.toml").write_text(PLANT)
    saved_model.describe(folder, {"flags": {"env": str(tmp_path / "plant.toml")}})
    rows = [f"2024-03-01 10:00:{5 * k:02d};{k / 4:g};0;0.5".replace(".", ",") for k in range(9)]
    (tmp_path / "log.csv").write_text("\n".join(["when;X [m];v;force", *rows]) + "\n")
    _run(folder, tmp_path / "log.csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["time"] for row in found] == [f"2024-03-01 10:00:{k}0" for k in range(4)]
    np.testing.assert_allclose([float(row["force"]) for row in found], [0, 0.125, 0.25, 0.375])
    _run(folder, tmp_path / "log.csv", tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["time"].tolist() == [
        1709287200.0 + 10 * k for k in range(4)
    ]
    # A table of observations stays one.
    _csv_of(tmp_path / "given.csv", ROWS)
    _run(folder, tmp_path / "given.csv", tmp_path / "plain.csv")
    assert len(_read(tmp_path / "plain.csv")["known"]) == len(ROWS)


def test_a_planner_takes_each_row_as_the_first_decision(planner, tmp_path):
    _run(planner, _inputs(tmp_path)["npz"], tmp_path / "out.npz", batch_size=4)
    found = _read(tmp_path / "out.npz")
    # The second number of the seed is the first row of the block.
    np.testing.assert_allclose(
        found["action"][:, 0], ROWS[:, 0] + 100.0 * (np.arange(11) // 4 * 4), rtol=1e-5
    )
    np.testing.assert_array_equal(found["disagreement"], np.ones(11))
    assert set(found) == {"action", "kept_share", "disagreement", "expected_return"}


def test_a_planner_is_not_asked_about_no_rows(planner, tmp_path):
    np.savez(tmp_path / "nothing.npz", observations=np.zeros((0, 2)))
    with pytest.raises(UserError, match="expected rows of observations, .* has none"):
        _run(planner, tmp_path / "nothing.npz", tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["nothing.npz"]


def test_processes_with_one_output_do_not_write_into_one_file(controller, tmp_path, monkeypatch):
    given, output = _inputs(tmp_path)["csv"], tmp_path / "out.csv"
    seen = []
    plain = batch_prediction.predict

    def while_writing(*arguments):
        seen.append([path for path in tmp_path.iterdir() if path.name.startswith("out.csv")])
        return plain(*arguments)

    monkeypatch.setattr(batch_prediction, "predict", while_writing)
    for process in (7, 8):
        monkeypatch.setattr(batch_prediction.os, "getpid", lambda: process)  # noqa: B023
        _run(controller, given, output)
        output.unlink()
    assert [path.name for (path,) in seen] == ["out.csv.7.partial", "out.csv.8.partial"]


def test_an_output_that_cannot_be_is_refused_before_anything_is_read(controller, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        UserError, match="--output: .*/x.csv cannot be written, as .*/file takes no"
    ):
        _run(controller, _inputs(tmp_path)["csv"], tmp_path / "file" / "x.csv")


def test_planners_are_given_fewer_rows_at_once(controller, planner, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        batch_prediction, "predict", lambda model, rows, *_: seen.append(len(rows)) or {}
    )

    def writing(path, *_):
        path.touch()
        return contextlib.nullcontext(mock.Mock())

    monkeypatch.setattr(prediction_files, "writing", writing)
    np.savez(tmp_path / "many.npz", observations=np.zeros((5000, 2), np.float32))
    _run(planner, tmp_path / "many.npz", tmp_path / "out.npz")
    assert set(seen) == {64, 5000 % 64}
    seen.clear()
    (tmp_path / "out.npz").unlink()
    _run(controller, tmp_path / "many.npz", tmp_path / "out.npz")
    assert seen == [4096, 904]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "missing.csv"}, "--input: expected a file"),
        ({"input": "given.xlsx"}, "--input: expected a table, a .npz or a .hdf5 file"),
        ({"output": "out.txt"}, "--output: expected a .csv, .npz or .hdf5 file"),
        ({"output": "there.csv"}, "--output: .* exists; it is not replaced"),
        ({"export": "nowhere"}, "--export: expected a run folder or an export"),
        ({"export": ""}, "--export: expected a path, got none"),
        ({"input": "narrow.npz"}, r"shape \(rows, 2\), got \(3, 5\)"),
        ({"input": "other.csv"}, "lacks the columns x, v"),
        ({"input": "words.csv"}, "--input: words.csv, line 3: expected a number, got v='two'"),
        ({"input": "damaged.hdf5"}, "--input: .* is no readable file of observations"),
        ({"input": "nothing.npz"}, "--input: expected rows of observations, .* has none"),
        ({"input": "nothing.csv"}, "--input: expected rows of observations, .* has none"),
        ({"input": "empty.npz"}, "lacks 'observations', got actions"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(controller, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    _inputs(tmp_path)
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "given.xlsx").write_text("")
    (tmp_path / "damaged.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    np.savez("narrow.npz", observations=np.zeros((3, 5)))
    np.savez("nothing.npz", observations=np.zeros((0, 2)))
    np.savez("empty.npz", actions=np.zeros((3, 5)))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "nothing.csv").write_text("x,v\n")
    (tmp_path / "words.csv").write_text("x,v\n1,2\n1,two\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        _run(
            **(
                {"export_": controller, "given": "given.csv", "output": "out.csv"}
                | {{"export": "export_", "input": "given"}.get(k, k): v for k, v in change.items()}
            )
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "there.csv").read_text() == "mine"
