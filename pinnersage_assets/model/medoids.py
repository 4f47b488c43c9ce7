"""From clusters to medoids, their importance, and a sample of them: steps 2 and 3 of PinnerSage (paper, section 3.1).

What belongs here: everything that is computed once the pins of all users have cluster labels. All functions take the
whole population at once, and what they return for a user does not depend on the other users.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Members whose squared distances to the mean differ by less than this share are equally near; without it rounding
# would choose between the two pins of every pair.
TIE = 1e-6

# Differences below this share of the cluster's largest squared distance are rounding: they are ties too where the
# mean falls on a member.
_ROUNDING = 1e-20
_CHUNK_BYTES = 64 * 2**20  # of temporaries; only a single cluster that is larger takes more


def medoids(
    points: ArrayLike, pin_ids: ArrayLike, clusters: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Find the medoid of each cluster: the member with the least sum of squared distances to all (Equation 2).

    That sum is n |P - mean|² plus a constant, so the medoid is the member nearest to the mean, found in O(m d) instead
    of O(m² d). Members within 1e-6 (relative, of the squared distance) are equally near: the smallest pin id wins.

    Args:
        points: (rows, d) float32, the members of all clusters.
        pin_ids: (rows,) integers.
        clusters: (rows,) integers, the cluster of each row in any order; every number from 0 up occurs.
        weights: (rows,) finite numbers >= 0, of which no cluster has zeros alone: how many actions each row stands for,
            or what these weigh, as of `decayed_weights`; None means one each.

    Returns:
        medoids: (K,) int64, the row of the medoid of each cluster.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    points, pin_ids, clusters, weights = _check_members(points, pin_ids, clusters, weights)
    order = np.lexsort((pin_ids, clusters))
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    rows_at_once = max(1, _CHUNK_BYTES // (4 * 8 * points.shape[1]))
    found = np.empty(len(starts), dtype=np.int64)
    first = 0
    while first < len(starts):
        last = max(first + 1, np.searchsorted(ends, starts[first] + rows_at_once, side="right"))
        rows = order[starts[first] : ends[last - 1]]
        nearest = _nearest_to_mean(points[rows], weights[rows], starts[first:last] - starts[first])
        found[first:last] = rows[nearest]
        first = last
    return found


def decayed_weights(
    ages: NDArray[np.float64], members: NDArray[np.int64], clusters: NDArray[np.int64], decay_per_day: float
) -> NDArray[np.float64]:
    """What each member weighs in a cluster whose actions fade as in Equation 3: Σ exp(-λ age) over its actions.

    The paper's medoid counts an action of three months ago as much as one of today; with these weights it is the pin
    nearest to what the user is interested in now. Ages are taken from the cluster's latest action, which changes no
    medoid and keeps old clusters from underflowing as a whole.

    Args:
        ages: (actions,) days from each action to T_now.
        members: (actions,) the member that each action was on, 0 to R - 1, every one at least once.
        clusters: (R,) the cluster of each member, 0 to K - 1.
        decay_per_day: λ.

    Returns:
        (R,) float64 >= 0, at least 1 for one member of each cluster.
    """
    youngest = np.full(clusters.max(initial=-1) + 1, np.inf)
    of_action = clusters[members]
    np.minimum.at(youngest, of_action, ages)
    faded = np.exp(-decay_per_day * (ages - youngest[of_action]))
    return np.bincount(members, weights=faded, minlength=len(clusters)).astype(np.float64)


def importance(ages: ArrayLike, clusters: ArrayLike, decay_per_day: float, n_clusters: int) -> NDArray[np.float64]:
    """Compute the importance of each cluster: the sum over its actions of exp(-λ age) (paper, Equation 3).

    Args:
        ages: (actions,) days from each action to T_now, >= 0, fractions included.
        clusters: (actions,) integers, the cluster of each action, 0 to n_clusters - 1.
        decay_per_day: λ, >= 0; 0 counts the actions.
        n_clusters: K.

    Returns:
        importance: (K,) float64, 0 for a cluster without actions, or whose actions are so old that exp underflows.

    Raises:
        ValueError: an argument is not as described above (an action after T_now, say); names the argument.
    """
    ages = np.asarray(ages, dtype=np.float64)
    clusters = np.asarray(clusters)
    if ages.ndim != 1 or clusters.shape != ages.shape or (clusters.size and clusters.dtype.kind not in "iu"):
        raise ValueError(
            f"clusters must be integers, one an age: ages are of shape {ages.shape}, "
            f"clusters {clusters.dtype} of shape {clusters.shape}"
        )
    if not (np.isfinite(ages) & (ages >= 0)).all():
        raise ValueError("ages must be finite days >= 0: an action after T_now belongs to a later day")
    if not 0 <= decay_per_day < np.inf:
        raise ValueError(f"decay_per_day must be a finite number >= 0, not {decay_per_day}")
    if clusters.size and not (clusters.min() >= 0 and clusters.max() < n_clusters):
        raise ValueError(f"clusters must be between 0 and n_clusters - 1, {n_clusters - 1}")
    # Without a single action, bincount gives integers.
    return np.bincount(clusters.astype(np.int64), weights=np.exp(-decay_per_day * ages), minlength=n_clusters).astype(
        np.float64
    )


def sample_by_importance(
    importances: ArrayLike, owners: ArrayLike, size: int, uniforms: ArrayLike
) -> NDArray[np.int32]:
    """Draw medoids of each owner one after another without replacement, in proportion to importance.

    The items with the smallest -log(u) / w, in that order, have exactly the distribution of successive draws
    (Efraimidis and Spirakis, 2006). So what is drawn for an owner depends on nothing but its items and their uniforms.

    Args:
        importances: (K,) finite, >= 0. Items of importance 0 (underflow of old actions) are drawn after all others,
            each as likely as the next, so that an owner with nothing else still gets them.
        owners: (K,) integers, ascending: the user of each item.
        size: how many to draw of each owner, >= 1; an owner with fewer gets all.
        uniforms: (K,) numbers in the open interval (0, 1), as of `keyed_uniform`.

    Returns:
        draw: (K,) int32: 0 for the item drawn first of its owner, up to size - 1, and -1 for those not drawn.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    importances = np.asarray(importances, dtype=np.float64)
    uniforms = np.asarray(uniforms, dtype=np.float64)
    owners = np.asarray(owners)
    for name, array in (("importances", importances), ("owners", owners), ("uniforms", uniforms)):
        if array.ndim != 1 or array.shape != importances.shape:
            raise ValueError(f"{name} must be as long as importances, {importances.shape}, not {array.shape}")
    if not (np.isfinite(importances) & (importances >= 0)).all():
        raise ValueError("importances must be finite numbers >= 0")
    if np.any(owners[1:] < owners[:-1]):
        raise ValueError("owners must be ascending")
    if size < 1:
        raise ValueError(f"size must be >= 1, not {size}")
    if not ((uniforms > 0) & (uniforms < 1)).all():
        raise ValueError("uniforms must lie strictly between 0 and 1")

    waits = -np.log(uniforms)
    with np.errstate(divide="ignore"):  # importance 0 waits for ever
        log_keys = np.log(waits) - np.log(importances)  # of -log(u) / w, which overflows for a tiny w
    order = np.lexsort((waits, log_keys, owners))
    is_first = np.diff(owners, prepend=owners[:1] - 1) != 0
    first_of_owner = np.maximum.accumulate(np.where(is_first, np.arange(len(owners)), 0))
    # Owners are sorted already, so an owner's items stay in the same positions.
    rank = np.arange(len(owners)) - first_of_owner
    draw = np.empty(len(owners), dtype=np.int32)
    draw[order] = np.where(rank < size, rank, -1)
    return draw


def _nearest_to_mean(
    points: NDArray[np.float32], weights: NDArray[np.float64], starts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the first row of each segment among those nearest to the segment's weighted mean."""
    lengths = np.diff(starts, append=len(points))
    segments = np.repeat(np.arange(len(starts)), lengths)
    # Seen from one of its members, a cluster far from the origin has as exact a mean as one near it.
    centred = points.astype(np.float64)
    centred -= points[starts][segments]
    means = np.add.reduceat(centred * weights[:, None], starts) / np.add.reduceat(weights, starts)[:, None]
    centred -= means[segments]
    squared = np.einsum("pd,pd->p", centred, centred)
    smallest, largest = np.minimum.reduceat(squared, starts), np.maximum.reduceat(squared, starts)
    nearest = squared <= (smallest * (1 + TIE) + largest * _ROUNDING)[segments]
    rows = np.arange(len(points))
    return np.minimum.reduceat(np.where(nearest, rows, len(points)), starts)


def _check_members(
    points: ArrayLike, pin_ids: ArrayLike, clusters: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray, NDArray, NDArray, NDArray[np.float64]]:
    points, pin_ids, clusters = np.asarray(points), np.asarray(pin_ids), np.asarray(clusters)
    if points.ndim != 2 or points.shape[1] == 0 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite and of shape (rows, dimensions >= 1); the shape is {points.shape}")
    for name, array in (("pin_ids", pin_ids), ("clusters", clusters)):
        if array.shape != (len(points),) or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(
                f"{name} must be {len(points)} integers, one a point, not {array.dtype} of shape {array.shape}"
            )
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(points),) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"weights must be {len(points)} finite numbers >= 0, one a point")
    if clusters.size:
        if clusters.min() < 0 or clusters.max() >= len(points) or not np.bincount(clusters).all():
            raise ValueError("clusters must be 0, 1, 2, ... without gaps")
        if not np.bincount(clusters, weights=weights).all():
            raise ValueError("weights must not all be 0 in a cluster")
    return points, pin_ids, clusters, weights
