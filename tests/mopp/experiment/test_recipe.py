from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
import shutil
import types

import h5py
import numpy as np
import pytest
import tensorflow as tf
import toys

import mopp_tf
from mopp_tf import algorithm, config, control_config
from mopp_tf import evaluate as evaluate_binary
from mopp_tf.experiment import data as experiment_data
from mopp_tf.experiment import (
    dry_run,
    evaluation,
    export_planner,
    inspection,
    panels,
    recipe,
    restore,
)
from mopp_tf.experiment.configs import Configs, from_manifest
from mopp_tf.experiment.data import load_data
from mopp_tf.experiment.summary import in_words, variant
from mopp_tf.mbop import learning
from mopp_tf.models import rows, training
from offline_tf import tasks
from offline_tf.config.shared_knobs import InspectConfig
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.simulated import generated
from offline_tf.evaluation import planner_episodes
from offline_tf.inspection import inspect_stage
from offline_tf.models import compilation, training_loop
from offline_tf.numerics import holdout, seeds
from offline_tf.pipeline import reuse
from offline_tf.pipeline import run as pipeline
from offline_tf.reports import report_layout, run_contents
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import UserError

KEYS = {
    "algorithm",
    "env",
    "dataset",
    "physics",
    "preset",
    "seed",
    "commit",
    "horizon",
    "training_dtype",
    "planner_dtype",
    "behavior_return",
    "bc_return",
    "true_return_mean",
    "true_return_std",
    "episodes",
    "normalized_score",
    "decision_ms_median",
    "kept_share",
    "effective_sample_size",
    "uncertainty_limit",
    "wall_seconds",
    "stages",
    "export",
}
SETTINGS = {
    "env": "hopper",
    "dataset": "random-ours",
    "data_steps": 2000,
    "seed": 3,
    "eval_episodes": 2,
    "threads": 1,
    "inspection": False,
    "encoder_hidden": (16,),
    "head_hidden": (8,),
    "mlp_hidden": (32,),
    "batch_size": 16,
    "precision": "float32",
    "planner_precision": "float32",  # auto is bfloat16 on some CPUs
    "holdout_share": 0.1,
    "dynamics_members": 2,
    "dynamics_steps": 30,
    "behavior_members": 2,
    "behavior_steps": 30,
    "q_hidden": (16,),
    "q_steps": 30,
    "population": 8,
    "horizon": 2,
    "q_proposals": 2,
    "sigma_max": 0.25,
    "judge_members": 0,
}


def _configs(folder, data_dir, **changes) -> Configs:
    values = SETTINGS | {"workdir": str(folder), "data_dir": str(data_dir)} | changes
    known = {f.name for stage in config.STAGES for f in dataclasses.fields(stage)}
    assert set(values) <= known
    return Configs(
        *(
            stage(**{f.name: values[f.name] for f in dataclasses.fields(stage) if f.name in values})
            for stage in config.STAGES
        )
    )


def _in_this_process(folder, given):
    loaded = tf.saved_model.load(str(folder)).signatures
    found = {}
    for name, inputs in given.items():
        outputs = loaded[name](**{k: tf.constant(v) for k, v in inputs.items()})
        found[name] = {k: v.numpy() for k, v in outputs.items()}
    return found


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """A process sets its threads only once; fresh processes are tests/offline's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_planner.saved_model, "run_in_fresh_process", _in_this_process)
        patch.setattr(pipeline.compilation, "use_threads", lambda threads: 1)
        patch.setattr(training, "STEPS_PER_LOOK", 10)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small run on the hopper, from data to export.

    Graphs of ADMs with twelve heads take long to trace; the cart's runs have them.
    """
    home = tmp_path_factory.mktemp("mopp")
    configs = _configs(home / "run", home / "data", inspection=True, network="mlp")
    return home, configs, recipe.run(configs)


@pytest.fixture(scope="module")
def cart(tmp_path_factory):
    """Configurations of runs on the toy cart, which has no simulator, by run folder."""
    tasks.register(toys.cart())
    path = tmp_path_factory.mktemp("cart") / "cart.hdf5"
    d4rl.write(path, toys.transitions((30,) * 10), None, {})
    return lambda folder, **changes: _configs(
        folder, path.parent, env="cart", dataset=str(path), **changes
    )


def _weights(configs):
    return _weights_of(restore.load(configs, *_task_and_record(configs)))


def _task_and_record(configs):
    record = RunRecord.open_existing(pathlib.Path(configs.run.workdir))
    return tasks.get(configs.run.env), record


def _weights_of(learned):
    parts = [part if isinstance(part, list) else [part] for part in learned.models]
    return [w.numpy() for part in parts for model in part for w in model.weights]


def test_the_summary_holds_what_readers_count_on(finished):
    home, configs, summary = finished
    assert set(summary) >= KEYS
    assert summary == json.loads((home / "run" / "summary.json").read_text())
    assert summary["algorithm"] == "mopp" and summary["dataset"] == "hopper-random-ours"
    task = tasks.get("hopper")
    data = d4rl.read(next((home / "data").glob("*.hdf5")), task.state_dim)
    np.testing.assert_allclose(summary["behavior_return"], data.episode_returns().mean())
    score = task.normalized_score(summary["true_return_mean"])
    np.testing.assert_allclose(summary["normalized_score"], score)
    assert 0.0 < summary["kept_share"] <= 1.0
    assert 1.0 <= summary["effective_sample_size"] <= 8.0
    assert set(summary["stages"]) == {
        "data",
        "units",
        "dynamics",
        "behavior",
        "q",
        "limit",
        "planner_reward",
        "evaluation",
        "inspection",
        "export",
    }
    assert from_manifest(RunRecord.open_existing(home / "run").manifest) == configs


def test_a_finished_run_answers_again_without_learning(finished, monkeypatch):
    home, configs, summary = finished
    for module, name in (
        (training, "fit"),
        (evaluation, "evaluate_planner"),
        (export_planner, "export_and_verify"),
    ):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"{name} ran"))
    monkeypatch.setattr(pipeline.networks, "product_dtype", lambda _: tf.bfloat16)  # another CPU
    again = recipe.run(configs)
    assert again["training_dtype"] == again["planner_dtype"] == "float32"
    assert {k: v for k, v in again.items() if k != "command"} == {
        k: v for k, v in summary.items() if k != "command"
    }


def _write_nothing(planner, scale, folder, observations):
    folder.mkdir()
    return 0.0


def _fits_only(patch):
    """Tracing the planner, to judge it and to write it, is most of a small run's time."""
    names = ("kept_share", "fallback", "effective_sample_size", "expected_return")
    judged = dict.fromkeys((*names, "fqe_value", "data_value"), 1.0)
    patch.setattr(export_planner, "export_and_verify", _write_nothing)
    patch.setattr(evaluation, "judge_offline", lambda *_: judged)


@pytest.fixture
def no_export(monkeypatch):
    """Runs that fit, and neither judge nor write the planner."""
    _fits_only(monkeypatch)


@pytest.fixture(scope="module")
def fitted(cart, tmp_path_factory):
    """Such a run on the cart, with the flags as they are; not to be changed."""
    configs = cart(tmp_path_factory.mktemp("fitted") / "run")
    with pytest.MonkeyPatch.context() as patch:
        _fits_only(patch)
        return configs, recipe.run(configs)


@pytest.fixture
def no_fits(monkeypatch, no_export):
    """For what does not ask how well anything was fitted: graphs of fits take seconds each."""
    for part in (algorithm.dynamics, algorithm.behavior, algorithm.fitted_q):
        monkeypatch.setattr(part, "fit", lambda *_, **__: {})
    shift_and_scale = {"shift": 0.5, "scale": 2.0}
    monkeypatch.setattr(learning.training, "fit_members", lambda *_, **__: shift_and_scale)
    monkeypatch.setattr(
        algorithm.dynamics.DynamicsModel, "uncertainties", lambda self, s, a, units: s[:, 0]
    )


@pytest.mark.usefixtures("no_export")
def test_a_run_killed_in_every_fit_ends_with_the_same_weights(fitted, cart, tmp_path, monkeypatch):
    whole, expected = fitted
    cut = cart(tmp_path / "cut")

    class Killed(Exception):
        pass

    original = Stage.save
    for dying_stage in ("dynamics_fit", "behavior_fit", "q_fit", "q"):

        def save(self, step, may_stop=True, dying_stage=dying_stage):
            original(self, step, may_stop)
            if self.name == dying_stage and step in (1, 20):
                raise Killed

        monkeypatch.setattr(Stage, "save", save)
        with pytest.raises(Killed):
            recipe.run(cut)
    monkeypatch.setattr(Stage, "save", original)
    found = recipe.run(cut)
    for a, b in zip(_weights(whole), _weights(cut), strict=True):
        np.testing.assert_array_equal(a, b)
    assert found["uncertainty_limit"] == expected["uncertainty_limit"] > 0.0


@pytest.mark.parametrize("name", ["mopp", "mbop"])
def test_a_run_learns_from_data_without_next_observations(cart, tmp_path, monkeypatch, name):
    data = toys.transitions((30,) * 10)
    data.rewards[data.terminals] = -100.0
    path = tmp_path / "v0.hdf5"
    with h5py.File(path, "w") as file:
        for column, values in toys.v0_columns(data).items():
            file[column] = values
    monkeypatch.setattr(export_planner, "export_and_verify", _write_nothing)
    changes = {"network": "mlp", "inspection": True, "mbop_horizon": 2}
    changes |= {"dynamics_members": 2, "behavior_members": 1, "patience": 1, "algorithm": name}
    configs = cart(tmp_path / "run", **changes)
    configs = configs._replace(run=dataclasses.replace(configs.run, dataset=str(path)))
    summary = recipe.run(configs)
    expected = data.rewards[~data.timeouts].sum() / 10  # cut rows are left out
    assert summary["behavior_return"] == pytest.approx(expected, rel=1e-5)
    record = RunRecord.open_existing(tmp_path / "run")
    looked = record.stage("inspection").result
    fits = [record.stage(stage).result for stage in ("dynamics", "behavior", "q")]
    numbers = [
        x for part in (summary, looked, *fits) for x in part.values() if isinstance(x, float)
    ]
    assert len(numbers) > 10 and np.isfinite(numbers).all()


def test_dynamics_never_see_a_row_whose_next_state_is_not_known(cart, tmp_path):
    """Whatever stands in it, units and weights are those of the data without it, to the bit."""
    knobs = cart(tmp_path, network="mlp", reward_scaling="none", holdout_share=0.2).knobs
    task, data = tasks.get("cart"), toys.unrecorded(toys.transitions((20,) * 10))
    known = data.next_known
    poisoned = dataclasses.replace(
        data,
        observations=np.where(known[:, None], data.observations, np.float32(1e6)),
        actions=np.where(known[:, None], data.actions, np.float32(-1.0)),
        rewards=np.where(known, data.rewards, np.float32(1e6)),
    )
    record = toys.record(tmp_path / "poisoned")
    prepared = algorithm.prepare(task, data=poisoned, knobs=knobs, seed=0, record=record)
    rows_of = [np.sort(np.concatenate(s)) for s in (prepared.split, prepared.dynamics_split)]
    np.testing.assert_array_equal(rows_of[0], np.arange(len(data)))  # behaviour's and Q's
    np.testing.assert_array_equal(rows_of[1], np.flatnonzero(known))
    table = rows.prepare(task, data, prepared.scale).at(known)
    without = prepared._replace(
        table=table,
        split=holdout.Split(*((np.cumsum(known) - 1)[s] for s in prepared.dynamics_split)),
        normalizer=rows.fit_normalizer(table, knobs.dynamics.targets, knobs.model.normalize),
        change_scale=algorithm.dynamics.change_scale(table),
    )
    found = []
    for name, given in (("first", prepared), ("second", without)):
        model = algorithm.build(task, knobs, given).dynamics
        report = algorithm.dynamics.fit(
            model,
            rows=given.table,
            split=given.dynamics_split,
            names=task.observation_names,
            knobs=knobs.model,
            config=knobs.dynamics,
            normalizer=given.normalizer,
            seed=0,
            stage=toys.record(tmp_path / name).stage("dynamics_fit"),
        )
        found.append((toys.bits(model.weights), report))
    assert found[0] == found[1]
    np.testing.assert_array_equal(prepared.change_scale, without.change_scale)


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("name", ["mopp", pytest.param("mbop", marks=pytest.mark.slow)])
def test_data_on_disk_give_the_bits_of_data_in_memory(name, cart, tmp_path, monkeypatch):
    change = {"fqe_actions": "behavior", "return_weighting": 1.0, "network": "mlp"}
    change |= {"behavior_members": 1, "dynamics_members": 1}
    configs = cart(tmp_path / "run", **change)
    task = tasks.get("cart")
    found = []
    for place in ("memory", "disk"):
        if place == "disk":
            monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.0001")
            monkeypatch.setenv("OFFLINE_TF_SCRATCH", str(tmp_path))
        data, _ = load_data(configs, task, 1)
        assert isinstance(data.observations, np.memmap) is (place == "disk")
        record = RunRecord.create_or_continue(tmp_path / place, name, {})
        prepared = algorithm.prepare(task, data=data, knobs=configs.knobs, seed=3, record=record)
        learn = algorithm.learn if name == "mopp" else learning.learn
        learned = learn(task, prepared=prepared, knobs=configs.knobs, seed=3, record=record)
        found.append([w.tobytes() for w in _weights_of(learned)])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ""),
        ({"prune": False, "max_q": False}, "no pruning, no max-Q"),
        ({"network": "mlp"}, "MLP"),
        ({"network": "mlp", "mlp_hidden": (35, 20)}, "MLP 35-20"),
        ({"conditioning": "mode"}, "mode conditioning"),
        ({"conditioning": "mode", "preset": "authors-20k"}, "authors-20k"),
        ({"algorithm": "mbop", "network": "mlp", "prune": False}, ""),
    ],
)
def test_a_variant_is_named_after_what_differs(flags, expected):
    values = {
        f.name: f.default for stage in config.STAGES for f in dataclasses.fields(stage)
    } | flags
    configs = Configs(
        *(
            stage(**{f.name: values[f.name] for f in dataclasses.fields(stage)})
            for stage in config.STAGES
        )
    )
    assert variant(configs) == expected


def test_the_report_finds_its_lines_in_a_run(finished):
    home, _, _ = finished
    tables = run_contents.read(home / "run").tables
    layout = report_layout.read(home / "run")
    assert layout == panels.LAYOUT
    lines = [line for panel in layout.panels for line in panel.lines]
    drawn = [line for line in lines if line[1].endswith("_fit") or line[1] == "evaluation"]
    # Of MOReL, and of runs without held-out rows.
    others = ("held_out_mse", "training_rows_mse")
    drawn = [line for line in drawn if line[2] not in others]
    assert len(drawn) >= 10
    for label, table, column in drawn:
        assert column in tables[table].dtype.names, (label, table, column)


def test_other_flags_for_the_folder_are_refused(finished):
    home, _, _ = finished
    with pytest.raises(UserError, match="--horizon is 2 there and 3 now"):
        recipe.run(_configs(home / "run", home / "data", network="mlp", horizon=3))


@pytest.mark.usefixtures("no_export")
def test_models_of_another_run_are_taken_over_or_refused(fitted, cart, tmp_path, monkeypatch):
    configs = cart(tmp_path / "first")
    shutil.copytree(fitted[0].run.workdir, tmp_path / "first")
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("it fitted"))
    RunRecord.open_existing(tmp_path / "first").note(training_dtype="bfloat16")  # another CPU
    other = cart(tmp_path / "other", horizon=3, models_from=str(tmp_path / "first"))
    summary = recipe.run(other)
    assert summary["horizon"] == 3 and summary["training_dtype"] == "bfloat16"
    for a, b in zip(_weights(configs), _weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
    third = cart(tmp_path / "mode", conditioning="mode", models_from=str(tmp_path / "first"))
    with pytest.raises(UserError, match="--models_from: .*--conditioning is 'teacher' there"):
        recipe.run(third)
    missing = cart(tmp_path / "mode", models_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="^--models_from: expected a run folder .*nowhere"):
        recipe.run(missing)
    mbop_run = cart(tmp_path / "mode", algorithm="mbop", models_from=str(tmp_path / "first"))
    with pytest.raises(UserError, match="--algorithm is 'mopp' there"):
        recipe.run(mbop_run)
    good = cart(tmp_path / "mode", models_from=str(tmp_path / "first"))
    manifest = tmp_path / "first" / "manifest.json"
    kept = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(kept) | {"data_hash": "another"}))
    with pytest.raises(UserError, match=r"does not fit \(its data differs\)"):
        recipe.run(good)
    manifest.write_text(kept)
    (tmp_path / "first" / "stages" / "q.json").unlink()
    with pytest.raises(UserError, match=r"does not fit \(its models are not fitted yet\)"):
        recipe.run(good)
    assert not (tmp_path / "mode").exists()


@pytest.mark.usefixtures("no_export")
def test_q_alone_is_fitted_again_where_only_its_knobs_differ(fitted, cart, tmp_path, monkeypatch):
    shutil.copytree(fitted[0].run.workdir, tmp_path / "first")
    (tmp_path / "first" / "stages" / "q.json").unlink()  # nobody needs it
    first = RunRecord.open_existing(tmp_path / "first")
    first.note(training_dtype="bfloat16", commits=["older"])  # another CPU, and code
    taken = {"models_from": str(tmp_path / "first"), "q_steps": 20, "discount": 0.9, "seed": 4}
    again = cart(tmp_path / "again", **taken)
    planned = "\n".join(dry_run.plan(*again))
    assert "q " in planned and "dynamics" not in planned and "behavior" not in planned, planned
    fit, begun = training_loop.fit, []

    def noting(*arguments, **named):
        begun.append(named["stage"].name)
        return fit(*arguments, **named)

    monkeypatch.setattr(training_loop, "fit", noting)
    summary = recipe.run(again)
    assert summary["training_dtype"] == "bfloat16, float32"
    assert summary["commit"].endswith(", older")
    assert begun == ["q_fit"]
    models = [restore.load(c, *_task_and_record(c)).models for c in (fitted[0], again)]
    for name, same in (("dynamics", True), ("behavior", True), ("q", False)):
        a, b = ([w.numpy() for w in getattr(m, name).weights] for m in models)
        assert all(map(np.array_equal, a, b)) == same, name
    (tmp_path / "first" / "stages" / "behavior.json").unlink()
    with pytest.raises(UserError, match=r"does not fit \(its models are not fitted yet\)"):
        recipe.run(cart(tmp_path / "neither", **taken))


@pytest.mark.usefixtures("no_fits")
def test_mbop_takes_models_over_for_other_knobs_of_its_planner(cart, tmp_path, monkeypatch):
    first = cart(tmp_path / "first", algorithm="mbop", mbop_horizon=3)
    recipe.run(first)
    monkeypatch.setattr(training, "fit_members", lambda *_, **__: pytest.fail("it fitted"))
    taken = {"algorithm": "mbop", "models_from": str(tmp_path / "first")}
    other = cart(tmp_path / "other", mbop_horizon=3, mbop_sigma=0.5, seed=4, **taken)
    assert recipe.run(other)["variant"] == "sigma 0.5, horizon 3"
    learned = [
        restore.load(c, tasks.get("cart"), RunRecord.open_existing(tmp_path / name))
        for c, name in ((first, "first"), (other, "other"))
    ]
    for a, b in zip(*(_weights_of(x) for x in learned), strict=True):
        np.testing.assert_array_equal(a, b)
    assert learned[0].value_scale == learned[1].value_scale
    with pytest.raises(UserError, match="--mbop_horizon, of the value network, is 3 there"):
        recipe.run(cart(tmp_path / "far", mbop_horizon=4, **taken))


def test_models_that_are_taken_over_need_no_rows_to_be_fitted_on(cart, tmp_path, monkeypatch):
    """A seed may hold out other rows than those that the models were fitted on."""
    configs = cart(tmp_path, algorithm="mbop", patience=2, holdout_share=0.0)
    other = types.SimpleNamespace(manifest={"algorithm": "mbop", "flags": configs.flat()})
    monkeypatch.setattr(reuse, "open_run", lambda *_: other)
    monkeypatch.setattr(reuse, "check_fits", lambda *_, **__: None)
    monkeypatch.setattr(learning, "rows_with_value", lambda *_: pytest.fail("it looked"))
    assert experiment_data.reused_run(configs, toys.transitions(), "hash") is other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dynamics_members": 1}, "--dynamics_members: expected 2 or more, as one model"),
        ({"dynamics_orders": (0, 1, 2)}, "--dynamics_orders: expected 2 numbers, as .*, got 3"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_at_once(cart, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        recipe.run(cart(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_fits")
def test_a_task_that_has_changed_since_is_refused(cart, tmp_path, monkeypatch):
    configs = cart(tmp_path / "run")
    recipe.run(configs)
    record = RunRecord.open_existing(tmp_path / "run")
    assert record.manifest["task"]["action_high"] == [1.0]
    now = toys.cart(action_high=np.float32([0.5]))
    monkeypatch.setitem(tasks._registered, "cart", now)
    for call in (lambda: recipe.run(configs), lambda: restore.load(configs, now, record)):
        with pytest.raises(
            UserError, match="^--workdir: .* on cart with other action_high; put the"
        ):
            call()
    with pytest.raises(UserError, match=r"^--models_from: .*\(its task has other action_high\)"):
        recipe.run(cart(tmp_path / "other", models_from=str(tmp_path / "run")))


@pytest.mark.usefixtures("no_fits")
def test_taken_models_keep_the_orderings_of_their_own_seed(cart, tmp_path):
    """From the third member on a seed decides about the order of an ADM's heads."""
    first = cart(tmp_path / "first", dynamics_members=5, seed=3)
    recipe.run(first)
    other = cart(
        tmp_path / "other", dynamics_members=5, seed=4, models_from=str(tmp_path / "first")
    )
    recipe.run(other)

    def members(configs):
        record = RunRecord.open_existing(pathlib.Path(configs.run.workdir))
        return restore.load(configs, tasks.get("cart"), record).models.dynamics.members

    for seed in (3, 4):
        fresh = cart(tmp_path / "unused", dynamics_members=5, seed=seed)
        units = algorithm.load_units(RunRecord.open_existing(tmp_path / "first"))
        orders = [
            m.order
            for m in algorithm.build(
                tasks.get("cart"), fresh.knobs, units._replace(models_seed=seed)
            ).dynamics.members
        ]
        assert (orders == [m.order for m in members(other)]) == (seed == 3)
    assert [m.order for m in members(other)] == [m.order for m in members(first)]


def test_without_held_out_rows_numbers_say_so(fitted, cart, tmp_path, no_export):
    summary = recipe.run(cart(tmp_path / "none", holdout_share=0.0, network="mlp"))
    assert summary["judged_rows"] == "training_rows"
    for name in ("dynamics_fit", "behavior_fit", "q_fit"):
        header = (tmp_path / "none" / "metrics" / f"{name}.csv").read_text().splitlines()[0]
        assert "training_rows" in header and "held_out" not in header
    configs, summary = fitted
    assert summary["judged_rows"] == "held_out"
    metrics = pathlib.Path(configs.run.workdir) / "metrics"
    header = (metrics / "dynamics_fit.csv").read_text().splitlines()[0]
    task = tasks.get("cart")
    for name in (*task.observation_names, "reward"):
        assert f"held_out/{name}" in header


def test_flags_that_the_data_cannot_serve_are_refused_before_a_folder_is_made(cart, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="^--patience: expected held-out rows"):
        recipe.run(cart(folder, holdout_share=0.0, patience=2))
    path = tmp_path / "short.hdf5"
    data = toys.transitions((6,) * 10)
    cut = dataclasses.replace(
        data, terminals=np.zeros_like(data.terminals), timeouts=data.terminals | data.timeouts
    )
    d4rl.write(path, cut, None, {})
    configs = cart(folder, algorithm="mbop", mbop_horizon=6)
    configs = configs._replace(run=dataclasses.replace(configs.run, dataset=str(path)))
    with pytest.raises(UserError, match="^--mbop_horizon: expected episodes of"):
        recipe.run(configs)
    assert not folder.exists()


def test_a_fit_that_diverges_ends_in_one_line(cart, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STEPS_PER_LOOK", 10)
    with pytest.raises(
        UserError, match="^dynamics_fit: weights are not finite within [0-9]+ steps"
    ):
        recipe.run(cart(tmp_path / "run", learning_rate=1e30))


def test_the_limit_can_be_changed_at_run_time(finished):
    home, configs, _ = finished
    task = tasks.get("hopper")
    learned = restore.load(configs, task, RunRecord.open_existing(home / "run"))

    def limit(*changes):
        control = control_config.ControlConfig(planner=changes)
        return restore.make_planner(task, configs=configs, learned=learned, control=control).limit

    assert limit() == limit("horizon=3") == learned.limit
    assert limit("uncertainty_limit=0.25") == 0.25
    assert limit("uncertainty_limit=2", "uncertainty_units=raw") == 2.0
    fixed = dataclasses.replace(configs.planner, uncertainty_limit=1.0)
    for change in ({"uncertainty_units": "raw"}, {"uncertainty_quantile": 0.5}):
        with pytest.raises(UserError, match="give another uncertainty_limit=L as well"):
            restore._changed_limit(fixed, dataclasses.replace(fixed, **change))
    for change in ("uncertainty_units=raw", "uncertainty_quantile=0.5"):
        with pytest.raises(
            UserError, match="^--planner: uncertainty_.* give another uncertainty_limit=L"
        ):
            limit(change)


def test_another_objective_from_python_changes_what_is_done(finished):
    home, configs, _ = finished
    task = tasks.get("hopper")
    data, _ = load_data(configs, task, 1)
    states = data.observations[:3]
    seen = []
    one_step = functools.partial(mopp_tf.with_objective, home / "run", horizon=1)

    def forward(s, a, n):
        seen.append((s.shape[1], a.shape[1], n.shape[1]))
        return -100.0 * a[:, 0]

    plain = one_step(seed=7, population=32)
    change = {"max_q": False, "terminal_value": False}
    backward = one_step(reward=forward, replace=True, seed=7, population=32, **change)
    assert set(seen) == {(11, 3, 11)}
    assert backward.planner._objective.replaces and not plain.planner._objective.replaces
    actions = plain.act(states), backward.act(states)
    assert actions[0].shape == (3, 3)
    assert (actions[1][:, 0] < actions[0][:, 0]).all()
    assert plain.decision["kept_share"].shape == (3,)
    again = one_step(seed=7, population=32)
    np.testing.assert_array_equal(again.act(states), actions[0])
    # Nothing obeys this: the fallback decides.
    never = one_step(constraint=lambda s, a, n: 1.0 + 0.0 * s[:, 0])
    assert np.isfinite(never.act(states)).all()
    assert never.planner._objective.price is None
    assert not never.planner._objective.replaces
    # The plan obeys this where candidates do, against what the reward asks for.
    onwards = {"reward": lambda s, a, n: 100.0 * a[:, 0], "seed": 7, "population": 64}
    free = one_step(**onwards, max_q=False)
    held = one_step(**onwards, max_q=False, constraint=lambda s, a, n: a[:, 0] - 0.4)
    assert (free.act(states)[:, 0] > 0.4).all() and (held.act(states)[:, 0] <= 0.4).all()
    soft = mopp_tf.with_objective(home / "run", constraint=lambda s, a, n: s[:, 0], price=5.0)
    assert soft.planner._objective.price == 5.0
    with pytest.raises(UserError, match="^price: expected a constraint"):
        mopp_tf.with_objective(home / "run", price=5.0)
    with pytest.raises(UserError, match="did you mean 'horizon'"):
        mopp_tf.with_objective(home / "run", horizn=3)


def test_the_limit_is_the_quantile_of_held_out_disagreement(finished):
    home, configs, summary = finished
    record = RunRecord.open_existing(home / "run")
    task = tasks.get("hopper")
    data, _ = load_data(configs, task, 1)
    prepared = algorithm.prepare(task, data=data, knobs=configs.knobs, seed=3, record=record)
    learned = restore.load(configs, task, record)
    held = prepared.split.held_out
    assert 200 <= len(held) < 400
    doubts = learned.models.dynamics.uncertainties(
        prepared.table.states[held], prepared.table.actions[held], "delta"
    )
    np.testing.assert_allclose(np.quantile(doubts, 0.9), summary["uncertainty_limit"], rtol=1e-5)
    assert learned.limit == summary["uncertainty_limit"]


@pytest.mark.parametrize(
    ("changes", "limit", "rejected"),
    [
        ({"uncertainty_quantile": 0.75}, 15.0, 5 / 21),
        ({"uncertainty_quantile": 1.0}, 20.0, 0.0),
        ({"uncertainty_quantile": 0.75, "uncertainty_units": "raw"}, 1500.0, 5 / 21),
        ({"uncertainty_limit": 4.0}, 4.0, 16 / 21),
        ({"uncertainty_limit": 4.0, "uncertainty_units": "raw"}, 4.0, 20 / 21),
    ],
)
def test_the_limit_is_a_quantile_or_what_is_asked_for(
    tmp_path, monkeypatch, changes, limit, rejected
):
    """The members disagree by 0 to 20 on the held-out rows, 100 times that in raw units."""
    task, data = toys.cart(), toys.transitions((21, 21))
    knobs = algorithm.Knobs(
        config.ModelConfig(holdout_share=0.5),
        config.DynamicsConfig(),
        config.BehaviorConfig(),
        config.QConfig(),
        config.PlannerConfig(sigma_max=0.25, **changes),
    )
    record = toys.record(tmp_path)
    prepared = algorithm.prepare(task, data=data, knobs=knobs, seed=0, record=record)
    held = prepared.split.held_out
    assert len(held) == 21

    def uncertainties(states, actions, units):
        np.testing.assert_array_equal(states, data.observations[held])
        np.testing.assert_array_equal(actions, data.actions[held])
        return np.arange(21.0) * {"delta": 1.0, "raw": 100.0}[units]

    part = types.SimpleNamespace(weights=[], uncertainties=uncertainties)
    models = types.SimpleNamespace(dynamics=part, behavior=part, q=part)
    monkeypatch.setattr(algorithm, "build", lambda *_: models)
    monkeypatch.setattr(record, "fit_or_load", lambda *_: None)
    assert (
        algorithm.learn(task, prepared=prepared, knobs=knobs, seed=0, record=record).limit == limit
    )
    kept = record.stage("limit").result
    np.testing.assert_allclose([kept["rejected"], kept["limit"]], [rejected, limit])


def test_disagreement_is_counted_in_the_spread_of_changes(tmp_path):
    data = toys.transitions((20,) * 4)
    still = data.next_observations.copy()
    still[:, 1] = data.observations[:, 1]
    data = dataclasses.replace(data, next_observations=still, rewards=7.0 * data.rewards)
    record = toys.record(tmp_path)
    knobs = algorithm.Knobs(
        config.ModelConfig(),
        config.DynamicsConfig(reward_scaling="none"),
        config.BehaviorConfig(),
        config.QConfig(),
        config.PlannerConfig(),
    )
    prepared = algorithm.prepare(toys.cart(), data=data, knobs=knobs, seed=0, record=record)
    change = (data.next_observations - data.observations)[:, 0]
    expected = [change.std(), 1.0, data.rewards.std()]  # v never changes
    np.testing.assert_allclose(prepared.change_scale, expected, rtol=1e-4)
    again = algorithm.load_units(record)
    np.testing.assert_array_equal(again.change_scale, prepared.change_scale)


@pytest.mark.usefixtures("no_export")
def test_mbop_runs_in_the_same_harness(finished, tmp_path):
    home, _, _ = finished
    configs = _configs(tmp_path / "run", home / "data", algorithm="mbop", mbop_horizon=2)
    summary = recipe.run(configs)
    assert summary["algorithm"] == "mbop" and "bc_return" not in summary
    assert summary["dynamics_mse"] > 0.0 and summary["kept_share"] == 1.0
    record = RunRecord.open_existing(tmp_path / "run")
    task = tasks.get("hopper")
    learned = restore.load(configs, task, record)
    planner = restore.make_planner(task, configs=configs, learned=learned)
    decide = compilation.function(planner.decide)
    found = evaluation.evaluate_planner(
        planner, graph=decide, physics="v2", episodes=2, seed=3, name="planner", threads=1
    )
    np.testing.assert_allclose(found.returns.mean(), summary["true_return_mean"], rtol=1e-6)
    far = control_config.ControlConfig(planner=("mbop_horizon=3",))
    with pytest.raises(
        UserError, match="value beyond the horizon was fitted for mbop_horizon=2, got 3"
    ):
        restore.make_planner(task, configs=configs, learned=learned, control=far)
    asked = evaluate_binary.EvaluateConfig(workdir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="was fitted for mbop_horizon=2, got 3"):
        evaluate_binary.plan(asked, far)
    far = control_config.ControlConfig(planner=("mbop_horizon=3", "terminal_value=false"))
    assert (
        restore.make_planner(task, configs=configs, learned=learned, control=far).knobs.horizon == 3
    )


class _CheapPlanner(tf.Module):
    """Decides by adding; stands for a planner whose graph would take seconds to make."""

    task = toys.cart()
    knobs = types.SimpleNamespace(horizon=3, uncertainty_units="delta")

    def initial_plan(self, observation):
        return tf.tile(observation[:, :1, None], [1, 3, 1])

    def decide(self, observation, plan, seed):
        names = ("kept_share", "disagreement", "expected_return")
        rest = {name: observation[:, 0] for name in names}
        action = plan[:, 0] + tf.cast(seed[0], tf.float32)
        return types.SimpleNamespace(action=action, plan=plan + 1.0, **rest)


@pytest.mark.parametrize("output", ["action", "plan", "kept_share", "expected_return"])
@pytest.mark.parametrize("signature", ["plan", "plan_one"])
def test_an_export_that_differs_is_an_error(tmp_path, monkeypatch, signature, output):
    def off(folder, given):
        found = _in_this_process(folder, given)
        found[signature][output] = found[signature][output] + 1e-2
        return found

    monkeypatch.setattr(export_planner.saved_model, "run_in_fresh_process", off)
    scale = rows.RewardScale(0.0, 1.0)
    arguments = (_CheapPlanner(), scale, tmp_path / "export", np.zeros((4, 2), np.float32))
    with pytest.raises(RuntimeError, match=r"differ by 0\.0"):
        export_planner.export_and_verify(*arguments)


def test_an_exported_step_is_paid_in_the_units_of_the_data():
    class Model(tf.Module):
        def step(self, observation, action):
            return types.SimpleNamespace(
                next_states=observation + action,
                rewards=observation[:, 0],
                terminated=observation[:, 0] > 1.5,
                known=observation[:, 1] < 0.5,
                disagreement=observation[:, 1],
            )

    exported = export_planner.Exported(Model(), rows.RewardScale(shift=-3.0, scale=2.0))
    found = exported.step(tf.constant([[1.0, 0.25], [2.0, 0.75]]), tf.constant([[1.0], [2.0]]))
    np.testing.assert_allclose(found["reward"], [-1.0, 1.0])
    np.testing.assert_allclose(found["next_observation"], [[2.0, 1.25], [4.0, 2.75]])
    assert found["terminated"].numpy().tolist() == [False, True] == [not k for k in found["known"]]


def test_without_a_simulator_a_plan_is_exported(fitted, cart, tmp_path):
    configs = cart(tmp_path / "run", models_from=str(fitted[0].run.workdir), horizon=1)
    summary = recipe.run(configs)
    assert summary.get("true_return_mean") is None
    words = in_words(summary)
    assert "nothing was run in a real environment" in words
    assert f"fitted {summary['fqe_value']:.2f}" in words
    # In the data's units: rewards of the cart are small, their range in the models is 1.
    record = RunRecord.open_existing(tmp_path / "run")
    learned = restore.load(configs, tasks.get("cart"), record)
    planner = restore.make_planner(tasks.get("cart"), configs=configs, learned=learned)
    starts = tf.constant(toys.transitions((30,) * 10).observations[::30])
    value = planner.behavior_value(starts, seeds.stateless(configs.run.seed, "offline", 1))
    assert abs(learned.scale.scale - 1.0) > 0.01
    np.testing.assert_allclose(
        summary["fqe_value"], learned.scale.scale * float(tf.reduce_mean(value)), rtol=1e-4
    )
    assert 0.0 < summary["kept_share"] <= 1.0 and np.isfinite(summary["expected_return"])
    assert (tmp_path / "run" / "export" / "saved_model.pb").exists()


def test_the_export_plans_as_the_live_planner_does_for_any_number_of_environments(finished):
    home, configs, _ = finished
    task = tasks.get("hopper")
    learned = restore.load(configs, task, RunRecord.open_existing(home / "run"))
    planner = restore.make_planner(task, configs=configs, learned=learned)
    decide = compilation.function(planner.decide, reduce_retracing=True)
    loaded = tf.saved_model.load(str(home / "run" / "export"))
    for count in (1, 5):
        states = tf.random.stateless_normal([count, 11], [count, 0])
        plan = loaded.signatures["initial_plan"](observation=states)["plan"]
        np.testing.assert_allclose(plan, planner.initial_plan(states), atol=1e-6)
        seed = tf.constant([4, count])
        found = loaded.signatures["plan"](observation=states, plan=plan, seed=seed)
        live = decide(states, plan, seed)
        for key in ("action", "plan", "kept_share", "disagreement", "expected_return"):
            np.testing.assert_allclose(found[key], getattr(live, key), rtol=1e-4, atol=1e-5)
        pair = {"observation": states, "action": plan[:, 0]}
        found, live = loaded.signatures["step"](**pair), planner.step(states, plan[:, 0])
        np.testing.assert_allclose(
            found["next_observation"], live.next_states, rtol=1e-4, atol=1e-5
        )
        reward = learned.scale.shift + learned.scale.scale * live.rewards
        np.testing.assert_allclose(found["reward"], reward, rtol=1e-4, atol=1e-5)
        every = loaded.signatures["forecast"](state=states, action=plan[:, 0])
        means = {name: np.mean(every[name], axis=0) for name in ("next_state", "reward")}
        np.testing.assert_allclose(means["next_state"], live.next_states, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(means["reward"], reward, rtol=1e-4, atol=1e-4)
        known = loaded.signatures["is_known"](**pair)["known"]
        np.testing.assert_array_equal(known, live.disagreement <= learned.limit)


def test_a_finished_run_can_be_looked_at_again(finished, tmp_path, monkeypatch):
    home, _, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(home / "run", folder)
    before = inspect_stage.load(folder, "models")
    shutil.rmtree(folder / "inspection")
    numbers = inspection.inspect_again(
        RunRecord.open_existing(folder),
        InspectConfig(str(folder), ("random-ours",), str(home / "data")),
        1,
    )
    again = inspect_stage.load(folder, "models")
    for name in ("error", "coverage", "drift", "group/held out", "map/ratio"):
        np.testing.assert_allclose(again[name], before[name], rtol=1e-4, atol=1e-6)
    assert {"known/hopper-random-ours", "auroc/hopper-random-ours"} <= set(numbers)
    assert {p.stem for p in (folder / "inspection").glob("*.png")} >= {"candidates", "separation"}
    # Where the run is not finished, it will look once more itself; its own time stays.
    stages = folder / "stages"
    old = json.loads((home / "run" / "stages" / "inspection.json").read_text())
    assert json.loads((stages / "inspection.json").read_text())["seconds"] == old["seconds"]
    for name in ("inspection", "evaluation"):
        (stages / f"{name}.json").unlink()
    monkeypatch.setattr(inspection, "inspect", lambda **_: {"error": 1.0})
    inspection.inspect_again(
        RunRecord.open_existing(folder), InspectConfig(str(folder), data_dir=str(home / "data")), 1
    )
    assert not (stages / "inspection.json").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"data_hash": "another"}))
    with pytest.raises(UserError, match="trained on other data"):
        inspection.inspect_again(
            RunRecord.open_existing(folder),
            InspectConfig(str(folder), data_dir=str(home / "data")),
            1,
        )


def test_what_the_planner_did_is_logged_step_by_step(finished):
    home, _, summary = finished
    rows = np.genfromtxt(home / "run" / "metrics" / "evaluation.csv", delimiter=",", names=True)
    assert rows["alive"][0] == 1.0 and len(rows) <= 400
    assert 0.0 < rows["kept_share"].min() <= rows["kept_share"].max() <= 1.0
    assert (rows["weight_entropy"] >= 0.0).all() and (rows["decision_ms"] > 0.0).all()
    # Means over the episodes that are alive: as many rows as steps, as no episode is longer than 400.
    assert rows["step"].tolist() == list(range(1, len(rows) + 1))
    alive = rows["alive"]
    np.testing.assert_allclose(rows["reward"] @ alive, summary["true_return_mean"], rtol=1e-5)
    np.testing.assert_allclose(alive.sum(), summary["episode_length"], rtol=1e-6)
    np.testing.assert_allclose(
        rows["kept_share"] @ alive / alive.sum(), summary["kept_share"], rtol=1e-5
    )
    assert evaluation._std(np.array([1.0, 3.0])) == pytest.approx(2**0.5)
    kept = inspect_stage.load(home / "run", "episodes")["observations"]
    assert kept.shape[0] == 2 and kept.shape[2] == 11


def test_evaluation_takes_another_reward_and_constraint(finished, tmp_path, monkeypatch):
    home, _, _ = finished
    (tmp_path / "my_rules.py").write_text(
        "def lower(s, a, n, limit):\n    return n[:, 0] - limit\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    control = control_config.ControlConfig(
        constraint="my_rules:lower", constraint_arg=-100.0, planner=("horizon=1",)
    )
    evaluate_binary.main(
        evaluate_binary.EvaluateConfig(
            workdir=str(home / "run"),
            episodes=2,
            watch=("height",),
            output=str(tmp_path / "limit=0.5"),
        ),
        control,
    )
    report = json.loads((tmp_path / "limit=0.5.json").read_text())
    # No candidate is 100 m below the ground: all are pruned, the fallback decides always.
    assert report["fallback"] == 1.0 and report["constraint_arg"] == -100.0
    score = tasks.get("hopper").normalized_score(report["true_return_mean"])
    np.testing.assert_allclose(report["normalized_score"], score)
    with np.load(tmp_path / "limit=0.5.npz") as traces:
        assert traces["height"].shape == traces["reward"].shape
        assert 0.5 < np.nanmean(traces["height"]) < 1.5
    with pytest.raises(UserError, match="--watch: expected names among .* got 'nose'"):
        evaluate_binary.main(
            evaluate_binary.EvaluateConfig(workdir=str(home / "run"), watch=("nose",)),
            control_config.ControlConfig(),
        )


def test_a_dry_run_of_an_evaluation_refuses_what_the_evaluation_refuses(finished):
    home, _, _ = finished
    folder = str(home / "run")
    lines = evaluate_binary.plan(
        evaluate_binary.EvaluateConfig(workdir=folder, episodes=2),
        control_config.ControlConfig(planner=("horizon=2", "max_q=false")),
    )
    assert lines[0].startswith("2 episodes with the models of")
    assert lines[1] == "  --planner=horizon=2,max_q=false"
    for changes, watched, expected in (
        (("planner_reward=auto",), (), "expected planner_reward=models or task, got auto"),
        (("uncertainty_quantile=0.5",), (), "give another uncertainty_limit=L as well"),
        (("horizn=2",), (), "did you mean 'horizon'"),
        ((), ("nose",), "--watch: expected names among"),
    ):
        asked = evaluate_binary.EvaluateConfig(workdir=folder, watch=watched)
        for call in (evaluate_binary.plan, evaluate_binary.main):
            with pytest.raises(UserError, match=re.escape(expected)):
                call(asked, control_config.ControlConfig(planner=changes))


def test_evaluation_in_litert(finished, tmp_path):
    home, _, _ = finished
    evaluate_binary.main(
        evaluate_binary.EvaluateConfig(
            workdir=str(home / "run"),
            episodes=2,
            engine="litert-int8",
            output=str(tmp_path / "report"),
        ),
        control_config.ControlConfig(planner=("horizon=1",)),
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["engine"] == "litert-int8" and report["episode_length"] > 1
    assert 0.0 < report["kept_share"] <= 1.0 and np.isfinite(report["true_return_mean"])


def test_unknown_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="expected an HDF5 file .* or one of random-ours"):
        recipe.run(_configs(tmp_path / "run", tmp_path, dataset="medum-ours"))
    assert not (tmp_path / "run").exists()


# --- the simulation loop ---


def test_episodes_count_until_they_end_and_actions_are_executed():
    task = tasks.get("hopper")
    seen = []

    def decide(observation, memory, key):
        seen.append(int(memory))
        action = tf.fill([3, 3], 0.5)
        return action, memory + 1, {"first": observation[:, 0]}

    found = planner_episodes.run(
        task,
        physics="v2",
        episodes=3,
        start=lambda _: 0,
        decide=decide,
        seed=0,
        name="x",
        watched=("height",),
        threads=1,
    )
    steps = len(found.decision_ms)
    assert seen == list(range(steps)) and steps == found.lengths.max() < 1000
    for episode in range(3):
        rewards = found.traces["reward"][:, episode]
        assert np.isfinite(rewards).sum() == found.lengths[episode]
        assert np.isfinite(rewards[: found.lengths[episode]]).all()
        np.testing.assert_allclose(found.returns[episode], np.nansum(rewards))
    # What a decision saw at step t + 1 is what was observed after step t.
    np.testing.assert_array_equal(
        found.traces["first"][1 : found.lengths.min()],
        found.observed["height"][: found.lengths.min() - 1],
    )
    other = planner_episodes.run(
        task,
        physics="v2",
        episodes=3,
        start=lambda _: 0,
        decide=lambda o, m, k: (tf.fill([3, 3], -0.5), m + 1, {}),
        seed=0,
        name="x",
    )
    assert np.abs(other.traces["reward"][0] - found.traces["reward"][0]).max() > 1e-3


def test_a_reward_that_is_no_number_is_told(monkeypatch):
    class Pays(planner_episodes.environments.Simulator):
        def step(self, actions):
            rewards, terminated = super().step(actions)
            rewards[1] = np.nan if self.elapsed[0] == 3 else rewards[1]
            return rewards, terminated

    monkeypatch.setattr(
        planner_episodes.environments,
        "make_simulator",
        lambda *_: Pays(tasks.get("hopper"), "v2", 2, 1),
    )

    def idle(observation, memory, key):
        return tf.zeros([2, 3]), memory, {}

    with pytest.raises(UserError, match="expected finite rewards, got NaN or infinity in step 3"):
        planner_episodes.run(
            tasks.get("hopper"),
            physics="v2",
            episodes=2,
            start=lambda _: None,
            decide=idle,
            seed=0,
            name="test",
        )


def test_an_observation_may_be_called_as_a_trace():
    """A task's own names do not replace rewards or the planner's numbers."""
    names = ("reward", "kept_share", *tasks.get("hopper").observation_names[2:])
    task = dataclasses.replace(tasks.get("hopper"), observation_names=names)

    def decide(observation, memory, key):
        return tf.zeros([2, 3]), memory, {"kept_share": tf.fill([2], 0.25)}

    found = planner_episodes.run(
        task,
        physics="v2",
        episodes=2,
        start=lambda _: 0,
        decide=decide,
        seed=0,
        name="x",
        watched=names,
        threads=1,
    )
    np.testing.assert_allclose(found.returns, np.nansum(found.traces["reward"], axis=0))
    assert np.nanmax(found.traces["kept_share"]) == np.nanmin(found.traces["kept_share"]) == 0.25
    assert 1.0 < found.observed["reward"][0, 0] < 1.5  # the hopper's height


def test_named_data_is_made_once(tmp_path, monkeypatch):
    task = tasks.get("hopper")
    first, name = generated.load_or_make_kind(
        task,
        physics="v2",
        kind="random-ours",
        num_steps=500,
        seed=0,
        data_dir=str(tmp_path),
        threads=1,
    )
    assert name == "hopper-random-ours" and len(first) == 500
    monkeypatch.setattr(generated, "make", lambda *_, **__: pytest.fail("made again"))
    again, _ = generated.load_or_make_kind(
        task,
        physics="v2",
        kind="random-ours",
        num_steps=500,
        seed=0,
        data_dir=str(tmp_path),
        threads=1,
    )
    np.testing.assert_array_equal(first.observations, again.observations)
