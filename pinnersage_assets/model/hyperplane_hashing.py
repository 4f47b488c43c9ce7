"""Which pairs of vectors may be alike: locality-sensitive hashing by random hyperplanes (Charikar, 2002).

A table's code of a vector is on which side of each of K hyperplanes it lies. Two vectors at an angle θ lie on the same
side of one with probability 1 - θ/π, so their codes agree in at least one of L tables with probability
1 - (1 - (1 - θ/π)^K)^L. Whether a pair is a candidate follows from its two vectors, the threshold and the seed alone:
never from the other vectors, their number, their order, or how they were divided into calls.

What belongs here: codes, and the pairs that they propose. What does not: what is then done with a pair.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.population import batches, ranges
from pinnersage_assets.model.randomness import keyed_normal

# K is the largest that keeps the recall of pairs exactly at the threshold; K may depend on the threshold, but not on
# the number of vectors, which grows from day to day. At 0.97 a plane leaves a pair together with probability 0.922, so
# K = 31: 0.922^31 = 0.08 a table, 1 - (1 - 0.08)^64 = 0.995 in all, and 0.9999 at 0.98. Pins of one topic, at 0.84 or
# so, share a code with probability 0.002 a table, unlike ones with 10^-9. Half as many tables (K = 23: 0.01 a table)
# are a quarter faster for 300,000 pins of 2,000 topics and slower for 1,000,000: pairs within topics take over.
TABLES = 64
RECALL_AT_THRESHOLD = 0.995
_MOST_BITS = 32  # of a code, an unsigned 32-bit integer

# A shared code still says little about a crowd of pins at 0.9. The codes of some tables (one cache line a vector)
# differ in a binomial number of bits; pairs beyond this many standard deviations above the mean at the threshold are
# not proposed: 3 pairs in 100,000 at the threshold itself, practically none nearer.
_SKETCH_TABLES = 16
_SKETCH_DEVIATIONS = 4.0

# Sums of a matrix product are rounded differently in blocks of different shapes, so the side of a vector close to a
# plane would depend on its neighbours in the block. Here vectors and planes have integer coordinates, and every partial
# sum is an integer below 2^24 (by Cauchy and Schwarz, at most the product of the two norms): float32 holds it exactly,
# whatever the order of the summands. Planes have odd coordinates, so that no plane contains an axis.
_EXACT = 2.0**24
_PLANE_STEPS = 8  # of a coordinate, a standard deviation
_ROWS_AT_ONCE = 2048  # vectors hashed together: 16 MB of products


@dataclass(frozen=True)
class HashTables:
    """The hyperplanes for one threshold, and what codes must share.

    Attributes:
        planes: (TABLES * bits, d) float32, odd integers: the planes' normals, table by table.
        scale: a vector's coordinates are multiplied by this, and rounded, before they meet the planes.
        bits: K, 0 to 32; 0 makes every pair a candidate.
        most_different: in how many bits the sketches of two candidates may differ.
    """

    planes: NDArray[np.float32]
    scale: float
    bits: int
    most_different: int

    def codes(self, vectors: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Compute (rows, TABLES) uint32 codes of (rows, d) float32 unit vectors, of each row by itself."""
        codes = np.empty((len(vectors), TABLES), dtype=np.uint32)
        sides = np.zeros((min(_ROWS_AT_ONCE, len(vectors)), TABLES, _MOST_BITS), dtype=np.bool_)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            block = np.rint(vectors[start : start + _ROWS_AT_ONCE] * np.float32(self.scale))
            products = (block @ self.planes.T).reshape(len(block), TABLES, self.bits)
            np.greater_equal(products, 0, out=sides[: len(block), :, : self.bits])
            packed = np.packbits(sides[: len(block)], axis=2)
            codes[start : start + _ROWS_AT_ONCE] = packed.view(np.uint32)[:, :, 0]
        return codes

    def are_candidates(self, left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Say of each pair of codes, (pairs, TABLES) or broadcast to it, whether it is a candidate; (pairs,)."""
        return (left == right).any(axis=1) & self.have_like_sketches(sketches(left), sketches(right))

    def have_like_sketches(self, left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say the same of pairs of sketches whose codes are known to meet in a table; (pairs,)."""
        return np.bitwise_count(left ^ right).sum(axis=1, dtype=np.uint16) <= self.most_different


def hash_tables(threshold: float, dimensions: int, seed: int) -> HashTables:
    """Draw the hyperplanes that find pairs at or above a cosine.

    Args:
        threshold: the cosine, -1 to 1.
        dimensions: d, of the vectors.
        seed: of the planes; those of another seed propose (some) other pairs.
    """
    apart = np.arccos(threshold) / np.pi
    # A table's share of a pair at the threshold must reach 1 - (1 - recall)^(1/L).
    least_share = 1 - (1 - RECALL_AT_THRESHOLD) ** (1 / TABLES)
    with np.errstate(divide="ignore"):
        bits = int(np.minimum(np.log(least_share) / np.log1p(-apart), _MOST_BITS))
    planes = _planes(TABLES * bits, dimensions, seed)
    longest = np.sqrt((planes**2).sum(axis=1, dtype=np.float64).max(initial=1.0))
    # Half of what is exact, the other half for norms a little above 1 and for rounding up.
    scale = 2.0 ** np.floor(np.log2(_EXACT / 2 / longest))
    sketch_bits = _SKETCH_TABLES * bits
    deviation = np.sqrt(sketch_bits * apart * (1 - apart))
    most_different = int(np.ceil(sketch_bits * apart + _SKETCH_DEVIATIONS * deviation))
    return HashTables(planes, float(scale), bits, most_different)


# Drawing them takes as long as to hash thousands of vectors, and of a day's shards each asks for the same ones.
@lru_cache(maxsize=1)
def _planes(number: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    plane, coordinate = np.arange(number)[:, None], np.arange(dimensions)
    planes = 2 * np.floor(_PLANE_STEPS * keyed_normal(seed, "near-duplicate plane", plane, coordinate)) + 1
    return planes.astype(np.float32)


def sketches(codes: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Take the part of (rows, TABLES) codes by which most pairs that meet in a table are told to be unlike."""
    return np.ascontiguousarray(codes[:, :_SKETCH_TABLES]).view(np.uint64)


@dataclass(frozen=True)
class Buckets:
    """The codes that left and right rows share in one table, and the rows that have them.

    Attributes:
        left: (l,) int64, the left rows, bucket by bucket.
        left_start, left_size: (buckets,) int64, where in `left` a bucket's rows start, and how many they are.
        right, right_start, right_size: the same of the right rows.
    """

    left: NDArray[np.int64]
    left_start: NDArray[np.int64]
    left_size: NDArray[np.int64]
    right: NDArray[np.int64]
    right_start: NDArray[np.int64]
    right_size: NDArray[np.int64]

    def pairs(
        self, buckets: NDArray[np.int64], pairs_at_once: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield all pairs of a left and a right row of some buckets, so many at once, or one left row's if more."""
        size = self.left_size[buckets]
        left = self.left[ranges(self.left_start[buckets], size)]
        first, count = np.repeat(self.right_start[buckets], size), np.repeat(self.right_size[buckets], size)
        for start, end in batches(np.concatenate([[0], np.cumsum(count)]), pairs_at_once):
            part = slice(start, end)
            yield np.repeat(left[part], count[part]), self.right[ranges(first[part], count[part])]

    def members(self, buckets: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the left rows and the right rows of each of some buckets."""
        for bucket in buckets:
            left, right = self.left_start[bucket], self.right_start[bucket]
            yield self.left[left : left + self.left_size[bucket]], self.right[right : right + self.right_size[bucket]]


def shared_codes(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> Iterator[Buckets]:
    """Find, table after table, which of (l, TABLES) and (r, TABLES) codes agree, without looking at all pairs."""
    for table in range(TABLES):
        left_codes, left_start, left_size, left_rows = _sorted_codes(left[:, table])
        right_codes, right_start, right_size, right_rows = _sorted_codes(right[:, table])
        _, in_left, in_right = np.intersect1d(left_codes, right_codes, assume_unique=True, return_indices=True)
        yield Buckets(
            left_rows, left_start[in_left], left_size[in_left], right_rows, right_start[in_right], right_size[in_right]
        )


def _sorted_codes(
    codes: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sort the rows by their codes: the distinct codes, where the rows of each start, how many they are, the rows."""
    # One sort of code and row in one integer is faster than an argsort.
    keys = np.sort((codes.astype(np.uint64) << np.uint64(32)) | np.arange(len(codes), dtype=np.uint64))
    codes, rows = (keys >> np.uint64(32)).astype(np.uint32), (keys & np.uint64(2**32 - 1)).astype(np.int64)
    start = np.flatnonzero(np.concatenate([np.ones(min(1, len(codes)), dtype=np.bool_), codes[1:] != codes[:-1]]))
    return codes[start], start, np.diff(start, append=len(codes)), rows
