"""Candidate sets and their counts against plain loops over users."""

import numpy as np
import pytest

from pinnersage_assets.model import retrieval_metrics as module
from pinnersage_assets.model.retrieval_metrics import (
    Pairs,
    Targets,
    first_unseen,
    judge,
    nearest_unseen,
    popular_rows,
    random_rows,
)

USERS, CORPUS, D = 30, 80, 6


def unit_vectors(rng, n):
    vectors = rng.standard_normal((n, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_pairs(rng, n):
    return Pairs.of(rng.integers(USERS, size=n), rng.integers(CORPUS, size=n))


def as_set(pairs):
    return set(zip(pairs.users.tolist(), pairs.rows.tolist(), strict=True))


def is_sorted(pairs):
    rows = list(zip(pairs.users.tolist(), pairs.rows.tolist(), strict=True))
    return rows == sorted(set(rows))


def test_pairs_are_sorted_and_each_there_once():
    pairs = Pairs.of(np.array([2, 0, 2, 0]), np.array([5, 9, 5, 1]))
    assert (pairs.users.tolist(), pairs.rows.tolist()) == ([0, 0, 2], [1, 9, 5])
    assert Pairs.of(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).users.shape == (0,)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_nearest_unseen_are_those_of_a_loop(monkeypatch, seed, at_once):
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", at_once)
    rng = np.random.default_rng(seed)
    corpus, queries = unit_vectors(rng, CORPUS), unit_vectors(rng, 50)
    owners, shares = np.sort(rng.integers(USERS, size=50)), rng.integers(0, 20, size=50)
    shares[0] = CORPUS  # more than there is left
    seen = random_pairs(rng, 300)

    def search(some, k):
        return np.argsort(-(some @ corpus.T), axis=1, kind="stable")[:, :k]

    expected = set()
    for query, owner, share in zip(queries, owners.tolist(), shares, strict=True):
        order = np.argsort(-(corpus @ query), kind="stable").tolist()
        expected |= {(owner, row) for row in [row for row in order if (owner, row) not in as_set(seen)][:share]}
    found = nearest_unseen(queries, owners, shares, CORPUS, seen, search)
    assert as_set(found) == expected
    assert is_sorted(found)


def test_first_unseen_keeps_the_order_and_goes_on_after_what_was_seen():
    seen = Pairs.of(np.array([0, 0, 3]), np.array([4, 1, 2]))
    candidates = np.array([[4, 2, 1, 0, 3], [4, 2, 1, 0, 3], [2, 3, 1, 0, 4]])
    found = first_unseen(candidates, np.array([0, 2, 3]), np.array([2, 3, 9]), seen, 5)
    assert as_set(found) == {(0, 2), (0, 0), (2, 4), (2, 2), (2, 1), (3, 3), (3, 1), (3, 0), (3, 4)}
    assert is_sorted(found)


def test_nobody_asks_and_nothing_is_there():
    nobody = np.empty(0, np.int64)
    nothing = Pairs.of(nobody, nobody)
    found = nearest_unseen(np.empty((0, D), np.float32), nobody, nobody, CORPUS, nothing, None)
    assert as_set(found) == set()
    no_corpus = nearest_unseen(
        np.ones((2, D), np.float32),
        np.array([0, 1]),
        np.array([5, 5]),
        0,
        nothing,
        lambda q, k: np.empty((len(q), 0), int),
    )
    assert as_set(no_corpus) == set()


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    corpus, sets = unit_vectors(rng, CORPUS), random_pairs(rng, 120)
    users = np.sort(np.concatenate([np.arange(USERS), rng.integers(USERS, size=60)]))
    rows = rng.integers(-1, CORPUS, size=len(users))
    vectors = np.where((rows >= 0)[:, None], corpus[rows], unit_vectors(rng, len(users)))
    vectors[(rows < 0) & (rng.random(len(users)) < 0.5)] = 0
    # Some users have no set.
    sets = Pairs(sets.users[sets.users > 3], sets.rows[sets.users > 3])
    counts = judge(sets, Targets(users, rows, vectors), corpus, USERS, 0.8)
    for user in range(USERS):
        own = [row for owner, row in as_set(sets) if owner == user]
        wanted = np.flatnonzero(users == user)
        assert counts.set_size[user] == len(own)
        assert counts.targets[user] == len(wanted)
        assert counts.recalled[user] == sum(rows[t] in own for t in wanted)
        assert counts.relevant[user] == sum(any(corpus[row] @ vectors[t] >= 0.8 for row in own) for t in wanted)
    assert counts.recalled.sum() > 0
    assert (counts.recalled <= counts.relevant).all()
    assert counts.relevant[:4].sum() == 0


def test_a_target_without_a_vector_is_a_miss_and_counts():
    corpus = np.eye(2, dtype=np.float32)
    targets = Targets(np.array([0, 0]), np.array([-1, 1]), np.array([[0, 0], [0, 1]], dtype=np.float32))
    counts = judge(Pairs.of(np.array([0, 0]), np.array([0, 1])), targets, corpus, 1, 0.8)
    assert [int(c[0]) for c in vars(counts).values()] == [2, 1, 1, 2]


def test_popular_rows_are_in_the_order_of_actions_then_of_rows():
    assert popular_rows(np.array([3, 1, 3, 0, 1, 3]), 5).tolist() == [3, 1, 0, 2, 4]
    assert popular_rows(np.array([], dtype=np.int64), 3).tolist() == [0, 1, 2]
    assert popular_rows(np.array([], dtype=np.int64), 0).tolist() == []


KEYS = [(0, 739_000, user) for user in (1, 2, 2**62, -1, -(2**63))]


def test_random_rows_are_different_rows_for_any_64_bit_id():
    found = random_rows(50, 20, KEYS)
    assert found.shape == (5, 20)
    assert all(len(set(rows)) == 20 and set(rows) <= set(range(50)) for rows in found.tolist())
    assert len({tuple(rows) for rows in found.tolist()}) == 5


def test_random_rows_depend_on_their_key_alone():
    found = random_rows(50, 20, KEYS)
    np.testing.assert_array_equal(random_rows(50, 20, KEYS[::-1]), found[::-1])
    np.testing.assert_array_equal(random_rows(50, 20, KEYS[2:3]), found[2:3])
    # Also where another user makes everybody's list longer.
    np.testing.assert_array_equal(random_rows(50, 35, KEYS)[:, :20], found)


def test_random_rows_are_uniform():
    found = random_rows(10, 3, [(0, 0, user) for user in range(5000)])
    share = np.bincount(found.ravel(), minlength=10) / 5000
    np.testing.assert_allclose(share, 0.3, atol=0.03)


@pytest.mark.parametrize(("corpus", "depth", "shape"), [(3, 10, (5, 3)), (0, 10, (5, 0)), (3, 0, (5, 0))])
def test_there_are_no_more_random_rows_than_rows(corpus, depth, shape):
    assert random_rows(corpus, depth, KEYS).shape == shape
