"""``serving.*``: what answers are made from until the next batch."""

import datetime
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from uuid import uuid4

import dagster as dg
import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.lineage import parameters
from pinnersage_assets.lineage.corpus_index import restriction
from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, SEEN_CORPUS_PINS, window
from pinnersage_assets.model.online import StoredClusters
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, WINDOW, partition_day, reads
from pinnersage_assets.serving.pin_files import write_pin_files
from pinnersage_assets.serving.records import StoredUser
from pinnersage_assets.serving.served_day import PINS_FOLDER
from pinnersage_assets.serving.store import Store, content_of, open_store
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors
from pinnersage_assets.warehouse.publishing import UNNAMED_FOR_SECONDS, named

# Every pin that is known, whether it may be recommended, and the corpus pin that stands for it. The corpus comes first.
_PINS = """
    WITH grouped AS (
        SELECT p.pin_id, coalesce(d.canonical_pin_id, p.pin_id) AS pin_group
        FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id AND d.dt <= $day
        WHERE p.dt <= $day
    ),
    standing AS (
        SELECT g.pin_group, c.pin_id FROM corpus.pins AS c JOIN grouped AS g ON c.pin_id = g.pin_id WHERE c.dt = $day
    )
    SELECT g.pin_id, s.pin_id AS corpus_pin_id, coalesce(s.pin_id = g.pin_id, false) AS in_corpus
    FROM grouped AS g LEFT JOIN standing AS s ON g.pin_group = s.pin_group
    ORDER BY in_corpus DESC, g.pin_id
"""

_POPULAR = f"""
    SELECT pin_id FROM ({INTEREST_ACTIONS}) WHERE pin_id IN (SELECT pin_id FROM corpus.pins WHERE dt = $day)
    GROUP BY pin_id ORDER BY count(*) DESC, pin_id
"""

_NEIGHBOURS = """
    SELECT medoid_pin_id, pin_ids, cosines FROM retrieval.medoid_neighbours WHERE dt = $day ORDER BY medoid_pin_id
"""

_MEDOIDS = """
    SELECT user_id, medoid_pin_id, size::BIGINT AS size, importance FROM users.medoids WHERE dt = $day
    ORDER BY user_id, cluster, medoid_pin_id
"""

# Vectors that are in memory at once.
_VECTORS_AT_ONCE = 50_000


@dg.asset(
    key=["serving", "snapshot"],
    partitions_def=DAILY,
    deps=[
        *parameters.READS,
        *reads(SAME_DAY, "users.medoids", "corpus.pins", "retrieval.hnsw_index", "retrieval.medoid_neighbours"),
        *reads(WINDOW, "staging.actions"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"numpy", "lmdb"},
    code_version="1",
    # A store on another machine may be away for a moment.
    retry_policy=dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL),
)
def snapshot(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """Put users' clusters into the store, and pins into mapped files, under a version of their own; read both back.

    Nobody uses a version before its row is published.
    """
    day = partition_day(context)
    settings = parameters.in_force(warehouse, settings, day)
    version = f"{day}-{uuid4().hex[:16]}"
    sha256, pins = _write_pins(warehouse, settings, day, warehouse.data_folder / PINS_FOLDER / version)
    medoids = warehouse.read(_MEDOIDS, {"day": day})
    seen = warehouse.read(SEEN_CORPUS_PINS, {"day": day, "first": window(day, settings)["first"]})
    seen = seen.sort("user_id", "pin_id")
    with _store(warehouse, settings) as store:
        store.write_snapshot(version, _stored_users(medoids, seen))
        content = store.describe(version)
    if content != (written := content_of(_stored_users(medoids, seen))):
        raise dg.Failure(
            f"the store gives back {content} for {version}; {written} was written. Is it damaged?",
            allow_retries=False,
        )
    return pl.DataFrame(
        {
            "version": [version],
            "store": [settings.serving.store.partition(":")[0]],
            "users": [content.users],
            "clusters": [content.clusters],
            "users_sha256": [content.sha256],
            "pins": [pins],
            "pins_sha256": [sha256],
            # Not where the store is: its address may hold a password. Nor what answers do not show: where work was
            # done, and how long results are kept.
            "settings": [settings.model_dump_json(exclude={"serving", "engine", "retention", "warehouse", "checks"})],
        }
    )


def _store(warehouse: Warehouse, settings: Settings) -> AbstractContextManager[Store]:
    return closing(open_store(settings.serving.store, warehouse.data_folder / "serving"))


def _write_pins(warehouse: Warehouse, settings: Settings, day: datetime.date, folder: Path) -> tuple[str, int]:
    """The mapped files of a day: their checksum, and how many pins they hold."""
    pins = warehouse.read(_PINS, {"day": day})
    corpus = pins.filter("in_corpus")["pin_id"]
    allowed = restriction(warehouse, day, settings.retrieval.condition)
    recommendable = corpus.is_in((corpus if allowed is None else allowed).implode())
    neighbours = warehouse.read(_NEIGHBOURS, {"day": day})
    popular = warehouse.read(_POPULAR, window(day, settings))["pin_id"]
    popular = popular.filter(popular.is_in(corpus.filter(recommendable).implode()))
    rows = _rows(corpus)
    lengths = neighbours["pin_ids"].list.len().to_numpy()
    ids = pins["pin_id"].to_numpy()
    arrays = {
        "ids": ids,
        "corpus_rows": rows(pins["corpus_pin_id"]),
        "recommendable": recommendable.to_numpy(),
        "medoid_ids": neighbours["medoid_pin_id"].to_numpy(),
        "neighbour_starts": np.append(0, np.cumsum(lengths, dtype=np.int64)),
        "neighbour_rows": rows(neighbours["pin_ids"].explode(empty_as_null=False)),
        "neighbour_cosines": neighbours["cosines"].explode(empty_as_null=False).to_numpy(),
        "popular_rows": rows(popular),
    }
    vectors = pin_vectors(warehouse, day).select(ids)
    parts = np.split(np.arange(len(ids)), range(_VECTORS_AT_ONCE, len(ids), _VECTORS_AT_ONCE))
    return write_pin_files(folder, arrays, ((rows, vectors[rows]) for rows in parts)), len(ids)


def _rows(corpus: pl.Series) -> Callable[[pl.Series], NDArray[np.int32]]:
    """Gives the rows of pins of the corpus, which ascend; -1 of nulls."""

    def rows(pins: pl.Series) -> NDArray[np.int32]:
        known = pins.is_not_null().to_numpy()
        found = np.full(len(pins), -1, dtype=np.int32)
        found[known] = rows_of(corpus.to_numpy(), pins.drop_nulls().to_numpy())
        return found

    return rows


def _stored_users(medoids: pl.DataFrame, seen: pl.DataFrame) -> Iterator[tuple[int, StoredUser]]:
    """Everybody who has clusters or has seen something, in the order of user ids."""
    columns = [medoids[name].to_numpy() for name in ("medoid_pin_id", "size", "importance")]
    pins = seen["pin_id"].to_numpy()
    users = np.union1d(medoids["user_id"].to_numpy(), seen["user_id"].to_numpy())
    bounds, seen_bounds = (
        np.stack([np.searchsorted(frame["user_id"].to_numpy(), users, side) for side in ("left", "right")])
        for frame in (medoids, seen)
    )
    for user, first, last, first_seen, last_seen in zip(users.tolist(), *bounds, *seen_bounds, strict=True):
        clusters = StoredClusters(*(column[first:last] for column in columns))
        yield user, StoredUser(clusters, pins[first_seen:last_seen])


def forget_old_snapshots(connection: duckdb.DuckDBPyConnection, before: datetime.date) -> int:
    """Take the versions of days before one out of their rows, so that nothing that is published next names them.

    Returns:
        The rows that named one.
    """
    query = "UPDATE serving.snapshot SET version = NULL WHERE version IS NOT NULL AND dt < ?"
    return connection.execute(query, [before]).fetchall()[0][0]


def delete_unnamed_snapshots(warehouse: Warehouse, settings: Settings) -> dict[str, int]:
    """Delete the snapshots that no row names, published or not: of old days, and of runs that were killed.

    Returns:
        The sizes of their files in bytes; without users, who are in the store.
    """
    folders = {path.name: path for path in (warehouse.data_folder / PINS_FOLDER).glob("*")}
    # One that no row names may be about to get its row.
    recent = {name for name, path in folders.items() if path.stat().st_mtime > time.time() - UNNAMED_FOR_SECONDS}
    keep = named(warehouse, "serving.snapshot", "version") | recent
    with _store(warehouse, settings) as store:
        store.drop_snapshots(keep)
    dropped = {}
    for name in sorted(folders.keys() - keep):
        dropped[name] = sum(file.stat().st_size for file in folders[name].iterdir())
        shutil.rmtree(folders[name])
    return dropped


IS_COMPLETE = PartitionCheck(
    "snapshot_is_complete",
    "What was read back of the store is every user and every medoid of the day.",
    """
    SELECT s.dt, s.users, s.clusters, count(m.dt) AS medoids, count(DISTINCT m.user_id) AS users_with_medoids
    FROM serving.snapshot AS s LEFT JOIN users.medoids AS m ON s.dt = m.dt
    WHERE s.dt BETWEEN $first AND $last GROUP BY ALL HAVING s.clusters <> medoids OR s.users < users_with_medoids
    """,
    reads=("users.medoids",),
    advice="Materialise it again, after users.medoids.",
)

ASSETS = [snapshot]
CHECKS = {"serving.snapshot": [IS_COMPLETE]}
