"""PinnerSage for a population: what is found for a user, whatever batch the user is in."""

import numpy as np
import pytest

from pinnersage_assets.model import pinnersage as module
from pinnersage_assets.model import population
from pinnersage_assets.model.medoids import medoids
from pinnersage_assets.model.pinnersage import cluster_users, draw_medoids, find_medoids
from pinnersage_assets.model.ward import ward

ALPHA = 0.7


@pytest.fixture(scope="module")
def people():
    """user_ids, pin_rows, counts and vectors of 40 users with 1 to 30 pins."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 16))
    vectors = centres[rng.integers(12, size=300)] + 0.25 * rng.standard_normal((300, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    users = np.repeat(rng.choice(10**6, 40, replace=False), rng.integers(1, 31, size=40))
    rows = np.concatenate([rng.choice(300, np.sum(users == user), replace=False) for user in dict.fromkeys(users)])
    return users, rows, rng.integers(1, 4, size=len(users)).astype(np.int32), vectors


@pytest.fixture(params=[1, 25, 10**6])
def batch_rows(request, monkeypatch):
    monkeypatch.setattr(module, "batches", lambda offsets, rows=None: population.batches(offsets, request.param))


def silent(done, total):
    assert 0 < done <= total


@pytest.mark.usefixtures("batch_rows")
def test_clusters_are_those_of_each_user_alone(people):
    users, rows, counts, vectors = people
    labels = cluster_users(users, rows, counts, vectors, ALPHA, silent)
    assert labels.dtype == np.int32
    for user in set(users):
        own = users == user
        np.testing.assert_array_equal(labels[own], ward(vectors[rows[own]], ALPHA, counts[own]))
    assert labels.max() > 3


@pytest.mark.usefixtures("batch_rows")
def test_medoids_are_those_of_each_cluster_alone(people):
    _, rows, counts, vectors = people
    clusters = np.sort(np.random.default_rng(1).integers(60, size=len(rows)))
    clusters = np.unique(clusters, return_inverse=True)[1]
    pin_ids = 1000 - rows
    found = find_medoids(clusters, pin_ids, rows, counts, vectors, silent)
    for cluster in range(clusters.max() + 1):
        own = np.flatnonzero(clusters == cluster)
        alone = medoids(vectors[rows[own]], pin_ids[own], np.zeros(len(own), dtype=int), counts[own])
        assert (found[own] == pin_ids[own][alone[0]]).all()


@pytest.mark.usefixtures("batch_rows")
def test_progress_ends_at_the_number_of_users(people):
    users, rows, counts, vectors = people
    told = []
    cluster_users(users, rows, counts, vectors, ALPHA, lambda done, total: told.append((done, total)))
    assert told[-1] == (40, 40)
    assert told == sorted(told)


def test_draws_depend_on_seed_day_user_and_medoid_and_on_nothing_else():
    users = np.repeat([3, 7, -9, 2**62], 6)
    users.sort()
    pins = np.tile(np.arange(6), 4)
    weights = np.random.default_rng(2).exponential(size=24)
    draws = draw_medoids(users, pins, weights, 3, (0, 739_000))
    assert all(sorted(draws[users == user]) == [-1, -1, -1, 0, 1, 2] for user in set(users))
    for user in set(users):
        own = users == user
        order = np.random.default_rng(3).permutation(6)
        alone = draw_medoids(users[own], pins[own][order], weights[own][order], 3, (0, 739_000))
        np.testing.assert_array_equal(alone, draws[own][order])
    assert not np.array_equal(draw_medoids(users, pins, weights, 3, (0, 739_001)), draws)
    assert not np.array_equal(draw_medoids(users, pins, weights, 3, (1, 739_000)), draws)


def test_important_medoids_are_drawn_more_often():
    users, pins = np.repeat(np.arange(4000), 3), np.tile(np.arange(3), 4000)
    draws = draw_medoids(users, pins, np.tile([6.0, 3.0, 1.0], 4000), 1, (0, 0)).reshape(-1, 3)
    np.testing.assert_allclose((draws == 0).mean(axis=0), [0.6, 0.3, 0.1], atol=0.03)


def test_nobody_gives_nothing():
    nobody, vectors = np.empty(0, np.int64), np.eye(3, dtype=np.float32)
    assert cluster_users(nobody, nobody, nobody, vectors, ALPHA, silent).shape == (0,)
    assert find_medoids(nobody, nobody, nobody, nobody, vectors, silent).shape == (0,)
    assert draw_medoids(nobody, nobody, np.empty(0), 3, (0, 0)).shape == (0,)


def test_a_broken_vector_is_refused_with_its_row_and_a_user(people):
    users, rows, counts, vectors = people
    broken = vectors.copy()
    broken[rows[5], 3] = np.nan
    with pytest.raises(
        ValueError, match=rf"^vectors contain NaN or infinity in row {rows[5]}, a pin of user {users[5]}"
    ):
        cluster_users(users, rows, counts, broken, ALPHA, silent)
