"""A population of users as flat arrays: the rows of one user stand together, offsets say where each begins."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Rows whose vectors are gathered at once: 20,000 of 256 dimensions are 20 MB.
BATCH_ROWS = 20_000
# Numbers to an id, between the smallest and the largest, up to which they are looked up in a table.
_SPARSEST_IDS = 16
# Several numbers that are made one, to sort by it or to look it up, must fit into 64 bits with a sign.
LARGEST_CODE = 2**62


def offsets_of(owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each owner's rows begin, and the end of the last.

    Args:
        owners: (rows,) the owner of each row, equal ones together.

    Returns:
        (owners + 1,) int64; the one element 0 where there are no rows.
    """
    starts = np.flatnonzero(np.diff(owners, prepend=owners[:1] - 1)) if len(owners) else np.empty(0, np.int64)
    return np.append(starts, len(owners)).astype(np.int64)


def batches(offsets: NDArray[np.int64], rows: int = BATCH_ROWS) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of owners, first and one past last, of about ``rows`` rows each; an owner is never split."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + rows, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers starts[0], starts[0] + 1, ... (lengths[0] of them), starts[1], ... as one array."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def rows_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where ids stand in an array.

    Args:
        ids: (n,) ascending, each once.
        wanted: (m,) some of them, in any order.

    Returns:
        rows (m,) int64: ids[rows] is wanted.

    Raises:
        ValueError: an id is not there; names one.
    """
    # A table pays once it is asked as often as it is long.
    table = row_table(ids) if len(wanted) > len(ids) else None
    if table is None:
        rows = np.searchsorted(ids, wanted)
        missing = np.flatnonzero(ids[np.minimum(rows, len(ids) - 1)] != wanted) if len(ids) else np.arange(len(wanted))
    else:
        places = wanted - ids[0]
        inside = (places >= 0) & (places < len(table))
        rows = np.where(inside, table[np.where(inside, places, 0)], -1).astype(np.int64)
        missing = np.flatnonzero(rows == -1)
    if len(missing):
        raise ValueError(f"{len(missing)} of {len(wanted)} ids are not among {len(ids)}, such as {wanted[missing[0]]}")
    return rows


def rows_if_known(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where ids stand in an array, (m,) int64, ascending and each once there; -1 of those that are not there."""
    if not len(ids):
        return np.full(len(wanted), -1)
    rows = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[rows] == wanted, rows, -1)


def row_table(ids: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """Where ids stand in an array, to be looked up: that takes a tenth of the time of a binary search.

    Args:
        ids: (n,) ascending, each once.

    Returns:
        By id, from the smallest to the largest, its row; -1 of those in between that are not there. None where there
        are none, or so sparse ones that the table would be large.
    """
    span = int(ids[-1]) - int(ids[0]) + 1 if len(ids) else 0
    if not 0 < span <= _SPARSEST_IDS * len(ids):
        return None
    table = np.full(span, -1, dtype=np.int32)
    table[ids - ids[0]] = np.arange(len(ids))
    return table
