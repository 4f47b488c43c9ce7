"""An index that somebody has opened and found right, as files that a worker maps again without looking twice.

Nothing here verifies a checksum: that is done once, by who describes the index, and not in each of many tasks.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.ann import hnsw
from pinnersage_assets.ann.exact import ExactIndex, blas_threads
from pinnersage_assets.ann.hnsw import LEAST_EXPANSION, HnswIndex
from pinnersage_assets.ann.restricted import CorpusIndex
from pinnersage_assets.ann.shards import put_together, split
from pinnersage_assets.model.selected_vectors import SelectedVectors, Vectors
from pinnersage_assets.vector_files import VectorFile

# Indexes that a process keeps open: the one at work, and the one of the kernel before.
_KEPT_OPEN = 2


@dataclass(frozen=True)
class IndexFiles:
    """What an index of m pins is made of."""

    vectors: VectorFile
    """Has the vectors of its pins, and of others."""
    pins: Path
    """As of `write_pins`."""
    shards: tuple[Path, ...]
    """The HNSW file of each shard; none where the pins are searched exactly."""
    expansion_search: int
    """HNSW's ef; 0 where there are no shards."""
    least_expansion: float = LEAST_EXPANSION
    """As of `HnswIndex`."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What a worker needs to open it, JSON-able."""
        return {
            "vectors": self.vectors.parameters,
            "pins": str(self.pins),
            "shards": [str(shard) for shard in self.shards],
            "expansion_search": self.expansion_search,
            "least_expansion": self.least_expansion,
        }

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """From `parameters`."""
        return cls(
            VectorFile.of(parameters["vectors"]),
            Path(parameters["pins"]),
            tuple(Path(shard) for shard in parameters["shards"]),
            parameters["expansion_search"],
            parameters["least_expansion"],
        )


def write_pins(path: Path, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    """Write which pins an index is of: a ``.npy`` file.

    Args:
        path: the file.
        ids: (m,) ascending.
        rows: (m,) where the vector of each stands in the vector file.
    """
    np.save(path, np.stack([ids, rows]))


def open_index(parameters: Mapping[str, Any]) -> CorpusIndex:
    """Open an index by `IndexFiles.parameters`; asked again, a process gives the one that it has open.

    With as many threads as BLAS has when it is opened.

    Raises:
        IndexFileError: a file is missing, or is no index.
    """
    return _opened(json.dumps(dict(parameters), sort_keys=True)).whole


def open_shard(parameters: Mapping[str, Any], number: int) -> CorpusIndex:
    """As `open_index`, one of its shards; number 0 is the whole index where that has one shard, or is exact.

    Raises:
        IndexFileError: as `open_index`.
    """
    return _opened(json.dumps(dict(parameters), sort_keys=True)).shard(number)


@lru_cache(maxsize=_KEPT_OPEN)
def _opened(parameters: str) -> "_Opened":
    return _Opened(IndexFiles.of(json.loads(parameters)))


class _Opened:
    """An index whose files are mapped when they are wanted."""

    def __init__(self, files: IndexFiles) -> None:
        self._files = files
        self._ids, rows = np.load(files.pins)
        self._vectors = SelectedVectors(files.vectors.map(), rows)
        self._shards: dict[int, HnswIndex] = {}

    @cached_property
    def whole(self) -> CorpusIndex:
        if not self._files.shards:
            return ExactIndex(self._ids, self._vectors[:])
        shards = [self._hnsw(number) for number in range(len(self._files.shards))]
        return put_together(shards, self._ids, self._vectors)

    def shard(self, number: int) -> CorpusIndex:
        return self._hnsw(number) if self._files.shards else self.whole

    def _hnsw(self, number: int) -> HnswIndex:
        if number not in self._shards:
            index = hnsw.map_file(self._files.shards[number])
            self._shards[number] = HnswIndex(
                index,
                *self._pins[number],
                self._files.expansion_search,
                threads=blas_threads(),
                least_expansion=self._files.least_expansion,
            )
        return self._shards[number]

    @cached_property
    def _pins(self) -> list[tuple[NDArray[np.int64], Vectors]]:
        return split(self._ids, self._vectors, len(self._files.shards))
