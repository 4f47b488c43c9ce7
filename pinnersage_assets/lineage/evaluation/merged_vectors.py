"""``evaluation.merged_vectors``: what a mean of unlike interests retrieves (paper, section 2, Figure 2)."""

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.ann.restricted import search_whole
from pinnersage_assets.lineage.corpus_index import open_corpus_index
from pinnersage_assets.lineage.queries import SEEN_CORPUS_PINS, corpus_vectors, of_users, window
from pinnersage_assets.model.merged_vectors import merged_against_medoids
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, WINDOW, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# The figure merges three pins, of the user's three interests; recommendations are made of as many medoids.
_MERGED = 3
# Pins that each vector retrieves: some that a user would look at, not as many as a budget.
_NEIGHBOURS = 20

_USERS = "SELECT DISTINCT user_id FROM users.medoids WHERE dt = $day"

_MEDOIDS = """
    SELECT user_id, medoid_pin_id AS pin_id, importance FROM users.medoids
    WHERE dt = $day AND user_id IN (SELECT unnest($users)) ORDER BY user_id, cluster, medoid_pin_id
"""
_ACTED = "SELECT user_id, pin_id FROM users.clusters WHERE dt = $day AND user_id IN (SELECT unnest($users))"


@dg.asset(
    key=["evaluation", "merged_vectors"],
    partitions_def=DAILY,
    deps=[
        *reads(SAME_DAY, "users.medoids", "users.clusters", "corpus.pins", "retrieval.hnsw_index"),
        *reads(WINDOW, "staging.actions"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"numpy"},
    code_version="2",
)
def merged_vectors(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """How near to a user's pins is what the mean of three medoids retrieves, and what each of them retrieves."""
    day = partition_day(context)
    everybody = warehouse.read(_USERS, {"day": day})["user_id"].to_numpy()
    users = keyed_sample(everybody, settings.evaluation.users, "evaluated users", settings.seed, day.toordinal())
    scope = {"day": day, "users": users.tolist()}
    medoids, acted = warehouse.read(_MEDOIDS, scope), warehouse.read(_ACTED, scope)
    seen = warehouse.read(of_users(SEEN_CORPUS_PINS), {**scope, "first": window(day, settings)["first"]})
    ids, vectors = pin_vectors(warehouse, day).known(acted["pin_id"].to_numpy())
    corpus_ids, corpus = corpus_vectors(warehouse, day)
    index = None
    if len(corpus_ids) > settings.evaluation.exact_up_to:
        index = open_corpus_index(warehouse, day, context.log)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return search_whole(index, queries, k) if index else exact_search(queries, corpus, k)[0]

    def pairs(frame: pl.DataFrame, of: np.ndarray) -> Pairs:
        return Pairs.of(np.searchsorted(users, frame["user_id"].to_numpy()), rows_of(of, frame["pin_id"].to_numpy()))

    found = merged_against_medoids(
        np.searchsorted(users, medoids["user_id"].to_numpy()),
        rows_of(ids, medoids["pin_id"].to_numpy()),
        medoids["importance"].to_numpy(),
        pairs(acted, ids),
        vectors,
        corpus,
        pairs(seen, corpus_ids),
        search,
        _MERGED,
        _NEIGHBOURS,
    )
    compared = pl.DataFrame(
        {
            "user_id": users[found.users],
            "medoid_cosine": found.medoid_cosine,
            "merged_nearness": found.merged,
            "medoid_nearness": found.medoids.mean(axis=1),
        }
    )
    # Who has fewer medoids is there too, with nothing to compare.
    return pl.DataFrame({"user_id": users}).join(compared, on="user_id", how="left").fill_nan(None)
