"""The paper's variants of PinnerSage (section 5.3, Table 4 and Figure 7), as data: what each changes, not a copy of it.

What belongs here: from users' actions to the embeddings that each variant would query, and how it would share out the
budget. What does not: what is then retrieved, and how it is judged.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.k_means import k_means
from pinnersage_assets.model.medoids import decayed_weights, importance, sample_by_importance
from pinnersage_assets.model.pinnersage import cluster_users, draw_medoids, find_medoids
from pinnersage_assets.model.population import offsets_of, ranges, rows_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.single_embeddings import decay_averages

K_MEANS_CLUSTERS = 5  # the k of Table 4

# Representations that are pins themselves.
MEDOIDS = frozenset({"medoid", "decayed_medoid"})

_CHOICES = {
    "clustering": ("ward", "k_means", "complete_linkage", "pins", "all"),
    "representation": ("medoid", "decayed_medoid", "centroid", "decayed_centroid"),
    "selection": ("sampled", "top", "latest"),
    "shares": ("equal", "importance"),
}


@dataclass(frozen=True)
class Variant:
    """One way to make embeddings of a user, and a candidate set of them; what is not named is PinnerSage's.

    Raises:
        ValueError: a field has a value that means nothing; names the field and what it may be.
    """

    clustering: str = "ward"
    """``ward`` and ``complete_linkage`` (no two pins of a cluster further apart than alpha) are cut at alpha;
    ``k_means`` makes five clusters, or as many as a user has different vectors if those are fewer; ``pins`` leaves each
    pin alone, and ``all`` puts all together."""
    representation: str = "medoid"
    """``medoid`` (Equation 2), ``decayed_medoid`` (the same, an action weighing exp(-λ age)), ``centroid`` (the
    unit-length mean of the cluster's actions), or ``decayed_centroid`` (that mean with the same weights)."""
    decay_per_day: float = 0.01
    """λ of importance (Equation 3) and of the decayed centroid; 0 counts actions."""
    selection: str = "sampled"
    """``sampled`` without replacement in proportion to importance, ``top``: the most important first, or ``latest``:
    those acted on last first; the smallest cluster number first among equals."""
    embeddings: int | None = 3
    """e, how many are selected of a user; of a user with fewer clusters, all. None selects all of everybody's."""
    shares: str = "equal"
    """What each brings to the budget: floor(budget / e), or in proportion to ``importance``."""
    refill: bool = True
    """Whether overlaps are refilled, so that sets of all variants are equally large; in the paper they are not."""
    alpha: float | None = None
    """Where ``ward`` and ``complete_linkage`` are cut; None stands for the alpha of the population."""

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, not {value!r}")
        if not (self.alpha is None or self.alpha >= 0):
            raise ValueError(f"alpha must be a number >= 0, or None, not {self.alpha}")
        if not 0 <= self.decay_per_day < np.inf:
            raise ValueError(f"decay_per_day must be a finite number >= 0, not {self.decay_per_day}")
        whole = isinstance(self.embeddings, int) and not isinstance(self.embeddings, bool)
        if not (self.embeddings is None or (whole and self.embeddings >= 1)):
            raise ValueError(f"embeddings must be an integer >= 1, or None for all, not {self.embeddings!r}")


# What is judged besides a list of pins that is the same for everybody. Another e of Figure 7 is Variant(embeddings=e).
VARIANTS = {
    # One vector a user (Table 4's baselines), and pins as they are.
    "last_pin": Variant(clustering="pins", selection="latest", embeddings=1),
    "decay_average": Variant("all", "decayed_centroid", selection="top"),
    "decay_average_0": Variant("all", "decayed_centroid", 0.0, selection="top"),
    "decay_average_0.1": Variant("all", "decayed_centroid", 0.1, selection="top"),
    "decay_average_0.25": Variant("all", "decayed_centroid", 0.25, selection="top"),
    "last_20_pins": Variant(clustering="pins", selection="latest", embeddings=20),
    "all_pins": Variant(clustering="pins", selection="latest", embeddings=None),
    # The rows of Table 4 that are PinnerSage.
    "pinnersage": Variant(),
    "pinnersage_not_refilled": Variant(refill=False),
    "pinnersage_sample_1": Variant(embeddings=1),
    "pinnersage_k_means": Variant(clustering="k_means"),
    "pinnersage_complete_linkage": Variant(clustering="complete_linkage"),
    "pinnersage_centroid": Variant(representation="centroid"),
    "pinnersage_decay_0": Variant(decay_per_day=0.0),
    "pinnersage_decay_0.1": Variant(decay_per_day=0.1),
    # Beyond the paper: its λ for single vectors, no lottery, and the budget shared out by importance over many.
    "pinnersage_decay_0.25": Variant(decay_per_day=0.25),
    "pinnersage_decayed_centroid": Variant(representation="decayed_centroid"),
    "pinnersage_decayed_medoid": Variant(representation="decayed_medoid"),
    "pinnersage_top_3": Variant(selection="top"),
    "pinnersage_top_20_by_importance": Variant(selection="top", embeddings=20, shares="importance"),
    "pinnersage_top_20_by_importance_decay_0.1": Variant(
        representation="decayed_centroid", decay_per_day=0.1, selection="top", embeddings=20, shares="importance"
    ),
}


# Judged beside the variants: one of them by the index as it is, what was really recommended by each generator and by
# both together, and lists of pins that know nothing of the user; and, though they know more, `pinnersage` as it would
# be at each moment of the day, by clusters that the online model updated, and by clusters that were made anew.
BY_INDEX = "pinnersage_top_3_by_index"
ONLINE, RECLUSTERED = "online", "reclustered"
CONTROLS = (BY_INDEX, "recommended", "pixie", "blended", "random", "popular", ONLINE, RECLUSTERED)


@dataclass(frozen=True)
class Embeddings:
    """The K embeddings selected of a population: users ascending, those of a user in the order of selection.

    ``user_ids`` (K,); ``vectors`` (K, d) of unit length; ``importances`` (K,) of the embeddings' clusters;
    ``medoid_rows`` (K,) the medoid of the cluster as a row of the pins (the decayed one where that represents the
    cluster), whatever else represents it.
    """

    user_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    importances: NDArray[np.float64]
    medoid_rows: NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """The K clusters of a population, users ascending, and the P distinct pins of users that are in them.

    ``user_ids`` (K,); ``medoid_rows`` (K,) medoids as rows of the pins; ``sizes`` (K,) actions; ``importances`` (K,);
    ``point_users`` (P,) and ``point_rows`` (P,) ascending pairs; ``point_clusters`` (P,) 0 to K - 1.
    """

    user_ids: NDArray[np.int64]
    medoid_rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    importances: NDArray[np.float64]
    point_users: NDArray[np.int64]
    point_rows: NDArray[np.int64]
    point_clusters: NDArray[np.int64]


class UserEmbeddings:
    """The embeddings of the same users in any variant; what variants have in common is computed once.

    Variants that share a clustering and λ select the same clusters, however these are represented: draws are keyed by
    the cluster's medoid. So their results differ by the representation alone.
    """

    def __init__(
        self,
        user_ids: NDArray[np.int64],
        pin_rows: NDArray[np.int64],
        ages: NDArray[np.float64],
        pin_ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
        alpha: float,
        keys: tuple[int, ...],
    ) -> None:
        """Take the actions of a population.

        Args:
            user_ids: (actions,) the user of each action, in any order.
            pin_rows: (actions,) the pin acted on, as a row of ``vectors``. A pin acted on n times is one point of
                weight n.
            ages: (actions,) days from the action to T_now, >= 0.
            pin_ids: (pins,) the id of each row of ``vectors``, ascending, each once.
            vectors: (pins, d) float32 unit vectors.
            alpha: threshold of the squared Ward distance, and of the squared Euclidean distance of complete linkage,
                for variants without their own.
            keys: what is random in clustering belongs to these (seed, day), and to the user.

        Raises:
            ValueError: an argument is not as described above; names the argument.
        """
        _check_input(user_ids, pin_rows, ages, pin_ids, vectors, alpha)
        order = np.lexsort((ages, pin_rows, user_ids))
        self._pin_rows, self._ages = pin_rows[order], ages[order]
        user_ids = user_ids[order]
        is_first = np.append(True, (np.diff(user_ids) != 0) | (np.diff(self._pin_rows) != 0))[: len(order)]
        self._point_users, self._point_rows = user_ids[is_first], self._pin_rows[is_first]
        self._counts = np.diff(np.flatnonzero(is_first), append=len(order))
        self._user_ids = user_ids
        self.pin_ids, self.vectors, self._alpha, self._keys = pin_ids, vectors, alpha, keys
        # Per object, so that a population is let go with all that was computed of it.
        self._clustered = cache(self._find_clusters)
        self._averages = cache(self._average_clusters)
        self._decayed_medoids = cache(self._find_decayed_medoids)

    def select(self, variant: Variant, keys: tuple[int, ...]) -> Embeddings:
        """The embeddings of a variant.

        Where a cluster's pins cancel out, so that a mean has no direction, the medoid stands in for it.

        Args:
            variant: which.
            keys: what a sample belongs to (seed, day), and the user.

        Returns:
            those of a user do not depend on the other users, nor on the order of actions.
        """
        alpha = self.alpha_of(variant)
        clusters, owners, medoid_rows = self._clustered(variant.clustering, alpha)
        weights = importance(self._ages, clusters, variant.decay_per_day, len(owners))
        size = variant.embeddings or max(1, len(owners))
        if variant.selection == "sampled":
            draw = draw_medoids(owners, self.pin_ids[medoid_rows], weights, size, keys)
        else:
            # Where all draw the same number, nothing but the weight decides, and between equals their order.
            decisive = weights if variant.selection == "top" else self._recency(clusters, len(owners))
            draw = sample_by_importance(decisive, owners, size, np.full(len(owners), 0.5))
        selected = in_order_of_selection(owners, draw)
        if variant.representation == "decayed_medoid":
            medoid_rows = self._decayed_medoids(variant.clustering, alpha, variant.decay_per_day)
        if variant.representation in MEDOIDS:
            chosen = self.vectors[medoid_rows[selected]]
        else:
            decay_per_day = variant.decay_per_day if variant.representation == "decayed_centroid" else 0.0
            chosen = self._averages(variant.clustering, alpha, decay_per_day)[selected]
        return Embeddings(owners[selected], chosen, weights[selected], medoid_rows[selected])

    def clusters(self, variant: Variant) -> Clusters:
        """The clusters of a variant whose embeddings are medoids of all actions, before any are selected."""
        of_action, owners, medoid_rows = self._clustered(variant.clustering, self.alpha_of(variant))
        return Clusters(
            owners,
            medoid_rows,
            np.bincount(of_action, minlength=len(owners)),
            importance(self._ages, of_action, variant.decay_per_day, len(owners)),
            self._point_users,
            self._point_rows,
            of_action[np.cumsum(self._counts) - self._counts],
        )

    def alpha_of(self, variant: Variant) -> float:
        """Where a variant cuts."""
        return self._alpha if variant.alpha is None else variant.alpha

    def at_moments(
        self,
        user_ids: NDArray[np.int64],
        days_since: NDArray[np.float64],
        moments: NDArray[np.int64],
        pin_rows: NDArray[np.int64],
        ages: NDArray[np.float64],
    ) -> "UserEmbeddings":
        """The users at moments after T_now, as if each moment were a user: all that was known, and what they did since.

        Args:
            user_ids: (M,) the user of each moment, one of these users.
            days_since: (M,) days from T_now to the moment, >= 0.
            moments: (actions,) of each action since T_now, and before the moment, which moment it is known at.
            pin_rows: (actions,) as of the constructor.
            ages: (actions,) days from the action to the moment.
        """
        first, last = (np.searchsorted(self._user_ids, user_ids, side) for side in ("left", "right"))
        known = ranges(first, last - first)
        of_known = np.repeat(np.arange(len(user_ids)), last - first)
        return UserEmbeddings(
            np.append(of_known, moments),
            np.append(self._pin_rows[known], pin_rows),
            np.append(self._ages[known] + days_since[of_known], ages),
            self.pin_ids,
            self.vectors,
            self._alpha,
            self._keys,
        )

    def _recency(self, clusters: NDArray[np.int64], n_clusters: int) -> NDArray[np.float64]:
        """Of each cluster a weight that falls with the age of its last action."""
        last = np.full(n_clusters, np.inf)
        np.minimum.at(last, clusters, self._ages)
        return 1 / (1 + last)

    def _find_clusters(
        self, clustering: str, alpha: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The cluster of each action, from 0 over all users, and the user and the medoid of each cluster."""
        users, rows, counts = self._point_users, self._point_rows, self._counts
        if clustering == "pins":
            return np.repeat(np.arange(len(users)), counts), users, rows
        labels = _cluster(clustering, users, rows, counts, self.vectors, alpha, self._keys)
        _, first, numbers = np.unique(np.stack([users, labels], axis=1), axis=0, return_index=True, return_inverse=True)
        return np.repeat(numbers, counts), users[first], self._medoids(numbers, counts)

    def _medoids(self, clusters: NDArray[np.int64], weights: NDArray) -> NDArray[np.int64]:
        """The medoid of each cluster as a row of the pins; given the cluster and the weight of each point."""
        members = np.argsort(clusters, kind="stable")
        rows = self._point_rows[members]
        found = find_medoids(clusters[members], self.pin_ids[rows], rows, weights[members], self.vectors, _silent)
        return rows_of(self.pin_ids, found[offsets_of(clusters[members])[:-1]])

    def _find_decayed_medoids(self, clustering: str, alpha: float, decay_per_day: float) -> NDArray[np.int64]:
        clusters, _, _ = self._clustered(clustering, alpha)
        points = np.repeat(np.arange(len(self._counts)), self._counts)
        of_point = clusters[np.cumsum(self._counts) - self._counts]
        weights = decayed_weights(self._ages, points, of_point, decay_per_day)
        return self._medoids(of_point, weights)

    def _average_clusters(self, clustering: str, alpha: float, decay_per_day: float) -> NDArray[np.float32]:
        clusters, _, medoid_rows = self._clustered(clustering, alpha)
        members = np.argsort(clusters, kind="stable")
        offsets = offsets_of(clusters[members])
        means = decay_averages(self.vectors, self._pin_rows[members], self._ages[members], offsets, decay_per_day)
        return np.where(means.any(axis=1, keepdims=True), means, self.vectors[medoid_rows])


def in_order_of_selection(owners: NDArray[np.int64], draw: NDArray[np.int32]) -> NDArray[np.int64]:
    """The items that were drawn, as of `sample_by_importance`: owners ascending, the first drawn of each first."""
    selected = np.flatnonzero(draw >= 0)
    return selected[np.lexsort((draw[selected], owners[selected]))]


def _cluster(
    clustering: str,
    user_ids: NDArray[np.int64],
    pin_rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    vectors: NDArray[np.float32],
    alpha: float,
    keys: tuple[int, ...],
) -> NDArray[np.int32]:
    """Labels of each user's distinct pins, from 0 in order of first appearance; see `cluster_users`."""
    if clustering == "all":
        return np.zeros(len(user_ids), dtype=np.int32)
    if clustering == "ward":
        return cluster_users(user_ids, pin_rows, counts, vectors, alpha, _silent)
    labels = np.empty(len(user_ids), dtype=np.int32)
    # One thread: on a user's few pins more cost time, and their sums would depend on which is ready first.
    with threadpool_limits(limits=1):
        for start, end in pairwise(offsets_of(user_ids)):
            points = vectors[pin_rows[start:end]]
            if clustering == "k_means":
                uniform = keyed_uniform("k-means", *keys, user_ids[start])
                found = k_means(points, counts[start:end], K_MEANS_CLUSTERS, float(uniform))
            else:
                found = _complete_linkage(points, alpha)
            _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
            labels[start:end] = first.argsort().argsort()[inverse]
    return labels


def _complete_linkage(points: NDArray[np.float32], alpha: float) -> NDArray:
    # Not above: settings name variants, and whatever starts would wait for it.
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(points) == 1:
        return np.zeros(1)
    return fcluster(linkage(points, "complete", "sqeuclidean"), alpha, "distance")


def _silent(done: int, total: int) -> None:
    pass


def _check_input(
    user_ids: NDArray, pin_rows: NDArray, ages: NDArray, pin_ids: NDArray, vectors: NDArray, alpha: float
) -> None:
    for name, array in (("user_ids", user_ids), ("pin_rows", pin_rows)):
        if array.ndim != 1 or array.shape != ages.shape or array.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must be integers, one an age: ages are of shape {ages.shape}, "
                f"{name} {array.dtype} of shape {array.shape}"
            )
    if not (np.isfinite(ages) & (ages >= 0)).all():
        raise ValueError("ages must be finite days >= 0: an action after T_now belongs to a later day")
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise ValueError(
            f"vectors must be finite float32 of shape (pins, dimensions), not {vectors.dtype} of shape {vectors.shape}"
        )
    if pin_ids.shape != (len(vectors),) or (np.diff(pin_ids) <= 0).any():
        raise ValueError(f"pin_ids must be {len(vectors)} ascending integers, each once, one a row of vectors")
    if pin_rows.size and not 0 <= pin_rows.min() <= pin_rows.max() < len(vectors):
        raise ValueError(f"pin_rows must be rows of vectors, 0 to {len(vectors) - 1}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be a number >= 0, not {alpha}")
