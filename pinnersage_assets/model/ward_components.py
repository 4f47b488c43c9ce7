"""Which clusters `ward` need not compare: a rough, certain and cheap look at all pairs in float32.

What belongs here: from clusters to sets of clusters of which nothing merges with anything outside up to some distance.
What does not: the merging itself, which is exact (`ward_merging`).

Most of Ward's work is spent on pairs that never come near each other. If clusters are connected wherever they are
within a limit, then nothing of one connected component merges with anything of another up to that limit, since
merging never brings clusters nearer (paper, Lemma 8.1). To find out who is certainly apart takes one matrix product in
float32 and a bound on its rounding: a pair in doubt counts as connected, which costs time but changes nothing.
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 2.0**-24  # of float32
_SMALLEST = 2.0**-126  # what a product that is not of full precision, or is taken for 0, may be off by
# A limit of twice the distance that most clusters have to their nearest neighbour lets most of the merging happen;
# where it connects too much, half of it is tried.
_QUANTILE = 0.85
_FACTORS = (2.0, 1.0)
_SAMPLED = 16  # clusters whose nearest neighbours are looked at
_EDGES_LISTED = 4  # edges a node; of more, only the first of each node are looked at
_CONNECTED = 0.5  # share of all pairs that are in one component: with more, a component saves little


def components(
    means: NDArray[np.float32], sizes: NDArray[np.float64], lowest: NDArray[np.float64], alpha: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Separate the clusters of each user into components, up to a limit that suits them.

    Args:
        means: (users, k, d), the means of k clusters of each user.
        sizes: (users, k) their numbers of actions.
        lowest: (users,) the limit must not be below this.
        alpha: nor above this, as for `ward`.

    Returns:
        component: (users, k), of each cluster the first that it is connected to (itself, perhaps).
        limit: (users,) squared Ward distances. No cluster has another within the limit in a different component.
    """
    n_users, k, d = means.shape
    # In terms of half the distance, |x|²/2 + |y|²/2 - xy, times 1 / (1 / 2n + 1 / 2m) of clusters of n and m actions.
    # A sum of d products is off by at most d roundings of |x||y|, whatever the order in which it is taken; the rest is
    # for the norms and for means rounded to float32. Norms that overflow make the error infinite, and all connected.
    weight = 0.5 / sizes
    with np.errstate(over="ignore", invalid="ignore"):
        gram = means @ means.swapaxes(1, 2)
        half = 0.5 * np.einsum("ukd,ukd->uk", means, means).astype(np.float64)
        error = 4 * (d + 8) * (_ROUNDING * half.max(axis=1) + _SMALLEST)
        typical = _typical_distance(gram, half, weight, error)
    component = np.empty((n_users, k), dtype=np.intp)
    limit = np.empty(n_users)
    users: slice | NDArray[np.intp] = slice(None)
    for factor in _FACTORS:
        # Powers of 2^(1/4): a limit does not follow the last bits of a product.
        rounded = 2.0 ** (np.ceil(4 * np.log2(np.maximum(factor * typical[users], np.finfo(np.float32).tiny))) / 4)
        tried = np.minimum(np.maximum(rounded, lowest[users]), alpha)
        tried[~np.isfinite(error[users])] = alpha
        component[users] = found = _connected(_within(gram[users], half[users], weight[users], error[users], tried))
        limit[users] = tried
        labels = found + k * np.arange(len(found))[:, None]
        pairs = (np.bincount(labels.ravel(), minlength=labels.size).reshape(-1, k) ** 2).sum(axis=1)
        users = np.flatnonzero((pairs > _CONNECTED * k * k) & (tried > lowest[users]))
        if users.size == 0:
            break
    return component, limit


def _typical_distance(
    gram: NDArray[np.float32], half: NDArray[np.float64], weight: NDArray[np.float64], error: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What most clusters of a user have to their nearest neighbour (at most: an error makes it more)."""
    k = half.shape[1]
    rows = np.arange(0, k, -(-k // _SAMPLED))
    distances = half[:, rows, None] + half[:, None, :] - gram[:, rows]
    distances += error[:, None, None]
    distances /= weight[:, rows, None] + weight[:, None, :]
    distances[:, np.arange(len(rows)), rows] = np.inf
    place = int(_QUANTILE * len(rows))
    return 2 * np.partition(distances.min(axis=2), place, axis=1)[:, place]


def _within(
    gram: NDArray[np.float32],
    half: NDArray[np.float64],
    weight: NDArray[np.float64],
    error: NDArray[np.float64],
    limit: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Pairs of clusters that may be within the limit, (users, k, k): all that are, and some that nearly are."""
    k = half.shape[1]
    # d <= limit if and only if |x|²/2 + |y|²/2 - xy <= limit/2 (1 / 2n + 1 / 2m): a part for each of the two.
    part = half - (limit / 2)[:, None] * weight
    slack = error + 8 * _ROUNDING * np.abs(part).max(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = gram - (part - slack[:, None]).astype(np.float32)[:, None, :]
        apart = difference < part.astype(np.float32)[:, :, None]  # false for NaN
    within = np.logical_not(apart, out=apart)
    within.reshape(len(within), -1)[:, :: k + 1] = False
    return within


def _connected(within: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Of each of k nodes of each graph the first that it is connected to, (graphs, k)."""
    n_graphs, k, _ = within.shape
    nodes = np.arange(n_graphs * k)
    first_node = nodes // k * k
    component = nodes  # the first node that is known to be connected
    leaving = within  # edges between different components
    while True:
        target = leaving.argmax(axis=2).reshape(-1)
        found = np.flatnonzero(leaving.reshape(-1)[nodes * k + target])
        component = _joined(component, found, (target + first_node)[found])
        within_graph = (component - first_node).astype(np.int32).reshape(n_graphs, k)
        leaving = within_graph[:, :, None] != within_graph[:, None, :]
        leaving &= within
        if np.count_nonzero(leaving) <= _EDGES_LISTED * nodes.size:
            node, target = np.divmod(np.flatnonzero(leaving), k)
            return _joined(component, node, target + first_node[node]).reshape(n_graphs, k) - first_node[::k, None]


def _joined(component: NDArray[np.intp], one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    """Components when nodes of `one` are connected to those of `other`."""
    component = component.copy()
    while one.size:
        one, other = component[one], component[other]
        np.minimum.at(component, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(further := component[component], component):
            component = further
        apart = component[one] != component[other]
        one, other = one[apart], other[apart]
    return component
