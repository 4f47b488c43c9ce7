"""``evaluation.retrieval*`` and ``variety``: the candidate retrieval task (paper, section 5.3.1, Table 4).

How often candidate sets are right, and how varied they are, is said of the same sets: they are made once, by one step.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.lineage.evaluation import models
from pinnersage_assets.lineage.evaluation.knowledge import READS, Knowledge, gather_knowledge, seeds_of
from pinnersage_assets.lineage.evaluation.moments import gather_moments, judge_moments
from pinnersage_assets.model.diversity import (
    coverage,
    interest_entropy,
    mean_of_defined,
    overlap_with_popular,
    popular_rows,
)
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.retrieval_task import (
    Search,
    SetCounts,
    judge_sets,
    popular_sets,
    random_sets,
)
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import BY_INDEX, VARIANTS, Variant
from pinnersage_assets.partitions import DAILY, KNOWN_DAY, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# What was really recommended: by the index and the settings as they are.
RECOMMENDED = "SELECT user_id, pin_id FROM retrieval.recommendations WHERE dt = $day"

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
        "retrieval_users": dg.AssetOut(key=_RETRIEVAL_USERS, kinds={"numpy"}, code_version="5", is_required=False),
        "variety": dg.AssetOut(key=_VARIETY, kinds={"numpy"}, code_version="2", is_required=False),
    },
    can_subset=True,
    partitions_def=DAILY,
    deps=[*READS, *models.READS, *reads(KNOWN_DAY, "retrieval.recommendations", "retrieval.hnsw_index")],
)
def candidate_sets(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """Every model's candidate set for every user who did something new: what it foresaw of that, how varied it is."""
    known = gather_knowledge(warehouse, settings, partition_day(context), context.log)
    found, sets = _judge(known, warehouse, settings, context) if len(known.users) else (_NO_COUNTS, {})
    if _RETRIEVAL_USERS in context.selected_asset_keys:
        metadata = {**known.counts, "budget": known.task.budget}
        yield dg.MaterializeResult(asset_key=_RETRIEVAL_USERS, value=found, metadata=metadata)
    if _VARIETY in context.selected_asset_keys:
        yield dg.MaterializeResult(asset_key=_VARIETY, value=_variety(known, sets, warehouse, settings))


_NO_COUNTS = pl.DataFrame(schema=["user_id", "model", "seed", "targets", "relevant", "recalled", "set_size"])


def _judge(
    known: Knowledge, warehouse: Warehouse, settings: Settings, context: dg.AssetExecutionContext
) -> tuple[pl.DataFrame, dict[str, Pairs]]:
    """The counts of all sets, a row a set and user; and of each model the sets of its first seed."""
    keys = {seed: (seed, known.day.toordinal()) for seed in seeds_of(Variant(), settings)}
    kept: dict[str, dict[int, NDArray[np.int32]]] = defaultdict(dict)

    def keep(model: str, seed: int, user: int, rows: NDArray[np.int64]) -> None:
        if seed == settings.seed:
            kept[model][user] = np.sort(rows).astype(np.int32)

    def judge(variants: Mapping[str, Variant], search: Search) -> pl.DataFrame:
        return _rows(known, *known.judge(variants, keys, context.log, search, keep))

    controls = _controls(known, keys) | {
        ("recommended", settings.seed): known.pairs(warehouse.read(RECOMMENDED, {"day": known.day}))
    }
    rows = [
        judge(models.models_to_judge(warehouse, settings, known), known.search),
        # A model that does not sample: all that differs is what the index misses.
        judge({BY_INDEX: VARIANTS["pinnersage_top_3"]}, known.search_index),
        _rows(known, list(controls), judge_sets(known.task, list(controls.values()))),
        # Of several sets in a day the last one stays.
        _rows(known, *judge_moments(known, gather_moments(warehouse, settings, known), settings, context.log, keep)),
    ]
    sets = {model: _pairs([of_user[user] for user in range(len(known.users))]) for model, of_user in kept.items()}
    return pl.concat(rows), sets | {model: pairs for (model, seed), pairs in controls.items() if seed == settings.seed}


def _pairs(rows: list[NDArray[np.int32]]) -> Pairs:
    """The set of each user, ascending, as pairs."""
    return Pairs(np.repeat(np.arange(len(rows)), [len(own) for own in rows]), np.concatenate(rows).astype(np.int64))


def _variety(known: Knowledge, sets: Mapping[str, Pairs], warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """A row a model; null where no user has what is averaged."""
    categories = warehouse.read(_CATEGORIES, {"day": known.day})["category"]
    interests = (categories.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()
    chance = keyed_uniform("popular", settings.seed, known.day.toordinal(), np.arange(len(known.corpus_ids)))
    popular, users = popular_rows(known.popularity, chance), len(known.users)
    rows = [
        {
            "model": model,
            "coverage": coverage(pairs, len(known.corpus_ids)),
            "interest_entropy": mean_of_defined(interest_entropy(pairs.users, interests[pairs.rows], users)),
            "overlap_with_popular": mean_of_defined(overlap_with_popular(pairs, popular, users)),
            "users": users,
        }
        for model, pairs in sets.items()
    ]
    columns = {"model": pl.String, "users": pl.Int64}
    columns |= dict.fromkeys(["coverage", "interest_entropy", "overlap_with_popular"], pl.Float64)
    return pl.DataFrame(rows, schema=columns).with_columns(pl.col("coverage").fill_nan(None))


def _controls(known: Knowledge, keys: dict[int, tuple[int, ...]]) -> dict[tuple[str, int], Pairs]:
    """Sets that know nothing of the user: random ones, and the most popular pins, equals among them by chance."""
    pins = np.arange(len(known.corpus_ids))
    return {
        ("random", seed): random_sets(known.task, [(*key, user) for user in known.users.tolist()])
        for seed, key in keys.items()
    } | {
        ("popular", seed): popular_sets(known.task, known.popularity, keyed_uniform("popular", *key, pins))
        for seed, key in keys.items()
    }


def _rows(known: Knowledge, sets: list[tuple[str, int]], counts: SetCounts) -> pl.DataFrame:
    """A row a set and user."""
    targets = np.bincount(known.task.targets.users, minlength=len(known.users))
    names, seeds = zip(*sets, strict=True)
    return pl.DataFrame(
        {
            "user_id": np.tile(known.users, len(sets)),
            "model": pl.Series(names).gather(np.repeat(np.arange(len(sets)), len(known.users))),
            "seed": np.repeat(np.array(seeds, dtype=np.int32), len(known.users)),
            "targets": np.tile(targets.astype(np.int32), len(sets)),
            **{name: array.ravel() for name, array in vars(counts).items()},
        }
    )


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
