"""The online model (paper, section 4.2): the stored clusters of a user, updated by what the user did since.

What belongs here: from the clusters that the nightly batch stored, and a few later actions, to the clusters of now; of
one user, in less than a millisecond. What does not: where clusters and actions are kept, and the sample of medoids,
which `pinnersage.draw_medoids` draws of the updated clusters, old and new alike, as it does of stored ones.

It is the batch model with less to go by, and the next batch supersedes it. What is exact:

- Importances: a sum of exp(-λ age) fades by one factor for all its actions, so nothing is lost by storing the sum.
- The criterion: pins and clusters merge by Ward's distance, the nearest first, up to α. Of a user of whom nothing is
  stored that is `ward`, and the medoids are those of the batch.
- A repeat of a stored medoid joins its cluster.

What is not:

- A stored cluster is a point at its medoid that weighs as much as its actions: its mean is not stored.
- Stored clusters never merge with each other, and never split, as a later action could make them do.
- The medoid of a cluster that took pins is the nearest to the weighted mean of the stored medoid and the new pins; the
  cluster's other members are not stored, so that none of them is a candidate.
- Actions that have left the window since then still count, and so does a feedback factor of the batch as it was.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.medoids import medoids
from pinnersage_assets.model.ward import lance_williams

# Squared distances below this share of the two squared lengths are computed anew from the differences: of a product,
# rounding leaves less than nine digits of them, and of identical vectors something else than 0.
_ALMOST_EQUAL = 1e-6


@dataclass(frozen=True)
class StoredClusters:
    """A user's K clusters as the nightly batch stored them: ``users.medoids`` of a day, at the end of that day.

    ``medoid_pin_ids`` (K,) int64, each once; ``sizes`` (K,) int64 actions; ``importances`` (K,) float64.
    """

    medoid_pin_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    importances: NDArray[np.float64]


@dataclass(frozen=True)
class UpdatedClusters:
    """A user's clusters at the time of a request: the stored ones in their order, then new ones.

    New clusters come in order of first appearance. ``medoid_pin_ids``, ``sizes`` and ``importances`` are as of
    `StoredClusters`, but now; ``labels`` (r,) int64 is the cluster of each recent action, ``stored`` how many clusters
    were stored before.
    """

    medoid_pin_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    importances: NDArray[np.float64]
    labels: NDArray[np.int64]
    stored: int


def update_clusters(
    stored: StoredClusters,
    stored_vectors: NDArray[np.float32],
    pin_ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    ages: NDArray[np.float64],
    days_since: float,
    alpha: float,
    decay_per_day: float,
) -> UpdatedClusters:
    """Merge recent actions into stored clusters, and into new ones; the module says what of it is exact.

    Always the nearest pair that does not hold two stored clusters merges. Of pairs that are equally near, the one with
    the smallest pin id among its new pins goes first; to the same pins stored clusters come first, in their order. So
    what is found depends on the order of actions only in how new clusters are numbered.

    Args:
        stored: the user's clusters as of the end of a day; none of them is fine.
        stored_vectors: (K, d) unit vectors of their medoids.
        pin_ids: (r,) the pin of each recent action, in any order; a pin acted on n times is a point of weight n. The
            paper takes the latest 20; none is fine.
        vectors: (r, d) the pins' unit vectors.
        ages: (r,) days from each action to the request, >= 0.
        days_since: days from the end of that day to the request, >= 0.
        alpha: α of `ward`, which the stored clusters were made with.
        decay_per_day: λ, likewise.

    Returns:
        the clusters at the time of the request.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    _check_input(stored, stored_vectors, pin_ids, vectors, ages, days_since, alpha, decay_per_day)
    count = len(stored.sizes)
    pins, first, pin_of_action, actions = np.unique(pin_ids, return_index=True, return_inverse=True, return_counts=True)
    # A repeat is where its cluster is, and makes it heavier; only the others are points.
    cluster_of_pin = _places(stored.medoid_pin_ids, pins)
    is_repeat = cluster_of_pin >= 0
    weights = np.concatenate([stored.sizes, actions[~is_repeat]]).astype(np.float64)
    np.add.at(weights, cluster_of_pin[is_repeat], actions[is_repeat])
    points = np.concatenate([stored_vectors, vectors[first[~is_repeat]]]).astype(np.float64)
    merged = _merge(points, weights, count, alpha)
    cluster_of_pin[~is_repeat] = merged

    labels = cluster_of_pin[pin_of_action]
    is_new = labels >= count
    _, appears, number = np.unique(labels[is_new], return_index=True, return_inverse=True)
    labels[is_new] = count + appears.argsort().argsort()[number]
    total = count + len(appears)
    cluster_of_pin[pin_of_action] = labels

    faded = np.zeros(total)
    faded[:count] = stored.importances * np.exp(-decay_per_day * days_since)
    sizes = np.zeros(total, dtype=np.int64)
    sizes[:count] = stored.sizes
    return UpdatedClusters(
        _find_medoids(stored.medoid_pin_ids, pins[~is_repeat], cluster_of_pin[~is_repeat], points, weights, total),
        sizes + np.bincount(labels, minlength=total),
        faded + np.bincount(labels, weights=np.exp(-decay_per_day * ages), minlength=total),
        labels,
        count,
    )


def _merge(points: NDArray[np.float64], weights: NDArray[np.float64], stored: int, alpha: float) -> NDArray[np.int64]:
    """The cluster of each new point: a stored one, or the place of its first point; the first points are the stored."""
    distances = _distances(points, weights, stored)
    weights = weights.copy()
    cluster = np.arange(stored, len(points))
    most = min(alpha, np.finfo(np.float64).max)  # what is infinitely far is not there any more
    while distances.size:
        row, column = divmod(int(distances.argmin()), len(points))
        distance = distances[row, column]
        if not distance <= most:
            break
        if column < stored:
            # Only the distances of new clusters to the one that grew are needed of it.
            own, kept, lost = stored + row, column, row
            distances[:, kept] = lance_williams(
                distances[:, own], distances[:, kept], distance, weights[own], weights[kept], weights[stored:]
            )
        else:
            # The earlier of the two stays; of two equally near pairs the same is found first from both sides.
            own, kept, lost = column, stored + row, column - stored
            distances[row] = lance_williams(
                distances[row], distances[lost], distance, weights[kept], weights[own], weights
            )
            distances[:, kept] = distances[row, stored:]
        weights[kept] += weights[own]
        distances[lost] = np.inf
        distances[:, own] = np.inf
        cluster[cluster == own] = kept
    return cluster


def _distances(points: NDArray[np.float64], weights: NDArray[np.float64], stored: int) -> NDArray[np.float64]:
    """The squared Ward distances of the new points to all, (r, K + r); infinite to themselves."""
    new = points[stored:]
    lengths = np.einsum("pd,pd->p", points, points)
    if not np.isfinite(lengths).all():
        raise ValueError("vectors and stored_vectors must be finite")
    both = lengths[stored:, None] + lengths
    # A product with itself is symmetric to the last bit.
    squared = both - 2.0 * np.concatenate([new @ points[:stored].T, new @ new.T], axis=1)
    rows, columns = np.nonzero(squared <= _ALMOST_EQUAL * both)
    difference = new[rows] - points[columns]
    squared[rows, columns] = np.einsum("pd,pd->p", difference, difference)
    squared *= 2.0 * weights[stored:, None] * weights / (weights[stored:, None] + weights)
    squared[np.arange(len(new)), np.arange(stored, len(points))] = np.inf
    return squared


def _find_medoids(
    stored_pins: NDArray[np.int64],
    new_pins: NDArray[np.int64],
    clusters: NDArray[np.int64],
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    total: int,
) -> NDArray[np.int64]:
    """The medoids of all clusters; only those that took pins are looked at."""
    found = np.empty(total, dtype=np.int64)
    found[: len(stored_pins)] = stored_pins
    taking, numbers = np.unique(clusters, return_inverse=True)
    grown = np.flatnonzero(taking < len(stored_pins))
    members = np.concatenate([taking[grown], np.arange(len(stored_pins), len(points))])
    pins = np.concatenate([stored_pins[taking[grown]], new_pins])
    rows = medoids(points[members], pins, np.concatenate([grown, numbers]), weights[members])
    found[taking] = pins[rows]
    return found


def _places(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted id stands among ids in any order; -1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = ids.argsort()
    places = order[np.minimum(ids.searchsorted(wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[places] == wanted, places, -1)


def _check_input(
    stored: StoredClusters,
    stored_vectors: NDArray,
    pin_ids: NDArray,
    vectors: NDArray,
    ages: NDArray,
    days_since: float,
    alpha: float,
    decay_per_day: float,
) -> None:
    count = len(stored.medoid_pin_ids)
    if not stored.sizes.shape == stored.importances.shape == stored.medoid_pin_ids.shape == (count,):
        raise ValueError("stored must have as many sizes and importances as medoids")
    if count and not (stored.sizes.min() >= 1 and 0 <= stored.importances.min() <= stored.importances.max() < np.inf):
        raise ValueError("stored must have sizes >= 1 and finite importances >= 0")
    for name, integers in (("stored.medoid_pin_ids", stored.medoid_pin_ids), ("pin_ids", pin_ids)):
        if integers.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, not {integers.dtype}")
    for name, rows, some in (("vectors", len(pin_ids), vectors), ("stored_vectors", count, stored_vectors)):
        if some.ndim != 2 or some.shape != (rows, vectors.shape[1]):
            raise ValueError(f"{name} must be of shape ({rows}, dimensions), all alike, not {some.shape}")
    if ages.shape != pin_ids.shape or (len(ages) and not 0 <= ages.min() <= ages.max() < np.inf):
        raise ValueError(f"ages must be {len(pin_ids)} finite days >= 0, one an action")
    for name, number in (("days_since", days_since), ("decay_per_day", decay_per_day)):
        if not 0 <= number < np.inf:
            raise ValueError(f"{name} must be a finite number >= 0, not {number}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be a number >= 0, not {alpha}")
