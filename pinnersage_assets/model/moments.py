"""Users at moments of a day: what the online model makes of what they did so far, and how far a full run agrees.

What belongs here: many users, each at some moments, with what is known of them then. What does not: one user at one
moment (`online`), and what is asked of it (`retrieval_task`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.online import StoredClusters, update_clusters
from pinnersage_assets.model.pinnersage import draw_medoids
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.variants import Clusters, Embeddings, UserEmbeddings, Variant, in_order_of_selection


@dataclass(frozen=True)
class Moments:
    """M moments after T_now of a population, users ascending, those of a user in order; and the actions before each.

    ``user_ids`` (M,); ``days_since`` (M,) days from T_now; ``action_moments`` (actions,) ascending: every action since
    T_now stands here once for each moment after it, the latest first; ``pin_rows`` (actions,) as rows of the
    population's vectors; ``ages`` (actions,) days from the action to the moment.
    """

    user_ids: NDArray[np.int64]
    days_since: NDArray[np.float64]
    action_moments: NDArray[np.int64]
    pin_rows: NDArray[np.int64]
    ages: NDArray[np.float64]

    @property
    def actions_before(self) -> NDArray[np.int64]:
        """(M,) how many actions there were between T_now and the moment."""
        return np.bincount(self.action_moments, minlength=len(self.user_ids))


def reclustered(population: UserEmbeddings, moments: Moments, variant: Variant) -> Clusters:
    """The clusters of each moment, its number as the user, made of all actions up to then."""
    known = moments.action_moments, moments.pin_rows, moments.ages
    return population.at_moments(moments.user_ids, moments.days_since, *known).clusters(variant)


def updated_online(population: UserEmbeddings, moments: Moments, variant: Variant, most_actions: int) -> Clusters:
    """The clusters of each moment, its number as the user, as the online model makes them of the stored ones.

    Stored are those that the population has in this variant at T_now; a pin that was acted on before and since belongs
    where the online model put it last.

    Args:
        population: the users at T_now.
        moments: of these users.
        variant: a clustering by ``ward`` with medoids.
        most_actions: how many actions of a moment, the latest, the online model takes.
    """
    stored, alpha = population.clusters(variant), population.alpha_of(variant)
    first, last = (np.searchsorted(stored.user_ids, moments.user_ids, side) for side in ("left", "right"))
    begin, end = (np.searchsorted(stored.point_users, moments.user_ids, side) for side in ("left", "right"))
    actions = np.searchsorted(moments.action_moments, np.arange(len(moments.user_ids) + 1))
    nothing = np.empty(0, np.int64)
    clusters: list[tuple[NDArray, ...]] = [(nothing,) * 4]
    points: list[tuple[NDArray, ...]] = [(nothing,) * 3]
    total = 0
    # One thread: products of this size gain nothing by more, and lose much where the processor is busy.
    with threadpool_limits(limits=1):
        for moment, days_since in enumerate(moments.days_since.tolist()):
            own = slice(first[moment], last[moment])
            recent = slice(actions[moment], min(actions[moment] + most_actions, actions[moment + 1]))
            medoid_rows, rows = stored.medoid_rows[own], moments.pin_rows[recent]
            found = update_clusters(
                StoredClusters(population.pin_ids[medoid_rows], stored.sizes[own], stored.importances[own]),
                population.vectors[medoid_rows],
                population.pin_ids[rows],
                population.vectors[rows],
                moments.ages[recent],
                days_since,
                alpha,
                variant.decay_per_day,
            )
            clusters.append((np.full(len(found.sizes), moment), found.medoid_pin_ids, found.sizes, found.importances))
            members = slice(begin[moment], end[moment])
            of_point = np.append(found.labels, stored.point_clusters[members] - first[moment])
            # Of a pin that stands in both, the first: where it is now.
            pins, place = np.unique(np.append(rows, stored.point_rows[members]), return_index=True)
            points.append((np.full(len(pins), moment), pins, of_point[place] + total))
            total += len(found.sizes)
    owners, medoids, sizes, importances = map(np.concatenate, zip(*clusters, strict=True))
    medoid_rows = rows_of(population.pin_ids, medoids)
    return Clusters(owners, medoid_rows, sizes, importances, *map(np.concatenate, zip(*points, strict=True)))


def sampled_at_moments(
    clusters: Clusters, population: UserEmbeddings, moments: Moments, size: int, keys: tuple[int, ...]
) -> Embeddings:
    """The medoids drawn at each moment, its number as the user, by the numbers that the user draws by at T_now."""
    user_ids = moments.user_ids[clusters.user_ids]
    medoids = population.pin_ids[clusters.medoid_rows]
    draw = draw_medoids(user_ids, medoids, clusters.importances, size, keys, clusters.user_ids)
    selected = in_order_of_selection(clusters.user_ids, draw)
    rows = clusters.medoid_rows[selected]
    return Embeddings(clusters.user_ids[selected], population.vectors[rows], clusters.importances[selected], rows)


def adjusted_rand_index(one: Clusters, other: Clusters, users: int) -> NDArray[np.float64]:
    """How alike two clusterings of a user's pins are: 1 if they are the same, 0 on average if one is random.

    Of all pairs of pins some are together in both clusterings; the index is how many more than expected of clusters of
    these sizes (Hubert and Arabie, 1985). It is 1 where nothing could differ, as of a single pin.

    Args:
        one: of users 0 to U - 1.
        other: likewise; pins that are in one of them alone are left out.
        users: U.

    Returns:
        (U,) float64.
    """
    pins = max(one.point_rows.max(initial=0), other.point_rows.max(initial=0)) + 1
    codes = (some.point_users * pins + some.point_rows for some in (one, other))
    common, of_one, of_other = np.intersect1d(*codes, assume_unique=True, return_indices=True)
    owners, first, second = common // pins, one.point_clusters[of_one], other.point_clusters[of_other]

    def together(groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each user the pairs of pins that are in the same group; a group is of one user."""
        _, where, counts = np.unique(groups, return_index=True, return_counts=True)
        # NumPy's types take sums of weights for integers.
        return np.bincount(owners[where], counts * (counts - 1) / 2, minlength=users)  # ty: ignore[invalid-explicit-return]

    in_both = first * len(other.user_ids) + second
    both, firsts, seconds, everything = map(together, (in_both, first, second, owners))
    expected = np.divide(firsts * seconds, everything, out=np.zeros(users), where=everything > 0)
    room = (firsts + seconds) / 2 - expected
    return np.divide(both - expected, room, out=np.ones(users), where=room > 0)


def medoid_overlap(one: Clusters, other: Clusters, users: int) -> NDArray[np.float64]:
    """The Jaccard index of each user's two sets of medoids, (U,) float64: in both of those in either; 1 of none."""
    pins = max(one.medoid_rows.max(initial=0), other.medoid_rows.max(initial=0)) + 1
    codes, others = (np.unique(some.user_ids * pins + some.medoid_rows) for some in (one, other))
    in_both, in_either = (
        np.bincount(some // pins, minlength=users)
        for some in (np.intersect1d(codes, others), np.union1d(codes, others))
    )
    return np.divide(in_both, in_either, out=np.ones(users), where=in_either > 0)
