"""What a search costs, in distance computations and in processor time, at equal recall (paper, Table 2).

A technique that finds less is cheaper by nature. So each is made to look as far as it must to find what HNSW finds.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.ann import cross_polytope
from pinnersage_assets.ann.exact import exact_search, recall
from pinnersage_assets.ann.hnsw import HnswIndex

# The full index is asked for so much more at a time, until it gives what the refined one gives.
_DEEPER = 1.05


@dataclass(frozen=True)
class SearchCost:
    """Means over queries."""

    recall: float
    """Share of the true neighbours found."""
    distances: float
    """Vectors compared with the query; inner products of hashing count too."""
    seconds: float
    """Of one processor."""


def hnsw_cost(index: HnswIndex, queries: NDArray[np.float32], k: int) -> SearchCost:
    """HNSW as its parameters say.

    Args:
        index: of m pins.
        queries: (q, n) unit vectors, q at least 1.
        k: neighbours of each that count, at most m.
    """
    rows, _ = exact_search(queries, index.vectors, k)
    return _asked_for(index, queries, index.ids[rows], k)


def unrefined_cost(index: HnswIndex, refined: HnswIndex, queries: NDArray[np.float32], k: int) -> SearchCost:
    """An index of more pins, asked for enough neighbours to give the recommendable ones that a refined one gives.

    Args:
        index: of all pins, recommendable or not.
        refined: of the recommendable ones, m pins.
        queries: (q, n) unit vectors, q at least 1.
        k: recommendable neighbours of each that count, at most m.
    """
    target = hnsw_cost(refined, queries, k).recall
    rows, _ = exact_search(queries, refined.vectors, k)
    depth = k
    while True:
        cost = _asked_for(index, queries, refined.ids[rows], depth)
        if cost.recall >= target or depth >= len(index.ids):
            return cost
        depth = min(len(index.ids), int(_DEEPER * depth) + 1)


def orthoplex_cost(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, target: float, seed: int
) -> SearchCost:
    """LSH with cross-polytopes, probing as many buckets as a recall takes.

    Args:
        vectors: (m, n) unit vectors, m at least 1.
        queries: (q, n) unit vectors, q at least 1.
        k: neighbours of each that count, at most m.
        target: the recall to reach.
        seed: of the hashes.
    """
    tables = cross_polytope.build(vectors, cross_polytope.parameters_for(*vectors.shape), seed)
    exact, _ = exact_search(queries, vectors, k)
    probes = cross_polytope.probes_for_recall(tables, queries, exact, target) if target else 1
    assert probes is not None  # all buckets together find everything
    started = time.process_time()
    found, _, distances = cross_polytope.search(tables, queries, k, probes)
    seconds = time.process_time() - started
    return SearchCost(
        recall(found, exact), float(distances.mean()) + tables.hashing_inner_products, seconds / len(queries)
    )


def _asked_for(index: HnswIndex, queries: NDArray[np.float32], wanted: NDArray[np.int64], depth: int) -> SearchCost:
    """Ask for ``depth`` neighbours, and see how many of the wanted (q, k) ids are among them."""
    started = time.process_time()
    found, distances = index.nearest_ids(queries, depth, threads=1)
    seconds = time.process_time() - started
    return SearchCost(recall(found, wanted), distances / len(queries), seconds / len(queries))
