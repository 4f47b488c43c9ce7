"""k-means over the pins of one user: what PinnerSage's clustering is compared with (paper, section 3 and Table 4).

Callers hold the thread pools to one thread (`threadpool_limits`): on a user's few pins more threads cost time, and
their sums would depend on which is ready first.
"""

import numpy as np
from numpy.typing import NDArray

_STARTS = 3
_MOST_ROUNDS = 300


def k_means(
    points: NDArray[np.floating], counts: NDArray[np.int64], clusters: int, uniform: float
) -> NDArray[np.int64]:
    """Cluster points by k-means, the best of three starts by k-means++.

    Args:
        points: (m, d).
        counts: (m,) how many actions each point stands for.
        clusters: k.
        uniform: a number in (0, 1) that all randomness comes from, as of `keyed_uniform`.

    Returns:
        labels (m,) int64, 0 to k - 1: every point is nearest to the mean of its own cluster. Of k or fewer different
        vectors each is a cluster of its own.
    """
    labels = _copies(points, clusters)
    if (labels >= 0).all():
        return labels
    # Not above: it takes longer to import than all else that Dagster loads, and most processes never come here.
    from sklearn.cluster import KMeans

    # Without tolerance it ends where no point is nearer to another cluster's mean.
    model = KMeans(clusters, n_init=_STARTS, tol=0.0, random_state=int(uniform * 2**32))
    return model.fit(points.astype(np.float64), sample_weight=counts).labels_.astype(np.int64)


def k_means_from(points: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move centroids until each is the mean of the points nearest to it (Lloyd's algorithm).

    Args:
        points: (m, d).
        centroids: (k, d) where to start.

    Returns:
        (k, d) float64. A centroid that no point is nearest to any more stays where it is.
    """
    nearest = np.full(len(points), -1)
    # scikit-learn would do, but on the few pins of a user checks of arguments take five sixths of its time.
    for _ in range(_MOST_ROUNDS):
        before, nearest = nearest, (points @ centroids.T - (centroids**2).sum(axis=1) / 2).argmax(axis=1)
        if np.array_equal(nearest, before):
            break
        members = (nearest == np.arange(len(centroids))[:, None]).astype(np.float64)
        sizes = members.sum(axis=1, keepdims=True)
        centroids = np.where(sizes > 0, members @ points / np.maximum(sizes, 1), centroids)
    return centroids


def _copies(points: NDArray[np.floating], most: int) -> NDArray[np.int64]:
    """Number the first ``most`` different vectors from 0 in order of first appearance; the other points get -1."""
    labels = np.full(len(points), -1)
    for label in range(most):
        rest = np.flatnonzero(labels < 0)
        if not len(rest):
            break
        labels[rest[(points[rest] == points[rest[0]]).all(axis=1)]] = label
    return labels
