import json
import pathlib

import mujoco
import numpy as np
import pytest

from offline_tf import tasks
from offline_tf.tasks import simulator

ROBOTS = ("hopper", "walker2d", "halfcheetah", "ant")
PHYSICS_FILE = pathlib.Path(simulator.__file__).parent / "v2_physics.json"
# kg. Hopper, Walker2d: 1000 kg/m^3 times the sum of pi r^2 l + pi r^3 over the capsules of the xml;
# HalfCheetah: settotalmass="14" in its xml.
TOTAL_MASS = {"hopper": 15.265, "walker2d": 22.698, "halfcheetah": 14.0}


def volumes(model, cap):
    """Volume of each body, a capsule's two ends together counting cap * pi r^3."""
    total = np.zeros(model.nbody)
    for kind, (radius, half, _), body in zip(model.geom_type, model.geom_size, model.geom_bodyid):
        if body and kind == mujoco.mjtGeom.mjGEOM_SPHERE:
            total[body] += 4 / 3 * np.pi * radius**3
        elif body:
            assert kind == mujoco.mjtGeom.mjGEOM_CAPSULE
            total[body] += np.pi * radius**2 * 2 * half + cap * np.pi * radius**3
    return total


def one_step(robot, physics, rows):
    simulators = simulator.Simulator(tasks.get(robot), physics, len(rows["qpos"]), threads=1)
    simulators.set_states(rows["qpos"], rows["qvel"])
    rewards, terminated = simulators.step(rows["action"])
    return simulators, rewards, terminated


@pytest.mark.parametrize("robot", ROBOTS)
def test_v2_model_holds_recorded_constants(robot):
    task = tasks.get(robot)
    model = simulator.load_model(task, "v2")
    recorded = json.loads(PHYSICS_FILE.read_text())[task.simulation.v2_key]
    assert {"body_mass", "body_inertia"} <= set(recorded)
    for field, values in recorded.items():
        np.testing.assert_array_equal(getattr(model, field), np.asarray(values), field)


@pytest.mark.parametrize("physics", ["v2", "v4", "v5"])
def test_a_robots_file_brings_no_warnings_and_no_log(physics, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    simulator.load_model(tasks.get("halfcheetah"), physics)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    text = '<mujoco><compiler settotalmass="1"/><worldbody><geom size="1"/></worldbody></mujoco>'
    mujoco.MjModel.from_xml_string(text)  # others' warnings are still told
    assert "settotalmass" in capfd.readouterr().err


@pytest.mark.parametrize(("robot", "mass"), TOTAL_MASS.items())
def test_v2_total_mass(robot, mass):
    model = simulator.load_model(tasks.get(robot), "v2")
    assert model.body_mass.sum() == pytest.approx(mass, abs=5e-4)


@pytest.mark.parametrize("robot", ROBOTS)
def test_v2_masses_follow_the_old_capsule_formula(robot):
    # MuJoCo 2.1.0 counted a capsule's two caps as pi r^3 instead of 4/3 pi r^3 (simulator.py).
    task = tasks.get(robot)
    new, old = (simulator.load_model(task, physics) for physics in ("v4", "v2"))
    density = new.body_mass[1:] / volumes(new, 4 / 3)[1:]
    expected = density * volumes(new, 1.0)[1:]
    if robot == "halfcheetah":
        expected *= TOTAL_MASS[robot] / expected.sum()
    np.testing.assert_allclose(old.body_mass[1:], expected, rtol=1e-12)


@pytest.mark.parametrize("robot", ROBOTS)
def test_v4_is_another_robot(robot):
    task = tasks.get(robot)
    old, new = (simulator.load_model(task, physics) for physics in ("v2", "v4"))
    assert np.abs(new.body_mass / np.maximum(old.body_mass, 1e-9) - 1)[1:].max() > 0.01
    assert np.abs(new.body_inertia - old.body_inertia).max() > 1e-4
    xml = simulator.load_model(task, "v5")
    if robot != "walker2d":  # Gymnasium's Walker2d-v5 has a file of its own (foot friction).
        np.testing.assert_array_equal(xml.body_mass, new.body_mass)


@pytest.mark.parametrize("robot", ROBOTS)
def test_v2_reproduces_mujoco_py(robot, golden):
    rows = golden[robot]
    simulators, rewards, terminated = one_step(robot, "v2", rows)
    np.testing.assert_allclose(simulators.qpos, rows["next_qpos"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(simulators.qvel, rows["next_qvel"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(terminated, rows["done"])
    # Gym's Ant computes its speed from the torso's xpos, which mj_step leaves at its last
    # Runge-Kutta stage; ours takes qpos after the step.
    atol = 0.05 if robot == "ant" else 1e-9
    np.testing.assert_allclose(rewards, rows["reward"], rtol=0, atol=atol)
    # Gym's Ant shows 84 contact forces more, all zero with MuJoCo 2.1.
    seen = rows["next_observation"][:, : simulators.task.state_dim]
    np.testing.assert_allclose(simulators.observations(), seen, rtol=2**-23, atol=1e-9)
    assert not rows["next_observation"][:, simulators.task.state_dim :].any()


@pytest.mark.parametrize("robot", ROBOTS)
def test_v4_does_not_reproduce_mujoco_py(robot, golden):
    rows = golden[robot]
    simulators, _, _ = one_step(robot, "v4", rows)
    # Measured: 0.14 (hopper) to 2.6 (halfcheetah).
    assert np.abs(simulators.qvel - rows["next_qvel"]).max() > 0.1


def test_golden_states_touch_the_floor_and_fall(golden):
    for robot, rows in golden.items():
        assert len(rows["qpos"]) == 200
        assert 0 < (rows["floor_contacts"] > 0).sum() < 200
        assert rows["done"].any() == (robot != "halfcheetah")
