"""``evaluation.retrieval*``: the candidate retrieval task (paper, section 5.3.1, Table 4)."""

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.lineage.evaluation import models
from pinnersage_assets.lineage.evaluation.knowledge import READS, Knowledge, gather_knowledge, seeds_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.retrieval_task import (
    SetCounts,
    judge_sets,
    judge_variants,
    popular_sets,
    random_sets,
)
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import Variant
from pinnersage_assets.partitions import DAILY, KNOWN_DAY, SAME_DAY, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# What was really recommended: by the index and the settings as they are.
RECOMMENDED = "SELECT user_id, pin_id FROM retrieval.recommendations WHERE dt = $day"


@dg.asset(
    key=["evaluation", "retrieval_users"],
    partitions_def=DAILY,
    deps=[*READS, *models.READS, *reads(KNOWN_DAY, "retrieval.recommendations")],
    kinds={"numpy"},
    code_version="3",
)
def retrieval_users(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every model's candidate set for every user who did something new, and how much of it the set foresaw."""
    known = gather_knowledge(warehouse, settings, partition_day(context))
    rows = pl.DataFrame(schema=["user_id", "model", "seed", "targets", "relevant", "recalled", "set_size"])
    if len(known.users):
        keys = {seed: (seed, known.day.toordinal()) for seed in seeds_of(Variant(), settings)}
        judged = models.models_to_judge(warehouse, settings, known)
        variants, counts = judge_variants(
            known.population, known.users, judged, keys, known.task, known.search, log_progress(context.log, "users")
        )
        controls = _controls(known, keys) | {
            ("recommended", settings.seed): known.pairs(warehouse.read(RECOMMENDED, {"day": known.day}))
        }
        rows = pl.concat(
            [
                _rows(known, variants, counts),
                _rows(known, list(controls), judge_sets(known.task, list(controls.values()))),
            ]
        )
    return dg.MaterializeResult(value=rows, metadata={**known.counts, "budget": known.task.budget})


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
