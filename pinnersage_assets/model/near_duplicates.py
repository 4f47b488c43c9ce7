"""Groups of pins that repeat one another (paper, section 4.1.1, candidate pool refinement).

The paper filters near-duplicates by "specialized in-house models"; here a pin repeats another if the cosine of their
embeddings reaches a threshold. Pins are compared with earlier *representatives* only, so that no chain of small steps
joins unlike pins, and working day by day gives what working through all days at once gives.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The cosine that decides is computed pair by pair in float64. Which pairs to look at comes from float32 products of
# blocks, whose last bits depend on the shape of the block: this is more than they, and the norms, can be off.
_MARGIN = 1e-4
_UNIT_TOLERANCE = 1e-5  # of a norm
_BLOCK_ROWS = 2048  # of new rows, and of representatives: a product of two blocks is 16 MB
_PAIR_BYTES = 8 * 2**20  # of pairs of vectors in float64


def group_near_duplicates(
    vectors: ArrayLike,
    threshold: float,
    n_representatives: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Let each pin join the nearest earlier representative within the threshold, or become one itself.

    Exact, in one pass over the new rows in order. Of two equally near representatives the earlier one is joined.

    Args:
        vectors: (rows, d) float32 unit vectors. Rows 0 to n_representatives - 1 are representatives already (of
            earlier days, mutually unlike) and stay so; the other rows are new pins.
        threshold: a pin joins a representative at this cosine or above; -1 to 1.
        n_representatives: how many rows are representatives already.
        on_progress: called as on_progress(done, total) with numbers of new rows, after each block of them.

    Returns:
        canonical: (rows,) int64, the row of each pin's representative; its own row if it is one.
        cosine: (rows,) float32, its cosine to its representative; 1 if it is one.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    vectors = _check_input(vectors, threshold, n_representatives)
    total = len(vectors)
    canonical = np.arange(total)
    cosine = np.ones(total)
    representatives = np.arange(n_representatives)
    for start in range(n_representatives, total, _BLOCK_ROWS):
        block = np.arange(start, min(start + _BLOCK_ROWS, total))
        best = np.full(len(block), -np.inf)
        nearest = block.copy()
        for first in range(0, len(representatives), _BLOCK_ROWS):
            _look_among(vectors, block, representatives[first : first + _BLOCK_ROWS], threshold, best, nearest)
        _look_within(vectors, block, threshold, best, nearest)
        joins = best >= threshold
        canonical[block[joins]] = nearest[joins]
        cosine[block[joins]] = best[joins]
        representatives = np.concatenate([representatives, block[~joins]])
        if on_progress is not None:
            on_progress(int(block[-1]) + 1 - n_representatives, total - n_representatives)
    return canonical, cosine.astype(np.float32)


def _look_among(
    vectors: NDArray[np.float32],
    block: NDArray[np.int64],
    representatives: NDArray[np.int64],
    threshold: float,
    best: NDArray[np.float64],
    nearest: NDArray[np.int64],
) -> None:
    """Update each pin's best cosine and nearest representative from some more, later, representatives."""
    products = vectors[block] @ vectors[representatives].T
    largest = products.max(axis=1)
    # Only what may be nearest of all is worth an exact cosine.
    worth = np.maximum(np.maximum(largest, best), threshold) - _MARGIN
    rows = np.flatnonzero(largest >= worth)
    which, columns = np.nonzero(products[rows] >= worth[rows, None])
    rows, candidates = rows[which], representatives[columns]
    cosines = _cosines(vectors, block[rows], candidates)
    order = np.lexsort((-cosines, rows))  # stable: of equal ones the earliest representative stays first
    order = order[np.diff(rows[order], prepend=-1) != 0]
    rows, candidates, cosines = rows[order], candidates[order], cosines[order]
    # Strictly better only: an equally near one that was found before is earlier.
    better = cosines > best[rows]
    best[rows[better]] = cosines[better]
    nearest[rows[better]] = candidates[better]


def _look_within(
    vectors: NDArray[np.float32],
    block: NDArray[np.int64],
    threshold: float,
    best: NDArray[np.float64],
    nearest: NDArray[np.int64],
) -> None:
    """Update best cosines and nearest representatives from those that the block itself founds, in order."""
    products = vectors[block] @ vectors[block].T
    similar = np.triu(products >= threshold - _MARGIN, k=1)
    for row in np.flatnonzero(similar.any(axis=1)):
        # All earlier rows have had their say, so whether this one joins another is settled.
        if best[row] >= threshold:
            continue
        later = np.flatnonzero(similar[row])
        cosines = _cosines(vectors, np.full(len(later), block[row]), block[later])
        better = cosines > best[later]
        best[later[better]] = cosines[better]
        nearest[later[better]] = block[row]


def _cosines(vectors: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the cosine of each pair of rows: to the last bit the same in any batch, exactly 1 for equal rows."""
    cosines = np.empty(len(left))
    for part in _parts(len(left), max(1, _PAIR_BYTES // (2 * 8 * vectors.shape[1]))):
        a, b = vectors[left[part]].astype(np.float64), vectors[right[part]].astype(np.float64)
        dot, a_norm, b_norm = (np.einsum("pd,pd->p", x, y) for x, y in ((a, b), (a, a), (b, b)))
        cosines[part] = dot / np.sqrt(a_norm * b_norm)
    return np.clip(cosines, -1.0, 1.0)


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _check_input(vectors: ArrayLike, threshold: float, n_representatives: int) -> NDArray[np.float32]:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype != np.float32:
        raise ValueError(
            f"vectors must be float32 of shape (rows, dimensions >= 1), not {vectors.dtype} of shape {vectors.shape}"
        )
    squared_norms = np.einsum("pd,pd->p", vectors, vectors)
    not_unit = np.flatnonzero(~(np.abs(squared_norms - 1.0) <= 2 * _UNIT_TOLERANCE))
    if not_unit.size:
        row = not_unit[0]
        raise ValueError(f"vectors must have norm 1, not {np.sqrt(squared_norms[row])} as in row {row}")
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be a cosine, -1 to 1, not {threshold}")
    if not 0 <= n_representatives <= len(vectors):
        raise ValueError(f"n_representatives must be 0 to {len(vectors)}, the number of rows, not {n_representatives}")
    return vectors
