"""The paper's variants of PinnerSage (section 5.3, Table 4 and Figure 7), as data: what each changes, not a copy of it.

What belongs here: from users' actions to the embeddings that each variant would query. What does not: what is then
retrieved with them, and how it is judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.medoids import importance, sample_by_importance
from pinnersage_assets.model.pinnersage import cluster_users, draw_medoids, find_medoids
from pinnersage_assets.model.population import offsets_of, rows_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.single_embeddings import decay_averages

K_MEANS_CLUSTERS = 5  # the k of Table 4
_K_MEANS_STARTS = 3

_CHOICES = {
    "clustering": ("ward", "k_means", "complete_linkage"),
    "representation": ("medoid", "centroid", "decayed_centroid"),
    "selection": ("sampled", "top"),
}


@dataclass(frozen=True)
class Variant:
    """One way to make embeddings of a user; what is not named is PinnerSage's.

    Raises:
        ValueError: a field has a value that means nothing; names the field and what it may be.
    """

    clustering: str = "ward"
    """``ward`` and ``complete_linkage`` (no two pins of a cluster further apart than alpha) are cut at alpha;
    ``k_means`` makes five clusters, or as many as a user has different vectors if those are fewer."""
    representation: str = "medoid"
    """``medoid`` (Equation 2), ``centroid`` (the unit-length mean of the cluster's actions), or ``decayed_centroid``
    (the same, an action weighing exp(-λ age))."""
    decay_per_day: float = 0.01
    """λ of importance (Equation 3) and of the decayed centroid; 0 counts actions."""
    selection: str = "sampled"
    """``sampled`` without replacement in proportion to importance, or ``top``: the most important first, the smallest
    cluster number first among equals."""
    embeddings: int = 3
    """e, how many are selected of a user; of a user with fewer clusters, all."""

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, not {value!r}")
        if not 0 <= self.decay_per_day < np.inf:
            raise ValueError(f"decay_per_day must be a finite number >= 0, not {self.decay_per_day}")
        if not (isinstance(self.embeddings, int) and self.embeddings >= 1):
            raise ValueError(f"embeddings must be an integer >= 1, not {self.embeddings!r}")


# The rows of Table 4 that are PinnerSage, λ = 0.25 as of its baselines, and without the lottery. Another e of Figure 7
# is Variant(embeddings=e).
VARIANTS = {
    "pinnersage": Variant(),
    "pinnersage_sample_1": Variant(embeddings=1),
    "pinnersage_k_means": Variant(clustering="k_means"),
    "pinnersage_complete_linkage": Variant(clustering="complete_linkage"),
    "pinnersage_centroid": Variant(representation="centroid"),
    "pinnersage_decayed_centroid": Variant(representation="decayed_centroid"),
    "pinnersage_decay_0": Variant(decay_per_day=0.0),
    "pinnersage_decay_0.1": Variant(decay_per_day=0.1),
    "pinnersage_decay_0.25": Variant(decay_per_day=0.25),
    "pinnersage_top_3": Variant(selection="top"),
}


@dataclass(frozen=True)
class Embeddings:
    """The K embeddings selected of a population: users ascending, those of a user in the order of selection.

    ``user_ids`` (K,); ``vectors`` (K, d) of unit length; ``importances`` (K,) of the embeddings' clusters;
    ``medoid_rows`` (K,) the medoid of the cluster as a row of the pins, whatever represents the cluster.
    """

    user_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    importances: NDArray[np.float64]
    medoid_rows: NDArray[np.int64]


def embed_users(
    user_ids: NDArray[np.int64],
    pin_rows: NDArray[np.int64],
    ages: NDArray[np.float64],
    pin_ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    alpha: float,
    variants: Mapping[str, Variant],
    keys: tuple[int, ...],
) -> dict[str, Embeddings]:
    """Compute the embeddings of the same users in several variants; what variants have in common is computed once.

    Variants that share a clustering and λ select the same clusters, however these are represented: draws are keyed by
    the cluster's medoid. So their results differ by the representation alone.

    Args:
        user_ids: (actions,) the user of each action, in any order.
        pin_rows: (actions,) the pin acted on, as a row of ``vectors``. A pin acted on n times is one point of weight n.
        ages: (actions,) days from the action to T_now, >= 0.
        pin_ids: (pins,) the id of each row of ``vectors``, ascending, each once.
        vectors: (pins, d) float32 unit vectors.
        alpha: threshold of the squared Ward distance, and of the squared Euclidean distance of complete linkage.
        variants: by name.
        keys: what is random belongs to these (seed, day), and to the user.

    Returns:
        the embeddings of each variant, by its name. Those of a user do not depend on the other users, nor on the order
        of actions. Where a cluster's pins cancel out, so that a mean has no direction, the medoid stands in for it.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    _check_input(user_ids, pin_rows, ages, pin_ids, vectors, alpha)
    order = np.lexsort((ages, pin_rows, user_ids))
    user_ids, pin_rows, ages = user_ids[order], pin_rows[order], ages[order]
    is_first = np.append(True, (np.diff(user_ids) != 0) | (np.diff(pin_rows) != 0))[: len(order)]
    point_users, point_rows = user_ids[is_first], pin_rows[is_first]
    counts = np.diff(np.flatnonzero(is_first), append=len(order))

    @cache
    def clustered(clustering: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The cluster of each action, from 0 over all users, and the user and the medoid of each cluster."""
        labels = _cluster(clustering, point_users, point_rows, counts, vectors, alpha, keys)
        _, first, numbers = np.unique(
            np.stack([point_users, labels], axis=1), axis=0, return_index=True, return_inverse=True
        )
        members = np.argsort(numbers, kind="stable")
        rows = point_rows[members]
        found = find_medoids(numbers[members], pin_ids[rows], rows, counts[members], vectors, _silent)
        medoid_ids = found[offsets_of(numbers[members])[:-1]]
        return np.repeat(numbers, counts), point_users[first], rows_of(pin_ids, medoid_ids)

    @cache
    def averages(clustering: str, decay_per_day: float) -> NDArray[np.float32]:
        clusters, _, medoid_rows = clustered(clustering)
        members = np.argsort(clusters, kind="stable")
        offsets = offsets_of(clusters[members])
        means = decay_averages(vectors, pin_rows[members], ages[members], offsets, decay_per_day)
        return np.where(means.any(axis=1, keepdims=True), means, vectors[medoid_rows])

    def embeddings(variant: Variant) -> Embeddings:
        clusters, owners, medoid_rows = clustered(variant.clustering)
        weights = importance(ages, clusters, variant.decay_per_day, len(owners))
        if variant.selection == "sampled":
            draw = draw_medoids(owners, pin_ids[medoid_rows], weights, variant.embeddings, keys)
        else:
            # Where all draw the same number, nothing but importance decides, and between equals their order.
            draw = sample_by_importance(weights, owners, variant.embeddings, np.full(len(owners), 0.5))
        selected = np.flatnonzero(draw >= 0)
        selected = selected[np.lexsort((draw[selected], owners[selected]))]
        if variant.representation == "medoid":
            chosen = vectors[medoid_rows[selected]]
        else:
            decay_per_day = variant.decay_per_day if variant.representation == "decayed_centroid" else 0.0
            chosen = averages(variant.clustering, decay_per_day)[selected]
        return Embeddings(owners[selected], chosen, weights[selected], medoid_rows[selected])

    return {name: embeddings(variant) for name, variant in variants.items()}


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
    if clustering == "ward":
        return cluster_users(user_ids, pin_rows, counts, vectors, alpha, _silent)
    labels = np.empty(len(user_ids), dtype=np.int32)
    # One thread: on a user's few pins more cost time, and their sums would depend on which is ready first.
    with threadpool_limits(limits=1):
        for start, end in pairwise(offsets_of(user_ids)):
            points = vectors[pin_rows[start:end]]
            if clustering == "k_means":
                found = _k_means(points, counts[start:end], keyed_uniform("k-means", *keys, user_ids[start]))
            else:
                found = _complete_linkage(points, alpha)
            _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
            labels[start:end] = first.argsort().argsort()[inverse]
    return labels


def _k_means(points: NDArray[np.float32], counts: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray:
    distinct, which = np.unique(points, axis=0, return_inverse=True)
    if len(distinct) <= K_MEANS_CLUSTERS:
        return which
    # Without tolerance it ends where no pin is nearer to another cluster's mean.
    model = KMeans(K_MEANS_CLUSTERS, n_init=_K_MEANS_STARTS, tol=0.0, random_state=int(uniform * 2**32))
    return model.fit(points.astype(np.float64), sample_weight=counts).labels_


def _complete_linkage(points: NDArray[np.float32], alpha: float) -> NDArray:
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
