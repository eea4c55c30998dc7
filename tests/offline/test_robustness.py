"""The bench of data sets: its table, its making, its plants, its records and its numbers."""

import collections
import dataclasses
import json
import pathlib

import gymnasium
import h5py
import numpy as np
import pytest
import toys

from benchmarks import robustness
from benchmarks.robustness import __main__ as command
from benchmarks.robustness import (
    along_planning,
    baselines,
    behaviour,
    clones,
    data_sets,
    dmsd,
    looks,
    making,
    page,
    peers,
    promises,
    records,
    rules,
    ship_policy,
    simulate,
    table,
    verdicts,
)
from benchmarks.robustness.data_sets import BY_NAME, SETS, DataSet, Part
from mopp_tf import config as mopp_config
from morel_tf import config as morel_config
from morel_tf.planning.judged import Keeper
from offline_tf import tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.judging import judge, verdict
from offline_tf.policies import foreign
from offline_tf.run_folder.record import RunRecord
from offline_tf.types import Transitions, UserError

CHEETAH = tasks.get("halfcheetah")
SHIPPED = sorted((pathlib.Path(robustness.__file__).parent / "policies").glob("*.npz"))
TASK = "benchmarks/robustness/dmsd.py:DMSD"
ROOT = pathlib.Path(robustness.__file__).parents[2]


def _policy(seed=0, width=8):
    draw = np.random.default_rng(seed).normal
    s, a = CHEETAH.state_dim, CHEETAH.action_dim
    hidden = [(draw(size=(s, width)).astype(np.float32), np.zeros(width, np.float32))]
    last = 0.3 * draw(size=(width, a)).astype(np.float32), np.zeros(a, np.float32)
    return foreign.MlpPolicy(hidden, last, None, "Tanh", (CHEETAH.action_low, CHEETAH.action_high))


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "FOLDER", tmp_path / "policies")
    for name, seed in (("one", 0), ("other", 1)):
        foreign.save_mlp(behaviour.FOLDER / f"{name}.npz", _policy(seed), {})
    return behaviour.FOLDER


def _set(**changes):
    parts = (Part("one", 0.75), Part("other", 0.25, noise=0.3))
    made = DataSet("toy", "development", "halfcheetah", "two", 400, parts, cut=50, seed=7)
    return dataclasses.replace(made, **changes)


def _count(by, split):
    return collections.Counter(by(x) for x in SETS if x.split == split)


@pytest.mark.parametrize(
    "by",
    [
        lambda x: "robot" if x.env in tasks.ROBOTS else "plant",
        lambda x: x.env if x.env in tasks.ROBOTS else "plant",
        lambda x: x.kind,
        lambda x: x.physics if x.kind != "plant" else "",
        lambda x: x.rows,
        lambda x: bool(x.cut),
        lambda x: x.v0,
        lambda x: min(len(x.parts), 3),
    ],
    ids=["all", "robot", "kind", "physics", "rows", "cut", "layout", "parts"],
)
def test_the_halves_are_alike(by):
    development, reporting = (_count(by, split) for split in data_sets.SPLITS)
    assert set(development) | set(reporting) == {by(x) for x in SETS}
    for value in set(development) | set(reporting):
        assert abs(development[value] - reporting[value]) <= 2
        assert min(development[value], reporting[value]) >= (0 if value == 0 else 1)


def test_the_table_says_each_thing_once():
    assert len(SETS) >= 16 and len(BY_NAME) == len(SETS)
    assert len({x.seed for x in SETS}) == len(SETS)
    assert {x.split for x in SETS} == set(data_sets.SPLITS)
    halves = collections.Counter(x.split for x in SETS)
    assert halves["development"] == halves["reporting"]
    for x in SETS:
        assert len({part.name for part in x.parts}) == len(x.parts)
        for name in (part.policy for part in x.parts):
            robot = name.partition("-")[0]
            assert robot == x.env if x.env in tasks.ROBOTS else name in behaviour.CONTROLLERS
        if x.parts:
            assert sum(part.share for part in x.parts) == pytest.approx(1.0)


def test_a_set_is_made_once_and_the_same_again(shipped, tmp_path):
    first = making.load_or_make(_set(), tmp_path / "a")
    stamp = first.stat().st_mtime_ns
    assert making.load_or_make(_set(), tmp_path / "a") == first
    assert first.stat().st_mtime_ns == stamp
    again = making.load_or_make(_set(), tmp_path / "b", threads=2)
    other = making.load_or_make(_set(seed=8), tmp_path / "b")
    data = [d4rl.read(path) for path in (first, again, other)]
    assert d4rl.content_hash(data[0]) == d4rl.content_hash(data[1])
    # Another seed gives other rows, not the same ones in another order.
    assert not np.isin(data[2].observations[:, 0], data[0].observations[:, 0]).any()


def test_a_sets_tag_knows_its_policies_and_not_its_half(shipped):
    before = making.tag(_set())
    assert making.tag(_set(split="reporting")) == before
    assert making.tag(_set(cut=40)) != before
    foreign.save_mlp(shipped / "other.npz", _policy(2), {})
    assert making.tag(_set()) != before


def test_parts_have_their_rows_and_episodes_are_cut_and_mixed(shipped):
    data = making.make(_set(), CHEETAH)
    lengths = np.diff(data.episode_bounds()).ravel()
    assert len(data) == 400 and lengths.max() == 50 and not data.terminals.any()
    assert data.qpos is not None and (np.abs(data.actions) <= 1.0).all()
    # Rows of "one" are its mean actions; those of "other" are not, and they lie among the first.
    mean = CHEETAH.clip_actions(_policy().act(data.observations, None, False))
    is_one = np.isclose(mean, data.actions, atol=1e-5).all(axis=1)
    assert is_one.sum() == 300
    assert not is_one[:300].all()


def test_the_old_layout_lacks_next_observations_and_states(shipped, tmp_path):
    path = making.load_or_make(_set(v0=True), tmp_path)
    with h5py.File(path) as file:
        assert sorted(file) == ["actions", "observations", "rewards", "terminals", "timeouts"]
    new = d4rl.read(making.load_or_make(_set(), tmp_path))
    old = d4rl.read(path)
    assert len(old) == len(new) - len(new.episode_bounds())
    np.testing.assert_array_equal(
        old.next_observations, new.next_observations[~(new.terminals | new.timeouts)]
    )


def test_gain_and_noise_are_in_halves_of_the_bounds_range(shipped):
    task = dataclasses.replace(
        toys.cart(), action_low=np.float32([2.0]), action_high=np.float32([6.0])
    )
    observations = np.zeros((20_000, 2), np.float32)

    def act(part, stochastic):
        acting = behaviour.Acting(part, task, lambda x, *_: np.full((len(x), 1), 5.0))
        return acting.act(observations, np.random.default_rng(0), stochastic)

    assert (act(Part("one", gain=3.0), False) == 7.0).all()  # middle 4, half 2: 0.5 times 3
    noisy = act(Part("one", noise=0.3), True)
    assert noisy.mean() == pytest.approx(5.0, abs=0.02)
    assert noisy.std() == pytest.approx(0.6, abs=0.02)
    assert (act(Part("one", noise=0.3), False) == 5.0).all()


def test_a_deterministic_policy_draws_nothing(shipped):
    with pytest.raises(UserError, match="one.npz is deterministic"):
        behaviour.of_part(Part("one", draws=True), CHEETAH)


def test_shipped_policies_are_small_and_say_where_they_are_from():
    for path in SHIPPED:
        policy, about = foreign.load(path, tasks.get(path.stem.partition("-")[0]))
        assert isinstance(policy, foreign.MlpPolicy) and path.stat().st_size < 250_000
        assert about["command"].startswith("python benchmarks/robustness/train_policy.py")
        assert {"seed", "steps", "physics", "mean_return", "versions"} <= about.keys()


def test_no_policy_is_shipped_that_no_set_uses():
    used = {part.policy for x in SETS for part in x.parts} - set(behaviour.CONTROLLERS)
    assert {path.stem for path in SHIPPED} <= used


def test_a_robots_policies_are_of_different_quality():
    found = {}
    for path in SHIPPED:
        robot, _, quality = path.stem.partition("-")
        about = foreign.load(path, tasks.get(robot))[1]
        assert about["env"] == robot
        found.setdefault(robot, {})[quality] = about["mean_return"]
    for of_robot in found.values():
        ordered = [of_robot[q] for q in ("weak", "middle", "good") if q in of_robot]
        assert ordered == sorted(ordered)


def test_a_checkpoints_name_tells_its_command(tmp_path):
    import zipfile

    path = tmp_path / "SAC-Hopper-v4-20000-seed3.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("system_info.txt", "- Python: 3.11\n- Stable-Baselines3: 2\n- OS: x\n")
    about = ship_policy.about(path, 10_000)
    assert about["command"].endswith("SAC Hopper-v4 --steps=20000 --every=10000 --seed=3")
    assert about["versions"] == {"Python": "3.11", "Stable-Baselines3": "2"}
    assert about["physics"] == "v4" and "-m" not in about["command"]
    old = path.rename(tmp_path / "SAC-Hopper-v4-v2-20000-seed3.zip")
    about = ship_policy.about(old, 10_000, (256, 256))
    assert about["physics"] == "v2" and about["env"] == "hopper"
    assert about["command"] == (
        "python -m benchmarks.robustness.train_policy SAC Hopper-v4 --steps=20000 --every=10000 "
        "--seed=3 --actor=256,256 --physics=v2"
    )
    with pytest.raises(UserError, match="ALGO-ENV-STEPS-seedN.zip"):
        ship_policy.about(tmp_path / "policy.zip", 1)


def test_dmsd_is_what_its_equations_say():
    state = np.array([0.1, -0.2, 0.05, 0.0, 1.0, -1.0])
    after = dmsd.advance(state, np.array([1.0, -0.5]))
    # v1' = 0.05 + 0.01 (-0.4 - 0.4 - 0.4 + 0 + 30), v2' = 0.01 (0.2 + 0.8 + 0.2 - 0 - 15)
    np.testing.assert_allclose(after, [0.11, -0.2, 0.338, -0.138, 1.0, -1.0], atol=1e-12)
    assert dmsd.payment(after) == pytest.approx(-3.0 * np.log(0.9))  # distances 0.89 and 0.8
    at_rest = dmsd.advance(np.zeros(6), np.zeros(2))
    assert not at_rest.any() and dmsd.payment(at_rest) == pytest.approx(-2.0 * np.log(0.01))
    states = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    paid = dmsd.reward(None, None, states).numpy()
    np.testing.assert_allclose(paid, dmsd.payment(states), rtol=1e-5)
    assert tasks.get(TASK).normalized_score(849.51) == pytest.approx(100.0)


def test_dmsds_targets_change_at_step_50_alone_and_half_of_them_do():
    environment = gymnasium.make(dmsd.ID).unwrapped
    changed = []
    for seed in range(200):
        first, _ = environment.reset(seed=seed)
        targets, over = [first[4:]], False
        while not over:
            observation, *_, over, _ = environment.step(np.zeros(2))
            targets.append(observation[4:])
        assert len(targets) == 101
        moves = np.flatnonzero((np.diff(targets, axis=0) != 0).any(axis=1))
        assert set(moves) <= {49}
        changed.append(targets[0] != targets[-1])
    assert np.mean(changed) == pytest.approx(0.5, abs=0.08)


def test_the_same_episodes_are_run_for_everybody():
    task = dmsd.DMSD
    controlled = [
        simulate.returns(lambda x, _: dmsd.pd(x), task=task, physics="v2", episodes=5, seed=s)
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(controlled[0], controlled[1])
    assert (controlled[0] != controlled[2]).all()
    idle = simulate.returns(lambda x, _: np.zeros((len(x), 2)), task=task, physics="v2", episodes=5)
    assert (idle < controlled[0]).all()


def test_neorl2s_file_is_read_and_its_absence_told(tmp_path, monkeypatch):
    monkeypatch.delenv(making.NEORL2, raising=False)
    with pytest.raises(making.Missing, match="--neorl2 or \\$NEORL2_DATA"):
        making.load_or_make(BY_NAME["dmsd-neorl2"], tmp_path)
    draw = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    ends = np.array([0, 0, 0, 1] * 2, np.float32)
    np.savez(
        tmp_path / "DMSD-high-100000-train.npz",
        obs=draw,
        next_obs=draw + 1,
        action=draw[:, :2],
        reward=draw[:, 0],
        done=np.zeros(8, np.float32),
        truncated=ends,
    )
    monkeypatch.setenv(making.NEORL2, str(tmp_path))
    data = d4rl.read(making.load_or_make(BY_NAME["dmsd-neorl2"], tmp_path / "data"))
    np.testing.assert_array_equal(data.next_observations, draw + 1)
    np.testing.assert_array_equal(data.timeouts, ends.astype(bool))


def _episodes(returns, length=4):
    count = len(returns) * length
    observations = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    ends = np.tile(np.arange(length) == length - 1, len(returns))
    return Transitions(
        observations=observations,
        actions=np.clip(0.5 * observations[:, :1], -1, 1),
        rewards=np.repeat(np.float32(returns) / length, length),
        next_observations=observations,
        terminals=np.zeros(count, bool),
        timeouts=ends,
    )


def test_the_best_tenth_are_whole_episodes_at_least_two():
    data = _episodes([3.0, 9.0, 1.0, 9.5, 2.0])
    np.testing.assert_array_equal(making.best_tenth(data), [1, 3])
    best = making.episodes(data, making.best_tenth(data))
    np.testing.assert_allclose(best.episode_returns(), [9.0, 9.5])
    assert len(making.best_tenth(_episodes(list(range(30))))) == 3


def test_cloning_finds_the_controller(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "STEPS", 400)
    monkeypatch.setattr(baselines, "STEPS_PER_LOOK", 200)
    data = _episodes([0.0] * 200)
    stage = RunRecord.create_or_continue(tmp_path / "run", "toy", {}).stage("bc")
    network, found = baselines.clone(data, toys.cart(), stage, seed=0)
    predicted = network(found.normalize(data.observations)).numpy()
    assert np.mean(np.square(predicted - data.actions)) < 0.05 * data.actions.var()


def _peers_policy(path, spoil=0.0):
    draw = np.random.default_rng(0).normal
    layers = [draw(size=size).astype(np.float32) for size in ((2, 5), (5, 5), (5, 1))]
    shift, scale = np.float32([3.0, -1.0]), np.float32([0.1, 20.0])
    states = (shift + scale * draw(size=(8, 2))).astype(np.float32)
    hidden = (states - shift) / scale
    for kernel in layers[:-1]:
        hidden = np.maximum(hidden @ kernel + 0.1, 0.0)
    arrays = {f"kernel_{i}": kernel for i, kernel in enumerate(layers)}
    arrays |= {f"bias_{i}": np.full(len(k.T), 0.1, np.float32) for i, k in enumerate(layers)}
    actions = np.tanh(hidden @ layers[-1] + 0.1) + spoil
    np.savez(path, shift=shift, scale=scale, states=states, actions=actions, **arrays)


def test_a_peers_policy_acts_as_in_its_library_or_is_refused(tmp_path):
    _peers_policy(tmp_path / "policy.npz")
    peers.read_policy(tmp_path / "policy.npz", toys.cart())
    _peers_policy(tmp_path / "policy.npz", spoil=0.1)
    with pytest.raises(ValueError, match="acts otherwise"):
        peers.read_policy(tmp_path / "policy.npz", toys.cart())


def _arguments(tmp_path, *words):
    folders = [f"--folder={tmp_path}/robustness/data", f"--results={tmp_path}/results"]
    return command.parse([*folders, *words])


def _jobs(tmp_path, file, *words):
    arguments = _arguments(tmp_path, *words)
    runs = command.planned(_set(), file, 3, arguments)
    found = [command.job_of(run, _set(), file, 3, arguments) for run in runs]
    return [job for job in found if job is not None]


def _finish(recorded, algorithm):
    folder = recorded.job.folder
    folder.mkdir(parents=True)
    summary = {"algorithm": algorithm, "dataset": "x", "seed": 3, "wall_seconds": 90.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    recorded.keep()


def test_what_is_recorded_is_not_run_again(tmp_path):
    file, flags = tmp_path / "robustness" / "data" / "toy-1.hdf5", "--what=morel,mopp"
    morel, mopp = _jobs(tmp_path, file, flags)
    assert "morel_tf.train" in morel.job.words and f"--dataset={file}" in morel.job.words
    assert {"--env=halfcheetah", "--physics=v2", "--seed=3", "--threads=1"} <= set(morel.job.words)
    _finish(morel, "morel")
    assert [run.job.name for run in _jobs(tmp_path, file, flags)] == [mopp.job.name]
    (run,) = records.read(_set(), tmp_path / "results")
    assert (run["set"], run["split"], run["minutes"]) == ("toy", "development", 1.5)
    assert run["command"].endswith("--sets=toy --what=morel --seeds=3")
    assert str(tmp_path) not in json.dumps(run)
    # Other data of the same name, and a variant, are other runs; the first one stays.
    again = _jobs(tmp_path, file.with_name("toy-2.hdf5"), flags)
    assert len(again) == 2
    _finish(again[0], "morel")
    wide = _jobs(tmp_path, file, flags, "--variant=very wide", "--flags=--iterations=3")
    assert len(wide) == 2 and "--iterations=3" in wide[0].job.words
    _finish(wide[0], "morel")
    wide_run = records.read(_set(), tmp_path / "results")[-1]
    assert wide_run["command"].endswith("--variant='very wide' --flags=--iterations=3")
    assert len(records.read(_set(), tmp_path / "results")) == 3


def test_a_name_stands_for_one_command(tmp_path):
    file = tmp_path / "robustness" / "data" / "toy-1.hdf5"
    (job,) = _jobs(tmp_path, file, "--what=mopp", "--variant=a", "--flags=--horizon=3")
    _finish(job, "mopp")
    with pytest.raises(UserError, match="stands in the record under this name"):
        _jobs(tmp_path, file, "--what=mopp", "--variant=a", "--flags=--horizon=4")
    with pytest.raises(UserError, match="need a name"):
        _arguments(tmp_path, "--flags=--horizon=4")
    with pytest.raises(UserError, match="--peers_python"):
        _arguments(tmp_path, "--what=peers")
    with pytest.raises(UserError, match="got 'more'"):
        _arguments(tmp_path, "--what=morel,more")


def test_a_peers_record_names_its_minutes_and_no_machine(tmp_path):
    file = tmp_path / "robustness" / "data" / "toy-1.hdf5"
    words = ["--what=peers", "--peers=iql,cql", "--peers_python=/here/python", "--minutes=5"]
    iql, cql = _jobs(tmp_path, file, *words)
    assert "--peers_python=/here/python" in iql.job.words
    _finish(iql, "iql")
    (run,) = records.read(_set(), tmp_path / "results")
    assert run["variant"] == "5 min" and "/here" not in json.dumps(run)
    assert [run.job.name for run in _jobs(tmp_path, file, *words)] == [cql.job.name]


def test_a_set_that_cannot_be_made_is_told_and_the_others_are_made(shipped, tmp_path, capsys):
    lacking = _set(name="lacking", parts=(Part("nobody"),))
    made = command.make_data([lacking, _set(rows=100)], tmp_path, "")
    assert list(made) == ["toy"]
    assert "left out: nobody: expected a policy" in capsys.readouterr().out
    assert [x.name for x in command.chosen("reporting", "cstr,tanks")] == ["cstr"]
    with pytest.raises(UserError, match="got hoper"):
        command.chosen("", "hoper")


def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end():
    values = np.array([100.0, 1.0, 2.0, 3.0, -50.0, 4.0, 5.0, 6.0])
    assert table.interquartile_mean(values) == pytest.approx((2.0 + 3.0 + 4.0 + 5.0) / 4)
    assert table.interquartile_mean(np.array([1.0, 2.0, 6.0])) == pytest.approx(3.0)
    low, high = table.interval(np.full(9, 7.0))
    assert low == high == 7.0
    low, high = table.interval(np.arange(20.0))
    assert low < 9.5 < high


def test_scores_lie_between_random_actions_and_the_best_policy(shipped, tmp_path):
    one, two = _set(), _set(name="second", seed=8)
    for data_set, true in ((one, [60.0, 80.0]), (two, [30.0])):
        about = {
            "dataset": f"{data_set.name}-{making.tag(data_set)}",
            "variant": "",
            "command": "c",
        }
        (tmp_path / "summary.json").write_text(
            json.dumps(
                [
                    {
                        "algorithm": "data",
                        "policies": {"a": {"mean": 110.0}, "b": {"mean": 35.0}},
                        "random_return": 10.0,
                        "behavior_return": 20.0,
                        "best_tenth_return": 45.0,
                        "acted_return": 60.0,
                        "seed": 0,
                        "wall_seconds": 1.0,
                    }
                ]
            )
        )
        records.keep(data_set, tmp_path / "summary.json", about, tmp_path)
        for seed, value in enumerate(true):
            run = {"algorithm": "morel", "seed": seed, "true_return_mean": value}
            (tmp_path / "summary.json").write_text(json.dumps(run | {"wall_seconds": 1.0}))
            records.keep(data_set, tmp_path / "summary.json", about, tmp_path)
    row = table.row_of(one, tmp_path)
    assert row is not None and row.score(110.0) == 100.0 and row.score(10.0) == 0.0
    lines = table.report([one, two, _set(name="third")], tmp_path).splitlines()
    assert "| toy | 110, 35 | 20 | 45 | 70 +- 14 |" in lines
    assert "| toy | 50 | 60 |" in lines and "| second | 50 | 20 |" in lines
    assert "| 2 sets that have all | 50 (50 to 50) | 40 (20 to 60) |" in lines
    third = _set(name="third")
    about = {"dataset": f"third-{making.tag(third)}", "variant": "", "command": "c", "seed": 0}
    of_data = {"algorithm": "data", "policies": {"a": {"mean": 110.0}}, "random_return": 10.0}
    of_data |= dict.fromkeys(("behavior_return", "best_tenth_return", "acted_return"), 110.0)
    (tmp_path / "summary.json").write_text(json.dumps(of_data | {"wall_seconds": 1.0}))
    records.keep(third, tmp_path / "summary.json", about, tmp_path)
    below = table.report([one, two, third], tmp_path).splitlines()
    assert "| 2 sets that have all | 50 (50 to 50) | 40 (20 to 60) |" in below
    assert any("67 (50 to 100), 3 sets | 40 (20 to 60), 2 sets |" in line for line in below)
    assert "No baselines yet: third." in lines
    written = json.loads((tmp_path / "third.json").read_text())
    (tmp_path / "third.json").write_text(json.dumps([written[0] | {"random_return": 200.0}]))
    hopeless = table.report([third], tmp_path)
    assert "third: no policy is better than chance" in hopeless and "sets" not in hopeless
    # A set that is made otherwise has no row until its baselines are run again.
    assert table.row_of(_set(cut=40), tmp_path) is None


@pytest.mark.parametrize(
    ("promise", "true", "kind"),
    [
        (90.0, 100.0, "good"),
        (110.0, 100.0, "good"),
        (120.0, 100.0, ""),
        (126.0, 100.0, "bad"),
        (40.0, 50.0, "bad"),  # less than those who made the data, whatever it promised
    ],
)
def test_a_run_is_good_that_earns_what_the_data_do_and_keeps_its_promise(promise, true, kind):
    assert promises.kind_of(promise, true, acted=60.0) == kind


def test_promises_are_told_beside_what_was_earned(shipped, tmp_path):
    data_set = _set()
    about = {"dataset": f"toy-{making.tag(data_set)}", "variant": "", "command": "c"}
    of_data = {"algorithm": "data", "policies": {"a": {"mean": 110.0}}, "random_return": 10.0}
    of_data |= dict.fromkeys(("behavior_return", "best_tenth_return", "acted_return"), 60.0)
    grounds = {"above_best": {"value": 3.0, "level": "bad"}, "halted_share": {"level": "green"}}
    runs = [
        of_data,
        {"algorithm": "bc", "true_return_mean": 50.0},
        {
            "algorithm": "morel",
            "promise": 65.0,
            "true_return_mean": 70.0,
            "true_return_as_promised": 66.0,
            "verdict": {"level": "green", "grounds": {}},
        },
        {
            "algorithm": "mopp",
            "promise": 95.0,
            "true_return_mean": 70.0,
            "verdict": {"level": "bad", "grounds": grounds},
        },
    ]
    assert promises.report([data_set], tmp_path) == ""
    for run in runs:
        (tmp_path / "summary.json").write_text(json.dumps(run | {"seed": 0, "wall_seconds": 1.0}))
        records.keep(data_set, tmp_path / "summary.json", about, tmp_path)
    told = promises.report([data_set], tmp_path)
    assert "| toy, MOReL, seed 0 | 65 | 66 | green |  | good |" in told
    assert "| toy, MOPP, seed 0 | 95 | 70 | bad | above_best | bad |" in told
    assert "at or below the truth in 1 of 2 runs" in told
    assert "Green: 1 of 1 good runs, 0 of 1 bad ones" in told


@pytest.mark.parametrize("of_clone", [None, 20.0])
def test_recorded_runs_are_judged_by_the_verdict_of_today(of_clone):
    data = verdict.DataReturns(mean=55.0, of_best=100.0)
    judged = {"promise": 40.0, "expected": 90.0, "models_apart": 30.0, "halted_share": 0.6}
    stored = verdict.of(
        [
            *verdict.of_judgement(judged, data, 0.3, {}, of_clone),
            verdict.Ground("fallback", 0.4, "doubtful", "words"),
        ]
    )
    run = {"promise": 40.0, "expected_return": 90.0, "verdict": stored.to_json()}
    run["kept_iteration"] = 20 if of_clone is None else 0
    assert {g.name: (pytest.approx(g.value), g.level) for g in verdicts.of_run(run, data)} == {
        g.name: (g.value, g.level) for g in stored.grounds
    }


def test_verdicts_of_the_record_are_told_by_half(shipped, tmp_path, monkeypatch, capsys):
    data_set = _set()
    monkeypatch.setattr(verdicts, "SETS", (data_set,))
    about = {"dataset": f"toy-{making.tag(data_set)}", "variant": "", "command": "c"}
    of_data = {"algorithm": "data", "policies": {"a": {"mean": 110.0}}, "random_return": 10.0}
    of_data |= dict.fromkeys(("behavior_return", "best_tenth_return", "acted_return"), -1e3)
    path = making.load_or_make(data_set, tmp_path / "data")
    earned = d4rl.read(path).episode_returns() * (1000 / 50)  # cut at 50 of 1000 steps
    promise = float(earned.mean())
    run = {
        "algorithm": "morel",
        "promise": promise,
        "expected_return": promise,
        "true_return_mean": promise,
        "kept_iteration": 10,
        "verdict": {
            "level": "bad",
            "grounds": {
                "models_apart": {"value": 0.0, "level": "green", "words": ""},
                "halted_share": {"value": 0.0, "level": "green", "words": ""},
                "pruned_share": {"value": 0.9, "level": "bad", "words": ""},
            },
        },
    }
    for kept in (of_data, run, run | {"seed": 1, "verdict": run["verdict"] | {"level": "green"}}):
        summary = {"seed": 0, "wall_seconds": 1.0} | kept
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        records.keep(data_set, tmp_path / "summary.json", about, tmp_path)
    words = [f"--folder={tmp_path / 'data'}", f"--results={tmp_path}", "--seeds=1"]
    assert verdicts.main([*words, f"--output={tmp_path / 'told.json'}"]) == 0
    told = capsys.readouterr().out
    earned_as_told = f"{promise:.0f} | {promise:.0f}"
    assert (
        f"| toy, MOReL, seed 1 | {earned_as_told} | good | green | bad | pruned_share 0.90 |"
        in told
    )
    assert "- development, good: 1 of 1 green as recorded, 0 today" in told
    (found,) = json.loads((tmp_path / "told.json").read_text())["runs"]
    assert found["grounds"] == {"pruned_share": 0.9}


def test_a_rules_worth_is_the_score_with_it_less_that_without(shipped, tmp_path):
    data_set, rule = _set(), rules.RULES[0]
    about = {"dataset": f"toy-{making.tag(data_set)}", "command": "c"}
    of_data = {"algorithm": "data", "policies": {"a": {"mean": 110.0}}, "random_return": 10.0}
    of_data |= dict.fromkeys(("behavior_return", "best_tenth_return", "acted_return"), 60.0)
    for seed, variant, earned in (
        (0, "", 110.0),
        (0, rule.variant, 90.0),
        (1, "", 60.0),
        (1, rule.variant, 65.0),
        (2, rule.variant, 65.0),  # nothing to hold it against
        (0, "wide", 500.0),
    ):
        run = {"algorithm": rule.algorithm, "true_return_mean": earned}
        for summary in (of_data, run):
            told = {"seed": seed, "wall_seconds": 1.0} | summary
            (tmp_path / "summary.json").write_text(json.dumps(told))
            kept = about | {"variant": variant if summary is run else ""}
            records.keep(data_set, tmp_path / "summary.json", kept, tmp_path)
    pairs = rules.found_in(rules.RULES, [data_set], tmp_path)
    assert [(pair.seed, pair.with_rule, pair.without) for pair in pairs] == [
        (0, pytest.approx(100.0), pytest.approx(80.0)),
        (1, pytest.approx(50.0), pytest.approx(55.0)),
    ]
    told = rules.report(pairs)
    assert f"| {rule.name} | morel | 2 | 1 | +7.5 | -5.0 | +20.0 |" in told
    assert f"| {rule.name}, morel | toy, 0 | 100.0 | 80.0 |" in told


def test_rules_off_are_runs_of_the_bench_by_their_flags(shipped, tmp_path, monkeypatch):
    data_set, asked = _set(), []
    monkeypatch.setitem(BY_NAME, "toy", data_set)
    monkeypatch.setattr(rules.campaign, "work_through", lambda jobs, **_: asked.extend(jobs) or 0)
    words = ["--sets=toy", "--rules=whose reward", "--seeds=4", f"--folder={tmp_path / 'data'}"]
    assert rules.main([*words, f"--results={tmp_path / 'results'}"]) == 0
    (job,) = asked
    assert {"mopp_tf.train", "--planner_reward=models", "--seed=4"} <= set(job.job.words)
    with pytest.raises(UserError, match="--rules: expected some of .*whose reward.*, got 'luck'"):
        rules.parse(["--rules=luck"])


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: f"{rule.algorithm} {rule.name}")
def test_every_rule_is_left_out_by_flags_that_there_are(rule):
    module = {"morel": morel_config, "mopp": mopp_config}[rule.algorithm]
    knobs = {field.name for stage in module.STAGES for field in dataclasses.fields(stage)}
    names = [word.removeprefix("--").partition("=")[0] for word in rule.flags.split()]
    assert names and set(names) <= knobs


def test_what_the_judge_said_stands_beside_what_was_earned(tmp_path, capsys):
    metrics = tmp_path / "run" / "metrics"
    metrics.mkdir(parents=True)
    judged = ["step,promise,expected,models_apart,halted_share"]
    judged += [f"{step},{-step},{step},5,0.5" for step in (0, 10, 20, 30)]
    (metrics / "planning.judge.csv").write_text("\n".join(judged) + "\n")
    true = ["step,pmdp_return,true_return_mean", "9,1,100", "21,2,200", "31,3,300", "40,3,"]
    (metrics / "planning.evaluation.csv").write_text("\n".join(true) + "\n")
    words = [f"toy={tmp_path / 'run'}", f"--output={tmp_path / 'told.json'}"]
    assert along_planning.main(words) == 0
    found = json.loads((tmp_path / "told.json").read_text())["toy"]
    assert found["rank_correlation_promise"] == pytest.approx(-1.0)
    assert found["rank_correlation_expected"] == pytest.approx(1.0)
    assert len(found["judged"]) == 4 and len(found["true"]) == 3
    assert "true: 9: 100, 21: 200, 31: 300" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected a finished run of MOReL with a judge"):
        along_planning.read(tmp_path)


def _look(middle, *, apart=0.0, halted=0.0, true):
    least = np.full((3, 2), middle) + apart * np.array([[-1.0], [0.0], [1.0]])
    by_size = {str(members): {"least": least.tolist(), "halted": halted} for members in (3, 6)}
    return {"true": true} | by_size


def test_ways_of_keeping_a_policy_are_those_of_the_planner():
    """Numbers of the planner's own test: of gains of 260 and 180 at least 144 and 64 are likely."""
    by_step = {
        "0": _look(500.0, true=1.0),
        "10": _look(501.0, true=2.0),
        "20": _look(760.0, apart=200.0, true=3.0),
        "30": _look(680.0, apart=200.0, true=4.0),
    }
    run = {"looks": by_step, "worth": _look(900.0, true=0.0)}
    seen = looks.looked(run, 3)
    kept = {way: int(seen.steps[keep(seen)]) for way, keep in looks.WAYS.items()}
    assert kept == {"promise": 10, "gain": 20, "middle": 20, "last": 30}
    # Where most roll-outs halt, the clone is worth what its episodes earned, 900.
    for step in ("10", "20", "30"):
        by_step[step]["3"]["halted"] = 0.6
    assert {keep(looks.looked(run, 3)) for keep in looks.WAYS.values()} == {0}
    assert "| toy, 0 | 1 | 4 | 1 (0) |" in looks.table({"toy, 0": run})


class _Replayed:
    """A judge that says of the policy whose first bias is k what the k-th look of a record says."""

    def __init__(self, seen):
        self._seen = seen

    def policy(self, policy):
        return self.at(round(float(policy.layers[-1][1][0])))

    def at(self, number):
        least, share = self._seen.least[number], self._seen.halted[number]
        return judge.Judgement(least, least, np.ones(least.shape), np.full(least.shape, share))


@pytest.mark.parametrize("members", [3, 6])
@pytest.mark.parametrize(("way", "keeps"), [("gain", "gain"), ("promise", "promise")])
def test_what_a_way_keeps_is_what_planning_keeps(way, keeps, members):
    record = json.loads((ROOT / looks.RECORD).read_text())
    config = morel_config.PlannerConfig(judge_keeps=keeps, judge_patience=10**6)
    for run in record.values():
        seen = looks.looked(run, members)
        worth = judge.Judgement(seen.worth, seen.worth, seen.worth, np.zeros(seen.worth.shape))
        policy = toys.linear_policy(np.zeros((2, 1)), [0.0])
        kept = Keeper(policy, config, lambda found=worth: found)
        for number, step in enumerate(seen.steps):
            policy.weights[1].assign([float(number)])
            kept.look(_Replayed(seen), int(step))
        expected = int(seen.steps[looks.WAYS[way](seen)])
        assert kept.take_best_or_first(_Replayed(seen)).iteration == expected


@pytest.mark.parametrize("compared", clones.COMPARED)
def test_clones_stand_beside_each_other(compared):
    columns = range(len(clones.COMPARED[compared].headings))
    fits = [
        {"share": share, "true_return_mean": value + column, "standard_error": 2.0}
        for share, value in ((1.0, 10), (0.1, 20))
        for column in columns
    ]
    heading, _, *lines = clones.table({"toy, 0": {"clones": fits}}, compared)
    assert heading.split(" | ")[2:] == [
        *clones.COMPARED[compared].headings[:-1],
        f"{clones.COMPARED[compared].headings[-1]} |",
    ]
    assert lines == [
        f"| toy, 0 | 1 | {' | '.join(f'{10 + column} +- 2' for column in columns)} |",
        f"| toy, 0 | 0.1 | {' | '.join(f'{20 + column} +- 2' for column in columns)} |",
    ]


def test_the_page_says_how_wide_policies_are():
    def fit(share, hidden, residual, loss="censored"):
        return {"share": share, "hidden": [hidden, hidden], "loss": loss, "residual": residual}

    fits = [fit(1.0, 64, 0.5, "squared"), fit(1.0, 256, 0.1, "squared")]
    fits += [fit(0.1, 64, 0.5), fit(0.1, 256, 0.1), fit(1.0, 64, 0.2)]
    run = {
        name: {"clones": [*fits, fit(1.0, 256, miss)]} for name, miss in (("a", 0.1), ("b", 0.198))
    }
    assert clones.widths(run)[2:] == [
        "| a | 0.2000 | 0.1000 (-50.0%) | 256 |",
        "| b | 0.2000 | 0.1980 (-1.0%) | 64 |",
    ]


def test_looks_are_taken_at_development_sets_alone(tmp_path):
    with pytest.raises(UserError, match="development"):
        looks.main(["--sets=hopper-small", f"--output={tmp_path / 'looks.json'}"])


def _of(name, *, random=0.0, best=100.0, acted=90.0, **returns):
    row = table.Row(BY_NAME[name], name, (best,), random, best, acted, acted, acted, {})
    runs = {
        (algorithm, ""): [
            {"seed": seed, "true_return_mean": value} for seed, value in enumerate(values)
        ]
        for algorithm, values in returns.items()
    }
    return page.Of(BY_NAME[name], row, runs)


def test_the_page_tells_who_is_below_the_best_policy_by_the_mean_of_the_seeds():
    sets = [
        _of("hopper-small", acted=99.0, morel=[120.0, 100.0], mopp=[80.0]),
        _of("hopper-three", random=50.0, acted=60.0, morel=[100.0, 98.0]),
    ]
    lines = page.scores(sets)
    assert "| who made the data | 2 | 60 (20 to 99) | 1 of 2 | hopper-three 20 |" in lines
    assert "| MOReL | 2, 4 | 104 (98 to 110) | 1 of 2 | hopper-three 98 |" in lines
    assert "| MOPP | 1, 1 | 80 (80 to 80) | 0 of 1 | hopper-small 80 |" in lines
    assert page.returns(sets)[2] == (
        "| hopper-small: one policy, noise 0.1, 20,000 rows | 100 | 99 |  |  |  | 120, 100 | 80 |"
    )


def test_a_planner_is_told_beside_its_clone_where_it_plans():
    def run(seed, chosen, clone, ours):
        spreads = {"bc_return_std": 3.0, "true_return_std": 4.0, "episodes": 25}  # error 2
        returns = {"bc_return": clone, "true_return_mean": ours}
        return {"seed": seed, "chosen": chosen} | returns | spreads

    of = _of("hopper-small")
    of.runs["mopp", ""] = [
        run(0, "max_q", 100.0, 103.0),
        run(1, "clone", 100.0, 0.0),
        run(2, "planner", 100.0, 98.5),
        run(3, "max_q", 100.0, 97.0),
    ]
    assert page.beside_clone([of])[2:] == [
        "| hopper-small, 0 | 100 | 103 | +3 +- 2 |",
        "| hopper-small, 2 | 100 | 98 | -2 +- 2 |",
        "| hopper-small, 3 | 100 | 97 | -3 +- 2 |",
        "| all that plan, 3 of 4 runs | | | surely above in 1, surely below in 1 |",
    ]


def test_no_policy_better_than_chance_has_no_score():
    assert _of("cstr", random=5.0, best=5.0, morel=[7.0]).score("morel") is None
    assert _of("cstr").score("morel") is None


def test_green_runs_are_counted_by_algorithm():
    runs = [
        {"split": "reporting", "name": "a, MOReL, seed 0", "kind": "good", "today": "green"},
        {"split": "reporting", "name": "a, MOReL, seed 1", "kind": "good", "today": "doubtful"},
        {"split": "reporting", "name": "a, MOPP, seed 0", "kind": "bad", "today": "green"},
        {"split": "reporting", "name": "a, MOPP, old, seed 0", "kind": "bad", "today": "green"},
        {
            "split": "reporting",
            "name": "a, MOReL, by squared error, seed 0",
            "kind": "bad",
            "today": "bad",
        },
        {"split": "development", "name": "a, MOPP, seed 0", "kind": "", "today": "green"},
    ]
    assert page.green(runs)[2:] == [
        "| development, MOPP | 0 of 0 | 0 of 0 |",
        "| reporting, MOReL, by squared error | 0 of 0 | 0 of 1 |",
        "| reporting, MOReL | 1 of 2 | 0 of 0 |",
        "| reporting, MOPP | 0 of 0 | 1 of 1 |",
    ]


def test_the_page_shows_what_the_records_say(tmp_path):
    written = tmp_path / "page.md"
    written.write_text((ROOT / "docs" / "results" / "robustness.md").read_text())
    before = written.read_text()
    words = [f"--results={ROOT / records.FOLDER}", f"--tables={ROOT / page.VERDICTS.parent}"]
    assert page.main([str(written), *words]) == 0
    assert written.read_text() == before, "run python -m benchmarks.robustness.page with the page"
