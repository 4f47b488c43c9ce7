"""An order in which like vectors stand together.

HNSW spends its time waiting for memory: what it compares a vector with lies somewhere in hundreds of megabytes. Vectors
that are inserted, or asked for, one after another while they are alike walk through the same part of the graph, which
the processor's caches still hold.
"""

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.selected_vectors import Vectors

# Cells on each of two levels, so that a vector is compared with 128 centres and not with 4,096.
_CELLS = 64
# No cell is made for fewer vectors than this.
_SMALLEST_CELL = 20
# Vectors compared with the centres at once.
_BLOCK = 1_024


def nearby_order(vectors: Vectors, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """An order of rows in which neighbours mostly stand near each other; the same for the same vectors.

    Vectors are sorted into the cells of the nearest of some randomly chosen ones, and within a cell once more.

    Args:
        vectors: (m, n) unit vectors.
        rows: (r,) those to order; None stands for all.

    Returns:
        (r,) int64, a permutation of the rows.
    """
    rows = np.arange(len(vectors)) if rows is None else rows
    chance = np.random.default_rng(0)
    cells = _nearest_centres(vectors, rows, chance)
    order = np.argsort(cells, kind="stable")
    parts = np.split(rows[order], np.flatnonzero(np.diff(cells[order])) + 1)
    return np.concatenate([part[np.argsort(_nearest_centres(vectors, part, chance), kind="stable")] for part in parts])


def _nearest_centres(vectors: Vectors, rows: NDArray[np.int64], chance: np.random.Generator) -> NDArray[np.int64]:
    """Of each row the nearest of some of them, by number."""
    cells = min(_CELLS, len(rows) // _SMALLEST_CELL)
    if cells < 2:
        return np.zeros(len(rows), dtype=np.int64)
    centres = vectors[chance.choice(rows, cells, replace=False)].T
    blocks = (vectors[rows[start : start + _BLOCK]] for start in range(0, len(rows), _BLOCK))
    return np.concatenate([(block @ centres).argmax(axis=1) for block in blocks])
