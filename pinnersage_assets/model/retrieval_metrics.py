"""Relevance and recall of candidate sets (paper, section 5.3.1).

A population is given by user numbers 0 to U - 1; candidates are rows of the corpus matrix. A set is given as pairs
(user, row), sorted by user.
"""

from collections.abc import Callable, Sequence
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
        unique = np.unique(np.stack([users, rows], axis=1).astype(np.int64), axis=0)
        return cls(unique[:, 0], unique[:, 1])


@dataclass(frozen=True)
class Targets:
    """What users did next: the pins that a good candidate set contains.

    ``users`` (t,) ascending; ``corpus_rows`` (t,) where the pin stands in the corpus, -1 if it does not; ``vectors``
    (t, d) its unit vector, zero where it has none, which no candidate is near.
    """

    users: NDArray[np.int64]
    corpus_rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Counts:
    """Per user, (U,) int64 each: targets, how many of them are relevant and recalled, and the size of the set."""

    targets: NDArray[np.int64]
    relevant: NDArray[np.int64]
    recalled: NDArray[np.int64]
    set_size: NDArray[np.int64]


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


def judge(sets: Pairs, targets: Targets, corpus: NDArray[np.float32], users: int, relevance_cosine: float) -> Counts:
    """Hold each user's set against the user's targets.

    Args:
        sets: the candidate sets.
        targets: at least one a user.
        corpus: (m, d) unit vectors.
        users: U.
        relevance_cosine: a target is relevant with a candidate at this cosine or above.
    """
    relevant, recalled = np.zeros(users, np.int64), np.zeros(users, np.int64)
    set_bounds = np.searchsorted(sets.users, np.arange(users + 1))
    target_bounds = np.searchsorted(targets.users, np.arange(users + 1))
    for user in range(users):
        candidates = sets.rows[set_bounds[user] : set_bounds[user + 1]]
        wanted = slice(target_bounds[user], target_bounds[user + 1])
        if len(candidates):
            cosines = targets.vectors[wanted] @ corpus[candidates].T
            relevant[user] = (cosines.max(axis=1) >= relevance_cosine).sum()
            recalled[user] = np.isin(targets.corpus_rows[wanted], candidates).sum()
    return Counts(np.diff(target_bounds), relevant, recalled, np.diff(set_bounds))


def popular_rows(actions: NDArray[np.int64], corpus_size: int) -> NDArray[np.int64]:
    """All corpus rows, the most acted on first, equals by row; ``actions`` is a corpus row for each action."""
    return np.argsort(-np.bincount(actions, minlength=corpus_size), kind="stable")


def random_rows(corpus_size: int, depth: int, keys: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """For each key ``depth`` different corpus rows at random; a smaller depth gives the first of a larger one's."""
    drawn = np.empty((len(keys), min(depth, corpus_size)), dtype=np.int64)
    for row, key in enumerate(keys):
        # NumPy takes no negative seeds, and an id may be any 64-bit integer.
        rng = np.random.default_rng([int(part) % 2**64 for part in key])
        # Of `choice`, what is drawn first would depend on how many are drawn.
        drawn[row] = rng.permutation(corpus_size)[: drawn.shape[1]]
    return drawn
