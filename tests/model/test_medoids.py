"""Medoids, importance and sampling against the paper's equations written out."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from pinnersage_assets.model import medoids as module
from pinnersage_assets.model.medoids import decayed_weights, importance, medoids, sample_by_importance
from pinnersage_assets.model.randomness import keyed_uniform


def equation_2(points, pin_ids, clusters, counts):
    """The row of each cluster's medoid, from the sums of squared distances over all repeated members."""
    found = []
    for cluster in range(clusters.max() + 1):
        rows = np.flatnonzero(clusters == cluster)
        everyone = np.repeat(points[rows], counts[rows], axis=0).astype(np.float64)
        sums = np.array([((everyone - point) ** 2).sum() for point in points[rows].astype(np.float64)])
        best = rows[sums <= sums.min() * (1 + 1e-9)]
        found.append(best[np.argmin(pin_ids[best])])
    return np.array(found)


def random_members(seed, rows=400, n_clusters=60, d=6):
    rng = np.random.default_rng(seed)
    clusters = np.unique(rng.integers(n_clusters, size=rows), return_inverse=True)[1]
    points = rng.standard_normal((rows, d)).astype(np.float32)
    pin_ids = rng.choice(10**12, size=rows, replace=False)
    return points, pin_ids, clusters, rng.integers(1, 5, size=rows)


@pytest.mark.parametrize("seed", range(10))
def test_medoids_are_those_of_equation_2(seed):
    points, pin_ids, clusters, counts = random_members(seed)
    found = medoids(points, pin_ids, clusters, counts)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, equation_2(points, pin_ids, clusters, counts))
    np.testing.assert_array_equal(
        medoids(points, pin_ids, clusters), equation_2(points, pin_ids, clusters, np.ones_like(counts))
    )


def test_weights_need_not_be_whole_and_may_be_zero():
    points, pin_ids, clusters, counts = random_members(5)
    expected = medoids(points, pin_ids, clusters, counts)
    np.testing.assert_array_equal(medoids(points, pin_ids, clusters, counts * 0.37), expected)
    # What weighs nothing is still a candidate, for it may be the nearest to the mean of the others.
    line = np.float32([[0], [1], [2]])
    np.testing.assert_array_equal(medoids(line, [1, 2, 3], [0, 0, 0], [1.0, 0.0, 1.0]), [1])


def test_decayed_weights_are_the_sums_of_the_definition():
    ages = np.array([30.0, 10.0, 12.0, 80.0, 11.5])
    members, clusters = np.array([0, 0, 1, 2, 2]), np.array([0, 0, 1])
    weights = decayed_weights(ages, members, clusters, 0.1)
    from_now = np.exp(-0.1 * np.array([20.0, 0.0, 2.0, 68.5, 0.0]))
    np.testing.assert_allclose(weights, [from_now[0] + from_now[1], from_now[2], from_now[3] + from_now[4]])
    # With λ = 0 actions are counted; with a huge one each cluster keeps its latest.
    np.testing.assert_array_equal(decayed_weights(ages, members, clusters, 0.0), [2, 1, 2])
    np.testing.assert_array_equal(decayed_weights(ages, members, clusters, 1e6), [1, 0, 1])


def test_the_decayed_medoid_follows_the_interest():
    points = np.float32([[0], [1], [2]])
    ages, clusters = np.array([80.0, 40.0, 1.0]), np.zeros(3, dtype=int)
    weights = decayed_weights(ages, np.arange(3), clusters, 0.1)
    np.testing.assert_array_equal(medoids(points, [1, 2, 3], clusters, weights), [2])
    np.testing.assert_array_equal(medoids(points, [1, 2, 3], clusters), [1])


def test_medoids_do_not_depend_on_memory_or_on_the_order_of_rows(monkeypatch):
    points, pin_ids, clusters, counts = random_members(11)
    points[:200] = points[200:]  # ties
    expected = pin_ids[medoids(points, pin_ids, clusters, counts)]
    order = np.random.default_rng(0).permutation(len(points))
    for chunk_bytes in (1, 5_000, 10**9):
        monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
        shuffled = medoids(points[order], pin_ids[order], clusters[order], counts[order])
        np.testing.assert_array_equal(pin_ids[order][shuffled], expected)


def test_of_two_pins_with_equal_counts_the_smaller_id_is_the_medoid():
    rng = np.random.default_rng(1)
    points = rng.standard_normal((2000, 64)).astype(np.float32)
    pin_ids = rng.permutation(2000)
    clusters = np.repeat(np.arange(1000), 2)
    found = medoids(points, pin_ids, clusters)
    np.testing.assert_array_equal(pin_ids[found], pin_ids.reshape(-1, 2).min(axis=1))
    # With one more action on it, a pin pulls the mean to its side.
    counts = np.tile([2, 1], 1000)
    np.testing.assert_array_equal(medoids(points, pin_ids, clusters, counts), 2 * np.arange(1000))


def test_members_within_a_millionth_are_ties_and_others_are_not():
    def line_with(excess):
        # Mean 0; squared distances 1 and 1 + excess, then two far ones that balance.
        a = math.sqrt(1 + excess)
        return np.array([[-a], [1.0], [50.0], [-50.0 - 1.0 + a]])

    pin_ids = [1, 2, 3, 4]
    assert medoids(line_with(0.5e-6), pin_ids, [0, 0, 0, 0])[0] == 0
    assert medoids(line_with(2e-6), pin_ids, [0, 0, 0, 0])[0] == 1


def test_identical_members_are_ties_also_where_the_mean_falls_on_them():
    rng = np.random.default_rng(2)
    for shift in (0.0, 1e4):
        arms = rng.standard_normal((5, 32)) + shift
        centre = np.full((1, 32), shift)
        points = np.concatenate([arms, 2 * shift - arms, centre, centre, centre]).astype(np.float32)
        pin_ids = np.arange(len(points))[::-1]
        assert pin_ids[medoids(points, pin_ids, np.zeros(len(points), dtype=int))[0]] == 0


def test_members_on_the_mean_but_for_rounding_are_ties():
    points = np.float32([[-1], [1], [0], [1e-12]])
    assert medoids(points, [4, 3, 2, 1], [0, 0, 0, 0])[0] == 3


def test_importance_is_equation_3():
    rng = np.random.default_rng(3)
    ages, clusters = rng.uniform(0, 90, 500), rng.integers(20, size=500)
    for decay_per_day in (0.0, 0.01, 0.1):
        expected = [0.0] * 21
        for age, cluster in zip(ages, clusters, strict=True):
            expected[cluster] += math.exp(-decay_per_day * age)
        np.testing.assert_allclose(importance(ages, clusters, decay_per_day, 21), expected, rtol=1e-12)


def owners_of(n_users, n_items):
    return np.repeat(np.arange(n_users), n_items), np.tile(np.arange(n_items), n_users)


def test_draws_have_the_distribution_of_successive_draws_without_replacement():
    weights = np.array([5.0, 1.0, 0.5, 2.0])
    n_users = 60_000
    owners, items = owners_of(n_users, len(weights))
    draw = sample_by_importance(weights[items], owners, 2, keyed_uniform(7, owners, items)).reshape(n_users, -1)
    first, second = (draw == 0).argmax(axis=1), (draw == 1).argmax(axis=1)
    observed, expected = [], []
    for i in range(len(weights)):
        for j in range(len(weights)):
            if i != j:
                observed.append(np.sum((first == i) & (second == j)))
                expected.append(n_users * weights[i] / weights.sum() * weights[j] / (weights.sum() - weights[i]))
    assert chisquare(observed, expected).pvalue > 0.01
    np.testing.assert_array_equal(np.sort(draw, axis=1), np.tile([-1, -1, 0, 1], (n_users, 1)))


def test_an_owners_draw_does_not_depend_on_other_owners():
    rng = np.random.default_rng(4)
    owners = np.sort(rng.integers(300, size=2000))
    importances, uniforms = rng.exponential(size=2000), rng.random(2000)
    draw = sample_by_importance(importances, owners, 3, uniforms)
    assert draw.dtype == np.int32
    for owner in range(300):
        own = owners == owner
        alone = sample_by_importance(importances[own], owners[own], 3, uniforms[own])
        np.testing.assert_array_equal(draw[own], alone)
        assert sorted(alone[alone >= 0]) == list(range(min(3, own.sum())))


def test_importance_zero_is_drawn_last_but_drawn():
    owners, items = owners_of(500, 4)
    importances = np.array([0.0, 5e-324, 0.0, 1.0])[items]
    draw = sample_by_importance(importances, owners, 3, keyed_uniform(0, owners, items)).reshape(-1, 4)
    np.testing.assert_array_equal(draw[:, [3, 1]], np.tile([0, 1], (500, 1)))
    # Which of the two zeros comes third is a fair toss.
    assert 200 < np.sum(draw[:, 0] == 2) < 300
    np.testing.assert_array_equal((draw[:, [0, 2]] == 2).sum(axis=1), 1)


def test_nothing_in_gives_nothing_out():
    nothing = np.empty(0, dtype=np.int64)
    assert medoids(np.empty((0, 3), dtype=np.float32), nothing, nothing).shape == (0,)
    np.testing.assert_array_equal(importance([], nothing, 0.01, 3), [0, 0, 0])
    assert sample_by_importance([], nothing, 3, []).shape == (0,)


TWO = np.zeros((2, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (medoids, (TWO[0], [1, 2], [0, 0]), "^points must be finite and of shape"),
        (medoids, (TWO + np.inf, [1, 2], [0, 0]), "^points must be finite"),
        (medoids, (TWO, [1], [0, 0]), "^pin_ids must be 2 integers"),
        (medoids, (TWO, [1, 2], [0]), "^clusters must be 2 integers"),
        (medoids, (TWO, [1, 2], [1, 1]), "^clusters must be 0, 1, 2, ... without gaps"),
        (medoids, (TWO, [1, 2], [0, -1]), "^clusters must be 0, 1, 2, ... without gaps"),
        (medoids, (TWO, [1, 2], [0, 0], [1, -1]), "^weights must be 2 finite numbers >= 0"),
        (medoids, (TWO, [1, 2], [0, 0], [1, np.nan]), "^weights must be 2 finite numbers >= 0"),
        (medoids, (TWO, [1, 2], [0, 0], [1]), "^weights must be 2 finite numbers >= 0"),
        (medoids, (TWO, [1, 2], [0, 0], [0, 0]), "^weights must not all be 0 in a cluster"),
        (importance, ([1.0, -0.001], [0, 0], 0.01, 1), "^ages must be finite days >= 0"),
        (importance, ([1.0, np.nan], [0, 0], 0.01, 1), "^ages must be finite days >= 0"),
        (importance, ([1.0], [0], -0.01, 1), "^decay_per_day must be"),
        (importance, ([1.0], [1], 0.01, 1), "^clusters must be between 0 and"),
        (importance, ([1.0], [-1], 0.01, 1), "^clusters must be between 0 and"),
        (importance, ([1.0], [0, 0], 0.01, 1), "^clusters must be integers, one an age"),
        (sample_by_importance, ([1.0, np.nan], [0, 0], 1, [0.5, 0.5]), "^importances must be"),
        (sample_by_importance, ([1.0, -1.0], [0, 0], 1, [0.5, 0.5]), "^importances must be"),
        (sample_by_importance, ([1.0, 1.0], [1, 0], 1, [0.5, 0.5]), "^owners must be ascending"),
        (sample_by_importance, ([1.0, 1.0], [0], 1, [0.5, 0.5]), "^owners must be as long"),
        (sample_by_importance, ([1.0, 1.0], [0, 0], 0, [0.5, 0.5]), "^size must be >= 1, not 0"),
        (sample_by_importance, ([1.0, 1.0], [0, 0], 1, [0.0, 0.5]), "^uniforms must lie strictly"),
        (sample_by_importance, ([1.0, 1.0], [0, 0], 1, [1.0, 0.5]), "^uniforms must lie strictly"),
    ],
)
def test_bad_input_is_refused_by_name(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
