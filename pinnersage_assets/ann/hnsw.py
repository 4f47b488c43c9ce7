"""The HNSW index over the corpus (Malkov and Yashunin, 2018; USearch): build, save, open, search.

An index file is written under a temporary name, synced and renamed, and never written again: USearch overwrites in
place, which would lose the index to a crash and kill every process that has the file mapped. A file's name carries a
fingerprint of what went into it, so that a re-run finds the file of the earlier run.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from pinnersage_assets.files import written_atomically

METRIC = "cos"


class IndexFileError(RuntimeError):
    """An index file is missing or is not what its row says."""


@dataclass(frozen=True)
class HnswParameters:
    """How to build and search: HNSW's M, efConstruction and ef, and how vectors are stored."""

    connectivity: int
    expansion_add: int
    expansion_search: int
    dtype: str


@dataclass(frozen=True)
class HnswIndex:
    """An index and the vectors that it was built from."""

    index: Index
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    expansion_search: int

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
        """Approximately the k nearest pins of each query, with exact cosines.

        Args:
            queries: (q, n) unit vectors.
            k: how many to find.

        Returns:
            For each query its pins' ids and cosines, nearest first; at most min(k, size) of them.
        """
        k = min(k, len(self.ids))
        if k == 0 or len(queries) == 0:
            return [np.empty(0, np.int64)] * len(queries), [np.empty(0, np.float32)] * len(queries)
        # USearch forgets its expansion on loading, and silently gives worse lists where k exceeds it.
        self.index.expansion_search = max(self.expansion_search, k)
        matches = self.index.search(queries, k, threads=0)
        # To a single query USearch gives its matches alone, without counts.
        keys = np.asarray(matches.keys).reshape(len(queries), -1)
        counts = matches.counts if len(queries) > 1 else [keys.shape[1]]
        found = [keys[query, :count].view(np.int64) for query, count in enumerate(counts)]
        return self._rerank(queries, found)

    def _rerank(
        self, queries: NDArray[np.float32], found: list[NDArray[np.int64]]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
        """Order by the cosines of the full vectors: those of the stored ones are rounded."""
        ids, cosines = [], []
        for query, pins in zip(queries, found, strict=True):
            exact = self.vectors[np.searchsorted(self.ids, pins)] @ query
            order = np.lexsort((pins, -exact))
            ids.append(pins[order])
            cosines.append(exact[order])
        return ids, cosines


def fingerprint(ids: NDArray[np.int64], vectors: NDArray[np.float32], parameters: HnswParameters) -> str:
    """A short name for an index's content: equal input gives an equal name."""
    built_with = (parameters.connectivity, parameters.expansion_add, parameters.dtype)
    digest = hashlib.sha256(repr(built_with).encode())
    digest.update(np.ascontiguousarray(ids))
    digest.update(np.ascontiguousarray(vectors))
    return digest.hexdigest()[:16]


def build(
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    parameters: HnswParameters,
    on_progress: Callable[[int, int], object] | None = None,
) -> HnswIndex:
    """Build an index. One thread: with several, the graph would differ from run to run.

    Args:
        ids: (m,) ascending, each once, none of them -1 (USearch cannot store the key 2^64 - 1).
        vectors: (m, n) finite unit vectors; USearch itself would accept NaN in silence.
        parameters: how.
        on_progress: called with the pins done and the pins in all.

    Raises:
        ValueError: ids or vectors are not as described above.
    """
    _check(ids, vectors)
    index = Index(
        ndim=_columns(vectors),
        metric=METRIC,
        dtype=parameters.dtype,
        connectivity=parameters.connectivity,
        expansion_add=parameters.expansion_add,
        expansion_search=parameters.expansion_search,
    )
    block = 2_000
    for start in range(0, len(ids), block):
        index.add(ids[start : start + block].view(np.uint64), vectors[start : start + block], threads=1)
        if on_progress:
            on_progress(min(start + block, len(ids)), len(ids))
    return HnswIndex(index, ids, vectors, parameters.expansion_search)


def save(index: HnswIndex, path: Path) -> None:
    """Write an index to a new file, so that the name appears only with the whole content behind it."""
    with written_atomically(path) as hidden:
        index.index.save(str(hidden))


def open_index(
    path: Path, sha256: str, ids: NDArray[np.int64], vectors: NDArray[np.float32], expansion_search: int
) -> HnswIndex:
    """Open a file after its checksum was verified.

    Raises:
        IndexFileError: the file is missing, or is not the one that the checksum, the ids and the vectors are of.
    """
    if not path.is_file():
        raise IndexFileError(f"{path} is missing")
    if (found := checksum(path)) != sha256:
        raise IndexFileError(f"{path} is damaged: its SHA-256 is {found}, its row says {sha256}")
    try:
        index = Index.restore(str(path))
    except (RuntimeError, ValueError) as error:
        raise IndexFileError(f"{path} is not an index: {error}") from error
    if index is None or index.ndim != _columns(vectors) or not np.array_equal(_ids(index), ids):
        raise IndexFileError(f"{path} does not hold the {len(ids)} pins of the corpus")
    return HnswIndex(index, ids, vectors, expansion_search)


def _ids(index: Index) -> NDArray[np.int64]:
    return np.sort(np.asarray(index.keys).view(np.int64))


def _columns(vectors: NDArray[np.float32]) -> int:
    # USearch wants at least one column, also of no vectors at all.
    return max(vectors.shape[1], 1)


def checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    if ids.ndim != 1 or vectors.ndim != 2 or len(ids) != len(vectors):
        raise ValueError(f"ids of shape {ids.shape} do not fit vectors of shape {vectors.shape}")
    if ids.dtype != np.int64 or vectors.dtype != np.float32:
        raise ValueError(f"ids must be int64 and vectors float32; they are {ids.dtype} and {vectors.dtype}")
    if len(ids) and (np.diff(ids) <= 0).any():
        raise ValueError("ids must be ascending, each once")
    if (ids == -1).any():
        raise ValueError("pin id -1 cannot be a key of the index")
    norms = np.einsum("ij,ij->i", vectors, vectors)
    if not np.allclose(norms, 1, atol=1e-3):
        worst = int(np.argmax(~np.isclose(norms, 1, atol=1e-3)))
        raise ValueError(f"vectors must have unit length; that of pin {ids[worst]} has {np.sqrt(norms[worst])}")
