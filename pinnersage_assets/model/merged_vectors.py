"""Why one vector a user is not enough (paper, sections 2 and 3).

The mean of unlike pins is near pins that are like none of them (Figure 2), and what a user did last is often like
something of long ago and unlike all since (Figure 3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.population import offsets_of, ranges
from pinnersage_assets.model.selected_vectors import Vectors
from pinnersage_assets.model.user_sets import Pairs, nearest_unseen

_USERS_AT_ONCE = 128


@dataclass(frozen=True)
class Nearness:
    """How near what is retrieved is to what n users acted on, for their merged vector and for each medoid.

    The nearness of a retrieved pin is its cosine with the nearest of the user's action pins; that of a query is the
    mean over the pins that it retrieves, nan if the user has seen the whole corpus. ``users`` (n,) ascending;
    ``medoid_cosine`` (n,) the mean cosine of the pairs of medoids (the lower, the more unlike they are), nan if there
    is one medoid; ``merged`` (n,); ``medoids`` (n, e), the most important first.
    """

    users: NDArray[np.int64]
    medoid_cosine: NDArray[np.float64]
    merged: NDArray[np.float64]
    medoids: NDArray[np.float64]


@dataclass(frozen=True)
class PastActions:
    """Actions before a user's latest, and how like it they are: the points of Figure 3.

    ``users`` (n,) ascending; ``ages`` (n,) days, the youngest first of a user; ``cosines`` (n,) float64 with the user's
    latest pin.
    """

    users: NDArray[np.int64]
    ages: NDArray[np.float64]
    cosines: NDArray[np.float64]


def merged_against_medoids(
    owners: NDArray[np.int64],
    medoid_rows: NDArray[np.int64],
    importances: NDArray[np.float64],
    actions: Pairs,
    vectors: NDArray[np.float32],
    corpus: Vectors,
    seen: Pairs,
    search: Callable[[NDArray[np.float32], int], NDArray[np.int64]],
    merged: int,
    neighbours: int,
) -> Nearness:
    """Compare what the mean of a user's most important medoids retrieves with what each of them retrieves (Figure 2).

    Pins that a user has seen are replaced by the next nearest: a medoid is nearest to itself, which proves nothing.

    Args:
        owners: (K,) the user of each medoid, ascending.
        medoid_rows: (K,) medoids as rows of ``vectors``.
        importances: (K,) of the medoids' clusters; between equals the first is the more important.
        actions: what users acted on, as rows of ``vectors``; at least one pin of every owner.
        vectors: (pins, d) unit vectors.
        corpus: (m, d) unit vectors.
        seen: corpus rows that users have seen, their action pins among them.
        search: (queries, k) -> (q, min(k, m)) nearest corpus rows, nearest first.
        merged: e, how many medoids are merged. Users with fewer are left out, and so are users whose e medoids cancel
            out, so that their mean has no direction.
        neighbours: k, how many pins each vector retrieves.
    """
    order = np.lexsort((-importances, owners))
    offsets = offsets_of(owners)
    starts = offsets[:-1][np.diff(offsets) >= merged]
    medoids = vectors[medoid_rows[order[starts[:, None] + np.arange(merged)]]]
    means = medoids.mean(axis=1, dtype=np.float64)
    norms = np.linalg.norm(means, axis=1)
    # A mean of float32 vectors that is shorter than this is rounding.
    has_direction = norms > 1e-6
    starts, medoids, means, norms = (array[has_direction] for array in (starts, medoids, means, norms))
    users = owners[starts]

    queries = np.concatenate([(means / norms[:, None])[:, None].astype(np.float32), medoids], axis=1)
    nearness = np.empty(queries.shape[:2])
    for first in range(0, len(users), _USERS_AT_ONCE):
        some = slice(first, first + _USERS_AT_ONCE)
        nearness[some] = _nearness(queries[some], users[some], actions, vectors, corpus, seen, search, neighbours)
    # The cosines of e unit vectors add up to |Σ v|² = e² |mean|², those with themselves included.
    pairs = merged * (merged - 1)
    cosines = (merged**2 * norms**2 - merged) / pairs if pairs else np.full(len(users), np.nan)
    return Nearness(users, cosines, nearness[:, 0], nearness[:, 1:])


def past_against_latest(
    user_ids: NDArray[np.int64], ages: NDArray[np.float64], pin_rows: NDArray[np.int64], vectors: NDArray[np.float32]
) -> PastActions:
    """Each action's cosine with its user's latest pin (Figure 3).

    Args:
        user_ids: (actions,) the user of each action, in any order.
        ages: (actions,) days from the action to T_now, as the figure counts them (and not to the latest action).
        pin_rows: (actions,) the pin acted on, as a row of ``vectors``.
        vectors: (pins, d) unit vectors.

    Returns:
        all actions of strictly earlier time than the latest; of several latest pins the smallest row is the latest.
    """
    order = np.lexsort((pin_rows, ages, user_ids))
    users, ages, rows = user_ids[order], ages[order], pin_rows[order]
    offsets = offsets_of(users)
    latest = np.repeat(offsets[:-1], np.diff(offsets))
    past = np.flatnonzero(ages > ages[latest])
    cosines = np.empty(len(past))
    for start, end in zip(*(np.searchsorted(past, edge) for edge in (offsets[:-1], offsets[1:])), strict=True):
        if end > start:
            cosines[start:end] = vectors[rows[past[start:end]]] @ vectors[rows[latest[past[start]]]]
    return PastActions(users[past], ages[past], cosines)


def mean_cosine_by_age(past: PastActions, edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Average the cosines of actions of like age.

    Args:
        past: as of `past_against_latest`.
        edges: (b + 1,) days, ascending; bin i holds edges[i] <= age < edges[i + 1], and what is in no bin is left out.

    Returns:
        means (b,) float64, nan for an empty bin; counts (b,) int64, the actions in each.
    """
    bins = np.searchsorted(edges, past.ages, side="right") - 1
    inside = (bins >= 0) & (bins < len(edges) - 1)
    counts = np.bincount(bins[inside], minlength=len(edges) - 1)
    sums = np.bincount(bins[inside], weights=past.cosines[inside], minlength=len(edges) - 1)
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0), counts


def _nearness(
    queries: NDArray[np.float32],
    users: NDArray[np.int64],
    actions: Pairs,
    vectors: NDArray[np.float32],
    corpus: Vectors,
    seen: Pairs,
    search: Callable[[NDArray[np.float32], int], NDArray[np.int64]],
    neighbours: int,
) -> NDArray[np.float64]:
    """Nearness (n, q) of what each of q queries (n, q, d) of n users retrieves; see `Nearness`."""
    each = queries.shape[1]
    found = nearest_unseen(
        queries.reshape(-1, queries.shape[2]),
        np.arange(len(users) * each),
        np.full(len(users) * each, neighbours),
        len(corpus),
        _of_each_query(seen, np.repeat(users, each)),
        search,
    )
    nearness = np.full(queries.shape[:2], np.nan)
    bounds = np.searchsorted(found.users, np.arange(0, len(users) * each + 1, each))
    # One thread: the products are small, and threads would wait for each other longer than they compute.
    with threadpool_limits(limits=1):
        for number, user in enumerate(users):
            retrieved = slice(bounds[number], bounds[number + 1])
            own = vectors[actions.rows[slice(*np.searchsorted(actions.users, [user, user + 1]))]]
            nearest = (corpus[found.rows[retrieved]] @ own.T).max(axis=1)
            query = found.users[retrieved] - number * each
            counts = np.bincount(query, minlength=each)
            sums = np.bincount(query, weights=nearest, minlength=each)
            np.divide(sums, counts, out=nearness[number], where=counts > 0)
    return nearness


def _of_each_query(pairs: Pairs, query_users: NDArray[np.int64]) -> Pairs:
    """What the user of each query has, owned by the query."""
    starts, ends = (np.searchsorted(pairs.users, query_users, side=side) for side in ("left", "right"))
    return Pairs(np.repeat(np.arange(len(query_users)), ends - starts), pairs.rows[ranges(starts, ends - starts)])
