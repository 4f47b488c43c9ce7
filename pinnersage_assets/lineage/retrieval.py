"""``retrieval.*``: from medoids to candidates (paper, section 4)."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from pinnersage_assets.ann.locality import nearby_order
from pinnersage_assets.ann.restricted import CorpusIndex
from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.kernels.retrieval import users_who_waited
from pinnersage_assets.lineage import parameters
from pinnersage_assets.lineage.by_bucket import map_buckets
from pinnersage_assets.lineage.corpus_index import make_index, measure_recall
from pinnersage_assets.lineage.kept_neighbours import keep_neighbours, with_fingerprints
from pinnersage_assets.lineage.neighbour_search import medoids_a_bucket, search_neighbours, search_parameters
from pinnersage_assets.lineage.queries import SEEN_CORPUS_PINS, window
from pinnersage_assets.model.candidates import NO_CANDIDATES, shares
from pinnersage_assets.model.pinnersage import draw_medoids
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, WINDOW, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.buckets import Bucket, collect, write_buckets
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import scratch_folder
from pinnersage_assets.warehouse.pin_vectors import pin_vectors


def drawn_medoids(warehouse: Warehouse, settings: Settings, day: datetime.date) -> pl.DataFrame:
    """The medoids that users query on a day: user_id, cluster, medoid_pin_id, share. The same whoever asks."""
    owned = warehouse.read(
        "SELECT user_id, cluster, medoid_pin_id, importance FROM users.medoids WHERE dt = $day "
        "ORDER BY user_id, cluster, medoid_pin_id",
        {"day": day},
    )
    places = draw_medoids(
        owned["user_id"].to_numpy(),
        owned["medoid_pin_id"].to_numpy(),
        owned["importance"].to_numpy(),
        settings.retrieval.sampled_medoids,
        (settings.seed, day.toordinal()),
    )
    drawn = owned.filter(pl.Series(places >= 0))
    retrieval = settings.retrieval
    return shares(drawn, retrieval.budget, retrieval.shares == "importance", retrieval.refill).drop("importance")


def _queries(drawn: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """The distinct medoids with the depth that is asked for: the largest share that some user takes, and the margin."""
    depth = pl.col("share").max() + settings.retrieval.margin
    return drawn.group_by("medoid_pin_id").agg(depth=depth).sort("depth", "medoid_pin_id")


@dg.asset(
    key=["retrieval", "hnsw_index"],
    partitions_def=DAILY,
    deps=[*parameters.READS, *reads(SAME_DAY, "corpus.pins", "users.medoids"), *reads(HISTORY, "staging.pins")],
    kinds={"numpy", "usearch"},
    code_version="3",
)
def hnsw_index(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """Make the index of the day's corpus, or keep the file of an earlier run, and measure its recall."""
    day = partition_day(context)
    settings = parameters.in_force(warehouse, settings, day)
    asked = _queries(drawn_medoids(warehouse, settings, day), settings)
    order = np.argsort(
        keyed_uniform("recall sample", settings.seed, day.toordinal(), asked["medoid_pin_id"].to_numpy())
    )
    sample = asked[order[: settings.index.recall_sample]]
    queries = pin_vectors(warehouse, day).select(sample["medoid_pin_id"].to_numpy())[:]

    def recall_as_used(index: CorpusIndex) -> float | None:
        return measure_recall(index, queries, sample["depth"].to_numpy())

    shards = make_index(warehouse, settings, day, recall_as_used, context.log, log_progress(context.log, "pins"))
    return pl.DataFrame(
        [
            {
                **made.columns,
                "recall": made.recall,
                "recall_at_100": measure_recall(made.index, queries, np.full(len(queries), 100)),
                "deepest_query": asked["depth"].max(),
            }
            for made in shards
        ],
        schema_overrides={"fingerprint": pl.UInt64},
        infer_schema_length=None,
    )


@dg.asset(
    key=["retrieval", "medoid_neighbours"],
    partitions_def=DAILY,
    deps=[
        *parameters.READS,
        *reads(SAME_DAY, "retrieval.hnsw_index", "corpus.pins", "users.medoids"),
        *reads(HISTORY, "staging.pins"),
    ],
    kinds={"usearch"},
    code_version="4",
)
def medoid_neighbours(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult:
    """Query the index once for each distinct medoid, as deep as the largest share that some user takes from it.

    A list of the day before that lacks nothing but new pins is kept, with these.
    """
    day = partition_day(context)
    settings = parameters.in_force(warehouse, settings, day)
    drawn = drawn_medoids(warehouse, settings, day)
    queries = with_fingerprints(_with_rows(_queries(drawn, settings), warehouse, day), warehouse, settings, day)
    with scratch_folder(warehouse) as folder:
        search = search_parameters(warehouse, settings, day, folder, context.log)
        kept = keep_neighbours(warehouse, settings, day, queries, folder, context.log)
        found = search_neighbours(
            engine.get_engine(),
            _nearby(kept.fresh, warehouse, day),
            search,
            medoids_a_bucket(settings),
            folder,
            log_progress(context.log, "tasks of medoids"),
        )
        updated = map_buckets(
            engine.get_engine(),
            "pinnersage_assets.kernels.retrieval:update_neighbours",
            kept.buckets,
            {"vectors": search["index"]["vectors"], "new": str(kept.new)},
            folder / "updated",
            log_progress(context.log, "buckets of kept medoids"),
        )
        by_medoid = ("medoid_pin_id",)
        expected = {"count(*)": len(queries)}
        files = [*found, *updated]
        rows = collect(warehouse, files, expected, by_medoid, by_medoid) if files else _NO_NEIGHBOURS
    return dg.MaterializeResult(
        value=rows,
        metadata={
            "queries without the cache": len(drawn),
            "queries": len(queries),
            "queries reused from the day before": len(queries) - len(kept.fresh),
        },
    )


_NO_NEIGHBOURS = pl.DataFrame(
    schema={
        "medoid_pin_id": pl.Int64,
        "pin_ids": pl.List(pl.Int64),
        "cosines": pl.List(pl.Float32),
        "fingerprint": pl.Int64,
        "corpus_fingerprint": pl.UInt64,
    }
)


def _with_rows(medoids: pl.DataFrame, warehouse: Warehouse, day: datetime.date) -> pl.DataFrame:
    """Of each medoid also pin_row, where its vector stands in the vector file."""
    selected = pin_vectors(warehouse, day).select(medoids["medoid_pin_id"].to_numpy())
    return medoids.with_columns(pin_row=pl.Series(selected.rows))


def _nearby(queries: pl.DataFrame, warehouse: Warehouse, day: datetime.date) -> pl.DataFrame:
    """Queries by depth, and among those of equal depth like ones together: they take less time one after another."""
    source = pin_vectors(warehouse, day).source
    alike = queries.partition_by("depth", maintain_order=True)
    parts = (part[nearby_order(SelectedVectors(source, part["pin_row"].to_numpy()))] for part in alike)
    return pl.concat([queries.clear(), *parts])


@dg.asset(
    key=["retrieval", "recommendations"],
    partitions_def=DAILY,
    deps=[
        *parameters.READS,
        *reads(SAME_DAY, "retrieval.medoid_neighbours", "retrieval.hnsw_index", "users.medoids", "corpus.pins"),
        *reads(WINDOW, "staging.actions"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"polars"},
    code_version="3",
)
def recommendations(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult:
    """The neighbours of each user's drawn medoids, without what the user has seen."""
    day = partition_day(context)
    settings = parameters.in_force(warehouse, settings, day)
    drawn = _with_rows(drawn_medoids(warehouse, settings, day), warehouse, day)
    with scratch_folder(warehouse) as folder:
        search = search_parameters(warehouse, settings, day, folder, context.log)
        buckets, neighbours, users = _write_drawn(warehouse, drawn, search, window(day, settings), settings, folder)
        found = map_buckets(
            engine.get_engine(),
            "pinnersage_assets.kernels.retrieval:recommend_bucket",
            buckets,
            {**search, "neighbours": str(neighbours), "refill": settings.retrieval.refill},
            folder / "sets",
            log_progress(context.log, "buckets of users"),
            keeps_rows=False,
        )
        waited = sum(map(users_who_waited, found))
        expected, ranks = {"count(DISTINCT user_id)": users}, ("user_id", "rank")
        rows = collect(warehouse, found, expected, ("user_id", "pin_id"), ranks, ranks) if found else NO_CANDIDATES
    return dg.MaterializeResult(value=rows, metadata={"users for whom more neighbours were searched": waited})


_SEEN = """
    CREATE TEMP TABLE seen AS
    SELECT user_id, list(pin_id ORDER BY pin_id) AS seen FROM ({}) WHERE user_id IN (SELECT user_id FROM drawn)
    GROUP BY user_id
"""

# What a user has seen stands in the first of the user's rows.
_DRAWN = """
    SELECT user_id, place, medoid_pin_id, pin_row, share, CASE WHEN place = 0 THEN seen END AS seen
    FROM drawn LEFT JOIN seen USING (user_id)
"""

# Who has seen all that may be recommended gets nothing.
_USERS = """
    SELECT count(DISTINCT user_id) FROM drawn LEFT JOIN seen USING (user_id) WHERE coalesce(len(seen), 0) < $pins
"""

_NEIGHBOURS = "SELECT medoid_pin_id, pin_ids, cosines FROM retrieval.medoid_neighbours WHERE dt = $day"

# Lists that are in memory at once as they are written.
_LISTS_AT_ONCE = 10_000


def _write_drawn(
    warehouse: Warehouse,
    drawn: pl.DataFrame,
    search: Mapping[str, Any],
    scope: dict[str, object],
    settings: Settings,
    folder: Path,
) -> tuple[list[Bucket], Path, int]:
    """Users in buckets, with their drawn medoids and what they have seen.

    Returns:
        The buckets; a file with the neighbours of all medoids; and how many users must get something.
    """
    numbered = drawn.with_columns(place=pl.int_range(pl.len()).over("user_id"))
    neighbours, day = folder / "neighbours.arrow", {"day": scope["day"]}
    seen = SEEN_CORPUS_PINS
    with warehouse.get_reader() as connection:
        connection.register("drawn", numbered)
        if search["allowed"] is not None:
            connection.register("allowed", pl.DataFrame({"pin_id": np.load(search["allowed"])}))
            seen = f"FROM ({SEEN_CORPUS_PINS}) SEMI JOIN allowed USING (pin_id)"
        connection.execute(_SEEN.format(seen), {**day, "first": scope["first"]})
        [(users,)] = connection.execute(_USERS, {"pins": search["pins"]}).fetchall()
        (folder / "buckets").mkdir()
        order, medoids = ["place"], medoids_a_bucket(settings)
        buckets = write_buckets(connection, _DRAWN, "user_id", order, medoids, folder / "buckets")
        lists = connection.sql(_NEIGHBOURS, params=day).to_arrow_reader(_LISTS_AT_ONCE)
        with pa.ipc.new_file(neighbours, lists.schema) as file:
            for some in lists:
                file.write_batch(some)
    return buckets, neighbours, users


RECALL_IS_HIGH = PartitionCheck(
    "recall_is_high",
    "Searched as deep as medoids are, the index finds at least the share of the true neighbours that the setting "
    "index.recall_floor demands.",
    "SELECT dt, shard, recall, deepest_query FROM retrieval.hnsw_index "
    "WHERE dt BETWEEN $first AND $last AND recall < $floor",
    advice="Raise the setting index.expansion_search or index.expansion_add, and materialise the index again.",
    parameters=lambda settings: {"floor": settings.index.recall_floor},
)

ASSETS = [hnsw_index, medoid_neighbours, recommendations]
CHECKS = {"retrieval.hnsw_index": [RECALL_IS_HIGH]}
