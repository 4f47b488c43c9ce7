"""How like each other pins are that have nothing to do with each other: what a threshold of the cosine is worth."""

import numpy as np
from numpy.typing import NDArray

# Vectors that are held against all others at once.
_VECTORS_AT_ONCE = 1024


def share_of_pairs_above(vectors: NDArray[np.float32], cosine: float) -> float:
    """The share of all pairs of different rows whose cosine is at a threshold or above it.

    Args:
        vectors: (m, d) unit vectors.
        cosine: the threshold.

    Returns:
        exact but for rounding at the threshold; nan for fewer than two vectors.
    """
    size = len(vectors)
    if size < 2:
        return np.nan
    above = 0
    for start in range(0, size, _VECTORS_AT_ONCE):
        # Each pair once: rows from here on against those after them.
        near = vectors[start : start + _VECTORS_AT_ONCE] @ vectors[start:].T >= cosine
        above += np.count_nonzero(np.triu(near, k=1))
    return above / (size * (size - 1) / 2)
