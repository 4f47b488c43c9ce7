"""Diversity against loops over pairs, and small sets worked out by hand."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from pinnersage_assets.model.diversity import (
    coverage,
    diversity,
    interest_entropy,
    mean_of_defined,
    most_popular_rows,
    overlap_with_popular,
    popular_rows,
)
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.user_sets import Pairs

USERS, PINS = 12, 40
NOBODY = Pairs.of(np.empty(0, np.int64), np.empty(0, np.int64))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=range(3))
def sets(request):
    """Sets of some users: none of users 0 and 5, one pin of user 1."""
    rng = np.random.default_rng(request.param)
    users, rows = rng.integers(2, USERS, size=90), rng.integers(PINS, size=90)
    return Pairs.of(np.append(users[users != 5], 1), np.append(rows[users != 5], 3))


def rows_of(sets, user):
    return sets.rows[sets.users == user].tolist()


def test_diversity_is_that_of_a_loop_over_pairs(sets):
    vectors = unit(np.random.default_rng(9).standard_normal((PINS, 6)) + 0.5)
    found = diversity(sets, vectors, USERS)
    assert found.shape == (USERS,)
    for user in range(USERS):
        distances = [
            1 - float(vectors[a].astype(np.float64) @ vectors[b]) for a, b in combinations(rows_of(sets, user), 2)
        ]
        if distances:
            assert found[user] == pytest.approx(sum(distances) / len(distances), abs=1e-12)
        else:
            assert math.isnan(found[user])
    assert np.isnan(found[[0, 1, 5]]).all()


def test_diversity_by_hand():
    """East, north, west: distances 1, 1 and 2."""
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    sets = Pairs.of(np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 0, 2, 0, 1]))
    np.testing.assert_allclose(diversity(sets, vectors, 3), [4 / 3, 2, 1])


def test_copies_are_not_diverse():
    copies = np.repeat(unit(np.random.default_rng(0).standard_normal((1, 256))), 400, axis=0)
    found = diversity(Pairs(np.zeros(400, np.int64), np.arange(400)), copies, 1)
    assert 0 <= found[0] < 1e-6


def test_coverage_counts_each_pin_once():
    sets = Pairs.of(np.array([0, 0, 1, 2]), np.array([4, 1, 4, 9]))
    assert coverage(sets, 12) == 0.25
    assert coverage(NOBODY, 12) == 0
    assert math.isnan(coverage(NOBODY, 0))


def test_overlap_is_that_of_a_loop(sets):
    popular = np.random.default_rng(1).permutation(PINS)
    found = overlap_with_popular(sets, popular, USERS)
    for user in range(USERS):
        own = rows_of(sets, user)
        if own:
            assert found[user] == len(set(own) & set(popular[: len(own)].tolist())) / len(own)
        else:
            assert math.isnan(found[user])
    assert np.nanmax(found) > 0


def test_overlap_by_hand():
    sets = Pairs.of(np.array([0, 0, 2, 2, 2]), np.array([3, 1, 3, 0, 4]))
    # The two most popular are 3 and 0, the three 3, 0 and 1.
    np.testing.assert_array_equal(overlap_with_popular(sets, np.array([3, 0, 1, 2, 4]), 3), [1 / 2, np.nan, 2 / 3])


def test_entropy_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    owners, interests = rng.integers(1, 30, size=200), rng.integers(-1, 5, size=200)
    owners[:2], interests[:2] = 30, -1
    found = interest_entropy(owners, interests, 31)
    for user in range(31):
        own = Counter(interests[(owners == user) & (interests >= 0)].tolist())
        shares = [count / own.total() for count in own.values()]
        if shares:
            assert found[user] == pytest.approx(-sum(share * math.log2(share) for share in shares), abs=1e-12)
        else:
            assert math.isnan(found[user])
    assert np.isnan(found[[0, 30]]).all()


def test_entropy_by_hand():
    owners = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    # Four equal shares; one interest; a half and two quarters. A medoid's id may be any integer >= 0.
    interests = np.array([5, 0, 2**62, 7, 3, 3, -1, 1, 1, 2, 0])
    found = interest_entropy(owners, interests, 4)
    np.testing.assert_array_equal(found, [2, 0, 1.5, np.nan])
    assert not np.signbit(found[1])


def test_nobody_is_recommended_anything():
    for found in (
        diversity(NOBODY, np.eye(3, dtype=np.float32), 2),
        overlap_with_popular(NOBODY, np.arange(3), 2),
        interest_entropy(NOBODY.users, NOBODY.rows, 2),
    ):
        assert found.shape == (2,)
        assert np.isnan(found).all()
    assert diversity(NOBODY, np.eye(3, dtype=np.float32), 0).shape == (0,)
    assert interest_entropy(NOBODY.users, NOBODY.rows, 0).shape == (0,)
    assert overlap_with_popular(NOBODY, np.arange(3), 0).shape == (0,)


def test_the_most_popular_come_first_and_equals_by_chance():
    assert popular_rows(np.array([1, 5, 0, 5]), np.array([0.5, 0.9, 0.1, 0.2])).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("size", [0, 1, 7, 20, 50, 100])
def test_the_first_of_the_most_popular_are_those_of_all(size):
    actions = np.random.default_rng(0).integers(4, size=50)
    chance = keyed_uniform("popular", 3, np.arange(50))
    assert most_popular_rows(actions, ("popular", 3), size).tolist() == popular_rows(actions, chance)[:size].tolist()


def test_equally_popular_pins_take_turns():
    drawn = [most_popular_rows(np.zeros(200, int), ("popular", seed), 40) for seed in range(60)]
    assert np.bincount(np.concatenate(drawn), minlength=200).min() > 0


def test_means_are_of_what_is_defined():
    assert mean_of_defined(np.array([1, np.nan, 2])) == 1.5
    assert mean_of_defined(np.array([np.nan])) is None
