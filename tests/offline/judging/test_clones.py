from __future__ import annotations

import numpy as np
import pytest
import toys

from offline_tf.judging import clones
from offline_tf.policies.gaussian import NumpyPolicy


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


@pytest.mark.parametrize(
    ("misses", "at"),
    [
        ([[0.2, 0.2], [0.199, 0.199]], 0),  # by half a percent
        ([[0.2, 0.2], [0.195, 0.195]], 1),
        ([[0.2, 0.2], [0.3, 0.1]], 0),  # as much in the mean
        ([[0.4, 0.2], [0.3, 0.2], [0.299, 0.2]], 1),
        ([[0.2, 0.2]], 0),
    ],
)
def test_a_wider_policy_must_miss_clearly_less(misses, at):
    fits = [
        clones.Clone(
            NumpyPolicy(toys.plain_units(3, 2), layers(width), np.zeros(2)), {"residual": miss}
        )
        for width, miss in enumerate(misses, start=1)
    ]
    assert clones._width(fits, np.ones(2)) == at


def test_misses_are_compared_in_the_policys_units():
    fits = [
        clones.Clone(
            NumpyPolicy(toys.plain_units(3, 2), layers(2), np.zeros(2)), {"residual": miss}
        )
        for miss in ([100.0, 0.2], [101.0, 0.1])
    ]
    assert clones._width(fits, np.array([1000.0, 1.0])) == 1


def layers(width):
    return ((np.zeros((3, width)), np.zeros(width)), (np.zeros((width, 2)), np.zeros(2)))
