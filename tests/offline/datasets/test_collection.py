import contextlib
import dataclasses
import functools
import math
import pathlib

import h5py
import numpy as np
import pytest
import toys

from offline_tf import collect as collect_binary
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.formats import d4rl
from offline_tf.datasets.simulated import collection, generated
from offline_tf.policies import gaussian
from offline_tf.policies.gaussian import NumpyPolicy
from offline_tf.tasks.simulator import Simulator
from offline_tf.types import EnvironmentSpec, UserError

STEPS = 1000


def collect(hopper, policy, exploration="eps3", seed=3, **options):
    return collection.collect(
        hopper,
        physics="v2",
        policy=policy,
        exploration=exploration,
        num_steps=STEPS,
        seed=seed,
        threads=1,
        **options,
    )


@pytest.fixture(scope="module")
def collected(hopper, hopper_policy):
    return collect(hopper, hopper_policy)


def columns(found):
    data = found.transitions
    return [*vars(data).values(), found.log_probs, found.components]


def normal_log_density(action, mean, std):
    """Log density of a diagonal Gaussian, one dimension after the other."""
    total = 0.0
    for a, m, s in zip(action, mean, std):
        total += -((a - m) ** 2) / (2 * s**2) - math.log(s * math.sqrt(2 * math.pi))
    return total


def log_density(component, action, mean, log_std):
    """Hopper's actions are in [-1, 1]^3: the uniform density is 1/8 inside, 0 outside."""
    std = np.exp(np.asarray(log_std, np.float64))
    if component == "random":
        return math.log(1 / 8)
    if component.startswith("gauss"):
        noise = {"gauss1": 0.1, "gauss3": 0.3}[component]  # MOReL, section 5
        return normal_log_density(action, mean, [math.hypot(s, noise) for s in std])
    density = math.exp(normal_log_density(action, mean, std))
    if component.startswith("eps"):
        share = {"eps1": 0.1, "eps3": 0.3}[component]  # MOReL, section 5
        uniform = 1 / 8 if max(abs(x) for x in action) <= 1 else 0.0
        density = (1 - share) * density + share * uniform
    return math.log(density)


def test_same_seed_same_arrays(hopper, hopper_policy, collected):
    for first, second in zip(columns(collected), columns(collect(hopper, hopper_policy))):
        np.testing.assert_array_equal(first, second)


def test_threads_do_not_change_the_data(hopper, hopper_policy, collected):
    other = collection.collect(
        hopper,
        physics="v2",
        policy=hopper_policy,
        exploration="eps3",
        num_steps=STEPS,
        seed=3,
        threads=2,
    )
    for first, second in zip(columns(collected), columns(other)):
        np.testing.assert_array_equal(first, second)


def test_other_seed_other_arrays(hopper, hopper_policy, collected):
    other = collect(hopper, hopper_policy, seed=4)
    shared = np.isin(other.transitions.qpos[:, 0], collected.transitions.qpos[:, 0])
    assert not shared.any()


@pytest.mark.parametrize("exploration", ["eps1", "eps3", "gauss1", "gauss3"])
@pytest.mark.parametrize("steps", [100, 1000, 1_000_000, 1003])
def test_noisy_budgets_are_40_40_20(exploration, steps):
    parts = collection.budget(exploration, steps)
    assert list(parts) == ["policy", exploration, "random"]
    assert sum(parts.values()) == steps
    shares = [parts[name] / steps for name in parts]
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.2], atol=2 / steps)


def test_plain_budgets():
    assert collection.budget("pure", 77) == {"policy": 77}
    assert collection.budget("random", 77) == {"random": 77}


def test_rows_of_each_component_are_the_budget(collected):
    counts = np.bincount(collected.components, minlength=len(collection.COMPONENTS))
    found = dict(zip(collection.COMPONENTS, counts))
    # 40 %, 40 % and 20 % of 1,000 rows.
    assert found == {"policy": 400, "eps1": 0, "eps3": 400, "gauss1": 0, "gauss3": 0, "random": 200}


def test_component_is_constant_within_an_episode(collected):
    episodes = list(collected.transitions.episodes())
    kinds = [np.unique(collected.components[rows]) for rows in episodes]
    assert all(len(kind) == 1 for kind in kinds)
    # Shuffled: three components lying one after the other would change kind twice only.
    assert np.count_nonzero(np.diff(np.concatenate(kinds).astype(int))) > 2


def test_next_observation_continues_until_the_episode_ends(collected):
    data = collected.transitions
    continues = (data.next_observations[:-1] == data.observations[1:]).all(axis=1)
    ended = data.terminals | data.timeouts
    np.testing.assert_array_equal(continues, ~ended[:-1])
    assert ended[-1]
    assert not (data.terminals & data.timeouts).any()
    assert data.terminals.any() and data.timeouts.any()


def test_replaying_each_row_gives_reward_and_next_observation(hopper, collected):
    data = collected.transitions
    simulator = Simulator(hopper, "v2", len(data), threads=1)
    simulator.set_states(data.qpos, data.qvel)
    np.testing.assert_array_equal(simulator.observations(), data.observations)
    rewards, terminated = simulator.step(data.actions)
    np.testing.assert_array_equal(rewards.astype(np.float32), data.rewards)
    np.testing.assert_array_equal(simulator.observations(), data.next_observations)
    np.testing.assert_array_equal(terminated, data.terminals)


def test_episodes_begin_at_start_states(hopper, collected):
    data = collected.transitions
    first = data.episode_bounds()[:, 0]
    qpos0 = [0, 1.25, 0, 0, 0, 0]  # rest position of hopper.xml
    assert np.abs(data.qpos[first] - qpos0).max() <= 5e-3  # reset_noise_scale of hopper_v4.py


def test_actions_are_within_the_bounds_and_float32(collected):
    actions = collected.transitions.actions
    assert actions.dtype == np.float32
    assert np.abs(actions).max() == 1.0  # some were clipped


def test_logged_log_probs_are_those_of_the_rows(hopper_policy, collected):
    data = collected.transitions
    inside = (np.abs(data.actions) < 1).all(axis=1)  # the drawn action is known where not clipped
    assert inside.sum() > 100
    mean = hopper_policy.mean(data.observations)
    for row in np.flatnonzero(inside):
        component = collection.COMPONENTS[collected.components[row]]
        expected = log_density(component, data.actions[row], mean[row], hopper_policy.log_std)
        assert collected.log_probs[row] == pytest.approx(expected, abs=2e-4)


def toy_policy():
    """Mean actions that partly lie out of the bounds; a small standard deviation."""
    kernel = np.zeros((11, 3), np.float32)
    kernel[0] = 0.2, 0.5, -0.8
    bias = np.float32([0.1, -0.2, 0.3])
    return NumpyPolicy(toys.plain_units(11, 3), ((kernel, bias),), np.float32([-1.0, -2.0, -3.0]))


def draw(hopper, component, stochastic=True, count=400):
    observations = np.random.default_rng(0).normal(size=(count, 11)).astype(np.float32)
    generator = np.random.default_rng(1)
    policy = None if component == "random" else toy_policy()
    drawn = collection.draw_actions(
        component,
        task=hopper,
        policy=policy,
        stochastic=stochastic,
        observations=observations,
        generator=generator,
    )
    return observations, *drawn


@pytest.mark.parametrize("component", collection.COMPONENTS)
def test_log_density_equals_the_naive_one(hopper, component):
    observations, actions, log_probs = draw(hopper, component)
    policy = toy_policy()
    means = observations.astype(np.float64) @ policy.layers[0][0] + policy.layers[0][1]
    expected = [log_density(component, *row, policy.log_std) for row in zip(actions, means)]
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-4)


def test_mean_actions_have_no_density(hopper):
    for component in ("policy", "eps1", "eps3"):
        observations, actions, log_probs = draw(hopper, component, stochastic=False)
        assert np.isnan(log_probs).all()
        kept = (actions == toy_policy().mean(observations)).all(axis=1)
        # Shares of eps-greedy, MOReL, section 5; five standard deviations of a binomial of 400.
        share = {"policy": 0.0, "eps1": 0.1, "eps3": 0.3}[component]
        assert abs((~kept).mean() - share) <= 5 * math.sqrt(share * (1 - share) / 400)


@pytest.mark.parametrize(("component", "noise"), [("gauss1", 0.1), ("gauss3", 0.3)])
def test_gaussian_noise_around_mean_actions_has_its_density(hopper, component, noise):
    observations, actions, log_probs = draw(hopper, component, stochastic=False)
    offsets = actions - toy_policy().mean(observations)
    # 1,200 draws: the standard deviation is known to 1 / sqrt(2400), 2 %; five of those.
    np.testing.assert_allclose(offsets.std(), noise, rtol=0.1)
    expected = [normal_log_density(row, [0, 0, 0], [noise] * 3) for row in offsets]
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-4)


def test_collected_mean_actions_have_no_log_probs(hopper, hopper_policy):
    found = collect(hopper, hopper_policy, exploration="gauss1", stochastic=False)
    bare = found.components == collection.COMPONENTS.index("policy")
    np.testing.assert_array_equal(np.isnan(found.log_probs), bare)


class CountingSimulator:
    """Episodes whose lengths are known in advance: the n-th to start lasts LENGTHS[n % 15] steps.

    An observation is (number of the episode, steps done in it).
    """

    LENGTHS = (9, 1, 2, 1, 7, 1, 1, 3, 1, 12, 1, 1, 1, 2, 8)

    def __init__(self, task, physics, count, threads):
        self.task, self.count, self.started = task, count, 0
        self.number, self.elapsed = np.zeros(count, int), np.zeros(count, int)
        self.qpos = self.qvel = np.zeros((count, 6))

    def reset(self, generator, which=None):
        for k in range(self.count):
            if which is None or which[k]:
                self.number[k], self.elapsed[k] = self.started, 0
                self.started += 1

    def observations(self):
        return np.stack([self.number, self.elapsed], axis=1).astype(np.float32)

    def step(self, actions):
        self.elapsed += 1
        return np.ones(self.count), self.elapsed >= np.take(self.LENGTHS, self.number % 15)


@pytest.mark.parametrize("simulators", [1, 2, 5])
@pytest.mark.parametrize("steps", [500, 507, 511])
def test_episodes_are_kept_in_the_order_they_start(hopper, monkeypatch, simulators, steps):
    # Keeping them in the order in which they end would prefer the short ones.
    monkeypatch.setattr(collection.environments, "make_simulator", CountingSimulator)
    found = collection.collect(
        hopper,
        physics="v2",
        policy=None,
        exploration="random",
        num_steps=steps,
        seed=0,
        simulators=simulators,
    )
    data = found.transitions
    lengths = {}
    for rows in data.episodes():
        number = data.observations[rows, 0]
        assert (number == number[0]).all()
        np.testing.assert_array_equal(data.observations[rows, 1], np.arange(len(number)))
        lengths[int(number[0])] = len(number)
    expected, left = {}, steps
    while left:
        number = len(expected)
        expected[number] = min(CountingSimulator.LENGTHS[number % 15], left)
        left -= expected[number]
    assert lengths == expected


def test_progress_is_reported(hopper, hopper_policy):
    calls = []
    collection.collect(
        hopper,
        physics="v2",
        policy=hopper_policy,
        exploration="eps1",
        num_steps=300,
        seed=0,
        threads=1,
        progress=calls.append,
    )
    assert calls == sorted(calls) and 0 < calls[0] < 10 and calls[-1] == 300


def waited_for(exploration, folder):
    """What `generated.load_or_make` takes beside the task, for 300 steps."""
    return {
        "physics": "v2",
        "exploration": exploration,
        "num_steps": 300,
        "seed": 5,
        "data_dir": str(folder),
        "threads": 1,
    }


def test_who_waited_for_data_reads_what_the_other_made(hopper, tmp_path, monkeypatch):
    arguments = waited_for("random", tmp_path)
    generated.load_or_make(hopper, **arguments)
    (path,) = tmp_path.glob("*.hdf5")
    path.rename(tmp_path / "kept")
    monkeypatch.setattr(generated, "make", lambda *_, **__: pytest.fail("made twice"))
    asked = []

    @contextlib.contextmanager
    def held(lock):  # the other process ends while this one waits
        asked.append(lock.name)
        (tmp_path / "kept").rename(path)
        yield

    monkeypatch.setattr(generated.locks, "held", held)
    assert len(generated.load_or_make(hopper, **arguments)[0]) == 300
    assert asked == [path.with_suffix(".lock").name]


def test_data_of_a_run_is_made_once(hopper, tmp_path):
    arguments = waited_for("random", tmp_path)
    first, name = generated.load_or_make(hopper, **arguments)
    (path,) = tmp_path.glob("*.hdf5")
    assert path.name == f"{name}.hdf5" == "hopper-v2-random-300-seed5.hdf5"
    changed = path.stat().st_mtime_ns
    second, _ = generated.load_or_make(hopper, **arguments)
    assert path.stat().st_mtime_ns == changed
    assert d4rl.content_hash(first) == d4rl.content_hash(second)
    np.testing.assert_array_equal(first.qvel, second.qvel)
    direct = collection.collect(
        hopper, physics="v2", policy=None, exploration="random", num_steps=300, seed=5, threads=1
    )
    assert d4rl.content_hash(direct.transitions) == d4rl.content_hash(first)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["infos/action_log_probs"], direct.log_probs)
        np.testing.assert_array_equal(file["infos/component"], direct.components)
        assert file.attrs["task"] == "hopper" and file.attrs["seed"] == 5
        assert file.attrs["behavior_policy"] == "none"


def test_plants_of_one_name_do_not_share_their_data():
    one, other, robot = (
        dataclasses.replace(
            toys.cart(), simulation=EnvironmentSpec("gymnasium", module + ":Cart-v0")
        )
        for module in ("mod_a", "mod_b", "mod_a")
    )
    assert generated.stem(one, "v2") == generated.stem(robot, "v2") != generated.stem(other, "v2")


def test_another_behaviour_policy_means_other_data(hopper, tmp_path, monkeypatch):
    arguments = waited_for("pure", tmp_path / "data")
    first, name = generated.load_or_make(hopper, **arguments)
    other, about = gaussian.load(gaussian.shipped("hopper"))
    path = tmp_path / "other.npz"
    gaussian.save(path, dataclasses.replace(other, log_std=other.log_std - 1), about)
    monkeypatch.setattr(gaussian, "shipped", lambda task_name: path)
    second, same_name = generated.load_or_make(hopper, **arguments)
    assert name == same_name
    assert len(list((tmp_path / "data").glob(f"{name}-*.hdf5"))) == 2
    assert d4rl.content_hash(first) != d4rl.content_hash(second)


def test_a_few_rows_leave_components_out(hopper, hopper_policy):
    found = collection.collect(
        hopper,
        physics="v2",
        policy=hopper_policy,
        exploration="eps1",
        num_steps=4,
        seed=0,
        threads=1,
    )
    assert len(found.transitions) == 4


def test_a_policy_of_another_robot_and_a_folder_that_is_none_are_named(hopper, tmp_path):
    shipped, walker = gaussian.shipped("hopper"), tasks.get("walker2d")
    message = "takes 11 observations and gives 3 actions, --env=walker2d has 17 and 6"
    with pytest.raises(UserError, match=message):
        generated.make(
            tmp_path / "data.hdf5",
            task=walker,
            physics="v2",
            exploration="pure",
            num_steps=300,
            seed=0,
            stochastic=True,
            policy_path=shipped,
            threads=1,
        )
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output: .* cannot be written, as .*file takes no files"):
        collect_binary.main(
            collect_binary.CollectConfig(output=str(tmp_path / "file" / "data.hdf5"))
        )
    for kind in ("expert-ours", "mixed-ours"):
        with pytest.raises(UserError, match="--data_dir: .*file takes no files"):
            generated.load_or_make_kind(
                hopper,
                physics="v2",
                kind=kind,
                num_steps=300,
                seed=0,
                data_dir=str(tmp_path / "file"),
                threads=1,
            )


def test_two_data_sets_one_after_the_other(tmp_path):
    first, second = toys.transitions((5, 4)), toys.transitions((3,), seed=1)
    first.terminals[-1], first.timeouts[-1] = False, False  # cut without a word
    both = generated.joined(first, second)
    np.testing.assert_array_equal(both.episode_bounds(), [[0, 5], [5, 9], [9, 12]])
    np.testing.assert_array_equal(both.observations[9:], second.observations)
    assert both.timeouts[8] and not both.terminals[8]
    first.terminals[-1] = True
    assert not generated.joined(first, second).timeouts[8]


def test_mixed_data_are_whole_episodes_up_to_the_budget():
    data = toys.transitions((20, 7, 20, 9, 6))  # 7 and 9 end in a terminal state, 6 was cut
    lengths, orders = set(), set()
    for seed in range(8):
        found = generated.whole_episodes(data, 50, seed)
        bounds = found.episode_bounds()
        sizes = tuple((bounds[:, 1] - bounds[:, 0]).tolist())
        assert len(found) <= 50 and 6 not in sizes
        for start, end in bounds:
            (at,) = np.flatnonzero((data.observations == found.observations[start]).all(axis=1))
            np.testing.assert_array_equal(
                found.rewards[start:end], data.rewards[at : at + end - start]
            )
        lengths.add(len(found))
        orders.add(sizes)
    assert max(lengths) > 40 and len(orders) > 1
    assert len(generated.whole_episodes(data, 1000, 0)) == 56


def test_a_training_whose_transitions_were_deleted_gives_them_again(hopper, tmp_path, monkeypatch):
    """The child is `behavior_experiment`'s affair; that it is asked only once is this one's."""
    asked = []

    def child(command):
        asked.append(command)
        (target,) = (w for w in command if w.startswith("--save_transitions="))
        d4rl.write(pathlib.Path(target.partition("=")[2]), collected_here.transitions)
        return 0

    collected_here = collection.collect(
        hopper, physics="v2", policy=None, exploration="random", num_steps=300, seed=5, threads=1
    )
    monkeypatch.setattr(generated.stopping, "run_command", child)
    shipped = gaussian.shipped("hopper-medium")
    for _ in range(2):
        generated._training_transitions(hopper, "v2", shipped, str(tmp_path))
    assert len(asked) == 1
    next(tmp_path.glob("*.hdf5")).unlink()
    generated._training_transitions(hopper, "v2", shipped, str(tmp_path))
    assert len(asked) == 2


def test_data_cannot_be_made_without_a_simulator_or_a_policy(hopper, tmp_path):
    bare = dataclasses.replace(hopper, simulation=None)
    unshipped = dataclasses.replace(hopper, name="mine")
    for task, exploration in ((bare, "random"), (bare, "pure"), (unshipped, "pure")):
        with pytest.raises(UserError, match="give an HDF5 file with --dataset"):
            generated.load_or_make(
                task,
                physics="v2",
                exploration=exploration,
                num_steps=300,
                seed=0,
                data_dir=str(tmp_path),
                threads=1,
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("env", "kind", "there"),
    [
        ("hopper", "medium-ours", True),
        ("hopper", "medium-expert-ours", True),
        ("ant", "random-ours", True),
        ("ant", "medium-ours", False),
        ("ant", "mixed-ours", False),
        ("ant", "expert-ours", False),
        ("Pendulum-v1", "random-ours", True),
        ("Pendulum-v1", "medium-expert-ours", False),
    ],
)
def test_data_that_cannot_be_made_are_refused_before_a_run_begins(tmp_path, env, kind, there):
    arguments = {"task": tasks.get(env), "physics": "v2", "data_dir": str(tmp_path)}
    if there:
        sources.check_named(kind, **arguments)
    else:
        for call in (
            functools.partial(sources.check_named, kind, **arguments),
            functools.partial(sources.load_named, kind, steps=50, seed=0, threads=1, **arguments),
        ):
            with pytest.raises(UserError):
                call()
    assert not list(tmp_path.iterdir())


def test_a_task_without_a_shipped_policy_makes_random_data_alone():
    for env, there in (("ant", True), ("Pendulum-v1", False)):
        task = tasks.get(env)
        generated.check(task, exploration="random")
        if there:
            generated.check(task, exploration="eps1")
        else:
            with pytest.raises(UserError, match="no shipped behaviour policy to make data with"):
                generated.check(task, exploration="eps1")
