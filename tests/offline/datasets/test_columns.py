import dataclasses

import h5py
import numpy as np
import pytest
import toys

from offline_tf import tasks
from offline_tf.datasets import velocities
from offline_tf.datasets.formats import d4rl
from offline_tf.tasks.simulator import Simulator
from offline_tf.types import Transitions, UserError


def random_structure(generator, max_episodes=6, max_length=5):
    """Terminals and timeouts [N] of random episodes; the last one may stay open."""
    terminals, timeouts = [], []
    for _ in range(generator.integers(1, max_episodes + 1)):
        length = generator.integers(1, max_length + 1)
        kind = generator.integers(3)
        terminals += [False] * (length - 1) + [kind != 1]
        timeouts += [False] * (length - 1) + [kind != 0]
    if generator.integers(2):
        terminals[-1] = timeouts[-1] = False
    return np.array(terminals), np.array(timeouts)


def random_transitions(seed=0, terminals=None, timeouts=None, state_dim=4, physical=True):
    generator = np.random.default_rng(seed)
    if terminals is None:
        terminals, timeouts = random_structure(generator, 8, 6)
    count = len(terminals)

    def normal(width, dtype=np.float32):
        return generator.normal(size=(count, width)).astype(dtype)

    return Transitions(
        observations=normal(state_dim),
        actions=normal(2),
        rewards=normal(1)[:, 0],
        next_observations=normal(state_dim),
        terminals=terminals,
        timeouts=timeouts,
        qpos=normal(3, np.float64) if physical else None,
        qvel=normal(3, np.float64) if physical else None,
    )


def assert_same(first, second):
    for field in dataclasses.fields(Transitions):
        one, two = getattr(first, field.name), getattr(second, field.name)
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_array_equal(one, two, field.name)
            assert one.dtype == two.dtype, field.name


def write_columns(path, transitions, **changes):
    """Writes a D4RL file by hand; a change of None leaves the key out."""
    columns = {
        "observations": transitions.observations,
        "actions": transitions.actions,
        "rewards": transitions.rewards,
        "terminals": transitions.terminals,
        "timeouts": transitions.timeouts,
        "next_observations": transitions.next_observations,
    } | changes
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if values is not None:
                file[name] = values
    return path


def error_of(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("physical", [True, False])
def test_round_trip_keeps_every_bit(tmp_path, physical):
    data = random_transitions(physical=physical)
    tiny = np.float32([-0.0, np.nan, 1e-45, np.inf])
    data.observations[0] = tiny  # bits, not values: signed zero, NaN, a denormal number
    path = tmp_path / "deep" / "data.hdf5"
    d4rl.write(path, data)
    back = d4rl.read(path, 4)
    assert_same(back, data)
    np.testing.assert_array_equal(back.observations[0].view(np.uint32), tiny.view(np.uint32))


def test_extra_columns_and_attributes_are_written(tmp_path):
    data, path = random_transitions(), tmp_path / "data.hdf5"
    extra = np.arange(len(data), dtype=np.float32)
    d4rl.write(path, data, {"infos/action_log_probs": extra}, {"seed": 7, "task": "hopper"})
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["infos/action_log_probs"], extra)
        assert dict(file.attrs) == {"seed": 7, "task": "hopper"}
        assert file["infos/qpos"].dtype == np.float64


def test_column_vectors_and_float64_are_accepted(tmp_path):
    data = random_transitions(physical=False)
    path = write_columns(
        tmp_path / "data.hdf5",
        data,
        observations=data.observations.astype(np.float64),
        actions=data.actions.astype(np.float64),
        rewards=data.rewards.astype(np.float64)[:, None],
        terminals=data.terminals[:, None].astype(np.float64),
        timeouts=data.timeouts[:, None].astype(np.uint8),
        next_observations=data.next_observations.astype(np.float64),
    )
    assert_same(d4rl.read(path, 4), data)


def test_what_rows_without_a_next_observation_are_used_for_is_told(tmp_path, caplog):
    terminals = np.zeros(11, bool)
    terminals[[2, 5]] = True
    data = random_transitions(0, terminals, np.arange(11) == 8)  # the last two rows are open
    path = write_columns(tmp_path / "data.hdf5", data, next_observations=None)
    back = d4rl.read(path, 4)
    np.testing.assert_array_equal(np.flatnonzero(~back.next_known), [2, 5])
    assert len(back) == 9 and back.next_known.sum() == 7
    assert "where the last steps of 4 episodes led" in caplog.text
    assert "2 terminal ones count for Q, cloning and returns" in caplog.text
    assert "use the other 7 rows. 2 last rows of cut episodes are left out" in caplog.text


def test_returns_hold_the_last_reward(tmp_path):
    """As they are with next_observations, where episodes end terminal."""
    ends = np.arange(12) % 4 == 3
    data = random_transitions(0, ends, np.zeros(12, bool))
    data.rewards[ends] = -100.0
    path = write_columns(tmp_path / "data.hdf5", data, next_observations=None)
    returns = d4rl.read(path, 4).episode_returns()
    np.testing.assert_array_equal(returns, data.episode_returns())
    assert (returns < -90.0).all()


def test_what_is_not_known_stays_so_in_a_file(tmp_path):
    terminals, timeouts = random_structure(np.random.default_rng(3), 8, 6)
    path = write_columns(
        tmp_path / "v0.hdf5", random_transitions(3, terminals, timeouts), next_observations=None
    )
    data = d4rl.read(path, 4)
    assert (~data.next_known).any()
    d4rl.write(tmp_path / "again.hdf5", data)
    assert_same(d4rl.read(tmp_path / "again.hdf5", 4), data)


def test_only_a_terminal_row_that_is_nan_all_over_is_not_known():
    data = random_transitions(0, np.arange(6) % 2 == 1, np.zeros(6, bool))
    data.next_observations[[0, 1]] = np.nan  # inside an episode it is a fault
    data.next_observations[3, :3] = np.nan  # and so is a broken sensor
    np.testing.assert_array_equal(data.next_known, np.arange(6) != 1)
    np.testing.assert_array_equal(data.episode_bounds(), [[0, 2], [2, 4], [4, 6]])
    np.testing.assert_array_equal(data.predictable_bounds(), [[0, 1], [2, 4], [4, 6]])


@pytest.mark.parametrize("name", ["terminals", "timeouts"])
def test_flags_are_numbers(tmp_path, name):
    ends = np.arange(9) % 3 == 2
    data = random_transitions(0, ends, ~ends & False)
    flags = np.where(ends, np.nan, 0.0)
    path = write_columns(tmp_path / "data.hdf5", data, **{name: flags})
    assert f"expected flags in {name!r}, got NaN" in error_of(d4rl.read, path, 4)


@pytest.mark.parametrize("seed", range(50))
def test_without_next_observations_nothing_crosses_an_end(tmp_path, seed):
    generator = np.random.default_rng(seed)
    terminals, timeouts = random_structure(generator)
    data = random_transitions(seed, terminals, timeouts)
    columns = {"next_observations": None, "infos/qvel": data.qvel}
    path = write_columns(tmp_path / "data.hdf5", data, **columns)
    # Naive: row t is kept where it is terminal, or row t + 1 is of the same episode.
    kept, cut, after = [], [], []
    for row in range(len(data)):
        open_end = row + 1 == len(data) or timeouts[row]
        if terminals[row]:
            kept.append(row)
            cut.append(bool(timeouts[row]))
            after.append(np.full(4, np.nan))
        elif not open_end:
            kept.append(row)
            following_is_open = timeouts[row + 1] or row + 2 == len(data)
            cut.append(bool(following_is_open and not terminals[row + 1]))
            after.append(data.observations[row + 1])
    if np.isnan(after).all():
        assert "no episode of two rows or more" in error_of(d4rl.read, path, 4)
        return
    back = d4rl.read(path, 4)
    assert len(back) == len(kept)
    for name in ("observations", "actions", "rewards", "terminals", "qvel"):
        np.testing.assert_array_equal(getattr(back, name), getattr(data, name)[kept], name)
    np.testing.assert_array_equal(back.next_observations, np.array(after, np.float32))
    np.testing.assert_array_equal(back.timeouts, cut)


def test_timeouts_are_optional_where_terminals_exist(tmp_path):
    terminals = np.array([False, True, False, False, True])
    data = random_transitions(0, terminals, np.zeros(5, bool), physical=False)
    data.next_observations[[0, 2, 3]] = data.observations[[1, 3, 4]]
    assert_same(d4rl.read(write_columns(tmp_path / "data.hdf5", data, timeouts=None)), data)


@pytest.mark.parametrize("with_next", [True, False])
def test_contact_forces_of_ant_are_cut(tmp_path, with_next):
    data = random_transitions(3, state_dim=111, physical=False)
    changes = {} if with_next else {"next_observations": None}
    back = d4rl.read(write_columns(tmp_path / "data.hdf5", data, **changes), 27)
    assert back.observations.shape[1] == back.next_observations.shape[1] == 27
    if with_next:
        np.testing.assert_array_equal(back.observations, data.observations[:, :27])
        np.testing.assert_array_equal(back.next_observations, data.next_observations[:, :27])


def test_missing_file_is_named(tmp_path):
    path = tmp_path / "none.hdf5"
    assert f"expected an HDF5 file at {path}, found none" in error_of(d4rl.read, path)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "data.hdf5"
    path.write_bytes(b"not HDF5")
    assert f"{path} is no readable HDF5 file" in error_of(d4rl.read, path)


def test_folders_are_named(tmp_path):
    assert "is no readable HDF5 file" in error_of(d4rl.read, tmp_path)


def test_file_without_rows_is_refused(tmp_path):
    empty = random_transitions(0, np.zeros(0, bool), np.zeros(0, bool))
    path = write_columns(tmp_path / "data.hdf5", empty, next_observations=None)
    assert str(path) in error_of(d4rl.read, path)


@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
def test_missing_key_is_named(tmp_path, key):
    path = write_columns(tmp_path / "data.hdf5", random_transitions(), **{key: None})
    assert f"lacks '{key}'" in error_of(d4rl.read, path)


@pytest.mark.parametrize(("width", "state_dim"), [(5, 4), (111, 17), (28, 27)])
def test_wrong_width_is_named(tmp_path, width, state_dim):
    data = random_transitions(state_dim=width)
    message = error_of(d4rl.read, write_columns(tmp_path / "data.hdf5", data), state_dim)
    assert f"width {width}" in message and f"this task has {state_dim}" in message


def test_file_without_any_episode_end_is_refused(tmp_path):
    data = random_transitions(0, np.zeros(5, bool), np.zeros(5, bool))
    path = write_columns(tmp_path / "data.hdf5", data, timeouts=None, next_observations=None)
    assert "no timeouts and no terminals" in error_of(d4rl.read, path)


@pytest.mark.parametrize("column", ["actions", "rewards", "next_observations", "timeouts"])
def test_columns_of_other_lengths_are_refused(tmp_path, column):
    data = random_transitions(1)
    short = {column: getattr(data, column)[:-1]}
    message = error_of(d4rl.read, write_columns(tmp_path / "data.hdf5", data, **short))
    assert column in message


def test_transitions_refuse_columns_of_other_lengths():
    data = random_transitions(1)
    message = error_of(lambda: dataclasses.replace(data, qvel=data.qvel[:-1]))
    assert f"expected {len(data)} rows in qvel" in message
    message = error_of(lambda: dataclasses.replace(data, next_observations=data.actions))
    assert "next_observations" in message


@pytest.mark.parametrize("existing", [True, False])
def test_unfinished_file_never_takes_the_final_name(tmp_path, existing):
    data, path = random_transitions(), tmp_path / "data.hdf5"
    if existing:
        d4rl.write(path, data)
        before = path.read_bytes()
    broken = {"infos/broken": np.array([object()] * len(data))}  # h5py has no type for objects
    with pytest.raises(TypeError):
        d4rl.write(path, random_transitions(1), broken)
    assert path.exists() == existing
    if existing:
        assert path.read_bytes() == before
    d4rl.write(path, random_transitions(2))
    assert_same(d4rl.read(path), random_transitions(2))
    assert [p.name for p in tmp_path.iterdir()] == ["data.hdf5"]


@pytest.mark.parametrize("seed", range(20))
def test_episode_bounds_and_returns_equal_the_naive_ones(seed):
    data = random_transitions(seed, *random_structure(np.random.default_rng(seed)))
    bounds, returns, start = [], [], 0
    for row in range(len(data)):
        if data.terminals[row] or data.timeouts[row] or row == len(data) - 1:
            bounds.append((start, row + 1))
            returns.append(sum(float(x) for x in data.rewards[start : row + 1]))
            start = row + 1
    np.testing.assert_array_equal(data.episode_bounds(), bounds)
    assert [(rows.start, rows.stop) for rows in data.episodes()] == bounds
    np.testing.assert_allclose(data.episode_returns(), returns, atol=1e-12)


def test_no_rows_no_episodes():
    empty = random_transitions(0, np.zeros(0, bool), np.zeros(0, bool))
    assert empty.episode_bounds().shape == (0, 2)
    assert empty.episode_returns().shape == (0,)


# Also qvel: dynamics models are fitted on restored velocities, which come from it.
@pytest.mark.parametrize("column", [field.name for field in dataclasses.fields(Transitions)])
def test_hash_changes_with_each_column(column):
    data = random_transitions()
    original = d4rl.content_hash(data)
    assert original == d4rl.content_hash(random_transitions())
    values = getattr(data, column).copy()
    last = values[-1:]
    last[...] = ~last if values.dtype == bool else np.nextafter(last, values.dtype.type(9))
    assert d4rl.content_hash(dataclasses.replace(data, **{column: values})) != original


def test_hash_tells_missing_physical_states():
    data = random_transitions()
    bare = [dataclasses.replace(data, **{name: None}) for name in ("qpos", "qvel")]
    assert len({d4rl.content_hash(x) for x in (data, *bare)}) == 3


def test_hash_changes_with_the_order_of_rows():
    data = random_transitions()
    swapped = {f.name: getattr(data, f.name)[::-1] for f in dataclasses.fields(data)}
    assert d4rl.content_hash(Transitions(**swapped)) != d4rl.content_hash(data)


# Hopper: positions 0 to 4 belong to velocities 6 to 10; velocity 5 (x) has no observed position;
# clipped to +-10 (hopper_v4.py), dt = 0.008 s.
@pytest.mark.parametrize(
    ("observed", "slope", "expected"),
    [
        (9.99, 20.0, 9.99),  # below the limit: as observed
        (10.0, 20.0, 20.0),
        (-10.0, -20.0, -20.0),
        (10.0, 9.0, 10.0),  # the difference lies within the limit
        (-10.0, -9.0, -10.0),
        (10.0, -20.0, 10.0),  # the signs do not match
        (-10.0, 20.0, -10.0),
    ],
)
@pytest.mark.parametrize(("velocity", "position"), [(6, 0), (7, 1), (10, 4)])
def test_finite_difference_by_hand(hopper, velocity, position, observed, slope, expected):
    before, after = np.zeros((2, 2, 11), np.float32)
    after[0, position] = before[0, position] + 0.008 * slope
    after[0, velocity] = observed
    before[1], after[1] = after[0], after[0]  # another row, at rest: as observed
    states = velocities.finite_difference(hopper, before, after)
    assert states[0, velocity] == pytest.approx(expected, rel=1e-6)
    untouched = np.delete(np.arange(11), velocity)
    np.testing.assert_array_equal(states[0, untouched], after[0, untouched])
    np.testing.assert_array_equal(states[1], after[1])


def test_velocity_without_a_position_stays_as_observed(hopper):
    before, after = np.zeros((2, 1, 11), np.float32)
    after[0, 5] = 10.0
    after[0, :5] = 1.0
    assert velocities.finite_difference(hopper, before, after)[0, 5] == 10.0


def fast_hoppers(hopper, episodes=5, steps=4):
    """Transitions of simulated hoppers, most of whose velocities are clipped."""
    generator = np.random.default_rng(0)
    simulator = Simulator(hopper, "v2", episodes, threads=1)
    qpos = np.tile([0, 3.0, 0, 0, 0, 0], (episodes, 1))
    simulator.set_states(qpos, generator.normal(0, 12, (episodes, 6)))
    rows = []
    for _ in range(steps):
        row = [simulator.observations(), simulator.qpos.copy(), simulator.qvel.copy()]
        actions = generator.uniform(-1, 1, (episodes, 3)).astype(np.float32)
        simulator.step(actions)
        rows.append([*row, actions, simulator.observations(), simulator.qvel.copy()])
    seen, qpos, qvel, actions, next_seen, next_qvel = (
        np.concatenate(np.swapaxes(column, 0, 1)) for column in zip(*rows)
    )
    timeouts = np.arange(1, len(seen) + 1) % steps == 0
    data = Transitions(
        observations=seen,
        actions=actions,
        rewards=np.zeros(len(seen), np.float32),
        next_observations=next_seen,
        terminals=np.zeros(len(seen), bool),
        timeouts=timeouts,
        qpos=qpos,
        qvel=qvel,
    )
    assert (np.abs(data.observations[:, 5:]) == 10).mean() > 0.2
    return data, next_qvel


def test_velocities_of_another_width_are_named(hopper):
    data, _ = fast_hoppers(hopper)
    for qvel in (data.qvel[:, :5], data.qvel[:, 0]):
        with pytest.raises(UserError, match="^--dataset: expected infos/qvel of 6 velocities"):
            velocities.restore(hopper, dataclasses.replace(data, qvel=qvel))


def test_velocities_that_are_no_numbers_are_named_where_they_are_used(hopper):
    data, _ = fast_hoppers(hopper)
    qvel = data.qvel.copy()
    qvel[7, 2] = np.nan
    broken = dataclasses.replace(data, qvel=qvel)
    with pytest.raises(UserError, match="infos/qvel holds NaN or infinity in 1 rows, .* is row 7"):
        velocities.restore(hopper, broken)
    for found, expected in zip(
        velocities.restore(hopper, broken, use_recorded=False),
        velocities.restore(hopper, data, use_recorded=False),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_recorded_velocities_are_the_true_ones(hopper):
    data, next_qvel = fast_hoppers(hopper)
    states, next_states = velocities.restore(hopper, data)
    np.testing.assert_array_equal(states[:, :5], data.observations[:, :5])
    np.testing.assert_array_equal(states[:, 5:], data.qvel.astype(np.float32))
    inside = ~data.timeouts
    np.testing.assert_array_equal(next_states[inside, 5:], next_qvel[inside].astype(np.float32))
    # The last next state has no recorded velocity: the finite difference.
    ends = np.flatnonzero(data.timeouts)
    expected = velocities.finite_difference(
        hopper, data.observations[ends], data.next_observations[ends]
    )
    np.testing.assert_array_equal(next_states[ends], expected)
    assert (np.abs(next_states[ends]) > 10).any()


def test_recorded_velocities_that_are_others_are_not_taken(hopper):
    """A file may hold some rows whose qvel is not of the observed state."""
    data, _ = fast_hoppers(hopper)
    qvel = -data.qvel
    qvel[::2] = data.qvel[::2]
    states, _ = velocities.restore(hopper, dataclasses.replace(data, qvel=qvel))
    by_differences, _ = velocities.restore(hopper, data, use_recorded=False)
    np.testing.assert_array_equal(states[::2, 5:], data.qvel[::2].astype(np.float32))
    np.testing.assert_array_equal(states[1::2], by_differences[1::2])


@pytest.mark.parametrize("use_recorded", [True, False])
def test_what_is_not_known_touches_no_other_row(hopper, use_recorded):
    data, _ = fast_hoppers(hopper)
    ended = dataclasses.replace(data, terminals=data.timeouts, timeouts=data.terminals)
    unknown = toys.unrecorded(ended)
    states, next_states = velocities.restore(hopper, unknown, use_recorded)
    expected_states, expected_next = velocities.restore(hopper, ended, use_recorded)
    np.testing.assert_array_equal(states, expected_states)
    known = unknown.next_known
    np.testing.assert_array_equal(next_states[known], expected_next[known])
    assert not known.all() and np.isnan(next_states[~known]).all()


@pytest.mark.parametrize("use_recorded", [True, False])
def test_restored_states_never_cross_an_episode(hopper, use_recorded):
    data, _ = fast_hoppers(hopper)
    data = data if use_recorded else dataclasses.replace(data, qvel=None)
    states, next_states = velocities.restore(hopper, data, use_recorded)
    for rows in data.episodes():
        part = Transitions(
            **{
                name: None if column is None else column[rows]
                for name, column in vars(data).items()
            }
        )
        alone, next_alone = velocities.restore(hopper, part, use_recorded)
        np.testing.assert_array_equal(states[rows], alone)
        np.testing.assert_array_equal(next_states[rows], next_alone)
        np.testing.assert_array_equal(alone[1:], next_alone[:-1])


def test_without_recorded_velocities_differences_are_taken(hopper):
    data, _ = fast_hoppers(hopper)
    states, next_states = velocities.restore(hopper, data, use_recorded=False)
    for rows in data.episodes():
        previous = None
        for row in range(rows.start, rows.stop):
            expected = data.observations[row].copy()
            if previous is not None:
                for velocity, position in [(6, 0), (7, 1), (8, 2), (9, 3), (10, 4)]:
                    change = expected[position] - previous[position]
                    slope = float(change) / 0.008
                    at_limit = abs(expected[velocity]) == 10
                    if at_limit and abs(slope) > 10 and slope * expected[velocity] > 0:
                        expected[velocity] = slope
            np.testing.assert_allclose(states[row], expected, rtol=1e-5)
            previous = data.observations[row]
    # An estimate of the mean velocity over the step, not of the velocity at its end.
    assert (next_states != data.next_observations).any()


@pytest.mark.parametrize("use_recorded", [True, False])
def test_observing_restored_states_gives_the_observations(hopper, use_recorded):
    data, _ = fast_hoppers(hopper)
    states, next_states = velocities.restore(hopper, data, use_recorded)
    assert (states != data.observations).any()
    np.testing.assert_array_equal(velocities.observe(hopper, states), data.observations)
    np.testing.assert_array_equal(velocities.observe(hopper, next_states), data.next_observations)


def test_robots_without_a_limit_stay_as_they_are():
    task = tasks.get("halfcheetah")
    data = random_transitions(state_dim=17)
    data.observations[:] *= 100
    states, next_states = velocities.restore(task, data)
    np.testing.assert_array_equal(states, data.observations)
    np.testing.assert_array_equal(next_states, data.next_observations)
    np.testing.assert_array_equal(velocities.observe(task, states), data.observations)
    np.testing.assert_array_equal(
        velocities.finite_difference(task, data.observations, data.next_observations),
        data.next_observations,
    )
