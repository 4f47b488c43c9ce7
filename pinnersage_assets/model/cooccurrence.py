"""Item vectors from baskets, for data that come without embeddings of their own.

What belongs here: the factorisation. What does not: which baskets may be used (those of days before the ones
that the vectors are judged on), which is the caller's to keep.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from pinnersage_assets.model.randomness import keyed_normal

# Of an item's unit column, the norm that the leading dimensions must hold for its direction to be more than
# rounding.
_EXPLAINED_NORM = 1e-6
# Singular values below this, relative to the largest, are rounding: a dimension that the data does not have.
_RELATIVE_RANK = 1e-6


def cooccurrence_vectors(
    basket_ids: ArrayLike, item_ids: ArrayLike, n_items: int, dimensions: int, seed: int = 0
) -> NDArray[np.float32]:
    """Fit unit vectors to items, that are near when the items occur in the same baskets.

    With B the binary matrix of baskets and items, and N = B · diag(1 / √count) its columns at unit length,
    C = NᵀN holds the cosine-normalised co-occurrence, c_ij / √(c_i c_j) (Sarwar et al., 2001). An item's
    vector is its row of the best approximation of C of rank `dimensions`, in the basis of C's eigenvectors,
    at unit length. C is never formed: its eigenvectors are the right singular vectors of N, its eigenvalues
    the squares of the singular values.

    Chosen on Online Retail II (four splits, 64 dimensions, baskets of known customers, 100 neighbours of each
    user's 20 latest items against the new items of the next 14 days, 1,658 users in all; standard error
    0.006): recall was 0.245 for these vectors, 0.235 with the square roots of the eigenvalues (whose dot
    products approximate C itself), and at best 0.224 for positive pointwise mutual information, the usual
    alternative, which also has to form C. In 128 dimensions it was 0.259, in 32 it was 0.228.

    Args:
        basket_ids: (m,) integers; any values, equal ones are the same basket.
        item_ids: (m,) integers in [0, n_items); an item repeated in a basket counts once.
        n_items: rows of the result.
        dimensions: columns of the result.
        seed: starts the iteration (ARPACK). Another seed changes rounding, and the basis where eigenvalues
            are equal.

    Returns:
        (n_items, dimensions) float32. Rows have unit length, except zero rows: of items that never occur, and
        of items which the leading dimensions say nothing about (rare ones that share no basket with the
        bulk). The sign of each column is fixed by its largest entry being positive.

    Raises:
        ValueError: the ids do not fit each other or n_items, or the baskets support fewer dimensions (says
            how many).
    """
    baskets, items = np.asarray(basket_ids), np.asarray(item_ids)
    if baskets.ndim != 1 or baskets.shape != items.shape:
        raise ValueError(
            f"basket_ids {baskets.shape} and item_ids {items.shape} must be one-dimensional and equally long"
        )
    if items.size and not 0 <= items.min() <= items.max() < n_items:
        raise ValueError(
            f"item_ids span {items.min()} to {items.max()}; they must lie in 0 to n_items - 1 = {n_items - 1}"
        )
    if not items.size:
        raise ValueError("there are no baskets to fit vectors to")
    if dimensions < 1:
        raise ValueError(f"dimensions is {dimensions}; it must be at least 1")

    occurring, columns = np.unique(items, return_inverse=True)
    singular_values, right = _leading_singular_vectors(_unit_columns(baskets, columns), dimensions, seed)
    right *= np.sign(right[np.abs(right).argmax(axis=0), np.arange(dimensions)])
    explained = np.linalg.norm(right * singular_values, axis=1) > _EXPLAINED_NORM
    rows = (right * singular_values**2)[explained]

    vectors = np.zeros((n_items, dimensions), dtype=np.float32)
    vectors[occurring[explained]] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors


def _unit_columns(baskets: NDArray[np.integer], columns: NDArray[np.integer]) -> sparse.csc_array:
    """Make N: (baskets, occurring items), binary columns divided by their length."""
    _, rows = np.unique(baskets, return_inverse=True)
    matrix = sparse.coo_array((np.ones(len(rows)), (rows, columns))).tocsc()  # sums what is repeated
    counts = np.diff(matrix.indptr)
    matrix.data = np.repeat(1.0 / np.sqrt(counts), counts)
    return matrix


def _leading_singular_vectors(
    matrix: sparse.csc_array, dimensions: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find singular values (dimensions,), largest first, and right singular vectors (items, dimensions)."""
    # ARPACK finds fewer than all singular values.
    supported = max(min(matrix.shape) - 1, 0)
    if dimensions <= supported:
        start = keyed_normal("co-occurrence", seed, np.arange(min(matrix.shape)))
        _, values, right = svds(matrix, k=dimensions, v0=start, return_singular_vectors="vh")
        order = np.argsort(-values, kind="stable")
        values, right = values[order], right[order].T
        supported = int((values > _RELATIVE_RANK * values[0]).sum())
        if dimensions <= supported:
            return values, right
    raise ValueError(
        f"{matrix.shape[0]} baskets of {matrix.shape[1]} items support {supported} dimensions, not "
        f"{dimensions}: ask for fewer, or give more baskets"
    )
