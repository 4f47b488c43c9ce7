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
# K = 36: 0.922^36 = 0.053 a table, 1 - (1 - 0.053)^64 = 0.97 in all, 0.998 at 0.98 and 0.99997 at 0.985. Pins of one
# topic, at 0.84 or so, share a code with probability 0.0007 a table, unlike ones with 10^-11. It is them that a recall
# of 0.995 costs (K = 31): three times as many pairs within topics, which take over from a million pins of 2,000 topics
# on. Half as many tables (K = 27) have twice as many of them.
TABLES = 64
RECALL_AT_THRESHOLD = 0.97
_MOST_BITS = 40  # of a code: more planes cost more than the pairs that they would keep apart

# A shared code still says little about a crowd of pins at 0.9. The first sides of a vector, one cache line, differ from
# another's in a binomial number; pairs beyond this many standard deviations above the mean at the threshold are not
# proposed: 3 pairs in 100,000 at the threshold itself, practically none nearer. The start of a sketch keeps more than
# half of a crowd apart in the same way, at a sixth of the cost: most of it is to fetch them, and caches hold more.
_SKETCH_BITS = 512
SKETCH_WORDS = _SKETCH_BITS // 64
START_WORDS = 2
_SKETCH_DEVIATIONS = 4.0

# Sums of a matrix product are rounded differently in blocks of different shapes, so the side of a vector close to a
# plane would depend on its neighbours in the block. Here vectors and planes have integer coordinates, and every partial
# sum is an integer below 2^24 (by Cauchy and Schwarz, at most the product of the two norms): float32 holds it exactly,
# whatever the order of the summands. Planes have odd coordinates, so that no plane contains an axis.
_EXACT = 2.0**24
_PLANE_STEPS = 8  # of a coordinate, a standard deviation
_ROWS_AT_ONCE = 2048  # vectors hashed together: 18 MB of products
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: multiples of it spread evenly (Knuth, 6.4)


@dataclass(frozen=True)
class HashTables:
    """The hyperplanes for one threshold, and what codes must share.

    Attributes:
        planes: (TABLES * bits, d) float32, odd integers: the planes' normals, table by table.
        scale: a vector's coordinates are multiplied by this, and rounded, before they meet the planes.
        bits: K, 0 to 32; 0 makes every pair a candidate.
        most_different: in how many bits the sketches of two candidates may differ.
        most_different_start: in how many bits the first START_WORDS of them may differ.
    """

    planes: NDArray[np.float32]
    scale: float
    bits: int
    most_different: int
    most_different_start: int

    def hashes(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Compute codes and sketches of (rows, d) float32 unit vectors, of each row by itself.

        Returns:
            codes: (rows, TABLES) uint32.
            sketches: (rows, SKETCH_WORDS) uint64, the sides of the first planes.
        """
        codes = np.empty((len(vectors), TABLES), dtype=np.uint32)
        sketches = np.zeros((len(vectors), SKETCH_WORDS * 8), dtype=np.uint8)
        wide = np.zeros((min(_ROWS_AT_ONCE, len(vectors)), TABLES, 64), dtype=np.bool_)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            block = np.rint(vectors[part] * np.float32(self.scale))
            sides = block @ self.planes.T >= 0
            wide[: len(block), :, : self.bits] = sides.reshape(len(block), TABLES, self.bits)
            packed = np.packbits(wide[: len(block)], axis=2).view(np.uint64)[:, :, 0]
            # Half of the bits of a product, those which depend on all sides: that unlike sides have equal codes, for
            # one pair in 2^32, only makes a candidate more.
            codes[part] = (packed * _ODD) >> np.uint64(32)
            first = np.packbits(sides[:, :_SKETCH_BITS], axis=1)
            sketches[part, : first.shape[1]] = first
        return codes, sketches.view(np.uint64)

    def have_like_sketches(self, left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say of pairs of sketches, (pairs, SKETCH_WORDS) each, whose codes meet, if they are candidates; (pairs,)."""
        are_alike = self.have_like_starts(left[:, :START_WORDS], right[:, :START_WORDS])
        are_alike &= _different_bits(left, right) <= self.most_different
        return are_alike

    def have_like_starts(self, left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say of the starts of sketches, (pairs, START_WORDS) each, if the whole may make candidates; (pairs,)."""
        return _different_bits(left, right) <= self.most_different_start


def _different_bits(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint16]:
    counts = np.bitwise_count(left ^ right)
    # A column after the other: a sum over an axis of a few costs four times as much.
    different = counts[:, 0].astype(np.uint16)
    for word in range(1, counts.shape[1]):
        different += counts[:, word]
    return different


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
    sketch_bits, start_bits = (min(words * 64, TABLES * bits) for words in (SKETCH_WORDS, START_WORDS))
    most_different, most_different_start = (
        int(np.ceil(of_bits * apart + _SKETCH_DEVIATIONS * np.sqrt(of_bits * apart * (1 - apart))))
        for of_bits in (sketch_bits, start_bits)
    )
    return HashTables(planes, float(scale), bits, most_different, most_different_start)


# Drawing them takes as long as to hash thousands of vectors, and of a day's shards each asks for the same ones.
@lru_cache(maxsize=1)
def _planes(number: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    plane, coordinate = np.arange(number)[:, None], np.arange(dimensions)
    planes = 2 * np.floor(_PLANE_STEPS * keyed_normal(seed, "near-duplicate plane", plane, coordinate)) + 1
    return planes.astype(np.float32)


@dataclass(frozen=True)
class Buckets:
    """The codes that left and right rows share in one table, and the rows that have them.

    Attributes:
        rows: int64, bucket by bucket its left rows and then its right rows; other rows between buckets.
        start: (buckets,) int64, where in `rows` a bucket's left rows start.
        left_size, right_size: (buckets,) int64, how many of either side it has, one at least.
    """

    rows: NDArray[np.int64]
    start: NDArray[np.int64]
    left_size: NDArray[np.int64]
    right_size: NDArray[np.int64]

    def pairs(
        self, buckets: NDArray[np.int64], pairs_at_once: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield all pairs of a left and a right row of some buckets, so many at once, or one left row's if more."""
        start, size = self.start[buckets], self.left_size[buckets]
        left = self.rows[ranges(start, size)]
        first, count = np.repeat(start + size, size), np.repeat(self.right_size[buckets], size)
        for begin, end in batches(np.concatenate([[0], np.cumsum(count)]), pairs_at_once):
            part = slice(begin, end)
            yield np.repeat(left[part], count[part]), self.rows[ranges(first[part], count[part])]

    def members(self, buckets: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the left rows and the right rows of each of some buckets."""
        for start, left_size, right_size in zip(
            self.start[buckets], self.left_size[buckets], self.right_size[buckets], strict=True
        ):
            middle = start + left_size
            yield self.rows[start:middle], self.rows[middle : middle + right_size]


def shared_codes(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> Iterator[Buckets]:
    """Find, table after table, which of (TABLES, l) and (TABLES, r) codes agree, without looking at all pairs."""
    # A key is a code, a side and a row, 32, 1 and 31 bits: one sort of them costs less than one of each side and a
    # merge, and leaves the left rows of a code just before its right ones.
    is_right = np.uint64(1) << np.uint64(31)
    for left_codes, right_codes in zip(left, right, strict=True):
        left_rows, right_rows = _may_be_shared(left_codes, right_codes)
        keys = np.concatenate([left_codes[left_rows], right_codes[right_rows]]).astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= np.concatenate([left_rows, right_rows]).view(np.uint64)
        keys[len(left_rows) :] |= is_right
        keys.sort()
        differences = keys[1:] ^ keys[:-1]
        # Where keys differ in no bit of the code, but in the side.
        last_left = np.flatnonzero((differences >> np.uint64(31)) == 1)
        last = np.append(np.flatnonzero(differences >= is_right * 2), len(keys) - 1)  # row of each code
        bucket = np.searchsorted(last, last_left)
        start = np.where(bucket > 0, last[bucket - 1] + 1, 0)
        rows = (keys & (is_right - np.uint64(1))).view(np.int64)
        yield Buckets(rows, start, last_left + 1 - start, last[bucket] - last_left)


def _may_be_shared(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Leave out most rows whose code no row of the other side has: to ask costs less than to sort them."""
    bits = min(32, (4 * max(len(left), len(right), 1)).bit_length())
    left_places, right_places = left >> np.uint32(32 - bits), right >> np.uint32(32 - bits)
    right_rows = np.flatnonzero(_marked(left_places, bits).take(right_places))
    left_rows = np.flatnonzero(_marked(right_places[right_rows], bits).take(left_places))
    return left_rows, right_rows


def _marked(places: NDArray[np.uint32], bits: int) -> NDArray[np.bool_]:
    marked = np.zeros(1 << bits, dtype=np.bool_)
    marked[places] = True
    return marked
