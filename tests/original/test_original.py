"""The tooling of the papers beside ours; `./run.sh original-test` installs it (Python 3.10)."""

import os
import warnings

import numpy as np
import pytest

from mopp_tf import evaluate as mopp_evaluate
from mopp_tf.config import STAGES
from mopp_tf.control_config import ControlConfig
from mopp_tf.experiment import recipe
from mopp_tf.experiment.configs import Configs
from offline_tf import tasks
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.simulated import collection
from offline_tf.evaluation import policy_episodes
from offline_tf.numerics import seeds
from offline_tf.policies import gaussian
from offline_tf.tasks import environments

if "MUJOCO_PY_MUJOCO_PATH" not in os.environ:
    pytest.skip("needs the original tooling", allow_module_level=True)
os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "1"
warnings.simplefilter("ignore")
gym = pytest.importorskip("gym")

ROBOTS = ("hopper", "walker2d", "halfcheetah", "ant")
# Of positions and velocities. Ant's reward reads another position (docs/results/physics.md).
TOLERANCES = {"hopper": 1e-12, "walker2d": 1e-11, "halfcheetah": 1e-10, "ant": 1e-11}


@pytest.mark.parametrize("robot", ROBOTS)
def test_v2_physics_is_that_of_mujoco_py(robot):
    """Each step starts from the same state; both constraint solvers start cold."""
    task = tasks.get(robot)
    behavior, _ = gaussian.load(gaussian.shipped(robot))
    ours = environments.make_simulator(task, "v2", 40, 1)
    old = environments.make_simulator(tasks.get(robot, "mujoco_py"), "v2", 40)
    ours.reset(np.random.default_rng(0))
    generator = np.random.default_rng(1)
    worst = np.zeros(3)
    for _ in range(25):
        actions = task.clip_actions(behavior.sample(ours.observations(), generator))
        if (
            robot == "ant"
        ):  # old MuJoCo brings the torso's quaternion to length 1 where a state is set
            qpos = ours.qpos.copy()
            qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
            ours.set_states(qpos, ours.qvel.copy())
        old.set_states(ours.qpos.copy(), ours.qvel.copy())
        np.testing.assert_allclose(old.observations(), ours.observations(), rtol=1e-6, atol=1e-7)
        for environment in old._environments:
            environment.sim.data.qacc_warmstart[:] = 0
        paid, ended = old.step(actions)
        rewards, terminated = ours.step(actions)
        np.testing.assert_array_equal(ended, terminated)
        off = [np.abs(a - b).max() for a, b in ((old.qpos, ours.qpos), (old.qvel, ours.qvel))]
        worst = np.maximum(worst, [*off, np.abs(paid - rewards).max()])
        ours.reset(generator, terminated)
    print(f"{robot}: positions {worst[0]:.1e}, velocities {worst[1]:.1e}, rewards {worst[2]:.1e}")
    assert worst[:2].max() < TOLERANCES[robot]
    assert worst[2] < (0.1 if robot == "ant" else 1e-12)


@pytest.mark.parametrize("robot", ["hopper", "walker2d", "halfcheetah"])
def test_a_policy_scores_the_same_in_both(robot):
    task, old = tasks.get(robot), tasks.get(robot, "mujoco_py")
    behavior, _ = gaussian.load(gaussian.shipped(f"{robot}-medium"))
    ours, theirs = (
        policy_episodes.evaluate(
            behavior,
            task=t,
            physics="v2",
            episodes=40,
            stochastic=True,
            seed=0,
            name=name,
            threads=2,
        )
        for t, name in ((task, "ours"), (old, "theirs"))
    )
    error = np.hypot(ours.std, theirs.std) / np.sqrt(40)
    print(f"{robot}: mujoco {ours.mean:.0f} +- {ours.std:.0f}, mujoco_py {theirs.mean:.0f}")
    assert abs(ours.mean - theirs.mean) < 3.0 * error


def test_d4rl_reads_what_we_read(tmp_path):
    __import__("d4rl.gym_mujoco")
    task = tasks.get("walker2d")
    behavior, _ = gaussian.load(gaussian.shipped("walker2d-medium"))
    data = collection.collect(
        task, physics="v2", policy=behavior, exploration="pure", num_steps=3000, seed=0
    ).transitions
    path = tmp_path / "walker2d_medium-v2.hdf5"
    d4rl.write(path, data)
    theirs = gym.make("walker2d-medium-v2").get_dataset(h5path=str(path))
    ours = d4rl.read(path, task.state_dim)
    for name in ("observations", "actions", "rewards", "next_observations", "terminals"):
        np.testing.assert_array_equal(theirs[name], getattr(ours, name))
    np.testing.assert_array_equal(theirs["timeouts"], ours.timeouts)


def test_a_run_is_made_and_evaluated_in_openai_gym(tmp_path, monkeypatch):
    small = {
        "simulator": "mujoco_py",
        "env": "hopper",
        "preset": "default",
        "workdir": str(tmp_path / "run"),
        "data_dir": str(tmp_path / "data"),
        "data_steps": 3000,
        "dataset": "medium-ours",
        "eval_episodes": 2,
        "threads": 1,
        "encoder_hidden": (8,),
        "head_hidden": (8,),
        "q_hidden": (8,),
        "dynamics_steps": 20,
        "behavior_steps": 20,
        "q_steps": 20,
        "population": 4,
    }
    parts = []
    for stage in STAGES:
        names = {field.name for field in stage.__dataclass_fields__.values()}
        parts.append(stage(**{k: v for k, v in small.items() if k in names}))
    summary = recipe.run(Configs(*parts))
    assert summary["physics"] == "mujoco_py Hopper-v2"
    assert summary["true_return_mean"] > 0.0
    mopp_evaluate.main(
        mopp_evaluate.EvaluateConfig(
            workdir=str(tmp_path / "run"), episodes=1, simulator="mujoco_py", threads=1
        ),
        ControlConfig(),
    )
    assert '"mujoco_py Hopper-v2"' in (tmp_path / "run" / "evaluation.json").read_text()


def test_the_start_states_are_those_of_gym():
    old = environments.make_simulator(tasks.get("hopper", "mujoco_py"), "v2", 30)
    old.reset(seeds.generator(0, "starts"))
    assert 0.0 < np.abs(old.qvel).max() <= 5e-3
    np.testing.assert_allclose(old.qpos[:, 1], 1.25, atol=5e-3)
    assert len(np.unique(old.qpos[:, 1])) == 30
