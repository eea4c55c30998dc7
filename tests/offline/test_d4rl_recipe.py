"""From a training's files to D4RL's sets: which checkpoints are picked, and what is written."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
import toys

from benchmarks import published
from benchmarks.d4rl_recipe import __main__ as command
from benchmarks.d4rl_recipe import checkpoints, making
from benchmarks.d4rl_recipe.checkpoints import Worth
from benchmarks.fuzz import replay_buffers, torch_files
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.simulated import collection
from offline_tf.policies import foreign, gaussian
from offline_tf.types import UserError

HOPPER = tasks.get("hopper")
S, A = HOPPER.state_dim, HOPPER.action_dim
STEPS = (20, 40, 60)


def weights(seed):
    draw = np.random.default_rng(seed).normal
    names = {"actor.latent_pi.0": (S, 8), "actor.mu": (8, A), "actor.log_std": (8, A)}
    found = {}
    for name, (inputs, outputs) in names.items():
        found[f"{name}.weight"] = 0.3 * draw(size=(outputs, inputs))
        found[f"{name}.bias"] = np.zeros(outputs)
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a training of 60 steps leaves, stopped after 30 of them and gone on with."""
    monkeypatch.setattr(gaussian, "shipped", lambda name: tmp_path / "policies" / f"{name}.npz")
    folder = tmp_path / "training"
    for steps in STEPS:
        path = torch_files.write_sb3(folder / f"SAC-Hopper-v4-v2-{steps}-seed0.zip", weights(steps))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("system_info.txt", "- Python: 3.11\n- Stable-Baselines3: 2.9\n")
    data = collection.collect(
        HOPPER, physics="v2", policy=None, exploration="random", num_steps=60, seed=0, threads=1
    ).transitions
    before = data.next_observations.copy()
    assert not data.terminals[29]
    before[29] += 1.0
    data = dataclasses.replace(data, next_observations=before)
    buffer = folder / "SAC-Hopper-v4-v2-buffer-seed0.pkl"
    replay_buffers.write(buffer, data, size=100, limits=data.timeouts)
    buffer.with_suffix(".json").write_text(json.dumps({"steps": 60}))
    return folder


def words(folder, *more):
    where = f"--training={folder}", f"--data_dir={folder.parent / 'data'}"
    return ["hopper", *where, "--episodes=2", "--steps=200", "--threads=1", *more]


def worths(*means):
    return [Worth(10 * (i + 1), mean, 1.0, 0.0, 20, str(i)) for i, mean in enumerate(means)]


@pytest.mark.parametrize(
    ("means", "steps"),
    [((0.0, 93.0, 101.0, 200.0), 20), ((95.0, 0.0, 101.0), 10), ((110.0,), 10)],
)
def test_medium_is_the_first_checkpoint_that_earns_the_target(means, steps):
    pick = checkpoints.medium(worths(*means), 100.0, 0.1)
    assert pick.worth.steps == steps and pick.matches and pick.target == 100.0


def test_a_training_that_is_not_there_yet_has_no_medium_checkpoint():
    with pytest.raises(UserError, match="earns 100 within 10%.* nearest earns 89 after 20 steps"):
        checkpoints.medium(worths(3.0, 89.0, 40.0), 100.0)


def test_expert_is_the_last_checkpoint_where_none_matches():
    matching = checkpoints.expert(worths(1.0, 95.0, 60.0), 100.0)
    assert matching.worth.steps == 20 and matching.matches
    other = checkpoints.expert(worths(1.0, 80.0, 60.0), 100.0)
    assert other.worth.steps == 30 and not other.matches


def test_a_trainings_files_are_found_in_order(folder):
    found = checkpoints.find(folder, "hopper", 0)
    assert list(found.checkpoints) == list(STEPS) and (found.steps, found.every) == (60, 20)
    assert found.checkpoints[40].name == "SAC-Hopper-v4-v2-40-seed0.zip"
    with pytest.raises(UserError, match="SAC-Hopper-v4-v2-STEPS-seed1.zip .* found none"):
        checkpoints.find(folder, "hopper", 1)
    with pytest.raises(UserError, match="SAC-Walker2d-v4-v2-STEPS-seed0.zip"):
        checkpoints.find(folder, "walker2d", 0)
    found.buffer.unlink()
    with pytest.raises(UserError, match="buffer-seed0.pkl, found none; train with --keep-buffer"):
        checkpoints.find(folder, "hopper", 0)


def test_a_checkpoint_is_run_once_and_again_where_its_file_changed(folder):
    training = checkpoints.find(folder, "hopper", 0)
    told = []
    first = checkpoints.judge(training, HOPPER, episodes=2, tell=told.append)
    assert told == first and [one.steps for one in first] == list(STEPS)
    policy = foreign.read_sb3(training.checkpoints[40], HOPPER)
    drawn, mean = (checkpoints.earned(policy, HOPPER, draws, 2) for draws in (True, False))
    assert (first[1].mean, first[1].std) == (drawn.mean(), drawn.std(ddof=1))
    assert first[1].mean_of_mean_actions == mean.mean() != drawn.mean()
    again = checkpoints.judge(training, HOPPER, known=first, episodes=2, tell=told.append)
    assert again == first and len(told) == 3
    torch_files.write_sb3(training.checkpoints[40], weights(7))
    checkpoints.judge(training, HOPPER, known=first, episodes=2, tell=told.append)
    assert [one.steps for one in told[3:]] == [40]
    checkpoints.judge(training, HOPPER, known=first, episodes=3, tell=told.append)
    assert len(told) == 7


def test_drawn_and_mean_actions_are_told_apart(folder):
    policy = foreign.read_sb3(checkpoints.find(folder, "hopper", 0).checkpoints[20], HOPPER)
    drawn, mean, other = (
        checkpoints.earned(policy, HOPPER, stochastic, 3, seed=seed)
        for stochastic, seed in ((True, 0), (False, 0), (True, 1))
    )
    assert len(drawn) == 3 and not np.isin(drawn, mean).any() and not np.isin(drawn, other).any()


def test_statistics_are_of_whole_episodes():
    data = toys.transitions((7, 3, 5, 7))  # the second and the last end in a terminal state
    returns = data.episode_returns()
    np.testing.assert_array_equal(making.whole_returns(data, 7), returns[[0, 1, 3]])
    np.testing.assert_array_equal(making.whole_returns(data, 5), returns)


def test_a_set_without_a_whole_episode_has_no_statistics(tmp_path):
    found = making.measure(
        "random-ours", task=HOPPER, steps=2, seed=0, data_dir=str(tmp_path), threads=1
    )
    assert found.episodes == 0 and found.steps > 0
    assert found.mean is None and found.std is None and found.ratio is None
    assert f"| {found.steps} | 0 | - |" in making.row(found)


def test_one_command_ships_policies_and_writes_what_the_names_stand_for(folder, tmp_path, capsys):
    numbers = tmp_path / "numbers.json"
    numbers.write_text('{"walker2d": {}}')
    assert command.main(words(folder, "--tolerance=1", f"--numbers={numbers}")) == 0
    said = capsys.readouterr().out
    record = json.loads(numbers.read_text())
    assert set(record) == {"walker2d", "hopper"}
    found = record["hopper"]
    assert [one["steps"] for one in found["checkpoints"]] == list(STEPS)
    assert found["training"] == {"steps": 60, "interrupted_after": [30]}
    medium = found["picks"]["medium-sac"]
    first = found["checkpoints"][0]
    assert medium["steps"] == first["steps"] and medium["target"] == 1422.06

    shipped, about = foreign.load(tmp_path / "policies" / "hopper-medium-sac.npz", HOPPER)
    assert about == found["policies"]["medium-sac"] and shipped.has_noise
    assert about["command"].startswith("python -m benchmarks.robustness.train_policy SAC Hopper-v4")
    for word in (f"--steps={first['steps']}", "--physics=v2", "--keep-buffer", "--actor=8"):
        assert word in about["command"].split()
    drawn, mean = (
        checkpoints.earned(shipped, HOPPER, draws, making.EPISODES, seed=1)
        for draws in (True, False)
    )
    assert about["mean_return"] == pytest.approx(drawn.mean())
    assert about["mean_return_of_mean_actions"] == pytest.approx(mean.mean())
    assert about["picked"]["mean_return_then"] == first["mean"]
    assert "hopper-medium-v2, 1422.06 (quoted)" in about["picked"]["by"]
    assert about["interrupted_after"] == ([30] if first["steps"] > 30 else [])

    for kind, rows in (("medium-replay-sac", first["steps"]), ("full-replay-sac", 60)):
        data, _ = sources.load(str(tmp_path / "data" / f"hopper-{kind}.hdf5"), HOPPER)
        assert len(data) == rows
        assert rows < 30 or data.timeouts[29]
    by_name = {one["name"]: one for one in found["sets"]}
    assert by_name["hopper-medium-sac"]["steps"] == 200
    assert by_name["hopper-medium-expert-sac"]["steps"] == 400
    ratio = by_name["hopper-random-ours"]["mean"] / 18.40
    assert by_name["hopper-random-ours"]["ratio"] == pytest.approx(ratio)
    assert by_name["hopper-full-replay-sac"]["quoted"] is None
    assert all(f"| {name} |" in said for name in by_name)
    assert "| 1422 +- 379 | 999,906 |" in said


def test_the_command_says_what_is_missing_and_ships_nothing(folder, tmp_path, capsys):
    assert command.main(words(folder)) == 2
    assert "error: --training: expected a checkpoint that earns 1422.06" in capsys.readouterr().err
    assert not (tmp_path / "policies").exists()
    # The episodes are kept: a second try runs none.
    assert command.main(words(folder)) == 2
    assert "steps:" not in capsys.readouterr().out


# D4RL's own normalised scores of its v2 files, which other tables quote.
SCORES = {
    "hopper": {"random": 1.2, "medium": 44.3, "medium-replay": 15.0},
    "walker2d": {"random": 0.0, "medium": 62.1, "medium-replay": 14.8},
    "halfcheetah": {"random": -0.1, "medium": 40.7, "medium-replay": 27.2},
}


@pytest.mark.parametrize("env", SCORES)
def test_quoted_returns_agree_with_quoted_scores(env):
    for kind, score in SCORES[env].items():
        found = tasks.get(env).normalized_score(published.D4RL_DATA[env][kind].mean)
        assert found == pytest.approx(score, abs=0.06)
