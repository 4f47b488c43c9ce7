"""The online model: how long one user's update takes, against clustering everything anew.

Run with ``python benchmarks/online_update.py``. One thread, everything in one run, the contenders in turns for each
user. A user has some stored clusters of five actions each and does so many things in a day: of these a third goes on
with a stored cluster, a third starts new ones, a third is like nothing else. The peers are what a service would do
without the online model, given the vectors of the whole window: our own `ward` with `medoids`, and scipy's linkage.

The promise is at most 1 ms at the 99th percentile for 100 stored clusters and 20 actions.
"""

import time

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.medoids import medoids
from pinnersage_assets.model.online import StoredClusters, update_clusters
from pinnersage_assets.model.ward import ward

DIMENSIONS = 256
ALPHA, DECAY_PER_DAY = 1.2, 0.01
ACTIONS_PER_CLUSTER = 5
SIZES = ((5, 20), (20, 20), (100, 1), (100, 5), (100, 20), (300, 20), (100, 100))


def main(users: int = 2000) -> None:
    """Print a table: milliseconds a user of the update, and how many times as long its peers take."""
    print(f"{'stored':>7}{'actions':>8}{'merges':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}   p50 of peers, x ours")
    print(f"{'':50}   {'ward anew':>12}{'scipy anew':>12}")
    with threadpool_limits(1):
        for stored, actions in SIZES:
            print(line(stored, actions, users))


def line(stored: int, actions: int, users: int) -> str:
    """One line of the table."""
    seconds = {"online": [], "ward": [], "scipy": []}
    merges = 0
    for user in range(users):
        points, labels, clusters, rows = made_up(np.random.default_rng(user), stored, actions)
        recent = len(labels) + np.arange(actions)
        everything, ids = points, np.arange(len(points))
        start = time.perf_counter()
        found = update_clusters(
            clusters, points[rows], recent, points[recent], np.linspace(0, 0.5, actions), 0.5, ALPHA, DECAY_PER_DAY
        )
        seconds["online"].append(time.perf_counter() - start)
        merges += stored + actions - len(found.sizes)
        # The peers are slow: a few users say enough.
        if user < max(3, users // 50):
            start = time.perf_counter()
            medoids(everything, ids, ward(everything, ALPHA))
            seconds["ward"].append(time.perf_counter() - start)
            start = time.perf_counter()
            fcluster(linkage(everything, "ward"), ALPHA**0.5, "distance")
            seconds["scipy"].append(time.perf_counter() - start)
    middle, most, longest = (1e3 * np.percentile(seconds["online"], share) for share in (50, 99, 100))
    peers = (1e3 * np.median(seconds[name]) / middle for name in ("ward", "scipy"))
    return (
        f"{stored:7}{actions:8}{merges / users:8.1f}{middle:9.3f}{most:9.3f}{longest:9.3f}   "
        + "".join(f"{ratio:10.1f} x" for ratio in peers)
    )  # fmt: skip


def made_up(
    chance: np.random.Generator, stored: int, actions: int
) -> tuple[np.ndarray, np.ndarray, StoredClusters, np.ndarray]:
    """All points of a user, the clusters of those of the window, what is stored of them, and the medoids' rows."""
    centres = unit(chance.standard_normal((stored + 3, DIMENSIONS)))
    labels = np.repeat(np.arange(stored), ACTIONS_PER_CLUSTER)
    kinds = np.arange(actions) % 3
    topics = np.where(kinds == 0, chance.integers(stored, size=actions), stored + chance.integers(3, size=actions))
    around = centres[np.append(labels, topics)]
    around[len(labels) :][kinds == 2] = 0
    points = unit(around + 0.5 * unit(chance.standard_normal(around.shape)))
    rows = medoids(points[: len(labels)], np.arange(len(labels)), labels)
    sizes = np.bincount(labels)
    return points, labels, StoredClusters(rows, sizes, sizes.astype(np.float64)), rows


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
