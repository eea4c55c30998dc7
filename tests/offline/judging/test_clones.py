from __future__ import annotations

import pytest

from offline_tf.judging import clones


@pytest.mark.parametrize(
    ("worth", "best"),
    [
        ({1.0: 100.0, 0.5: 104.0, 0.25: 104.9}, 1.0),  # no clear gain: luck
        ({1.0: 100.0, 0.5: 106.0, 0.25: 110.0, 0.1: 112.0}, 0.1),  # each against the best so far
        ({1.0: -100.0, 0.5: -96.0, 0.25: -90.0}, 0.25),
        ({1.0: 50.0}, 1.0),
    ],
)
def test_a_smaller_share_must_be_clearly_better(worth, best):
    assert clones._best_of(worth) == best
