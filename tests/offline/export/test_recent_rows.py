from __future__ import annotations

import numpy as np
import pytest

from offline_tf.export.recent_rows import RecentRows

NAMES = (
    "level",
    "wanted",
    "level@-1",
    "wanted@-1",
    "valve@-1",
    "level@-2",
    "wanted@-2",
    "valve@-2",
)


def test_an_observation_holds_the_rows_before_with_what_was_done():
    rows = RecentRows(NAMES, ("valve",))
    assert rows.measured_names == ("level", "wanted")
    first = rows.observe([1.0, 10.0], [0.5])
    assert first.tolist() == [1, 10, 1, 10, 0.5, 1, 10, 0.5] and first.dtype == np.float32
    rows.acted([0.6])
    assert rows.observe([2.0, 11.0]).tolist() == pytest.approx([2, 11, 1, 10, 0.6, 1, 10, 0.5])
    rows.acted([0.7])
    assert rows.observe([3.0, 12.0]).tolist() == pytest.approx([3, 12, 2, 11, 0.7, 1, 10, 0.6])
    rows.reset()
    assert rows.observe([9.0, 9.0], [0.1])[2:].tolist() == pytest.approx([9, 9, 0.1] * 2)


def test_several_loops_at_once():
    rows = RecentRows(NAMES[:5], ("valve",))
    rows.observe([[1.0, 10.0], [5.0, 50.0]], [[0.1], [0.2]])
    rows.acted([[0.3], [0.4]])
    found = rows.observe([[2.0, 10.0], [6.0, 50.0]])
    np.testing.assert_allclose(found, [[2, 10, 1, 10, 0.3], [6, 50, 5, 50, 0.4]])


def test_without_a_past_it_hands_on_what_is_measured():
    rows = RecentRows(("level",), ("valve",))
    rows.observe([1.0])
    rows.acted([0.5])
    assert rows.observe([2.0]).tolist() == [2.0]


def test_what_it_cannot_know_is_asked_for():
    with pytest.raises(ValueError, match="valve@-1 is neither measured nor an action"):
        RecentRows(NAMES[:5], ("pump",))
    rows = RecentRows(NAMES, ("valve",))
    with pytest.raises(ValueError, match="observe before acted"):
        rows.acted([0.0])
    with pytest.raises(ValueError, match=r"expected \[2\] or \[B, 2\] measurements, got \(3,\)"):
        rows.observe([1.0, 2.0, 3.0], [0.0])
    with pytest.raises(ValueError, match="expected action_before"):
        rows.observe([1.0, 2.0])
