"""Each fault is named, a good file has none, and the physics of a recording is found."""

import dataclasses
import importlib
import json
import pathlib
import re
import types

import numpy as np
import pytest
import toys

from offline_tf import tasks
from offline_tf.datasets import doctor, sources, velocities
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.quality import (
    checks,
    episode_checks,
    examination,
    findings,
    physics_replay,
)
from offline_tf.models import compilation
from offline_tf.tasks.simulator import Simulator
from offline_tf.types import EnvironmentSpec, Transitions, UserError

TASK = toys.cart(bound=1e9)
LENGTHS = (50,) * 190 + (40,) * 20


def good(**changes):
    """A cart's data that nothing is wrong with: 10,300 rows, time limits at 50 steps, some cuts."""
    generator = np.random.default_rng(0)
    parts = []
    for length in LENGTHS:
        states = [generator.normal(size=2)]
        actions = generator.uniform(-1, 1, size=(length, 1))
        for action in actions:
            states.append(states[-1] + toys.change(states[-1], action))
        parts.append((np.array(states), actions))
    states = np.concatenate([s[:-1] for s, _ in parts])
    nexts = np.concatenate([s[1:] for s, _ in parts])
    actions = np.concatenate([a for _, a in parts])
    ends = np.zeros(len(states), bool)
    ends[np.cumsum(LENGTHS) - 1] = True
    data = Transitions(
        observations=states.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=np.asarray(toys.reward(states, actions, nexts), np.float32),
        next_observations=nexts.astype(np.float32),
        terminals=np.zeros(len(states), bool),
        timeouts=ends,
    )
    return dataclasses.replace(data, **changes)


def codes(data, task=TASK):
    return {finding.code: finding for finding in checks.thorough(data, task)}


def test_good_data_have_no_findings():
    assert codes(good()) == {}


def put(values, rows, value):
    values = values.copy()
    values[rows] = value
    return values


def jump_to_next_episode(data):
    nexts = data.next_observations.copy()
    last = np.flatnonzero(data.timeouts)[:-1]
    nexts[last] = data.observations[last + 1]
    return nexts


def every_last_the_same(data):
    nexts = data.next_observations.copy()
    nexts[data.timeouts] = 7.0
    return nexts


def shuffled(data):
    order = np.random.default_rng(1).permutation(len(data))
    return {
        name: getattr(data, name)[order]
        for name in ("observations", "actions", "rewards", "next_observations")
    }


D = good()
FALLS = toys.cart(bound=2.0)
BROKEN = {
    "not_finite/observations": {"observations": put(D.observations, (17, 0), np.nan)},
    "not_finite/actions": {"actions": put(D.actions, 3, np.inf)},
    "not_finite/rewards": {"rewards": put(D.rewards, 3, np.nan)},
    "not_finite/next_observations": {"next_observations": put(D.next_observations, 9, -np.inf)},
    "constant/observations": {
        "observations": put(D.observations, (slice(None), 1), 0.5),
        "next_observations": put(D.next_observations, (slice(None), 1), 0.5),
    },
    "constant/observations/all": {"observations": np.zeros_like(D.observations)},
    "tiny_units": {
        "observations": D.observations * np.float32([1.0, 1e-7]),
        "next_observations": D.next_observations * np.float32([1.0, 1e-7]),
    },
    "constant/actions/all": {"actions": np.zeros_like(D.actions)},
    "constant/rewards": {"rewards": np.zeros_like(D.rewards)},
    "actions_outside": {"actions": put(D.actions, slice(100), 3.0)},
    "actions_large": {"actions": 100.0 * D.actions},  # percent
    "actions_small": {"actions": 0.01 * D.actions},
    "one_episode": {"timeouts": np.zeros_like(D.timeouts)},
    "long_episodes": {"timeouts": put(D.timeouts, 49, False)},
    "one_step_episodes": {"timeouts": ~D.timeouts},
    "single_transitions": shuffled(D) | {"timeouts": np.ones_like(D.timeouts)},
    "limit_as_terminal": {"timeouts": np.zeros_like(D.timeouts), "terminals": D.timeouts},
    "both_flags": {"terminals": put(D.terminals, 49, True)},
    "terminals_unfounded": {"terminals": D.timeouts, "timeouts": np.zeros_like(D.timeouts)},
    "next_is_same": {"next_observations": D.observations},
    "discontinuous": shuffled(D),
    "next_of_other_episode": {"next_observations": jump_to_next_episode(D)},
    "same_last_observation": {"next_observations": every_last_the_same(D)},
    "rewards_shifted": {"rewards": np.roll(D.rewards, 1)},
    "rewards_scaled": {"rewards": 0.1 * D.rewards + 5.0},
    "rewards_differ": {"rewards": np.random.default_rng(3).normal(size=len(D)).astype(np.float32)},
}


@pytest.mark.parametrize("code", BROKEN)
def test_each_fault_is_named(code):
    data = dataclasses.replace(D, **BROKEN[code])
    found = codes(data)
    assert code in found
    assert all(text for text in dataclasses.astuple(found[code]))


def test_terminal_rows_that_lead_nowhere_known_are_a_note_and_no_fault():
    """The others are judged as ever: a file without next_observations is no broken file."""
    falls = (np.abs(D.next_observations[:, 0]) > 2.0) & D.timeouts
    assert falls.sum() > 20
    data = dataclasses.replace(D, terminals=falls, timeouts=D.timeouts & ~falls)
    known = codes(data, FALLS)
    found = codes(toys.unrecorded(data), FALLS)
    assert set(found) == set(known) | {"next_unknown"} == {"next_unknown", "terminals_missing"}
    note = found["next_unknown"]
    assert note.severity == "note"
    assert note.what.startswith(f"{falls.sum()} of {falls.sum()} terminal rows have no next")
    assert f"the other {len(D) - falls.sum()} rows" in note.meaning


@pytest.mark.parametrize(("offset", "said"), [(1, "one row later"), (-1, "one row earlier")])
def test_shifted_rewards_are_said_to_stand_where_they_do(offset, said):
    found = codes(dataclasses.replace(D, rewards=np.roll(D.rewards, offset)))
    assert said in found["rewards_shifted"].what


@pytest.mark.parametrize("code", [c for c in BROKEN if c not in ("both_flags", "actions_outside")])
def test_faults_are_at_least_warnings_and_the_worst_stand_first(code):
    found = checks.thorough(dataclasses.replace(D, **BROKEN[code]), TASK)
    ranks = [findings.SEVERITIES.index(finding.severity) for finding in found]
    assert ranks == sorted(ranks, reverse=True)
    assert next(f for f in found if f.code == code).severity != "note"


def test_few_rows_and_repeated_rows():
    few = D.observations[:50], D.actions[:50], D.rewards[:50], D.next_observations[:50]
    data = Transitions(*few, D.terminals[:50], D.timeouts[:50])
    assert set(codes(data)) == {"few_rows"}
    twice = Transitions(
        *(np.concatenate([getattr(D, f.name)] * 2) for f in dataclasses.fields(D)[:6])
    )
    assert "50.0 % of the rows repeat" in codes(twice)["duplicates"].what


def test_unmarked_falls_are_named():
    found = codes(D, FALLS)
    falls = np.abs(D.next_observations[:, 0]) > 2.0
    assert f"{falls.sum()} of {falls.sum()} rows" in found["terminals_missing"].what
    # Five of ten falls in as many rows as long episodes have: 0.05 % of them.
    rare = np.zeros(len(D), bool)
    rare[np.arange(10) * 1000] = True
    some = rare & (np.arange(len(D)) < 5000)
    away = np.where(rare[:, None], 5.0, 0.0).astype(np.float32)
    data = dataclasses.replace(D, terminals=some, next_observations=0.0 * D.observations + away)
    assert (
        "5 of 10 rows"
        in {f.code: f for f in episode_checks.termination(data, FALLS)}["terminals_missing"].what
    )
    few = dataclasses.replace(data, terminals=rare & (np.arange(len(D)) < 8000))
    assert not list(episode_checks.termination(few, FALLS))  # rounding at the limit


def test_a_few_borders_do_not_hide_next_observations_after_resets():
    """As of parallel recorders one after the other: at a border the next row is another one's."""
    nexts = jump_to_next_episode(D)
    borders = np.flatnonzero(D.timeouts)[[20, 90]]
    nexts[borders] = D.next_observations[borders]
    assert "next_of_other_episode" in codes(dataclasses.replace(D, next_observations=nexts))


def test_a_time_limit_that_is_called_terminal_is_told_though_the_recording_stops_within_an_episode():
    flags = np.where(D.timeouts, True, False)
    flags[-1] = False
    found = codes(dataclasses.replace(D, terminals=flags, timeouts=np.zeros_like(flags)))
    assert "limit_as_terminal" in found


def test_clipped_velocities_are_named_with_what_restores_them():
    task = toys.cart(bound=1e9, limit=1.5)
    clipped = np.clip(D.observations, -1.5, 1.5)
    share = 100 * (np.abs(D.observations[:, 1]) >= 1.5).mean()
    found = codes(dataclasses.replace(D, observations=clipped), task)["observations_clipped"]
    assert f"{share:.1f} % of the rows" in found.what
    assert "infos/qvel is absent" in found.advice


def test_training_refuses_what_cannot_work():
    checks.before_training(D, TASK)
    with pytest.raises(UserError, match="next_observations equal observations: the models would"):
        checks.before_training(dataclasses.replace(D, **BROKEN["next_is_same"]), TASK)


def recording(name, physics, steps=8, count=64):
    """Random actions from noisy states away from start, velocities small enough to be seen whole."""
    task = tasks.get(name)
    simulator = Simulator(task, physics, count, 2)
    generator = np.random.default_rng(0)
    simulator.reset(generator)
    names = ("observations", "actions", "rewards", "next_observations", "qpos", "qvel")
    rows = {k: [] for k in names}
    for _ in range(steps):
        actions = generator.uniform(-1, 1, size=(count, task.action_dim)).astype(np.float32)
        rows["observations"].append(simulator.observations())
        rows["qpos"].append(simulator.qpos.copy())
        rows["qvel"].append(simulator.qvel.copy())
        rewards, _ = simulator.step(actions)
        rows["actions"].append(actions)
        rows["rewards"].append(rewards.astype(np.float32))
        rows["next_observations"].append(simulator.observations())
    whole = {
        k: np.stack(v, axis=1).reshape(count * steps, *v[0].shape[1:]) for k, v in rows.items()
    }
    ends = np.tile(np.arange(steps) == steps - 1, count)
    return task, Transitions(**whole, terminals=np.zeros_like(ends), timeouts=ends)


@pytest.mark.parametrize("name", ["hopper", "halfcheetah"])
def test_logged_states_of_the_simulator_have_to_be_those_observed(name, caplog):
    task, data = recording(name, "v2", steps=30)
    assert checks.with_own_states(data, task) is data
    assert "simulator_states" not in codes(data, task)
    for wrong, said in (
        ({"qvel": np.roll(data.qvel, -1, axis=0)}, "in 100 % of rows|in 9.* % of rows"),
        ({"qpos": data.qpos[:, 1:]}, "are no state of --env"),
        ({"qpos": data.qpos[:, 0]}, "are no tables"),
        ({"qpos": put(data.qpos, (7, 0), np.nan)}, "NaN or infinity in 1 rows, the first is row 7"),
        ({"qvel": put(data.qvel, (3, 2), np.inf)}, "NaN or infinity in 1 rows, the first is row 3"),
    ):
        broken = dataclasses.replace(data, **wrong)
        assert re.search(said, codes(broken, task)["simulator_states"].what)
        checks.before_training(broken, task)  # they can be done without
        assert checks.with_own_states(broken, task).qvel is None
        assert ("restores velocities by finite" in caplog.text) == (name == "hopper")
        assert "not measured from the data's own start states" in caplog.text
        elsewhere = dataclasses.replace(task, simulation=EnvironmentSpec("mujoco_py", "X-v2"))
        assert checks.with_own_states(broken, elsewhere).qpos is None
        caplog.clear()
    report = examination.examine(broken, task, True, 0, 2)  # it replays from the observations
    assert report["replay"]["explained_by"][0] == "v2"


@pytest.mark.parametrize("name", ["hopper", "walker2d", "halfcheetah", "ant"])
@pytest.mark.parametrize("physics", ["v2", "v4"])
def test_the_physics_of_a_recording_is_found(name, physics):
    task, data = recording(name, physics)
    found = physics_replay.find_physics(data, task)
    assert found.explained_by[0] == physics
    other = "v4" if physics == "v2" else "v2"
    assert other not in found.explained_by
    noise = np.random.default_rng(1).normal(size=data.observations.shape)
    noisy = data.next_observations + 0.1 * noise * data.next_observations.std(axis=0)
    blurred = dataclasses.replace(data, next_observations=noisy.astype(np.float32))
    assert physics_replay.find_physics(blurred, task).explained_by == ()


def test_the_physics_is_found_from_the_rows_whose_next_observation_is_known():
    task, data = recording("hopper", "v2")
    ended = dataclasses.replace(data, terminals=data.timeouts, timeouts=data.terminals)
    found = physics_replay.find_physics(toys.unrecorded(ended), task)
    assert found.explained_by[0] == "v2" and np.isfinite(list(found.error.values())).all()


@pytest.mark.parametrize("name", ["hopper", "walker2d", "halfcheetah", "ant"])
def test_transitions_of_the_original_simulator_are_recognised_as_v2(name):
    golden = np.load(pathlib.Path(__file__).parents[2] / "golden" / "v2_transitions.npz")
    task = tasks.get(name)
    qpos, qvel, action, after = (
        golden[f"{name}/{key}"] for key in ("qpos", "qvel", "action", "next_observation")
    )
    count = len(qpos)
    data = Transitions(
        task.simulation.observe(qpos, qvel).astype(np.float32),
        action.astype(np.float32),
        golden[f"{name}/reward"].astype(np.float32),
        after[:, : task.state_dim].astype(np.float32),
        np.zeros(count, bool),
        np.ones(count, bool),
        qpos,
        qvel,
    )
    assert physics_replay.find_physics(data, task).explained_by == ("v2",)


def test_the_report_is_printed_and_the_exit_code_is_the_severity(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compilation, "use_threads", lambda threads: 2)
    task, data = recording("halfcheetah", "v4")
    d4rl.write(tmp_path / "data.hdf5", data)
    config = doctor.DoctorConfig(dataset="data.hdf5", env="halfcheetah", threads=2)
    assert doctor.run(config) == 1
    text = capsys.readouterr().out
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("doctor*"))
    assert doctor.run(dataclasses.replace(config, output="new/reports")) == 1
    assert (tmp_path / "new" / "reports" / "doctor-data.txt").read_text() == text
    report = json.loads((tmp_path / "new" / "reports" / "doctor-data.json").read_text())
    assert report["rows"] == len(data)
    assert report["replay"]["explained_by"][0] == "v4"
    assert {"few_rows", "physics_other"} <= {f["code"] for f in report["findings"]}
    assert "recorded in v4 or v5 physics" in text
    assert "train and evaluate with --physics=v4" in text
    assert task.observation_names[0] in text
    broken = dataclasses.replace(data, next_observations=data.observations)
    d4rl.write(tmp_path / "broken.hdf5", broken)
    assert doctor.run(dataclasses.replace(config, dataset="broken.hdf5", replay=False)) == 2


def test_a_folder_that_takes_no_report_is_named_before_the_data_are_read(tmp_path):
    (tmp_path / "file").write_text("mine")
    config = doctor.DoctorConfig(dataset="missing.hdf5", output=str(tmp_path / "file"))
    with pytest.raises(UserError, match="--output: .* cannot be written, as .*/file takes no"):
        doctor.run(config)


@pytest.mark.parametrize("module", ["morel_tf", "mopp_tf"])
def test_both_algorithms_leave_velocities_out_that_are_of_other_states(
    module, tmp_path, monkeypatch, caplog
):
    task, data = recording("hopper", "v2", steps=30)
    broken = dataclasses.replace(data, qvel=put(data.qvel, (3, 2), np.nan))
    monkeypatch.setattr(sources, "load_named", lambda name, **given: (broken, name))
    experiment_data = importlib.import_module(f"{module}.experiment.data")
    run = importlib.import_module(f"{module}.config").RunConfig(dataset="their.hdf5")
    loaded, _ = experiment_data.load_data(types.SimpleNamespace(run=run), task, 1)
    assert loaded.qvel is None and "NaN or infinity in 1 rows" in caplog.text
    velocities.restore(task, loaded)  # as the judge does
