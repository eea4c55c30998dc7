"""Small runs with a judge on a cart whose reward nobody declares."""

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import toys

from mopp_tf import algorithm, config, control_config
from mopp_tf.experiment import (
    candidates,
    dry_run,
    export_planner,
    inspection,
    recipe,
    restore,
    summary,
)
from mopp_tf.experiment.configs import Configs, from_manifest
from mopp_tf.models import share, training
from mopp_tf.planning import choice
from offline_tf import tasks
from offline_tf.config.shared_knobs import InspectConfig
from offline_tf.datasets.formats import d4rl
from offline_tf.judging import clones, judge, verdict
from offline_tf.models import gaussian_ensemble, learned_task
from offline_tf.pipeline import run as pipeline
from offline_tf.pipeline import tuning
from offline_tf.run_folder.record import RunRecord
from offline_tf.run_folder.stage import Stage
from offline_tf.types import UserError

SETTINGS = {
    "env": "mute_cart",
    "seed": 3,
    "threads": 1,
    "network": "mlp",
    "mlp_hidden": (16,),
    "batch_size": 16,
    "precision": "float32",
    "holdout_share": 0.1,
    "dynamics_members": 2,
    "dynamics_steps": 30,
    "behavior_members": 2,
    "behavior_steps": 30,
    "q_hidden": (8,),
    "q_steps": 30,
    "population": 6,
    "horizon": 2,
    "q_proposals": 2,
    "eval_episodes": 2,
    "judge_members": 2,
    "judge_hidden": (8,),
    "judge_steps": 30,
    "judge_starts": 3,
    "judge_plan_starts": 2,
    "judge_plan_steps": 4,
    "judge_promise_starts": 2,
}


_in_fresh_process = export_planner.saved_model.run_in_fresh_process


def _in_this_process(folder, given):
    if folder.suffix == ".tflite":
        return _in_fresh_process(folder, given)
    loaded = tf.saved_model.load(str(folder)).signatures
    return {
        name: {
            k: v.numpy()
            for k, v in loaded[name](**{k: tf.constant(v) for k, v in inputs.items()}).items()
        }
        for name, inputs in given.items()
    }


@pytest.fixture(scope="module", autouse=True)
def small():
    """One process, and few steps where no flag says how many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_planner.saved_model, "run_in_fresh_process", _in_this_process)
        patch.setattr(pipeline.compilation, "use_threads", lambda threads: 1)
        patch.setattr(training, "STEPS_PER_LOOK", 10)
        patch.setattr(learned_task, "_STEPS", 200)
        patch.setattr(learned_task, "_STEPS_PER_SAVE", 100)
        patch.setattr(share, "_FITTING", clones.Fitting(steps=20))
        yield


@pytest.fixture(scope="module")
def cart(tmp_path_factory):
    """Configurations by run folder."""
    tasks.register(toys.cart(name="mute_cart", reward=None))
    path = tmp_path_factory.mktemp("cart") / "cart.hdf5"
    d4rl.write(path, toys.transitions((30,) * 10), None, {})

    def configs(folder, **changes):
        values = SETTINGS | {"workdir": str(folder), "dataset": str(path)} | changes
        stages = []
        for stage in config.STAGES:
            names = [f.name for f in dataclasses.fields(stage)]
            stages.append(stage(**{name: values[name] for name in names if name in values}))
        return Configs(*stages)

    return configs


OF_JUDGEMENT = {
    "below_data",
    "above_best",
    "halted_share",
    "models_apart",
    "model_error",
    "below_clone",
}


@pytest.fixture(scope="module")
def judged(cart, tmp_path_factory):
    """A whole run; not to be changed."""
    configs = cart(tmp_path_factory.mktemp("judged") / "run")
    return configs, recipe.run(configs)


def rebuilt(configs, control=None):
    """The planner of a run, from its folder alone."""
    record = RunRecord.open_existing(recipe.folder_of(configs))
    assert from_manifest(record.manifest) == configs
    task = learned_task.of_run(tasks.get("mute_cart"), configs.run.seed, record)
    learned = restore.load(configs, task, record)
    return restore.make_planner(task, configs=configs, learned=learned, control=control)


def test_a_judged_run_promises_and_says_how_far_it_can_be_relied_on(judged):
    configs, found = judged
    record = RunRecord.open_existing(recipe.folder_of(configs))
    assert set(found["gains"]) == {"clone", "max_q", "no_max_q", "half_sigma", "paper_sigma"}
    assert (
        found["gains"][found["chosen"]] == max(found["gains"].values()) >= found["gains"]["clone"]
    )
    assert found["gains"]["clone"] == 0.0 and found["promise"] <= found["promise_expected"]
    # Whole episodes, not the four steps of the comparison.
    assert record.stage("promise").result["length"] > 4
    assert found["verdict"]["level"] in ("green", "doubtful", "bad")
    assert found["verdict"]["grounds"]["below_clone"]["level"] == "green"
    words = summary.in_words(found)
    assert f"promised             {found['promise']:10.1f} or more, by {found['chosen']}" in words
    assert f"the result {found['verdict_in_words']}" in words
    assert record.stage("share").result["share"] == 1.0
    assert found["stages"]["choice"] == 0.0 < found["stages"]["judged_max_q"]  # counted once
    assert "reward_error" in record.stage("outcome").result  # the judge's models predict no reward
    sigma = record.stage("sigma").result["sigma_max"]
    assert 0.0 < sigma <= 0.25
    changes = record.stage("choice").result["knobs"]
    assert rebuilt(configs).knobs.plan == changes["plan"]
    assert rebuilt(configs).knobs.sigma_max == changes.get("sigma_max", sigma)
    # Thirty steps leave the models without a notion of the reward; 200 were spent on it alone.
    whose = record.stage("planner_reward").result
    assert whose["chosen"] == "task" and whose["task_missed"] < whose["models_missed"]
    assert found["planner_reward"] == "task"
    assert rebuilt(configs).knobs.planner_reward == "task"


def test_whose_reward_can_be_changed_and_not_left_to_the_rule_again(judged):
    configs, _ = judged
    at = tf.constant([[0.1, 0.2]]), tf.constant([[0.3]])

    def rewards(*changes):
        return rebuilt(configs, control_config.ControlConfig(planner=changes)).forecast(*at).rewards

    assert (np.abs(rewards() - rewards("planner_reward=models")) > 1e-6).any()
    np.testing.assert_array_equal(rewards(), rewards("planner_reward=task"))
    with pytest.raises(UserError, match="expected planner_reward=models or task, got auto"):
        rewards("planner_reward=auto")
    never = config.PlannerConfig(planner_reward="task")
    with pytest.raises(UserError, match="expected planner_reward=models, got task"):
        restore._own_reward(toys.cart(reward=None), never, configs)


def test_a_run_older_than_the_choice_of_rewards_planned_with_its_models(judged, tmp_path):
    configs, _ = judged
    manifest = RunRecord.open_existing(recipe.folder_of(configs)).manifest
    flags = {k: v for k, v in manifest["flags"].items() if k != "planner_reward"}
    older = from_manifest(manifest | {"flags": flags})
    assert older.planner.planner_reward == "models"
    # Such a folder goes on with its models' reward alone.
    folder = tmp_path / "run"
    shutil.copytree(recipe.folder_of(configs), folder)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"flags": flags}))
    here = configs._replace(run=dataclasses.replace(configs.run, workdir=str(folder)))
    with pytest.raises(UserError, match="--planner_reward is 'models' there and 'auto' now"):
        recipe.run(here)
    models = dataclasses.replace(configs.planner, planner_reward="models")
    recipe.run(here._replace(planner=models))


def test_the_tasks_reward_is_refused_where_nobody_would_know_one(cart, tmp_path):
    configs = cart(tmp_path / "run", planner_reward="task", judge_members=0)
    with pytest.raises(UserError, match="--planner_reward: expected models, as mute_cart"):
        recipe.run(configs)
    mbop = cart(tmp_path / "run", planner_reward="task", algorithm="mbop")
    with pytest.raises(UserError, match="--planner_reward: MBOP pays by its dynamics models"):
        recipe.run(mbop)
    assert not (tmp_path / "run").exists()


def test_rows_that_neither_reward_was_fitted_to_say_which_is_better(cart, tmp_path):
    configs = cart(tmp_path / "run", holdout_share=0.4)
    experiment, prepared = recipe.begin(configs)
    outcome = learned_task.split_of(experiment.task, experiment.data, configs.run.seed)
    rows = prepared.reward_rows
    assert len(rows) and set(rows) <= set(prepared.split.held_out) & set(outcome.held_out)
    assert len(rows) < len(prepared.split.held_out)


@pytest.mark.slow
def test_a_judged_run_killed_in_its_choice_goes_on_and_ends_alike(
    judged, cart, tmp_path, monkeypatch
):
    _, expected = judged
    configs = cart(tmp_path / "run")
    finish = Stage.finish
    for dying in ("judge_models", "share", "judged_max_q", "choice", "promise"):

        def killed(self, result, seconds=None, dying=dying):
            if self.name == dying:
                raise toys.Killed
            return finish(self, result, seconds)

        monkeypatch.setattr(Stage, "finish", killed)
        with pytest.raises(toys.Killed):
            recipe.run(configs)
    monkeypatch.setattr(Stage, "finish", finish)
    found = recipe.run(configs)
    for name in ("gains", "chosen", "promise", "verdict", "uncertainty_limit", "expected_return"):
        assert found[name] == expected[name], name
    monkeypatch.setattr(gaussian_ensemble, "fit", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr(judge.Judge, "run", lambda *_: pytest.fail("judged again"))
    again = recipe.run(configs)
    assert again["gains"] == found["gains"]


@pytest.mark.slow
def test_other_settings_are_ranked_and_can_be_taken_over_by_a_flag(
    judged, cart, tmp_path, monkeypatch
):
    monkeypatch.setattr(choice, "MORE", (({"horizon": 1}, ""), ({"inverse_temperature": 9.0}, "")))
    configs, summary_before = judged
    folder = tmp_path / "moved"
    shutil.copytree(configs.run.workdir, folder)
    record = RunRecord.open_existing(folder)
    assert len(candidates.rank(record, 0.0)) == len(summary_before["gains"])
    assert (folder / "tune.json").exists() and (folder / "tune.flags").exists()
    found = candidates.rank(record, 60.0)
    (own,) = (c for c in found if c.is_own)
    assert own.flags == record.stage("choice").result["knobs"]
    assert [c.gain for c in found] == sorted((c.gain for c in found), reverse=True)
    of_run = summary_before["gains"]
    assert len(found) == len(of_run) + 2
    # Gains move with the usual spread of all candidates, promises do not.
    promised = {n["promise"] for n in record.stage("choice").result["candidates"].values()}
    assert of_run["clone"] == 0.0 and {c.promise for c in found} >= promised
    table = json.loads((folder / "tune.json").read_text())
    assert [row["flags"] for row in table] == [c.flags for c in found]
    taken_over = (folder / "tune.flags").read_text().split()
    assert taken_over == [tuning.flag_of(*item) for item in found[0].flags.items()]
    assert found[0].flags and tuning.name_of(found[0].flags) in candidates.in_words(found)
    monkeypatch.setattr(judge.Judge, "run", lambda *_: pytest.fail("judged again"))
    assert candidates.rank(record, 60.0) == found


@pytest.mark.parametrize("own", ["never", "always"])
def test_only_what_the_run_does_not_act_by_can_be_taken_over(own):
    found = [
        candidates.Candidate(
            {"plan": plan}, gain=gain, promise=5.0, expected=6.0, halt_share=0.0, is_own=plan == own
        )
        for plan, gain in (("never", 0.0), ("always", -1.0))
    ]
    told = candidates.in_words(found)
    assert (tuning.HOW_TO_TAKE_OVER in told) == (own == "always")
    assert ("by which the run acts already" in told) == (own == "never")
    for plan in ("never", "always"):
        (line,) = (line for line in told.split("\n") if line.startswith(f"--plan={plan} "))
        assert line.endswith("(the run acts by it)") == (plan == own)


def test_a_run_without_a_choice_cannot_be_tuned(tmp_path):
    record = RunRecord.create_or_continue(tmp_path, "mopp", {})
    with pytest.raises(UserError, match="^--workdir: expected a finished run of MOPP with a judge"):
        candidates.rank(record, 1.0)


@pytest.mark.slow
def test_the_clone_is_exported_served_and_looked_at_as_a_planner(judged, cart, tmp_path):
    configs = cart(tmp_path / "run", plan="never", models_from=judged[0].run.workdir)
    found = recipe.run(configs)
    assert found["chosen"] == "clone" and list(found["gains"]) == ["clone"]
    assert set(found["verdict"]["grounds"]) == OF_JUDGEMENT
    planner = rebuilt(configs)
    assert planner.knobs.plan == "never"
    states = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    plan = planner.initial_plan(tf.constant(states))
    loaded = tf.saved_model.load(str(tmp_path / "run" / "export")).signatures
    for seed in ([0, 1], [0, 2]):  # nothing is drawn
        action = loaded["plan"](observation=states, plan=plan, seed=tf.constant(seed))["action"]
        np.testing.assert_allclose(action, planner._models.behavior.clone()(states), rtol=1e-5)
    assert "plans nothing" in (tmp_path / "run" / "export" / "README.md").read_text()
    differences = export_planner.write_lite(planner, tmp_path / "run" / "export", states)
    assert differences["float32"] < 1e-4 and differences["noise"] == 0.0
    inspection.inspect_again(
        RunRecord.open_existing(tmp_path / "run"), InspectConfig(str(tmp_path / "run")), 1
    )
    # Another objective, or other knobs, are for a planner that plans.
    for changes, plan in (((), "never"), (("horizon=1",), "always"), (("plan=never",), "never")):
        control = control_config.ControlConfig(planner=changes)
        assert rebuilt(configs, control).knobs.plan == plan
    assert rebuilt(configs, control_config.ControlConfig(planner=("horizon=1",))).knobs.max_q


@pytest.mark.parametrize(
    ("given", "behavior_share", "expected"),
    [
        ("auto", 0.5, "behavior"),
        ("auto", 1.0, "data"),
        ("data", 0.5, "data"),
        ("behavior", 1.0, "behavior"),
    ],
)
def test_q_is_that_of_the_behaviour_that_was_fitted(
    tmp_path, monkeypatch, given, behavior_share, expected
):
    seen: list[Any] = []
    followed = []

    def fit_q(*_, **given):
        seen.append(given["config"].fqe_actions)
        followed.append(given["followed"])
        return {}

    for part in (algorithm.dynamics, algorithm.behavior):
        monkeypatch.setattr(part, "fit", lambda *_, split, **__: seen.append(split) or {})
    monkeypatch.setattr(algorithm.fitted_q, "fit", fit_q)
    task, data = toys.cart(), toys.transitions((30,) * 10)
    knobs = algorithm.Knobs(
        config.ModelConfig(network="mlp", mlp_hidden=(4,), holdout_share=0.1),
        config.DynamicsConfig(),
        config.BehaviorConfig(behavior_share=behavior_share),
        config.QConfig(q_hidden=(4,), fqe_actions=given),
        config.PlannerConfig(),
    )
    record = toys.record(tmp_path)
    prepared = algorithm.prepare(task, data=data, knobs=knobs, seed=0, record=record)
    learned = algorithm.learn(task, prepared=prepared, knobs=knobs, seed=0, record=record)
    of_dynamics, of_behavior, kind = seen
    assert kind == expected
    np.testing.assert_array_equal(of_dynamics.train, prepared.split.train)
    assert (len(of_behavior.train) < len(of_dynamics.train)) == (behavior_share < 1.0)
    # Targets of several steps go through the cloned episodes alone, held-out ones included.
    if behavior_share < 1.0:
        of_episodes = followed[0].reshape(10, 30)
        assert of_episodes.all(axis=1).sum() == 5 and of_episodes.any(axis=1).sum() == 5
        assert followed[0][of_behavior.train].all()
    else:
        assert followed == [None]
    assert learned.planner.plan == "always"
    sigma = json.loads((tmp_path / "stages" / "sigma.json").read_text())["result"]["sigma_max"]
    assert learned.planner.sigma_max == sigma


@pytest.mark.slow
def test_a_dry_run_knows_what_the_judge_takes(cart, tmp_path):
    judged, plain = (
        "\n".join(dry_run.plan(*cart(tmp_path / "run", judge_members=count))) for count in (2, 0)
    )
    assert "judge_models" in judged and "choice" in judged
    assert "judge_models" not in plain and "choice" not in plain
    assert "other settings" not in judged
    lines = dry_run.plan(*cart(tmp_path / "run", select="offline", select_minutes=7.0))
    assert lines[-1] == "then other settings on the same models, for up to 7 minutes"


def test_a_verdict_names_what_speaks_against_the_choice():
    data = verdict.DataReturns.of([50.0] * 9 + [100.0])  # mean 55, best tenth 100
    good = {"promise": 90.0, "expected": 100.0, "models_apart": 10.0, "halted_share": 0.0}
    good |= {"kept_share": 1.0, "fallback": 1.0}  # of the clone's own path: no ground
    found = summary.grounds("clone", good, data, 0.0, 0.05)
    assert {g.name for g in found} == OF_JUDGEMENT and {g.level for g in found} == {"green"}
    planner = good | {
        "models_apart": 80.0,
        "halted_share": 0.95,
        "kept_share": 0.4,
        "fallback": 0.2,
    }
    found = summary.grounds("planner", planner, data, 9.0, 0.05)
    values = {g.name: (pytest.approx(g.value), g.level) for g in found if g.level != "green"}
    assert values == {
        "below_clone": (0.2, "doubtful"),
        "models_apart": (0.8, "doubtful"),
        "halted_share": (0.95, "bad"),
        "pruned_share": (0.6, "doubtful"),
    }
    assert {g.name for g in found} == OF_JUDGEMENT | {"pruned_share", "fallback"}
