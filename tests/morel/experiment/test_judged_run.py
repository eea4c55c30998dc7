"""A run with a judge on the cart: from a file to promise and verdict, and other settings for it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf import config
from morel_tf.experiment import (
    candidates,
    dry_run,
    evaluation,
    export_controller,
    recipe,
    restore,
    selection,
)
from morel_tf.experiment import data as experiment_data
from morel_tf.experiment.configs import Configs, from_manifest
from morel_tf.planning import npg_planner
from offline_tf import tasks
from offline_tf.config import knobs
from offline_tf.datasets.formats import d4rl
from offline_tf.judging import judge
from offline_tf.pipeline import run as pipeline
from offline_tf.pipeline import tuning
from offline_tf.pipeline.run import FREE_FLAGS
from offline_tf.policies import fitted_value
from offline_tf.run_folder.files import write_json
from offline_tf.run_folder.record import RunRecord, plain
from offline_tf.types import UserError

SETTINGS = {
    "env": "cart",
    "seed": 3,
    "eval_every": 2,
    "final_episodes": 2,
    "threads": 1,
    "inspection": False,
    "ensemble_size": 2,
    "dynamics_hidden": (32, 32),
    "dynamics_epochs": 2,
    "precision": "float32",
    "paths_per_member": 6,
    "cg_iterations": 5,
    "baseline_hidden": (16, 16),
    "judge_members": 2,
    "judge_hidden": (16,),
    "judge_steps": 200,
    "judge_starts": 3,
    "judge_every": 2,
    "judge_patience": 2,
    "judge_halvings": 0,
    "iterations": 6,
    "bc_epochs": 0,
    "bc_steps": 200,
}


STAGES = ("judge", "planning")  # that `tune` reads


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(export_controller.saved_model, "run_in_fresh_process", in_this_process)
    monkeypatch.setattr(pipeline.compilation, "use_threads", lambda threads: 1)
    monkeypatch.setattr(fitted_value, "_STEPS", 20)
    monkeypatch.setattr(npg_planner, "WIDTHS", ((8, 8), (16, 16)))
    monkeypatch.setitem(tasks._registered, "cart", toys.cart(reference_returns=None))


@pytest.fixture
def file(tmp_path):
    d4rl.write(tmp_path / "cart.hdf5", toys.transitions((50,) * 30))
    return tmp_path / "cart.hdf5"


def in_this_process(folder, given):
    loaded = tf.saved_model.load(str(folder)).signatures
    found = {}
    for name, inputs in given.items():
        outputs = loaded[name](**{k: tf.constant(v) for k, v in inputs.items()})
        found[name] = {k: v.numpy() for k, v in outputs.items()}
    return found


def configs(folder, file, **changes):
    values = SETTINGS | {"workdir": str(folder), "dataset": str(file)} | changes
    names = [[field.name for field in dataclasses.fields(stage)] for stage in config.STAGES]
    return Configs(
        *(
            stage(**{name: values[name] for name in own if name in values})
            for stage, own in zip(config.STAGES, names, strict=True)
        )
    )


def selected(*stages):
    """`--select=offline`, which must not come to training."""
    return selection.run(Configs(*stages), lambda _: pytest.fail("trained"))


def dying_at_the_data(asked):
    """A run that opens its folder, and is killed."""
    defaults = knobs.of_older_runs(asked)
    folder = pathlib.Path(asked.run.workdir)
    RunRecord.create_or_continue(folder, "morel", asked.flat(), FREE_FLAGS, defaults)
    raise toys.Killed


def test_a_run_ends_with_a_promise_and_a_verdict(tmp_path, file):
    run = configs(tmp_path / "run", file)
    summary = recipe.run(run)
    record = RunRecord.open_existing(tmp_path / "run")
    log = np.genfromtxt(record.folder / "metrics" / "planning.judge.csv", delimiter=",", names=True)
    of_kept = log["best_promise"][-1] if summary["kept_iteration"] else log["promise"][0]
    assert summary["promise"] == pytest.approx(of_kept, rel=1e-6)
    assert summary["kept_iteration"] in log["step"]
    assert summary["iterations"] == log["step"][-1]
    assert summary["verdict"]["level"] in ("green", "doubtful", "bad")
    assert set(summary["verdict"]["grounds"]) == {
        "below_data",
        "above_best",
        "halted_share",
        "models_apart",
        "model_error",
    }
    assert summary["verdict_in_words"]
    # What is deployed is what was promised.
    policy = restore.load_policy(run, record).numpy()
    assert tuple(summary["policy_hidden"]) == policy.hidden
    assert policy.hidden in npg_planner.WIDTHS
    data = d4rl.read(file, 2)
    found = judge.fit_or_load(
        tasks.get("cart"), physics="v2", data=data, config=run.judge, seed=3, record=record
    )
    judged = found.policy(policy)
    assert judged.expected == pytest.approx(summary["expected_return"], rel=1e-5)
    assert judged.promise >= summary["promise"] - 1e-3  # at most its own spread, at least the usual
    assert recipe.run(run)["promise"] == summary["promise"]


def test_a_run_killed_while_planning_goes_on_with_what_the_judge_had_kept(
    tmp_path, file, monkeypatch
):
    monkeypatch.setattr(npg_planner, "_SAVE_EVERY", 1)
    flags = {"judge_patience": 100}
    unbroken = recipe.run(configs(tmp_path / "unbroken", file, **flags))
    broken = configs(tmp_path / "broken", file, **flags)
    update = npg_planner.policy_update.update
    with monkeypatch.context() as patch:
        patch.setattr(npg_planner.policy_update, "update", toys.dying(update, 4))
        with pytest.raises(toys.Killed):
            recipe.run(broken)
    again = recipe.run(broken)
    assert again["kept_iteration"] == unbroken["kept_iteration"]
    assert again["promise"] == pytest.approx(unbroken["promise"], rel=1e-3)


def test_promises_are_compared_with_true_returns_along_planning(tmp_path):
    record, folder = toys.record(tmp_path), tmp_path / "metrics"
    assert evaluation.promise_correlation(record) == {}
    folder.mkdir()
    (folder / "planning.judge.csv").write_text("step,promise\n0,5\n10,1\n20,7\n30,3\n40,9\n")
    head, rows = "step,true_return_mean\n", ["5,50\n", "15,10\n", "20,70\n", "39,30\n"]
    (folder / "planning.evaluation.csv").write_text(head + "".join(rows[:3]))
    assert evaluation.promise_correlation(record) == {}
    (folder / "planning.evaluation.csv").write_text(head + "".join(rows))
    found = evaluation.promise_correlation(record)
    assert found == {"promise_rank_correlation": pytest.approx(1.0)}


@pytest.mark.slow
def test_without_progress_planning_ends_early(tmp_path, file):
    still = {"kl_per_update": 0.0, "iterations": 50}
    summary = recipe.run(configs(tmp_path / "run", file, **still))
    # The first planned policy, of update 2, is the best so far; patience runs from it.
    assert summary["iterations"] == 4 and summary["kept_iteration"] == 0
    summary = recipe.run(configs(tmp_path / "other", file, **still, judge_keeps="promise"))
    assert summary["iterations"] == 2 and summary["kept_iteration"] == 0


@pytest.mark.slow
def test_other_settings_are_ranked_on_the_same_models(tmp_path, file, monkeypatch):
    few = [({"kl_per_update": 0.005}, "smaller steps"), ({"init_log_std": -1.0}, "wider")]
    monkeypatch.setattr(candidates, "settings_of", lambda *_: few)
    recipe.run(configs(tmp_path / "run", file))
    record = RunRecord.open_existing(tmp_path / "run")
    ran = []

    def run(changed):
        ran.append(changed.run.workdir)
        assert changed.run.dynamics_from == str(record.folder)
        return recipe.run(changed)

    found = candidates.rank(record, 60.0, run)
    assert len(ran) == 2 and {len(c.flags) for c in found} == {0, 1}
    assert [c.promise for c in found] == sorted((c.promise for c in found), reverse=True)
    table = json.loads((record.folder / "tune.json").read_text())
    assert [row["flags"] for row in table] == [c.flags for c in found]
    first, other = (
        RunRecord.open_existing(pathlib.Path(folder)).stage("judge").result["threshold"]
        for folder in (record.folder, found[-1].folder)
    )
    assert first == other
    assert candidates.rank(record, 60.0, run) == found and len(ran) == 2  # read, not run again
    assert found[0].name in candidates.in_words(found)


@pytest.mark.slow
def test_the_settings_that_the_judge_promises_most_of_become_the_run(tmp_path, file, monkeypatch):
    few = [({"kl_per_update": 0.005}, "smaller steps"), ({"init_log_std": -1.0}, "wider")]
    monkeypatch.setattr(candidates, "settings_of", lambda *_: few)
    asked = configs(tmp_path / "run", file, select="offline", inspection=True)
    summary = selection.run(asked, recipe.run)
    folder = tmp_path / "run"
    told = json.loads((folder / "selection.json").read_text())
    assert summary["promise"] == max(row["promise"] for row in told["candidates"])
    assert len(told["candidates"]) == 3 and told["candidates"][0]["flags"] == told["chosen"]
    # The folder is a run like any other.
    record = RunRecord.open_existing(folder)
    kept = from_manifest(record.manifest)
    assert {k: kept.flat()[k] for k in told["chosen"]} == told["chosen"]
    assert kept.run.workdir == str(folder) and summary["export"] == str(folder / "export")
    assert kept.run.inspection and "inspection" in summary["stages"]
    assert list((folder / "inspection").glob("*.png"))
    restore.load_controller(record)
    recipe.run(kept)  # complete: nothing is trained
    # Asked again, it is read; with other flags it is refused.
    fails = lambda _: pytest.fail("trained again")  # noqa: E731
    assert selection.run(asked, fails)["promise"] == summary["promise"]
    with pytest.raises(UserError, match="holds a selection with other flags .seed."):
        selection.run(configs(folder, file, select="offline", seed=9), fails)


def test_a_selection_older_than_a_flag_is_read_with_what_it_did(tmp_path, file):
    asked = configs(tmp_path / "run", file, select="offline", judge_keeps="promise", bc_restarts=0)
    flags = {k: v for k, v in asked.flat().items() if k not in FREE_FLAGS}
    younger = {"judge_keeps", "bc_restarts"}
    told = {k: plain(v) for k, v in flags.items() if k not in younger}
    write_json(tmp_path / "run" / selection.NAME, {"asked": told})
    write_json(tmp_path / "run" / "summary.json", {"promise": 3.0})
    fails = lambda _: pytest.fail("trained")  # noqa: E731
    assert selection.run(asked, fails) == {"promise": 3.0}
    today = configs(tmp_path / "run", file, select="offline", bc_restarts=0)
    with pytest.raises(UserError, match="holds a selection with other flags .judge_keeps."):
        selection.run(today, fails)


def test_a_selection_needs_a_judge_and_a_folder_of_its_own(tmp_path, file):
    fails = lambda _: pytest.fail("trained")  # noqa: E731
    with pytest.raises(UserError, match="^--select: expected a judge"):
        selection.run(configs(tmp_path / "run", file, select="offline", judge_members=0), fails)
    toys.record(tmp_path / "run")
    with pytest.raises(UserError, match="holds a run without --select"):
        selection.run(configs(tmp_path / "run", file, select="offline"), fails)


@pytest.mark.parametrize("call", [selected, dry_run.plan], ids=["run", "dry run"])
@pytest.mark.parametrize("named", ["summary.json", "candidates/mary.txt", "stages/data.json"])
def test_a_selection_leaves_a_folder_with_other_files_alone(tmp_path, file, call, named):
    kept = tmp_path / "run" / named
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    asked = configs(tmp_path / "run", file, select="offline")
    with pytest.raises(UserError, match="^--workdir: expected a new folder .* holds other files"):
        call(*asked)
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [kept]
    assert kept.read_text() == "mine"


def test_a_selection_that_is_none_is_named(tmp_path, file):
    write_json(tmp_path / "run" / selection.NAME, {"winner": "Mary"})
    asked = configs(tmp_path / "run", file, select="offline")
    with pytest.raises(UserError, match="expected a selection at .*selection.json, got another"):
        selected(*asked)


def test_a_killed_selection_goes_on_with_the_same_flags_alone(tmp_path, file):
    asked = configs(tmp_path / "run", file, select="offline")
    with pytest.raises(toys.Killed):
        selection.run(asked, dying_at_the_data)
    assert selection.check(asked) == tmp_path / "run" / "candidates" / "as-given"
    with pytest.raises(UserError, match="--seed is 3 there and 9 now"):
        selection.check(configs(tmp_path / "run", file, select="offline", seed=9))


class Pretended:
    """Runs that promise what their KL per update is; `stops` names a stage where one is killed."""

    def __init__(self):
        self.began, self.stops = [], ""

    def __call__(self, asked):
        folder = pathlib.Path(asked.run.workdir)
        flags, defaults = asked.flat(), knobs.of_older_runs(asked)
        record = RunRecord.create_or_continue(folder, "morel", flags, FREE_FLAGS, defaults)
        result = {"promise": asked.planner.kl_per_update, "expected": 1.0, "halted_share": 0.0}
        stages = ["judge", "planning", *(["inspection"] if asked.run.inspection else [])]
        for name in stages:
            if not record.stage(name).complete:
                self.began.append((folder.name, name))
                if name == self.stops:
                    raise toys.Killed
                record.stage(name).finish(result)
        write_json(folder / "export" / "manifest.json", record.manifest)
        write_json(folder / "summary.json", {"verdict": {"level": "green"}, **result})
        return {"stages": list(record.results())}


@pytest.mark.parametrize("inspection", [True, False])
def test_what_is_selected_is_inspected_once_where_that_is_asked_for(
    tmp_path, file, monkeypatch, caplog, inspection
):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(candidates, "settings_of", lambda *_: [({"kl_per_update": 0.5}, "")])
    folder, run = tmp_path / "run", Pretended()
    asked = configs(folder, file, select="offline", inspection=inspection)
    run.stops = "inspection"
    if inspection:
        with pytest.raises(toys.Killed):
            selection.run(asked, run)
    run.stops = ""
    for _ in range(2):
        selection.run(asked, run)
    planned = [(name, stage) for name in ("as-given", "kl_per_update=0.5") for stage in STAGES]
    # Killed in its inspection, the run goes on there; nothing is chosen again.
    assert run.began == planned + 2 * inspection * [("run", "inspection")]
    record = RunRecord.open_existing(folder)
    assert (
        record.stage("inspection").complete is inspection is record.manifest["flags"]["inspection"]
    )
    told = json.loads((folder / selection.NAME).read_text())
    assert told["chosen"] == {"kl_per_update": 0.5}
    assert "selected: --kl_per_update=0.5" in caplog.text
    assert "take it over" not in caplog.text  # it is


def test_a_selection_killed_while_its_run_is_handed_over_hands_over_the_same(
    tmp_path, file, monkeypatch
):
    monkeypatch.setattr(candidates, "settings_of", lambda *_: [({"kl_per_update": 0.5}, "")])
    asked, run = configs(tmp_path / "run", file, select="offline"), Pretended()
    with monkeypatch.context() as patch:
        patch.setattr(selection.shutil, "copytree", toys.dying(selection.shutil.copytree, 1))
        with pytest.raises(toys.Killed):
            selection.run(asked, run)
    monkeypatch.setattr(candidates, "rank", lambda *_: pytest.fail("ranked again"))
    assert selection.run(asked, run)["promise"] == 0.5
    kept = from_manifest(RunRecord.open_existing(tmp_path / "run").manifest)
    assert kept.planner.kl_per_update == 0.5 and kept.run.workdir == str(tmp_path / "run")


OWN = candidates.Own(
    kl_per_update=0.015,
    cut_share=0.1,
    bc_share=0.5,
    start_mix=0.0,
    init_log_std=np.array([-2.0, -1.5]),
    least_log_std=-3.0,
    max_log_std=1.0,
)
ALL = {
    "--kl_per_update=0.005",
    "--cut_share=0.3",
    "--cut_share=0.02",
    "--bc_share=0.1",
    "--bc_share=1.0",
    "--init_log_std=-1.06",  # the mean and log 2
    "--start_mix=0.5",
}


@pytest.mark.parametrize(
    ("own", "without", "besides"),
    [
        ({}, (), ()),
        ({"cut_share": None}, ("cut_share=0.3", "cut_share=0.02"), ()),  # another rule's threshold
        ({"cut_share": 0.4}, ("cut_share=0.3",), ()),
        ({"cut_share": 0.01}, ("cut_share=0.02",), ()),
        ({"kl_per_update": 0.001}, ("kl_per_update=0.005",), ()),
        ({"bc_share": 1.0}, ("bc_share=1.0",), ()),
        ({"bc_share": 0.1}, ("bc_share=0.1",), ()),
        ({"start_mix": 1.0}, ("start_mix=0.5",), ()),  # a plant's log
        ({"init_log_std": np.array([-0.25])}, ("init_log_std=-1.06",), ("init_log_std=0.44",)),
        ({"init_log_std": np.array([0.8])}, ("init_log_std=-1.06",), ("init_log_std=1.0",)),
        ({"init_log_std": np.array([1.0])}, ("init_log_std=-1.06",), ()),
        ({"init_log_std": np.array([-5.0])}, ("init_log_std=-1.06",), ("init_log_std=-3.0",)),
        ({"init_log_std": np.array([-4.0, -1.0])}, ("init_log_std=-1.06",), ()),
    ],
)
def test_candidates_plan_otherwise_than_the_run_did(own, without, besides):
    found = {tuning.name_of(flags) for flags, _ in candidates.others(OWN._replace(**own))}
    assert found == ALL - {f"--{name}" for name in without} | {f"--{name}" for name in besides}


def test_what_a_run_was_planned_with_is_read_from_its_folder(tmp_path):
    golden = pathlib.Path(__file__).parents[2] / "golden" / "run_morel"
    record = RunRecord.open_existing(shutil.copytree(golden, tmp_path / "run"))
    flags = from_manifest(record.manifest)
    own = candidates.own_of(record, flags)
    assert (own.bc_share, own.start_mix, own.cut_share) == (1.0, 0.0, None)  # of the beta rule
    assert own.kl_per_update == flags.planner.kl_per_update
    np.testing.assert_allclose(own.init_log_std, 3 * [flags.planner.init_log_std], atol=1e-6)
    assert flags.usad.threshold_rule == "beta"


def test_the_table_is_there_where_no_candidate_is_begun(tmp_path, file, monkeypatch):
    monkeypatch.setattr(candidates, "settings_of", lambda *_: [({"kl_per_update": 0.5}, "")])
    run = Pretended()
    run(configs(tmp_path / "run", file))
    record = RunRecord.open_existing(tmp_path / "run")
    found = candidates.rank(record, 0.0, run)
    table = json.loads((record.folder / "tune.json").read_text())
    assert [row["flags"] for row in table] == [c.flags for c in found] == [{}]
    assert (record.folder / "tune.flags").read_text() == ""


@pytest.mark.parametrize("min_log_std", [None, -0.5])
def test_flags_that_would_be_refused_are_left_out_before_anything_is_planned(
    tmp_path, file, monkeypatch, caplog, min_log_std
):
    few = [({"kl_per_update": 0.5}, ""), ({"init_log_std": -1.0}, "")]
    monkeypatch.setattr(candidates, "settings_of", lambda *_: few)
    asked, run = configs(tmp_path / "run", file, min_log_std=min_log_std), Pretended()
    run(asked)
    caplog.set_level("INFO", logger="absl")
    found = candidates.rank(RunRecord.open_existing(tmp_path / "run"), 60.0, run)
    allowed = few if min_log_std is None else few[:1]
    assert sorted(c.name for c in found if c.flags) == sorted(
        tuning.name_of(flags) for flags, _ in allowed
    )
    told = "--init_log_std=-1.0 is left out: --init_log_std: expected a number between"
    assert (told in caplog.text) == (min_log_std is not None)


def test_a_run_without_a_judge_cannot_be_tuned(tmp_path, file):
    recipe.run(configs(tmp_path / "run", file, judge_members=0, iterations=1))
    record = RunRecord.open_existing(tmp_path / "run")
    with pytest.raises(UserError, match="^--workdir: expected a finished run with a judge"):
        candidates.rank(record, 1.0, recipe.run)


@pytest.mark.slow
def test_the_judges_knobs_decide_whether_it_is_taken_over(tmp_path, file):
    run = configs(tmp_path / "run", file, iterations=1)
    recipe.run(run)
    other = RunRecord.open_existing(tmp_path / "run")
    assert judge._has_judge(other, run.judge)
    assert not judge._has_judge(other, dataclasses.replace(run.judge, judge_steps=100))


@pytest.mark.parametrize(
    ("scale", "changes", "says"),
    [
        (1.0, {}, ""),
        (1e6, {}, "HALT costs 50 below the least reward"),
        (1e-6, {}, "give --halt_offset="),
        (1e6, {"halt": "truncate"}, ""),
        (1e6, {"threshold_rule": "none"}, ""),
        (0.0, {}, ""),
    ],
)
def test_a_halt_that_does_not_suit_the_rewards_is_told(tmp_path, scale, changes, says):
    data = toys.transitions((50,) * 4)
    scaled = dataclasses.replace(data, rewards=(scale * data.rewards).astype(np.float32))
    words = experiment_data.halt_out_of_scale(configs(tmp_path, "x", **changes), scaled)
    assert says in words and bool(words) == bool(says)
    if words:
        offset = float(words.partition("--halt_offset=")[2].partition(",")[0])
        assert offset == pytest.approx(50 * scaled.rewards.std(), rel=0.05)
        again = configs(tmp_path, "x", **changes, halt_offset=offset)
        assert not experiment_data.halt_out_of_scale(again, scaled)
