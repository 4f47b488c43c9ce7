"""``retrieval.*``: from medoids to candidates (paper, section 4)."""

import datetime
import functools
import logging
from collections.abc import Callable, Iterator

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from pinnersage_assets.ann.restricted import CorpusIndex, search_among
from pinnersage_assets.lineage import parameters
from pinnersage_assets.lineage.corpus_index import make_index, measure_recall, open_corpus_index, restriction
from pinnersage_assets.lineage.queries import SEEN_CORPUS_PINS, window
from pinnersage_assets.model.candidates import candidate_sets, shares
from pinnersage_assets.model.pinnersage import draw_medoids
from pinnersage_assets.model.population import batches, offsets_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, WINDOW, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# Candidate sets are made for so many medoids at once; each brings some hundred rows.
_MEDOIDS_AT_ONCE = 5_000


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
    code_version="2",
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
    code_version="2",
)
def medoid_neighbours(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """Query the index once for each distinct medoid, as deep as the largest share that some user takes from it."""
    day = partition_day(context)
    settings = parameters.in_force(warehouse, settings, day)
    drawn = drawn_medoids(warehouse, settings, day)
    queries = _queries(drawn, settings)
    search = _neighbour_search(warehouse, settings, day, context.log)
    found = []
    report, done = log_progress(context.log, "medoids"), 0
    # Medoids of equal depth are searched together.
    for (depth,), group in queries.group_by("depth", maintain_order=True):
        found.append(search(group["medoid_pin_id"], depth))
        report(done := done + len(group), len(queries))
    return dg.MaterializeResult(
        value=pl.concat([_NO_NEIGHBOURS, *found]),
        metadata={"queries without the cache": len(drawn), "queries": len(queries)},
    )


_NO_NEIGHBOURS = pl.DataFrame(
    schema={"medoid_pin_id": pl.Int64, "pin_ids": pl.List(pl.Int64), "cosines": pl.List(pl.Float32)}
)


def _neighbour_search(
    warehouse: Warehouse, settings: Settings, day: datetime.date, log: logging.Logger
) -> Callable[[pl.Series, int], pl.DataFrame]:
    """Open the index of a day: gives (medoids, depth) -> their nearest recommendable pins, as `_NO_NEIGHBOURS`."""
    index = open_corpus_index(warehouse, day, log)
    recommendable = restriction(warehouse, day, settings.retrieval.condition)
    allowed = None if recommendable is None else np.isin(index.ids, recommendable.to_numpy(), assume_unique=True)
    known = pin_vectors(warehouse, day)

    def search(medoids: pl.Series, depth: int) -> pl.DataFrame:
        queries = known.select(medoids.to_numpy())[:]
        if allowed is None:
            pins, cosines = index.search(queries, depth)
        else:
            pins, cosines = search_among(index, queries, depth, allowed)
        found = pins != -1
        bounds = np.concatenate([[0], np.cumsum(np.count_nonzero(found, axis=1))])
        lists = {
            name: pl.Series(pa.LargeListArray.from_arrays(bounds, values[found]))
            for name, values in (("pin_ids", pins), ("cosines", cosines))
        }
        return pl.DataFrame({"medoid_pin_id": medoids, **lists})

    return search


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
    code_version="2",
)
def recommendations(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[ParquetFiles]:
    """The neighbours of each user's drawn medoids, without what the user has seen."""
    day = partition_day(context)
    settings = parameters.in_force(warehouse, settings, day)
    drawn = drawn_medoids(warehouse, settings, day)
    pins = _recommendable_pins(warehouse, settings, day)
    neighbours = warehouse.read(
        "SELECT medoid_pin_id, pin_ids, cosines, len(pin_ids) >= $pins AS whole "
        "FROM retrieval.medoid_neighbours WHERE dt = $day",
        {"day": day, "pins": pins},
    )
    seen = warehouse.read(SEEN_CORPUS_PINS, {"day": day, "first": window(day, settings)["first"]})
    report = log_progress(context.log, "medoids")
    offsets = offsets_of(drawn["user_id"].to_numpy())
    search = functools.cache(lambda: _neighbour_search(warehouse, settings, day, context.log))
    waited = 0

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal waited
        yield candidate_sets(drawn.clear(), neighbours, seen)[0]
        for first, last in batches(offsets, _MEDOIDS_AT_ONCE):
            some, near = drawn[offsets[first] : offsets[last]], neighbours
            sets, wanting = candidate_sets(some, near, seen, settings.retrieval.refill)
            yield sets
            waited += wanting["user_id"].n_unique()
            depth = 0
            while len(wanting):
                some = some.join(wanting, on="user_id", how="semi")
                near, depth = _deeper(near, some, wanting, search(), pins, depth)
                sets, wanting = candidate_sets(some, near, seen, settings.retrieval.refill)
                yield sets
            report(int(offsets[last]), len(drawn))

    rows = ParquetFiles.spool(warehouse, (frame.with_columns(dt=pl.lit(day)) for frame in frames()))
    return dg.MaterializeResult(value=rows, metadata={"users for whom more neighbours were searched": waited})


def _recommendable_pins(warehouse: Warehouse, settings: Settings, day: datetime.date) -> int:
    recommendable = restriction(warehouse, day, settings.retrieval.condition)
    if recommendable is not None:
        return len(recommendable)
    return warehouse.read("SELECT count(*) FROM corpus.pins WHERE dt = $day", {"day": day}).item()


def _deeper(
    neighbours: pl.DataFrame,
    drawn: pl.DataFrame,
    wanting: pl.DataFrame,
    search: Callable[[pl.Series, int], pl.DataFrame],
    pins: int,
    searched: int,
) -> tuple[pl.DataFrame, int]:
    """The neighbours of the drawn medoids, those of the wanting ones searched deeper; and how deep.

    That is four times as deep as the deepest of them, and as the search before, which may have found fewer than it was
    asked for.
    """
    own = neighbours.join(drawn, on="medoid_pin_id", how="semi")
    wanted = wanting["medoid_pin_id"].unique().sort()
    deepest = own.filter(pl.col("medoid_pin_id").is_in(wanted.implode()))["pin_ids"].list.len().max() or 1
    depth = 4 * max(deepest, searched)
    found = search(wanted, depth).with_columns(whole=pl.lit(depth >= pins))
    return pl.concat([own.join(found, on="medoid_pin_id", how="anti"), found]), depth


RECALL_IS_HIGH = PartitionCheck(
    "recall_is_high",
    "Searched as deep as medoids are, the index finds at least the share of the true neighbours that the setting "
    "index.recall_floor demands.",
    "SELECT dt, recall, deepest_query FROM retrieval.hnsw_index WHERE dt BETWEEN $first AND $last AND recall < $floor",
    advice="Raise the setting index.expansion_search or index.expansion_add, and materialise the index again.",
    parameters=lambda settings: {"floor": settings.index.recall_floor},
)

ASSETS = [hnsw_index, medoid_neighbours, recommendations]
CHECKS = {"retrieval.hnsw_index": [RECALL_IS_HIGH]}
