"""Exact nearest neighbours by blocks of matrix products.

For a small corpus this is the cheapest search there is; for a large one, the truth that an approximate index is
measured against.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Scores of one block; float32, so 64 MB.
_BLOCK_SCORES = 16_000_000


@dataclass(frozen=True)
class ExactIndex:
    """Pins and their vectors, searched exactly; the same interface as `hnsw.HnswIndex`."""

    ids: NDArray[np.int64]
    """(m,) ascending."""
    vectors: NDArray[np.float32]
    """(m, n) unit vectors."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest pins of each query.

        Args:
            queries: (q, n) unit vectors.
            k: how many to find.

        Returns:
            ids and cosines, both (q, min(k, m)), nearest first; equally near ones by id.
        """
        rows, cosines = exact_search(queries, self.vectors, k)
        return self.ids[rows], cosines


def exact_search(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k vectors of highest cosine for each query.

    Args:
        queries: (q, n) unit vectors.
        vectors: (m, n) unit vectors.
        k: how many to find; fewer are returned where there are fewer vectors.

    Returns:
        rows (q, min(k, m)) int64 into ``vectors`` and cosines float32, highest first, equal ones by row.
    """
    k = min(k, len(vectors))
    rows = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    if k == 0:
        return rows, cosines
    for block in _blocks(len(queries), len(vectors)):
        scores = queries[block] @ vectors.T
        best = _best(scores, k)
        found = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        rows[block] = np.take_along_axis(best, order, axis=1)
        cosines[block] = np.take_along_axis(found, order, axis=1)
    return rows, cosines


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns of the k highest scores of each row, ascending; of equal scores the first columns."""
    if k == scores.shape[1]:
        return np.broadcast_to(np.arange(k), scores.shape)
    best = np.sort(np.argpartition(scores, -k, axis=1)[:, -k:], axis=1)
    lowest = np.take_along_axis(scores, best, axis=1).min(axis=1)
    # Where more columns tie for the last place than fit, the partition took any of them.
    for row in np.flatnonzero(np.count_nonzero(scores >= lowest[:, None], axis=1) > k):
        best[row] = np.sort(np.argsort(-scores[row], kind="stable")[:k])
    return best


def _blocks(n_queries: int, n_vectors: int) -> Iterator[slice]:
    size = max(1, _BLOCK_SCORES // n_vectors)
    return (slice(start, start + size) for start in range(0, n_queries, size))


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact neighbours that were found, over all queries.

    Args:
        found: (q, k') ids that a search gave; -1 stands for none.
        exact: (q, k) ids that it should have given.
    """
    hits = sum(len(np.intersect1d(a, b, assume_unique=False)) for a, b in zip(found, exact, strict=True))
    return hits / exact.size
