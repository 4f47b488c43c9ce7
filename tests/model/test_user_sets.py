"""Sets and what is nearest outside of them, against plain loops over users."""

import numpy as np
import pytest

from pinnersage_assets.model import user_sets as module
from pinnersage_assets.model.user_sets import Pairs, first_unseen, nearest_unseen

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
