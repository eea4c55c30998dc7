import numpy as np
import pytest

from mopp_tf.planning import pruning

RULES = ["fill", "replace"]
FREE = np.zeros((1, 4), np.float32)  # four candidates that break nothing


def _block(seed, rows=6, population=8, steps=3):
    """Uncertainties [E, N, H] with gaps, NaN and infinities, violations [E, N]."""
    rng = np.random.default_rng(seed)
    uncertainty = rng.exponential(size=(rows, population, steps)).astype(np.float32)
    uncertainty[rng.uniform(size=uncertainty.shape) < 0.03] = np.nan
    uncertainty[rng.uniform(size=uncertainty.shape) < 0.03] = np.inf
    violation = rng.uniform(0.1, 3, (rows, population)) * (
        rng.uniform(size=(rows, population)) < 0.3
    )
    return uncertainty, violation.astype(np.float32)


def _naive(uncertainty, violation, limit, least, rule):
    """Candidate by candidate, then a sort by (class, value)."""
    rows, population, steps = uncertainty.shape
    keep, fallback = np.zeros((rows, population), bool), np.zeros(rows, bool)
    for e in range(rows):
        keys = []
        for n in range(population):
            total = sum(float(u) for u in uncertainty[e, n])
            certain = all(uncertainty[e, n, t] <= limit for t in range(steps))
            if not np.isfinite(total):
                key = (3, 0.0)
            elif violation[e, n] > 0:
                key = (2, float(violation[e, n]))
            elif certain:
                keep[e, n] = True
                key = (0, 0.0) if rule == "fill" else (1, total)
            else:
                key = (1, total)
            keys.append((*key, n))
        if keep[e].sum() < least:
            fallback[e] = True
            keep[e] = False
            worst = max(1, min(keys)[0])  # of a worse class none stays while there is a better one
            for kind, _, n in sorted(keys)[:least]:
                keep[e, n] = kind <= worst
    return keep, fallback


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("least", [1, 3, 8])
@pytest.mark.parametrize("limit", [0.3, 1.0, 2.0, np.inf])
def test_equals_the_loop(limit, least, rule):
    for seed in range(5):
        uncertainty, violation = _block(seed)
        keep, fallback = _naive(uncertainty, violation, limit, least, rule)
        found = pruning.prune(uncertainty, violation, limit, least, rule)
        np.testing.assert_array_equal(found.keep, keep)
        np.testing.assert_array_equal(found.fallback, fallback)
        counts = found.keep.numpy().sum(axis=1)
        assert (counts >= 1).all()
        assert (counts[~fallback] >= least).all()
        # The fallback keeps N_m where so many are finite and break nothing.
        usable = (np.isfinite(uncertainty).all(axis=2) & (violation == 0)).sum(axis=1)
        np.testing.assert_array_equal(
            counts[fallback & (usable > 0)], np.minimum(usable, least)[fallback & (usable > 0)]
        )


def test_the_blocks_of_the_loop_hold_all_cases():
    fallbacks = []
    for seed in range(5):
        uncertainty, violation = _block(seed)
        _, fallback = _naive(uncertainty, violation, 1.0, 3, "fill")
        fallbacks.extend(fallback)
        assert not np.isfinite(uncertainty).all()
        assert 0.1 < (violation > 0).mean() < 0.5
    assert 0.2 < np.mean(fallbacks) < 1.0


def test_every_step_counts_and_the_limit_is_inclusive():
    limit, eps = np.float32(2.0), np.float32(2e-7)
    below, at, above = limit - eps, limit, limit + 2 * eps
    assert below < at < above
    uncertainty = np.zeros((1, 5, 3), np.float32)
    uncertainty[0, 0], uncertainty[0, 1] = below, at  # sums above the limit do not matter
    uncertainty[0, 2, 0] = uncertainty[0, 3, 1] = uncertainty[0, 4, 2] = above
    found = pruning.prune(uncertainty, np.zeros((1, 5), np.float32), float(limit), 2, "fill")
    np.testing.assert_array_equal(found.keep, [[True, True, False, False, False]])
    assert not found.fallback[0]


def test_a_violation_prunes_from_the_first_unit_and_zero_is_allowed():
    violation = np.array([[-1.0, 0.0, 1e-6, 4.0]], np.float32)
    uncertainty = np.zeros((1, 4, 2), np.float32)
    found = pruning.prune(uncertainty, violation, np.inf, 2, "fill")
    np.testing.assert_array_equal(found.keep, [[True, True, False, False]])


@pytest.mark.parametrize("rule", RULES)
def test_the_fallback_begins_below_n_m(rule):
    uncertainty = np.array([[[1.0], [1.0], [3.0], [2.5]]], np.float32)
    for least, fallback, keep in (
        (1, False, [1, 1, 0, 0]),
        (2, False, [1, 1, 0, 0]),
        (3, True, [1, 1, 0, 1]),
        (4, True, [1, 1, 1, 1]),
    ):
        found = pruning.prune(uncertainty, FREE, 1.0, least, rule)
        assert bool(found.fallback[0]) is fallback
        np.testing.assert_array_equal(found.keep[0].numpy(), np.array(keep, bool))


def test_fill_keeps_the_survivors_and_replace_need_not():
    # Candidate 0 survives L = 1 with a sum of 3; 1 and 2 fail at one step but sum to 1.5 and 1.2.
    uncertainty = np.array([[[1, 1, 1], [1.5, 0, 0], [0, 0, 1.2], [9, 9, 9]]], np.float32)
    fill, replace = (pruning.prune(uncertainty, FREE, 1.0, 2, rule) for rule in RULES)
    np.testing.assert_array_equal(fill.keep, [[True, False, True, False]])
    np.testing.assert_array_equal(replace.keep, [[False, True, True, False]])
    assert fill.fallback[0] and replace.fallback[0]


@pytest.mark.parametrize("seed", range(4))
def test_fill_holds_all_survivors(seed):
    uncertainty, violation = _block(seed)
    found = pruning.prune(uncertainty, violation, 1.0, 4, "fill").keep.numpy()
    survivors = (uncertainty <= 1.0).all(axis=2) & (violation == 0)
    assert survivors.any()
    assert not (survivors & ~found).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("uncertainty", "violation", "order"),
    [
        # Certain, then uncertain by their sum; what breaks the constraint or is not finite never.
        ([np.nan, 0.1, 0.2, 50.0, 7.0, 0.5], [0.0, 2.0, 0.5, 0.0, 0.0, 0.0], [5, 4, 3]),
        ([50.0, 0.1, 0.2, np.nan], [0.0, 2.0, 0.5, 0.0], [0]),
        # All break it: by how much, whatever their uncertainty.
        ([9.0, 0.1, 0.2, np.nan], [1.0, 2.0, 0.5, 0.1], [2, 0, 1]),
        ([np.nan, np.inf, np.nan], [0.0, 1.0, 0.0], [1, 0, 2]),
    ],
)
def test_worse_classes_stay_only_where_there_is_no_better_one(uncertainty, violation, order, rule):
    uncertainty = np.array(uncertainty, np.float32)[None, :, None]
    for least in range(1, len(violation) + 1):
        found = pruning.prune(uncertainty, np.array([violation], np.float32), 1.0, least, rule)
        np.testing.assert_array_equal(np.flatnonzero(found.keep[0]), np.sort(order[:least]))


@pytest.mark.parametrize(
    ("uncertainty", "violation", "last"),
    [
        ([5.0, 0.1, 0.2], [0.0, 1e-10, 0.0], 1),  # hardly broken, but broken
        ([5.0, 0.1, 0.2], [0.0, np.nan, 0.0], 1),  # a constraint that returns NaN
        ([5e10, 0.1, 0.2], [0.0, 0.5, 0.0], 1),
        ([np.nan, 0.1, 0.2], [0.0, 1e22, 1.0], 0),
        ([np.nan, 0.1, 0.2], [0.0, np.inf, 1.0], 0),
    ],
)
def test_the_order_holds_at_any_scale(uncertainty, violation, last):
    uncertainty = np.array(uncertainty, np.float32)[None, :, None]
    found = pruning.prune(uncertainty, np.array([violation], np.float32), 0.15, 2, "fill")
    np.testing.assert_array_equal(found.keep[0], np.arange(3) != last)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("limit", [1.0, np.inf])
def test_one_broken_step_breaks_the_candidate(limit, broken):
    uncertainty = np.full((1, 4, 3), 0.5, np.float32)
    uncertainty[0, 1, 2] = broken
    found = pruning.prune(uncertainty, FREE, limit, 3, "fill")
    np.testing.assert_array_equal(found.keep, [[True, False, True, True]])
    assert not found.fallback[0]
    found = pruning.prune(uncertainty, FREE, limit, 4, "fill")
    np.testing.assert_array_equal(found.keep, [[True, False, True, True]])
    assert found.fallback[0]


def test_an_infinite_limit_keeps_all_that_is_allowed():
    uncertainty, violation = _block(0)
    found = pruning.prune(uncertainty, violation, np.inf, 1, "fill")
    expected = np.isfinite(uncertainty).all(axis=2) & (violation == 0)
    np.testing.assert_array_equal(found.keep, expected)


def test_survivors_grow_with_the_limit():
    rng = np.random.default_rng(0)
    uncertainty = rng.exponential(size=(5, 40, 4)).astype(np.float32)
    free = np.zeros((5, 40), np.float32)
    # From the lowest largest step on, each row has a survivor and N_m = 1 asks for no fallback.
    first = uncertainty.max(axis=2).min(axis=1).max()
    kept = [
        pruning.prune(uncertainty, free, limit, 1, "fill").keep.numpy()
        for limit in (first, first + 0.5, first + 1.0, first + 2.0, np.inf)
    ]
    for less, more in zip(kept[:-1], kept[1:]):
        assert not (less & ~more).any()
        assert less.sum() < more.sum()
    assert kept[-1].all()


@pytest.mark.parametrize("rule", RULES)
def test_never_empty_at_a_limit_of_zero(rule):
    uncertainty, violation = _block(1)
    for block, broken in ((uncertainty, violation), (np.nan * uncertainty, violation + 1)):
        found = pruning.prune(block, broken, 0.0, 2, rule)
        assert (found.keep.numpy().sum(axis=1) == 2).mean() >= 0.5
        assert found.keep.numpy().any(axis=1).all()
        assert found.fallback.numpy().all()


@pytest.mark.parametrize("rule", RULES)
def test_rows_are_independent(rule):
    uncertainty, violation = _block(2)
    found = pruning.prune(uncertainty, violation, 1.0, 3, rule)
    assert 0 < found.fallback.numpy().sum() < 6
    for e in range(6):
        alone = pruning.prune(uncertainty[e : e + 1], violation[e : e + 1], 1.0, 3, rule)
        np.testing.assert_array_equal(alone.keep[0], found.keep[e])
        np.testing.assert_array_equal(alone.fallback[0], found.fallback[e])
    order = [4, 0, 5, 2, 1, 3]
    turned = pruning.prune(uncertainty[order], violation[order], 1.0, 3, rule)
    np.testing.assert_array_equal(turned.keep.numpy(), found.keep.numpy()[order])
