"""PinnerSage (paper, Algorithm 2) for a whole population: clusters, medoids and importance of every user.

The steps themselves are in `ward` and `medoids`. Here they meet the population: users in batches, so that the vectors
of only some of them are in memory at once, and vectors looked up by pin.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.medoids import medoids, sample_by_importance
from pinnersage_assets.model.population import batches, offsets_of, ranges
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.several_medoids import several_medoids
from pinnersage_assets.model.ward import MEMORY_BYTES, ward_many

Progress = Callable[[int, int], object]


def cluster_users(
    user_ids: NDArray[np.int64],
    pin_rows: NDArray[np.int64],
    counts: NDArray[np.integer],
    vectors: NDArray[np.float32],
    alpha: float,
    on_progress: Progress,
    memory_bytes: int = MEMORY_BYTES,
) -> NDArray[np.int32]:
    """Step 1: the Ward clusters of each user's action pins.

    Args:
        user_ids: (rows,) the user of each distinct pin acted on, rows of a user together.
        pin_rows: (rows,) the pin, as a row of ``vectors``.
        counts: (rows,) actions of the user on the pin.
        vectors: (pins, d) unit vectors.
        alpha: threshold of the squared Ward distance.
        on_progress: called with the users done and the users in all.
        memory_bytes: what may be taken beside the vectors, unless a single user takes more.

    Returns:
        labels: (rows,) int32, the cluster within the user, from 0 in order of first appearance.

    Raises:
        ValueError: a vector has NaN or infinity; names the pin's row and a user.
    """
    bad = np.flatnonzero(~np.all(np.isfinite(vectors), axis=1)[pin_rows])
    if bad.size:
        raise ValueError(f"vectors contain NaN or infinity in row {pin_rows[bad[0]]}, a pin of user {user_ids[bad[0]]}")
    offsets = offsets_of(user_ids)
    lengths = np.diff(offsets)
    labels = np.empty(len(user_ids), dtype=np.int32)
    # Half of the memory for the gathered vectors. Users of like size go together: that is how Ward is fast.
    rows_at_once = memory_bytes // (2 * vectors.itemsize * max(1, vectors.shape[1]))
    order = np.argsort(lengths, kind="stable")
    sorted_offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    for first, last in batches(sorted_offsets, max(1, rows_at_once)):
        users = order[first:last]
        rows = ranges(offsets[users], lengths[users])
        labels[rows] = ward_many(
            vectors[pin_rows[rows]],
            sorted_offsets[first : last + 1] - sorted_offsets[first],
            alpha,
            counts[rows],
            memory_bytes // 2,
        )
        on_progress(last, len(lengths))
    return labels


def find_medoids(
    clusters: NDArray[np.int64],
    pin_ids: NDArray[np.int64],
    pin_rows: NDArray[np.int64],
    weights: NDArray,
    vectors: NDArray[np.float32],
    on_progress: Progress,
    actions_per_medoid: int = 0,
) -> NDArray[np.int64]:
    """Step 2: the medoid pin of each cluster (Equation 2), or several medoids of large ones.

    Args:
        clusters: (rows,) the cluster of each row within the population, 0 to K - 1, rows of a cluster together.
        pin_ids: (rows,) the pin.
        pin_rows: (rows,) the pin, as a row of ``vectors``.
        weights: (rows,) actions on it; for one medoid a cluster also what these weigh, as of `decayed_weights`.
        vectors: (pins, d) unit vectors.
        on_progress: called with the clusters done and the clusters in all.
        actions_per_medoid: as of `several_medoids`; 0 means one medoid a cluster.

    Returns:
        (rows,) int64, the pin id of the medoid that each row belongs to.
    """
    offsets = offsets_of(clusters)
    found = np.empty(len(clusters), dtype=np.int64)
    for first, last in batches(offsets):
        rows = slice(offsets[first], offsets[last])
        members = vectors[pin_rows[rows]], pin_ids[rows], clusters[rows] - first
        if actions_per_medoid:
            medoid = several_medoids(*members, actions_per_medoid, weights[rows])
        else:
            medoid = medoids(*members, weights[rows])[members[2]]
        found[rows] = pin_ids[rows][medoid]
        on_progress(last, len(offsets) - 1)
    return found


def draw_medoids(
    user_ids: NDArray[np.int64],
    medoid_pin_ids: NDArray[np.int64],
    importances: NDArray[np.float64],
    size: int,
    keys: tuple[int, ...],
    owners: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """The medoids to query (paper, section 4): drawn without replacement, in proportion to importance.

    Args:
        user_ids: (K,) the user of each medoid, ascending.
        medoid_pin_ids: (K,) the medoids.
        importances: (K,) their importance.
        size: e, how many to draw of each user.
        keys: what the draw belongs to: seed, day, ...
        owners: (K,) ascending, of what the draw is, where that is not the user: the same user at several moments. All
            of them draw by the user's numbers, so that what has not changed is drawn again.

    Returns:
        (K,) int32: 0 for the first drawn of a user, 1 for the second, ..., -1 for those not drawn.
    """
    uniforms = keyed_uniform("medoid", *keys, user_ids, medoid_pin_ids)
    return sample_by_importance(importances, user_ids if owners is None else owners, size, uniforms)
