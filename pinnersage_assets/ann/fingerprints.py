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

    It is the sum of the id and the bits of each element, weighted by random odd numbers, modulo 2^64 (multilinear
    hashing), so that any one of them that changes changes it. That finds changes, not an adversary's forgeries.

    Args:
        ids: (m,) pin ids.
        vectors: (m, n).

    Returns:
        (m,) uint64.
    """
    weights = np.random.default_rng(0).integers(2**64, size=vectors.shape[1] + 1, dtype=np.uint64) | np.uint64(1)
    digests = np.empty(len(ids), dtype=np.uint64)
    for start in range(0, len(ids), _BLOCK):
        rows = slice(start, start + _BLOCK)
        bits = np.ascontiguousarray(vectors[rows]).view(np.uint32)
        digests[rows] = _mixed(bits.astype(np.uint64) @ weights[1:] + ids[rows].view(np.uint64) * weights[0])
    return digests


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Another number for each, so far from linear that two pins which exchange their vectors change the sum.

    The mixing function of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def fingerprint(digests: NDArray[np.uint64]) -> int:
    """The digest of a set of pins: the sum of theirs, modulo 2^64."""
    return int(digests.sum(dtype=np.uint64))
