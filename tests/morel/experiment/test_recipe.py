from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import time
import types

import h5py
import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf import algorithm, config
from morel_tf.experiment import data as experiment_data
from morel_tf.experiment import evaluation, export_controller, inspection, panels, recipe, restore
from morel_tf.experiment.configs import Configs, from_manifest
from morel_tf.experiment.summary import in_words, promises
from offline_tf import tasks
from offline_tf.config.shared_knobs import InspectConfig
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.simulated import generated
from offline_tf.evaluation import policy_episodes
from offline_tf.inspection import inspect_stage
from offline_tf.models import learned_task
from offline_tf.numerics import holdout
from offline_tf.pipeline import run as pipeline
from offline_tf.pipeline.run import FREE_FLAGS, Experiment
from offline_tf.policies import cloning, fitted_value
from offline_tf.reports import report_layout, run_contents
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent

# Numbers that any user of summary.json may count on.
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
    "behavior_return",
    "bc_return",
    "pmdp_return",
    "true_return_at_horizon",
    "true_return_mean",
    "true_return_std",
    "true_return_stochastic",
    "episodes",
    "normalized_score",
    "wall_seconds",
    "stages",
    "export",
}
STAGES = {
    "data",
    "dynamics",
    "usad",
    "clone_1",
    "behavior_cloning",
    "planning",
    "evaluation",
    "inspection",
    "export",
}
SETTINGS = {
    "env": "hopper",
    "data_steps": 3000,
    "seed": 3,
    "eval_every": 2,
    "eval_episodes": 2,
    "final_episodes": 2,
    "threads": 1,
    "inspection": False,
    "ensemble_size": 2,
    "dynamics_hidden": (32, 32),
    "dynamics_epochs": 2,
    "precision": "float32",
    "horizon": 50,
    "paths_per_member": 6,
    "judge_members": 0,
    "bc_epochs": 1,
    "iterations": 3,
    "policy_hidden": (16, 16),
    "cg_iterations": 5,
    "baseline_hidden": (16, 16),
}


def made_file(home):
    """The data set that the run of the `home` fixture made; its name ends in the policy's hash."""
    (path,) = (home / "data").glob("hopper-v2-pure-3000-seed3-*.hdf5")
    return path


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


def _called(folder, signature, inputs):
    return _in_this_process(folder, {signature: inputs})[signature]


def _in_this_process(folder, given):
    loaded = tf.saved_model.load(str(folder)).signatures
    found = {}
    for name, inputs in given.items():
        outputs = loaded[name](**{k: tf.constant(v) for k, v in inputs.items()})
        found[name] = {k: v.numpy() for k, v in outputs.items()}
    return found


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """The check in fresh processes is test_deploy's; a process sets its threads only once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_controller.saved_model, "run_in_fresh_process", _in_this_process)
        patch.setattr(pipeline.compilation, "use_threads", lambda threads: 1)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small run on the hopper, from data to export."""
    home = tmp_path_factory.mktemp("experiment")
    configs = _configs(home / "run", home / "data", inspection=True)
    return home, configs, recipe.run(configs)


def _nothing_is_learned(patch):
    for module, name in (
        (algorithm.gaussian_ensemble, "fit"),
        (algorithm.usad, "batched"),
        (algorithm.npg_planner.policy_update, "update"),
        (export_controller, "export_and_verify"),
        (evaluation.policy_episodes, "evaluate"),
    ):
        patch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"{name} ran"))


def test_the_summary_holds_what_readers_count_on(finished):
    home, configs, summary = finished
    assert set(summary) >= KEYS
    assert summary == json.loads((home / "run" / "summary.json").read_text())
    expected = {
        "algorithm": "morel",
        "env": "hopper",
        "dataset": "hopper-v2-pure-3000-seed3",
        "physics": "v2",
        "preset": "default",
        "seed": 3,
        "horizon": 50,
        "iterations": 3,
        "episodes": 2,
        "export": str(home / "run" / "export"),
    }
    assert {name: summary[name] for name in expected} == expected
    assert summary["commit"] == RunRecord.open_existing(home / "run").manifest["commit"]
    low, high = tasks.get("hopper").reference_returns
    score = 100 * (summary["true_return_mean"] - low) / (high - low)
    assert summary["normalized_score"] == pytest.approx(score)
    assert set(summary["stages"]) == STAGES
    total = sum(summary["stages"].values())
    assert summary["wall_seconds"] == pytest.approx(total, abs=0.06)
    numbers = [v for v in summary.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()


def test_the_summary_agrees_with_what_lies_in_the_folder(finished):
    home, configs, summary = finished
    data = d4rl.read(made_file(home), 11)
    assert summary["behavior_return"] == pytest.approx(data.episode_returns().mean())
    record = RunRecord.open_existing(home / "run")
    assert record.manifest["data_hash"] == d4rl.content_hash(data)
    assert summary["threshold"] == algorithm.usad.load(record)["planning"].threshold
    assert summary["policy_hidden"] == list(configs.planner.policy_hidden)
    assert summary["pmdp_return"] == record.stage("planning").result["pmdp_return"]
    # No path earns more than 50 steps of a hopper: 1 per step, and a speed below 5 m/s.
    assert -1000 < summary["pmdp_return"] < 300
    assert 0 < summary["true_return_at_horizon"] < 300
    # Evaluated after iteration 2 and, being the last, 3; the last tenth of 3 is iteration 3.
    path = home / "run" / "metrics" / "planning.evaluation.csv"
    table = np.genfromtxt(path, delimiter=",", names=True)
    assert table["step"].tolist() == [2, 3]
    assert summary["true_return_last_tenth"] == table["true_return_mean"][1]
    assert summary["true_return_least_in_second_half"] == table["true_return_mean"].min()


def _evaluations(monkeypatch):
    """Replaces evaluation: the n-th call gives n, n + 1; returns what was asked."""
    asked = []

    def evaluate(policy, **asked_for):
        asked.append({"policy": policy} | asked_for)
        return policy_episodes.Evaluation(len(asked) + np.float64([0, 1]), np.array([5, 5]))

    monkeypatch.setattr(evaluation.policy_episodes, "evaluate", evaluate)
    return asked


def test_the_report_finds_its_lines_in_a_run(finished):
    home, _, _ = finished
    tables = run_contents.read(home / "run").tables
    layout = report_layout.read(home / "run")
    assert layout == panels.LAYOUT
    lines = [line for panel in layout.panels for line in panel.lines]
    own = {("dynamics_fit", "loss"), ("dynamics_fit", "held_out_mse")}
    drawn = [line for line in lines if line[1].startswith("planning") or line[1:] in own]
    # This run had no judge; test_judged_run reads its table.
    drawn = [line for line in drawn if line[1] != "planning.judge"]
    assert len(drawn) >= 12
    for label, table, column in drawn:
        assert column in tables[table].dtype.names, (label, table, column)


def test_final_numbers_stand_under_their_own_names(finished, tmp_path, monkeypatch):
    home, configs, _ = finished
    asked, data = _evaluations(monkeypatch), d4rl.read(made_file(home), 11)
    learned = types.SimpleNamespace(
        policy=types.SimpleNamespace(numpy=lambda: "planned"), cloned="cloned"
    )
    record = toys.record(tmp_path / "run")
    experiment = Experiment(configs, tasks.get("hopper"), data, "made", record, None, 1)
    found = evaluation.evaluate_final(experiment, learned, record.stage("evaluation"))
    names = ("true_return_mean", "true_return_stochastic", "true_return_at_horizon", "bc_return")
    assert [found[name] for name in names] == [1.5, 2.5, 3.5, 4.5]
    assert found["true_return_std"] == pytest.approx(np.sqrt(0.5))
    expected = [("planned", False), ("planned", True), ("planned", True), ("cloned", False)]
    assert [(call["policy"], call["stochastic"]) for call in asked] == expected
    where = {"physics": "v2", "episodes": 2, "seed": 3}
    assert all(call.items() >= where.items() for call in asked)
    same_terms = asked[2]
    assert same_terms["horizon"] == configs.pmdp.horizon == 50
    first = data.episode_bounds()[:, 0]
    np.testing.assert_array_equal(same_terms["starts"][0], data.qpos[first])
    np.testing.assert_array_equal(same_terms["starts"][1], data.qvel[first])
    assert all(not {"horizon", "starts"} & set(asked[i]) for i in (0, 1, 3))


def test_evaluations_while_planning_stand_under_their_own_names(finished, tmp_path, monkeypatch):
    home, configs, _ = finished
    asked, given = _evaluations(monkeypatch), []

    def morel(**arguments):
        given.append(arguments["evaluate"])
        raise toys.Killed

    monkeypatch.setattr(recipe.algorithm, "morel", morel)
    with pytest.raises(toys.Killed):
        recipe.run(_configs(tmp_path / "run", home / "data", dataset=str(made_file(home))))
    assert given[0]("policy", 1) == {} and not asked  # every second iteration
    found = given[0]("policy", 2)
    assert (found["true_return_mean"], found["true_return_stochastic"]) == (1.5, 2.5)
    kinds = [(call["policy"], call["stochastic"]) for call in asked]
    assert kinds == [("policy", False), ("policy", True)]


def test_the_flags_come_back_from_the_folder(finished):
    home, configs, _ = finished
    assert from_manifest(RunRecord.open_existing(home / "run").manifest) == configs


def test_running_again_reads_and_learns_nothing(finished, monkeypatch):
    home, configs, summary = finished
    _nothing_is_learned(monkeypatch)
    assert recipe.run(configs) == summary
    # Where it runs and with how many threads does not decide the result.
    run = dataclasses.replace(configs.run, threads=2)
    assert recipe.run(configs._replace(run=run)) == summary


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"beta": 1.0}, {"dynamics_hidden": (32,)}, {"halt_offset": 0.0}]
)
def test_other_flags_for_the_same_folder_are_refused(finished, monkeypatch, change):
    home, _, _ = finished
    _nothing_is_learned(monkeypatch)
    ((name, _),) = change.items()
    before = (home / "run" / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=f"--{name} is .* there and .* now"):
        recipe.run(_configs(home / "run", home / "data", **change))
    assert (home / "run" / "manifest.json").read_bytes() == before


def test_the_exported_policy_is_the_learned_one(finished):
    home, configs, _ = finished
    record = RunRecord.open_existing(home / "run")
    policy = restore.load_policy(configs, record).numpy()
    observations = np.random.default_rng(0).normal(size=(9, 11)).astype(np.float32)
    found = _called(home / "run" / "export", "serving_default", {"observation": observations})
    np.testing.assert_allclose(
        found["action"], np.clip(policy.mean(observations), -1, 1), atol=1e-5
    )
    assert json.loads((home / "run" / "export" / "manifest.json").read_text()) == record.manifest


def test_a_run_is_exported_again_without_its_data(finished, tmp_path):
    home, _, _ = finished
    record = RunRecord.open_existing(home / "run")
    assert restore.export_again(record, tmp_path / "again") <= 1e-6
    rng = np.random.default_rng(0)
    given = {
        "observation": rng.normal(size=(9, 11)).astype(np.float32),
        "action": rng.uniform(-1, 1, (9, 3)).astype(np.float32),
    }
    folders = (home / "run" / "export", tmp_path / "again")
    first, second = (_called(folder, "is_known", given) for folder in folders)
    np.testing.assert_allclose(first["disagreement"], second["disagreement"], rtol=1e-5)
    # The fallback is the behaviour-cloned policy, and a step of the P-MDP is there in both.
    for name, inputs in (
        ("act_guarded", {"observation": 5.0 * given["observation"]}),
        (
            "step",
            {
                "state": given["observation"],
                "action": given["action"],
                "member": np.arange(9, dtype=np.int32) % 2,
            },
        ),
    ):
        first, second = (_called(folder, name, inputs) for folder in folders)
        for key in first:
            np.testing.assert_allclose(first[key], second[key], rtol=1e-4, atol=1e-5)


def test_the_example_of_the_python_api_runs(finished, monkeypatch, capsys):
    home, _, _ = finished
    monkeypatch.setattr(sys, "argv", ["deploy.py", str(home / "run"), "", "15"])
    runpy.run_path(str(ROOT / "examples" / "deploy.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "return in Hopper-v4" in said and "the fallback acted in" in said
    assert "the detector knows" in said and "members promise" in said


def test_a_finished_run_can_be_looked_at_again(finished, tmp_path):
    home, _, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(home / "run", folder)
    before = inspect_stage.load(folder, "models")
    (folder / "inspection" / "models.npz").unlink()
    data_dir = str(home / "data")
    numbers = inspection.inspect_again(
        RunRecord.open_existing(folder),
        InspectConfig(str(folder), (str(made_file(home)),), data_dir),
        1,
    )
    again = inspect_stage.load(folder, "models")
    for name in ("error", "coverage", "drift", "group/held out", "map/ratio"):
        np.testing.assert_allclose(again[name], before[name], rtol=1e-4, atol=1e-6)
    assert sum(name.startswith("auroc/") for name in numbers) == 3
    assert any(name.startswith("path/iteration") for name in again)


def test_a_run_is_exported_with_a_constant_fallback(finished, tmp_path, monkeypatch):
    home, _, _ = finished
    record = RunRecord.open_existing(home / "run")
    seen = []
    with monkeypatch.context() as patch:  # what is exported is checked above
        patch.setattr(
            export_controller, "export_and_verify", lambda made, *_: seen.append(made) or 0.0
        )
        restore.export_again(record, tmp_path / "export", "0.1,-0.2,0.3")
    far = np.full((4, 11), 1e3, np.float32)
    found = {name: value.numpy() for name, value in seen[0].act_guarded(tf.constant(far)).items()}
    assert found["fallback_used"].all() and not found["known"].any()
    np.testing.assert_allclose(found["action"], [[0.1, -0.2, 0.3]] * 4, rtol=1e-6)
    with pytest.raises(
        UserError, match="--fallback: expected cloning, or 3 numbers within the bounds"
    ):
        restore.export_again(record, tmp_path / "other", "0.1,0.2")
    assert not (tmp_path / "other").exists()


def test_fitted_models_are_taken_over_from_another_run(finished, tmp_path, monkeypatch):
    home, _, _ = finished
    for name in ("dynamics_from", "workdir"):
        assert name in {f.name for f in dataclasses.fields(config.RunConfig)}
    monkeypatch.setattr(
        algorithm.gaussian_ensemble, "fit", lambda *_, **__: pytest.fail("fitted again")
    )
    monkeypatch.setattr(RunRecord, "commits", property(lambda self: f"of {self.folder.name}"))
    noted = []
    monkeypatch.setattr(RunRecord, "note_commit", lambda *given: noted.append(given[1:]))
    configs = _configs(
        tmp_path / "naive",
        home / "data",
        dynamics_from=str(home / "run"),
        threshold_rule="none",
        iterations=1,
        final_episodes=1,
    )
    summary = recipe.run(configs)
    assert summary["algorithm"] == "naive_mbrl" and summary["commit"] == "of naive"
    assert [[other.folder for other in others] for others in noted] == [[], [home / "run"]]
    ours, theirs = (
        algorithm.gaussian_ensemble.load(
            tasks.get("hopper"), configs.dynamics, 3, RunRecord.open_existing(folder)
        )
        for folder in (tmp_path / "naive", home / "run")
    )
    assert toys.bits(ours.weights) == toys.bits(theirs.weights)
    # The folder it came from may go away.
    assert not (tmp_path / "naive" / "checkpoints" / "dynamics_fit").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_steps": 1000}, "its data differs"),
        ({"dynamics_epochs": 1}, "--dynamics_epochs is 2 there"),
        ({"scale": "mad"}, "--scale is 'std' there"),
    ],
)
def test_models_that_do_not_fit_are_refused(finished, tmp_path, change, message):
    home, _, _ = finished
    configs = _configs(tmp_path / "run", home / "data", dynamics_from=str(home / "run"), **change)
    with pytest.raises(UserError, match=message):
        recipe.run(configs)


def test_data_of_d4rls_kinds_are_made_here_for_morel_too(monkeypatch):
    monkeypatch.setattr(
        generated, "load_or_make_kind", lambda task, **given: ((task, given), "hopper-medium-ours")
    )
    monkeypatch.setattr(experiment_data.checks, "with_own_states", None)  # they have theirs
    task = tasks.get("hopper")
    run = config.RunConfig(dataset="medium-ours", data_steps=3000, seed=4)
    given, name = experiment_data.load_data(types.SimpleNamespace(run=run), task, 1)
    expected = {
        "physics": "v2",
        "kind": "medium-ours",
        "num_steps": 3000,
        "seed": 4,
        "data_dir": "",
        "threads": 1,
    }
    assert given == (task, expected) and name == "hopper-medium-ours"


def test_models_of_another_algorithm_are_refused(finished, tmp_path):
    home, configs, _ = finished
    other = RunRecord.create_or_continue(tmp_path / "planner", "mopp", configs.flat())
    other.note(data_hash=RunRecord.open_existing(home / "run").manifest["data_hash"])
    stage = other.stage("dynamics")
    stage.track([])
    stage.save(1)
    stage.finish({})
    taking = _configs(tmp_path / "run", home / "data", dynamics_from=str(tmp_path / "planner"))
    with pytest.raises(UserError, match=r"does not fit \(its algorithm is mopp\)"):
        recipe.run(taking)
    assert not (tmp_path / "run").exists()


def test_models_that_are_not_fitted_yet_are_refused(finished, tmp_path):
    home, configs, _ = finished
    data_hash = RunRecord.open_existing(home / "run").manifest["data_hash"]
    other = RunRecord.create_or_continue(tmp_path / "young", "morel", configs.flat())
    other.note(data_hash=data_hash)
    taking = _configs(tmp_path / "run", home / "data", dynamics_from=str(tmp_path / "young"))
    with pytest.raises(UserError, match="not fitted yet"):
        recipe.run(taking)
    missing = _configs(tmp_path / "other", home / "data", dynamics_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        recipe.run(missing)


def _held_out_when_taking(new):
    """Rows that a run judges the models on which it takes over, and the data's episodes."""
    seen = {}

    def calibrate(task, *, data, held_out, **_):
        seen.update(held_out=held_out, bounds=data.episode_bounds())
        raise toys.Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(toys.Killed):
        patch.setattr(algorithm.usad, "calibrate_or_load", calibrate)
        recipe.run(new)
    return seen["held_out"], seen["bounds"]


def test_models_taken_over_are_judged_on_rows_that_they_have_not_seen(finished, tmp_path):
    home, configs, _ = finished
    path = made_file(home)
    taking = {"dataset": str(path), "dynamics_from": str(home / "run"), "seed": 4}
    new = _configs(tmp_path / "run", home / "data", **taking)
    held_out, bounds = _held_out_when_taking(new)
    share = holdout.share_of(configs.dynamics.holdout_share, 3000)
    theirs = algorithm.holdout.split_episodes(bounds, share, configs.run.seed)
    np.testing.assert_array_equal(held_out, theirs.held_out)


def test_models_taken_over_twice_are_judged_on_rows_that_they_have_not_seen(finished, tmp_path):
    home, configs, _ = finished
    path = made_file(home)
    # A run with seed 4 that took its models over from the one with seed 3, as far as models go.
    shutil.copytree(home / "run", tmp_path / "middle")
    manifest = RunRecord.open_existing(tmp_path / "middle").manifest
    manifest["seed"] = manifest["flags"]["seed"] = 4
    manifest["flags"] |= {"dataset": str(path), "dynamics_from": str(home / "run")}
    (tmp_path / "middle" / "manifest.json").write_text(json.dumps(manifest))
    taking = {"dataset": str(path), "dynamics_from": str(tmp_path / "middle"), "seed": 5}
    new = _configs(tmp_path / "run", home / "data", **taking)
    held_out, bounds = _held_out_when_taking(new)
    share = holdout.share_of(configs.dynamics.holdout_share, 3000)
    theirs = algorithm.holdout.split_episodes(bounds, share, configs.run.seed)
    np.testing.assert_array_equal(held_out, theirs.held_out)


def test_data_that_changed_under_a_run_is_refused(finished, tmp_path):
    home, configs, _ = finished
    folder = tmp_path / "run"
    path = tmp_path / "data.hdf5"
    data = d4rl.read(made_file(home), 11)
    d4rl.write(path, data)
    own = _configs(folder, home / "data", dataset=str(path))
    record = RunRecord.create_or_continue(folder, "morel", own.flat(), FREE_FLAGS)
    record.note(data_hash=d4rl.content_hash(data))
    d4rl.write(path, dataclasses.replace(data, rewards=data.rewards + 1))
    with pytest.raises(UserError, match="was trained on other data"):
        recipe.run(own)


def test_one_model_cannot_disagree(tmp_path):
    with pytest.raises(UserError, match="--ensemble_size: expected 2 models or more"):
        recipe.run(_configs(tmp_path / "run", tmp_path, ensemble_size=1))
    assert not (tmp_path / "run").exists()


def test_a_mistyped_data_set_leaves_no_run_behind(tmp_path):
    wrong = _configs(tmp_path / "run", tmp_path, dataset=str(tmp_path / "mistyped.hdf5"))
    with pytest.raises(UserError, match="mistyped"):
        recipe.run(wrong)
    assert not (tmp_path / "run").exists()


def test_a_task_without_a_simulator_is_learned_from_a_file(tmp_path, monkeypatch):
    """The cart in percent of its force: no simulator, no references; no true return."""
    percent = np.float32([100.0])
    task = toys.cart(
        reference_returns=None,
        action_low=-percent,
        action_high=percent,
        reward=lambda s, a, n, physics: toys.reward(s, 0.01 * a, n),
    )
    monkeypatch.setitem(tasks._registered, "cart", task)
    monkeypatch.setattr(fitted_value, "_STEPS", 20)
    data = toys.transitions((25,) * 40)
    data = dataclasses.replace(data, actions=100.0 * data.actions)
    d4rl.write(tmp_path / "cart.hdf5", data)
    configs = _configs(
        tmp_path / "run",
        tmp_path,
        env="cart",
        dataset=str(tmp_path / "cart.hdf5"),
        iterations=2,
        horizon=60,
    )
    summary = recipe.run(configs)
    assert summary["horizon"] == task.max_episode_steps == 50
    record = RunRecord.open_existing(tmp_path / "run")
    policy = restore.load_policy(configs, record)
    np.testing.assert_allclose(policy.units.input_shift, data.observations.mean(0), atol=1e-5)
    np.testing.assert_allclose(1 / policy.units.input_scale, data.observations.std(0), rtol=1e-5)
    # The noise begins as that of the data, uniform in +-100 %.
    assert np.exp(policy.log_std.numpy()) == pytest.approx(100 / np.sqrt(3), rel=0.2)
    rows = data.observations[:7]
    exported = _called(tmp_path / "run" / "export", "serving_default", {"observation": rows})
    np.testing.assert_allclose(exported["action"], policy.mean(rows), rtol=1e-4, atol=1e-3)
    assert (summary["env"], summary["dataset"]) == ("cart", "cart.hdf5")
    assert summary["normalized_score"] is summary["bc_return"] is None
    assert "true_return_mean" not in summary
    words = in_words(summary)
    assert f"P-MDP promises {summary['pmdp_return']:.1f}" in words
    assert 0.0 < summary["known_share"] <= 1.0 and "of the policy's actions" in words
    assert f"values it at {summary['fqe_value']:.2f}" in words
    assert summary["behavior_return"] == pytest.approx(data.rewards.sum() / 40, rel=1e-5)
    assert {p.name for p in (tmp_path / "run" / "export").iterdir()} >= {"saved_model.pb"}


def test_a_run_learns_from_data_without_next_observations(tmp_path, monkeypatch):
    """Terminal rows count for cloning, least reward and value; nothing becomes NaN."""
    monkeypatch.setattr(fitted_value, "_STEPS", 20)
    monkeypatch.setattr(learned_task, "_STEPS", 20)
    monkeypatch.setattr(recipe, "export", lambda *_: {"largest_difference": 0.0})
    monkeypatch.setitem(tasks._registered, "cart", toys.cart(reward=None, termination=None))
    data = toys.transitions((25,) * 40)
    data.rewards[data.terminals] = -100.0
    with h5py.File(tmp_path / "cart.hdf5", "w") as file:
        for name, values in toys.v0_columns(data).items():
            file[name] = values
    configs = _configs(
        tmp_path / "run",
        tmp_path,
        env="cart",
        dataset=str(tmp_path / "cart.hdf5"),
        iterations=1,
        inspection=True,
    )
    cloned_rows = []
    clone = cloning.fit_or_load
    monkeypatch.setattr(
        cloning,
        "fit_or_load",
        lambda policy, **named: cloned_rows.append(named["observations"]) or clone(policy, **named),
    )
    summary = recipe.run(configs)
    cut_ends = data.timeouts  # where the next observation would have to be known
    np.testing.assert_array_equal(cloned_rows[0], data.observations[~cut_ends])
    record = RunRecord.open_existing(tmp_path / "run")
    assert record.manifest["least_reward"] == -100.0
    expected = data.rewards[~cut_ends].sum() / 40
    assert summary["behavior_return"] == pytest.approx(expected, rel=1e-5)
    looked = record.stage("inspection").result
    assert looked["open_loops"] > 0.0
    numbers = [x for x in (*summary.values(), *looked.values()) if isinstance(x, float)]
    assert len(numbers) > 10 and np.isfinite(numbers).all()


def test_the_planner_gets_the_p_mdp_of_the_paper(tmp_path, monkeypatch):
    """HALT pays min_D(r) - offset; threshold, starts and states are those of the models."""
    data = toys.transitions((25,) * 10, limit=0.5)
    knobs = _configs(tmp_path, tmp_path, halt_offset=30.0, beta=0.5, dynamics_epochs=1).knobs
    seen = {}

    def plan(pmdp, *, first_rows, states, **_):
        seen.update(pmdp=pmdp, first_rows=first_rows, states=states)
        return {}

    monkeypatch.setattr(algorithm.npg_planner, "plan", plan)
    record = toys.record(tmp_path / "run")
    prepared = algorithm.prepare(toys.cart(limit=0.5), data, knobs, 0)
    learned = algorithm.morel(
        toys.cart(limit=0.5),
        physics="v2",
        data=data,
        prepared=prepared,
        knobs=knobs,
        seed=0,
        record=record,
        evaluate=lambda *_: {},
        keep_paths=lambda *_: None,
    )
    assert seen["pmdp"].halt_reward == pytest.approx(float(data.rewards.min()) - 30.0)
    thresholds = {name: c.threshold for name, c in learned.calibrations.items()}
    assert seen["pmdp"].threshold == thresholds["planning"] != thresholds["observation"]
    true = data.observations.copy()
    true[:, 1] = data.qvel[:, 0]
    assert (true != data.observations).any()
    np.testing.assert_array_equal(seen["states"], true)
    np.testing.assert_array_equal(seen["first_rows"], np.arange(0, 250, 25))


def test_data_on_disk_give_the_bits_of_data_in_memory(tmp_path, monkeypatch):
    task = toys.cart(limit=0.5)
    data = toys.transitions((25,) * 10, limit=0.5)
    knobs = _configs(tmp_path, tmp_path, dynamics_epochs=1).knobs
    monkeypatch.setattr(algorithm.npg_planner, "plan", lambda *_, **__: {})
    found = []
    for place in ("memory", "disk"):
        if place == "disk":
            monkeypatch.setenv("OFFLINE_TF_COLUMN_MB", "0.0001")
            monkeypatch.setenv("OFFLINE_TF_SCRATCH", str(tmp_path))
        record = toys.record(tmp_path / place)
        prepared = algorithm.prepare(task, data, knobs, 0)
        learned = algorithm.morel(
            task,
            physics="v2",
            data=data,
            prepared=prepared,
            knobs=knobs,
            seed=0,
            record=record,
            evaluate=lambda *_: {},
            keep_paths=lambda *_: None,
        )
        weights = toys.bits([*learned.ensemble.weights, *learned.policy.weights])
        found.append((weights, learned.calibrations))
    assert found[0] == found[1]


# --- killed for real ------------------------------------------------------------------------------


def _command(folder, data_dir):
    flags = SETTINGS | {"data_steps": 10_000, "dynamics_epochs": 4, "iterations": 12}
    words = [
        f"--{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}"
        for name, v in flags.items()
    ]
    return [
        sys.executable,
        "-m",
        "morel_tf.train",
        *words,
        f"--workdir={folder}",
        f"--data_dir={data_dir}",
    ]


def _start(folder, data_dir, log):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with log.open("w") as file:
        return subprocess.Popen(
            _command(folder, data_dir), cwd=ROOT, env=environment, stdout=file, stderr=file
        )


def _moments(folder, log):
    """Name -> whether that moment of the run is there."""
    stages, checkpoints = folder / "stages", folder / "checkpoints"
    return {
        "data": lambda: "making" in log.read_text(),
        "manifest": lambda: (folder / "manifest.json").exists(),
        "first epoch": lambda: (checkpoints / "dynamics_fit" / "checkpoint").exists(),
        "models": lambda: (stages / "dynamics.json").exists(),
        "detector": lambda: (stages / "usad.json").exists(),
        "cloning": lambda: (stages / "behavior_cloning.json").exists(),
        "fifth iteration": lambda: (checkpoints / "planning" / "checkpoint").exists(),
        "planning": lambda: (stages / "planning.json").exists(),
        "evaluation": lambda: (stages / "evaluation.json").exists(),
        "export": lambda: (folder / "export").exists(),
    }


def _weights(folder):
    record = RunRecord.open_existing(folder)
    configs = from_manifest(record.manifest)
    ensemble = algorithm.gaussian_ensemble.load(tasks.get("hopper"), configs.dynamics, 0, record)
    policy = restore.load_policy(configs, record)
    return toys.bits([*ensemble.weights, *policy.weights])


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_bits_of_an_unbroken_one(tmp_path):
    """kill -9 of the real binary, ten times in one run; no clean-up code can help it."""
    whole, folder, log = tmp_path / "unbroken", tmp_path / "broken", tmp_path / "log"
    assert _start(whole, tmp_path / "data", log).wait(timeout=3600) == 0, log.read_text()
    for name, there in _moments(folder, log).items():
        process = _start(folder, tmp_path / "other_data", log)
        deadline = time.monotonic() + 3600
        while not there() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert process.poll() is None, f"{name}: not seen before the end\n{log.read_text()}"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    end = _start(folder, tmp_path / "other_data", log)
    assert end.wait(timeout=3600) == 0, log.read_text()
    assert _weights(folder) == _weights(whole)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (whole, folder)]
    for summary in summaries:
        for name in ("stages", "wall_seconds", "export", "command"):
            summary.pop(name, None)
    assert summaries[0] == summaries[1]
    tables = [
        {p.name: p.read_text() for p in (run / "metrics").iterdir()} for run in (whole, folder)
    ]
    assert tables[0] == tables[1]


def test_a_kept_clone_gains_nothing_over_itself():
    numbers = {"promise": 5.0, "expected": 6.0, "halted_share": 0.0, "gain": -7.0}
    told = promises(numbers | {"kept_iteration": 0}, None)
    assert (told["gain_over_clone"], told["rejected_gain"]) == (0.0, -7.0)
    told = promises(numbers | {"kept_iteration": 9, "gain": 7.0}, None)
    assert told["gain_over_clone"] == 7.0 and "rejected_gain" not in told
