"""Ward clustering of a user's pins, cut at a distance: step 1 of PinnerSage (paper, section 3.1.1, Algorithm 1).

What belongs here: from points to cluster labels. What does not: what is then made of clusters (`medoids`).

The distance of two clusters A and B of nA and nB actions is the paper's squared Ward distance, twice the increase of
the within-cluster sum of squares that merging them would bring::

    d(A, B) = 2 nA nB / (nA + nB) · |mean(A) - mean(B)|²

Of two single pins it is their squared Euclidean distance, and it is the square of the height in
``scipy.cluster.hierarchy.linkage(..., "ward")``.
"""

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Where a squared distance is below this share of the squared norms that it is the difference of, cancellation has
# eaten too many digits, and it is computed again from the points.
_CANCELLATION = 1e-5
_DIRECT_BYTES = 16 * 2**20  # of temporaries where distances are computed from the points


def ward(points: ArrayLike, alpha: float, counts: ArrayLike | None = None) -> NDArray[np.int32]:
    """Cluster one user's points: merge by Ward's criterion while the distance is at most alpha.

    Algorithm 1 finds mutual nearest neighbours one at a time; here all of them merge in one round. A merged cluster is
    never nearer to a third than the nearer of its two parts was (Lemma 8.1), so the order of merges does not matter,
    and a cluster with no other within alpha is final. Where distances are equal the earlier point goes first.

    Args:
        points: (m, d) float32 (other types are converted), m >= 0, d >= 1.
        alpha: the largest squared Ward distance at which two clusters merge; 0 merges identical points only, infinity
            merges everything.
        counts: (m,) integers >= 1, how many actions each point stands for; None means one each. The labels are those
            of ``ward(np.repeat(points, counts, axis=0), alpha)`` at the first copy of each point.

    Returns:
        labels: (m,) int32, 0-based in order of first appearance.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    points, sizes = _check_input(points, alpha, counts)
    return _cluster(points, alpha, sizes)


def ward_many(
    points: ArrayLike, offsets: ArrayLike, alpha: float, counts: ArrayLike | None = None
) -> NDArray[np.int32]:
    """Cluster each user of a population by itself; a user's labels do not depend on who else is in it.

    Args:
        points: (m, d) float32, the users' points one user after another.
        offsets: (users + 1,) integers: user u owns rows offsets[u]:offsets[u + 1], possibly none.
        alpha: as for `ward`.
        counts: as for `ward`.

    Returns:
        labels: (m,) int32; the labels of each user start at 0.

    Raises:
        ValueError: an argument is not as described above; names the argument, and the user where there is one.
    """
    offsets = _check_offsets(offsets, len(np.atleast_1d(points)))
    points, sizes = _check_input(points, alpha, counts, offsets)
    labels = np.empty(len(points), dtype=np.int32)
    for start, end in itertools.pairwise(offsets):
        labels[start:end] = _cluster(points[start:end], alpha, sizes[start:end])
    return labels


def ward_reference(points: ArrayLike, alpha: float) -> NDArray[np.int32]:
    """Algorithm 1 as the paper prints it, line by line: slow and simple, what `ward` is tested against.

    One thing is added: a pin that is in no merge at or below alpha, which Algorithm 1 loses, is a cluster of its own.

    Args:
        points: as for `ward`.
        alpha: as for `ward`.

    Returns:
        labels: as of `ward`.

    Raises:
        ValueError: as of `ward`.
    """
    points, _ = _check_input(points, alpha, None)
    wide = points.astype(np.float64)
    active = list(range(len(points)))  # A
    members = [{i} for i in active]  # C
    distances = np.array([((wide - point) ** 2).sum(axis=1) for point in wide]).reshape(len(points), len(points))
    merge_history = []
    stack = []
    while len(active) > 1:
        stack.append(active[0])
        while stack:
            i = stack[-1]
            others = [j for j in active if j != i]
            smallest = distances[i, others].min()
            nearest = [j for j in others if distances[i, j] == smallest]  # J
            if len(stack) >= 2 and stack[-2] in nearest:
                j = stack[-2]
                del stack[-2:]
                merge_history.append((smallest, members[i] | members[j]))
                active.remove(j)
                rest = [k for k in active if k != i]
                distances[i, rest] = distances[rest, i] = lance_williams(
                    distances[i, rest],
                    distances[j, rest],
                    smallest,
                    len(members[i]),
                    len(members[j]),
                    np.array([len(members[k]) for k in rest]),
                )
                members[i] = members[i] | members[j]
            else:
                assert nearest[0] not in stack, "Lemma 8.2"
                stack.append(nearest[0])

    clusters = []
    # Of equal distances the later merge goes first, since it may contain the earlier.
    merge_history.reverse()
    merge_history.sort(key=lambda merge: -merge[0])
    for distance, merged in merge_history:
        if distance <= alpha and all(merged.isdisjoint(cluster) for cluster in clusters):
            clusters.append(merged)
    clustered = set().union(*clusters)
    clusters.extend({i} for i in range(len(points)) if i not in clustered)

    labels = np.empty(len(points), dtype=np.int32)
    for label, cluster in enumerate(sorted(clusters, key=min)):
        labels[list(cluster)] = label
    return labels


def lance_williams(d_ik: ArrayLike, d_jk: ArrayLike, d_ij: ArrayLike, n_i: ArrayLike, n_j: ArrayLike, n_k: ArrayLike):
    """Compute the distance of a merged cluster i ∪ j to a cluster k (paper, Equation 1).

    Args:
        d_ik: distances of i to k; like all arguments an array or a number, broadcast against the others.
        d_jk: distances of j to k.
        d_ij: distances of i to j, at most as large as both d_ik and d_jk (else they would not merge).
        n_i: actions in i.
        n_j: actions in j.
        n_k: actions in k.

    Returns:
        float64, of the broadcast shape. Never below the smaller of d_ik and d_jk: Lemma 8.1 holds to the last bit.
    """
    merged = ((n_i + n_k) * d_ik + (n_j + n_k) * d_jk - n_k * d_ij) / (n_i + n_j + n_k)
    return np.maximum(merged, np.minimum(d_ik, d_jk))


def _check_offsets(offsets: ArrayLike, rows: int) -> NDArray[np.int64]:
    """Offsets of users into rows, as (users + 1,) int64.

    Raises:
        ValueError: they are not integers that rise from 0 to `rows`.
    """
    offsets = np.asarray(offsets)
    if offsets.ndim != 1 or offsets.size == 0 or offsets.dtype.kind not in "iu":
        raise ValueError(f"offsets must be a one-dimensional array of (users + 1) integers, not {_describe(offsets)}")
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != rows:
        raise ValueError(
            f"offsets must start at 0 and end at the number of rows, {rows}, not go from {offsets[0]} to {offsets[-1]}"
        )
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if falls.size:
        user = falls[0]
        raise ValueError(f"offsets must not fall: user {user} would own rows {offsets[user]} to {offsets[user + 1]}")
    return offsets


def _cluster(points: NDArray[np.float32], alpha: float, sizes: NDArray[np.float64]) -> NDArray[np.int32]:
    if len(points) < 2:
        return np.zeros(len(points), dtype=np.int32)
    largest = min(alpha, np.finfo(np.float64).max)  # rows of merged-away clusters are infinite
    distances = _distances(points, sizes)
    sizes = sizes.copy()
    clusters = np.arange(len(points))  # the cluster of each row of `distances`, named by its earliest point
    merged_into = np.arange(len(points))
    while True:
        rows = np.arange(len(clusters))
        nearest = distances.argmin(axis=1)
        alive = distances[rows, nearest] <= largest
        # Among the pairs at the smallest distance of all, the one with the smallest indices is mutual: every round
        # merges something until nothing is left to merge.
        left = np.flatnonzero(alive & (rows < nearest) & (nearest[nearest] == rows))
        if left.size == 0:
            break
        right = nearest[left]
        merged_into[clusters[right]] = clusters[left]
        _merge(distances, sizes, left, right)
        alive[right] = False
        kept = np.flatnonzero(alive)
        if kept.size < 0.8 * rows.size:  # copying pays off only where it leaves much behind
            distances, sizes, clusters = distances[np.ix_(kept, kept)], sizes[kept], clusters[kept]
            if kept.size < 2:
                break
    return _labels(merged_into)


def _distances(points: NDArray[np.float32], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Ward distances of all pairs of points, (m, m), symmetric to the last bit, infinite on the diagonal."""
    # Seen from one of the points, fewer pairs cancel (see below) if all lie far from the origin. Unlike the mean, a
    # point keeps whole numbers whole, so that a distance of exactly alpha merges.
    centred = points.astype(np.float64)
    centred -= centred[0]
    gram = centred @ centred.T
    squared_norms = gram.diagonal()
    scale = squared_norms[:, None] + squared_norms
    gram *= -2.0
    gram += scale
    squared = gram
    scale *= _CANCELLATION
    first, second = np.nonzero(squared <= scale)
    upper = first < second
    first, second = first[upper], second[upper]
    step = max(1, _DIRECT_BYTES // centred[0].nbytes)
    for start in range(0, first.size, step):
        i, j = first[start : start + step], second[start : start + step]
        difference = centred[i] - centred[j]
        squared[i, j] = squared[j, i] = np.einsum("pd,pd->p", difference, difference)
    if (sizes != 1.0).any():
        squared *= 2.0 * sizes[:, None] * sizes / (sizes[:, None] + sizes)
    np.fill_diagonal(squared, np.inf)
    return squared


def _merge(
    distances: NDArray[np.float64],
    sizes: NDArray[np.float64],
    left: NDArray[np.intp],
    right: NDArray[np.intp],
) -> None:
    """Merge each cluster of `right` into its partner in `left`, in place; the rows of `right` become infinite."""
    between = distances[left, right]
    n_left, n_right = sizes[left], sizes[right]
    to_old = lance_williams(
        distances[left], distances[right], between[:, None], n_left[:, None], n_right[:, None], sizes
    )
    merged_sizes = n_left + n_right
    to_merged = lance_williams(to_old[:, left], to_old[:, right], between, n_left, n_right, merged_sizes[:, None])
    # Rounding depends on which of two merged clusters comes first; mutual neighbours need symmetry.
    to_merged = np.maximum(to_merged, to_merged.T)
    np.fill_diagonal(to_merged, np.inf)
    distances[left] = to_old
    distances[:, left] = to_old.T
    distances[np.ix_(left, left)] = to_merged
    distances[right] = np.inf
    distances[:, right] = np.inf
    sizes[left] = merged_sizes


def _labels(merged_into: NDArray[np.intp]) -> NDArray[np.int32]:
    """Labels from the earlier point that each point was merged into (itself if none)."""
    while not np.array_equal(root := merged_into[merged_into], merged_into):
        merged_into = root
    is_root = root == np.arange(len(root))
    return (np.cumsum(is_root) - 1)[root].astype(np.int32)


def _check_input(
    points: ArrayLike, alpha: float, counts: ArrayLike | None, offsets: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Points as float32 and the clusters' initial sizes as float64; see `ward` for what is required."""

    def whose(row: int) -> str:
        return "" if offsets is None else f" of user {np.searchsorted(offsets, row, side='right') - 1}"

    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        points = np.ascontiguousarray(points, dtype=np.float32) if np.ndim(points) else np.asarray(points)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"points must be of shape (points, dimensions >= 1), not {points.shape}")
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        raise ValueError(f"points{whose(bad[0])} contain NaN or infinity in row {bad[0]}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be a number >= 0, not {alpha}")
    if counts is None:
        return points, np.ones(len(points))
    counts = np.asarray(counts)
    if counts.shape != (len(points),) or (counts.size and counts.dtype.kind not in "iu"):
        raise ValueError(f"counts must be {len(points)} integers, one a point, not {_describe(counts)}")
    bad = np.flatnonzero(counts < 1)
    if bad.size:
        raise ValueError(f"counts{whose(bad[0])} must be >= 1, not {counts[bad[0]]} in row {bad[0]}")
    return points, counts.astype(np.float64)


def _describe(array: NDArray) -> str:
    return f"{array.dtype} of shape {array.shape}"
