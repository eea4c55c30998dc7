from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import toys

from morel_tf.planning import policy_update
from morel_tf.planning.natural_gradient import NaturalGradient, StepReport
from morel_tf.planning.policy_update import Paths
from morel_tf.planning.value_baseline import ValueBaseline

DISCOUNT, LAMBDA = 0.9, 0.8


class _Call(NamedTuple):
    name: str
    arguments: tuple


class _Recorder:
    """Stands for the policy step and the baseline; V(s, t) = 2 s_0 - s_1 + 0.1 t."""

    def __init__(self):
        self.calls: list[_Call] = []

    @staticmethod
    def value(observations, times):
        return 2.0 * observations[..., 0] - observations[..., 1] + 0.1 * times

    def predict(self, observations, times):
        observations, times = np.asarray(observations), np.asarray(times)
        self.calls.append(_Call("predict", (observations, times)))
        return tf.constant(self.value(observations, times), tf.float32)

    def fit(self, observations, times, targets, generator):
        self.calls.append(_Call("fit", (observations, times, targets, generator)))
        return 0.5

    def step(self, observations, actions, advantages, kl):
        self.calls.append(_Call("step", tuple(x.numpy() for x in (observations, actions))))
        self.advantages, self.kl = advantages.numpy(), float(kl)
        return StepReport(0.01, 0.7, 0.2, 0.03, -1.0)

    def of(self, name):
        return [call.arguments for call in self.calls if call.name == name]


def _paths(lengths, ends, steps, seed=0, offset=0.0):
    """Paths of the given lengths; ends[k] is "fall" or "limit"; padding is full of wild numbers."""
    rng = np.random.default_rng(seed)
    count = len(lengths)
    real = {
        "observations": rng.normal(size=(steps, count, 2)),
        "actions": rng.normal(size=(steps, count, 1)),
        "rewards": rng.normal(size=(steps, count)),
        "next_observations": rng.normal(size=(steps, count, 2)),
    }
    times = np.repeat(np.arange(steps)[:, None] + offset, count, axis=1)
    valid = np.arange(steps)[:, None] < np.array(lengths)
    last = np.arange(steps)[:, None] == np.array(lengths) - 1
    for t in range(steps - 1):
        real["next_observations"][t] = real["observations"][t + 1]
    cut = np.random.default_rng(seed + 1).normal(size=(steps, count, 2))
    real["next_observations"] = np.where(last[..., None], cut, real["next_observations"])
    for name, values in real.items():
        hide = valid.reshape(valid.shape + (1,) * (values.ndim - 2))
        real[name] = np.where(hide, values, 1e3 * rng.normal(size=values.shape)).astype(np.float32)
    return Paths(
        **real,
        times=times.astype(np.float32),
        terminated=last & (np.array(ends) == "fall"),
        ended=last,
        valid=valid,
    )


def _naive(paths, bootstrap_targets=False):
    """Advantages and targets of each valid row by the defining sums, path by path."""
    value = _Recorder.value
    advantages = np.zeros(paths.rewards.shape)
    targets = np.zeros(paths.rewards.shape)
    for k in range(paths.rewards.shape[1]):
        length = int(paths.valid[:, k].sum())
        residuals = []
        for t in range(length):
            beyond = 0.0 if paths.terminated[t, k] else 1.0
            after = value(paths.next_observations[t, k], paths.times[t, k] + 1)
            here = value(paths.observations[t, k], paths.times[t, k])
            residuals.append(paths.rewards[t, k] + DISCOUNT * beyond * after - here)
        final = 0.0
        if bootstrap_targets and not paths.terminated[length - 1, k]:
            final = value(paths.next_observations[length - 1, k], paths.times[length - 1, k] + 1)
        for t in range(length):
            advantages[t, k] = sum(
                (DISCOUNT * LAMBDA) ** (j - t) * residuals[j] for j in range(t, length)
            )
            targets[t, k] = sum(
                DISCOUNT ** (j - t) * paths.rewards[j, k] for j in range(t, length)
            ) + (DISCOUNT ** (length - t) * final)
    return advantages[paths.valid], targets[paths.valid]


def _update(paths, **options):
    recorder = _Recorder()
    generator = np.random.default_rng(0)
    report = policy_update.update(
        paths,
        natural_gradient=recorder,
        baseline=recorder,
        discount=DISCOUNT,
        gae_lambda=LAMBDA,
        kl_per_update=0.02,
        generator=generator,
        **options,
    )
    return recorder, report


MIXED = _paths([5, 3, 1, 5], ["limit", "fall", "fall", "fall"], steps=5)


@pytest.mark.parametrize("bootstrap_targets", [False, True])
def test_advantages_and_targets_are_the_defining_sums(bootstrap_targets):
    recorder, _ = _update(MIXED, bootstrap_targets=bootstrap_targets)
    advantages, targets = _naive(MIXED, bootstrap_targets)
    whitened = (advantages - advantages.mean()) / advantages.std()
    np.testing.assert_allclose(recorder.advantages, whitened, atol=1e-4)
    ((observations, times, found, _),) = recorder.of("fit")
    np.testing.assert_allclose(found, targets, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(observations, MIXED.observations[MIXED.valid])
    np.testing.assert_array_equal(times, MIXED.times[MIXED.valid])
    assert recorder.kl == pytest.approx(0.02)


def test_advantages_are_whitened_over_the_real_rows():
    recorder, report = _update(MIXED)
    assert len(recorder.advantages) == report.samples == 14
    assert recorder.advantages.mean() == pytest.approx(0.0, abs=1e-6)
    assert recorder.advantages.std() == pytest.approx(1.0, abs=1e-5)


def test_padding_has_no_influence():
    """The longest path alone needs no padding; beside shorter ones its rows stay what they were."""
    padded, _ = _update(MIXED)
    longer = Paths(*(np.concatenate([x, np.full_like(x[:1], 7)]) for x in MIXED))
    longer.valid[-1] = longer.ended[-1] = longer.terminated[-1] = False
    more_padding, report = _update(longer)
    np.testing.assert_array_equal(more_padding.advantages, padded.advantages)
    for name in ("step", "fit"):
        for first, second in zip(more_padding.of(name)[0][:3], padded.of(name)[0][:3]):
            np.testing.assert_array_equal(first, second)
    assert report.samples == 14


def test_a_time_limit_bootstraps_and_a_fall_does_not():
    limit = _paths([3, 3], ["limit", "fall"], steps=3)
    fall = limit._replace(terminated=limit.ended)
    nudged = limit.next_observations.copy()
    nudged[2, 0] += 5.0  # V(s') of path 0's last row is 5 larger: 2 * 5 - 5

    def advantages(paths):
        # Path 1 is the same in all cases; its known sums undo the whitening.
        whitened = _update(paths)[0].advantages.reshape(3, 2)
        anchor = _naive(paths)[0].reshape(3, 2)[:, 1]
        slope, shift = np.polyfit(whitened[:, 1], anchor, 1)
        return slope * whitened[:, 0] + shift

    moved = advantages(limit._replace(next_observations=nudged)) - advantages(limit)
    # delta_2 rises by 0.9 * 5; earlier rows see (0.9 * 0.8) and (0.9 * 0.8)^2 of that.
    np.testing.assert_allclose(moved, [4.5 * 0.72**2, 4.5 * 0.72, 4.5], rtol=1e-4)
    still = advantages(fall._replace(next_observations=nudged)) - advantages(fall)
    np.testing.assert_allclose(still, 0.0, atol=1e-5)


def test_the_value_beyond_a_cut_is_asked_one_step_later_at_the_next_observation():
    paths = _paths([4, 2], ["limit", "limit"], steps=4, offset=6.0)
    recorder, _ = _update(paths)
    (_, _), (observations, times) = recorder.of("predict")
    rows = np.argwhere(paths.ended)
    np.testing.assert_array_equal(observations, [paths.next_observations[t, k] for t, k in rows])
    # Path 1 has two steps, at times 6 and 7, so it is asked at 8; path 0 at 10.
    np.testing.assert_array_equal(times, [8.0, 10.0])


def test_the_baseline_is_fitted_after_the_policy_step_and_the_report_is_passed_on():
    recorder, report = _update(MIXED)
    assert [call.name for call in recorder.calls] == ["predict", "predict", "step", "fit"]
    np.testing.assert_array_equal(recorder.of("step")[0][1], MIXED.actions[MIXED.valid])
    assert dataclasses.asdict(report) == {
        "kl": 0.01,
        "step_share": 0.7,
        "improvement": 0.2,
        "cg_residual": 0.03,
        "log_std": -1.0,
        "explained_variance": 0.5,
        "samples": 14,
    }


def test_repeated_updates_solve_a_bandit():
    """One-step paths that pay -(a - 0.7)^2: the mean action goes to 0.7 and the noise shrinks."""
    policy = toys.linear_policy(np.zeros((2, 1)), [-0.5], log_std=-0.7)
    natural_gradient = NaturalGradient(
        policy,
        cg_iterations=5,
        cg_damping=1e-3,
        fisher_share=1.0,
        min_log_std=-2.0,
        max_log_std=1.0,
    )
    baseline = ValueBaseline(
        toys.plain_units(2, 1),
        hidden=(8,),
        learning_rate=1e-3,
        weight_decay=0.0,
        epochs=1,
        batch_size=64,
        generator=np.random.default_rng(0),
    )
    rng = np.random.default_rng(1)
    returns = []
    for _ in range(25):
        observations = np.ones((1, 256, 2), np.float32)
        actions = policy.numpy().sample(observations[0], rng)[None].astype(np.float32)
        rewards = -((actions[..., 0] - 0.7) ** 2)
        every = np.ones((1, 256), bool)
        paths = Paths(observations, actions, rewards, observations, 0.0 * rewards, *[every] * 3)
        policy_update.update(
            paths,
            natural_gradient=natural_gradient,
            baseline=baseline,
            discount=0.99,
            gae_lambda=0.95,
            kl_per_update=0.05,
            generator=rng,
        )
        returns.append(rewards.mean())
    # At the start E = -(1.2^2 + exp(-0.7)^2) = -1.69; the optimum with log_std = -2 is -0.018.
    assert returns[0] == pytest.approx(-1.69, abs=0.25)
    assert returns[-1] > -0.06
    assert policy.numpy().mean(np.ones((1, 2), np.float32))[0, 0] == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize(
    ("reward", "kl_per_update", "what"), [(np.nan, 0.02, "gradient"), (0.0, 3e38, "step")]
)
def test_an_update_that_is_no_number_ends_the_run_before_the_baseline_learns_from_it(
    reward, kl_per_update, what
):
    policy, recorder = toys.linear_policy(np.zeros((2, 1)), [0.0], log_std=-0.5), _Recorder()
    natural_gradient = NaturalGradient(
        policy,
        cg_iterations=5,
        cg_damping=1e-3,
        fisher_share=1.0,
        min_log_std=-2.0,
        max_log_std=1.0,
    )
    tf.config.run_functions_eagerly(True)
    try:
        with pytest.raises(FloatingPointError, match=f"^the policy's {what} is not a number"):
            policy_update.update(
                MIXED._replace(rewards=MIXED.rewards + np.float32(reward)),
                natural_gradient=natural_gradient,
                baseline=recorder,
                discount=DISCOUNT,
                gae_lambda=LAMBDA,
                kl_per_update=kl_per_update,
                generator=np.random.default_rng(0),
            )
    finally:
        tf.config.run_functions_eagerly(False)
    assert not recorder.of("fit")
    assert (policy.weights[0].numpy() == 0.0).all() and policy.log_std.numpy() == np.float32(-0.5)


def test_a_baseline_that_is_no_number_ends_the_run():
    recorder = _Recorder()
    recorder.fit = lambda *_: float("nan")
    with pytest.raises(FloatingPointError, match="^the value baseline is not a number"):
        policy_update.update(
            MIXED,
            natural_gradient=recorder,
            baseline=recorder,
            discount=DISCOUNT,
            gae_lambda=LAMBDA,
            kl_per_update=0.02,
            generator=np.random.default_rng(0),
        )
