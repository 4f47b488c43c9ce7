"""Users as many embeddings, from the query to committed rows: `users.clusters` and `users.medoids` of a day.

Run with ``python benchmarks/users.py``: 10,000 users with some 100 actions each on 100,000 pins of 256 dimensions, on a
warehouse made for it. Each asset runs in a process of its own, as Dagster's runs do, so that the memory is its own. The
peer is a straightforward script: a loop over users with scipy's linkage and each cluster's distance matrix, on the
first 500 users, scaled up. The second day differs from the first by the actions of one user in a hundred.
"""

import datetime
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np
import polars as pl
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist

from pinnersage_assets.lineage import users as lineage
from pinnersage_assets.resources import build_resources
from pinnersage_assets.settings import Environment, Settings
from pinnersage_assets.warehouse.partitions import replace_partitions
from pinnersage_assets.warehouse.tables import all_tables

USERS, ACTIONS, PINS_A_USER, DIMENSIONS, TOPICS = 10_000, 100, 10, 256, 2_000
START = datetime.date(2026, 1, 1)
DAYS = [START + datetime.timedelta(days=offset) for offset in range(91)]
PEER_USERS = 500


def main(users: int = USERS) -> None:
    """Print seconds, peak memory and the ratio to the peer."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        alone(build, data, users)
        peer, _ = alone(straightforward, data, min(users, PEER_USERS))
        peer *= users / min(users, PEER_USERS)
        print(
            f"{users:,} users, {ACTIONS} actions each in 90 days, {PINS_A_USER * users:,} pins of {DIMENSIONS} floats"
        )
        for day, title in ((DAYS[-2], "first day"), (DAYS[-1], "next day, most users reused")):
            for asset in ("clusters", "medoids"):
                seconds, memory = alone(materialise, data, asset, day)
                line = f"{title:30} users.{asset:10} {seconds:6.1f} s {memory:8,.0f} MiB"
                print(f"{line}   the peer takes x {peer / seconds:6.1f}")
        print(f"{'straightforward script':30} {'both':16} {peer:6.1f} s (scaled up)")


def alone(work: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """Run in a fresh process; its result, and its peak memory in MiB."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(there, work, *arguments))
    process.start()
    there.close()
    result = here.recv()
    process.join()
    return result


def measured(answer, work: Callable[..., float], *arguments: object) -> None:
    result = work(*arguments)
    answer.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def resources(data: Path) -> dict[str, object]:
    return build_resources(Environment(data, "simulated", START), Settings())


def build(data: Path, users: int) -> float:
    """Write staging tables of users with some interests each."""
    rng = np.random.default_rng(0)
    pins = PINS_A_USER * users
    topic_of_pin = np.sort(rng.integers(TOPICS, size=pins))
    topics = rng.standard_normal((TOPICS, DIMENSIONS), dtype=np.float32)
    vectors = topics[topic_of_pin] + np.float32(0.7) * rng.standard_normal((pins, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    n_actions = ACTIONS * users
    user = np.repeat(np.arange(users), ACTIONS)
    interests = rng.integers(TOPICS, size=(users, 12))
    topic = interests[user, np.minimum(rng.geometric(0.2, size=n_actions) - 1, 11)]
    first, last = np.searchsorted(topic_of_pin, topic), np.searchsorted(topic_of_pin, topic, side="right")
    pin = first + (rng.random(n_actions) * np.maximum(last - first, 1)).astype(np.int64)
    age = rng.random(n_actions) * 90
    # One user in a hundred acts on the last day; of the others, nothing falls out of the window on that day.
    age = np.where(user % 100 == 0, age, 0.9 + age * 88 / 90)
    seconds = ((90.999 - age) * 86400).astype(np.int64)
    start = datetime.datetime.combine(START, datetime.time())
    actions = pl.DataFrame({"user_id": user, "pin_id": np.minimum(pin, pins - 1), "action": "repin"}).with_columns(
        ts=pl.lit(start) + pl.duration(seconds=pl.Series(seconds))
    )
    warehouse = resources(data)["warehouse"]
    with warehouse.get_connection() as connection:
        connection.execute("CREATE SCHEMA staging")
        for table in ("pins", "actions", "impressions"):
            connection.execute(all_tables()[f"staging.{table}"].definition(DIMENSIONS))
        connection.register("pin_frame", pl.DataFrame({"dt": START, "pin_id": np.arange(pins), "embedding": vectors}))
        connection.execute(
            "INSERT INTO staging.pins BY NAME SELECT *, TIMESTAMP '2026-01-01' AS created_at FROM pin_frame"
        )
        rows = actions.with_columns(dt=pl.col("ts").dt.date()).unique()
        replace_partitions(connection, all_tables()["staging.actions"], DAYS, rows, run_id="bench")
    return 0.0


def materialise(data: Path, asset: str, day: datetime.date) -> float:
    """Seconds from the start of the run until its rows are committed."""
    started = time.perf_counter()
    result = dg.materialize(
        [getattr(lineage, asset)],
        partition_key=day.isoformat(),
        resources=resources(data),
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
    )
    assert result.success
    return time.perf_counter() - started


def straightforward(data: Path, users: int) -> float:
    """What one would write in an afternoon: seconds for some users, reading included."""
    database = resources(data)["warehouse"].database
    with duckdb.connect(database, read_only=True) as connection:
        query = """
            SELECT user_id, any_value(embedding) AS embedding FROM staging.actions JOIN staging.pins USING (pin_id)
            WHERE user_id < ? GROUP BY user_id, pin_id ORDER BY user_id, pin_id
        """
        started = time.perf_counter()
        frame = connection.sql(query, params=[users]).pl()
    for _, own in frame.group_by("user_id", maintain_order=True):
        points = own["embedding"].to_numpy()
        if len(points) > 1:
            labels = fcluster(linkage(points, "ward"), Settings().clustering.alpha ** 0.5, "distance")
            for label in np.unique(labels):
                members = points[labels == label]
                cdist(members, members, "sqeuclidean").sum(axis=1).argmin()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
