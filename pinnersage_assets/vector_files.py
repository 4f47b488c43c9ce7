"""Vectors as a file that is mapped into memory: any number of processes share the pages of one copy."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


def write_vectors(path: Path, rows: int, parts: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> None:
    """Write a ``.npy`` file of vectors that need not all fit into memory.

    Args:
        path: does not exist yet.
        rows: how many vectors there are.
        parts: rows (s,) and their vectors (s, d), every row once, in any order.

    Raises:
        ValueError: there are more or fewer vectors than rows.
        OSError: the file cannot be written, because the disk is full for example.
    """
    parts = iter(parts)
    first = next(parts, (np.empty(0, np.int64), np.empty((0, 0), np.float32)))
    shape = rows, first[1].shape[1]
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        # All of it is asked for now: in mapped memory a disk that is full would kill the process.
        os.posix_fallocate(file.fileno(), 0, begin + 4 * shape[0] * shape[1])
    written = 0
    for numbers, some in chain([first], parts):
        if len(numbers):
            mapped = np.memmap(path, dtype="<f4", mode="r+", offset=begin, shape=shape)
            mapped[numbers] = some
            written += len(numbers)
    if written != rows:
        raise ValueError(f"{written:,} vectors came for {rows:,} pins")


@dataclass(frozen=True)
class VectorFile:
    """Vectors and nothing else, float32, that may be appended to: the first ``rows`` of them."""

    path: Path
    rows: int
    dimensions: int

    def map(self) -> NDArray[np.float32]:
        """The vectors, (rows, dimensions), read from disk as they are used."""
        shape = self.rows, self.dimensions
        if not self.rows:
            return np.empty(shape, dtype=np.float32)
        return np.memmap(self.path, dtype="<f4", mode="r", shape=shape).view(np.ndarray)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a worker needs to open it, JSON-able."""
        return {"path": str(self.path), "rows": self.rows, "dimensions": self.dimensions}

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """From `parameters`."""
        return cls(Path(parameters["path"]), parameters["rows"], parameters["dimensions"])
