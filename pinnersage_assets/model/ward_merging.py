"""The merging behind `ward`: rounds of mutual nearest neighbours over many sets of clusters at once, in float64.

What belongs here: from sets of clusters to who merges with whom. What does not: which clusters can merge at all
(`ward_components`), and labels (`ward`).

A set of clusters is a square of distances. Sets of like size are stacked into one padded array, so that NumPy's cost
per call is shared by many of them, and a stack is as large as a cache, since calls cost more than numbers.

Distances here are half the paper's; the distance of two single points is half their squared distance.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

STACK_AREA = 2**19  # numbers
_POINTS_AREA = 2**18  # numbers of the points whose distances are computed at once
_ROWS_AREA = 2**18  # numbers of the rows that are searched at once
_LIKE = 0.75  # sets this much smaller than the largest are padded to its size
_SHRUNK = 0.5  # a stack is cut down when so much of its width is left
# Where a squared distance is below this share of the squared norms that it is the difference of, cancellation has
# eaten too many digits, and it is computed again from the points.
_CANCELLATION = 1e-5


def merge_sets(
    means: NDArray,
    sizes: NDArray[np.float64],
    members: NDArray[np.intp],
    lengths: NDArray[np.int64],
    limits: NDArray[np.float64],
    area: int = STACK_AREA,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Merge the clusters of each set by Ward's criterion as long as two of them are within the set's limit.

    Algorithm 1 finds mutual nearest neighbours one at a time; here all of them merge in one round, which by Lemma 8.1
    comes to the same. Of equal distances that to the earlier cluster goes first.

    Args:
        means: (clusters, d) float32 or float64.
        sizes: (clusters,) numbers of actions.
        members: (sum of lengths,) the clusters of each set, one set after another.
        lengths: (sets,) ascending, at least 2.
        limits: (sets,) squared Ward distances.
        area: numbers that a stack of distances may have, unless a single set has more.

    Returns:
        kept, merged: clusters, a pair for each merge: `merged` went into `kept`, which stands before it in `members`.
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    pairs = [(np.empty(0, np.intp), np.empty(0, np.intp))]
    for first, last in _stacks(lengths, area):
        k = int(lengths[last - 1])
        shape = (last - first, k)
        distances = np.full((*shape, k), np.inf)
        stacked_sizes = np.zeros(shape)
        names = np.zeros(shape, dtype=np.intp)
        for one, end, length in runs(lengths[first:last], _POINTS_AREA, means.shape[1]):
            own = members[starts[first + one : first + end, None] + np.arange(length)]
            names[one:end, :length] = own
            n = sizes[own]
            points = means[own].astype(np.float64, copy=False)
            which, repeated, repeats = _write_distances(points, n, distances[one:end, :length, :length])
            stacked_sizes[one:end, :length] = n
            pairs.append((own[which, repeated], own[which, repeats]))
        pairs.extend(_merge_stack(distances, stacked_sizes, names, limits[first:last] / 2))
    kept, merged = map(np.concatenate, zip(*pairs, strict=True))
    return kept, merged


def runs(lengths: NDArray[np.int64], area: int, width: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Consecutive equal lengths as (first, one past last, length).

    At most so many that squares of the length, or `width` numbers for each of the length, fill the area.
    """
    cuts = np.flatnonzero(np.diff(lengths)) + 1
    for first, last in itertools.pairwise([0, *cuts.tolist(), len(lengths)]):
        length = int(lengths[first])
        step = max(1, area // (length * (width or length)))
        for start in range(first, last, step):
            yield start, min(last, start + step), length


def _stacks(lengths: NDArray[np.int64], area: int) -> Iterator[tuple[int, int]]:
    """Cut sets, in ascending order of length, into stacks.

    Little of a stack is padding, unless it is so small that the calls cost more than the numbers.
    """
    last = len(lengths)
    while last:
        longest = int(lengths[last - 1])
        like = int(np.searchsorted(lengths, _LIKE * longest))
        few = last - max(1, area // 8 // longest**2)
        first = max(0, last - max(1, area // longest**2), min(like, few))
        yield first, last
        last = first


def _write_distances(
    points: NDArray[np.float64], sizes: NDArray[np.float64], out: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Half the Ward distances within sets of equal length, symmetric to the last bit, infinite on the diagonal.

    Equal points merge here at once: as rounds of nearest neighbours, k of them would take k rounds.

    Args:
        points: (sets, k, d).
        sizes: (sets, k); where equal points merge, the first of them gets the sum, the others 0.
        out: (sets, k, k), written to; infinite for what has merged.

    Returns:
        which, repeated, repeats: sets, and in them the first of some equal points and another.
    """
    gram = points @ points.swapaxes(1, 2)
    half = np.einsum("skk->sk", gram) * 0.5
    columns = np.arange(points.shape[1])
    np.add(half[:, :, None], half[:, None, :], out=out)
    out -= gram
    out[:, columns, columns] = np.inf
    doubtful = out <= (2 * _CANCELLATION * half.max(axis=1))[:, None, None]
    which = repeated = repeats = np.empty(0, dtype=np.intp)
    if doubtful.any():
        which, repeated, repeats = _equal_points(points, np.any(doubtful, axis=(1, 2)))
        np.add.at(sizes, (which, repeated), sizes[which, repeats])
        doubtful[which, repeats] = False
        doubtful[which, :, repeats] = False
        _write_exact(points, half, doubtful, out)
    if (sizes != 1).any():
        weight = 0.5 / sizes
        out /= weight[:, :, None] + weight[:, None, :]
    sizes[which, repeats] = 0
    out[which, repeats] = np.inf
    out[which, :, repeats] = np.inf
    return which, repeated, repeats


def _equal_points(
    points: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """In some of the sets, the first of equal points with each of the others; see `_write_distances`."""
    n_sets, k, d = points.shape
    first = np.tile(np.arange(k), (n_sets, 1))
    for one in np.flatnonzero(chosen):
        as_bytes = points[one].view(np.dtype((np.void, d * points.itemsize))).reshape(k)
        _, index, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
        first[one] = index[inverse]
    which, repeats = np.nonzero(first != np.arange(k))
    return which, first[which, repeats], repeats


def _write_exact(
    points: NDArray[np.float64], half: NDArray[np.float64], doubtful: NDArray[np.bool_], out: NDArray[np.float64]
) -> None:
    """Compute half the squared distances of doubtful pairs again, from the points, where digits have cancelled."""
    which, first, second = np.nonzero(doubtful)
    needed = first < second
    which, first, second = which[needed], first[needed], second[needed]
    needed = out[which, first, second] <= _CANCELLATION * (half[which, first] + half[which, second])
    which, first, second = which[needed], first[needed], second[needed]
    step = max(1, _POINTS_AREA // points.shape[2])
    for start in range(0, which.size, step):
        s, i, j = (index[start : start + step] for index in (which, first, second))
        difference = points[s, i] - points[s, j]
        out[s, i, j] = out[s, j, i] = 0.5 * np.einsum("pd,pd->p", difference, difference)


def _merge_stack(
    distances: NDArray[np.float64], sizes: NDArray[np.float64], names: NDArray[np.intp], limits: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Merge what is within the limits; yields what merged into what, round by round.

    Args:
        distances: (sets, k, k), infinite on the diagonal and in the padding; overwritten.
        sizes: (sets, k); overwritten.
        names: (sets, k), what to call the clusters.
        limits: (sets,) half the squared Ward distances.
    """
    nearest = distances.argmin(axis=2)
    between = np.take_along_axis(distances, nearest[:, :, None], axis=2)[:, :, 0]
    # A cluster beyond the limit from all others is final: none of them will come nearer (Lemma 8.1).
    alive = between <= np.minimum(limits, np.finfo(np.float64).max)[:, None]
    while (most := int(np.count_nonzero(alive, axis=1).max())) > 0:
        if most <= _SHRUNK * alive.shape[1]:
            kept, columns = _most_alive(alive, most)
            distances = distances[kept[:, :, None], columns[:, :, None], columns[:, None, :]]
            position = np.zeros(alive.shape, dtype=np.intp)
            position[kept, columns] = np.arange(most)
            nearest = position[kept, nearest[kept, columns]]
            names, limits = names[kept, columns], limits[kept[:, 0]]
            sizes, between, alive = sizes[kept, columns], between[kept, columns], alive[kept, columns]
            # Those of no account that come along to fill the rows must not be anyone's nearest again.
            distances.swapaxes(1, 2)[~alive] = np.inf
        left, right = _merge_round(
            distances, sizes.reshape(-1), nearest.reshape(-1), between.reshape(-1), alive, limits
        )
        yield names.reshape(-1)[left], names.reshape(-1)[right]


def _most_alive(alive: NDArray[np.bool_], most: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of sets with something alive, (sets, 1), and of the `most` columns that hold it, in order."""
    kept = np.flatnonzero(alive.any(axis=1))
    columns = np.argsort(~alive[kept], axis=1, kind="stable")[:, :most]
    return kept[:, None], columns


def _merge_round(distances, sizes, nearest, between, alive, limits):
    """Merge all mutual nearest neighbours and look for the nearest of those that need a new one, all in place.

    Args:
        distances: (sets, k, k).
        sizes: (sets, k).
        nearest: (sets, k) the column of each row's nearest cluster.
        between: (sets, k) the distance to it.
        alive: (sets, k) rows that may still merge.
        limits: (sets,).

    Returns:
        left, right: rows, those of `right` merged into those of `left`.
    """
    k = distances.shape[1]
    flat = distances.reshape(-1, k)
    sizes, nearest, between, is_alive = (array.reshape(-1) for array in (sizes, nearest, between, alive))
    asking = np.flatnonzero(is_alive)
    asked = nearest[asking] + asking // k * k
    mutual = (asking < asked) & (nearest[asked] == asking % k)
    left, right = asking[mutual], asked[mutual]
    if left.size:
        _merge_pairs(distances, sizes, left, right, between[left])
        is_alive[right] = False
        changed = np.zeros(is_alive.size, dtype=bool)
        changed[left] = changed[right] = True
        # All others keep their nearest: what has changed has not come nearer to them than it was.
        stale = asking[(changed[asked] | changed[asking]) & is_alive[asking]]
    else:
        # Ties can go round in a circle while the old nearest is kept. With all nearest up to date they cannot: of the
        # pairs at the smallest distance, that with the first clusters is mutual.
        stale = asking
    step = max(1, _ROWS_AREA // k)
    for start in range(0, stale.size, step):
        rows = stale[start : start + step]
        candidates = flat.take(rows, axis=0)
        nearest[rows] = columns = candidates.argmin(axis=1)
        between[rows] = candidates[np.arange(rows.size), columns]
    is_alive[stale] = between[stale] <= np.minimum(limits, np.finfo(np.float64).max)[stale // k]
    if left.size == 0:
        # Where rounding puts a distance on both sides of the limit, who waits for a final cluster is final, too.
        is_alive[stale] &= is_alive[nearest[stale] + stale // k * k]
    return left, right


def _merge_pairs(distances, sizes, left, right, between):
    """Merge each row of `right` into its partner in `left` (paper, Equation 1), at the distances `between`.

    Where a distance is of two clusters that have both merged, the equation is applied twice.
    """
    n_sets, k, _ = distances.shape
    flat = distances.reshape(-1, k)
    own_set, left_column = np.divmod(left, k)
    right_column = right - own_set * k
    n_left, n_right = sizes[left], sizes[right]
    n_both = n_left + n_right
    n_others = sizes.reshape(-1, k).take(own_set, axis=0)
    # ((n_left + n) d_left + (n_right + n) d_right - n between) / (n_left + n_right + n), with few temporaries.
    merged = flat.take(left, axis=0)
    weight = n_others + n_left[:, None]
    merged *= weight
    to_right = flat.take(right, axis=0)
    np.add(n_others, n_right[:, None], out=weight)
    to_right *= weight
    merged += to_right
    np.multiply(n_others, between[:, None], out=weight)
    merged -= weight
    n_others += n_both[:, None]
    merged /= n_others
    # Once more for all pairs p < q of merges in the same set.
    last = np.cumsum(np.bincount(own_set, minlength=n_sets))[own_set] - 1
    place = np.arange(left.size)
    n_after = last - place
    p = np.repeat(place, n_after)
    q = np.arange(p.size) - np.repeat(np.cumsum(n_after) - n_after, n_after) + p + 1
    n_p = n_both[p]
    both = (n_left[q] + n_p) * merged[p, left_column[q]] + (n_right[q] + n_p) * merged[p, right_column[q]]
    both -= n_p * between[q]
    both /= n_p + n_both[q]
    flat[left] = merged
    columns = distances.swapaxes(1, 2)
    columns[own_set, left_column] = merged
    columns[own_set, right_column] = np.inf
    flat[left[p], left_column[q]] = both
    flat[left[q], left_column[p]] = both
    flat[left, left_column] = np.inf
    sizes[left] = n_both
