"""``evaluation.retrieval*`` and ``variety``: the candidate retrieval task (paper, section 5.3.1, Table 4).

How often candidate sets are right, and how varied they are, is said of the same sets: they are made once, by one step.
"""

from collections.abc import Iterator

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.lineage.evaluation import models
from pinnersage_assets.lineage.evaluation.knowledge import (
    READS,
    RECOMMENDED,
    Knowledge,
    gather_knowledge,
    map_users,
    popularity,
    seeds_of,
)
from pinnersage_assets.model.diversity import (
    coverage,
    interest_entropy,
    mean_of_defined,
    most_popular_rows,
    overlap_with_popular,
)
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.partitions import DAILY, KNOWN_DAY, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# Of every corpus pin what it is about.
_CATEGORIES = """
    SELECT p.category FROM corpus.pins AS c JOIN staging.pins AS p ON c.pin_id = p.pin_id
    WHERE c.dt = $day ORDER BY c.pin_id
"""

_RETRIEVAL_USERS, _VARIETY = dg.AssetKey(["evaluation", "retrieval_users"]), dg.AssetKey(["evaluation", "variety"])


@dg.multi_asset(
    name="evaluation__candidate_sets",
    # Not required: either can be materialised alone.
    outs={
        "retrieval_users": dg.AssetOut(key=_RETRIEVAL_USERS, kinds={"numpy"}, code_version="7", is_required=False),
        "variety": dg.AssetOut(key=_VARIETY, kinds={"numpy"}, code_version="4", is_required=False),
    },
    can_subset=True,
    partitions_def=DAILY,
    deps=[*READS, *models.READS, *reads(KNOWN_DAY, *RECOMMENDED.values())],
)
def candidate_sets(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """Every model's candidate set for every user who did something new: what it foresaw of that, how varied it is."""
    known = gather_knowledge(warehouse, settings, partition_day(context), also=RECOMMENDED.values())
    actions = popularity(warehouse, settings, known)
    found = map_users(
        known,
        "judge_candidate_sets",
        models.models_to_judge(warehouse, settings, known),
        warehouse,
        settings,
        engine.get_engine(),
        context.log,
        arrays={"popular": _popular(known, actions, settings)},
        recent_actions=settings.serving.recent_actions,
        recommenders=list(RECOMMENDED),
    )
    if _RETRIEVAL_USERS in context.selected_asset_keys:
        metadata = {**known.counts, "budget": known.budget}
        yield dg.MaterializeResult(asset_key=_RETRIEVAL_USERS, value=found.drop("rows"), metadata=metadata)
    if _VARIETY in context.selected_asset_keys:
        yield dg.MaterializeResult(asset_key=_VARIETY, value=_variety(known, actions, found, warehouse, settings))


def _popular(known: Knowledge, actions: NDArray[np.int64], settings: Settings) -> NDArray[np.int64]:
    """For each seed the corpus rows that were acted on most, as many as any user can need: (seeds, rows)."""
    size = known.budget + int(np.bincount(known.users.seen_users).max(initial=0))
    day = known.day.toordinal()
    return np.stack([most_popular_rows(actions, ("popular", seed, day), size) for seed in seeds_of(settings)])


def _variety(
    known: Knowledge, actions: NDArray[np.int64], found: pl.DataFrame, warehouse: Warehouse, settings: Settings
) -> pl.DataFrame:
    """A row a model, of the sets of its first seed; null where no user has what is averaged."""
    categories = warehouse.read(_CATEGORIES, {"day": known.day})["category"]
    interests = (categories.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()
    keys = "popular", settings.seed, known.day.toordinal()
    popular, user_ids = most_popular_rows(actions, keys, known.budget), known.users.user_ids
    rows = []
    sets = found.filter(seed=settings.seed).partition_by("model", maintain_order=True) if len(found) else []
    for of_model in sets:
        exploded = of_model.select("user_id", "rows").explode("rows").drop_nulls()
        users = np.searchsorted(user_ids, exploded["user_id"].to_numpy())
        pairs = Pairs.of(users, exploded["rows"].to_numpy())
        rows.append(
            {
                "model": of_model["model"][0],
                "coverage": coverage(pairs, len(known.corpus_ids)),
                "interest_entropy": mean_of_defined(
                    interest_entropy(pairs.users, interests[pairs.rows], len(user_ids))
                ),
                "overlap_with_popular": mean_of_defined(overlap_with_popular(pairs, popular, len(user_ids))),
                "users": len(user_ids),
            }
        )
    columns: dict[str, type[pl.DataType]] = {"model": pl.String, "users": pl.Int64}
    columns |= dict.fromkeys(["coverage", "interest_entropy", "overlap_with_popular"], pl.Float64)
    return pl.DataFrame(rows, schema=columns).with_columns(pl.col("coverage").fill_nan(None))


@dg.asset(
    key=["evaluation", "retrieval"],
    partitions_def=DAILY,
    deps=reads(SAME_DAY, "evaluation.retrieval_users"),
    kinds={"polars"},
    code_version="2",
)
def retrieval(context: dg.AssetExecutionContext, warehouse: Warehouse) -> pl.DataFrame:
    """Means over users, after those over seeds: a user with many actions counts as much as one with few."""
    return warehouse.read(
        """
        SELECT model, avg(relevant / targets) AS relevance, avg(recalled / targets) AS recall,
            avg(set_size) AS set_size, count(DISTINCT user_id) AS users,
            sum(relevant) / sum(targets) AS relevance_over_actions, sum(recalled) / sum(targets) AS recall_over_actions,
            count(DISTINCT seed) AS seeds
        FROM evaluation.retrieval_users WHERE dt = $day GROUP BY model ORDER BY model
        """,
        {"day": partition_day(context)},
    )
