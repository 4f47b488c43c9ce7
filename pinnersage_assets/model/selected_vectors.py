"""Some rows of a large array of vectors, such as a mapped file: gathered where they are used, never all at once."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SelectedVectors:
    """Vectors that are rows of others; indexed like the array that they would make."""

    source: NDArray[np.float32]
    """(N, n)."""
    rows: NDArray[np.int64]
    """(m,) of the source."""

    dtype = np.dtype(np.float32)
    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """As of an array, (m, n)."""
        return len(self.rows), self.source.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | NDArray) -> NDArray[np.float32]:
        return self.source[self.rows[which]]

    def take(
        self, which: NDArray[np.int64], axis: int, out: NDArray[np.float32], mode: Literal["raise", "wrap", "clip"]
    ) -> NDArray[np.float32]:
        """As `numpy.ndarray.take`, into memory that is there already."""
        return self.source.take(self.rows[which], axis=axis, out=out, mode=mode)


Vectors = NDArray[np.float32] | SelectedVectors
"""What is indexed by rows, and need not be in memory."""


def selected(vectors: Vectors, which: NDArray) -> Vectors:
    """Some of the vectors, by row or by truth; what is not in memory is not gathered."""
    if isinstance(vectors, SelectedVectors):
        return SelectedVectors(vectors.source, vectors.rows[which])
    return vectors[which]
