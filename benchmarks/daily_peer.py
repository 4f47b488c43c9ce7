"""A day of users and retrieval by a script, for comparison: pandas, scikit-learn and faiss, a loop over users.

Run with ``python benchmarks/daily_peer.py`` (its peers are in the extra ``bench``): 2,000 users. `daily_partition`
compares at its first size too, and there the lineage has the day before to reuse, as it has every night. The script is
what one writes in an afternoon for a night's batch. It reads the warehouse's staging tables and corpus, does what the
five assets in `STAGES` do, by the same settings, and writes their rows as Parquet. A pin acted on n times is n points.
Where the lineage searches exactly, faiss does too, and where it builds an HNSW index, faiss does with the same
parameters; each distinct medoid is searched once. Loops take one processor, faiss all.

What the script leaves out costs the lineage time that it does not cost the script: checks, commits, recall, draws that
do not depend on order, limits of memory, users who need more neighbours, and what the next day will reuse.
"""

import datetime
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np
from daily_partition import DAY, PINS_A_USER, _alone, _history
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering

from pinnersage_assets.lineage import retrieval
from pinnersage_assets.lineage import users as users_lineage
from pinnersage_assets.resources import build_resources
from pinnersage_assets.settings import Environment, IndexSettings, Settings

try:
    import faiss
    import pandas as pd
except ImportError as error:
    raise SystemExit(f"{error}. This benchmark needs its peers: pip install -c constraints.txt '.[bench]'") from error

USERS = 2_000
STAGES = (
    "users.clusters",
    "users.medoids",
    "retrieval.hnsw_index",
    "retrieval.medoid_neighbours",
    "retrieval.recommendations",
)
# The least shares of equal rows: sums round differently, and HNSW is approximate.
SAME_CLUSTERS, SAME_MEDOIDS, SAME_PINS = 0.99, 0.99, 0.9


def main(users: int = USERS) -> None:
    """Print the seconds of each stage with nothing to reuse, and how well the rows agree."""
    folder, day = Path(tempfile.mkdtemp(prefix="daily_peer_")), DAY - datetime.timedelta(days=1)
    try:
        # With it come users and retrieval of the day before DAY.
        _alone(_history, folder, users)
        script, agreed = _alone(measure, folder, day)
        anew = _alone(lineage_anew, folder, day)
    finally:
        shutil.rmtree(folder)
    print(f"{users:,} users, {PINS_A_USER * users:,} pins: {agreed}")
    print(f"{'seconds':32}{'script':>8}{'lineage':>9}")
    for stage in STAGES:
        _show(stage, script[stage], anew[stage])
    _show("together", sum(script.values()), sum(anew.values()))


def _show(name: str, script: float, lineage: float) -> None:
    print(f"  {name:30}{script:8.1f}{lineage:9.1f}   the script takes x {script / lineage:5.2f}")


def line(folder: Path, daily: dict[str, tuple[float, float]]) -> str:
    """Compare in a line, and in processes of their own; users and retrieval of the data directory are made anew.

    Args:
        folder: the data directory, with ``DAY`` materialised.
        daily: seconds and MiB of the stages of that day.
    """
    script, agreed = _alone(measure, folder, DAY)
    anew = sum(_alone(lineage_anew, folder, DAY).values())
    together, ours = sum(script.values()), sum(daily[stage][0] for stage in STAGES)
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in script.items())
    return (
        f"a script of pandas, scikit-learn and faiss: {stages}, together {together:.1f} s, x {together / ours:.2f} our "
        f"{ours:.1f} s of these stages, x {together / anew:.2f} our {anew:.1f} s with nothing to reuse; {agreed}"
    )


def measure(folder: Path, day: datetime.date) -> tuple[dict[str, float], str]:
    """Run the script over a data directory: its seconds by stage, and how well its rows agree with the lineage's."""
    database = folder / "warehouse" / "pinnersage.duckdb"
    with tempfile.TemporaryDirectory() as name, duckdb.connect(str(database), read_only=True) as connection:
        results = Path(name)
        return run_day(connection, day, results, Settings()), agreement(connection, day, results)


def lineage_anew(folder: Path, day: datetime.date) -> dict[str, float]:
    """Seconds of the lineage's stages with nothing to reuse: users and retrieval of all days are deleted first."""
    resources = build_resources(Environment(folder, "simulated", day), Settings())
    with resources["warehouse"].get_connection() as connection:
        for stage in STAGES:
            connection.execute(f"DELETE FROM {stage}")
    seconds: dict[str, float] = {}
    for stage, asset in zip(STAGES, [users_lineage.clusters, users_lineage.medoids, *retrieval.ASSETS], strict=True):
        with timed(seconds, stage):
            done = dg.materialize(
                [asset],
                partition_key=day.isoformat(),
                resources=resources,
                run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
            )
        assert done.success
    return seconds


def run_day(
    connection: duckdb.DuckDBPyConnection, day: datetime.date, results: Path, settings: Settings
) -> dict[str, float]:
    """The script: seconds by stage; rows are left in a folder."""
    seconds: dict[str, float] = {}
    first = day - datetime.timedelta(days=settings.window.days - 1)
    with timed(seconds, "users.clusters"):
        pins = connection.execute("SELECT pin_id, embedding FROM staging.pins WHERE dt <= ?", [day]).df()
        vectors = np.stack(pins.pop("embedding"))
        row_of = pd.Index(pins["pin_id"])
        actions = connection.execute(
            "SELECT user_id, pin_id, ts FROM staging.actions WHERE dt BETWEEN ? AND ? AND list_contains(?, action)",
            [first, day, settings.window.interest_actions],
        ).df()
        actions["row"] = row_of.get_indexer(actions["pin_id"])
        actions = actions[actions["row"] >= 0].sort_values(["user_id", "pin_id"], ignore_index=True)
        actions["cluster"] = cluster(actions, vectors, settings.clustering.alpha)
        members = actions.groupby(["user_id", "cluster", "pin_id"], as_index=False).agg(
            actions=("ts", "size"), last_ts=("ts", "max")
        )
        members.to_parquet(results / "clusters.parquet")

    with timed(seconds, "users.medoids"):
        age = (pd.Timestamp(day) + pd.Timedelta(days=1) - actions["ts"]) / pd.Timedelta(days=1)
        actions["weight"] = np.exp(-settings.clustering.decay_per_day * age)
        embeddings = embed(actions, vectors)
        embeddings.to_parquet(results / "medoids.parquet")

    with timed(seconds, "retrieval.hnsw_index"):
        corpus = connection.execute("SELECT pin_id FROM corpus.pins WHERE dt = ? ORDER BY pin_id", [day]).df()
        corpus = corpus["pin_id"].to_numpy()
        index = build(vectors[row_of.get_indexer(corpus)], settings.index, results)

    with timed(seconds, "retrieval.medoid_neighbours"):
        drawn = draw(embeddings, settings.retrieval.sampled_medoids, settings.seed)
        drawn["share"] = settings.retrieval.budget // drawn.groupby("user_id")["cluster"].transform("size")
        depths = drawn.groupby("medoid_pin_id")["share"].max() + settings.retrieval.margin
        neighbours = search(index, corpus, depths, vectors[row_of.get_indexer(depths.index)])
        neighbours.to_parquet(results / "neighbours.parquet")

    with timed(seconds, "retrieval.recommendations"):
        seen = connection.execute(
            "SELECT DISTINCT user_id, pin_id FROM staging.actions WHERE dt BETWEEN ? AND ?", [first, day]
        ).df()
        repeated = connection.execute(
            "SELECT pin_id, canonical_pin_id FROM corpus.near_duplicates WHERE dt <= ?", [day]
        ).df()
        recommend(drawn, neighbours, seen, repeated).to_parquet(results / "recommendations.parquet")
    return seconds


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def cluster(actions: pd.DataFrame, vectors: NDArray[np.float32], alpha: float) -> NDArray[np.int64]:
    """The cluster of each action within its user."""
    ward = AgglomerativeClustering(n_clusters=None, distance_threshold=alpha**0.5, linkage="ward")
    rows, labels = actions["row"].to_numpy(), np.zeros(len(actions), dtype=np.int64)
    for own in actions.groupby("user_id").indices.values():
        # Scikit-learn refuses a single point.
        if len(own) > 1:
            labels[own] = ward.fit_predict(vectors[rows[own]])
    return labels


def embed(actions: pd.DataFrame, vectors: NDArray[np.float32]) -> pd.DataFrame:
    """The medoid of each cluster, importance and size."""
    rows, pins = actions["row"].to_numpy(), actions["pin_id"].to_numpy()
    clusters = actions.groupby(["user_id", "cluster"])
    medoids = {}
    for key, own in clusters.indices.items():
        points = vectors[rows[own]]
        medoids[key] = pins[own[cdist(points, points, "sqeuclidean").sum(axis=0).argmin()]]
    found = clusters.agg(importance=("weight", "sum"), size=("weight", "size"))
    found["medoid_pin_id"] = [medoids[key] for key in found.index]
    return found.reset_index()


def build(vectors: NDArray[np.float32], settings: IndexSettings, results: Path) -> faiss.Index:
    """What searches the corpus, as the lineage chooses it: exact if small, otherwise HNSW, which is written."""
    if len(vectors) <= settings.exact_up_to:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index
    index = faiss.IndexHNSWFlat(vectors.shape[1], settings.connectivity, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = settings.expansion_add
    index.hnsw.efSearch = settings.expansion_search
    index.add(vectors)
    faiss.write_index(index, str(results / "corpus.faiss"))
    return index


def draw(embeddings: pd.DataFrame, size: int, seed: int) -> pd.DataFrame:
    """Some medoids of each user, drawn by importance."""
    rng, drawn = np.random.default_rng(seed), []
    importance = embeddings["importance"].to_numpy()
    for own in embeddings.groupby("user_id").indices.values():
        weights = importance[own]
        drawn.append(rng.choice(own, min(size, len(own)), replace=False, p=weights / weights.sum()))
    return embeddings.iloc[np.concatenate(drawn)]


def search(
    index: faiss.Index, corpus: NDArray[np.int64], depths: pd.Series, queries: NDArray[np.float32]
) -> pd.DataFrame:
    """The nearest corpus pins of each medoid, as deep as asked."""
    parts = []
    for depth, own in depths.groupby(depths).indices.items():
        cosines, found = index.search(queries[own], min(int(depth), len(corpus)))
        # HNSW fills up with -1 where it finds fewer.
        near = [corpus[row[row >= 0]] for row in found]
        cosines = [row[: len(pins)] for row, pins in zip(cosines, near, strict=True)]
        parts.append(pd.DataFrame({"medoid_pin_id": depths.index[own], "pin_ids": near, "cosines": cosines}))
    return pd.concat(parts, ignore_index=True)


def recommend(
    drawn: pd.DataFrame, neighbours: pd.DataFrame, seen: pd.DataFrame, repeated: pd.DataFrame
) -> pd.DataFrame:
    """The nearest unseen pins of each drawn medoid, up to its share, best first."""
    # A pin that repeats another is seen with it.
    original = repeated.set_index("pin_id")["canonical_pin_id"]

    def originals(pins: pd.Series) -> pd.Series:
        return pins.map(original).fillna(pins).astype(np.int64)

    seen_originals = originals(seen["pin_id"]).to_numpy()
    seen_by = {user: seen_originals[own] for user, own in seen.groupby("user_id").indices.items()}
    near = {medoid: lists for medoid, *lists in neighbours.itertuples(index=False)}
    every = pd.Series(np.unique(np.concatenate(neighbours["pin_ids"].to_list())))
    ids, groups = every.to_numpy(), originals(every).to_numpy()
    parts = []
    for user, medoid, share in drawn[["user_id", "medoid_pin_id", "share"]].itertuples(index=False):
        pins, cosines = near[medoid]
        unseen = np.flatnonzero(~np.isin(groups[np.searchsorted(ids, pins)], seen_by[user]))[:share]
        parts.append((user, medoid, pins[unseen], cosines[unseen]))
    lengths = [len(pins) for _, _, pins, _ in parts]
    sets = pd.DataFrame(
        {
            "user_id": np.repeat([user for user, *_ in parts], lengths),
            "pin_id": np.concatenate([pins for *_, pins, _ in parts]),
            "medoid_pin_id": np.repeat([medoid for _, medoid, *_ in parts], lengths),
            "score": np.concatenate([cosines for *_, cosines in parts]),
        }
    )
    sets = sets.sort_values(["user_id", "score", "pin_id"], ascending=[True, False, True])
    sets = sets.drop_duplicates(["user_id", "pin_id"])
    return sets.assign(rank=sets.groupby("user_id").cumcount() + 1)


def agreement(connection: duckdb.DuckDBPyConnection, day: datetime.date, results: Path) -> str:
    """How well the script's rows agree with the lineage's; draws differ, so candidates only where both drew a medoid.

    Raises:
        AssertionError: they agree so little that the comparison would be unfair.
    """
    connection.execute(f"SET VARIABLE folder = '{results}'; SET VARIABLE day = DATE '{day}'")
    clusters, medoids, pins = (connection.execute(query).fetchone()[0] for query in (_CLUSTERS, _MEDOIDS, _PINS))
    found = (
        f"the same clusters for {clusters:.2%} of users, medoid and importance for {medoids:.2%} of clusters, and "
        f"{pins:.2%} of the candidates from medoids drawn by both"
    )
    if clusters < SAME_CLUSTERS or medoids < SAME_MEDOIDS or pins < SAME_PINS:
        raise AssertionError(f"the script is not the same method: {found}")
    return found


_CLUSTERS = """
    SELECT avg(same::INTEGER) FROM (
        SELECT count(o.pin_id) = count(*) AND count(s.pin_id) = count(*) AND bool_and(o.actions = s.actions)
            AND count(DISTINCT (o.cluster, s.cluster)) = count(DISTINCT o.cluster)
            AND count(DISTINCT (o.cluster, s.cluster)) = count(DISTINCT s.cluster) AS same
        FROM (FROM users.clusters WHERE dt = getvariable('day')) AS o
        FULL JOIN read_parquet(getvariable('folder') || '/clusters.parquet') AS s
            ON o.user_id = s.user_id AND o.pin_id = s.pin_id
        GROUP BY coalesce(o.user_id, s.user_id)
    )
"""

_MEDOIDS = """
    SELECT avg(coalesce(abs(o.importance - s.importance) <= 1e-9 * o.importance AND o.size = s.size, false)::INTEGER)
    FROM (FROM users.medoids WHERE dt = getvariable('day')) AS o
    FULL JOIN read_parquet(getvariable('folder') || '/medoids.parquet') AS s
        ON o.user_id = s.user_id AND o.medoid_pin_id = s.medoid_pin_id
"""

_PINS = """
    WITH ours AS (FROM retrieval.recommendations WHERE dt = getvariable('day')),
    script AS (FROM read_parquet(getvariable('folder') || '/recommendations.parquet'))
    SELECT avg((script.pin_id IS NOT NULL)::INTEGER)
    FROM ours SEMI JOIN script USING (user_id, medoid_pin_id) LEFT JOIN script USING (user_id, pin_id)
"""


if __name__ == "__main__":
    main()
