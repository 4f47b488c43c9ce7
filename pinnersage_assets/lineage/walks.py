"""``retrieval.*`` again: Pixie's candidates, and one list of them and PinnerSage's.

Pixie walks over the pruned graph of the day (Eksombatchai et al., "Pixie", 2018). Near-duplicates are one pin of it:
where walks begin at a repeat they begin at the first, and where they come to it the corpus pin of its group is meant.
"""

import datetime
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.kernels.walks import NO_WALKS, users_without_answers
from pinnersage_assets.lineage.by_bucket import map_buckets
from pinnersage_assets.lineage.corpus_index import restriction
from pinnersage_assets.lineage.graph_snapshot import PRUNED, describe_snapshot
from pinnersage_assets.lineage.queries import (
    CANONICAL_PINS,
    CATEGORY_CODE,
    INTEREST_ACTIONS,
    SEEN_CORPUS_PINS,
    window,
)
from pinnersage_assets.model.blending import NO_BLENDS, blended, quotas
from pinnersage_assets.model.pin_board_graph import NO_FEATURE
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, SETTINGS, WINDOW, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.buckets import Bucket, collect, write_buckets
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles, scratch_folder

# Of users' query pins: what each weighs, and by what the first ones are chosen. What is added up has an order, because
# the last bit of a sum depends on it.
_QUERY_PINS = {
    "actions": f"""
        SELECT user_id, coalesce(canonical_pin_id, pin_id) AS pin_id, epoch_us(max(ts)) AS standing,
            list_sum(list(
                weight * exp(-$decay * epoch($day + INTERVAL 1 DAY - ts) / 86400) ORDER BY ts, action
            )) AS weight
        FROM ({INTEREST_ACTIONS})
        JOIN (SELECT unnest($interest) AS action, unnest($weights::DOUBLE[]) AS weight) USING (action)
        LEFT JOIN ({CANONICAL_PINS}) USING (pin_id) GROUP BY ALL
    """,
    "medoids": f"""
        SELECT user_id, coalesce(canonical_pin_id, medoid_pin_id) AS pin_id,
            list_sum(list(importance ORDER BY cluster, medoid_pin_id)) AS weight, weight AS standing
        FROM users.medoids LEFT JOIN ({CANONICAL_PINS}) ON pin_id = medoid_pin_id
        WHERE dt = $day GROUP BY ALL
    """,
}

# The tables that the setting pixie.queries asks, beside what has been seen: other actions of the window.
_QUERY_TABLES = {"actions": (), "medoids": ("users.medoids",)}

_QUERIES = """
    CREATE TEMP TABLE queries AS
    SELECT user_id, pin_id, weight, row_number() OVER (PARTITION BY user_id ORDER BY standing DESC, pin_id) - 1 AS place
    FROM ({}) QUALIFY place < $most
"""

# What a user's query pins are most often about; of what is equally often, the smallest code.
_FEATURES = f"""
    CREATE TEMP TABLE features AS
    SELECT user_id, {CATEGORY_CODE} AS feature
    FROM queries JOIN staging.pins AS p ON queries.pin_id = p.pin_id AND p.dt <= $day
    WHERE category IS NOT NULL GROUP BY user_id, feature
    QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY count(*) DESC, feature) = 1
"""

_SEEN = f"""
    CREATE TEMP TABLE seen AS
    SELECT user_id, list(pin_id ORDER BY pin_id) AS seen FROM ({SEEN_CORPUS_PINS})
    WHERE user_id IN (SELECT user_id FROM queries) GROUP BY user_id
"""

# What a user has seen stands in the first of the user's rows.
_ASKED = f"""
    SELECT user_id, place, pin_id, weight, coalesce(feature, {NO_FEATURE}) AS feature,
        CASE WHEN place = 0 THEN seen END AS seen
    FROM queries LEFT JOIN features USING (user_id) LEFT JOIN seen USING (user_id)
"""

# A group of near-duplicates has one pin in the corpus at most.
_RECOMMENDABLE = f"""
    SELECT coalesce(canonical_pin_id, pin_id) AS of_graph, pin_id
    FROM corpus.pins LEFT JOIN ({CANONICAL_PINS}) USING (pin_id) WHERE dt = $day ORDER BY of_graph
"""


@dg.asset(
    key=["retrieval", "pixie_recommendations"],
    partitions_def=DAILY,
    deps=[
        *reads(SAME_DAY, "graph.snapshot", "corpus.pins", *_QUERY_TABLES[SETTINGS.pixie.queries]),
        *reads(WINDOW, "staging.actions"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"numpy"},
    code_version="1",
)
def pixie_recommendations(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult:
    """The pins that walks from each user's query pins visit most, without what the user has seen."""
    day, pixie = partition_day(context), settings.pixie
    with scratch_folder(warehouse) as folder:
        graph = describe_snapshot(warehouse, day, PRUNED, folder, context.log)
        buckets, users = _write_queries(warehouse, settings, day, folder)
        found = map_buckets(
            engine.get_engine(),
            "pinnersage_assets.kernels.walks:recommend_by_walks",
            buckets,
            {
                "graph": str(graph),
                "recommendable": str(_write_recommendable(warehouse, settings, day, folder)),
                "pixie": asdict(pixie.parameters()),
                "budget": pixie.budget or settings.retrieval.budget,
                "keys": [settings.seed, day.toordinal()],
            },
            folder / "walks",
            log_progress(context.log, "buckets of users"),
            keeps_rows=False,
        )
        unanswered, ranks = users_without_answers(found), ("user_id", "rank")
        expected = {"count(DISTINCT user_id)": users - sum(unanswered.values())}
        rows = collect(warehouse, found, expected, ("user_id", "pin_id"), ranks, ranks) if found else NO_WALKS
    return dg.MaterializeResult(
        value=rows,
        metadata={"users who asked": users}
        | {f"users without an answer: {reason}": number for reason, number in unanswered.items()},
    )


def _write_queries(
    warehouse: Warehouse, settings: Settings, day: datetime.date, folder: Path
) -> tuple[list[Bucket], int]:
    """Users in buckets, with their query pins and what they have seen; and how many users there are."""
    pixie, scope = settings.pixie, {**window(day, settings), "most": settings.pixie.query_pins}
    scope |= {
        "decay": pixie.decay_per_day,
        "weights": [pixie.action_weights.get(action, 1.0) for action in settings.window.interest_actions],
    }
    with warehouse.get_reader() as connection:
        for query in (_QUERIES.format(_QUERY_PINS[pixie.queries]), _FEATURES, _SEEN):
            connection.execute(query, {name: value for name, value in scope.items() if f"${name}" in query})
        [(users,)] = connection.execute("SELECT count(DISTINCT user_id) FROM queries").fetchall()
        (folder / "buckets").mkdir()
        rows = settings.engine.rows_a_bucket
        return write_buckets(connection, _ASKED, "user_id", ["place"], rows, folder / "buckets"), users


def _write_recommendable(warehouse: Warehouse, settings: Settings, day: datetime.date, folder: Path) -> Path:
    """The pins of the graph that may be recommended, and what each is in the corpus."""
    pins = warehouse.read(_RECOMMENDABLE, {"day": day})
    allowed = restriction(warehouse, day, settings.retrieval.condition)
    if allowed is not None:
        pins = pins.filter(pl.col("pin_id").is_in(allowed.implode()))
    path = folder / "recommendable.npy"
    np.save(path, np.stack([pins["of_graph"].to_numpy(), pins["pin_id"].to_numpy()]))
    return path


# Users whose lists are in memory at once.
_USERS_AT_ONCE = 2_000

_LISTS = "SELECT user_id, rank, pin_id, score FROM {} WHERE dt = $day AND user_id BETWEEN $first AND $last"
_PINNERSAGE, _PIXIE = "retrieval.recommendations", "retrieval.pixie_recommendations"
_USERS = f"""
    SELECT user_id FROM {_PINNERSAGE} WHERE dt = $day UNION SELECT user_id FROM {_PIXIE} WHERE dt = $day
    ORDER BY user_id
"""


@dg.asset(
    key=["retrieval", "blended_recommendations"],
    partitions_def=DAILY,
    deps=reads(SAME_DAY, _PINNERSAGE, _PIXIE),
    kinds={"polars"},
    code_version="1",
)
def blended_recommendations(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> ParquetFiles:
    """One list for each user of PinnerSage's candidates and Pixie's, by their quotas."""
    day, shares = partition_day(context), quotas(settings.retrieval.budget, settings.blending.pixie_share)

    def lists() -> Iterator[pl.DataFrame]:
        with warehouse.get_reader() as connection:
            users = connection.sql(_USERS, params={"day": day}).pl()["user_id"]
            # Of nobody there are no rows, but columns.
            yield NO_BLENDS
            for first in range(0, len(users), _USERS_AT_ONCE):
                some = users[first : first + _USERS_AT_ONCE]
                scope = {"day": day, "first": some[0], "last": some[-1]}
                found = (connection.sql(_LISTS.format(table), params=scope).pl() for table in (_PINNERSAGE, _PIXIE))
                yield blended(*found, shares)

    return ParquetFiles.spool(warehouse, lists())


ASSETS = [pixie_recommendations, blended_recommendations]
