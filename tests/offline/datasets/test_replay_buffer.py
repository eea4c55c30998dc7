"""A training's replay buffer as data: its order, and where episodes end."""

import dataclasses

import numpy as np
import pytest
import toys

from benchmarks.fuzz import replay_buffers
from offline_tf import tasks
from offline_tf.datasets import sources
from offline_tf.datasets.formats import d4rl, replay_buffer
from offline_tf.types import Transitions, UserError

CART = toys.cart()
LENGTHS = (5, 4, 3, 2)  # terminal, at the limit, stopped there, still going on
LIMITS = np.isin(np.arange(14), [8])


def trained(**changes):
    """Four episodes in float64, which follow each other within an episode and nowhere else."""
    generator = np.random.default_rng(0)
    before, after = [], []
    for length in LENGTHS:
        states = generator.normal(size=(length + 1, 2))
        before.append(states[:-1])
        after.append(states[1:])
    values = {
        "observations": np.concatenate(before),
        "actions": generator.uniform(-1.0, 1.0, (14, 1)).astype(np.float32),
        "rewards": np.arange(14, dtype=np.float32),
        "next_observations": np.concatenate(after),
        "terminals": np.isin(np.arange(14), [4]),
        "timeouts": np.zeros(14, bool),
    }
    return Transitions(**values | changes)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "buffer.pkl"
    replay_buffers.write(path, trained(), size=20, limits=LIMITS)
    return path


def test_steps_come_in_order_and_episodes_end_where_they_did(path):
    data, interrupted_after = replay_buffer.read(path, CART)
    expected = trained()
    assert len(data) == 14  # the buffer has room for more
    for name in ("observations", "next_observations", "actions", "rewards"):
        found = getattr(data, name)
        assert found.dtype == np.float32 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, getattr(expected, name).astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [4])
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), [8, 11, 13])
    assert interrupted_after == (12,)


@pytest.mark.parametrize(
    ("steps", "terminals", "timeouts", "interrupted_after"),
    [
        (14, [4], [8, 11, 13], (12,)),
        (12, [4], [8, 11], ()),  # the end of the set, whatever came then
        (11, [4], [8, 10], ()),
        (9, [4], [8], ()),
        (5, [4], [], ()),
        (1, [], [0], ()),
    ],
)
def test_the_first_steps_end_with_a_cut(path, steps, terminals, timeouts, interrupted_after):
    data, found = replay_buffer.read(path, CART, steps)
    assert len(data) == steps and found == interrupted_after
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), terminals)
    np.testing.assert_array_equal(np.flatnonzero(data.timeouts), timeouts)


def test_no_row_follows_into_another_episode(path):
    data, _ = replay_buffer.read(path, CART)
    for start, end in data.episode_bounds():
        inside = slice(start + 1, end)
        np.testing.assert_array_equal(
            data.observations[inside], data.next_observations[start : end - 1]
        )


def test_a_difference_below_float32_is_an_interruption(tmp_path):
    moved = trained().observations.copy()
    moved[2] += 1e-12
    path = tmp_path / "buffer.pkl"
    replay_buffers.write(path, trained(observations=moved), size=20, limits=LIMITS)
    assert replay_buffer.read(path, CART).interrupted_after == (2, 12)


def test_a_buffer_that_is_just_full_holds_all_and_one_that_went_round_is_refused(tmp_path):
    path = tmp_path / "buffer.pkl"
    replay_buffers.write(path, trained(), size=14, limits=LIMITS)
    assert len(replay_buffer.read(path, CART).transitions) == 14
    replay_buffers.write(path, trained(), size=14, limits=LIMITS, pos=3)
    with pytest.raises(UserError, match="lost the training's first steps, as it holds 14"):
        replay_buffer.read(path, CART)


def test_actions_are_in_the_tasks_units(path):
    wide = dataclasses.replace(
        CART, action_low=np.full(1, -2.0, np.float32), action_high=np.full(1, 6.0, np.float32)
    )
    kept = trained().actions
    np.testing.assert_array_equal(replay_buffer.read(path, CART).transitions.actions, kept)
    found = replay_buffer.read(path, wide).transitions.actions
    np.testing.assert_allclose(found, 2.0 + 4.0 * kept, rtol=1e-6)


def test_a_set_on_disk_is_the_same(path, tmp_path):
    data, _ = replay_buffer.read(path, CART)
    d4rl.write(tmp_path / "set.hdf5", data, attributes={"interrupted_after": np.array([12])})
    found, _ = sources.load(str(tmp_path / "set.hdf5"), CART)
    assert d4rl.content_hash(found) == d4rl.content_hash(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"handle_timeout_termination": False}, "does not tell time limits from terminal states"),
        ({"observations": np.zeros((20, 2, 2))}, r"a column \(20, 2, 2\), expected \(20, 1, ...\)"),
        ({"rewards": np.zeros((20, 1, 2))}, r"has rewards \(14, 2\), --env=cart has \(14,\)"),
        ({"actions": np.zeros((20, 1, 3))}, r"has actions \(14, 3\), --env=cart has \(14, 1\)"),
        ({"dones": "no array"}, "no array of numbers"),
        ({"pos": 0}, "holds no steps"),
    ],
)
def test_a_buffer_that_cannot_be_used_is_one_line(tmp_path, changes, words):
    path = tmp_path / "buffer.pkl"
    replay_buffers.write(path, trained(), size=20, limits=LIMITS, **changes)
    with pytest.raises(UserError, match=f"^--training: .*{words}") as caught:
        replay_buffer.read(path, CART)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_buffers_are_told_and_run_nothing(path, tmp_path):
    with pytest.raises(UserError, match="holds 14 steps, expected 15"):
        replay_buffer.read(path, CART, 15)
    with pytest.raises(UserError, match="of another task"):
        replay_buffer.read(path, tasks.get("hopper"))
    with pytest.raises(UserError, match="expected a replay buffer at .*, found none"):
        replay_buffer.read(tmp_path / "absent.pkl", CART)
    ran = tmp_path / "ran"
    for content in (
        b"",
        path.read_bytes()[:-200],
        b"cos\nsystem\n(S'touch " + str(ran).encode() + b"'\ntR.",
    ):
        (tmp_path / "other.pkl").write_bytes(content)
        with pytest.raises(UserError, match="is no replay buffer of Stable-Baselines3"):
            replay_buffer.read(tmp_path / "other.pkl", CART)
    assert not ran.exists()


def test_stable_baselines3s_own_buffer_is_read(tmp_path):
    buffers = pytest.importorskip(
        "stable_baselines3.common.buffers", reason="requirements-policies.txt is not installed"
    )
    spaces = pytest.importorskip("gymnasium.spaces")
    buffer = buffers.ReplayBuffer(
        20,
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
        spaces.Box(-1.0, 1.0, (1,), np.float32),
        device="cpu",
    )
    data = trained()
    for row in range(14):
        buffer.add(
            data.observations[row],
            data.next_observations[row],
            data.actions[row],
            data.rewards[row],
            data.terminals[row] | LIMITS[row],
            [{"TimeLimit.truncated": bool(LIMITS[row])}],
        )
    save_util = pytest.importorskip("stable_baselines3.common.save_util")
    save_util.save_to_pkl(tmp_path / "theirs.pkl", buffer)
    replay_buffers.write(tmp_path / "ours.pkl", data, size=20, limits=LIMITS)
    theirs, ours = (
        replay_buffer.read(tmp_path / f"{name}.pkl", CART) for name in ("theirs", "ours")
    )
    assert d4rl.content_hash(theirs.transitions) == d4rl.content_hash(ours.transitions)
    assert theirs.interrupted_after == ours.interrupted_after == (12,)
