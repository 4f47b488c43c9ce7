"""The nearest of the allowed pins, against brute force over them."""

import numpy as np
import pytest

from pinnersage_assets.ann.exact import ExactIndex
from pinnersage_assets.ann.hnsw import HnswParameters, build
from pinnersage_assets.ann.restricted import search_among, search_whole

PARAMETERS = HnswParameters(connectivity=16, expansion_add=128, expansion_search=200, dtype="f32")
PINS, TOPICS = 4000, 20


@pytest.fixture(scope="module")
def topics():
    """Ids, vectors, and the topic of each pin; topics are far from each other."""
    rng = np.random.default_rng(0)
    topic = rng.integers(TOPICS, size=PINS)
    vectors = (3 * rng.standard_normal((TOPICS, 32))[topic] + rng.standard_normal((PINS, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(rng.choice(10**9, PINS, replace=False)) - 5 * 10**8, vectors, topic


@pytest.fixture(scope="module", params=["exact", "hnsw"])
def index(request, topics):
    ids, vectors, _ = topics
    return ExactIndex(ids, vectors) if request.param == "exact" else build(ids, vectors, PARAMETERS)


@pytest.fixture(scope="module")
def queries(topics):
    """Pins of the first ten topics."""
    _, vectors, topic = topics
    return np.concatenate([vectors[topic == number][:5] for number in range(10)])


def brute_force(index, query, k, allowed):
    """Pin by pin, in float64; equal cosines by id."""
    cosines = {
        int(pin): float(query.astype(np.float64) @ vector.astype(np.float64))
        for pin, vector, may in zip(index.ids, index.vectors, allowed, strict=True)
        if may
    }
    return sorted(cosines, key=lambda pin: (-cosines[pin], pin))[:k]


def held_to_brute_force(index, queries, k, allowed):
    """The recall, after everything has been asserted that holds for every search."""
    found, cosines = search_among(index, queries, k, allowed)
    assert found.shape == cosines.shape == (len(queries), min(k, int(allowed.sum())))
    assert (found.dtype, cosines.dtype) == (np.int64, np.float32)
    hits = 0
    for query, some, near in zip(queries, found, cosines, strict=True):
        assert len(set(some.tolist())) == len(some)
        rows = np.searchsorted(index.ids, some)
        assert np.array_equal(index.ids[rows], some)
        assert allowed[rows].all()
        assert np.allclose(near, index.vectors[rows] @ query, atol=1e-6)
        assert (np.diff(near) <= 0).all()
        expected = brute_force(index, query, k, allowed)
        if isinstance(index, ExactIndex):
            assert some.tolist() == expected
        hits += len(set(some.tolist()) & set(expected))
    return hits / max(1, found.size)


@pytest.mark.parametrize("k", [1, 20, 100])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1, 0.01])
def test_restrictions_that_have_nothing_to_do_with_the_query(index, queries, share, k):
    allowed = np.random.default_rng(1).random(PINS) < share
    assert held_to_brute_force(index, queries[::5], k, allowed) > 0.97


@pytest.mark.parametrize("k", [1, 20, 150])
def test_the_allowed_may_all_be_far_from_the_query(index, topics, queries, k):
    """Nine of twenty topics, none of them a query's: at first only what is not allowed is found."""
    allowed = topics[2] >= 11
    assert 0.4 < allowed.mean() < 0.5
    assert held_to_brute_force(index, queries, k, allowed) > 0.9


def test_some_queries_may_be_near_to_the_allowed_and_some_far(index, topics, queries):
    allowed = topics[2] % 2 == 0
    assert held_to_brute_force(index, queries, 20, allowed) > 0.95


@pytest.mark.parametrize("pins", [0, 1, 2, 19, 20, 21])
def test_few_may_be_allowed(index, queries, pins):
    allowed = np.zeros(PINS, bool)
    allowed[np.random.default_rng(2).choice(PINS, pins, replace=False)] = True
    recall = held_to_brute_force(index, queries[::10], 20, allowed)
    assert recall == (1 if pins else 0)


@pytest.mark.parametrize("k", [20, 5000])
def test_where_all_are_allowed_it_is_the_search_itself(index, queries, k):
    found, cosines = search_among(index, queries[:5], k, np.ones(PINS, bool))
    expected = index.search(queries[:5], k)
    # Asked for some more, HNSW may come by one that it would have missed.
    assert np.mean(found == expected[0]) > (0.97 if k == 20 else 0.999)
    assert np.allclose(cosines, expected[1], atol=1e-2)


@pytest.mark.parametrize(("q", "k"), [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_no_queries_and_no_neighbours(index, queries, q, k, share):
    allowed = np.arange(PINS) < share * PINS
    found, cosines = search_among(index, queries[:q], k, allowed)
    assert found.shape == cosines.shape == (q, min(k, int(allowed.sum())))


def test_equally_near_ones_come_by_id():
    vectors = np.repeat(np.eye(8, dtype=np.float32), 50, axis=0)
    ids, allowed = np.arange(400) * 7 - 1000, np.arange(400) % 5 != 0
    for index in (ExactIndex(ids, vectors), build(ids, vectors, PARAMETERS)):
        found, cosines = search_among(index, np.eye(8, dtype=np.float32), 10, allowed)
        for axis in range(8):
            own = ids[(vectors[:, axis] == 1) & allowed]
            assert set(found[axis]) <= set(own)
            assert (np.diff(found[axis]) > 0).all()
            if isinstance(index, ExactIndex):
                assert found[axis].tolist() == own[:10].tolist()
        assert (cosines == 1).all()


class ShortIndex:
    """Finds every pin only when it is asked for a tenth of them."""

    ids = np.arange(100, 200)

    def search_rows(self, queries, k):
        found = np.full((len(queries), k), -1)
        found[:, : k if k > 10 else 2] = np.arange(k if k > 10 else 2)
        return found, None


def test_where_the_index_finds_too_few_it_is_searched_deeper():
    rows = search_whole(ShortIndex(), np.zeros((3, 4), np.float32), 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_a_whole_search_gives_rows(index, queries):
    ids, _ = index.search(queries, 30)
    assert np.array_equal(index.ids[search_whole(index, queries, 30)], ids)
