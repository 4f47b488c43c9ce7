"""``evaluation.index_cost``: what searching costs by other techniques (paper, Table 2)."""

import datetime

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann.costs import hnsw_cost, orthoplex_cost, unrefined_cost
from pinnersage_assets.ann.hnsw import build
from pinnersage_assets.lineage import parameters
from pinnersage_assets.lineage.corpus_index import parameters_of
from pinnersage_assets.lineage.retrieval import drawn_medoids
from pinnersage_assets.model.population import offsets_of, rows_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# Every known pin, with what names its group of near-duplicates and whether it may be recommended.
_GROUPED_PINS = """
    SELECT p.pin_id, coalesce(d.canonical_pin_id, p.pin_id) AS pin_group, c.pin_id IS NOT NULL AS recommendable
    FROM staging.pins AS p
    LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
    LEFT JOIN corpus.pins AS c ON p.pin_id = c.pin_id AND c.dt = $day
    WHERE p.dt <= $day ORDER BY p.pin_id
"""

# Technique, what it is compared with, and the paper's relative cost (Table 2).
_TECHNIQUES = (
    ("LSH orthoplex", "LSH orthoplex", None),
    ("HNSW", "LSH orthoplex", 0.4),
    ("full index", "full index", None),
    ("refined index", "full index", 0.5),
    ("cluster centroids", "cluster centroids", None),
    ("cached medoids", "cluster centroids", 0.25),
)
_NEIGHBOURS = 100


@dg.asset(
    key=["evaluation", "index_cost"],
    partitions_def=DAILY,
    deps=[
        *parameters.READS,
        *reads(SAME_DAY, "users.medoids", "users.clusters", "corpus.pins"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"numpy", "usearch"},
    code_version="1",
)
def index_cost(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """What a day's queries cost by each technique, measured on a sample of pins and of queries, at equal recall."""
    day = partition_day(context)
    settings = parameters.in_force(warehouse, settings, day)
    pins = _sampled_groups(warehouse, settings, day)
    drawn = drawn_medoids(warehouse, settings, day)
    own = pins["recommendable"].to_numpy()
    k = min(_NEIGHBOURS, int(own.sum()))
    if k == 0 or drawn.is_empty():
        return pl.DataFrame(schema=[*_COST_COLUMNS])
    ids, vectors = pin_vectors(warehouse, day).known(pins["pin_id"].to_numpy())
    full = build(ids, vectors, parameters_of(settings), threads=1)
    corpus = vectors[own]
    refined = build(ids[own], corpus, parameters_of(settings), threads=1)
    medoids, centroids = _sampled_queries(warehouse, settings, day, drawn)
    hnsw = hnsw_cost(refined, medoids, k)
    costs = {
        "LSH orthoplex": orthoplex_cost(corpus, medoids, k, hnsw.recall, settings.seed),
        "HNSW": hnsw,
        "full index": unrefined_cost(full, refined, medoids, k),
        "refined index": hnsw,
        "cluster centroids": hnsw_cost(refined, centroids, k),
        "cached medoids": hnsw,
    }
    searches = {technique: drawn["medoid_pin_id"].n_unique() for technique in costs} | {"cluster centroids": len(drawn)}
    sizes = {technique: len(refined.ids) for technique in costs} | {"full index": len(full.ids)}
    rows = [
        {
            "technique": technique,
            "compared_with": base,
            "cost": costs[technique].distances * searches[technique],
            "relative_cost": (
                costs[technique].distances * searches[technique] / (costs[base].distances * searches[base])
            ),
            "paper_relative_cost": paper,
            "seconds": costs[technique].seconds * searches[technique],
            "queries": searches[technique],
            "pins": sizes[technique],
            "recall": costs[technique].recall,
        }
        for technique, base, paper in _TECHNIQUES
    ]
    return pl.DataFrame(rows, schema_overrides={"paper_relative_cost": pl.Float64}, infer_schema_length=None)


_COST_COLUMNS = (
    "technique",
    "compared_with",
    "cost",
    "relative_cost",
    "paper_relative_cost",
    "seconds",
    "queries",
    "pins",
    "recall",
)


def _sampled_groups(warehouse: Warehouse, settings: Settings, day: datetime.date) -> pl.DataFrame:
    """Some pins in whole groups of near-duplicates, drawn by seed: pin_id, pin_group, recommendable."""
    pins = warehouse.read(_GROUPED_PINS, {"day": day})
    chance = keyed_uniform("index cost", settings.seed, pins["pin_group"].to_numpy())
    drawn = pins.with_columns(chance=pl.Series(chance)).sort("chance", "pin_group").with_row_index("place", 1)
    last_place = pl.col("place").max().over("pin_group")
    return drawn.filter(last_place <= settings.evaluation.index_cost_pins).sort("pin_id")


def _sampled_queries(
    warehouse: Warehouse, settings: Settings, day: datetime.date, drawn: pl.DataFrame
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of the medoids, and of the centroids, of some of the clusters that users query, in one order."""
    users, clusters = drawn["user_id"].to_numpy(), drawn["cluster"].to_numpy().astype(np.int64)
    chance = keyed_uniform("index cost queries", settings.seed, day.toordinal(), users, clusters)
    some = drawn[np.argsort(chance)[: settings.index.recall_sample]].sort("user_id", "cluster", "medoid_pin_id")
    members = warehouse.read(
        "SELECT user_id, cluster, pin_id, actions FROM users.clusters "
        "WHERE dt = $day AND user_id IN (SELECT unnest($users)) ORDER BY user_id, cluster, pin_id",
        {"day": day, "users": some["user_id"].unique().to_list()},
    ).join(some, on=["user_id", "cluster"], how="semi", maintain_order="left")
    pins = pl.concat([members["pin_id"], some["medoid_pin_id"]]).to_numpy()
    ids, vectors = pin_vectors(warehouse, day).known(pins)
    weighted = vectors[rows_of(ids, members["pin_id"].to_numpy())] * members["actions"].to_numpy()[:, None]
    starts = offsets_of(members.select(pl.struct("user_id", "cluster").rle_id()).to_series().to_numpy().astype(int))
    sums = np.add.reduceat(weighted, starts[:-1], axis=0, dtype=np.float64)
    centroids = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return vectors[rows_of(ids, some["medoid_pin_id"].to_numpy())], centroids
