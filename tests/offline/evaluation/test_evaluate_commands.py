"""`evaluate` of both algorithms, on run folders as version 0.1.0 wrote them."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from mopp_tf import control_config
from mopp_tf import evaluate as of_mopp
from morel_tf import evaluate as of_morel
from offline_tf import tasks
from offline_tf.models import compilation
from offline_tf.types import UserError

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COMMANDS = {
    "morel": (of_morel, of_morel.EvaluateConfig, ()),
    "mopp": (of_mopp, of_mopp.EvaluateConfig, (control_config.ControlConfig(),)),
}


@pytest.fixture(params=COMMANDS)
def command(request, tmp_path, monkeypatch):
    """The run's folder, and functions of the flags: the evaluation and its dry run."""
    folder = shutil.copytree(GOLDEN / f"run_{request.param}", tmp_path / "run")
    monkeypatch.setattr(compilation, "use_threads", lambda threads: 1)
    module, kind, more = COMMANDS[request.param]
    calls = [
        lambda call=call, **flags: call(kind(workdir=str(folder), **flags), *more)
        for call in (module.main, module.plan)
    ]
    return folder, *calls


def give(folder, **flags):
    """Changes flags of a run."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["flags"] |= flags
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_dry_run_refuses_a_task_without_a_simulator_as_the_evaluation_does(command, monkeypatch):
    folder, *calls = command
    mute = dataclasses.replace(tasks.get("hopper"), name="mute_hopper", simulation=None)
    monkeypatch.setitem(tasks._registered, "mute_hopper", mute)
    give(folder, env="mute_hopper")
    for call in calls:
        with pytest.raises(UserError, match="^--env=mute_hopper: this task declares no simulator"):
            call()


def test_a_dry_run_looks_at_the_simulator_as_the_evaluation_does(command):
    _, *calls = command
    for call in calls:
        with pytest.raises(UserError, match="^--simulator=mujoco_py has .* --physics=v2 only"):
            call(simulator="mujoco_py", physics="v4")


def test_a_dry_run_wants_to_write_where_the_evaluation_does(command, monkeypatch):
    folder, *calls = command
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for call in calls:
        with pytest.raises(UserError, match="^--workdir: .*evaluation.json cannot be written"):
            call()


def test_a_dry_run_refuses_mbop_in_litert_as_the_evaluation_does(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "use_threads", lambda threads: 1)
    folder = shutil.copytree(GOLDEN / "run_mopp", tmp_path / "run")
    give(folder, algorithm="mbop")
    asked = of_mopp.EvaluateConfig(workdir=str(folder), engine="litert")
    for call in (of_mopp.main, of_mopp.plan):
        with pytest.raises(UserError, match="^LiteRT: expected a run of MOPP, got one of MBOP"):
            call(asked, control_config.ControlConfig())


def test_a_dry_run_that_is_not_refused_says_what_would_be_done(command):
    folder, _, plan = command
    before = sorted(folder.rglob("*"))
    assert plan(episodes=3, physics="v4")[0].startswith("3 episodes")
    assert sorted(folder.rglob("*")) == before
