"""Ward clustering of a user's pins, cut at a distance: step 1 of PinnerSage (paper, section 3.1.1, Algorithm 1).

What belongs here: from points to cluster labels. What does not: what is then made of clusters (`medoids`).

The distance of two clusters A and B of nA and nB actions is the paper's squared Ward distance, twice the increase of
the within-cluster sum of squares that merging them would bring::

    d(A, B) = 2 nA nB / (nA + nB) · |mean(A) - mean(B)|²

Of two single pins it is their squared Euclidean distance, and it is the square of the height in
``scipy.cluster.hierarchy.linkage(..., "ward")``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pinnersage_assets.model.population import batches, ranges
from pinnersage_assets.model.ward_components import components
from pinnersage_assets.model.ward_merging import STACK_AREA, merge_sets, runs

MEMORY_BYTES = 512 * 2**20
# Temporaries in bytes for each number of the points in work, and for each distance of the users in work.
_BYTES_A_NUMBER = 32
_BYTES_A_DISTANCE = 24
_CLUSTERS_AT_ONCE = 256  # whose means are summed up: a cache full
_MEMBERS_IN_TURN = 32  # that are summed up together with those of other clusters
_FEW = 32  # points of a user that are compared at once, without a look for components

_Numbers = NDArray | float


def ward(points: ArrayLike, alpha: float, counts: ArrayLike | None = None) -> NDArray[np.int32]:
    """Cluster one user's points: merge by Ward's criterion while the distance is at most alpha.

    A merged cluster is never nearer to a third than the nearer of its two parts was (Lemma 8.1). So the order of merges
    does not matter, and merging may go up to any lower limit first, then start again from the clusters there are. Up to
    a limit, only the components of what is within it need comparing. Where distances are equal the earlier point goes
    first.

    Args:
        points: (m, d) float32 (other types are converted), m >= 0, d >= 1; a vector of zeros is a point like others.
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
    return _labels(points, np.array([0, len(points)]), alpha, sizes, MEMORY_BYTES)


def ward_many(
    points: ArrayLike,
    offsets: ArrayLike,
    alpha: float,
    counts: ArrayLike | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> NDArray[np.int32]:
    """Cluster each user of a population by itself; a user's labels do not depend on who else is in it.

    Args:
        points: (m, d) float32, the users' points one user after another.
        offsets: (users + 1,) integers: user u owns rows offsets[u]:offsets[u + 1], possibly none.
        alpha: as for `ward`.
        counts: as for `ward`.
        memory_bytes: >= 1, what temporaries may take, as long as one user does not need more: some 20 bytes for each
            pair of points.

    Returns:
        labels: (m,) int32; the labels of each user start at 0.

    Raises:
        ValueError: an argument is not as described above; names the argument, and the user where there is one.
    """
    if not memory_bytes >= 1:
        raise ValueError(f"memory_bytes must be >= 1, not {memory_bytes}")
    offsets = _check_offsets(offsets, len(np.atleast_1d(points)))
    points, sizes = _check_input(points, alpha, counts, offsets)
    return _labels(points, offsets, alpha, sizes, memory_bytes)


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


def lance_williams(d_ik: _Numbers, d_jk: _Numbers, d_ij: _Numbers, n_i: _Numbers, n_j: _Numbers, n_k: _Numbers):
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


def _labels(
    points: NDArray[np.float32], offsets: NDArray[np.int64], alpha: float, sizes: NDArray[np.float64], memory_bytes: int
) -> NDArray[np.int32]:
    """Labels of checked input: users of like size together, as many as the memory allows."""
    lengths = np.diff(offsets)
    merged_into = np.arange(len(points))
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 1]
    rows = max(1, memory_bytes // (_BYTES_A_NUMBER * points.shape[1]))
    area = min(STACK_AREA, max(1, memory_bytes // _BYTES_A_DISTANCE))
    for first, last in batches(np.concatenate([[0], np.cumsum(lengths[order])]), rows):
        users = order[first:last]
        _merge_users(points, sizes, offsets[users], lengths[users], alpha, area, merged_into)
    roots = _roots(merged_into, merged_into)
    clusters = np.cumsum(roots == np.arange(len(roots)))
    before = np.concatenate([[0], clusters])[offsets[:-1]]
    return (clusters[roots] - 1 - np.repeat(before, lengths)).astype(np.int32)


def _merge_users(
    points: NDArray[np.float32],
    sizes: NDArray[np.float64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    alpha: float,
    area: int,
    merged_into: NDArray[np.intp],
) -> None:
    """Merge the points of some users, given in ascending order of length, up to alpha.

    Each level goes up to a limit that suits the user, and starts anew from the means of the clusters that it finds:
    there are far fewer of them, so that the last levels, which compare all with all, cost next to nothing.

    Args:
        points: (rows, d), of more users than these.
        sizes: (rows,).
        starts: (users,) the first row of each user.
        lengths: (users,) its number of rows.
        alpha: as for `ward`.
        area: numbers that a stack of distances may have.
        merged_into: (rows,) an earlier row of the same cluster is written here for each row that merges.
    """
    alpha = min(alpha, np.finfo(np.float64).max)
    means, limit = points, np.zeros(len(lengths))
    names = None  # the first row of each of `means`; to begin with, they are the rows
    while lengths.size:
        rows = ranges(starts, lengths)
        component, limit = _components(means, sizes, starts, lengths, 2 * limit, alpha, area)
        order = np.argsort(component, kind="stable")
        first_of_set = np.flatnonzero(np.diff(component[order], prepend=-1))
        set_lengths = np.diff(first_of_set, append=len(order))
        sets = np.argsort(set_lengths, kind="stable")
        sets = sets[set_lengths[sets] > 1]
        members = rows[order][ranges(first_of_set[sets], set_lengths[sets])]
        set_limits = np.repeat(limit, lengths)[order[first_of_set[sets]]]
        kept, merged = merge_sets(means, sizes, members, set_lengths[sets], set_limits, area)
        if names is None:
            into = merged_into
        else:
            merged_into[names[merged]] = names[kept]
            into = np.arange(len(means))
        into[merged] = kept

        unfinished = limit < alpha
        if not unfinished.any():
            break
        rows = rows[np.repeat(unfinished, lengths)]
        lengths, limit = lengths[unfinished], limit[unfinished]
        roots = _roots(into, rows)
        is_root = roots == rows
        means, sizes = _means(means, sizes, rows, roots, is_root)
        names = rows[is_root] if names is None else names[rows[is_root]]
        lengths = np.add.reduceat(is_root, np.cumsum(lengths) - lengths)
        starts = np.cumsum(lengths) - lengths
        several = np.argsort(lengths, kind="stable")
        several = several[lengths[several] > 1]
        starts, lengths, limit = starts[several], lengths[several], limit[several]


def _components(
    means: NDArray,
    sizes: NDArray[np.float64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    lowest: NDArray[np.float64],
    alpha: float,
    area: int,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The component of each row, users one after another, as its first row; and up to which limit, for each user."""
    found = np.empty(int(lengths.sum()), dtype=np.intp)
    limit = np.full(len(lengths), alpha)
    rows_before = np.cumsum(lengths) - lengths
    for first, last, k in runs(lengths, area // 2):
        own = found[rows_before[first] : rows_before[first] + (last - first) * k].reshape(last - first, k)
        own[:] = starts[first:last, None]
        if k <= _FEW:
            continue
        rows = own + np.arange(k) if last - first > 1 else slice(starts[first], starts[first] + k)
        with np.errstate(over="ignore"):
            some = means[rows].reshape(last - first, k, -1).astype(np.float32, copy=False)
        component, limit[first:last] = components(some, sizes[rows].reshape(-1, k), lowest[first:last], alpha)
        own += component
    return found, limit


def _means(
    means: NDArray,
    sizes: NDArray[np.float64],
    rows: NDArray[np.intp],
    roots: NDArray[np.intp],
    is_root: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and sizes of the clusters of some rows.

    Args:
        means: (all, d).
        sizes: (all,).
        rows: (n,) of these.
        roots: (n,) the first row of each one's cluster, itself among `rows`.
        is_root: (n,) rows that are first.

    Returns:
        means (clusters, d) and sizes (clusters,), in the order of their first rows in `rows`.
    """
    place = np.empty(len(means), dtype=np.intp)
    place[rows[is_root]] = np.arange(np.count_nonzero(is_root))
    cluster = place[roots]
    n_members = np.bincount(cluster)
    members = rows[np.argsort(cluster, kind="stable")]
    first = np.cumsum(n_members) - n_members
    weights = np.bincount(cluster, weights=sizes[rows])
    are_points = (sizes[rows] == 1).all()
    totals = np.empty((len(n_members), means.shape[1]))
    # The first members of some clusters of like size together, then the second, and so on: np.add.reduceat, which does
    # it by cluster, takes three times as long. In which order a cluster is summed up depends on its own size alone.
    by_length = np.argsort(-n_members, kind="stable")
    for start in range(0, len(by_length), _CLUSTERS_AT_ONCE):
        chosen = by_length[start : start + _CLUSTERS_AT_ONCE]
        begin, n = first[chosen], n_members[chosen]
        total = np.zeros((len(chosen), means.shape[1]))
        for k, longer in enumerate(np.searchsorted(-n, -np.arange(min(n[0], _MEMBERS_IN_TURN)))):
            own = members[begin[:longer] + k]
            total[:longer] += means[own] if are_points else means[own] * sizes[own, None]
        for one in range(int(np.searchsorted(-n, -_MEMBERS_IN_TURN))):
            own = members[begin[one] + _MEMBERS_IN_TURN : begin[one] + n[one]]
            total[one] += sizes[own] @ means[own].astype(np.float64)
        totals[chosen] = total / weights[chosen, None]
    # NumPy's types take sums of weights for integers.
    return totals, weights  # ty: ignore[invalid-explicit-return]


def _roots(merged_into: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """The earliest row of the cluster of each of some rows."""
    while not np.array_equal(further := merged_into[rows], rows):
        rows = further
    return rows


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
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = np.flatnonzero(~np.isfinite(np.einsum("md,md->m", points, points)))  # finite numbers overflow, too
    bad = suspect[~np.isfinite(points[suspect]).all(axis=1)]
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
