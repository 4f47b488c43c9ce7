"""Digests of pins and their vectors: they tell whether an index was built from the same.

The digest of a set of pins is the sum of theirs, so that those of a set which grew and shrank follow from what came and
what went.
"""

import numpy as np
from numpy.typing import NDArray

# Vectors widened to 64 bits at once.
_BLOCK = 4_096


def pin_digests(ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A digest of each pin with its vector: equal for equal bits, and by chance alone for others.

    It is the id and the bits of each element, weighted by random odd numbers, modulo 2^64 (multilinear hashing). That
    finds changes, not an adversary's forgeries.

    Args:
        ids: (m,) pin ids.
        vectors: (m, n).

    Returns:
        (m,) uint64.
    """
    weights = np.random.default_rng(0).integers(2**64, size=vectors.shape[1] + 2, dtype=np.uint64) | np.uint64(1)
    digests = np.empty(len(ids), dtype=np.uint64)
    for start in range(0, len(ids), _BLOCK):
        rows = slice(start, start + _BLOCK)
        bits = np.ascontiguousarray(vectors[rows]).view(np.uint32)
        of_vectors = bits.astype(np.uint64) @ weights[2:]
        of_ids = ids[rows].view(np.uint64) * weights[0] + weights[1]
        # Multiplied once more, so that two pins that exchange their vectors change the sum.
        digests[rows] = (of_vectors ^ (of_vectors >> np.uint64(32))) * of_ids
    return digests


def fingerprint(digests: NDArray[np.uint64]) -> int:
    """The digest of a set of pins: the sum of theirs, modulo 2^64."""
    return int(digests.sum(dtype=np.uint64))
