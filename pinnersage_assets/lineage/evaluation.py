"""``evaluation.*``: the models of yesterday judged on the actions of today (paper, section 5.3).

Corpus, popularity and users' windows are as of the day before; nothing that a model uses is of the day itself.
"""

import datetime

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann.costs import hnsw_cost, orthoplex_cost, unrefined_cost
from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.ann.hnsw import build
from pinnersage_assets.lineage.corpus_index import parameters_of
from pinnersage_assets.lineage.queries import (
    CORPUS_VECTORS,
    INTEREST_ACTIONS,
    SEEN_CORPUS_PINS,
    pin_vectors,
    window,
)
from pinnersage_assets.lineage.retrieval import drawn_medoids
from pinnersage_assets.model.population import offsets_of, rows_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.retrieval_metrics import (
    Pairs,
    Targets,
    judge,
    popular_rows,
)
from pinnersage_assets.model.retrieval_models import MODELS, Knowledge
from pinnersage_assets.partitions import (
    DAILY,
    HISTORY,
    SAME_DAY,
    YESTERDAY,
    YESTERDAYS_WINDOW,
    partition_day,
    reads,
)
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# What users did today that they had not seen in the window: a row a user and group of near-duplicates. The target is
# the group's pin in yesterday's corpus; a pin that may be recommended from today on stands for itself; one that may
# not, or that is not known, has no vector and is a miss.
TARGETS = """
    WITH grouped AS (
        SELECT p.pin_id, p.dt, coalesce(d.canonical_pin_id, p.pin_id) AS pin_group
        FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
        WHERE p.dt <= $today
    ),
    recommendable AS (
        SELECT g.pin_group, c.pin_id FROM corpus.pins AS c JOIN grouped AS g ON c.pin_id = g.pin_id WHERE c.dt = $day
    ),
    acted AS (
        SELECT a.dt, a.user_id, a.pin_id, a.action, coalesce(g.pin_group, a.pin_id) AS pin_group
        FROM staging.actions AS a LEFT JOIN grouped AS g ON a.pin_id = g.pin_id
        WHERE a.dt BETWEEN $first AND $today
    ),
    next_actions AS (
        SELECT user_id, pin_group, min(pin_id) AS pin_id FROM acted AS a
        WHERE dt = $today AND list_contains($interest, action) AND NOT EXISTS (
            FROM acted AS b WHERE b.dt <= $day AND b.user_id = a.user_id AND b.pin_group = a.pin_group
        )
        GROUP BY user_id, pin_group
    )
    SELECT n.user_id, r.pin_id AS corpus_pin_id,
        CASE
            WHEN r.pin_id IS NOT NULL THEN r.pin_id
            WHEN n.pin_id IN (SELECT pin_id FROM corpus.excluded WHERE dt = $today) THEN NULL
            ELSE (SELECT g.pin_id FROM grouped AS g WHERE g.pin_id = n.pin_id)
        END AS vector_pin_id
    FROM next_actions AS n LEFT JOIN recommendable AS r ON n.pin_group = r.pin_group
    ORDER BY n.user_id, n.pin_group
"""

# The actions that models know, of pins with a vector.
KNOWN_ACTIONS = f"""
    SELECT a.user_id, a.pin_id, epoch($day + INTERVAL 1 DAY - a.ts) / 86400 AS age
    FROM ({INTEREST_ACTIONS}) AS a WHERE a.pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)
    ORDER BY a.user_id, age, a.pin_id
"""

# PinnerSage is judged by what was really recommended.
RECOMMENDED = "SELECT user_id, pin_id FROM retrieval.recommendations WHERE dt = $day"


@dg.asset(
    key=["evaluation", "retrieval_users"],
    partitions_def=DAILY,
    deps=[
        *reads(YESTERDAYS_WINDOW, "staging.actions"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
        *reads(SAME_DAY, "corpus.excluded"),
        *reads(YESTERDAY, "retrieval.recommendations", "corpus.pins"),
    ],
    kinds={"numpy"},
    code_version="2",
)
def retrieval_users(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every model's candidate set for every user who did something new, and how much of it the set foresaw."""
    today = partition_day(context)
    scope = window(today - datetime.timedelta(days=1), settings)
    targets = warehouse.read(TARGETS, {**scope, "today": today})
    actions = warehouse.read(KNOWN_ACTIONS, scope)
    users, cold = _users_to_judge(targets, actions, settings, today)
    judged = []
    if len(users):
        known = _yesterday(warehouse, settings, scope, users, actions)
        wanted = _targets(warehouse, targets, known, today)
        for model, candidates_of in MODELS.items():
            counts = judge(candidates_of(known), wanted, known.corpus, len(users), settings.evaluation.relevance_cosine)
            judged.append(pl.DataFrame({"user_id": users, **vars(counts)}).with_columns(model=pl.lit(model)))
            context.log.info(f"judged {model} on {len(users):,} users")
    rows = pl.concat(judged) if judged else pl.DataFrame(schema=["user_id", "model", *_COUNTS])
    return dg.MaterializeResult(
        value=rows.with_columns(seed=pl.lit(settings.seed, pl.Int32)),
        metadata={"users who did something new": targets["user_id"].n_unique(), "cold users, not judged": cold},
    )


_COUNTS = ("targets", "relevant", "recalled", "set_size")


def _users_to_judge(
    targets: pl.DataFrame, actions: pl.DataFrame, settings: Settings, today: datetime.date
) -> tuple[NDArray[np.int64], int]:
    """Users with something to foresee and something known, ascending, sampled by seed; and how many lack the latter."""
    wanted, known = targets["user_id"].unique(), actions["user_id"].unique()
    warm = np.intersect1d(wanted.to_numpy(), known.to_numpy())
    order = np.argsort(keyed_uniform("evaluated users", settings.seed, today.toordinal(), warm))
    return np.sort(warm[order[: settings.evaluation.users]]), len(wanted) - len(warm)


def _yesterday(
    warehouse: Warehouse,
    settings: Settings,
    scope: dict[str, object],
    users: NDArray[np.int64],
    actions: pl.DataFrame,
) -> Knowledge:
    day = scope["day"]
    corpus_ids, corpus = warehouse.read_vectors(CORPUS_VECTORS, {"day": day})
    pin_ids, vectors = pin_vectors(warehouse, f"SELECT pin_id FROM ({INTEREST_ACTIONS})", scope)

    def numbered(frame: pl.DataFrame, pin: str, ids: NDArray[np.int64], row: str) -> pl.DataFrame:
        own = _rows_of_users(frame, users)
        return own.with_columns(pl.Series(row, rows_of(ids, own[pin].to_numpy())))

    seen_pins = warehouse.read(SEEN_CORPUS_PINS, {"day": day, "first": scope["first"]})
    seen = numbered(seen_pins, "pin_id", corpus_ids, "row")
    recommended = numbered(warehouse.read(RECOMMENDED, {"day": day}), "pin_id", corpus_ids, "row")
    acted = actions.filter(pl.col("pin_id").is_in(corpus_ids.tolist()))
    return Knowledge(
        users=users,
        corpus_ids=corpus_ids,
        corpus=corpus,
        search=lambda queries, k: exact_search(queries, corpus, k)[0],
        seen=Pairs.of(seen["user"].to_numpy(), seen["row"].to_numpy()),
        actions=numbered(actions, "pin_id", pin_ids, "pin_row"),
        vectors=vectors,
        recommended=Pairs.of(recommended["user"].to_numpy(), recommended["row"].to_numpy()),
        popular=popular_rows(rows_of(corpus_ids, acted["pin_id"].to_numpy()), len(corpus)),
        budget=settings.retrieval.budget,
        decay_per_day=settings.evaluation.decay_per_day,
        keys=(settings.seed, day.toordinal()),
    )


def _rows_of_users(frame: pl.DataFrame, users: NDArray[np.int64]) -> pl.DataFrame:
    """The rows of some users, with the place of each among them as ``user``."""
    numbers = pl.DataFrame({"user_id": users, "user": np.arange(len(users))})
    return frame.join(numbers, on="user_id", maintain_order="left")


def _targets(warehouse: Warehouse, targets: pl.DataFrame, known: Knowledge, today: datetime.date) -> Targets:
    own = _rows_of_users(targets, known.users)
    wanted_pins = own["vector_pin_id"].drop_nulls().unique().to_list()
    ids, vectors = pin_vectors(warehouse, "SELECT unnest($pins)", {"day": today, "pins": wanted_pins})
    has_vector = own["vector_pin_id"].is_not_null().to_numpy()
    wanted = np.zeros((len(own), known.corpus.shape[1]), dtype=np.float32)
    wanted[has_vector] = vectors[rows_of(ids, own["vector_pin_id"].drop_nulls().to_numpy())]
    in_corpus = own["corpus_pin_id"].is_not_null().to_numpy()
    rows = np.full(len(own), -1)
    rows[in_corpus] = rows_of(known.corpus_ids, own["corpus_pin_id"].drop_nulls().to_numpy())
    return Targets(own["user"].to_numpy(), rows, wanted)


@dg.asset(
    key=["evaluation", "retrieval"],
    partitions_def=DAILY,
    deps=reads(SAME_DAY, "evaluation.retrieval_users"),
    kinds={"polars"},
    code_version="1",
)
def retrieval(context: dg.AssetExecutionContext, warehouse: Warehouse) -> pl.DataFrame:
    """Means over users: a user with many actions counts as much as one with few."""
    return warehouse.read(
        """
        SELECT model, avg(relevant / targets) AS relevance, avg(recalled / targets) AS recall,
            avg(set_size) AS set_size, count(*) AS users
        FROM evaluation.retrieval_users WHERE dt = $day GROUP BY model ORDER BY model
        """,
        {"day": partition_day(context)},
    )


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
        *reads(SAME_DAY, "users.medoids", "users.clusters", "corpus.pins"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"numpy", "usearch"},
    code_version="1",
)
def index_cost(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """What a day's queries cost by each technique, measured on a sample of pins and of queries, at equal recall."""
    day = partition_day(context)
    pins = _sampled_groups(warehouse, settings, day)
    drawn = drawn_medoids(warehouse, settings, day)
    k = min(_NEIGHBOURS, pins["recommendable"].sum())
    if k == 0 or drawn.is_empty():
        return pl.DataFrame(schema=[*_COST_COLUMNS])
    ids, vectors = pin_vectors(warehouse, "SELECT unnest($pins)", {"day": day, "pins": pins["pin_id"].to_list()})
    full = build(ids, vectors, parameters_of(settings), threads=1)
    own = pins["recommendable"].to_numpy()
    refined = build(ids[own], vectors[own], parameters_of(settings), threads=1)
    medoids, centroids = _sampled_queries(warehouse, settings, day, drawn)
    hnsw = hnsw_cost(refined, medoids, k)
    costs = {
        "LSH orthoplex": orthoplex_cost(refined.vectors, medoids, k, hnsw.recall, settings.seed),
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
        "WHERE dt = $day AND list_contains($users, user_id) ORDER BY user_id, cluster, pin_id",
        {"day": day, "users": some["user_id"].unique().to_list()},
    ).join(some, on=["user_id", "cluster"], how="semi", maintain_order="left")
    pins = pl.concat([members["pin_id"], some["medoid_pin_id"]]).unique().to_list()
    ids, vectors = pin_vectors(warehouse, "SELECT unnest($pins)", {"day": day, "pins": pins})
    weighted = vectors[rows_of(ids, members["pin_id"].to_numpy())] * members["actions"].to_numpy()[:, None]
    starts = offsets_of(members.select(pl.struct("user_id", "cluster").rle_id()).to_series().to_numpy().astype(int))
    sums = np.add.reduceat(weighted, starts[:-1], axis=0, dtype=np.float64)
    centroids = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return vectors[rows_of(ids, some["medoid_pin_id"].to_numpy())], centroids


ASSETS = [retrieval_users, retrieval, index_cost]
