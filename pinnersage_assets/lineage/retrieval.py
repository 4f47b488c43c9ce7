"""``retrieval.*``: from medoids to candidates (paper, section 4)."""

import datetime
import time
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from pinnersage_assets.ann.exact import exact_search, recall
from pinnersage_assets.ann.hnsw import (
    METRIC,
    HnswIndex,
    HnswParameters,
    IndexFileError,
    build,
    checksum,
    fingerprint,
    open_index,
    save,
)
from pinnersage_assets.lineage.queries import CORPUS_VECTORS, SEEN_CORPUS_PINS, pin_vectors, window
from pinnersage_assets.model.candidates import candidate_sets, shares
from pinnersage_assets.model.pinnersage import draw_medoids
from pinnersage_assets.model.population import batches, offsets_of, rows_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, WINDOW, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles

_MEDOIDS = "SELECT medoid_pin_id FROM users.medoids WHERE dt = $day"

# Candidate sets are made for so many medoids at once; each brings some hundred rows.
_MEDOIDS_AT_ONCE = 5_000


def drawn_medoids(warehouse: Warehouse, settings: Settings, day: datetime.date) -> pl.DataFrame:
    """The medoids that users query on a day: user_id, medoid_pin_id, share. The same whoever asks."""
    owned = warehouse.read(
        "SELECT user_id, medoid_pin_id, importance FROM users.medoids WHERE dt = $day "
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
    drawn = owned.filter(pl.Series(places >= 0)).drop("importance")
    return shares(drawn, settings.retrieval.budget)


@dg.asset(
    key=["retrieval", "hnsw_index"],
    partitions_def=DAILY,
    deps=[*reads(SAME_DAY, "corpus.pins", "users.medoids"), *reads(HISTORY, "staging.pins")],
    kinds={"numpy", "usearch"},
    code_version="1",
)
def hnsw_index(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """Build the index of the day's corpus, or keep the file of an earlier run, and measure its recall."""
    day = partition_day(context)
    ids, vectors = warehouse.read_vectors(CORPUS_VECTORS, {"day": day})
    parameters = _parameters(settings)
    path = Path(f"index/dt={day}/hnsw-{fingerprint(ids, vectors, parameters)}.usearch")
    started = time.perf_counter()
    index = _index_of_earlier_run(context, warehouse, path, ids, vectors, parameters.expansion_search)
    build_seconds = 0.0
    if index is None:
        index = build(ids, vectors, parameters, log_progress(context.log, "pins"))
        save(index, warehouse.data_folder / path)
        build_seconds = time.perf_counter() - started
    queries = _sample_of_medoids(warehouse, settings, day)
    file = warehouse.data_folder / path
    return pl.DataFrame(
        {
            "path": [str(path)],
            "pins": [len(ids)],
            "dimensions": [vectors.shape[1]],
            "metric": [METRIC],
            **{name: [value] for name, value in vars(parameters).items()},
            "recall_at_100": [_recall(index, queries, 100)],
            "bytes": [file.stat().st_size],
            "sha256": [checksum(file)],
            "build_seconds": [build_seconds],
        }
    )


def _parameters(settings: Settings) -> HnswParameters:
    index = settings.index
    return HnswParameters(index.connectivity, index.expansion_add, index.expansion_search, index.dtype)


def _index_of_earlier_run(
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    path: Path,
    ids: np.ndarray,
    vectors: np.ndarray,
    expansion_search: int,
) -> HnswIndex | None:
    """The index of an earlier run of this partition, if it was built from the same and its file is unharmed."""
    rows = warehouse.read(
        "SELECT sha256 FROM retrieval.hnsw_index WHERE dt = $day AND path = $path",
        {"day": partition_day(context), "path": str(path)},
    ).to_dicts()
    for row in rows:
        try:
            return open_index(warehouse.data_folder / path, row["sha256"], ids, vectors, expansion_search)
        except IndexFileError as error:
            context.log.warning(f"{error}; the index is built again")
    return None


def _sample_of_medoids(warehouse: Warehouse, settings: Settings, day: datetime.date) -> np.ndarray:
    ids, vectors = pin_vectors(warehouse, _MEDOIDS, {"day": day})
    order = np.argsort(keyed_uniform("recall sample", settings.seed, day.toordinal(), ids))
    return vectors[order[: settings.index.recall_sample]]


def _recall(index: HnswIndex, queries: np.ndarray, k: int) -> float | None:
    if len(queries) == 0 or len(index.ids) == 0:
        return None
    exact, _ = exact_search(queries, index.vectors, k)
    found, _ = index.search(queries, k)
    return recall(found, index.ids[exact])


@dg.asset(
    key=["retrieval", "medoid_neighbours"],
    partitions_def=DAILY,
    deps=[
        *reads(SAME_DAY, "retrieval.hnsw_index", "corpus.pins", "users.medoids"),
        *reads(HISTORY, "staging.pins"),
    ],
    kinds={"usearch"},
    code_version="1",
)
def medoid_neighbours(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """Query the index once for each distinct medoid, as deep as the largest share that some user takes from it."""
    day = partition_day(context)
    ids, vectors = warehouse.read_vectors(CORPUS_VECTORS, {"day": day})
    (row,) = warehouse.read("FROM retrieval.hnsw_index WHERE dt = $day", {"day": day}).to_dicts()
    index = open_index(warehouse.data_folder / row["path"], row["sha256"], ids, vectors, row["expansion_search"])
    drawn = drawn_medoids(warehouse, settings, day)
    queries = drawn.group_by("medoid_pin_id").agg(depth=pl.col("share").max() + settings.retrieval.margin)
    medoid_ids, medoid_vectors = pin_vectors(warehouse, _MEDOIDS, {"day": day})
    found = []
    report, done = log_progress(context.log, "medoids"), 0
    # Medoids of equal depth are searched together: there are as many depths as medoids a user can have.
    for (depth,), group in queries.sort("depth", "medoid_pin_id").group_by("depth", maintain_order=True):
        rows = rows_of(medoid_ids, group["medoid_pin_id"].to_numpy())
        pin_ids, cosines = index.search(medoid_vectors[rows], depth)
        found.append(_neighbours(group["medoid_pin_id"], pin_ids, cosines))
        report(done := done + len(group), len(queries))
    return dg.MaterializeResult(
        value=pl.concat([_neighbours(pl.Series([], dtype=pl.Int64), [], []), *found]),
        metadata={"queries without the cache": len(drawn), "queries": len(queries)},
    )


def _neighbours(medoids: pl.Series, pin_ids: list[np.ndarray], cosines: list[np.ndarray]) -> pl.DataFrame:
    bounds = np.cumsum([0, *map(len, pin_ids)])

    def lists(values: list[np.ndarray], dtype: type) -> pl.Series:
        flat = np.concatenate([np.empty(0, dtype), *values])
        return pl.Series(pa.LargeListArray.from_arrays(bounds, flat))

    return pl.DataFrame(
        {"medoid_pin_id": medoids, "pin_ids": lists(pin_ids, np.int64), "cosines": lists(cosines, np.float32)}
    )


@dg.asset(
    key=["retrieval", "recommendations"],
    partitions_def=DAILY,
    deps=[
        *reads(SAME_DAY, "retrieval.medoid_neighbours", "users.medoids", "corpus.pins"),
        *reads(WINDOW, "staging.actions"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"polars"},
    code_version="1",
)
def recommendations(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> ParquetFiles:
    """The neighbours of each user's drawn medoids, without what the user has seen."""
    day = partition_day(context)
    drawn = drawn_medoids(warehouse, settings, day)
    neighbours = warehouse.read(
        "SELECT medoid_pin_id, pin_ids, cosines FROM retrieval.medoid_neighbours WHERE dt = $day", {"day": day}
    )
    seen = warehouse.read(SEEN_CORPUS_PINS, {"day": day, "first": window(day, settings)["first"]})
    report = log_progress(context.log, "medoids")
    offsets = offsets_of(drawn["user_id"].to_numpy())

    def frames():
        yield candidate_sets(drawn.clear(), neighbours, seen).with_columns(dt=pl.lit(day))
        for first, last in batches(offsets, _MEDOIDS_AT_ONCE):
            some = drawn[offsets[first] : offsets[last]]
            yield candidate_sets(some, neighbours, seen).with_columns(dt=pl.lit(day))
            report(int(offsets[last]), len(drawn))

    return ParquetFiles.spool(warehouse, frames())


RECALL_IS_HIGH = PartitionCheck(
    "recall_is_high",
    "The index finds at least the share of the true neighbours that the setting index.recall_floor demands.",
    "SELECT dt, recall_at_100 FROM retrieval.hnsw_index WHERE dt BETWEEN $first AND $last AND recall_at_100 < $floor",
    advice="Raise the setting index.expansion_search or index.expansion_add, and materialise the index again.",
    parameters=lambda settings: {"floor": settings.index.recall_floor},
)

ASSETS = [hnsw_index, medoid_neighbours, recommendations]
CHECKS = {"retrieval.hnsw_index": [RECALL_IS_HIGH]}
