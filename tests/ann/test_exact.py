import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pinnersage_assets.ann import exact
from pinnersage_assets.ann.exact import exact_search, recall


def unit_vectors(seed: int, m: int, n: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((m, n)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(queries: np.ndarray, vectors: np.ndarray, k: int) -> list[list[int]]:
    """Row by row, in float64; equal cosines by row."""
    found = []
    for query in queries.astype(np.float64):
        cosines = [float(query @ vector) for vector in vectors.astype(np.float64)]
        found.append(sorted(range(len(vectors)), key=lambda row: (-cosines[row], row))[:k])
    return found


@pytest.mark.parametrize("k", [1, 7, 59, 60, 61, 1000])
def test_it_finds_what_brute_force_finds(k):
    queries, vectors = unit_vectors(1, 20), unit_vectors(2, 60)
    rows, cosines = exact_search(queries, vectors, k)
    assert rows.shape == cosines.shape == (20, min(k, 60))
    assert (rows.dtype, cosines.dtype) == (np.int64, np.float32)
    assert rows.tolist() == brute_force(queries, vectors, k)
    assert np.allclose(cosines, np.einsum("qn,qkn->qk", queries, vectors[rows]), atol=1e-6)
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_blocks_make_no_difference(monkeypatch):
    queries, vectors = unit_vectors(1, 23), unit_vectors(2, 60)
    whole = exact_search(queries, vectors, 9)[0]
    for scores in (1, 60, 240):
        monkeypatch.setattr(exact, "_BLOCK_SCORES", scores)
        assert np.array_equal(exact_search(queries, vectors, 9)[0], whole)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_are_searched_at_once_by_as_many_threads_as_the_caller_has(monkeypatch, threads):
    monkeypatch.setattr(exact, "_BLOCK_SCORES", 120)
    seen, best = set(), exact._best

    def noted(scores, k):
        seen.add(threading.get_ident())
        time.sleep(0.01)
        return best(scores, k)

    monkeypatch.setattr(exact, "_best", noted)
    queries, vectors = unit_vectors(1, 23), unit_vectors(2, 60)
    with threadpool_limits(threads, user_api="blas"):
        rows = exact_search(queries, vectors, 9)[0]
        left = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
    assert rows.tolist() == brute_force(queries, vectors, 9)
    assert (len(seen), left) == (threads, {threads})


def test_an_error_of_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK_SCORES", 120)
    with pytest.raises(ValueError, match="matmul"):
        exact_search(unit_vectors(1, 23, 8), unit_vectors(2, 60), 9)


@pytest.mark.parametrize("k", range(1, 13))
def test_equal_cosines_are_in_the_order_of_rows_also_where_k_cuts_them(k):
    # Products of small whole numbers are exact: these cosines are equal to the last bit.
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 2, 1, 1, 0, 3, 1, 0, 0, 1]]
    queries = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1]], np.float32)
    assert exact_search(queries, vectors, k)[0].tolist() == brute_force(queries, vectors, k)


@pytest.mark.parametrize(("q", "m", "k"), [(0, 5, 3), (4, 0, 3), (0, 0, 3), (4, 5, 0)])
def test_of_nothing_it_finds_nothing(q, m, k):
    rows, cosines = exact_search(unit_vectors(1, q), unit_vectors(2, m), k)
    assert rows.shape == cosines.shape == (q, min(k, m))
    assert (rows.dtype, cosines.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(
    ("found", "share"),
    [
        ([[1, 2, 3], [4, 5, 6]], 1.0),
        ([[3, 1, 2], [6, 4, 5]], 1.0),
        ([[1, 2, 9], [4, 9, 8]], 0.5),
        ([[9, 9, 9], [1, 2, 3]], 0.0),
        ([[1, -1, -1], [4, -1, -1]], 1 / 3),
        ([[1], [4, 5, 6, 7, 8]], 4 / 6),
        ([[], []], 0.0),
        ([[1, 1, 1], [4, 4, 4]], 1 / 3),
    ],
)
def test_recall_is_the_share_that_was_found(found, share):
    lists = [np.array(row, np.int64) for row in found]
    assert recall(lists, np.array([[1, 2, 3], [4, 5, 6]])) == pytest.approx(share)


def test_recall_wants_as_many_lists_as_queries():
    with pytest.raises(ValueError, match="zip"):
        recall(np.ones((1, 2), np.int64), np.ones((2, 2), np.int64))
