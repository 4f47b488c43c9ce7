"""The same kernel over the same buckets on a Ray cluster of one node and of two, one processor each.

Run with ``python benchmarks/ray_nodes.py`` (extra ``ray``): 20,000 users of some 90 pins of 256 dimensions, 500 a
bucket, are clustered. A node is as good as a machine to Ray, but here both share one: memory, disk and whatever else
runs. Starting Ray and its workers is counted apart: a run pays for that once.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pinnersage_assets.engines.tasks import Task
from pinnersage_assets.vector_files import VectorFile

try:
    import ray
    from ray.cluster_utils import Cluster

    from pinnersage_assets.engines.on_ray import OnRay
except ImportError as error:
    raise SystemExit(f"{error}. This benchmark needs its peers: pip install -c constraints.txt '.[ray]'") from error

USERS = 20_000
USERS_A_BUCKET = 500
PINS = 100_000
DIMENSIONS = 256
TOPICS = 2_000
KERNEL = "pinnersage_assets.kernels.users:cluster_bucket"


def main(users: int = USERS) -> None:
    """Print seconds on one node, and on two."""
    # Workers have the environment of whoever starts their node.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = {"vectors": vectors(folder).parameters, "alpha": 1.2, "memory_bytes": 2**29}
        sources = buckets(folder, users)
        seconds = {}
        for nodes in (1, 2, 1, 2):
            started, worked = on_cluster(nodes, sources, folder / "out", parameters)
            seconds[nodes] = min(worked, seconds.get(nodes, np.inf))
            print(
                f"{nodes} node(s): started in {started:5.1f} s, {len(sources)} buckets in {worked:5.1f} s, "
                f"{users / worked:,.0f} users a second  x {seconds[1] / worked:.2f}",
                flush=True,
            )
    print(f"two nodes: x {seconds[1] / seconds[2]:.2f} as fast as one (load {os.getloadavg()[0]:.1f})")


def vectors(folder: Path) -> VectorFile:
    chance = np.random.default_rng(0)
    topics = chance.standard_normal((TOPICS, DIMENSIONS), dtype=np.float32)
    found = topics[np.arange(PINS) % TOPICS] + 0.4 * chance.standard_normal((PINS, DIMENSIONS), dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    file = VectorFile(folder / "pins.vectors", PINS, DIMENSIONS)
    found.tofile(file.path)
    return file


def buckets(folder: Path, users: int) -> list[Path]:
    """Files of users with five interests or so each."""
    chance, paths = np.random.default_rng(1), []
    for number, first in enumerate(range(0, users, USERS_A_BUCKET)):
        rows = []
        for user in range(first, min(first + USERS_A_BUCKET, users)):
            topics = chance.choice(TOPICS, 5, replace=False)
            size = int(np.clip(np.exp(np.log(70) + 0.8 * chance.standard_normal()), 5, 1000))
            pins = np.unique(chance.choice(topics, size) + TOPICS * chance.integers(PINS // TOPICS, size=size))
            rows.append(pl.DataFrame({"user_id": np.full(len(pins), user), "pin_id": pins, "pin_row": pins}))
        paths.append(folder / f"{number:06}.parquet")
        pl.concat(rows).with_columns(actions=pl.lit(1, pl.Int32)).write_parquet(paths[-1])
    return paths


def on_cluster(nodes: int, sources: Sequence[Path], folder: Path, parameters: dict) -> tuple[float, float]:
    """Seconds to start a cluster and its workers, and seconds of the work."""
    started = time.perf_counter()
    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**options)
        ray.init(cluster.address, log_to_driver=False)
        engine = OnRay()

        def work(some: Sequence[Path], name: str) -> float:
            begun = time.perf_counter()
            (folder / name).mkdir(parents=True)
            tasks = [Task(source.stem, source, folder / name / source.name) for source in some]
            assert len(list(engine.map(KERNEL, tasks, parameters))) == len(some)
            return time.perf_counter() - begun

        work(sources[: 2 * nodes], f"first-{time.time_ns()}")
        return time.perf_counter() - started, work(sources, f"all-{time.time_ns()}")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
