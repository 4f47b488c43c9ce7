"""Figures 2 and 3 against loops, and a user whose mean lies where nothing of the user is."""

import math
from itertools import combinations

import numpy as np
import pytest

from pinnersage_assets.model import merged_vectors as module
from pinnersage_assets.model.merged_vectors import (
    PastActions,
    mean_cosine_by_age,
    merged_against_medoids,
    past_against_latest,
)
from pinnersage_assets.model.user_sets import Pairs


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def search_in(corpus):
    return lambda queries, k: np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("at_once", [2, 128])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("merged", "neighbours"), [(1, 4), (3, 1), (3, 7)])
def test_nearness_is_that_of_a_loop(monkeypatch, at_once, seed, merged, neighbours):
    monkeypatch.setattr(module, "_USERS_AT_ONCE", at_once)
    rng = np.random.default_rng(seed)
    vectors, corpus = unit(rng.standard_normal((60, 5))), unit(rng.standard_normal((80, 5)))
    owners = np.sort(rng.choice([0, 2, 3, 4, 7, 8], size=25))
    rows, weights = rng.integers(60, size=25), rng.integers(1, 4, size=25).astype(float)
    actions = Pairs.of(np.append(rng.integers(9, size=60), owners), np.append(rng.integers(60, size=60), rows))
    seen = Pairs.of(rng.integers(9, size=150), rng.integers(80, size=150))
    found = merged_against_medoids(
        owners, rows, weights, actions, vectors, corpus, seen, search_in(corpus), merged, neighbours
    )

    def nearness(user, query):
        order = np.argsort(-(corpus @ query), kind="stable")
        unseen = [row for row in order if row not in seen.rows[seen.users == user]][:neighbours]
        own = vectors[actions.rows[actions.users == user]]
        return np.mean([max(float(pin @ corpus[row]) for pin in own) for row in unseen])

    users = [user for user in range(9) if sum(owners == user) >= merged]
    assert found.users.tolist() == users
    for number, user in enumerate(users):
        # `sorted` keeps the order of equals.
        best = sorted(np.flatnonzero(owners == user), key=lambda k: -weights[k])[:merged]
        medoids = vectors[rows[best]]
        assert found.medoids[number] == pytest.approx([nearness(user, medoid) for medoid in medoids], abs=1e-5)
        assert found.merged[number] == pytest.approx(nearness(user, unit(medoids.sum(axis=0))), abs=1e-5)
        cosines = [float(a @ b) for a, b in combinations(medoids, 2)]
        expected = np.mean(cosines) if cosines else math.nan
        assert found.medoid_cosine[number] == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_the_mean_of_unlike_pins_is_near_pins_that_are_like_none_of_them():
    """Painting, shoes, sci-fi along three axes; breakfast where all three are equal (the paper's Figure 2)."""
    vectors = np.eye(3, dtype=np.float32)
    breakfast = unit(np.array([[1, 1, 1]]))
    corpus = np.concatenate([vectors, unit(np.eye(3) + 0.1), breakfast])
    everything = Pairs.of(np.zeros(3, int), np.arange(3))
    found = merged_against_medoids(
        np.zeros(3, int), np.arange(3), np.ones(3), everything, vectors, corpus, everything, search_in(corpus), 3, 1
    )
    assert found.users.tolist() == [0]
    assert found.merged[0] == pytest.approx(math.sqrt(1 / 3))
    assert found.medoids[0] == pytest.approx([1.1 / math.sqrt(1.23)] * 3)
    assert found.medoid_cosine[0] == pytest.approx(0, abs=1e-6)


def test_users_without_a_merged_vector_are_left_out_and_without_neighbours_have_none():
    vectors = np.array([[1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    # User 0 has one medoid, those of user 1 cancel out, user 2 has seen everything.
    owners, rows = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 2])
    seen = Pairs.of(np.full(3, 2), np.arange(3))
    found = merged_against_medoids(
        owners, rows, np.ones(5), Pairs.of(owners, rows), vectors, vectors, seen, search_in(vectors), 2, 4
    )
    assert found.users.tolist() == [2]
    assert np.isnan(found.merged).all()
    assert np.isnan(found.medoids).all()
    assert found.medoids.shape == (1, 2)


def test_nobody_has_medoids():
    nothing = np.empty(0, np.int64)
    nobody, vectors = Pairs.of(nothing, nothing), np.eye(2, dtype=np.float32)
    found = merged_against_medoids(
        nothing, nothing, np.empty(0), nobody, vectors, vectors, nobody, search_in(vectors), 3, 4
    )
    assert (found.users.shape, found.merged.shape, found.medoids.shape) == ((0,), (0,), (0, 3))


def test_past_actions_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((30, 5)))
    users, rows = rng.choice([-3, 4, 2**62], size=80), rng.integers(30, size=80)
    users[0] = 9  # one action, which is the latest
    ages = rng.integers(0, 12, size=80) / 4
    found = past_against_latest(users, ages, rows, vectors)
    expected = []
    for user in sorted(set(users.tolist())):
        own = [(age, row) for other, age, row in zip(users, ages, rows, strict=True) if other == user]
        age_of_latest, latest = min(own)
        expected += [
            (user, age, float(vectors[row] @ vectors[latest])) for age, row in sorted(own) if age > age_of_latest
        ]
    assert found.users.tolist() == [user for user, _, _ in expected]
    assert found.ages.tolist() == [age for _, age, _ in expected]
    assert found.cosines == pytest.approx([cosine for _, _, cosine in expected], abs=1e-6)
    assert len(expected) < 76


def test_nobody_has_a_past():
    nothing = np.empty(0, np.int64)
    found = past_against_latest(nothing, np.empty(0), nothing, np.eye(2, dtype=np.float32))
    assert (len(found.users), len(found.ages), len(found.cosines)) == (0, 0, 0)
    means, counts = mean_cosine_by_age(found, np.array([0.0, 1, 2]))
    assert np.isnan(means).all()
    assert counts.tolist() == [0, 0]


def test_means_by_age_by_hand():
    ages = np.array([0.5, 1, 1.5, 7, 30, 31])
    past = PastActions(np.zeros(6, np.int64), ages, np.array([0.2, 0.4, 0.8, -0.1, 0.9, 0.9]))
    means, counts = mean_cosine_by_age(past, np.array([1.0, 7, 14, 20, 30]))
    # 0.5 is before the first bin; 30 and 31 are past the last.
    assert counts.tolist() == [2, 1, 0, 0]
    np.testing.assert_allclose(means, [0.6, -0.1, np.nan, np.nan])
