import dataclasses

import numpy as np
import toys

from offline_tf.evaluation import episodes

TASK = dataclasses.replace(toys.cart(), max_episode_steps=5)


class Counters:
    """Two robots that observe their own age; each falls at its age in `falls`."""

    def __init__(self, falls):
        self.task, self.count = TASK, 2
        self.falls = np.array(falls)
        self.elapsed = np.zeros(2, np.int64)
        self.actions, self.resets = [], []

    def observations(self):
        return np.stack([self.elapsed, [10, 20]], axis=1).astype(np.float32)

    def step(self, actions):
        self.actions.append(actions)
        self.elapsed += 1
        return 1.0 * self.elapsed, self.elapsed == self.falls

    def reset(self, generator, which):
        self.resets.append((generator, which.tolist()))
        self.elapsed[which] = 0


def run(simulator, limit=100):
    seen = []

    def act(number, observations):
        seen.append((number, observations.copy()))
        return np.full((2, 1), 3.0, np.float32)

    found = list(episodes.steps(simulator, act, lambda number: f"refill {number}", limit))
    return found, seen


def test_an_ended_episode_is_refilled_and_counts_no_more():
    simulator = Counters(falls=(2, 4))
    found, seen = run(simulator)
    assert [step.number for step in found] == [0, 1, 2, 3]
    assert [step.alive.tolist() for step in found] == [[True, True]] * 2 + [[False, True]] * 2
    np.testing.assert_array_equal(
        [step.rewards for step in found], [[1, 1], [2, 2], [1, 3], [2, 4]]
    )
    # After the step, before the refill; what is acted on next is what was refilled.
    after = [step.observations[:, 0].tolist() for step in found]
    assert after == [[1, 1], [2, 2], [1, 3], [2, 4]]
    assert [observations[:, 0].tolist() for _, observations in seen] == [
        [0, 0],
        [1, 1],
        [0, 2],
        [1, 3],
    ]
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    # The generator is that of the step; after the last step nobody is put back.
    assert simulator.resets == [("refill 1", [True, False])]


def test_actions_are_clipped_to_the_bounds():
    simulator = Counters(falls=(1, 1))
    run(simulator)
    np.testing.assert_array_equal(simulator.actions, [[[1.0], [1.0]]])


def test_time_limit_and_given_limit_end_all():
    never = (99, 99)
    assert [len(run(Counters(never), limit)[0]) for limit in (3, 100)] == [3, 5]
