"""Sets of corpus rows, one a user: what was seen, what is recommended; and the nearest rows that are not in such a set.

A population is given by user numbers 0 to U - 1; pins are rows of the corpus matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Queries of like depth that are searched together.
_QUERIES_AT_ONCE = 512


@dataclass(frozen=True)
class Pairs:
    """Corpus rows of users: ``users`` ascending (int64), ``rows`` (int64) ascending within a user, each pair once."""

    users: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, users: NDArray[np.int64], rows: NDArray[np.int64]) -> "Pairs":
        """Sort pairs and drop repetitions."""
        # One number a pair sorts a hundred times as fast as two, and as `unique`, which hashes.
        users, rows = users.astype(np.int64), rows.astype(np.int64)
        least, most = (int(end(initial=0)) for end in (rows.min, rows.max))
        pairs = np.sort(users * (most - least + 1) + rows - least)
        users, rows = np.divmod(pairs[np.diff(pairs, prepend=pairs[:1] - 1) > 0], most - least + 1)
        return cls(users, rows + least)


def nearest_unseen(
    queries: NDArray[np.float32],
    owners: NDArray[np.int64],
    shares: NDArray[np.int64],
    corpus_size: int,
    seen: Pairs,
    search: Callable[[NDArray[np.float32], int], NDArray[np.int64]],
) -> Pairs:
    """The union of each user's queries' nearest corpus rows, seen ones left out and replaced by the next.

    Args:
        queries: (q, d) unit vectors.
        owners: (q,) the user of each query.
        shares: (q,) how many rows each query brings.
        corpus_size: m; rows are below it.
        seen: rows that users must not be recommended.
        search: (queries, k) -> (q, min(k, m)) nearest corpus rows, nearest first.
    """
    depths = shares + np.bincount(seen.users, minlength=owners.max(initial=-1) + 1)[owners]
    users, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    order = np.argsort(depths, kind="stable")
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = order[start : start + _QUERIES_AT_ONCE]
        near = search(queries[some], int(depths[some].max()))
        found = first_unseen(near, owners[some], shares[some], seen, corpus_size)
        users.append(found.users)
        rows.append(found.rows)
    return Pairs.of(np.concatenate(users), np.concatenate(rows))


def first_unseen(
    candidates: NDArray[np.int64],
    owners: NDArray[np.int64],
    shares: NDArray[np.int64],
    seen: Pairs,
    corpus_size: int,
) -> Pairs:
    """The first candidates that a user has not seen.

    Args:
        candidates: (q, k) corpus rows, best first.
        owners: (q,) the user of each list.
        shares: (q,) how many to keep of each.
        seen: rows that users must not be recommended.
        corpus_size: m; rows are below it.
    """
    unseen = ~np.isin(owners[:, None] * corpus_size + candidates, seen.users * corpus_size + seen.rows)
    kept = unseen & (np.cumsum(unseen, axis=1) <= shares[:, None])
    return Pairs.of(np.repeat(owners, kept.sum(axis=1)), candidates[kept])
