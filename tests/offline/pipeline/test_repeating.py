"""The command that makes a run again."""

import dataclasses
import types

from mopp_tf import config as mopp_config
from morel_tf import config as morel_config
from offline_tf.config import knobs
from offline_tf.config.knobs import knob
from offline_tf.pipeline import repeating


def record(module, **flags):
    return types.SimpleNamespace(manifest={"module": module, "flags": flags}, folder="RUN")


def test_what_is_other_in_older_runs_is_what_differs_from_the_default():
    @dataclasses.dataclass(frozen=True)
    class Toy:
        same: int = knob(3, "As ever.")
        changed: str = knob("new", "As of late.", older="old")

    assert knobs.of_older_runs([Toy]) == {"same": 3, "changed": "old"}
    assert knobs.other_in_older_runs([Toy]) == {"changed": "old"}
    assert knobs.other_in_older_runs([Toy()]) == {"changed": "old"}


def test_a_run_older_than_a_flag_is_made_again_as_it_was(tmp_path):
    words = repeating.command_of(record("morel_tf.train", env="hopper"), tmp_path, None)
    assert words[:2] == ["-m", "morel_tf.train"] and "--env=hopper" in words
    assert {"--judge_keeps=promise", "--bc_restarts=0"} <= set(words)
    assert set(words[2:]) == {
        "--env=hopper",
        f"--workdir={tmp_path}",
        *(f"--{k}={v}" for k, v in knobs.other_in_older_runs(morel_config.STAGES).items()),
    }
    words = repeating.command_of(record("mopp_tf.train"), tmp_path, 1)
    assert {"--planner_reward=models", "--threads=1"} <= set(words)
    assert knobs.other_in_older_runs(mopp_config.STAGES)["planner_reward"] == "models"


def test_flags_of_the_run_stand(tmp_path):
    made = record("morel_tf.train", judge_keeps="gain", bc_restarts=1)
    words = repeating.command_of(made, tmp_path, None)
    assert {"--judge_keeps=gain", "--bc_restarts=1"} <= set(words)
    assert "--judge_keeps=promise" not in words


def test_other_commands_have_flags_of_their_own(tmp_path):
    words = repeating.command_of(record("morel_tf.train_behavior", env="ant"), tmp_path, None)
    assert words == ["-m", "morel_tf.train_behavior", "--env=ant", f"--workdir={tmp_path}"]
