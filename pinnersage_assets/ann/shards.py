"""One corpus in several HNSW indexes, so that no file, and no task that builds or searches one, need be as large."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.ann.hnsw import HnswIndex
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.selected_vectors import SelectedVectors, Vectors

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Ids and cosines as `HnswIndex.search` returns them."""


def shard_of(ids: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """The shard of each pin, (m,) from 0; it depends on nothing but its id and how many shards there are."""
    return (keyed_uniform("shard", ids) * shards).astype(np.int64)


def split(ids: NDArray[np.int64], vectors: Vectors, shards: int) -> list[tuple[NDArray[np.int64], Vectors]]:
    """The pins of each shard and their vectors, which are not gathered.

    Args:
        ids: (m,) ascending.
        vectors: (m, n).
        shards: how many, >= 1. Some may remain empty.
    """
    if shards == 1:
        return [(ids, vectors)]
    source, rows = (
        (vectors.source, vectors.rows) if isinstance(vectors, SelectedVectors) else (vectors, np.arange(len(ids)))
    )
    numbers = shard_of(ids, shards)
    owned = (np.flatnonzero(numbers == shard) for shard in range(shards))
    return [(ids[own], SelectedVectors(source, rows[own])) for own in owned]


def merge(found: Sequence[Found], k: int) -> Found:
    """The nearest of what the shards found.

    Args:
        found: of each shard ids and cosines, (q, k_s), -1 and minus infinity where it found no more.
        k: how many of all.

    Returns:
        ids and cosines, both (q, min(k, all k_s together)), nearest first; equally near ones by id.
    """
    if len(found) == 1:
        return found[0][0][:, :k], found[0][1][:, :k]
    ids, cosines = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    # A stable sort takes little time, for each shard's are in order; but it leaves equal ones in the order of shards.
    order = np.argsort(-cosines, axis=1, kind="stable")
    sorted_cosines = np.take_along_axis(cosines, order, axis=1)
    equal = (sorted_cosines[:, 1:] == sorted_cosines[:, :-1]) & (sorted_cosines[:, 1:] > -np.inf)
    ties = np.flatnonzero(equal.any(axis=1))
    order[ties] = np.lexsort((ids[ties], -cosines[ties]), axis=1)
    order = order[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(cosines, order, axis=1)


@dataclass(frozen=True)
class ShardedIndex:
    """Shards that answer like one index; the same interface as `HnswIndex`."""

    shards: Sequence[HnswIndex]
    """Two or more, as of `split`."""
    ids: NDArray[np.int64]
    """(m,) of all, ascending."""
    vectors: Vectors
    """(m, n) of all."""

    @property
    def expansion_search(self) -> int:
        """That of the shards."""
        return self.shards[0].expansion_search

    @property
    def scans_from(self) -> int:
        """The number of neighbours from which on a search is exact, in every shard."""
        return max(shard.scans_from for shard in self.shards)

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """As `HnswIndex.search`: the nearest of the k nearest in each shard."""
        return merge([shard.search(queries, k) for shard in self.shards], k)

    def search_rows(self, queries: NDArray[np.float32], k: int) -> Found:
        """As `search`, rows of ``ids`` in place of ids."""
        found, cosines = self.search(queries, k)
        return np.where(found == -1, -1, np.searchsorted(self.ids, found)), cosines


def put_together(shards: Sequence[HnswIndex], ids: NDArray[np.int64], vectors: Vectors) -> HnswIndex | ShardedIndex:
    """The index that one or more shards make, of all their pins."""
    return shards[0] if len(shards) == 1 else ShardedIndex(shards, ids, vectors)
