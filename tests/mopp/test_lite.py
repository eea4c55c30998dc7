import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mopp_tf import algorithm, lite
from mopp_tf.config import BehaviorConfig, DynamicsConfig, ModelConfig, PlannerConfig, QConfig
from mopp_tf.experiment import export_planner
from mopp_tf.models import rows
from mopp_tf.objectives import Objective
from mopp_tf.planning import rollout
from mopp_tf.planning.planner import Planner
from offline_tf import tasks
from offline_tf.numerics.standardize import Statistics
from offline_tf.types import UserError

TASK = tasks.get("hopper")
KNOBS = PlannerConfig(population=6, horizon=2, q_proposals=3, plan_mix=0.3, sigma_max=0.25)
LIMITS = {"mlp": 0.8, "adm": 1.1}  # some candidates are above, some below
STATES = np.random.default_rng(3).normal(size=(5, 11)).astype(np.float32)


def make_planner(knobs=KNOBS, components=1, network="mlp"):
    models = algorithm.Knobs(
        ModelConfig(encoder_hidden=(16,), head_hidden=(8,), network=network),
        DynamicsConfig(dynamics_members=2),
        BehaviorConfig(behavior_members=2, components=components),
        QConfig(q_hidden=(40, 40)),
        knobs,
    )

    def plain(width):
        return Statistics(np.zeros(width, np.float32), np.ones(width, np.float32))

    prepared = algorithm.Prepared(
        rows.RewardScale(0.0, 1.0),
        rows.Normalizer(plain(11), plain(3), plain(12)),
        np.ones(12, np.float32),
    )
    built: rollout.Models = algorithm.build(TASK, models, prepared)
    return Planner(
        TASK, models=built, knobs=knobs, limit=LIMITS[network], objective=Objective(prepared.scale)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite")
    planner = make_planner()
    return planner, folder, export_planner.write_lite(planner, folder, STATES)


def live(planner, given):
    """`decide_given` with a file's inputs."""
    noise = [
        rollout.autoregressive_density.Noise(given[f"normal_{name}"], given.get(f"uniform_{name}"))
        for name in ("proposals", "value")
    ]
    return planner.decide_given(
        tf.constant(given["observation"]),
        tf.constant(given["plan"]),
        rollout.Noise(
            planner.members(given["uniform_members"]),
            noise[0].each(lambda x: tf.constant(x)[:, :, None]),
            noise[1].each(lambda x: tf.constant(x)[:, None]),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "components", "network"),
    [
        ({}, 1, "mlp"),
        ({"proposals": "ancestral", "fallback": "replace", "value_noise": "own"}, 3, "adm"),
        ({"max_q": False, "noise": "after"}, 1, "adm"),
        ({"terminal_value": False}, 3, "mlp"),
    ],
)
def test_a_file_decides_as_the_live_planner_does_with_the_same_noise(
    tmp_path, changes, components, network
):
    planner = make_planner(dataclasses.replace(KNOBS, **changes), components, network)
    path = tmp_path / "planner.tflite"
    made = export_planner.Lite(planner).signatures()
    export_planner.saved_model.save_constant_lite(made, path)
    file, generator = lite.Planner(path), np.random.default_rng(0)
    plan = np.random.default_rng(1).uniform(-1, 1, (1, 2, 3)).astype(np.float32)
    shares = []
    for state in STATES:
        given = {"observation": state[None], "plan": plan, **file.noise(generator)}
        assert ("uniform_proposals" in given) == (components > 1)
        found, expected = file.call(given), live(planner, given)
        for name in ("action", "plan", "kept_share", "disagreement", "expected_return"):
            np.testing.assert_allclose(
                found[name], getattr(expected, name), rtol=1e-4, atol=1e-5, err_msg=name
            )
        plan = found["plan"]
        shares.append(found["kept_share"])
    assert 0.0 < np.mean(shares) < 1.0  # pruning took part


def test_what_is_written_and_what_is_said_of_it(written):
    _, folder, differences = written
    whole, small = (folder / f"{name}.tflite" for name in ("planner", "planner_int8"))
    assert small.stat().st_size < 0.75 * whole.stat().st_size
    assert sorted(p.name for p in folder.iterdir()) == ["planner.tflite", "planner_int8.tflite"]
    assert 0.0 <= differences["float32"] < 1e-5
    assert 1e-5 < differences["int8"] < differences["noise"]


def test_a_file_that_differs_is_an_error(written, tmp_path, monkeypatch):
    planner, folder, _ = written

    def off(path, given):
        return {"plan": {"action": given["plan"]["plan"][:, 0], "plan": given["plan"]["plan"]}}

    monkeypatch.setattr(export_planner.saved_model, "run_in_fresh_process", off)
    made = shutil.copytree(folder, tmp_path / "made")
    # Writing takes seconds.
    monkeypatch.setattr(export_planner.saved_model, "save_constant_lite", lambda *_: None)
    with pytest.raises(RuntimeError, match="differ by"):
        export_planner.write_lite(planner, made, STATES[:1])


def test_an_episode_remembers_its_plan_until_it_is_reset(written):
    _, folder, _ = written
    path = folder / "planner.tflite"
    first, again = lite.Planner(path, seed=4), lite.Planner(path, seed=4)
    actions = [first.act(STATES[0]) for _ in range(3)]
    np.testing.assert_array_equal(actions, [again.act(STATES[0]) for _ in range(3)])
    assert np.abs(lite.Planner(path, seed=5).act(STATES[0]) - actions[0]).max() > 1e-3
    assert actions[0].shape == (3,) and np.abs(actions).max() <= 1.0
    assert set(first.decision) == {
        "action",
        "plan",
        "kept_share",
        "disagreement",
        "expected_return",
    }
    # The plan matters (plan_mix is not 0), so forgetting it does.
    again.reset()
    assert again.decision == {}
    assert np.abs(again.act(STATES[0]) - first.act(STATES[0])).max() > 1e-4


def test_the_noise_has_its_names_distributions(written):
    _, folder, _ = written
    file, generator = lite.Planner(folder / "planner.tflite"), np.random.default_rng(0)
    many = [file.noise(generator) for _ in range(2000)]
    assert set(many[0]) == {"normal_proposals", "normal_value", "uniform_members"}
    normal = np.stack([one["normal_proposals"] for one in many])
    assert normal.shape == (2000, 2, 3, 6, 3) and normal.dtype == np.float32
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1.0) < 0.01
    uniform = np.stack([one["uniform_members"] for one in many])
    assert uniform.shape == (2000, 3, 2)
    assert uniform.min() > 0.0 and uniform.max() < 1.0 and abs(uniform.mean() - 0.5) < 0.01


def test_bad_input_is_told(written, tmp_path):
    _, folder, _ = written
    with pytest.raises(ValueError, match=r"expected an observation of shape \(11,\), got \(10,\)"):
        lite.Planner(folder / "planner.tflite").act(np.zeros(10))
    made = lite.Planner(folder / "planner.tflite")
    for bad in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="expected an observation of finite numbers"):
            made.act(np.full(11, bad))
    assert np.isfinite(made.act(np.zeros(11))).all()
    with pytest.raises(UserError, match=r"expected a file planner.tflite, found none at .*none"):
        lite.Planner(tmp_path / "none")
    (tmp_path / "text.tflite").write_text("no planner")
    with pytest.raises(UserError, match="expected a planner in LiteRT's format"):
        lite.Planner(tmp_path / "text.tflite")
    with pytest.raises(UserError, match="expected a run of MOPP, got one of MBOP"):
        export_planner.check_lite(object())


@pytest.mark.parametrize("eight_bits", [False, True])
def test_the_decider_plans_for_each_environment(written, eight_bits):
    planner, _, _ = written
    decider = export_planner.LiteDecider(planner, eight_bits, 1)
    start = decider.start(tf.constant(STATES))
    np.testing.assert_allclose(start, planner.initial_plan(tf.constant(STATES)), atol=1e-6)
    action, plan, numbers = decider(tf.constant(STATES), start, tf.constant([1, 2]))
    again, _, _ = decider(tf.constant(STATES), start, tf.constant([1, 2]))
    np.testing.assert_array_equal(action, again)
    assert action.shape == (5, 3) and plan.shape == (5, 2, 3)
    assert {name: value.shape for name, value in numbers.items()} == {
        "kept_share": (5,),
        "disagreement": (5,),
        "expected_return": (5,),
    }
    assert np.isfinite(action).all() and np.abs(np.diff(action, axis=0)).min() > 0
    # One generator gives the environments their noise in turn.
    generator = np.random.default_rng([1, 2])
    for row in range(5):
        given = {"observation": STATES[row : row + 1], "plan": start[row : row + 1]}
        one = decider._file.call(given | decider._file.noise(generator))
        np.testing.assert_array_equal(action[row : row + 1], one["action"])
        np.testing.assert_array_equal(plan[row : row + 1], one["plan"])
        for name in ("kept_share", "expected_return"):
            np.testing.assert_array_equal(numbers[name][row], one[name][0])
        np.testing.assert_allclose(numbers["disagreement"][row], one["disagreement"].mean())


def test_it_imports_no_tensorflow():
    code = "import sys, mopp_tf.lite; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
