"""Exact nearest neighbours by blocks of matrix products.

For a small corpus this is the cheapest search there is; for a large one, the truth that an approximate index is
measured against.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from pinnersage_assets.model.selected_vectors import Vectors

# Blocks that are searched at the same time, at most.
_THREADS = 8
# Scores of one block; float32, so 64 MB.
_BLOCK_SCORES = 16_000_000
# Vectors that are held against all queries before the next ones are looked at.
_TILE_ROWS = 65_536
# Scores of which only the highest is compared, to bound the k-th highest of all: cheaper than a partition of all.
_GROUP = 64


@dataclass(frozen=True)
class ExactIndex:
    """Pins and their vectors, searched exactly; the same interface as `hnsw.HnswIndex`."""

    ids: NDArray[np.int64]
    """(m,) ascending."""
    vectors: Vectors
    """(m, n) unit vectors."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest pins of each query.

        Args:
            queries: (q, n) unit vectors.
            k: how many to find.

        Returns:
            ids and cosines, both (q, min(k, m)), nearest first; equally near ones by id.
        """
        rows, cosines = self.search_rows(queries, k)
        return self.ids[rows], cosines

    def search_rows(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `search`, rows of ``ids`` in place of ids."""
        return exact_search(queries, self.vectors, k)


def exact_search(
    queries: NDArray[np.float32], vectors: Vectors, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k vectors of highest cosine for each query.

    Args:
        queries: (q, n) unit vectors.
        vectors: (m, n) unit vectors; what is not in memory is gathered once, some of it at a time.
        k: how many to find; fewer are returned where there are fewer vectors.

    Returns:
        rows (q, min(k, m)) int64 into ``vectors`` and cosines float32, highest first, equal ones by row.
    """
    k = min(k, len(vectors))
    rows, cosines = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32)
    if not rows.size:
        return rows, cosines
    for start in range(0, len(vectors), _TILE_ROWS):
        tile = vectors[start : start + _TILE_ROWS]
        found, values = _search_tile(queries, tile, min(k, len(tile)))
        if start:
            # Rows of this tile come after all others: a stable sort leaves equal ones in their order.
            found, values = np.hstack([rows, found + start]), np.hstack([cosines, values])
            order = np.argsort(-values, axis=1, kind="stable")[:, :k]
            found, values = np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)
        rows, cosines = found, values
    return rows, cosines


def _search_tile(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `exact_search`, of vectors that are in memory, at least k."""
    rows = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)

    def search(some: list[slice]) -> None:
        # Memory of that size is new, and slow, whenever it is asked for.
        scores = np.empty((some[0].stop - some[0].start, len(vectors)), dtype=np.float32)
        for block in some:
            product = np.matmul(queries[block], vectors.T, out=scores[: block.stop - block.start])
            rows[block], cosines[block] = _best(product, k)

    blocks = list(_blocks(len(queries), len(vectors)))
    if len(blocks) <= 1:
        search(blocks)
        return rows, cosines
    # A block a thread, instead of all threads in the product of one: then what follows the product has them too.
    threads = min(_THREADS, len(blocks), blas_threads())
    with _blas().limit(limits=1), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(search, [blocks[number::threads] for number in range(threads)]):
            pass
    return rows, cosines


def blas_threads() -> int:
    """The threads that BLAS may have now, and so whoever computes beside it."""
    return max((library.num_threads for library in _blas().lib_controllers), default=1)


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _best(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and values of the k highest scores of each row, highest first; equal ones by column."""
    flat = np.flatnonzero(scores >= _lower_bounds(scores, k)[:, None])
    rows, columns = np.divmod(flat, scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    # A row each, padded: few more than k are at or above the bound, unless scores are equal.
    candidates = np.zeros((len(scores), counts.max()), dtype=np.int64)
    values = np.full(candidates.shape, -np.inf, dtype=np.float32)
    candidates[rows, places] = columns
    values[rows, places] = scores[rows, columns]
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(values, order, axis=1)


def _lower_bounds(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Of each row a value that at least k scores reach, and not many more: the k-th highest maximum of small groups."""
    groups = scores.shape[1] // max(1, min(_GROUP, scores.shape[1] // (8 * k)))
    maxima = scores[:, :groups].copy()
    for start in range(groups, scores.shape[1], groups):
        part = scores[:, start : start + groups]
        np.maximum(maxima[:, : part.shape[1]], part, out=maxima[:, : part.shape[1]])
    return np.partition(maxima, -k, axis=1)[:, -k]


def _blocks(n_queries: int, n_vectors: int) -> Iterator[slice]:
    size = max(1, _BLOCK_SCORES // n_vectors)
    return (slice(start, min(start + size, n_queries)) for start in range(0, n_queries, size))


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact neighbours that were found, over all queries.

    Args:
        found: (q, k') ids that a search gave; -1 stands for none.
        exact: (q, k) ids that it should have given.
    """
    hits = sum(len(np.intersect1d(a, b, assume_unique=False)) for a, b in zip(found, exact, strict=True))
    return hits / exact.size
