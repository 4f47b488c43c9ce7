"""Several medoids for a large cluster: what the paper leaves as future work (section 7).

What belongs here: the division of a cluster that is too varied for one pin among several of its members. A cluster of
few actions keeps its one medoid.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pinnersage_assets.model.medoids import TIE, medoids
from pinnersage_assets.model.population import offsets_of


def several_medoids(
    points: ArrayLike,
    pin_ids: ArrayLike,
    clusters: ArrayLike,
    actions_per_medoid: int,
    counts: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Divide each cluster among medoids, one for every so many actions.

    A cluster of n actions gets min(members, ⌈n / actions_per_medoid⌉) of them. The first is the medoid of Equation 2.
    Each further one is the member that lowers Σ n_i min_j |x_i - m_j|² the most (Equation 2's sum, every action counted
    with its nearest medoid; n_i the actions of member i); among members that lower it equally, within 1e-6 relative,
    the smallest pin id wins. There are fewer if nothing lowers the sum, because what is left repeats the medoids.

    Args:
        points: (rows, d) float32, the members of all clusters.
        pin_ids: (rows,) integers, each once in a cluster.
        clusters: (rows,) integers, the cluster of each row in any order; every number from 0 up occurs.
        actions_per_medoid: one medoid for every so many actions, begun ones included; >= 1.
        counts: (rows,) integers >= 1, how many actions each row stands for; None means one each.

    Returns:
        belongs_to: (rows,) int64, the row of the nearest medoid in its cluster, the earlier chosen of equally near
        ones; a medoid belongs to itself. Does not depend on the order of rows, nor on other clusters.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    if not (isinstance(actions_per_medoid, int | np.integer) and actions_per_medoid >= 1):
        raise ValueError(f"actions_per_medoid must be an integer >= 1, not {actions_per_medoid!r}")
    if counts is not None and not (np.asarray(counts).dtype.kind in "iu" and np.min(counts, initial=1) >= 1):
        raise ValueError("counts must be integers >= 1, one a point")
    first_medoids = medoids(points, pin_ids, clusters, counts)  # checks the other arguments
    points, pin_ids, clusters = np.asarray(points), np.asarray(pin_ids), np.asarray(clusters)
    # Signed, since they are negated below.
    counts = np.ones(len(points), dtype=np.int64) if counts is None else np.asarray(counts).astype(np.int64)

    belongs_to = first_medoids[clusters]
    order = np.lexsort((pin_ids, clusters))  # so that the first of equals has the smallest pin id
    bounds = list(pairwise(offsets_of(clusters[order])))
    actions = np.add.reduceat(counts[order], [start for start, _ in bounds]) if bounds else np.empty(0, np.int64)
    wanted = -(-actions // actions_per_medoid)
    for cluster in np.flatnonzero(wanted > 1):
        rows = order[slice(*bounds[cluster])]
        first = np.flatnonzero(rows == first_medoids[cluster])[0]
        belongs_to[rows] = rows[_divide(points[rows], counts[rows], first, wanted[cluster])]
    return belongs_to


def _divide(points: NDArray, counts: NDArray[np.int64], first: int, wanted: int) -> NDArray[np.int64]:
    """Find the medoid that each member of one cluster belongs to, as a row of ``points`` (in order of pin ids)."""
    # Not above: whatever starts would wait for it, and few ask for more than one medoid a cluster.
    from scipy.spatial.distance import pdist, squareform

    # Computed as differences, so that copies are at exactly 0. With the maximum below, it takes some 24 bytes a pair.
    squared = squareform(pdist(points.astype(np.float64), "sqeuclidean"))
    chosen = [first]
    nearest = squared[first]
    while len(chosen) < wanted:
        lowered_by = counts @ np.maximum(nearest[:, None] - squared, 0.0)
        largest = lowered_by.max()
        if largest == 0:  # no member is left that is not at a medoid
            break
        chosen.append(int(np.argmax(lowered_by >= largest * (1 - TIE))))
        nearest = np.minimum(nearest, squared[chosen[-1]])
    return np.array(chosen)[squared[chosen].argmin(axis=0)]
