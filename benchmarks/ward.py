"""Ward clustering of many users: `ward_many` against compiled peers, and against its own matrix products.

Run with ``python benchmarks/ward.py`` (its peers are in the extra ``bench``). One thread, everything in one run, the
contenders in turns, the best of three by this process's CPU time, which other programs disturb least. Slow peers see
only the first users, and their time is scaled up by the number of distances. Peers: fastcluster, scipy and
scikit-learn on vectors, as people call them; fastcluster fed with distances from one matrix product, the peer to beat;
and the bare products X·Xᵀ, which nobody can beat.

(a) 5,000 users, log-normal counts (median 70, sigma 0.8, clipped to 5..2,000), 256 dimensions, unit vectors in topics.
(b) Users of 30, 100, 300, 1,000 and 2,000 points, 50,000 points in all. The tight alpha leaves most clusters at a few
points, the loose one leaves about as many clusters as the user has topics.
"""

import itertools
import multiprocessing
import os
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import AgglomerativeClustering
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.ward import ward_many

try:
    import fastcluster
except ImportError as error:
    raise SystemExit(f"{error}. This benchmark needs its peers: pip install -c constraints.txt '.[bench]'") from error

DIMENSIONS = 256
ALPHAS = {"tight": 0.5, "loose": 4.0}
REPEATS = 3
PEER_DISTANCES = 2e6  # that the slow peers compute in a run


def main(users: int = 5000) -> None:
    """Print a table of users per second, ratios and the largest temporary."""
    with threadpool_limits(1):
        print(f"{'':14}{'':7}{'users/s':>9}{'clusters':>9}   seconds of the peers, x ours{'':32}{'':12}temporary")
        print(f"{'workload':14}{'alpha':7}{'ours':>9}{'a user':>9}" + "".join(
            f"{name:>14}" for name in ("fed", "fastcluster", "scipy", "sklearn", "bare X·Xᵀ")
        ) + f"{'MiB':>8}")  # fmt: skip
        workloads = {f"(a) {users:,}": log_normal_lengths(users)}
        for m in (30, 100, 300, 1000, 2000):
            workloads[f"(b) m={m:,}"] = np.full(max(1, 10 * users // m), m)
        for name, lengths in workloads.items():
            points, offsets = population(lengths)
            for alpha_name, alpha in ALPHAS.items():
                report(name, alpha_name, points, offsets, alpha)
        two_processes(*population(log_normal_lengths(users)))


def log_normal_lengths(users: int) -> np.ndarray:
    drawn = np.exp(np.log(70) + 0.8 * np.random.default_rng(0).standard_normal(users))
    return np.clip(np.rint(drawn), 5, 2000).astype(int)


def population(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors in topics: the more points a user has, the more topics."""
    rng = np.random.default_rng(1)
    topics = rng.standard_normal((500, DIMENSIONS), dtype=np.float32)
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    points = np.empty((offsets[-1], DIMENSIONS), dtype=np.float32)
    for (start, end), m in zip(itertools.pairwise(offsets), lengths, strict=True):
        n_topics = int(rng.integers(3, 3 + max(2, int(m**0.5))))
        own = rng.choice(len(topics), size=n_topics, replace=False)[rng.integers(n_topics, size=m)]
        noise = rng.standard_normal((m, DIMENSIONS), dtype=np.float32) / np.float32(DIMENSIONS**0.5)
        points[start:end] = topics[own] + rng.uniform(0.4, 0.96, size=(m, 1)).astype(np.float32) * noise
    return points / np.linalg.norm(points, axis=1, keepdims=True), offsets


def report(name: str, alpha_name: str, points: np.ndarray, offsets: np.ndarray, alpha: float) -> None:
    """Print one line of the table."""
    lengths = np.diff(offsets)
    work = np.cumsum(lengths.astype(float) ** 2)
    few = min(len(lengths), max(1, int(np.searchsorted(work, PEER_DISTANCES))))
    contenders = {
        "ours": (lambda: ward_many(points, offsets, alpha), len(lengths)),
        "fed": (lambda: each(fed_fastcluster, points, offsets, alpha), len(lengths)),
        "fastcluster": (lambda: each(fastcluster_on_vectors, points, offsets[: few + 1], alpha), few),
        "scipy": (lambda: each(scipy_on_vectors, points, offsets[: few + 1], alpha), few),
        "sklearn": (lambda: each(sklearn_on_vectors, points, offsets[: few + 1], alpha), few),
        "bare": (lambda: each(bare_product, points, offsets, alpha), len(lengths)),
    }
    seconds = dict.fromkeys(contenders, np.inf)
    for _, (contender, (run, users)) in itertools.product(range(REPEATS), contenders.items()):
        started = time.process_time()
        run()
        scale = work[-1] / work[users - 1]
        seconds[contender] = min(seconds[contender], (time.process_time() - started) * scale)
    tracemalloc.start()
    labels = ward_many(points, offsets, alpha)
    temporary = (tracemalloc.get_traced_memory()[1] - labels.nbytes) / 2**20
    tracemalloc.stop()
    clusters = np.mean([labels[start:end].max() + 1 for start, end in itertools.pairwise(offsets)])
    ratios = "".join(f"   x {seconds[peer] / seconds['ours']:9.2f}" for peer in list(contenders)[1:])
    print(
        f"{name:14}{alpha_name:7}{len(lengths) / seconds['ours']:9,.0f}{clusters:9.1f}{ratios}{temporary:8.0f}",
        flush=True,
    )


def each(run: Callable[[np.ndarray, float], object], points: np.ndarray, offsets: np.ndarray, alpha: float) -> None:
    for start, end in itertools.pairwise(offsets.tolist()):
        run(points[start:end], alpha)


def bare_product(points: np.ndarray, alpha: float) -> None:
    points @ points.T


def fed_fastcluster(points: np.ndarray, alpha: float) -> None:
    gram = points @ points.T
    norms = gram.diagonal().copy()
    gram *= -2
    gram += norms[:, None] + norms
    distances = gram[upper_triangle(len(points))].astype(np.float64)
    np.maximum(distances, 0, out=distances)
    np.sqrt(distances, out=distances)
    fcluster(fastcluster.linkage(distances, "ward", preserve_input=False), alpha**0.5, "distance")


TRIANGLES: dict[int, np.ndarray] = {}


def upper_triangle(m: int) -> np.ndarray:
    """A mask, kept for the next user of this size: it is no part of the peer's work."""
    if m not in TRIANGLES:
        TRIANGLES[m] = np.triu(np.ones((m, m), dtype=bool), 1)
    return TRIANGLES[m]


def fastcluster_on_vectors(points: np.ndarray, alpha: float) -> None:
    fcluster(fastcluster.linkage(points, "ward"), alpha**0.5, "distance")


def scipy_on_vectors(points: np.ndarray, alpha: float) -> None:
    fcluster(linkage(points, "ward"), alpha**0.5, "distance")


def sklearn_on_vectors(points: np.ndarray, alpha: float) -> None:
    AgglomerativeClustering(n_clusters=None, distance_threshold=alpha**0.5, linkage="ward").fit(points)


def two_processes(points: np.ndarray, offsets: np.ndarray) -> None:
    """Print what a second process adds: each process clusters the whole population REPEATS times, by the clock."""
    seconds = {1: np.inf, 2: np.inf}
    for processes in (1, 2, 1, 2):
        context = multiprocessing.get_context("fork")
        barrier = context.Barrier(processes + 1)
        arguments = (barrier, points, offsets)
        running = [context.Process(target=cluster_repeatedly, args=arguments) for _ in range(processes)]
        for process in running:
            process.start()
        barrier.wait()
        started = time.perf_counter()
        barrier.wait()
        seconds[processes] = min(seconds[processes], time.perf_counter() - started)
        for process in running:
            process.join()
    speedup = 2 * seconds[1] / seconds[2]
    print(f"two processes: x {speedup:.2f} as much as one ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})")


def cluster_repeatedly(barrier, points: np.ndarray, offsets: np.ndarray) -> None:
    ward_many(points[: offsets[10]], offsets[:11], ALPHAS["tight"])  # what a process does once is not counted
    barrier.wait()
    for _ in range(REPEATS):
        ward_many(points, offsets, ALPHAS["tight"])
    barrier.wait()


if __name__ == "__main__":
    main()
