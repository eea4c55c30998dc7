import numpy as np
import pytest

from offline_tf.datasets.formats import ends
from offline_tf.types import UserError

# Episodes of 3, 1 and 2 rows.
LAST = np.array([False, False, True, True, False, True])


def columns(**others):
    """Six rows of one number each, whose next observations are the next row's within an episode."""
    observations = np.array([[0.0], [1.0], [2.0], [10.0], [20.0], [21.0]], np.float32)
    return {"observations": observations, **others}


def following():
    return columns()["observations"] + 1.0


def found(**others):
    return ends.find(columns(**others), "data.npz")


def test_ends_that_are_named_are_taken():
    terminals, timeouts = np.array([0, 0, 1, 0, 0, 0]), np.array([[0], [0], [0], [1], [0], [0]])
    one, other = found(terminals=terminals, timeouts=timeouts.astype(float))
    np.testing.assert_array_equal(one, terminals)
    np.testing.assert_array_equal(other, timeouts[:, 0])


def test_an_end_of_either_kind_is_terminal_where_it_is_no_timeout():
    terminals, timeouts = found(dones=LAST, timeouts=np.array([0, 0, 1, 0, 0, 0]))
    np.testing.assert_array_equal(terminals, [0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(timeouts, [0, 0, 1, 0, 0, 0])


def test_other_ends_are_cuts_where_terminals_are_known():
    terminals, timeouts = found(dones=LAST, terminals=np.array([0, 0, 1, 0, 0, 0]))
    np.testing.assert_array_equal(terminals, [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(timeouts, [0, 0, 0, 1, 0, 1])


def test_numbers_of_rows_start_no_episodes():
    terminals, timeouts = found(starts=np.arange(6), next_observations=following())
    assert not terminals.any()
    np.testing.assert_array_equal(timeouts, LAST)


@pytest.mark.parametrize(
    "others",
    [
        {"episodes": np.array([7, 7, 7, 3, 4, 4])},
        {"starts": np.array([0, 3, 4])},
        {"starts": np.array([0, 3, 4, 6])},  # with the number of rows at the end
        {"starts": np.array([1, 0, 0, 1, 1, 0])},
        {"starts": np.array([True, False, False, True, True, False])},
        {"next_observations": following()},
        {"next_observations": following() * (1 + 1e-7)},  # rounded elsewhere
    ],
)
def test_cuts_follow_from_what_there_is(others):
    terminals, timeouts = found(**others)
    assert not terminals.any()
    np.testing.assert_array_equal(timeouts, LAST)
    terminal = np.array([0, 0, 1, 0, 0, 0], bool)
    terminals, timeouts = found(**others, terminals=terminal)
    np.testing.assert_array_equal(terminals, terminal)
    np.testing.assert_array_equal(timeouts, LAST & ~terminal)


def test_rows_that_do_not_follow_each_other_are_steps_of_their_own(caplog):
    order = np.array([3, 0, 5, 1, 4, 2])
    observations = columns()["observations"][order]
    shuffled = {"observations": observations, "next_observations": observations + 1.0}
    terminals, timeouts = ends.find(shuffled | {"terminals": order == 5}, "data.npz")
    np.testing.assert_array_equal(terminals, order == 5)
    np.testing.assert_array_equal(timeouts, order != 5)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({}, "episodes cannot be told apart"),
        ({"terminals": np.zeros(6)}, "episodes cannot be told apart"),
        ({"timeouts": np.array([0, 0, np.nan, 0, 0, 1])}, "expected flags in 'timeouts', got NaN"),
        ({"episodes": np.arange(5)}, "6 observations but 5 names of episodes"),
        ({"starts": np.array([0, 4, 3])}, "expected rising numbers of rows"),
        ({"starts": np.array([0, 2.5])}, "expected rising numbers of rows"),
        ({"starts": np.array([0, 7])}, "expected rising numbers of rows"),
        ({"starts": np.array([-1, 3])}, "expected rising numbers of rows"),
    ],
)
def test_what_does_not_tell_is_refused(others, message):
    with pytest.raises(UserError, match=message):
        found(**others)
