"""The HNSW index over the corpus (Malkov and Yashunin, 2018; USearch): build, grow, save, open, search.

An index file is written under a temporary name, synced and renamed, and never written again: USearch overwrites in
place, which would lose the index to a crash and kill every process that has the file mapped.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from usearch.index import BatchMatches, Index, ScalarKind

from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.ann.locality import nearby_order
from pinnersage_assets.files import checksum, written_atomically
from pinnersage_assets.model.population import row_table
from pinnersage_assets.model.selected_vectors import Vectors

METRIC = "cos"

# Pins inserted first, in random order: the frame that ties the topics together. Without it, inserting topic by topic
# leaves a graph in which some are hard to reach.
_FRAME_SHARE = 0.1
# A search that wants more of the corpus than this share walks through most of the graph: a scan is cheaper, and exact.
_SCAN_FROM_SHARE = 0.1
# Vectors whose length is looked at at once.
_CHECKED_AT_ONCE = 20_000
# Pins inserted between two reports of progress.
_INSERTED_AT_ONCE = 1_000
# Pins that are inserted by one thread: two that insert at the same time do not see each other, and where there are few
# others, a pin may end up with nobody who knows it.
_INSERTED_ALONE = 10_000
# Queries searched, and re-ranked, at once: the first fills the threads, the second the processor's cache.
_SEARCHED_AT_ONCE = 8_192
_RANKED_AT_ONCE = 16
# Neighbours ranked by exact cosines, beyond the k that are wanted: a tenth of them, and so many. Among the k nearest by
# rounded vectors one in a hundred is wrong; the right one stands a little further down.
_RANKED_BEYOND = 10

Progress = Callable[[int, int], object]


class IndexFileError(RuntimeError):
    """An index file is missing, is not what its row says, or cannot be written."""


@dataclass(frozen=True)
class HnswParameters:
    """How to build and search: HNSW's M, efConstruction and ef, and how vectors are stored."""

    connectivity: int
    expansion_add: int
    expansion_search: int
    dtype: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Those that a row of ``retrieval.hnsw_index`` has."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})


# See `HnswIndex.least_expansion`.
LEAST_EXPANSION = 2.0


@dataclass(frozen=True)
class HnswIndex:
    """An index and the vectors that it was built from."""

    index: Index
    ids: NDArray[np.int64]
    """(m,) ascending."""
    vectors: Vectors
    """(m, n) unit vectors."""
    expansion_search: int
    """HNSW's ef, or more where many neighbours are wanted: see `least_expansion`."""
    threads: int = 0
    """That search; 0 stands for all processors."""
    least_expansion: float = LEAST_EXPANSION
    """HNSW's ef to the neighbours it is asked for, at least. With as many as that and no more, the last of a list are
    found by luck: of the 233 nearest of a million pins 91 % where ef is 270, 96 % where it is 530."""

    @cached_property
    def _row_table(self) -> NDArray[np.int32] | None:
        return row_table(self.ids)

    def _rows_of(self, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of ids; of -1, which stands for none, -1."""
        if self._row_table is None:
            rows = np.searchsorted(self.ids, found)
        else:
            rows = self._row_table[np.where(found == -1, 0, found - self.ids[0])]
        return np.where(found == -1, -1, rows)

    @property
    def scans_from(self) -> int:
        """The number of neighbours from which on a search is exact."""
        return int(_SCAN_FROM_SHARE * len(self.ids)) + 1

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Approximately the k nearest pins of each query, with exact cosines.

        A search for more than a tenth of the pins is exact.

        Args:
            queries: (q, n) unit vectors.
            k: how many to find.

        Returns:
            ids and cosines, both (q, min(k, m)), nearest first; equally near ones by id. Where fewer were found, -1 and
            minus infinity fill the row.
        """
        rows, cosines = self.search_rows(queries, k)
        return np.where(rows == -1, -1, self.ids[rows]) if len(self.ids) else rows, cosines

    def search_rows(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `search`, rows of ``ids`` in place of ids."""
        k = min(k, len(self.ids))
        if k >= self.scans_from:
            return exact_search(queries, self.vectors, k)
        rows = np.empty((len(queries), k), dtype=np.int64)
        cosines = np.empty((len(queries), k), dtype=np.float32)
        if k == 0:
            return rows, cosines
        order = nearby_order(queries)
        ranked = min(k + k // 10 + _RANKED_BEYOND, len(self.ids))
        for start in range(0, len(order), _SEARCHED_AT_ONCE):
            some = order[start : start + _SEARCHED_AT_ONCE]
            found, _ = self.nearest_ids(queries[some], ranked, self.threads)
            rows[some], cosines[some] = self._ranked(queries[some], self._rows_of(found), k)
        return rows, cosines

    def nearest_ids(self, queries: NDArray[np.float32], k: int, threads: int = 0) -> tuple[NDArray[np.int64], int]:
        """Ids of the pins that HNSW finds, as it stores their vectors, and the distances that it computed.

        Args:
            queries: (q, n) unit vectors, q at least 1.
            k: how many to find, at most m.
            threads: 0 stands for all processors.

        Returns:
            ids (q, k) int64, -1 where fewer were found; and the distance computations of all queries together.
        """
        # USearch forgets its expansion on loading, and silently gives worse lists where k exceeds it.
        self.index.expansion_search = max(self.expansion_search, int(self.least_expansion * k))
        matches = self.index.search(_as_stored(queries, self.index), k, threads=threads)
        # To a single query USearch gives its matches alone, without counts.
        keys = np.asarray(matches.keys).reshape(len(queries), -1).view(np.int64)
        counts = matches.counts if isinstance(matches, BatchMatches) else np.array([keys.shape[1]])
        found = np.full((len(queries), k), -1, dtype=np.int64)
        found[:, : keys.shape[1]] = keys
        found[np.arange(k) >= np.asarray(counts)[:, None]] = -1
        return found, matches.computed_distances

    def _ranked(
        self, queries: NDArray[np.float32], found: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest of the rows found, (q, r), by the cosines of the full vectors: those stored are rounded."""
        rows, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)

        def rank(share: slice) -> None:
            # Of one place for all gathered vectors the memory need not be mapped again and again.
            gathered = np.empty((_RANKED_AT_ONCE, found.shape[1], queries.shape[1]), dtype=np.float32)
            for first in range(share.start, share.stop, _RANKED_AT_ONCE):
                some = slice(first, min(first + _RANKED_AT_ONCE, share.stop))
                # Ascending, so that a stable sort by cosine leaves equally near ones in the order of rows.
                near = np.sort(found[some], axis=1)
                vectors = self.vectors.take(near, axis=0, out=gathered[: len(near)], mode="clip")
                exact = np.einsum("qkn,qn->qk", vectors, queries[some])
                exact[near == -1] = -np.inf
                order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
                rows[some] = np.take_along_axis(near, order, axis=1)
                cosines[some] = np.take_along_axis(exact, order, axis=1)

        threads = min(self.threads or os.cpu_count() or 1, -(-len(queries) // _RANKED_AT_ONCE))
        if threads == 1:
            rank(slice(0, len(queries)))
            return rows, cosines
        bounds = np.linspace(0, len(queries), threads + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(rank, itertools.starmap(slice, itertools.pairwise(bounds))):
                pass
        return rows, cosines


def build(
    ids: NDArray[np.int64],
    vectors: Vectors,
    parameters: HnswParameters,
    on_progress: Progress | None = None,
    threads: int = 0,
) -> HnswIndex:
    """Build an index.

    Args:
        ids: (m,) ascending, each once, none of them -1 (USearch cannot store the key 2^64 - 1).
        vectors: (m, n) finite unit vectors; USearch itself would accept NaN in silence.
        parameters: how.
        on_progress: called with the pins done and the pins in all.
        threads: 0 stands for all processors; the first thousands of pins are one thread's all the same. With more than
            one, the graph differs a little from run to run.

    Raises:
        ValueError: ids or vectors are not as described above.
    """
    _check(ids, vectors)
    index = Index(
        # USearch wants at least one column, also of no vectors at all.
        ndim=max(vectors.shape[1], 1),
        metric=METRIC,
        dtype=parameters.dtype,
        connectivity=parameters.connectivity,
        expansion_add=parameters.expansion_add,
        expansion_search=parameters.expansion_search,
        # Only growing asks where a pin is, and opening a file to grow it makes that table.
        enable_key_lookups=False,
    )
    frame, others = np.split(np.random.default_rng(0).permutation(len(ids)), [int(_FRAME_SHARE * len(ids))])
    order = np.concatenate([frame, nearby_order(vectors, others)])
    _insert(index, ids[order], vectors, order, on_progress, threads)
    return HnswIndex(index, ids, vectors, parameters.expansion_search)


def grow(index: Index, ids: NDArray[np.int64], vectors: Vectors, parameters: HnswParameters) -> HnswIndex:
    """Make the index of some pins from one of other pins that shares most of them: some leave, some are added.

    Args:
        index: as `open_file` gives it for growing. A pin that stays must still have the vector that it went in with.
        ids: (m,) as `build`.
        vectors: (m, n) as `build`.
        parameters: as the index was built with.

    Raises:
        ValueError: as `build`.
    """
    _check(ids, vectors)
    held = _ids(index)
    leaving = np.setdiff1d(held, ids, assume_unique=True)
    if len(leaving):
        index.remove(leaving.view(np.uint64))
    # Loading forgets it.
    index.expansion_add = parameters.expansion_add
    new = nearby_order(vectors, np.flatnonzero(~np.isin(ids, held, assume_unique=True)))
    _insert(index, ids[new], vectors, new)
    return HnswIndex(index, ids, vectors, parameters.expansion_search)


def _insert(
    index: Index,
    ids: NDArray[np.int64],
    vectors: Vectors,
    rows: NDArray[np.int64],
    on_progress: Progress | None = None,
    threads: int = 0,
) -> None:
    for start in range(0, len(rows), _INSERTED_AT_ONCE):
        some = slice(start, start + _INSERTED_AT_ONCE)
        used = 1 if len(index) < _INSERTED_ALONE else threads
        index.add(ids[some].view(np.uint64), _as_stored(vectors[rows[some]], index), threads=used)
        if on_progress:
            on_progress(min(start + _INSERTED_AT_ONCE, len(rows)), len(rows))


def _as_stored(vectors: NDArray[np.float32], index: Index) -> NDArray[np.float32 | np.int8]:
    """Vectors as an index takes them, (q, n): floats it rounds itself, of whole numbers only few would be used.

    USearch multiplies by 127, and the components of a unit vector are small. The cosine does not depend on a vector's
    length, so each is stretched until its largest component is 127.
    """
    if index.dtype != ScalarKind.I8:
        return vectors
    return np.rint(vectors * (127 / np.abs(vectors).max(axis=1, keepdims=True))).astype(np.int8)


def save(index: HnswIndex, path: Path) -> None:
    """Write an index to a new file, so that the name appears only with the whole content behind it.

    Raises:
        IndexFileError: the file cannot be written, because the disk is full for example. There is no such file then.
    """
    try:
        with written_atomically(path) as hidden:
            index.index.save(str(hidden))
            # USearch does not notice when the last buffer, which closing the file writes, finds no room.
            written, whole = hidden.stat().st_size, index.index.serialized_length
            if written != whole:
                raise OSError(f"{written:,} of {whole:,} bytes were written")
    except (OSError, RuntimeError) as error:
        raise IndexFileError(f"{path} cannot be written ({error}); is the disk full? Earlier files stay.") from error


def open_file(
    path: Path, sha256: str, ids: NDArray[np.int64], dimensions: int, parameters: HnswParameters, to_grow: bool = False
) -> Index:
    """Open a file after its checksum was verified, and see that it holds what it should.

    Args:
        path: the file.
        sha256: its checksum.
        ids: (m,) the pins that it should hold, ascending.
        dimensions: the length of their vectors.
        parameters: how it was built.
        to_grow: load it into memory, for `grow`; otherwise it is mapped, and read where it is searched.

    Raises:
        IndexFileError: the file is missing, or is not the one that the checksum, the pins and the parameters are of.
    """
    if not path.is_file():
        raise IndexFileError(f"{path} is missing")
    if (found := checksum(path)) != sha256:
        raise IndexFileError(f"{path} is damaged: its SHA-256 is {found}, its row says {sha256}")
    index = _restored(path, view=not to_grow)
    said = (METRIC, parameters.dtype, parameters.connectivity, max(dimensions, 1))
    # USearch's types say that this may be a metric of one's own.
    metric = index.metric_kind.name.lower()  # ty: ignore[missing-union-attribute]
    holds = (metric, index.dtype.name.lower(), index.connectivity, index.ndim)
    if holds != said:
        raise IndexFileError(f"{path} has metric, dtype, connectivity and dimensions {holds}, its row says {said}")
    if not np.array_equal(_ids(index), ids):
        raise IndexFileError(f"{path} does not hold the {len(ids)} pins that its row is of")
    return index


def map_file(path: Path) -> Index:
    """Map a file that somebody has verified, as by `open_file`.

    Raises:
        IndexFileError: the file is missing, or is no index.
    """
    if not path.is_file():
        raise IndexFileError(f"{path} is missing")
    return _restored(path, view=True)


def _restored(path: Path, view: bool) -> Index:
    try:
        index = Index.restore(str(path), view=view)
    except (RuntimeError, ValueError) as error:
        raise IndexFileError(f"{path} is not an index: {error}") from error
    if index is None:
        raise IndexFileError(f"{path} is not an index")
    return index


def _ids(index: Index) -> NDArray[np.int64]:
    return np.sort(np.asarray(index.keys).view(np.int64))


def _check(ids: NDArray[np.int64], vectors: Vectors) -> None:
    if ids.ndim != 1 or vectors.ndim != 2 or len(ids) != len(vectors):
        raise ValueError(f"ids of shape {ids.shape} do not fit vectors of shape {vectors.shape}")
    if ids.dtype != np.int64 or vectors.dtype != np.float32:
        raise ValueError(f"ids must be int64 and vectors float32; they are {ids.dtype} and {vectors.dtype}")
    if (ids[1:] <= ids[:-1]).any():
        raise ValueError("ids must be ascending, each once")
    if (ids == -1).any():
        raise ValueError("pin id -1 cannot be a key of the index")
    for start in range(0, len(ids), _CHECKED_AT_ONCE):
        some = vectors[start : start + _CHECKED_AT_ONCE]
        norms = np.einsum("ij,ij->i", some, some)
        if not np.allclose(norms, 1, atol=1e-3):
            worst = int(np.argmax(~np.isclose(norms, 1, atol=1e-3)))
            pin = ids[start + worst]
            raise ValueError(f"vectors must have unit length; that of pin {pin} has {np.sqrt(norms[worst])}")
