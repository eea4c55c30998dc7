"""Films: the choice of a back end, what stands on a picture, files, and a whole run."""

import dataclasses
import json
import os
import pathlib

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
import toys
from PIL import Image

from offline_tf import render, tasks
from offline_tf.export import loaded, saved_model
from offline_tf.numerics import seeds
from offline_tf.rendering import back_ends, controllers, drawing, episodes, writers
from offline_tf.rendering.back_ends import Choice
from offline_tf.rendering.episodes import Frame, JudgedAction, Scene
from offline_tf.run_folder.record import RunRecord
from offline_tf.tasks.simulator import Simulator, load_model
from offline_tf.types import EnvironmentSpec, UserError

EXAMPLE = pathlib.Path(__file__).parent.parent.parent.parent / "examples" / "tank.py"
SIZE = (96, 72)
FRAME = Frame("", 1.25, 42.0, "known", False, np.zeros(1))


@pytest.fixture(scope="module")
def back_end():
    choice = back_ends.choose()
    if not choice.name:
        pytest.skip(f"no back end draws here: {choice.reason}; {back_ends.INSTALL}")
    return choice.name


@pytest.mark.parametrize(
    ("asked", "working", "name", "tried"),
    [
        ("", {"egl", "osmesa"}, "egl", ["egl"]),
        ("", {"osmesa"}, "osmesa", ["egl", "osmesa"]),
        ("", set(), "", ["egl", "osmesa"]),
        ("OSMesa", {"egl", "osmesa"}, "osmesa", ["osmesa"]),
        ("osmesa", {"egl"}, "", ["osmesa"]),
        ("glfw", {"glfw"}, "glfw", ["glfw"]),
        ("off", {"egl"}, "", []),
    ],
)
def test_the_first_back_end_that_works_is_taken_and_the_users_alone(asked, working, name, tried):
    calls = []

    def fake(back_end):
        calls.append(back_end)
        return "" if back_end in working else f"no {back_end} here"

    choice = back_ends.choose(asked, fake)
    assert (choice.name, calls) == (name, tried)
    assert all(f"no {x} here" in choice.reason for x in tried if x not in working)


def test_a_back_end_that_fails_in_its_process_is_told_in_one_line():
    reason = back_ends.probe("nonsense")
    assert "MUJOCO_GL" in reason and "\n" not in reason


class _Counter:
    """Pays 1, 2, 3, ...; ends after `length` steps; observes the step."""

    def __init__(self, length):
        self.at, self._length = 0, length

    def reset(self, generator):
        self.at = 0

    def observations(self):
        return np.array([[self.at, 0.0]], np.float32)

    def step(self, actions):
        self.at += 1
        self.actions = actions
        return np.array([float(self.at)]), np.array([self.at == self._length])


def test_an_episodes_pictures_carry_time_return_and_every_doubt():
    simulator = _Counter(8)

    def act(observation):
        doubt = observation[0] in (4.0, 6.0)
        return JudgedAction(np.array([5.0]), "unknown" if doubt else "known", doubt)

    look = lambda: np.array([simulator.at])  # noqa: E731
    scene = Scene(simulator, None, look, 0.5)

    def play(steps, title=""):
        stream = seeds.generator(0, "x")
        return episodes.play(
            toys.cart(), scene=scene, act=act, steps=steps, stride=3, generator=stream, title=title
        )

    frames = play(20, "#1 ")
    assert [m.drawn[0] for m in frames] == [0, 3, 6, 8]
    assert [m.seconds for m in frames] == [0.0, 1.5, 3.0, 4.0]
    assert [m.reward for m in frames] == [0, 6, 21, 36]  # n (n + 1) / 2
    assert [m.verdict for m in frames] == ["known", "unknown", "unknown", "ended"]
    assert [m.doubtful for m in frames] == [False, True, True, False]
    assert simulator.actions.tolist() == [[1.0]] and {m.title for m in frames} == {"#1 "}
    cut = play(2)
    assert [m.drawn[0] for m in cut] == [0, 2] and cut[-1].verdict == ""


def _without_robot(model, qpos, back_end, camera="follow"):
    """Pictures, and those of the same places with the robot below the floor."""
    sunk = qpos.copy()
    sunk[:, 1] -= 50.0
    frames = list(drawing.draw(model, np.concatenate([qpos, sunk]), SIZE, camera, back_end))
    return np.array(frames[: len(qpos)], int), np.array(frames[len(qpos) :], int)


def test_the_robot_is_in_the_middle_wherever_it_runs(back_end, hopper):
    model = load_model(hopper, "v2")
    size, mass = model.geom_size.copy(), model.body_mass.copy()
    qpos = np.stack([model.qpos0] * 3)
    qpos[:, 0] = 0.0, 3.3, 500.0  # as from one episode to the next, too: the floor stays
    frames, empty = _without_robot(model, qpos, back_end)
    assert frames.shape == (3, SIZE[1], SIZE[0], 3)
    assert frames.mean() > 40 and frames.std() > 10
    robot = np.abs(frames - empty).max(axis=-1) > 30
    for seen in robot:
        rows, columns = np.nonzero(seen)
        assert seen.sum() > 50 and abs(columns.mean() - SIZE[0] / 2) < 6
        assert rows.min() > 12 and rows.max() < SIZE[1] - 4
    assert not (frames[0] == frames[1]).all()  # the floor goes by
    np.testing.assert_array_equal(model.geom_size, size)
    np.testing.assert_array_equal(model.body_mass, mass)


def test_a_camera_of_the_model_looks_from_elsewhere(back_end, hopper):
    model = load_model(hopper, "v2")
    qpos = np.stack([model.qpos0])
    (own,) = drawing.draw(model, qpos, SIZE, "track", back_end)
    (ours,) = drawing.draw(model, qpos, SIZE, "follow", back_end)
    assert own.std() > 10 and np.abs(own.astype(int) - ours).mean() > 5
    with pytest.raises(UserError, match="back end nonsense fails: "):
        list(drawing.draw(model, qpos, SIZE, "follow", "nonsense"))


def test_an_unknown_picture_has_a_frame_and_other_words():
    picture = np.full((72, 300, 3), 128, np.uint8)
    known, unknown, none = (
        np.asarray(writers.annotate(picture, FRAME._replace(verdict=verdict, doubtful=doubt)))
        for verdict, doubt in (("known", False), ("unknown", True), ("", False))
    )
    assert (known[24:] == 128).all() and (known[:2] == 20).all()
    assert (unknown[-1] == [255, 80, 70]).all() and (unknown[30:60, 10:280] == 128).all()
    assert (known[:20] != none[:20]).any() and (known[:20, :200] == none[:20, :200]).all()
    assert len(np.unique(none[:20, :200])) > 3 and len(np.unique(none[:20, 200:])) == 1


def _squares(count):
    for index in range(count):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[30:40, index : index + 10] = 40, 200, 250
        yield picture


@pytest.mark.parametrize(
    ("count", "fps", "every"), [(7, 31.25, 1), (3, 20.0, 1), (13, 125.0, 3), (4, 50.0, 1)]
)
def test_a_gif_is_in_real_time_and_has_the_colours_of_doubt(tmp_path, count, fps, every):
    doubtful = every
    frames = [FRAME._replace(seconds=i / fps, doubtful=i == doubtful) for i in range(count)]
    kept = writers.write(tmp_path / "a" / "b", _squares(count), frames, fps, 3)
    assert sorted(kept) == writers.evenly(count, 3)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    numbers = range(0, count, every)
    times, pictures = [], []
    with Image.open(tmp_path / "a" / "b" / "episode.gif") as gif:
        assert (gif.n_frames, gif.size) == (len(numbers), (64, 48))
        for index in range(gif.n_frames):
            gif.seek(index)
            times.append(gif.info["duration"])
            pictures.append(np.asarray(gif.convert("RGB"), int))
    assert sum(times) == 10 * round(100 * every * len(numbers) / fps)
    assert max(times) - min(times) <= 10 and min(times) >= 20
    for number, picture in zip(numbers, pictures, strict=True):
        assert np.abs(picture[35, number + 5] - [40, 200, 250]).max() < 12
        assert (np.abs(picture[-1, 5] - [255, 80, 70]).max() < 12) == (number == doubtful)
    with Image.open(tmp_path / "a" / "b" / "frames.png") as row:
        shown = min(count, 8)
        assert row.size == (242 * shown - 2, 240)


def test_an_mp4_has_all_pictures_in_real_time(tmp_path):
    av = pytest.importorskip("av", reason="requirements-render.txt is not installed")
    frames = [FRAME._replace(seconds=i / 31.25) for i in range(9)]
    writers.write(tmp_path / "film", _squares(9), frames, 31.25, 1)
    with av.open(str(tmp_path / "film" / "episode.mp4")) as file:
        stream = file.streams.video[0]
        assert float(stream.average_rate) == 31.25
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(pictures) == 9 and pictures[0].shape == (48, 64, 3)
    assert np.abs(pictures[8][35, 13].astype(int) - [40, 200, 250]).max() < 40


def test_a_film_that_fails_half_way_leaves_nothing(tmp_path):
    def broken():
        yield from _squares(2)
        raise UserError("the back end fails")

    with pytest.raises(UserError):
        writers.write(tmp_path / "film", broken(), [FRAME] * 3, 20.0, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(1, 8, [0]), (3, 8, [0, 1, 2]), (9, 3, [0, 4, 8]), (250, 2, [0, 249])],
)
def test_pictures_are_chosen_evenly(count, wanted, expected):
    assert writers.evenly(count, wanted) == expected


class _Controller(tf.Module):
    """Pulls all motors by the height; known where the robot stands high."""

    def act(self, observation):
        return {"action": tf.tile(observation[:, :1] - 1.2, [1, 3])}

    def is_known(self, observation, action):
        del action
        return {"known": observation[:, 0] > 1.2, "disagreement": observation[:, 0]}

    def act_guarded(self, observation):
        verdict = self.is_known(observation, None)
        return verdict | {"action": 0.0 * observation[:, :3], "fallback_used": ~verdict["known"]}


class _Planner(tf.Module):
    """Keeps a quarter of nothing."""

    def initial_plan(self, observation):
        return {"plan": observation[:, None, :3]}

    def plan(self, observation, plan, seed):
        del seed
        share = 0.25 * tf.ones_like(observation[:, 0])
        return {"action": 0.0 * plan[:, 0], "plan": plan, "kept_share": share}


def _save(module, folder, task, names):
    s = tf.TensorSpec([None, task.state_dim], tf.float32, "observation")
    a = tf.TensorSpec([None, 3], tf.float32, "action")
    plan = tf.TensorSpec([None, 1, 3], tf.float32, "plan")
    inputs = {
        "act": [s],
        "is_known": [s, a],
        "act_guarded": [s],
        "initial_plan": [s],
        "plan": [s, plan, tf.TensorSpec([2], tf.int32, "seed")],
    }
    made = {
        "serving_default" if n == "act" else n: tf.function(
            getattr(module, n)
        ).get_concrete_function(*inputs[n])
        for n in names
    }
    saved_model.save(module, folder, made, task, "words")
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory, hopper):
    folder = tmp_path_factory.mktemp("exports")
    return {
        "morel": _save(_Controller(), folder / "morel", hopper, ["act", "is_known", "act_guarded"]),
        "old": _save(_Controller(), folder / "old", hopper, ["act"]),
        "mopp": _save(_Planner(), folder / "mopp", hopper, ["initial_plan", "plan"]),
    }


def _config(**changes):
    values = {"env": "hopper", "steps": 20, "width": 96, "height": 72} | changes
    return render.RenderConfig(**{k: str(v) if k in _PATHS else v for k, v in values.items()})


_PATHS = ("workdir", "export", "output")


def _record(folder, **flags):
    flags = {"seed": 0, "env": "hopper", "physics": "v4"} | flags
    return RunRecord.create_or_continue(folder, "morel", flags)


def _images(folder):
    found = []
    for path in folder.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            found += [(event.step, v.tag) for v in event.summary.value]
    return found


def test_a_run_is_filmed_in_its_own_physics(back_end, exports, tmp_path, monkeypatch):
    _record(tmp_path / "run")
    seen = []
    monkeypatch.setattr(drawing, "draw", _noted(drawing.draw, seen))
    config = _config(workdir=tmp_path / "run", export=exports["morel"], env="", episodes=2)
    folder = render.run(config, lambda: Choice(back_end, ""))
    assert folder == tmp_path / "run" / "render"
    names = {path.name for path in folder.iterdir()}
    assert {"episode.gif", "frames.png"} <= names <= {"episode.gif", "episode.mp4", "frames.png"}
    # 20 steps of 0.008 s, every fourth drawn, and the last state; twice.
    with Image.open(folder / "episode.gif") as gif:
        assert gif.n_frames == 12
        assert np.asarray(gif.convert("RGB")).std() > 10
    assert len(_images(tmp_path / "run" / "tensorboard")) == 10
    assert {tag for _, tag in _images(tmp_path / "run" / "tensorboard")} == {"render/episode"}
    ((model, states),) = seen
    np.testing.assert_array_equal(model.body_mass, load_model(tasks.get("hopper"), "v4").body_mass)
    simulator = Simulator(tasks.get("hopper"), "v4", 1)
    for index in range(2):
        simulator.reset(seeds.generator(0, "render", index))
        np.testing.assert_array_equal(states[6 * index], simulator.qpos[0])


def _noted(function, seen):
    def wrapped(model, states, *rest):
        seen.append((model, states))
        return function(model, states, *rest)

    return wrapped


def test_what_the_pictures_say_of_each_kind_of_export(exports, tmp_path):
    task, rows = tasks.get("hopper"), np.zeros((2, 11), np.float32)
    rows[:, 0] = 1.1, 1.3
    act, _ = controllers.load(exports["morel"], task, 0, False)
    low, high = act(rows[0]), act(rows[1])
    assert (low.verdict, low.doubtful, high.verdict, high.doubtful) == (
        *("unknown", True),
        *("known", False),
    )
    np.testing.assert_allclose(low.action, [-0.1] * 3, atol=1e-6)
    guarded = controllers.load(exports["morel"], task, 0, True).act(rows[0])
    assert guarded.doubtful and guarded.action.tolist() == [0, 0, 0]
    act, begin = controllers.load(exports["mopp"], task, 0, False)
    begin()
    assert act(rows[0]).verdict == "kept 25 %" and not act(rows[0]).doubtful
    with pytest.raises(UserError, match="--guarded: the export in .* has no act_guarded"):
        controllers.load(exports["mopp"], task, 0, True)
    # An export without a detector; one older than interface.json, in its run folder.
    old = tmp_path / "export"
    exports["old"].rename(old)
    for path in (old, tmp_path):
        said = controllers.load(path, task, 0, False).act(rows[0])
        assert said.verdict == "" and not said.doubtful
        np.testing.assert_allclose(said.action, [-0.1] * 3, atol=1e-6)
        with pytest.raises(UserError, match="--guarded: "):
            controllers.load(path, task, 0, True)
        (old / loaded.INTERFACE).unlink(missing_ok=True)


def test_nothing_is_written_where_nothing_draws(exports, tmp_path, monkeypatch, caplog):
    record = _record(tmp_path / "run")
    monkeypatch.setenv("MUJOCO_GL", "off")
    render.main(_config(workdir=record.folder, export=exports["morel"]))
    assert "MUJOCO_GL" not in os.environ
    assert sorted(p.name for p in record.folder.iterdir()) == ["manifest.json", "run.lock"]
    assert "skipped: nothing can draw here (MUJOCO_GL=off forbids it)" in caplog.text
    assert "apt install" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"export": ""}, "--workdir: expected the folder of a run, or --export"),
        ({"export": "nowhere"}, "expected a run folder or an export"),
        ({"export": "empty"}, "expected a run folder or an export"),
        ({"export": "other"}, r"--export: expected a SavedModel in other .*made again with"),
        ({"workdir": "nowhere"}, "--workdir: expected a run folder"),
        ({"camera": "sky"}, "--camera: expected one of follow, track, got 'sky'"),
        ({"env": "halfcheetah"}, "is of hopper, not of --env=halfcheetah"),
        ({"env": f"{EXAMPLE}:TANK"}, "declares no simulator; there is nothing to film"),
        ({"seed": 2**31}, "--seed: expected a value in"),
        ({"width": 10}, "--width: expected a value in"),
    ],
)
def test_bad_input_is_named(exports, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    tf.saved_model.save(tf.Module(), "other")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        render.run(_config(**({"export": exports["morel"]} | change)), back_ends.choose)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


class _Drawn(gymnasium.Env):
    """Draws a bar as long as the step; moves to what it is told."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def __init__(self, render_mode=None, broken=False):
        self.render_mode, self._broken = render_mode, broken

    def reset(self, seed=None, options=None):
        self._at = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self._at += 1
        return np.array([action[0], self._at], np.float32), 1.0, False, False, {}

    def render(self):
        if self._broken:
            raise RuntimeError("no brush")
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[40, : self._at] = 255
        return picture


@pytest.fixture
def drawn():
    for name, broken in (("Drawn-v0", False), ("Broken-v0", True)):
        gymnasium.register(name, _Drawn, max_episode_steps=6, kwargs={"broken": broken})
    yield "Drawn-v0"
    for name in ("Drawn-v0", "Broken-v0"):
        del gymnasium.registry[name]


def test_an_environment_that_draws_itself_is_filmed_without_a_back_end(drawn, tmp_path):
    class Still(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "observation")])
        def act(self, observation):
            return {"action": observation[:, :1]}

    still = Still()
    tf.saved_model.save(still, str(tmp_path / "still"), signatures={"serving_default": still.act})
    config = _config(export=tmp_path / "still", env=drawn, output=tmp_path / "film", steps=0)
    render.run(config, lambda: pytest.fail("asked for a back end"))
    with Image.open(tmp_path / "film" / "episode.gif") as gif:
        assert gif.n_frames == 7 and gif.info["duration"] == 200
        gif.seek(6)
        assert (np.asarray(gif.convert("L"))[40] > 128).sum() == 6
    with pytest.raises(UserError, match="Broken-v0 makes no pictures here: no brush"):
        render.run(dataclasses.replace(config, env="Broken-v0"), back_ends.choose)


def test_a_gymnasium_robot_is_drawn_from_its_states():
    filmed = episodes.FilmedEnvironment(tasks.get("InvertedPendulum-v5"))
    filmed.reset(seeds.generator(0, "x"))
    before = filmed.look()
    filmed.step(np.ones((1, 1), np.float32))
    assert filmed.model.nq == before.shape[0] == 2 and (filmed.look() != before).any()
    assert filmed.dt == pytest.approx(0.04)
    assert isinstance(tasks.get("InvertedPendulum-v5").simulation, EnvironmentSpec)


def test_flags_come_from_the_run_or_the_export(exports, tmp_path):
    assert controllers.recorded_flags(exports["morel"], None) == {}
    manifest = exports["morel"] / "manifest.json"
    manifest.write_text(json.dumps({"flags": {"env": "ant"}}))
    assert controllers.recorded_flags(exports["morel"], None) == {"env": "ant"}
    manifest.unlink()
    record = _record(tmp_path / "run", env="hopper")
    assert controllers.recorded_flags(exports["morel"], record)["physics"] == "v4"
