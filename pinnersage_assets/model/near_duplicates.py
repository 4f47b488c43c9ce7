"""Groups of pins that repeat one another (paper, section 4.1.1, candidate pool refinement).

The paper filters near-duplicates by "specialized in-house models"; here a pin repeats another if the cosine of their
embeddings reaches a threshold. Pins are compared with earlier *representatives* only, so that no chain of small steps
joins unlike pins, and working day by day gives what working through all days at once gives.

Three stages: hashing proposes pairs (`hyperplane_hashing`), their exact cosine selects, and the order of the pins
groups. A pair that hashing does not propose is not joined, however it is looked at: where a matrix product of all pairs
is cheaper than tables it takes their place, and what it finds must be a candidate as well.

Representatives of earlier days are many, and can be divided: new pins meet each shard of them by itself, anywhere, and
of what they find the nearest counts. Vectors are gathered block by block, so they need not be in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pinnersage_assets.model.hyperplane_hashing import (
    SKETCH_WORDS,
    START_WORDS,
    TABLES,
    HashTables,
    hash_tables,
    shared_codes,
)
from pinnersage_assets.model.selected_vectors import SelectedVectors, Vectors

# The cosine that decides is computed pair by pair in float64. Which pairs are worth one comes from float32 products,
# whose last bits depend on the shape of a block: this is more than they, and the norms, can be off.
_MARGIN = 1e-4
_UNIT_TOLERANCE = 1e-5  # of a norm
_BLOCK_ROWS = 512  # new rows that are compared with each other by one matrix product
_PRODUCT_ROWS = 2048  # of representatives, in a product with a block
# Tables cost microseconds a vector, mostly to sort, a product some 5 ns a pair: products are cheaper for fewer pairs
# than this many for each vector of either side. Measured: 350 to 700 differ by a tenth in all.
_FEW_ROWS = 400
# The codes of a vector cost 17 us: as much as products with so many others. Those of representatives of earlier days
# are needed for this comparison alone.
_CODES_ROWS = 3500
# A pair that shares a code costs some 200 ns by its sketches. A product of a whole bucket costs 40 us, 250 ns a row and
# 5 ns a pair, so it is cheaper from this many pairs on: _CROWD_PAIRS, and _CROWD_FACTOR for each row.
_CROWD_PAIRS, _CROWD_FACTOR = 500, 3
_SKETCHES_AT_ONCE = 2**15  # of pairs that share a code: 4 MB, which caches hold
_PAIRS_AT_ONCE = 2**18
_PAIR_BYTES = 8 * 2**20  # of pairs of vectors in float64

Joins = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Pairs within the threshold, (pairs,) each: rows of new pins, rows of representatives, and their cosines."""


def group_near_duplicates(
    vectors: ArrayLike | SelectedVectors,
    threshold: float,
    n_representatives: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
    found: Joins | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Let each pin join the nearest earlier representative within the threshold, or become one itself.

    Among representatives that hashing proposes: of pairs at the threshold 3 % are missed, of nearer ones fewer (0.2 %
    at 0.98, where the threshold is 0.97). Of two equally near representatives the earlier one is joined. The new rows
    are halved again and again: when the first half is settled, the second is compared with the representatives in it,
    and then settled in the same way. So only representatives are ever compared with (a thousand copies of one pin are a
    thousand comparisons), and n rows cost n log n, besides the pairs that share a code.

    Args:
        vectors: (rows, d) float32 unit vectors, in memory or selected from a mapped file. Rows 0 to
            n_representatives - 1 are representatives already (of earlier days, mutually unlike) and stay so; the other
            rows are new pins.
        threshold: a pin joins a representative at this cosine or above; -1 to 1.
        n_representatives: how many rows are representatives already.
        on_progress: called as on_progress(done, total) with numbers of new rows, after each block of them.
        seed: of the hash tables; must be the same on all days.
        found: what `nearest_representatives` finds in all shards of the representatives, in any order; without it, new
            pins are compared with them here.

    Returns:
        canonical: (rows,) int64, the row of each pin's representative; its own row if it is one.
        cosine: (rows,) float32, its cosine to its representative; 1 if it is one.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    search, new = _search(vectors, threshold, n_representatives, seed)
    total = n_representatives + len(new)
    if found is None:
        search.look_among_earlier(new)
    else:
        search.learn(*found)
    for block in search.settle(new):
        if on_progress is not None:
            on_progress(int(block[-1]) + 1 - n_representatives, total - n_representatives)
    joins = search.joins(new)
    canonical, cosine = np.arange(total), np.ones(total)
    canonical[new[joins]] = search.nearest[new[joins]]
    cosine[new[joins]] = search.best[new[joins]]
    return canonical, cosine.astype(np.float32)


def nearest_representatives(
    vectors: ArrayLike | SelectedVectors, threshold: float, n_representatives: int, seed: int = 0
) -> Joins:
    """Find the nearest representative within the threshold of each new pin; of two equally near ones the earlier.

    Args:
        vectors: as of `group_near_duplicates`; the representatives may be a shard of all.
        threshold: as there.
        n_representatives: as there.
        seed: as there.

    Returns:
        The pairs, one a new pin that has a representative; rows ascending.

    Raises:
        ValueError: an argument is not as described there; names the argument.
    """
    search, new = _search(vectors, threshold, n_representatives, seed)
    search.look_among_earlier(new)
    rows = new[search.joins(new)]
    return rows, search.nearest[rows], search.best[rows]


def _search(
    vectors: ArrayLike | SelectedVectors, threshold: float, n_representatives: int, seed: int
) -> tuple["_Search", NDArray[np.int64]]:
    """A search that has found nothing yet, and the new rows."""
    vectors = _check_input(vectors, threshold, n_representatives)
    total, dimensions = vectors.shape
    search = _Search(
        vectors=vectors,
        threshold=threshold,
        tables=hash_tables(threshold, dimensions, seed),
        # Of rows that are never hashed no page is touched.
        codes=np.zeros((TABLES, total), dtype=np.uint32),
        sketches=np.zeros((total, SKETCH_WORDS), dtype=np.uint64),
        is_hashed=np.zeros(total, dtype=np.bool_),
        best=np.full(total, -np.inf),
        nearest=np.arange(total),
    )
    return search, np.arange(n_representatives, total)


@dataclass
class _Search:
    """What is known so far of each row: its codes, once they are needed, and the nearest representative found."""

    vectors: Vectors
    threshold: float
    tables: HashTables
    codes: NDArray[np.uint32]  # table by table, as they are sorted
    sketches: NDArray[np.uint64]
    is_hashed: NDArray[np.bool_]
    best: NDArray[np.float64]
    nearest: NDArray[np.int64]

    def joins(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which rows have a representative; final for rows that are settled."""
        return self.best[rows] >= self.threshold

    def settle(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Settle rows that were compared with all earlier representatives; yields each block when it is settled."""
        if len(rows) <= _BLOCK_ROWS:
            if len(rows):
                self.look_within(rows)
                yield rows
            return
        blocks = -(-len(rows) // _BLOCK_ROWS)
        half = _BLOCK_ROWS * 2 ** ((blocks - 1).bit_length() - 1)
        yield from self.settle(rows[:half])
        self.look_among(rows[half:], rows[:half][~self.joins(rows[:half])])
        yield from self.settle(rows[half:])

    def look_among_earlier(self, new: NDArray[np.int64]) -> None:
        """Compare all new rows with all those before them, whose codes serve nobody else."""
        self.look_among(new, np.arange(len(self.vectors) - len(new)), codes_rows=_CODES_ROWS)

    def look_among(self, rows: NDArray[np.int64], representatives: NDArray[np.int64], codes_rows: int = 0) -> None:
        """Compare rows with representatives, all earlier; ``codes_rows`` if this is to pay for their codes."""
        if len(rows) * len(representatives) <= (_FEW_ROWS + codes_rows) * (len(rows) + len(representatives)):
            pairs = self._pairs_by_products(rows, representatives)
        else:
            pairs = self._pairs_by_tables(rows, representatives)
        for later, earlier in _gathered(pairs, _PAIRS_AT_ONCE):
            for part in _parts(len(later), self._pairs_of_vectors()):
                self._compare(later[part], earlier[part])

    def look_within(self, block: NDArray[np.int64]) -> None:
        """Settle a block: compare its rows with the representatives that it founds itself, in order."""
        products = self.vectors[block] @ self.vectors[block].T
        similar = np.triu(products >= self.threshold - _MARGIN, k=1)
        for row in np.flatnonzero(similar.any(axis=1)):
            # All earlier rows have had their say, so whether this one joins another is settled.
            if self.best[block[row]] >= self.threshold:
                continue
            later = block[similar[row]]
            earlier = np.full(len(later), block[row])
            candidates = self._are_candidates(later, earlier)
            self._compare(later[candidates], earlier[candidates])

    def _pairs_by_products(
        self, rows: NDArray[np.int64], representatives: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for some in _parts(len(rows), _PRODUCT_ROWS):
            block = rows[some]
            for part in _parts(len(representatives), _PRODUCT_ROWS):
                products = self.vectors[block] @ self.vectors[representatives[part]].T
                # Of what is nearly nowhere true, flat, numpy finds the places seven times as fast.
                which = np.flatnonzero(products >= self._worth(block)[:, None])
                if not len(which):
                    continue
                which, columns = np.divmod(which, products.shape[1])
                later, earlier = block[which], representatives[part][columns]
                for pairs in _parts(len(later), _PAIRS_AT_ONCE):
                    candidates = self._are_candidates(later[pairs], earlier[pairs])
                    yield later[pairs][candidates], earlier[pairs][candidates]

    def _pairs_by_tables(
        self, rows: NDArray[np.int64], representatives: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        self._hash(rows)
        self._hash(representatives)
        left, right = self.sketches[rows], self.sketches[representatives]
        left_starts, right_starts = left[:, :START_WORDS].copy(), right[:, :START_WORDS].copy()
        for found in shared_codes(self.codes[:, rows], self.codes[:, representatives]):
            pairs, row_count = found.left_size * found.right_size, found.left_size + found.right_size
            is_crowded = pairs > _CROWD_FACTOR * row_count + _CROWD_PAIRS
            for which, columns in found.pairs(np.flatnonzero(~is_crowded), _SKETCHES_AT_ONCE):
                may_be_alike = self.tables.have_like_starts(
                    left_starts.take(which, axis=0), right_starts.take(columns, axis=0)
                )
                which, columns = which[may_be_alike], columns[may_be_alike]
                alike = self.tables.have_like_sketches(left.take(which, axis=0), right.take(columns, axis=0))
                yield rows[which[alike]], representatives[columns[alike]]
            for which, columns in found.members(np.flatnonzero(is_crowded)):
                yield from self._pairs_by_products(rows[which], representatives[columns])

    def _compare(self, rows: NDArray[np.int64], representatives: NDArray[np.int64]) -> None:
        """Learn the cosines of some candidate pairs, where they are worth it."""
        products = np.einsum("pd,pd->p", self.vectors[rows], self.vectors[representatives])
        worth = products >= self._worth(rows)
        rows, representatives = rows[worth], representatives[worth]
        self.learn(rows, representatives, _cosines(self.vectors, rows, representatives))

    def learn(self, rows: NDArray[np.int64], representatives: NDArray[np.int64], cosines: NDArray[np.float64]) -> None:
        """Keep of each row's pairs the nearest, and the earliest of such, if it is better than what is known."""
        order = np.lexsort((representatives, -cosines, rows))
        order = order[np.diff(rows[order], prepend=-1) != 0]
        rows, representatives, cosines = rows[order], representatives[order], cosines[order]
        # Tables and shards find pairs in an order of their own.
        equal_and_earlier = (cosines == self.best[rows]) & (representatives < self.nearest[rows])
        better = (cosines > self.best[rows]) | equal_and_earlier
        self.best[rows[better]] = cosines[better]
        self.nearest[rows[better]] = representatives[better]

    def _worth(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute from which float32 product on a pair is worth an exact cosine."""
        return (np.maximum(self.best[rows], self.threshold) - _MARGIN).astype(np.float32)

    def _are_candidates(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        self._hash(np.unique(np.concatenate([left, right])))
        share_a_code = (self.codes[:, left] == self.codes[:, right]).any(axis=0)
        return share_a_code & self.tables.have_like_sketches(self.sketches[left], self.sketches[right])

    def _hash(self, rows: NDArray[np.int64]) -> None:
        missing = rows[~self.is_hashed[rows]]
        for part in _parts(len(missing), _PRODUCT_ROWS):
            codes, self.sketches[missing[part]] = self.tables.hashes(self.vectors[missing[part]])
            self.codes[:, missing[part]] = codes.T
        self.is_hashed[missing] = True

    def _pairs_of_vectors(self) -> int:
        return max(1, _PAIR_BYTES // (2 * 8 * self.vectors.shape[1]))


def _cosines(vectors: Vectors, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the cosine of each pair of rows: to the last bit the same in any batch, exactly 1 for equal rows."""
    cosines = np.empty(len(left))
    for part in _parts(len(left), max(1, _PAIR_BYTES // (2 * 8 * vectors.shape[1]))):
        a, b = vectors[left[part]].astype(np.float64), vectors[right[part]].astype(np.float64)
        dot, a_norm, b_norm = (np.einsum("pd,pd->p", x, y) for x, y in ((a, b), (a, a), (b, b)))
        cosines[part] = dot / np.sqrt(a_norm * b_norm)
    return np.clip(cosines, -1.0, 1.0)


def _gathered(
    pairs: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]], at_least: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Put small arrays of pairs together: most buckets have a pair or two worth an exact cosine, or none."""
    waiting, count = [], 0
    for pair in pairs:
        waiting.append(pair)
        count += len(pair[0])
        if count >= at_least:
            yield np.concatenate([left for left, _ in waiting]), np.concatenate([right for _, right in waiting])
            waiting, count = [], 0
    if waiting:
        yield np.concatenate([left for left, _ in waiting]), np.concatenate([right for _, right in waiting])


def _parts(total: int, size: int, first: int = 0) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(first, total, size))


def _check_input(vectors: ArrayLike | SelectedVectors, threshold: float, n_representatives: int) -> Vectors:
    if not isinstance(vectors, SelectedVectors):
        vectors = np.asarray(vectors)
    if vectors.ndim != 2 or (len(vectors) and vectors.shape[1] == 0) or vectors.dtype != np.float32:
        raise ValueError(
            f"vectors must be float32 of shape (rows, dimensions >= 1), not {vectors.dtype} of shape {vectors.shape}"
        )
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be a cosine, -1 to 1, not {threshold}")
    if not 0 <= n_representatives <= len(vectors):
        raise ValueError(f"n_representatives must be 0 to {len(vectors)}, the number of rows, not {n_representatives}")
    for part in _parts(len(vectors), _PRODUCT_ROWS, n_representatives):
        # Representatives were looked at when they were new.
        block = vectors[part]
        squared_norms = np.einsum("pd,pd->p", block, block)
        not_unit = np.flatnonzero(~(np.abs(squared_norms - 1.0) <= 2 * _UNIT_TOLERANCE))
        if not_unit.size:
            row = not_unit[0]
            raise ValueError(
                f"vectors must have norm 1, not {np.sqrt(squared_norms[row])} as in row {part.start + row}"
            )
    return vectors
